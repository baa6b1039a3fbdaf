"""What differs between two specs: named member by member, in the part whose fingerprint it shapes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.jobs.differing import Part, compare
from batchmill.schemas.asking import AskSpec, ModelSpec, RouteSpec
from batchmill.schemas.jobs import InputSpec, JobSpec, JudgeSpec, PlaceSpec, RuleSpec
from tests.schemas.strategies import job_specs

SPEC = JobSpec(
    job="triage",
    ask=AskSpec(
        system="Sort.\nBe short.",
        user="{{ input.body }}",
        model=ModelSpec(provider="openai", name="m", params_json=json.dumps({"temperature": 0})),
    ),
    judge=JudgeSpec(rules=(RuleSpec(id="one", require="true"),)),
    place=PlaceSpec(sink="sqlite", table="t"),
)


def asked(**changes: Any) -> JobSpec:
    return replace(SPEC, ask=replace(SPEC.ask, **changes))


def members(spec: JobSpec, active: JobSpec = SPEC) -> dict[str, tuple[object, object]]:
    return {each.member: (each.active, each.planned) for each in compare(active, spec).differences}


def test_equal_specs_do_not_differ_and_prices_are_no_difference() -> None:
    found = compare(SPEC, replace(SPEC, prices_json="{}"))
    assert (found.differences, found.texts, found.parts) == ((), (), ())
    assert found.version == found.active_version


def test_parameters_of_the_model_are_named_one_by_one() -> None:
    model = replace(SPEC.ask.model, params_json=json.dumps({"temperature": 1, "top_p": 0.5}))
    assert members(asked(model=model)) == {
        "ask.model.params.temperature": (0, 1),
        "ask.model.params.top_p": (None, 0.5),
    }


def test_one_more_rule_moves_no_other_and_another_order_is_told() -> None:
    first, second = SPEC.judge.rules[0], RuleSpec(id="two", require="output.a > 1")
    both = replace(SPEC, judge=JudgeSpec(rules=(second, first)))
    found = members(both)
    assert found["judge.rules"] == (["one"], ["two", "one"])
    assert found["judge.rules[two].require"] == (None, "output.a > 1")
    assert not any(name.startswith("judge.rules[one]") for name in found)
    turned = replace(SPEC, judge=JudgeSpec(rules=(first, second)))
    assert members(turned, both) == {"judge.rules": (["two", "one"], ["one", "two"])}
    assert compare(both, turned).judges_again


def test_texts_are_told_by_line_those_of_other_routes_too() -> None:
    (told,) = compare(SPEC, asked(system="Sort.\nBe long.")).texts
    assert told.member == "ask.system"
    assert told.lines[-2:] == ("-Be short.", "+Be long.")
    routed = asked(routes=(RouteSpec(name="big", when="true", system="Think.\n"),))
    assert [(each.member, each.lines[-1]) for each in compare(SPEC, routed).texts] == [
        ("ask.routes[big].system", "+Think.")
    ]


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (asked(user="other"), [Part.ASK]),
        (asked(model=replace(SPEC.ask.model, account="second")), [Part.OPERATION]),
        (asked(routes=(RouteSpec(name="r", model=replace(SPEC.ask.model, account="x")),)), [Part.ASK, Part.OPERATION]),
        (replace(SPEC, input=InputSpec(strip_markup=True)), [Part.ASK]),
        (replace(SPEC, input=InputSpec(filter="true")), [Part.SELECTION]),
        (replace(SPEC, judge=JudgeSpec()), [Part.JUDGE]),
        (replace(SPEC, place=PlaceSpec(sink="sqlite", table="u")), [Part.PLACE]),
        (replace(SPEC, seq="$.at"), [Part.IDENTITY]),
        (replace(SPEC, breaker=None), [Part.OPERATION]),
    ],
)
def test_each_member_is_told_under_what_it_shapes(spec: JobSpec, parts: list[Part]) -> None:
    assert list(compare(SPEC, spec).parts) == parts


@given(specs=st.tuples(job_specs(), job_specs()))
def test_a_fingerprint_is_another_one_exactly_where_a_member_of_its_part_is(specs: tuple[JobSpec, JobSpec]) -> None:
    found = compare(*specs)
    form_changes = specs[0].ask.output_schema_json != specs[1].ask.output_schema_json
    assert (Part.ASK in found.parts) == found.asks_again
    assert (Part.JUDGE in found.parts or form_changes) == found.judges_again
    assert (Part.PLACE in found.parts) == found.places_again


@given(spec=job_specs(), other=job_specs(), taken=st.sampled_from(["ask", "judge", "place", "input", "near", "mode"]))
def test_one_section_taken_over_is_told_under_its_own_part_only(spec: JobSpec, other: JobSpec, taken: str) -> None:
    section = {taken: getattr(other, taken)}
    if taken == "near":
        section["dedupe"] = other.dedupe
    found = compare(spec, replace(spec, **section))
    assert all(each.member.startswith((taken, "dedupe")) for each in found.differences)
    assert (Part.ASK in found.parts) == found.asks_again
    assert (Part.PLACE in found.parts) == found.places_again
    assert bool(found.differences) == (replace(spec, **section) != spec)
