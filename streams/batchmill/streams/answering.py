"""What the outcome of one member means: for its life, for its result, and for the chunk that counts it.

By batch or one by one, a member has exactly one outcome, and it is told by a row of its own, joined by its custom id.
What it cost is posted whatever it is. An answer goes on to be judged; a failure is tried again or ends, by its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

from batchmill.schemas.jobs import RetrySpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Result
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import Outcome, Status
from batchmill.streams.chunking import custom_id_of
from batchmill.streams.facts import Answered, AttemptRefused, Charge
from batchmill.streams.lifecycle import Impossible
from batchmill.streams.orders import Emit, Order, Put
from batchmill.streams.ports import RowOutcome
from batchmill.streams.retrying import after_attempt
from batchmill.streams.settling import ImpossibleError, carried, end_if_unwanted, life_key, moved, obituary
from batchmill.streams.view import StateView

__all__ = ["Price", "bounded", "outcomes"]

_STAGE: Final = "collector"

#: what is kept of a provider's own words: names and codes, not messages
_WORD_CHARS_MAX: Final = 100
#: far above what any model reads or writes; above it, a count is an error of the provider's
_TOKENS_MAX: Final = 2**31 - 1
_HTTP_STATUS_MAX: Final = 999

#: prices one row: (nano-dollars, or None when there is no price; id of the price list)
Price = Callable[[RowOutcome], tuple[int | None, str | None]]


def bounded(row: RowOutcome, output_bytes_max: int) -> RowOutcome:
    """The row in numbers and texts that our records can hold, whatever a provider wrote. What it cost is kept."""
    row = replace(
        row,
        finish_reason=_word(row.finish_reason),
        error_code=_word(row.error_code),
        model=_word(row.model),
        http_status=row.http_status if (row.http_status or 0) <= _HTTP_STATUS_MAX else None,
        input_tokens=min(row.input_tokens, _TOKENS_MAX),
        output_tokens=min(row.output_tokens, _TOKENS_MAX),
        cached_tokens=min(row.cached_tokens, _TOKENS_MAX),
        cache_write_tokens=min(row.cache_write_tokens, _TOKENS_MAX),
    )
    if max(_bytes(row.output), _bytes(row.refusal)) <= output_bytes_max:
        return row
    # The same question would be answered at the same length again, and be paid for again.
    return replace(
        row,
        outcome=Outcome.ERROR,
        reason=Reason.OVERSIZED,
        error_code="answer_too_large",
        output=None,
        refusal=None,
    )


def _word(text: str | None) -> str | None:
    return None if text is None else text[:_WORD_CHARS_MAX]


def _bytes(text: str | None) -> int:
    return len((text or "").encode("utf-8", "surrogatepass"))


def outcomes(
    view: StateView,
    chunk: Chunk,
    found: Sequence[tuple[Life, RowOutcome]],
    *,
    retry: RetrySpec,
    price: Price,
    now_ms: int,
    terminal: frozenset[Reason] = frozenset(),
) -> tuple[Chunk, list[Order]]:
    """Give these members the outcomes that their own rows say: the chunk's row, which counts them, and the orders.

    `terminal`: failures that end a member whatever its budgets.
    """
    orders: list[Order] = []
    counts = dict.fromkeys(Outcome, 0)
    spent = doubtful = 0
    for life, row in found:
        name = custom_id_of(chunk, life)
        assert row.custom_id == name, f"the row of another line was handed in for a member of {chunk.chunk_id}"
        nanos, price_id = price(row) if row.billed else (0, None)
        counts[row.outcome] += 1
        spent += nanos or 0
        # A call without a price was not free: of a budget it takes what was held for it.
        doubtful += -(-chunk.reserved_nanos // chunk.members) if nanos is None else 0
        result = _result(chunk, life, row, nanos, price_id, now_ms)
        orders += _outcome(view, life, row, result, retry, now_ms, terminal=row.reason in terminal)
    counted = _counted(chunk, counts, spent, now_ms)
    return replace(counted, doubtful_nanos=chunk.doubtful_nanos + doubtful), orders


def _outcome(
    view: StateView, life: Life, row: RowOutcome, result: Result, retry: RetrySpec, now_ms: int, *, terminal: bool
) -> list[Order]:
    charge = Charge(
        cost_nanos=result.cost_nanos,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        calls=1 if row.billed else 0,
    )
    said: list[Order] = [Emit(result, key=life_key(life))]
    if row.outcome is Outcome.SUCCEEDED:
        fact = Answered(sends=life.sends, output_sha256=_hash(row.output), charge=charge)
        return [Put(moved(life, fact, now_ms)), *said]
    reason = row.reason if row.reason is not None else Reason.PROVIDER_ERROR
    if terminal:
        after, did_move = carried(life, AttemptRefused(sends=life.sends, reason=reason, charge=charge), now_ms)
    else:
        after, did_move = after_attempt(life, life.sends, reason, charge, retry=retry, now_ms=now_ms)
    if not did_move:
        raise ImpossibleError(Impossible(life.request_id, life.status, row.outcome, "a member that is not processing"))
    if after.status is Status.FAILED_TERMINAL:
        return [Put(after), *said, obituary(after, stage=_STAGE, error=row.error_code or "", now_ms=now_ms)]
    after, ended = end_if_unwanted(view, after, stage=_STAGE, now_ms=now_ms)
    return [Put(after), *said, *ended]


def _result(chunk: Chunk, life: Life, row: RowOutcome, nanos: int | None, price_id: str | None, now_ms: int) -> Result:
    succeeded = row.outcome is Outcome.SUCCEEDED
    return Result(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        attempt=life.attempt,
        chunk_id=chunk.chunk_id,
        custom_id=row.custom_id,
        outcome=row.outcome,
        output=row.output,
        output_sha256=_hash(row.output) if succeeded else None,
        finish_reason=row.finish_reason,
        refusal=row.refusal,
        http_status=row.http_status,
        error_code=row.error_code,
        reason=row.reason,
        model=row.model,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        cache_write_tokens=row.cache_write_tokens,
        tier=chunk.mode,
        cost_nanos=nanos,
        price_id=price_id,
        answered_by="provider",
        received_at_ms=now_ms,
        route=life.route,
        logprob_mean=row.logprob_mean if succeeded else None,
    )


def _hash(output: str | None) -> str:
    """Of an answer without text (a refusal) too: it is an answer, and was paid for."""
    return sha256((output or "").encode("utf-8", "surrogatepass")).hexdigest()


def _counted(chunk: Chunk, counts: Mapping[Outcome, int], spent: int, now_ms: int) -> Chunk:
    return replace(
        chunk,
        succeeded=chunk.succeeded + counts[Outcome.SUCCEEDED],
        errored=chunk.errored + counts[Outcome.ERROR],
        expired=chunk.expired + counts[Outcome.EXPIRED],
        cancelled=chunk.cancelled + counts[Outcome.CANCELLED],
        missing=chunk.missing + counts[Outcome.MISSING],
        cost_nanos=chunk.cost_nanos + spent,
        updated_at_ms=now_ms,
    )
