"""Who is not wanted any more, who may end it, and what is published of it."""

import pytest

from batchmill.schemas.reasons import REASONS, Reason
from batchmill.schemas.records import DeadLetter, Excluded
from batchmill.schemas.status import Status
from batchmill.streams.facts import Cancelled, RetryDue, Spent, Superseded
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Put
from batchmill.streams.settling import ImpossibleError, carried, end_if_unwanted, moved, obituary, put_or_end, unwanted
from tests.streams.rows import NOW_MS, emitted, life_in, make_job, make_life, make_source, put_rows


def test_a_life_is_wanted_while_it_is_its_sources_newest_and_its_job_goes_on() -> None:
    life = make_life()
    assert unwanted(put_rows(make_job(), make_source(life)), life) is None
    assert unwanted(put_rows(), life) is None


def test_a_newer_request_of_the_source_supersedes() -> None:
    life = make_life()
    assert unwanted(put_rows(make_job(), make_source(life, request_id="other")), life) == Superseded()


@pytest.mark.parametrize(("queued_at_ms", "over"), [(NOW_MS - 1, True), (NOW_MS, True), (NOW_MS + 1, False)])
def test_a_cancellation_is_about_what_was_asked_for_before_it(queued_at_ms: int, *, over: bool) -> None:
    life = make_life(queued_at_ms=queued_at_ms)
    view = put_rows(make_job(cancelled_before_ms=NOW_MS), make_source(life))
    assert (unwanted(view, life) == Cancelled()) is over


@pytest.mark.parametrize("status", [Status.COMMITTED, Status.FAILED_TERMINAL])
def test_what_is_over_stays_as_it_is(status: Status) -> None:
    life = make_life(status=status, reason=Reason.NOT_JSON)
    assert end_if_unwanted(put_rows(make_job(cancelled_before_ms=NOW_MS)), life, stage="x", now_ms=NOW_MS) == (life, [])


def test_an_unwanted_life_ends_with_its_obituary_naming_who_took_its_place() -> None:
    life = make_life()
    view = put_rows(make_source(life, request_id="other"))
    orders = put_or_end(view, life, stage="submitter", now_ms=NOW_MS)
    assert life_in(orders, life.request_id).status is Status.FAILED_TERMINAL
    (said,) = emitted(orders)
    assert (said.reason, said.of_request_id, said.origin) == (Reason.SUPERSEDED, "other", life.origin)


def test_a_wanted_life_is_just_put() -> None:
    life = make_life()
    assert put_or_end(put_rows(make_source(life)), life, stage="submitter", now_ms=NOW_MS) == [Put(life)]


@pytest.mark.parametrize("reason", Reason)
def test_an_obituary_is_excluded_or_dead_lettered_by_its_reason(reason: Reason) -> None:
    life = make_life(status=Status.FAILED_TERMINAL, reason=reason, cost_nanos=7)
    said = obituary(life, stage="collector", error="why", now_ms=NOW_MS)
    assert isinstance(said.record, Excluded if REASONS[reason].excluded else DeadLetter)
    assert said.key == life.request_id.encode()
    assert (said.record.reason, said.record.cost_nanos) == (reason, 7)


def test_an_obituary_repeats_with_its_cause_and_differs_after_a_redrive() -> None:
    life = make_life(status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON)
    same = [obituary(life, stage="validator", error="", now_ms=at).record.id for at in (NOW_MS, NOW_MS + 5)]
    assert len(set(same)) == 1
    assert obituary(evolve(life, redrives=1), stage="validator", error="", now_ms=NOW_MS).record.id not in same


def test_a_cost_that_is_not_known_is_not_told_as_one() -> None:
    life = make_life(status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON, cost_nanos=7, unpriced_calls=1)
    assert obituary(life, stage="validator", error="", now_ms=NOW_MS).record.cost_nanos is None


def test_only_an_ended_life_has_an_obituary() -> None:
    with pytest.raises(AssertionError):
        obituary(make_life(), stage="x", error="", now_ms=NOW_MS)


def test_an_impossible_fact_leaves_the_decision_as_an_error() -> None:
    with pytest.raises(ImpossibleError, match="Spent"):
        carried(make_life(), Spent(), NOW_MS)


def test_a_decision_does_not_hand_itself_a_stale_fact() -> None:
    assert carried(make_life(), RetryDue(), NOW_MS) == (make_life(), False)
    with pytest.raises(ImpossibleError, match="stale"):
        moved(make_life(), RetryDue(), NOW_MS)
