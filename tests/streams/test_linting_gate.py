"""A gate that can never be met, or a benchmark that nobody can be asked about, is told before it costs anything."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.promotion import GateSpec
from batchmill.streams.linting import findings
from tests.streams.making import make_spec


def line(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "input": {"body": "x", "id": "a"}, "output": {"label": "pos"}} | changes


def told(*lines: Any, id_path: str | None = None, **gate: Any) -> list[tuple[str, bool, int | None, str]]:
    benchmark = json.dumps(lines) if lines else None
    spec = replace(make_spec(id_path=id_path), gate=GateSpec(benchmark_json=benchmark, **gate))
    found = findings(spec)
    return [(each.where, each.error, each.line, each.message) for each in found if each.where.startswith("$.gate")]


def test_a_gate_that_can_be_met_is_no_matter() -> None:
    assert told(line(), min_accuracy=0.9, fields=("label",), id_path="$.id") == []
    assert told(min_agreement=0.9) == []


def test_accuracy_without_a_benchmark_is_warned_of() -> None:
    ((where, error, _, message),) = told(min_accuracy=0.9)
    assert (where, error) == ("$.gate.min_accuracy", False)
    assert "never met" in message


@pytest.mark.parametrize(
    ("lines", "at", "why"),
    [
        ([line(), line()], 2, "an earlier line"),
        ([line(), line(id="b", output="pos")], 2, "`output` must be an object"),
        ([line(), line(id="b", input=None)], 2, "nobody can be asked"),
        ([line(), line(id="b")], 2, "takes the source id from $.id"),
    ],
)
def test_a_record_that_can_be_no_event_is_told_at_its_line(lines: list[Any], at: int, why: str) -> None:
    ((where, error, number, message),) = told(*lines, id_path="$.id")
    assert (where, error, number) == ("$.gate.benchmark", True, at)
    assert why in message


@pytest.mark.parametrize(
    ("name", "why"),
    [("lable", "not a member of the output schema"), ("summary", "no record of the benchmark"), ("$.", "cannot read")],
)
def test_a_field_that_is_never_right_is_an_error(name: str, why: str) -> None:
    ((where, error, _, message),) = told(line(), fields=(name,))
    assert (where, error) == ("$.gate.fields", True)
    assert why in message
