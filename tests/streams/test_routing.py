"""Which route a record takes, what it is asked there, and where the cascade goes on."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import ModelSpec, RouteSpec
from batchmill.schemas.jobs import JobSpec, ModeSpec, TruncationSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, WorkItem
from batchmill.schemas.status import Status
from batchmill.schemas.versions import version_of
from batchmill.streams.breaking import outcome_of
from batchmill.streams.compiling import CompiledJob, compile_job
from batchmill.streams.costing import estimate_tokens, parse_prices, worst_case_nanos
from batchmill.streams.expressions import ConditionError
from batchmill.streams.granting import worst_case
from batchmill.streams.items import LINE_FRAMING_BYTES
from batchmill.streams.rendering import TemplateError
from batchmill.streams.routing import ITSELF, Routes, from_here, models_of, next_route, route_of
from tests.streams.making import decide, make_raw, make_spec
from tests.streams.rows import make_life

DEAR = ModelSpec(provider="openai", name="gpt-5", params_json='{"max_output_tokens":900}')
LONG = RouteSpec(name="long", when="size(input.body) > 20", model=DEAR)
ODD = RouteSpec(name="odd", when="size(input.body) % 2 == 1", user="Odd: {{ input.body }}")
AGAIN = RouteSpec(name="again", model=DEAR, system="Take your time.", user="{{ input.body }}, {{ input.body }}")


def spec_with(*routes: RouteSpec, cascade: tuple[str, ...] = (), **changes: Any) -> JobSpec:
    spec = make_spec(**changes)
    return replace(spec, ask=replace(spec.ask, routes=routes, cascade=cascade))


def compiled(spec: JobSpec) -> CompiledJob:
    return compile_job(spec, version_of(spec))


def routes_of(*routes: RouteSpec, cascade: tuple[str, ...] = ()) -> Routes:
    return compiled(spec_with(*routes, cascade=cascade)).routes


@pytest.mark.parametrize(
    ("body", "route"), [("even", ""), ("odd", "odd"), ("x" * 21, "long"), ("x" * 22, "long"), ("", "")]
)
def test_the_first_route_whose_condition_holds_is_taken_else_the_question_itself(body: str, route: str) -> None:
    assert route_of(routes_of(LONG, ODD, AGAIN), {"body": body}).name == route


def test_a_work_item_names_its_route_and_goes_in_that_ones_lane() -> None:
    spec = spec_with(LONG, ODD)
    odd, long = decide(spec, make_raw({"body": "odd"})), decide(spec, make_raw({"body": "x" * 30}))
    assert (odd.route, odd.lane) == ("odd", "default|gpt-5-mini|/v1/chat/completions|batch")
    assert (long.route, long.lane) == ("long", "default|gpt-5|/v1/chat/completions|batch")
    assert decide(spec, make_raw({"body": "even"})).route == ""


def test_a_condition_without_an_answer_is_a_named_end_that_names_the_route_and_not_the_value() -> None:
    letter = decide(spec_with(LONG), make_raw({"body": 4_711}))
    assert isinstance(letter, DeadLetter)
    assert letter.reason is Reason.FILTER_ERROR
    assert letter.error.startswith("ask.routes, long, when: ")
    assert "4711" not in letter.error


def test_what_a_route_leaves_out_is_as_in_the_question_itself() -> None:
    routes = routes_of(LONG, ODD, AGAIN)
    bodies = {name: json.loads(route.form.body('{"body":"b"}')) for name, route in routes.by_name.items()}
    told = {name: [message["content"] for message in body["messages"]] for name, body in bodies.items()}
    assert told == {
        "": ["You sort tickets.", "b"],
        "long": ["You sort tickets.", "b"],
        "odd": ["You sort tickets.", "Odd: b"],
        "again": ["Take your time.", "b, b"],
    }
    models = {name: (body["model"], body["max_completion_tokens"]) for name, body in bodies.items()}
    assert models == {
        "": ("gpt-5-mini", 200),
        "long": ("gpt-5", 900),
        "odd": ("gpt-5-mini", 200),
        "again": ("gpt-5", 900),
    }
    assert {json.dumps(body["response_format"]) for body in bodies.values()} == {
        json.dumps(bodies[""]["response_format"])
    }


def test_routes_of_one_model_share_a_lane_and_others_do_not() -> None:
    routes = routes_of(LONG, ODD, AGAIN)
    assert [route.name for route in routes.on(routes.of("odd").lane)] == ["", "odd"]
    assert [route.name for route in routes.on("default|gpt-5|/v1/chat/completions|online")] == ["long", "again"]


def test_what_waits_in_a_lane_is_paid_for_by_its_account_unless_the_job_names_another_by_now() -> None:
    other = replace(make_spec().ask.model, account="other")
    routes = routes_of(RouteSpec(name="elsewhere", model=other))
    assert routes.account_of("other|gpt-5-mini|/v1/chat/completions|batch") == "other"
    assert routes.account_of("default|gpt-5-mini|/v1/chat/completions|batch") == "default"
    assert routes.account_of("closed|gpt-5-mini|/v1/chat/completions|batch") == "default"


def test_every_route_goes_the_way_that_the_job_prefers() -> None:
    spec = spec_with(LONG, mode=ModeSpec(prefer="online"))
    assert {route.lane.rpartition("|")[2] for route in compiled(spec).routes.by_name.values()} == {"online"}


def test_the_cascade_begins_after_any_route_outside_it_and_ends_with_its_last() -> None:
    routes = routes_of(LONG, ODD, AGAIN, cascade=("odd", "again"))
    after = {name: next_route(routes, name) for name in routes.by_name}
    assert {name: None if route is None else route.name for name, route in after.items()} == {
        "": "odd",
        "long": "odd",
        "odd": "again",
        "again": None,
    }
    assert [route.name for route in from_here(routes, routes.of(ITSELF))] == ["", "odd", "again"]
    assert next_route(routes_of(LONG), "") is None


@given(body=st.text(max_size=60).filter(lambda text: bool(text.strip())), order=st.permutations(["odd", "again"]))
def test_a_size_bounds_every_question_that_may_still_be_asked(body: str, order: list[str]) -> None:
    spec = spec_with(LONG, ODD, AGAIN, cascade=tuple(order))
    item = decide(spec, make_raw({"body": body}))
    assert isinstance(item, WorkItem)
    routes = compiled(spec).routes
    sizes = [len(each.form.body(item.input_json)) for each in from_here(routes, routes.of(item.route))]
    assert item.bytes_estimate == max(sizes) + LINE_FRAMING_BYTES
    assert item.tokens_estimate == estimate_tokens(max(sizes))


def test_a_later_route_that_does_not_take_the_record_refuses_it_when_its_turn_comes() -> None:
    picky = replace(AGAIN, user="{{ input.missing }}")
    item = decide(spec_with(picky, cascade=("again",)), make_raw())
    assert isinstance(item, WorkItem)
    assert item.route == ""


@pytest.mark.parametrize(
    ("route", "fault"),
    [
        (replace(ODD, when="input.body ~ 3"), ConditionError),
        (replace(ODD, when="output.label == 'x'"), ConditionError),
        (replace(ODD, user="{{ body }}"), TemplateError),
        (replace(LONG, model=replace(DEAR, params_json='{"n":2}')), TemplateError),
    ],
)
def test_a_route_that_cannot_work_does_not_compile(route: RouteSpec, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        compiled(spec_with(route))


def test_the_models_of_a_job_are_told_by_where_they_stand() -> None:
    found = models_of(spec_with(ODD, LONG).ask)
    assert {where: model.name for where, model in found.items()} == {
        "$.ask.model": "gpt-5-mini",
        "$.ask.routes[1].model": "gpt-5",
    }


PRICES = parse_prices(
    '{"models": {"gpt-5-mini": {"input": "1", "output": "10"}, "gpt-5": {"input": "5", "output": "50"}}}'
)


@pytest.mark.parametrize(
    ("route", "model", "room"), [("", "gpt-5-mini", 200), ("odd", "gpt-5-mini", 200), ("long", "gpt-5", 900)]
)
def test_a_life_is_bounded_by_the_price_and_the_room_of_its_own_route(route: str, model: str, room: int) -> None:
    job = compiled(spec_with(LONG, ODD))
    worst = worst_case(job, PRICES, job.routes.of(route).lane)
    assert worst is not None
    life = make_life(bytes_estimate=1_000, route=route)
    assert worst.of(life) == worst_case_nanos(PRICES, model, "batch", input_tokens=1_000, output_tokens_max=room)


def test_routes_of_one_lane_may_leave_their_answers_different_room() -> None:
    roomy = RouteSpec(name="roomy", model=replace(make_spec().ask.model, params_json='{"max_output_tokens":500}'))
    spec = spec_with(roomy)
    spec = replace(spec, retry=replace(spec.retry, truncated=TruncationSpec(factor=3)))
    job = compiled(spec)
    worst = worst_case(job, PRICES, job.routes.of("").lane)
    assert worst is not None
    found = {
        (name, room): worst.output_tokens_max(make_life(route=name, room=room))
        for name in ("", "roomy")
        for room in (0, 1)
    }
    assert found == {("", 0): 200, ("", 1): 600, ("roomy", 0): 500, ("roomy", 1): 1_500}


def test_a_lane_with_a_route_without_a_limit_has_no_bound() -> None:
    endless = RouteSpec(name="endless", model=replace(make_spec().ask.model, params_json="{}"))
    job = compiled(spec_with(endless, LONG))
    assert worst_case(job, PRICES, job.routes.of("").lane) is None
    assert worst_case(job, PRICES, job.routes.of("long").lane) is not None


def test_an_answer_that_is_asked_for_again_by_another_route_says_nothing_of_the_version() -> None:
    before = make_life(status=Status.SUCCEEDED_UNVALIDATED)
    failed = {"status": Status.FAILED_RETRYABLE, "reason": Reason.NOT_JSON}
    assert outcome_of(before, make_life(**failed)) is not None
    assert outcome_of(before, make_life(**failed, route="again")) is None
