"""The list that the package genai-prices carries, as of one day; its own updating over the network is never used.

Taken are the rates by the token: input, output, reading and writing the cache, their steps by the length of the prompt,
and the variant for batch processing where it has one. A price that depends on the hour of the day is left out in favour
of the one without such a condition: what is frozen must not be a night's discount. Importing the data takes half a
second, so it happens on first use.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

from batchmill.streams.costing import Price, price_of, undated

__all__ = ["BundledPrices", "day_of"]

_KINDS: Final = {
    "input": "input_mtok",
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "output": "output_mtok",
}
#: our kinds of providers -> theirs; a server of one's own has no list price
_PROVIDERS: Final = {
    "openai": "openai",
    "azure": "azure",
    "anthropic": "anthropic",
    "gemini": "google",
    "mistral": "mistral",
    "bedrock": "aws",
}
_BATCH: Final = {"processing": "batch"}


class BundledPrices:
    """What `genai-prices` knows of the day `at_ms`."""

    def __init__(self, at_ms: int) -> None:
        self._day = day_of(at_ms)
        self.source = f"genai-prices {version('genai-prices')}"
        self.as_of = self._day.isoformat()
        self.id = f"{self.source.replace(' ', '-')}@{self.as_of}"
        self._found: dict[str, Price | None] = {}

    def of(self, model: str) -> Price | None:
        """By the model's name alone, at the provider whose name it looks like."""
        if model not in self._found:
            providers = [each for each in self._providers if each.model_match and each.model_match.is_match(model)]
            self._found[model] = self._priced(providers[0], model) if providers else None
        return self._found[model]

    def offered(self, provider: str, model: str) -> dict[str, Price]:
        """The price of `model` at a kind of provider, and of its dated releases that are sold for another price."""
        named = _PROVIDERS.get(provider)
        seller = next((each for each in self._providers if each.id == named), None)
        if seller is None:
            return {}
        names = [model, *sorted(set(self._dated(seller, model)))]
        found = {name: price for name in names if (price := self._priced(seller, name)) is not None}
        usual = found.get(model)
        return {name: price for name, price in found.items() if name == model or price != usual}

    def listed(self) -> dict[str, Price]:
        """Every model of the providers that a job can name, by provider/model."""
        found = {}
        for kind, named in _PROVIDERS.items():
            for seller in self._providers:
                for model in seller.models if seller.id == named else ():
                    price = _price(model, self._day)
                    # an id that its own rule does not match cannot be asked for
                    if price is not None and model.is_match(model.id):
                        found[f"{kind}/{model.id}"] = price
        return found

    @cached_property
    def _providers(self) -> list[Any]:
        from genai_prices.data import providers  # noqa: PLC0415  heavy: see the head of this module

        return providers

    def _priced(self, seller: Any, name: str) -> Price | None:
        model = seller.find_model(name, all_providers=self._providers)
        return None if model is None else _price(model, self._day)

    def _dated(self, seller: Any, name: str) -> Iterator[str]:
        """Names the seller's list knows that differ from `name` by the date of the release only."""
        for model in seller.models:
            for known in (model.id, *_literals(model.match)):
                if known != name and undated(known) == name:
                    yield known


def day_of(at_ms: int) -> date:
    """The day in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()


def _literals(clause: Any) -> Iterator[str]:
    """The names that a matching rule spells out."""
    if hasattr(clause, "equals"):
        yield clause.equals
    for inner in getattr(clause, "or_", ()):
        yield from _literals(inner)


def _price(model: Any, day: date) -> Price | None:
    standard = _standard(model.prices, day)
    if standard is None or getattr(standard, _KINDS["input"]) is None:
        return None
    batch = _batch(model, day)
    starts = sorted({start for prices in (standard, batch) for start in _starts(prices)})
    entry = _level(standard, batch, 0)
    if starts:
        # A tier begins above its start, so the level of a start is that of one more token.
        entry["above"] = {str(start): _level(standard, batch, start + 1) for start in starts}
    return price_of(model.id, entry)


def _standard(prices: Any, day: date) -> Any:
    """The newest price that is in force whatever the hour."""
    if not isinstance(prices, list):
        return prices
    active = [each.prices for each in prices if _in_force(each.constraint, day)]
    return active[-1] if active else None


def _in_force(constraint: Any, day: date) -> bool:
    if constraint is None:
        return True
    begins = getattr(constraint, "start_date", None)
    return begins is not None and begins <= day


def _batch(model: Any, day: date) -> dict[str, Any]:
    """What batch processing changes, by their names of rates; empty: the list says nothing about it."""
    told: dict[str, Any] = {}
    for variant in model.price_variants or ():
        if variant.when == _BATCH and _in_force(variant.constraint, day):
            for name in _KINDS.values():
                rate = getattr(variant.prices, name)
                if rate is not None:
                    told.setdefault(name, rate)
    return told


def _starts(prices: Any) -> Iterator[int]:
    for name in _KINDS.values():
        rate = prices.get(name) if isinstance(prices, dict) else getattr(prices, name)
        for tier in getattr(rate, "tiers", ()):
            yield tier.start


def _level(standard: Any, batch: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The rates for a prompt of so many tokens. A batch variant that leaves a kind out leaves it at the full price."""
    entry: dict[str, Any] = {kind: _at(getattr(standard, name), tokens) for kind, name in _KINDS.items()}
    if batch:
        entry["batch"] = {
            kind: _at(batch[name] if name in batch else getattr(standard, name), tokens)
            for kind, name in _KINDS.items()
            if name in batch or getattr(standard, name) is not None
        }
    return entry


def _at(rate: Any, tokens: int) -> str | None:
    """Dollars a million tokens."""
    if rate is None:
        return None
    dollars = getattr(rate, "base", rate)
    for tier in getattr(rate, "tiers", ()):
        if tokens > tier.start:
            dollars = tier.price
    return str(dollars)
