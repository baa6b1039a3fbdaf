"""What was not paid, lever by lever: each reckoned as it says, and no dollar in two of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchmill.agents.cli.program import run
from batchmill.agents.projector.metrics import Scope
from batchmill.agents.projector.savings import HOW, Lever, Saving, Savings, savings
from batchmill.agents.settings import Settings
from batchmill.schemas.asking import ModelSpec, RouteSpec
from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.schemas.versions import version_of
from batchmill.streams.costing import prices_of, write_prices
from tests.agents.test_projector import RUN, Log, a_chunk, a_job, a_life, a_result, an_exclusion
from tests.streams.making import make_spec

PRICES = prices_of({
    "gpt-5-mini": {"input": 1, "output": 4, "cached": 0.1},
    "gpt-5-nano": {"input": 0.25, "output": 1, "cached": 0.1},
})  # fmt: skip
ROUTES = (
    RouteSpec(name="small", model=ModelSpec(provider="openai", name="gpt-5-nano")),
    RouteSpec(name="brief", system="In a word."),
)
SPEC = make_spec(prices_json=write_prices(PRICES), ask=replace(make_spec().ask, routes=ROUTES))
V = version_of(SPEC)
#: a later version, whose own model is the cheaper one
CHEAPER = replace(SPEC, ask=replace(SPEC.ask, model=replace(SPEC.ask.model, name="gpt-5-nano")))
V2 = version_of(CHEAPER)
OWN = {"version": V, "model": "gpt-5-mini", "tier": "batch"}


@pytest.fixture
def log(tmp_path: Path) -> Any:
    made = Log(tmp_path / "view.sqlite")
    told = {V: orjson.loads(SPEC.to_json())}
    both = told | {V2: orjson.loads(CHEAPER.to_json())}
    made.row(a_job(version=V, versions_json=orjson.dumps(told).decode()), partition=0)  # one task is behind
    made.row(a_job(version=V, versions_json=orjson.dumps(both).decode()), partition=1)
    made.row(a_chunk(model="gpt-5-mini"))
    yield made
    made.store.close()


def answered(log: Log, name: str, **changes: Any) -> None:
    life = {key: changes.pop(key) for key in ("queued_at_ms", "run_id", "aside") if key in changes}
    log.row(a_life(log.raw(), name, version=changes.get("version", V), sends=1, **life))
    log.add("results", 0, encode(a_result(name, **OWN | changes)))


def copied(log: Log, name: str, of: str, **changes: Any) -> None:
    free = {"cost_nanos": 0, "input_tokens": 0, "output_tokens": 0, "tier": None, "of_request_id": of * 32}
    answered(log, name, **{"answered_by": "store"} | free | changes)


def asked_on(log: Log, name: str, **changes: Any) -> None:
    """The next call for the same record."""
    log.add("results", 0, encode(a_result(name, **OWN | {"attempt": 2} | changes)))


#: 1,000 tokens in and 100 out by batch, of either model
USED = {"input_tokens": 1_000, "output_tokens": 100}
AT_SMALL = (1_000 * 250 + 100 * 1_000) // 2
AT_OWN = (1_000 * 1_000 + 100 * 4_000) // 2
SMALL = USED | {"route": "small", "model": "gpt-5-nano", "cost_nanos": AT_SMALL}


def told(log: Log, **scope: str) -> Savings:
    log.fold()
    with log.view() as view:
        return savings(view, Scope(**scope).values, otherwise=PRICES)


def of(found: Savings, lever: Lever) -> Saving:
    return next(each for each in found.savings if each.lever is lever)


def test_a_copy_is_worth_what_the_answer_did_cost_and_one_that_was_there_before_had_waited(log: Log) -> None:
    answered(log, "a", cost_nanos=700, received_at_ms=100)
    copied(log, "b", "a", queued_at_ms=50)
    copied(log, "c", "a", queued_at_ms=150)
    copied(log, "d", "a", answered_by="near", similarity=0.93, queued_at_ms=50)
    found = told(log)
    expected = {Lever.FOLLOWERS: (1, 700), Lever.STORED: (1, 700), Lever.NEAR: (1, 700)}
    assert {lever: (of(found, lever).count, of(found, lever).saved_nanos) for lever in expected} == expected


def test_a_duplicate_is_worth_its_requests_answer_be_it_a_copy_itself(log: Log) -> None:
    answered(log, "a", cost_nanos=700)
    copied(log, "b", "a")
    for request in ("a", "b", "z"):
        log.add("excluded", 0, encode(replace(
            an_exclusion(log.raw(), Reason.DUPLICATE), version=V, of_request_id=request * 32)))  # fmt: skip
    line = of(told(log), Lever.DUPLICATES)
    assert (line.count, line.saved_nanos, line.unpriced) == (3, 1_400, 1), "of one nobody knows what it would cost"


def test_what_the_filter_kept_back_is_worth_the_mean_of_what_was_answered_with_all_its_attempts(log: Log) -> None:
    answered(log, "a", cost_nanos=500)
    answered(log, "b", cost_nanos=300)
    log.add("results", 0, encode(a_result("b", **OWN, attempt=2, cost_nanos=400)))
    log.add("excluded", 0, encode(replace(an_exclusion(log.raw(), Reason.FILTERED), version=V)))
    line = of(told(log), Lever.FILTERED)
    assert (line.count, line.saved_nanos) == (1, 600)


def test_a_call_is_taken_apart_and_the_steps_add_up_to_the_dearest_way(log: Log) -> None:
    """1,000 tokens in, 800 of them from the cache, 100 out, of the cheaper model by batch."""
    actual = (200 * 250 + 800 * 100 + 100 * 1_000) // 2
    usage = {"input_tokens": 1_000, "cached_tokens": 800, "output_tokens": 100, "cost_nanos": actual}
    log.row(a_chunk(model="gpt-5-nano", chunk_id="c2"))
    answered(log, "a", **usage | {"route": "small", "model": "gpt-5-nano", "chunk_id": "c2"})
    found = told(log)
    assert of(found, Lever.CACHE).saved_nanos == 800 * 150 // 2
    assert of(found, Lever.ROUTES).saved_nanos == (1_000 * 750 + 100 * 3_000) // 2
    assert of(found, Lever.BATCH).saved_nanos == (1_000 * 1_000 + 100 * 4_000) // 2
    assert found.paid_nanos == actual
    assert found.paid_nanos + found.saved_nanos == 1_000 * 1_000 + 100 * 4_000
    assert found.share == pytest.approx(1 - actual / 1_400_000)


def test_a_cheap_route_whose_answer_was_not_taken_counts_against_the_routes(log: Log) -> None:
    answered(log, "a", model="gpt-5-nano", route="small", cost_nanos=90)
    log.add("results", 0, encode(a_result("a", **OWN, route="large", attempt=2, cost_nanos=40)))
    assert of(told(log), Lever.ROUTES) == Saving(lever=Lever.ROUTES, count=1, saved_nanos=-90)


def test_a_cheap_answer_counts_against_the_routes_too_where_a_stored_one_of_another_route_took_its_place(
    log: Log,
) -> None:
    answered(log, "a", **SMALL)
    asked_on(log, "a", answered_by="store", cost_nanos=0, tier=None, of_request_id="z" * 32)
    assert of(told(log), Lever.ROUTES).saved_nanos == -AT_SMALL


def test_a_cheap_answer_that_an_imported_one_replaced_was_not_asked_on(log: Log) -> None:
    answered(log, "a", **SMALL)
    asked_on(log, "a", answered_by="import", cost_nanos=0)
    assert of(told(log), Lever.ROUTES).saved_nanos == AT_OWN - AT_SMALL


def test_a_copy_stands_for_a_call_by_the_route_of_its_original_so_that_both_levers_add_up(log: Log) -> None:
    answered(log, "a", **SMALL)
    copied(log, "b", "a", route="small", model="gpt-5-nano")
    found = told(log)
    assert of(found, Lever.FOLLOWERS).saved_nanos == AT_SMALL
    assert of(found, Lever.ROUTES) == Saving(lever=Lever.ROUTES, count=2, saved_nanos=2 * (AT_OWN - AT_SMALL))
    assert found.paid_nanos == AT_SMALL
    assert found.paid_nanos + found.saved_nanos == 2 * 2 * AT_OWN, "two records, by single calls of the job's own model"


def test_a_copy_of_an_answer_that_was_asked_on_would_have_been_asked_on(log: Log) -> None:
    answered(log, "a", **SMALL)
    asked_on(log, "a", **USED, cost_nanos=AT_OWN, output_sha256="better")
    copied(log, "b", "a", output_sha256="better")
    found = told(log)
    assert of(found, Lever.FOLLOWERS).saved_nanos == AT_SMALL + AT_OWN
    assert of(found, Lever.ROUTES).saved_nanos == -2 * AT_SMALL
    assert found.paid_nanos + found.saved_nanos == 2 * 2 * AT_OWN


def test_a_copy_is_worth_the_answer_that_it_is_a_copy_of_not_a_later_one(log: Log) -> None:
    answered(log, "a", cost_nanos=700, output_sha256="first")
    asked_on(log, "a", cost_nanos=900, output_sha256="second")
    copied(log, "b", "a", output_sha256="first")
    assert of(told(log), Lever.FOLLOWERS).saved_nanos == 700


def test_what_another_version_had_asked_has_a_line_of_its_own(log: Log) -> None:
    answered(log, "a", cost_nanos=700)
    copied(log, "b", "a", version=V2, aside=True)
    found = told(log)
    assert of(found, Lever.VERSIONS) == Saving(lever=Lever.VERSIONS, count=1, saved_nanos=700)
    assert of(found, Lever.FOLLOWERS).count == of(found, Lever.STORED).count == 0
    assert of(found, Lever.BATCH).count == 1, "it is spared what was paid, not what single calls would have been"
    assert told(log, version=V2).saved_nanos == 700


def test_a_version_that_is_tried_out_costs_and_its_cheaper_model_is_no_saving(log: Log) -> None:
    """Nor is it one on a route of it to the model that is its own."""
    answered(log, "a", **USED, cost_nanos=AT_OWN)
    answered(log, "b", **SMALL | {"route": "", "version": V2, "aside": True})
    answered(log, "c", **SMALL | {"version": V2, "aside": True})
    found = told(log)
    assert found.paid_nanos == AT_OWN + 2 * AT_SMALL
    assert of(found, Lever.ROUTES).count == 0
    assert of(found, Lever.BATCH).saved_nanos == AT_OWN + 2 * AT_SMALL


def test_a_route_is_known_by_its_version_when_its_batch_is_gone(log: Log) -> None:
    """One of another prompt is asked of the job's own model, whatever date the answer names it with."""
    gone = {"chunk_id": "gone", "tier": "batch"}
    answered(log, "a", **USED, **gone, route="brief", model="gpt-5-mini-2025-08-07", cost_nanos=AT_OWN)
    answered(log, "b", **SMALL | gone | {"model": "gpt-5-nano-2025-08-07"})
    line = of(told(log), Lever.ROUTES)
    assert (line.count, line.saved_nanos) == (1, AT_OWN - AT_SMALL)


def test_a_route_of_a_version_that_is_not_known_has_no_price(log: Log) -> None:
    answered(log, "a", **SMALL | {"version": "forgotten"})
    assert of(told(log), Lever.ROUTES) == Saving(lever=Lever.ROUTES, count=1, saved_nanos=0, unpriced=1)


def test_a_call_whose_usage_was_not_told_is_not_taken_for_one_that_used_nothing(log: Log) -> None:
    answered(log, "a", cost_nanos=None, price_id=None, input_tokens=0, output_tokens=0)
    line = of(told(log), Lever.BATCH)
    assert (line.count, line.saved_nanos, line.unpriced) == (1, 0, 1)


def test_a_call_that_has_no_price_is_said_to_have_none(log: Log) -> None:
    answered(log, "a", cost_nanos=None, price_id=None, model="odd", chunk_id="gone")
    line = of(told(log), Lever.BATCH)
    assert (line.count, line.saved_nanos, line.unpriced) == (1, 0, 1)


def test_failed_calls_that_cost_nothing_save_nothing(log: Log) -> None:
    answered(log, "a", cost_nanos=0, outcome=Outcome.EXPIRED, output=None, output_sha256=None)
    found = told(log)
    assert (found.saved_nanos, found.paid_nanos, found.share) == (0, 0, None)


def test_a_scope_counts_its_own(log: Log) -> None:
    answered(log, "a", cost_nanos=700, received_at_ms=1)
    copied(log, "b", "a", run_id="another", queued_at_ms=2)
    assert of(told(log, run="another"), Lever.STORED).saved_nanos == 700
    assert of(told(log, run=RUN), Lever.STORED).count == 0
    assert of(told(log, job="nobody's"), Lever.STORED).count == 0


def test_the_command_prints_a_line_for_each_lever_and_says_what_is_not_in_it(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(log, "a", cost_nanos=700, received_at_ms=1)
    copied(log, "b", "a", queued_at_ms=2)
    log.fold()
    log.path.rename(tmp_path / Settings().view_path.name)
    view_path = ["--set", f"data_dir={tmp_path}"]
    assert run([*view_path, "savings", "--job", SPEC.job]) == 0
    said = capsys.readouterr()
    assert f"stored\t1\t\t0.000001\t{HOW[Lever.STORED]}" in said.out.splitlines()
    assert "shorter inputs" in said.err
    assert run([*view_path, "savings", "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert {line["lever"] for line in told["savings"]} == set(Lever)
    assert told["paid_nanos"] == 700
    assert run([*view_path, "savings", "--job", "unheard-of"]) != 0
