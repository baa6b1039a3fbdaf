"""The money of the read model: sums that agree, waste by its cause, doubt beside it, and the provider's bills."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchmill.agents.cli.costs import lines
from batchmill.agents.cli.program import run
from batchmill.agents.projector.costs import By, Cause, conservation, cost_groups, costs, match_bills
from batchmill.agents.projector.metrics import Scope, metrics
from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import ChunkState, Outcome, Status, VerdictStatus
from tests.agents.test_projector import JOB, RUN, Log, a_chunk, a_life, a_result, a_verdict

ALL = Scope().values
DAY_MS = 86_400_000


def sent(name: str, sends: int, nonce: str = "nonce") -> str:
    return f"{name * 32}-{sends}-{nonce}"


def fact(log: Log, name: str, sends: int = 1, **changes: Any) -> None:
    log.add("results", 0, encode(a_result(name, custom_id=sent(name, sends), **changes)))


@pytest.fixture
def log(tmp_path: Path) -> Any:
    made = Log(tmp_path / "view.sqlite")
    yield made
    made.store.close()


def a_story(log: Log) -> None:
    """Money of every kind: used, failed, rejected, declined, unpriced, free, a twin, and a lost row."""
    done = {"model": "asked", "state": ChunkState.DONE}
    log.row(a_chunk(**done, cost_nanos=47, wasted_nanos=40, twins=1, estimated_nanos=94, updated_at_ms=DAY_MS))
    log.row(a_chunk(**done, chunk_id="c2", mode="online", cost_nanos=36, doubtful_nanos=900, missing=1, untold_nanos=5))
    log.row(a_chunk(model="asked", chunk_id="c3", estimated_nanos=500, state=ChunkState.OPEN))
    failed = {"outcome": Outcome.ERROR, "reason": Reason.PROVIDER_ERROR}
    lives = {
        "a": {"status": Status.COMMITTED, "cost_nanos": 7},
        "b": {"status": Status.COMMITTED, "sends": 2, "cost_nanos": 30},
        "c": {"status": Status.FAILED_TERMINAL, "reason": Reason.SCHEMA_MISMATCH, "cost_nanos": 10},
        "d": {"status": Status.FAILED_TERMINAL, "reason": Reason.DECLINED, "cost_nanos": 11},
        "e": {"status": Status.FAILED_RETRYABLE, "reason": Reason.PROVIDER_ERROR, "cost_nanos": 12},
        "f": {"status": Status.FAILED_TERMINAL, "reason": Reason.SUPERSEDED, "cost_nanos": 13},
        "g": {"status": Status.VALIDATED, "unpriced_calls": 1},
        "h": {"status": Status.FAILED_RETRYABLE, "reason": Reason.MISSING},
        "i": {"status": Status.COMMITTED},
    }
    for name, changes in lives.items():
        log.row(a_life(log.raw(), name, **{"sends": 1, "tokens_estimate": 8, **changes}))
    fact(log, "a", tier="batch")
    fact(log, "b", 1, cost_nanos=20, tier="batch")  # refused by a rule, and asked again
    fact(log, "b", 2, cost_nanos=10, tier="batch")
    fact(log, "c", cost_nanos=10, tier="batch")
    fact(log, "d", chunk_id="c2", cost_nanos=11, tier="online")
    fact(log, "e", chunk_id="c2", cost_nanos=12, tier="online", **failed)
    fact(log, "f", chunk_id="c2", cost_nanos=13, tier="online", received_at_ms=2 * DAY_MS)
    fact(log, "g", cost_nanos=None, price_id=None, model="odd")
    fact(log, "h", chunk_id="c2", cost_nanos=0, input_tokens=0, output_tokens=0, outcome=Outcome.MISSING,
         reason=Reason.MISSING)  # fmt: skip
    fact(log, "i", cost_nanos=0, answered_by="store", input_tokens=0, output_tokens=0)
    log.add("validated", 0, encode(a_verdict("d", status=VerdictStatus.NEEDS_REVIEW)))
    log.fold()


def test_waste_is_told_by_its_cause_and_is_part_of_what_was_spent(log: Log) -> None:
    a_story(log)
    with log.view() as view:
        told = costs(view, ALL)
    assert told.spent_nanos == 7 + 30 + 10 + 11 + 12 + 13 + 40 + 5
    assert told.wasted_nanos == {
        Cause.TWIN: 40,
        Cause.UNTOLD: 5,
        Cause.FAILED: 12,
        Cause.REJECTED: 20 + 10,
        Cause.DECLINED: 11,
    }
    assert told.wasted == 98
    assert told.doubtful_nanos == 900
    assert (told.calls, told.unpriced_calls) == (8, 1)


def test_an_imported_answer_is_spent_with_its_record_and_is_on_no_bill(log: Log) -> None:
    log.row(a_life(log.raw(), "a", sends=1, status=Status.COMMITTED, cost_nanos=7))
    fact(log, "a", answered_by="import", chunk_id="import-1", cost_nanos=7, tier="batch")
    log.fold()
    with log.view() as view:
        told, sums, bills = costs(view, ALL), conservation(view, ALL), match_bills(view, [])
    assert (told.spent_nanos, told.calls) == (7, 1)
    assert (sums.facts_nanos, sums.lives_nanos, sums.holds) == (7, 7, True)
    assert (bills.booked_nanos, bills.exact) == (0, True)


def test_an_estimate_is_measured_over_the_batches_that_are_done_and_have_one(log: Log) -> None:
    a_story(log)
    with log.view() as view:
        told = costs(view, ALL)
    assert (told.estimated_nanos, told.actual_nanos, told.estimate_ratio) == (94, 47, 0.5)
    assert told.open_nanos == 500
    # seven answers of ten tokens each, estimated at eight
    assert (told.answered_tokens_estimate, told.answered_input_tokens) == (56, 70)


def test_rates_are_of_sent_and_of_committed_records(log: Log) -> None:
    a_story(log)
    with log.view() as view:
        told = costs(view, ALL)
    assert (told.records, told.committed) == (9, 3)
    assert told.per_record_usd == pytest.approx(128e-9 / 9)
    assert told.per_success_usd == pytest.approx(128e-9 / 3)
    assert told.records_per_dollar == pytest.approx(3 / 128e-9)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (By.MODEL, {"asked": (128, 98)}),
        (By.TIER, {"batch": (87, 70), "online": (41, 28)}),
        (
            By.REASON,
            {"answered": (71, 41), "twin": (40, 40), "untold": (5, 5), "provider_error": (12, 12), "missing": (0, 0)},
        ),
        (By.ROUTE, {"(no route)": (83, 53), "(twin)": (40, 40), "(untold)": (5, 5)}),
        (By.VERSION, {"v1": (128, 98)}),
        (By.DAY, {"1970-01-01": (75, 58), "1970-01-02": (40, 40), "1970-01-03": (13, 0)}),
    ],
)
def test_groups_share_out_what_was_spent_and_wasted(log: Log, by: By, expected: dict[str, tuple[int, int]]) -> None:
    a_story(log)
    with log.view() as view:
        groups = cost_groups(view, by, ALL)
        whole = costs(view, ALL)
    assert {group.key: (group.spent_nanos, group.wasted_nanos) for group in groups} == expected
    assert sum(group.spent_nanos for group in groups) == whole.spent_nanos
    assert sum(group.wasted_nanos for group in groups) == whole.wasted
    assert sum(group.calls for group in groups) == whole.calls


def test_an_answer_that_was_asked_for_again_by_another_route_is_wasted_on_its_own(log: Log) -> None:
    log.row(a_life(log.raw(), "a", status=Status.COMMITTED, sends=2, cost_nanos=110, route="dear"))
    log.row(a_life(log.raw(), "b", status=Status.COMMITTED, sends=1, cost_nanos=20))
    fact(log, "a", 1, cost_nanos=10)
    fact(log, "a", 2, cost_nanos=100, route="dear")
    fact(log, "b", 1, cost_nanos=20)
    log.fold()
    with log.view() as view:
        groups = cost_groups(view, By.ROUTE, ALL)
    told = {each.key: (each.calls, each.spent_nanos, each.wasted_nanos) for each in groups}
    assert told == {"(no route)": (2, 30, 10), "dear": (1, 100, 0)}


def test_records_facts_and_batches_add_up_to_the_same_sum(log: Log) -> None:
    a_story(log)
    with log.view() as view:
        sums = conservation(view, ALL)
        assert (sums.facts_nanos, sums.lives_nanos) == (83, 83)
        assert (sums.chunk_facts_nanos, sums.chunks_nanos) == (83, 83)
        assert sums.holds
        of_job = metrics(view, Scope(job=JOB))
        assert of_job.cost_usd == pytest.approx((sums.lives_nanos + 45) / 10**9)
        assert of_job.wasted_usd == pytest.approx(98e-9)
        assert of_job.doubtful_usd == pytest.approx(900e-9)
        assert conservation(view, Scope(run=RUN).values).holds
        assert costs(view, Scope(job="other").values).spent_nanos == 0


@pytest.mark.parametrize("folds", [1, 3])
def test_a_result_that_is_folded_again_costs_nothing_again(log: Log, folds: int) -> None:
    a_story(log)
    for _ in range(folds):
        for name, partition in log.records:  # everything from the start, as after a crash before the positions
            again = [(topic, at) for topic, at in log.records if (topic, at) == (name, partition)]
            log.store.write(_folded(log, again), {})
    with log.view() as view:
        assert costs(view, ALL).spent_nanos == 128
        assert conservation(view, ALL).holds


def _folded(log: Log, names: list[tuple[str, int]]) -> Any:
    from batchmill.agents.projector.folding import Fold  # noqa: PLC0415

    fold = Fold(raw_generation=1)
    for topic, partition in names:
        fold.add(topic, partition, log.records[topic, partition])
    return fold.statements()


def test_a_fact_that_no_record_knows_of_is_seen(log: Log) -> None:
    a_story(log)
    fact(log, "a", 1, cost_nanos=5)
    log.fold()
    with log.view() as view:
        assert not conservation(view, ALL).holds


def test_an_expired_record_takes_its_cost_out_of_the_sum_and_not_out_of_the_books(log: Log) -> None:
    a_story(log)
    log.gone(a_life(log.raw(), "c"))
    log.fold()
    with log.view() as view:
        sums = conservation(view, ALL)
        assert (sums.holds, sums.expired_nanos, sums.lives_nanos) == (True, 10, 73)
        told = costs(view, ALL)
        assert (told.spent_nanos, told.wasted_nanos[Cause.REJECTED]) == (128, 30)


BILLED = [
    (sent("a", 1), 7), (sent("b", 1), 20), (sent("b", 2), 10), (sent("c", 1), 10), (sent("d", 1), 11),
    (sent("e", 1), 12), (sent("f", 1), 13),
]  # fmt: skip
TWIN = [(sent("a", 1), 7), (sent("c", 1), 33), (sent("h", 1), 5)]  # the last is of the lost row


def test_the_providers_bills_are_the_facts_and_the_twins_to_the_nano_dollar(log: Log) -> None:
    a_story(log)
    with log.view() as view:
        told = match_bills(view, [*BILLED, *TWIN])
    assert (told.billed_nanos, told.booked_nanos, told.wasted_nanos, told.unexplained_nanos) == (128, 83, 45, 0)
    assert told.exact
    assert told.holds


@pytest.mark.parametrize(
    ("bills", "exact", "holds", "differing"),
    [
        ([*BILLED, *TWIN, (sent("h", 1), 900)], False, True, 0),  # the lost row was billed: it was said to be doubtful
        ([*BILLED, *TWIN, (sent("h", 1), 901)], False, False, 0),
        ([*BILLED[1:], *TWIN[1:], (sent("a", 1), 14)], False, False, 1),  # as much in all, and another fact
        ([*BILLED, *TWIN[1:], (sent("x", 1), 7)], False, True, 0),  # a twin is not paid for, but a line nobody sent is
        (BILLED, False, False, 0),  # we said that a twin was paid for
    ],
)
def test_a_bill_that_differs_is_seen_even_where_the_sum_does_not_show_it(
    log: Log, bills: list[tuple[str, int]], exact: bool, holds: bool, differing: int
) -> None:
    a_story(log)
    with log.view() as view:
        told = match_bills(view, bills)
    assert (told.exact, told.holds, told.differing_count) == (exact, holds, differing)


outcomes = st.sampled_from([Outcome.SUCCEEDED, Outcome.ERROR, Outcome.EXPIRED])
attempts = st.lists(st.tuples(outcomes, st.none() | st.integers(0, 10**6)), min_size=1, max_size=4)
ends = st.sampled_from(
    [
        (Status.COMMITTED, None),
        (Status.NEEDS_REVIEW, Reason.LOW_CONFIDENCE),
        (Status.FAILED_RETRYABLE, Reason.NOT_JSON),
        (Status.FAILED_TERMINAL, Reason.NOT_JSON),
        (Status.FAILED_TERMINAL, Reason.CANCELLED),
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(attempts, ends), max_size=5), st.integers(0, 10**6))
def test_whatever_happened_the_sums_agree_and_waste_is_a_part(
    tmp_path_factory: pytest.TempPathFactory, stories: list[Any], twin: int
) -> None:
    log = Log(tmp_path_factory.mktemp("costs") / "view.sqlite")
    spent = 0
    for name, (tried, (status, reason)) in zip("abcde", stories, strict=False):
        known = [nanos for _, nanos in tried if nanos is not None]
        unpriced = len(tried) - len(known)
        life = a_life(
            log.raw(),
            name,
            status=status,
            reason=reason,
            sends=len(tried),
            cost_nanos=sum(known),
            unpriced_calls=unpriced,
        )
        log.row(life)
        spent += sum(known)
        for number, (outcome, nanos) in enumerate(tried, start=1):
            fact(log, name, number, outcome=outcome, cost_nanos=nanos)
    log.row(a_chunk(cost_nanos=spent, wasted_nanos=twin, state=ChunkState.DONE))
    log.fold()
    with log.view() as view:
        told = costs(view, ALL)
        assert conservation(view, ALL).holds
        assert told.spent_nanos == spent + twin
        assert 0 <= told.wasted <= told.spent_nanos
        for by in By:
            groups = cost_groups(view, by, ALL)
            assert sum(group.spent_nanos for group in groups) == told.spent_nanos
            assert sum(group.wasted_nanos for group in groups) == told.wasted
    log.store.close()


def test_the_command_tells_it_and_leaves_out_what_is_not_known(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_story(log)
    with log.view() as view:
        told = dict(lines(costs(view, ALL)))
        empty = dict(lines(costs(view, Scope(job="other").values)))
    assert told["spent"] == "$0.000000"
    assert "76.6%" in (told["wasted"] or "")
    assert "twin" in (told["wasted"] or "")
    assert told["unpriced calls"] == "1 of 8"
    assert (told["estimated"] or "").endswith("0.50 of it")
    assert [empty[name] for name in ("doubtful", "estimated", "cost per record", "records per dollar")] == [None] * 4
    view_path = ["--set", f"data_dir={tmp_path}"]
    (tmp_path / "view.sqlite").rename(tmp_path / _view_name())
    assert run([*view_path, "costs", JOB, "--by", "tier", "--json"]) == 0
    document = orjson.loads(capsys.readouterr().out)
    assert document["conserved"] is True
    assert document["costs"]["wasted_nanos"]["rejected"] == 30
    assert {group["key"]: group["spent_nanos"] for group in document["groups"]} == {"batch": 87, "online": 41}
    assert run([*view_path, "costs", "--by", "colour"]) == 2


def _view_name() -> str:
    from batchmill.agents.settings import Settings  # noqa: PLC0415

    return Settings().view_path.name
