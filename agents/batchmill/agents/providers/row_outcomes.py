"""What a row of any provider comes to: an answer, a failure, one that never ran, one whose line is damaged.

What lives here: making outcomes of what a provider's own module has read, and decoding a line. What must not: any
provider's words, or judging an answer.
"""

from dataclasses import dataclass, replace
from typing import Any

import orjson

from batchmill.agents.providers.loose import mapping
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import RowOutcome

__all__ = ["Usage", "answered", "failed", "finite", "loaded", "mean_of", "never_ran", "spoilt"]

#: OpenAI writes -9999.0 for a token that was most unlikely
_LOGPROB_MAX = 100_000
#: Why a row never ran: unbilled, and no fault of its own.
_NEVER_RAN = {Outcome.EXPIRED: Reason.EXPIRED, Outcome.CANCELLED: Reason.PROVIDER_CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    known: bool
    input_tokens: int = 0  #: all of them, those read from a cache and written to it too
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0


def loaded(line: bytes) -> tuple[dict[str, Any], bool]:
    """Decode a line; bytes that are not UTF-8 are replaced, because the row was paid for and must be told apart."""
    damaged = False
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        decoded = line.decode("utf-8", errors="replace")
        damaged = "\N{REPLACEMENT CHARACTER}" in decoded
        try:
            row = orjson.loads(decoded)
        except orjson.JSONDecodeError:
            return {}, True
    return mapping(row), damaged


def answered(
    custom_id: str,
    output: str,
    *,
    usage: Usage,
    finish_reason: str | None,
    refusal: str | None,
    http_status: int | None,
    model: str | None,
    logprob_mean: float | None = None,
) -> RowOutcome:
    return RowOutcome(
        custom_id=custom_id,
        outcome=Outcome.SUCCEEDED,
        reason=None,
        output=output,
        finish_reason=finish_reason,
        refusal=refusal,
        http_status=http_status,
        model=model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        usage_known=usage.known,
        logprob_mean=logprob_mean,
    )


def failed(
    custom_id: str, reason: Reason, code: str, *, http_status: int | None, usage: Usage, billed: bool
) -> RowOutcome:
    return RowOutcome(
        custom_id=custom_id,
        outcome=Outcome.ERROR,
        reason=reason,
        http_status=http_status,
        error_code=code,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        usage_known=usage.known or not billed,
        billed=billed,
    )


def mean_of(tokens: list[Any]) -> float | None:
    """The mean log-probability of these tokens; None unless each says one: a part of them would mean another answer."""
    told = [finite(mapping(token).get("logprob")) for token in tokens]
    known = [each for each in told if each is not None]
    return sum(known) / len(known) if known and len(known) == len(told) else None


def finite(value: Any) -> float | None:
    """A log-probability that a provider told, as far as it is a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= _LOGPROB_MAX else None


def never_ran(custom_id: str, code: str, outcome: Outcome) -> RowOutcome:
    return RowOutcome(custom_id=custom_id, outcome=outcome, reason=_NEVER_RAN[outcome], error_code=code, billed=False)


def spoilt(row: RowOutcome) -> RowOutcome:
    """Keep what a damaged line cost; its text cannot be trusted."""
    if row.outcome is not Outcome.SUCCEEDED:
        return row
    return replace(
        row,
        outcome=Outcome.ERROR,
        reason=Reason.PROVIDER_ERROR,
        error_code="line_not_utf8",
        output=None,
        finish_reason=None,
        refusal=None,
        model=None,
        logprob_mean=None,
    )
