"""Law: money is whole nano-dollars (1e-9 USD). No float, no rounding: a price that would not divide is refused.

One nano-dollar per token is one thousandth of a dollar per million tokens, so published prices are whole numbers here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_PRICES", "FALLBACK_PRICE", "LIST_PERCENT", "Price", "cost_nanos", "tokens_of_chars"]

CHARS_PER_TOKEN: Final = 4
LIST_PERCENT: Final = 100  # what a single call pays; a batch pays less


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """List price per token, before the batch discount."""

    input_nanos: int
    output_nanos: int
    cached_nanos: int | None = None  # of input read from the prompt cache; None: as other input
    cache_write_nanos: int | None = None  # of input written to it; None: as other input

    def __post_init__(self) -> None:
        if min(self._all) < 0:
            raise ValueError("a price per token is a whole number of nano-dollars, zero or more")

    def divides_at(self, percent: int) -> bool:
        return all(nanos * percent % 100 == 0 for nanos in self._all)

    @property
    def cached(self) -> int:
        return self.input_nanos if self.cached_nanos is None else self.cached_nanos

    @property
    def cache_write(self) -> int:
        return self.input_nanos if self.cache_write_nanos is None else self.cache_write_nanos

    @property
    def _all(self) -> tuple[int, ...]:
        return self.input_nanos, self.output_nanos, self.cached, self.cache_write


def cost_nanos(
    price: Price,
    *,
    input_tokens: int,
    output_tokens: int,
    percent: int,
    cached_tokens: int = 0,
    cache_write_tokens: int = 0,
) -> int:
    """What one answer costs; `percent` of the list price is what a batch pays (50). Cached tokens are part of input."""
    fresh = input_tokens - cached_tokens - cache_write_tokens
    listed = fresh * price.input_nanos + cached_tokens * price.cached + cache_write_tokens * price.cache_write
    return (listed + output_tokens * price.output_nanos) * percent // 100


def tokens_of_chars(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


FALLBACK_PRICE: Final = Price(input_nanos=150, output_nanos=600)
DEFAULT_PRICES: Final[Mapping[str, Price]] = MappingProxyType(
    {
        "claude-haiku-4-5": Price(input_nanos=1_000, output_nanos=5_000, cached_nanos=100, cache_write_nanos=1_250),
        "claude-sonnet-4-5": Price(input_nanos=3_000, output_nanos=15_000, cached_nanos=300, cache_write_nanos=3_750),
        "gemini-2.5-flash": Price(input_nanos=300, output_nanos=2_500),
        "gemini-2.5-flash-lite": Price(input_nanos=100, output_nanos=400),
        "gemini-2.5-pro": Price(input_nanos=1_250, output_nanos=10_000),
        # Only where half of the cached price is a whole number too; for the others cached input costs as other input.
        "gpt-4.1-mini": Price(input_nanos=400, output_nanos=1_600, cached_nanos=100),
        "gpt-4.1-nano": Price(input_nanos=100, output_nanos=400),
        "gpt-4o": Price(input_nanos=2_500, output_nanos=10_000, cached_nanos=1_250),
        "gpt-4o-mini": Price(input_nanos=150, output_nanos=600),
        "gpt-5-mini": Price(input_nanos=250, output_nanos=2_000),
        "gpt-5-nano": Price(input_nanos=50, output_nanos=400),
        "ministral-8b-latest": Price(input_nanos=150, output_nanos=150),
        "mistral-embed": Price(input_nanos=100, output_nanos=0),
        "mistral-large-latest": Price(input_nanos=2_000, output_nanos=6_000),
        "mistral-medium-latest": Price(input_nanos=1_500, output_nanos=7_500),
        "mistral-small-latest": Price(input_nanos=150, output_nanos=600),
        "text-embedding-3-large": Price(input_nanos=130, output_nanos=0),
        "text-embedding-3-small": Price(input_nanos=20, output_nanos=0),
    }
)
