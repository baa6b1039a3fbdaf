"""What a provider says of its rates in the headers of any answer: how much a minute allows, and how much is left.

What lives here: the header names of the two families and nothing else. What must not: what to do about it (`pacing`).
Headers may be missing, and a service may send words instead of numbers: what cannot be read was not said.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Allowance", "Rates", "rates_in"]

#: (limit, remaining) of requests and of tokens, the family that is found first counts
_REQUESTS = (
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
    ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"),
)
_TOKENS = (
    ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"),
    ("anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining"),
    ("anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining"),
)


@dataclass(frozen=True, slots=True)
class Allowance:
    """One rate of the account: what a minute allows, and what was left of it when the call came in."""

    per_minute: float
    remaining: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What one answer says; None: nothing."""

    requests: Allowance | None
    tokens: Allowance | None


def rates_in(headers: Mapping[str, str]) -> Rates:
    """Read the rates off an answer's headers, whose names are found in any case."""
    return Rates(_first(headers, _REQUESTS), _first(headers, _TOKENS))


def _first(headers: Mapping[str, str], names: tuple[tuple[str, str], ...]) -> Allowance | None:
    for limit, remaining in names:
        if limit in headers:
            per_minute, left = _number(headers.get(limit)), _number(headers.get(remaining))
            return None if per_minute is None or left is None or per_minute < 1 else Allowance(per_minute, left)
    return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
