"""docs/routes.md is true: its job is one, takes the routes it says, and its table has all that a cascade goes by."""

import json
import re
from pathlib import Path
from typing import get_args

from batchmill.agents.jobs import load_job
from batchmill.schemas.asking import AskSpec
from batchmill.streams.compiling import compile_job
from batchmill.streams.routing import next_route, route_of
from tests.docs.pages import blocks, text_of

PAGE = "docs/routes.md"
INPUT = {"type": "object", "properties": {"body": {"type": "string"}}, "required": ["body"]}
MEMBERS = {"label": {"enum": ["billing", "delivery", "fault", "other"]}, "confidence": {"type": "number"}}
OUTPUT = {"type": "object", "properties": MEMBERS, "required": ["label", "confidence"], "additionalProperties": False}
PROMPT = "billing, delivery, fault or other? Unsure: a low confidence. Missing: other."


def test_the_job_that_is_shown_takes_the_routes_that_are_said(tmp_path: Path):
    (block,) = blocks(PAGE, "yaml")
    (tmp_path / "job.yaml").write_text(block.text, encoding="utf-8")
    (tmp_path / "input.schema.json").write_text(json.dumps(INPUT))
    (tmp_path / "output.schema.json").write_text(json.dumps(OUTPUT))
    (tmp_path / "system.j2").write_text(PROMPT)
    for name in ("user.j2", "careful.j2"):
        (tmp_path / name).write_text("{{ input.body }}")
    loaded = load_job(tmp_path)
    assert loaded.warnings == ()
    routes = compile_job(loaded.spec, loaded.version).routes
    assert [route_of(routes, {"body": "x" * size}).name for size in (4_000, 4_001)] == ["", "long"]
    assert {name: next_route(routes, name) for name in routes.by_name} == {
        "": routes.of("careful"),
        "long": routes.of("careful"),
        "careful": None,
    }


def test_every_reason_to_ask_on_has_its_row():
    kinds = get_args(get_args(AskSpec.__annotations__["escalate_on"])[0])
    assert re.findall(r"^\| `([a-z]+)` \|", text_of(PAGE), re.MULTILINE) == list(kinds)
