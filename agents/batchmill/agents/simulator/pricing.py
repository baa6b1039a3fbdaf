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

    def __post_init__(self) -> None:
        if self.input_nanos < 0 or self.output_nanos < 0:
            raise ValueError("a price per token is a whole number of nano-dollars, zero or more")

    def divides_at(self, percent: int) -> bool:
        return self.input_nanos * percent % 100 == 0 and self.output_nanos * percent % 100 == 0


def cost_nanos(price: Price, *, input_tokens: int, output_tokens: int, percent: int) -> int:
    """What one answered row costs; `percent` of the list price is what a batch pays (50)."""
    return (input_tokens * price.input_nanos + output_tokens * price.output_nanos) * percent // 100


def tokens_of_chars(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


FALLBACK_PRICE: Final = Price(input_nanos=150, output_nanos=600)
DEFAULT_PRICES: Final[Mapping[str, Price]] = MappingProxyType(
    {
        "gpt-4.1-mini": Price(input_nanos=400, output_nanos=1_600),
        "gpt-4.1-nano": Price(input_nanos=100, output_nanos=400),
        "gpt-4o": Price(input_nanos=2_500, output_nanos=10_000),
        "gpt-4o-mini": Price(input_nanos=150, output_nanos=600),
        "gpt-5-mini": Price(input_nanos=250, output_nanos=2_000),
        "gpt-5-nano": Price(input_nanos=50, output_nanos=400),
    }
)
