"""What people see of a comparison: the command, its JSON, the page, exit codes."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import orjson
import pytest

from batchmill.agents import bodies
from batchmill.agents.cli.program import run
from batchmill.schemas.promotion import GateSpec
from batchmill.schemas.status import VerdictStatus
from batchmill.schemas.versions import version_of
from tests.agents.compare_world import FIRST, SECOND, OpenLog, World, gate_lines, two_versions

HOSTILE = "<script>alert(1)</script>"
KNOWN = {f"g{at}": "pos" if at % 3 else HOSTILE for at in range(60)}
GATED = replace(SECOND, gate=GateSpec(benchmark_json=gate_lines(KNOWN), min_accuracy=0.8, minimum=50, max_cost_ratio=2))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path / "view.sqlite")
    made.applied(two_versions(FIRST, GATED))
    monkeypatch.setattr(bodies, "LogBodies", OpenLog(made))
    yield made
    made.log.store.close()


def filled(world: World, *, wrong: int) -> list[str]:
    """Words for the command line; of so many of 60 records the second version gives another label."""
    for at, (source, label) in enumerate(KNOWN.items()):
        told = {"label": "odd" if at < wrong else label, "why": HOSTILE}
        checks = {"rule": at >= wrong}
        world.answered(FIRST, source, {"label": label, "why": "x"}, checks={"rule": True})
        world.answered(GATED, source, told, checks=checks, judged=VerdictStatus.VALIDATED, cost=150)
    world.folded()
    return ["--set", f"view.path={world.path}"]


def test_the_figures_and_what_changed_are_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*filled(world, wrong=6), "compare", "triage"]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"^A +{version_of(FIRST)}$", told, re.MULTILINE)
    assert re.search(r"^agreement +90\.0% \[79\.9%, 95\.3%\] of 60$", told, re.MULTILINE)
    assert re.search(r"^right: A less B +\+10\.0% ", told, re.MULTILINE)
    assert "6 lost, 0 won, p 0.031" in told
    assert re.search(r"^cost of a success +A \$0\.000000100 \[", told, re.MULTILINE)
    assert "B/A 1.5 [1.5, 1.5] (60 records)" in told
    assert re.search(r"^label\t90\.0%\t·+─+●─+·\t100\.0%\t90\.0%\t0\.031$", told, re.MULTILINE)
    assert f"label: {HOSTILE} -> odd 2, pos -> odd 4" in told or f"label: pos -> odd 4, {HOSTILE} -> odd 2" in told
    assert "60 changed records" not in told
    assert "6 changed records, 6 of them:" in told


@pytest.mark.parametrize(("wrong", "code", "word"), [(0, 0, "gate: passed"), (15, 3, "gate: NOT PASSED")])
def test_the_gate_is_an_exit_code(
    world: World, wrong: int, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*filled(world, wrong=wrong), "compare", "triage", "current", "shadow", "--gate"]) == code
    assert word in capsys.readouterr().out


def test_json_has_all_of_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*filled(world, wrong=6), "compare", "triage", "--baseline", "majority:label", "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    comparison = told["report"]["comparison"]
    assert told["schema"] == "batchmill.compare/1"
    assert {"a": "pos", "b": "odd", "count": 4} in comparison["fields"][0]["confusions"]
    assert comparison["ended"] == [{"a": "validated", "b": "validated", "count": 60}]
    assert (comparison["changes"], comparison["agreement"]["count"], told["gate"]["passed"]) == (6, 54, False)
    assert told["report"]["contests"][0]["standing"] == "worse"
    assert told["gate"]["conditions"][0] == {
        "rule": "minimum", "finding": "met", "figure": 60, "limit": 50, "interval": None, "p": None,
        "note": "records that both versions have settled",
    }  # fmt: skip


def test_a_page_is_one_file_without_a_script_and_escapes_what_models_wrote(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "compare.html"
    assert run([*filled(world, wrong=6), "compare", "triage", "--baseline", "majority", "--html", str(page)]) == 0
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"https?://|@import|url\(|<link|<img", text)
    assert "prefers-color-scheme: dark" in text
    accuracy, checks, *_, ratios = [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert [dot.get("class") for dot in accuracy.iter("circle")] == ["a", "b"]
    assert len(list(checks.iter("circle"))) == 4  # rule and (usable), under both
    assert len(list(ratios.iter("circle"))) == 2
    for dot in ratios.iter("circle"):
        assert 190 <= float(dot.get("cx", "0")) <= 600
    assert text.count("<h2>") == 6
    capsys.readouterr()


def test_baselines_that_do_as_well_are_said_in_words(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.jsonl"
    rules.write_text(json.dumps({"output": {"label": "pos"}}) + "\n")
    words = [*filled(world, wrong=60), "compare", "triage", "--baseline", f"keyword:{rules}"]
    assert run(words) == 0
    told = capsys.readouterr().out
    assert "baselines, right by the gold:" in told
    assert "is right on 66.7% of 60 records, the model on 0.0%" in told
    assert "BEATS the model" in told


def test_a_rerun_is_called_the_providers_noise(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = filled(world, wrong=0)
    for at, source in enumerate(KNOWN):
        world.answered(FIRST, source, {"label": "pos" if at % 2 else "odd"}, run="again", epoch=1)
    world.folded()
    assert run([*words, "compare", "triage", "current", "current@again", "--field", "label"]) == 0
    assert "both are one version: what differs is the provider's own noise" in capsys.readouterr().out
    assert run([*words, "compare", "triage", "--field", "label"]) == 0
    assert "asked again in again agrees with itself on 33.3%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["nobody"], 4, "knows no job nobody"),
        (["triage", "zzzz"], 4, "has no version 'zzzz'"),
        (["triage", "current", "current"], 2, "name two, or a rerun"),
        (["triage", "shadow", "current", "--gate"], 3, "declares no gate"),
        (["triage", "--baseline", "magic"], 2, "is no baseline"),
        (["triage", "--baseline", "function:nobody"], 2, "installed: "),
        (["triage", "--gold", "/nowhere.jsonl"], 2, "cannot be read"),
        (["triage", "--field", "$."], 2, "cannot read the path"),
    ],
)
def test_what_cannot_be_compared_is_said(
    world: World, words: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*filled(world, wrong=0), "compare", *words]) == code
    assert why in capsys.readouterr().err


def test_a_gold_file_takes_the_place_of_the_benchmark(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"id": "g1", "output": {"label": "pos"}}\n\n{"id": "g2", "output": {"label": "neg"}}\n')
    assert run([*filled(world, wrong=0), "compare", "triage", "--gold", str(gold)]) == 0
    assert re.search(r"^right: A +50\.0%", capsys.readouterr().out, re.MULTILINE)
    gold.write_text('{"id": "g1", "output": {"label": "pos"}}\n{"id": "g1", "output": {}}\n')
    assert run([*filled(world, wrong=0), "compare", "triage", "--gold", str(gold)]) == 2
    assert "line 2: `output` must be an object" in capsys.readouterr().err
