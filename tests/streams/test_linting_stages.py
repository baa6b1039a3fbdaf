"""Stages that cannot work are told at their place before any record meets them."""

from dataclasses import replace

import pytest

from batchmill.schemas.asking import FetchSpec, RetrievalSpec, ToolsSpec
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.schemas.promotion import JoinSpec, ThenSpec
from batchmill.streams.linting import errors, findings
from batchmill.streams.linting_stages import staged
from tests.streams.making import make_spec

NOWHERE = PlaceSpec(sink="none", table="none")


def then(*fed: ThenSpec) -> JobSpec:
    return make_spec(then=fed)


@pytest.mark.parametrize(
    ("spec", "where", "what"),
    [
        (then(ThenSpec(job="next", when="outptu.label == 1")), "$.then[0].when", "did you mean 'output'"),
        (then(ThenSpec(job="a"), ThenSpec(job="next", when="1 +")), "$.then[1].when", ""),
        (then(ThenSpec(job="next", split="$.output[x]")), "$.then[0].split", "cannot read the path"),
        (then(ThenSpec(job="triage")), "$.then", "triage -> triage"),
        (then(ThenSpec(job="a"), ThenSpec(job="a", when="true")), "$.then", "names 'a' 2 times"),
    ],
)
def test_what_cannot_follow_is_an_error(spec: JobSpec, where: str, what: str) -> None:
    (found,) = errors(spec)
    assert found.where == where
    assert what in found.message


def test_a_job_that_joins_looks_nothing_up() -> None:
    spec = make_spec(join=JoinSpec())
    assert not errors(spec)
    retrieval = RetrievalSpec(index="docs", sha256="0" * 64, query="$.parts")
    (found,) = staged(replace(spec, ask=replace(spec.ask, retrieval=retrieval)))
    assert (found.where, found.error) == ("$.join", True)
    tools = ToolsSpec(fetch=FetchSpec(api="crossref", path="/works/{doi}", params={"doi": "$.doi"}))
    assert any(each.where == "$.join" for each in staged(replace(spec, ask=replace(spec.ask, tools=tools))))


def test_output_that_goes_nowhere_is_warned_of_unless_a_job_follows() -> None:
    spec = make_spec(place=NOWHERE)
    assert [each.where for each in findings(spec) if "goes nowhere" in each.message] == ["$.place.sink"]
    assert not list(staged(replace(spec, then=(ThenSpec(job="next"),))))
