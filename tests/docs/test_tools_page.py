"""What the page of tools shows is taken as it stands: the job, the settings, the numbers."""

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from batchmill.agents.jobs import load_job
from batchmill.agents.settings import load_settings
from batchmill.agents.stages.tooler import _TRIES_MAX
from batchmill.schemas.asking import ToolsSpec
from batchmill.streams.tooling import (
    ANSWER_BYTES_MAX,
    PARAMETER_CHARS_MAX,
    RESULT_BYTES_MAX,
    Found,
    compile_tools,
    equip,
    wanted,
)
from tests.docs.pages import blocks, text_of

PAGE = "docs/tools.md"


def the_tools(folder: Path) -> ToolsSpec:
    (fragment,) = [yaml.safe_load(block.text) for block in blocks(PAGE, "yaml")]
    job = {"job": "shop", **fragment, "place": {"sink": "sqlite", "table": "shop"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    (folder / "user.j2").write_text("{{ input.sku }}: {{ input.tools.fetch.left }} left", encoding="utf-8")
    tools = load_job(folder).spec.ask.tools
    assert tools is not None
    return tools


def test_the_job_is_taken_and_gives_the_input_that_is_shown(tmp_path: Path) -> None:
    tools = compile_tools(the_tools(tmp_path))
    (shown,) = [json.loads(block.text) for block in blocks(PAGE, "json")]
    item = {name: value for name, value in shown.items() if name != "tools"}
    asked, found = wanted(tools, item), Found()
    for question in asked.questions:
        found = found.answered(question, shown["tools"][question.tool])
    equip(tools, item, asked, found)
    assert item == shown


def test_the_settings_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (block,) = blocks(PAGE, "toml")
    (tmp_path / "batchmill.toml").write_text(block.text, encoding="utf-8")
    monkeypatch.setenv("BATCHMILL_CONFIG", str(tmp_path / "batchmill.toml"))
    settings = load_settings()
    told = tomllib.loads(block.text)
    assert set(settings.databases) == set(told["databases"])
    assert settings.apis["stock"].base_url == told["apis"]["stock"]["base_url"]


def test_the_numbers_are_those_of_the_code() -> None:
    words = " ".join(text_of(PAGE).split())
    assert f"at most {PARAMETER_CHARS_MAX:,} characters" in words
    assert f"{ANSWER_BYTES_MAX // 1024} KiB" in words
    assert f"{RESULT_BYTES_MAX // 1024} KiB each" in words
    assert f"`tools.keep_hours` ({load_settings().tools.keep_hours})" in words
    assert _TRIES_MAX == 5, "five times over"
