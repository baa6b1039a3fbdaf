"""What would refuse every record, or show it another group's documents, is told before any record comes."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.asking import FetchSpec, LookupSpec, NearSpec, RetrievalSpec, ToolsSpec
from batchmill.schemas.jobs import InputSpec, JobSpec, PlaceSpec
from batchmill.streams.linting import findings
from tests.streams.making import make_spec

SCHEMA = {"type": "object", "properties": {"body": {"type": "string"}, "team": {}, "sku": {}}}
LOOKUP = LookupSpec(source="shop", sql="SELECT 1 AS n WHERE :sku > 0", params={"sku": "$.sku"})


def a_job(*, into: str = "tools", lookup: LookupSpec = LOOKUP, fetch: FetchSpec | None = None, **told: Any) -> JobSpec:
    base = make_spec(**{name: value for name, value in told.items() if name != "input"})
    retrieval = RetrievalSpec(index="docs", sha256="0" * 64, query="$.body", allow="$.team")
    ask = replace(base.ask, retrieval=retrieval, tools=ToolsSpec(lookup=lookup, fetch=fetch, into=into))
    return replace(base, ask=ask, input=told.get("input", InputSpec(schema_json=json.dumps(SCHEMA))))


def errors(spec: JobSpec) -> dict[str, str]:
    return {each.where: each.message for each in findings(spec) if each.error}


def test_a_job_that_looks_up_what_its_records_have_is_right() -> None:
    assert errors(a_job()) == {}
    assert errors(a_job(input=InputSpec())) == {}
    assert errors(a_job(input=InputSpec(keep=("$.body", "$.sku")))) == {}


def test_two_look_ups_do_not_share_a_place() -> None:
    assert list(errors(a_job(into="context"))) == ["$.ask.tools.into"]


def test_what_a_record_may_have_is_no_place_for_what_is_looked_up() -> None:
    assert list(errors(a_job(into="sku"))) == ["$.ask.tools.into"]


@pytest.mark.parametrize("path", ["$.skuu", "$.other.sku"])
def test_a_parameter_that_no_record_has_is_told(path: str) -> None:
    fetch = FetchSpec(api="stock", path="/{sku}", params={"sku": path})
    assert list(errors(a_job(fetch=fetch))) == ["$.ask.tools.fetch.params.sku"]
    assert list(errors(a_job(lookup=replace(LOOKUP, params={"sku": path})))) == ["$.ask.tools.lookup.params.sku"]


def test_a_parameter_may_lie_in_what_was_retrieved() -> None:
    assert errors(a_job(lookup=replace(LOOKUP, params={"sku": "$.context[0].document"}))) == {}


@pytest.mark.parametrize(
    ("keep", "wrong"),
    [
        (("$.body",), ["$.ask.tools.lookup.params.sku"]),
        (("$.sku",), ["$.ask.retrieval.query"]),
        (("$.body.text", "$.sku[0]"), []),
        (("$.other",), ["$.ask.retrieval.query", "$.ask.tools.lookup.params.sku"]),
    ],
)
def test_what_is_left_out_is_not_there_to_be_asked_by(keep: tuple[str, ...], wrong: list[str]) -> None:
    assert list(errors(a_job(input=InputSpec(keep=keep)))) == wrong


def test_what_is_required_or_names_the_row_is_not_left_out_either() -> None:
    spec = a_job(input=InputSpec(keep=("$.body", "$.sku"), required=("$.team",)))
    spec = replace(spec, place=PlaceSpec(sink="none", table="none", key="$.number"), then=())
    assert list(errors(spec)) == ["$.input.required", "$.place.key"]


def test_a_near_answer_does_not_cross_groups() -> None:
    assert "other groups" in errors(a_job(dedupe="near", near=NearSpec()))["$.dedupe"]
    assert errors(a_job(dedupe="content")) == {}
    free = a_job(dedupe="near", near=NearSpec())
    retrieval = replace(free.ask.retrieval, allow=None) if free.ask.retrieval is not None else None
    assert errors(replace(free, ask=replace(free.ask, retrieval=retrieval))) == {}
