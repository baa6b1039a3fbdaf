"""Choosing a price list and taking a job's prices out of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import orjson

from batchmill.agents import clock
from batchmill.agents.prices.bundled import BundledPrices, day_of
from batchmill.agents.prices.litellm import entries, is_litellm
from batchmill.agents.settings import SettingsError, env_name
from batchmill.schemas.jobs import JobSpec
from batchmill.streams.capabilities import PROVIDERS
from batchmill.streams.costing import (
    Price,
    PriceError,
    PriceList,
    Prices,
    frozen,
    parse_prices,
    prices_of,
    undated,
    write_prices,
)
from batchmill.streams.routing import models_of

__all__ = ["PriceSource", "freeze", "load_prices", "parse_list", "prices_for", "with_prices"]

#: far above any list; a file beyond it is not one
_FILE_BYTES_MAX: Final = 64 * 2**20
#: what LiteLLM puts before the names of models that several providers sell
_PREFIXES: Final = {"azure": "azure", "gemini": "gemini", "mistral": "mistral", "anthropic": "anthropic"}


class PriceSource(PriceList, Protocol):
    """A price list that can say where it comes from, and which of its prices a job would pay."""

    @property
    def source(self) -> str:
        """For people: whose list."""
        ...

    @property
    def as_of(self) -> str:
        """The day its prices are of."""
        ...

    def offered(self, provider: str, model: str) -> dict[str, Price]:
        """The price of `model` at a kind of provider, and of its dated releases that are sold for another price."""
        ...

    def listed(self) -> dict[str, Price]:
        """All that it has."""
        ...


@dataclass(frozen=True, slots=True)
class ListedPrices:
    """A list out of a file. A name may carry its provider: `azure/gpt-4o`; that one is looked for first."""

    prices: Prices
    source: str
    as_of: str

    @property
    def id(self) -> str:
        return self.prices.id

    def of(self, model: str) -> Price | None:
        return self.prices.of(model)

    def offered(self, provider: str, model: str) -> dict[str, Price]:
        prefixed = f"{_PREFIXES.get(provider, provider)}/{model}"
        name = prefixed if self.prices.of(prefixed) is not None else model
        usual = self.prices.of(name)
        if usual is None:
            return {}
        dated = {
            model + known.removeprefix(name): price
            for known, price in self.prices.models.items()
            if known != name and undated(known) == name and price != usual
        }
        return {model: usual, **dated}

    def listed(self) -> dict[str, Price]:
        return dict(self.prices.models)


def load_prices(path: Path | None) -> PriceSource:
    """The list of the settings; one that cannot be read stops the process before it spends."""
    if path is None:
        return BundledPrices(clock.wall_ms())
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
        return parse_list(text, source=path.name, as_of=day_of(clock.wall_ms()).isoformat())
    except (OSError, PriceError) as error:
        raise SettingsError(f"price list {path}: {error} ({env_name('prices_file')} names it)") from None


def parse_list(text: bytes, *, source: str, as_of: str) -> ListedPrices:
    """A list in our own form or in LiteLLM's, told apart by what is in it."""
    if len(text) > _FILE_BYTES_MAX:
        raise PriceError(f"it is larger than {_FILE_BYTES_MAX} bytes")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise PriceError("it is no JSON") from None
    if is_litellm(document):
        return ListedPrices(prices_of(entries(document)), f"{source} (LiteLLM's form)", as_of)
    prices = parse_prices(text)
    return ListedPrices(prices, prices.source or source, prices.as_of or as_of)


def freeze(prices: PriceSource, *, provider: str, model: str) -> Prices:
    """The prices a job on `model` is costed by from now on; no model in it: it is unpriced, and stays so.

    What a batch costs where the list does not say is taken from the table of providers, and frozen with the rest.
    """
    facts = PROVIDERS.get(provider)
    percent = None if facts is None else facts.can.batch_percent
    found = {
        name: price if price.batch_percent is not None else replace(price, batch_percent=percent)
        for name, price in prices.offered(provider, model).items()
    }
    return frozen(found, source=prices.source, as_of=prices.as_of)


def prices_for(spec: JobSpec, source: PriceSource) -> Prices:
    """The prices that the job would be costed by if it were applied now: those of every model it may ask."""
    asked = models_of(spec.ask).values()
    lists = [freeze(source, provider=model.provider, model=model.name) for model in asked]
    found = {name: price for each in lists for name, price in each.models.items()}
    return frozen(found, source=source.source, as_of=source.as_of)


def with_prices(spec: JobSpec, prices: Prices) -> JobSpec:
    """The job as it is applied: with its prices."""
    return replace(spec, prices_json=write_prices(prices))
