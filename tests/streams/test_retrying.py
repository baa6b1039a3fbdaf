"""Another attempt: whether, when, and after how many it is enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.jobs import RetryRule, RetrySpec
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.status import Status
from batchmill.streams.facts import FREE
from batchmill.streams.retrying import SENDS_MAX, after_attempt, backoff_ms, due, next_due_ms
from tests.streams.rows import NOW_MS, emitted, life_in, make_job, make_life, make_source, put_rows, request_name

RETRY = RetrySpec(max_attempts=3, backoff_seconds_base=10, backoff_seconds_max=60)
RETRYABLE = [reason for reason in Reason if info(reason).retryable]


def running(**changes: int) -> object:
    return make_life(**{"status": Status.PROCESSING, "sends": 1, "attempt": 1, "chunk_id": "c1", **changes})


@given(st.integers(1, 40), st.integers(1, 10**6))
def test_the_wait_doubles_up_to_its_bound_and_is_never_less_than_half(attempt: int, number: int) -> None:
    full = min(60_000, 10_000 * 2 ** (attempt - 1))
    waited = backoff_ms(make_life(number), Reason.PROVIDER_ERROR, RETRY, attempt)
    assert full / 2 <= waited <= full


def test_the_same_life_waits_as_long_after_a_crash_and_two_lives_do_not_wait_alike() -> None:
    waits = {backoff_ms(make_life(number), Reason.MISSING, RETRY, 1) for number in range(20)}
    assert len(waits) > 10
    assert backoff_ms(make_life(1), Reason.MISSING, RETRY, 1) == backoff_ms(make_life(1), Reason.MISSING, RETRY, 1)


@pytest.mark.parametrize("reason", RETRYABLE)
def test_attempts_that_count_are_bounded_and_the_others_by_sends(reason: Reason) -> None:
    life = make_life(status=Status.PROCESSING, attempt=3, sends=3)
    assert (next_due_ms(life, reason, RETRY, NOW_MS) is None) is info(reason).costs_attempt
    assert next_due_ms(make_life(attempt=1, sends=SENDS_MAX), reason, RETRY, NOW_MS) is None


@pytest.mark.parametrize("reason", [reason for reason in Reason if not info(reason).retryable])
def test_what_no_attempt_can_mend_is_not_tried_again(reason: Reason) -> None:
    assert next_due_ms(make_life(attempt=1, sends=1), reason, RETRY, NOW_MS) is None
    after, _ = after_attempt(running(), 1, reason, FREE, retry=RETRY, now_ms=NOW_MS)
    assert (after.status, after.reason, after.chunk_id) == (Status.FAILED_TERMINAL, reason, None)


def test_a_rule_for_one_reason_overrides_the_general_one() -> None:
    rules = RetrySpec(max_attempts=1, on={Reason.NOT_JSON: RetryRule(max_attempts=2, backoff_seconds_base=1)})
    life = make_life(status=Status.PROCESSING, attempt=1, sends=1)
    assert next_due_ms(life, Reason.MISSING, rules, NOW_MS) is None
    again = next_due_ms(life, Reason.NOT_JSON, rules, NOW_MS)
    assert again is not None
    assert again <= NOW_MS + 1_000


def test_a_failed_attempt_waits_and_the_last_one_ends_the_life() -> None:
    first, _ = after_attempt(running(), 1, Reason.MISSING, FREE, retry=RETRY, now_ms=NOW_MS)
    assert first.status is Status.FAILED_RETRYABLE
    last, _ = after_attempt(running(attempt=3), 1, Reason.MISSING, FREE, retry=RETRY, now_ms=NOW_MS)
    assert (last.status, last.reason) == (Status.FAILED_TERMINAL, Reason.MISSING)


def test_a_failure_of_an_older_send_changes_nothing() -> None:
    life = running(sends=2)
    assert after_attempt(life, 1, Reason.MISSING, FREE, retry=RETRY, now_ms=NOW_MS) == (life, False)


def test_what_is_due_goes_back_to_the_queue_and_what_is_not_waits() -> None:
    early = make_life(1, status=Status.FAILED_RETRYABLE, due_at_ms=NOW_MS, reason=Reason.MISSING)
    late = make_life(2, status=Status.FAILED_RETRYABLE, due_at_ms=NOW_MS + 1, reason=Reason.MISSING)
    orders = due(put_rows(make_job(), early, late), now_ms=NOW_MS, limit=9)
    assert life_in(orders, request_name(1)).status is Status.QUEUED
    assert request_name(2) not in str(orders)


def test_nothing_due_is_nothing_to_do() -> None:
    assert due(put_rows(), now_ms=NOW_MS, limit=9) == []


def test_a_retry_nobody_waits_for_ends_instead() -> None:
    life = make_life(status=Status.FAILED_RETRYABLE, due_at_ms=NOW_MS, reason=Reason.MISSING)
    orders = due(put_rows(life, make_source(life, request_id="other")), now_ms=NOW_MS, limit=9)
    assert life_in(orders, life.request_id).reason is Reason.SUPERSEDED
    assert [record.reason for record in emitted(orders)] == [Reason.SUPERSEDED]
