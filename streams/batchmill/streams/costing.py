"""What a call costs: whole nano-dollars from what the provider says it used, at prices frozen beforehand.

Prices are per million tokens, so that they are integers too; the product is divided once, at the end, and rounded half
up to a nano-dollar (a call is off by at most half of one). A model without a price makes the cost None: unpriced, to be
counted as such, never 0.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from batchmill.streams.ports import RowOutcome

__all__ = [
    "BYTES_PER_TOKEN",
    "TIERS",
    "Bill",
    "Price",
    "PriceError",
    "Prices",
    "Ratio",
    "Usage",
    "cost_nanos",
    "estimate_tokens",
    "parse_prices",
    "priced",
    "total",
    "worst_case_nanos",
]

#: English prose in today's vocabularies; a budget needs the order of magnitude only
BYTES_PER_TOKEN = 4

_NANOS_PER_DOLLAR = 10**9
_TOKENS_PER_MILLION = 10**6
#: `gpt-5-mini-2025-08-07`, `claude-haiku-4-5-20251001`: a dated name is priced as its undated one
_DATE_SUFFIX = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8})\Z")


class PriceError(ValueError):
    """The price list cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """An exact fraction of the list price."""

    of: int
    per: int


#: by chunk mode: every provider with a batch API sells it at half price
TIERS: Mapping[str, Ratio] = {"batch": Ratio(1, 2), "online": Ratio(1, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Nano-dollars per million tokens of one model, at the full tier."""

    input_nanos: int
    cached_nanos: int
    output_nanos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as the provider counts them; `cached_tokens` are a part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """A frozen price list; `id` is a hash of its content and is stored with each cost."""

    id: str
    models: Mapping[str, Price]

    def of(self, model: str) -> Price | None:
        """The price of `model`, else that of its undated name, else None."""
        return self.models.get(model) or self.models.get(_DATE_SUFFIX.sub("", model))


def cost_nanos(prices: Prices, model: str, mode: str, usage: Usage) -> int | None:
    """What `usage` costs in nano-dollars, or None when model or tier has no price."""
    price, tier = prices.of(model), TIERS.get(mode)
    if price is None or tier is None:
        return None
    cached = min(usage.cached_tokens, usage.input_tokens)
    product = (
        (usage.input_tokens - cached) * price.input_nanos
        + cached * price.cached_nanos
        + usage.output_tokens * price.output_nanos
    )
    return _divided(product * tier.of, _TOKENS_PER_MILLION * tier.per)


def priced(prices: Prices, mode: str, asked_model: str, row: RowOutcome) -> tuple[int | None, str | None]:
    """(cost, price id) of one row a provider told us about; (0, None) when it says nothing was charged."""
    if not row.billed:
        return 0, None
    if not row.usage_known:
        return None, None
    usage = Usage(input_tokens=row.input_tokens, output_tokens=row.output_tokens, cached_tokens=row.cached_tokens)
    # the name in the answer is exact; gateways that rename models are priced by what was asked
    for model in (row.model, asked_model):
        cost = None if model is None else cost_nanos(prices, model, mode, usage)
        if cost is not None:
            return cost, prices.id
    return None, None


def worst_case_nanos(prices: Prices, model: str, mode: str, *, input_tokens: int, output_tokens_max: int) -> int | None:
    """The most a request can cost: nothing cached, all output used. For budgets, before anything is sent."""
    return cost_nanos(prices, model, mode, Usage(input_tokens=input_tokens, output_tokens=output_tokens_max))


def estimate_tokens(body_bytes: int) -> int:
    """Prompt tokens of a request body of that size; for limits, never for bills.

    Counted in UTF-8 bytes: scripts that need more tokens per character also need more bytes.
    """
    return -(-body_bytes // BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Bill:
    """A sum of costs that does not hide what could not be priced."""

    nanos: int
    unpriced_calls: int


def total(costs: Iterable[int | None]) -> Bill:
    """Add up priced costs and count the unpriced ones."""
    nanos = unpriced = 0
    for cost in costs:
        if cost is None:
            unpriced += 1
        else:
            nanos += cost
    return Bill(nanos, unpriced)


def parse_prices(text: str | bytes) -> Prices:
    """Read `{"models": {"gpt-5-mini": {"input": "0.25", "cached": "0.025", "output": "2"}}}`: dollars a million.

    Numbers are best written as strings; `cached` defaults to `input`.
    """
    try:
        listed = orjson.loads(text)["models"]
        models = {str(name): _price(name, entry) for name, entry in listed.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise PriceError('expected {"models": {name: {"input": dollars, "output": dollars}}}') from None
    frozen = {name: [p.input_nanos, p.cached_nanos, p.output_nanos] for name, p in models.items()}
    return Prices(hashlib.sha256(orjson.dumps(frozen, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16], models)


def _price(model: str, entry: Mapping[str, Any]) -> Price:
    missing = {"input", "output"} - set(entry)
    if missing:
        raise PriceError(f"price of {model}: {min(missing)!r} is missing")
    return Price(
        input_nanos=_nanos(model, entry["input"]),
        cached_nanos=_nanos(model, entry.get("cached", entry["input"])),
        output_nanos=_nanos(model, entry["output"]),
    )


def _nanos(model: str, dollars: Any) -> int:
    try:
        nanos = Decimal(str(dollars)) * _NANOS_PER_DOLLAR
        whole = int(nanos)
    except (InvalidOperation, ValueError, OverflowError):
        raise PriceError(f"price of {model}: {dollars!r} is not a number of dollars") from None
    if whole != nanos or whole < 0:
        raise PriceError(f"price of {model}: {dollars!r} is not a whole, non-negative number of nano-dollars")
    return whole


def _divided(product: int, by: int) -> int:
    """Rounded half up; both are never negative."""
    return (2 * product + by) // (2 * by)
