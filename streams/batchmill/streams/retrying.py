"""Whether a failed attempt is followed by another one, and when.

Two budgets: attempts that counted (the job's `max_attempts`, by reason), and sends of any kind (`SENDS_MAX`), so that
failures which cost no attempt cannot go round for ever either. The jitter is taken from the request id, so a decision
that is made again after a crash is the same decision.
"""

from hashlib import sha256
from typing import Final

from batchmill.schemas.jobs import RetrySpec
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.state import Life
from batchmill.streams.facts import AttemptFailed, AttemptRefused, Charge, RetryDue, Spent
from batchmill.streams.following import Askers
from batchmill.streams.index import padded
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.settling import carried, end_if_unwanted, moved
from batchmill.streams.view import StateView

__all__ = ["SENDS_MAX", "after_attempt", "backoff_ms", "due", "next_due_ms", "or_spent"]

#: sends of one life, those included that cost no attempt
SENDS_MAX: Final = 50
_JITTER_STEPS: Final = 2**16


def next_due_ms(life: Life, reason: Reason, retry: RetrySpec, now_ms: int) -> int | None:
    """When the life may be tried again after failing for `reason`; None when its attempts are spent.

    `life` is as it was while the attempt ran: `attempt` includes it.
    """
    if not info(reason).retryable or life.sends >= SENDS_MAX:
        return None
    if not info(reason).costs_attempt:
        return now_ms + backoff_ms(life, reason, retry, 1)
    rule = retry.on.get(reason)
    allowed = rule.max_attempts if rule is not None and rule.max_attempts is not None else retry.max_attempts
    return None if life.attempt >= allowed else now_ms + backoff_ms(life, reason, retry, max(1, life.attempt))


def backoff_ms(life: Life, reason: Reason, retry: RetrySpec, attempt: int) -> int:
    """Doubling from base to max, less up to half of it by the life's own jitter."""
    rule = retry.on.get(reason)
    base, highest = retry.backoff_seconds_base, retry.backoff_seconds_max
    if rule is not None:
        base = base if rule.backoff_seconds_base is None else rule.backoff_seconds_base
        highest = highest if rule.backoff_seconds_max is None else rule.backoff_seconds_max
    full = min(highest, base * 2.0 ** min(attempt - 1, 32))
    drawn = int.from_bytes(sha256(f"{life.request_id}/{life.sends}".encode()).digest()[:2], "big")
    return round(full * 1000 * (1 - drawn / _JITTER_STEPS / 2))


def or_spent(life: Life, due_at_ms: int | None, now_ms: int) -> Life:
    """`life` is failed_retryable: leave it so, or end it when there is no next time."""
    return life if due_at_ms is not None else moved(life, Spent(), now_ms)


def after_attempt(
    life: Life, sends: int, reason: Reason, charge: Charge, *, retry: RetrySpec, now_ms: int
) -> tuple[Life, bool]:
    """The life after attempt `sends` failed for `reason`, and whether it moved."""
    if not info(reason).retryable:
        return carried(life, AttemptRefused(sends=sends, reason=reason, charge=charge), now_ms)
    due_at_ms = next_due_ms(life, reason, retry, now_ms)
    failed = AttemptFailed(sends=sends, reason=reason, due_at_ms=due_at_ms or now_ms, charge=charge)
    after, did_move = carried(life, failed, now_ms)
    return (or_spent(after, due_at_ms, now_ms), True) if did_move else (after, False)


def due(view: StateView, *, now_ms: int, limit: int) -> list[Order]:
    """Lives whose waiting time is over go back to the queue; those not wanted any more end.

    One whose question others ask by now waits for their answer: after a refused answer that served many, one asks anew.
    """
    orders: list[Order] = []
    askers = Askers(view)
    for text, row in view.scan("retry", "", limit=limit):
        if text[: len(padded(0))] > padded(now_ms):
            break
        assert isinstance(row, Life)
        kept, said = end_if_unwanted(view, row, stage="submitter", now_ms=now_ms)
        if not said:
            kept = askers.joined(moved(kept, RetryDue(), now_ms), failed_too=False)
        orders += [Put(kept), *said]
    return [*orders, Wake("sealing"), Wake("stored")] if orders else []
