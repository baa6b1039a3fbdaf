"""What a call costs: whole nano-dollars from what the provider says it used, at prices frozen beforehand.

A price is a whole number of quecto-dollars (10^-30 dollars) a token, fine enough for every published one and for the
17 digits of any float a list was written with; so all is integer arithmetic, and the one rounding of a call, half up to
a nano-dollar, comes at the end (a call is off by at most half of one). A model without a price makes the cost None:
unpriced, to be counted as such, never 0.

`parse_prices` reads the one format prices are written and frozen in; lists of other makers are turned into its entries
(`agents.prices`).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

import orjson

from batchmill.streams.ports import RowOutcome

__all__ = [
    "BATCH_PERCENT",
    "BYTES_PER_TOKEN",
    "KINDS",
    "OUTPUT_TOKENS_ASSUMED",
    "TIERS",
    "Band",
    "Bill",
    "Expectation",
    "Price",
    "PriceError",
    "PriceList",
    "Prices",
    "Rate",
    "Usage",
    "brief",
    "cost_nanos",
    "dollars_per_million",
    "entry_of",
    "estimate_tokens",
    "expected_nanos",
    "frozen",
    "parse_prices",
    "price_of",
    "priced",
    "prices_of",
    "together_nanos",
    "total",
    "undated",
    "worst_case_nanos",
    "write_prices",
]

#: English prose in today's vocabularies; a budget needs the order of magnitude only (docs/costs.md says how far off)
BYTES_PER_TOKEN: Final = 4
#: by chunk mode; the tier is stored with each cost
TIERS: Final = ("batch", "online")
#: of the online price, where neither the list nor the provider's row says what a batch costs
BATCH_PERCENT: Final = 50
#: kinds of tokens that are priced; `cached` and `cache_write` are parts of the input
KINDS: Final = ("input", "cached", "cache_write", "output")
#: the room of one answer, where the job sets no limit: for expectations, never for a budget
OUTPUT_TOKENS_ASSUMED: Final = 4_096

#: an answer is expected to use a quarter of the room it is given: limits are set for the longest
_EXPECTED_ROOM_SHARE: Final = 4

_PERCENT: Final = 100
_QUECTOS_PER_NANO: Final = 10**21
#: dollars a million tokens -> quecto-dollars a token
_QUECTOS_PER_LISTED_DOLLAR: Final = 10**24
_DECIMALS_MAX: Final = 24
#: dollars a million tokens are below 10^9: a larger number is a mistake, or meant to exhaust the reader
_DIGITS_MAX: Final = 9
_TOKENS_MAX: Final = 10**9
_MODELS_MAX: Final = 100_000
_ENTRY_MEMBERS: Final = frozenset({*KINDS, "batch", "batch_percent", "above", "note"})
_BAND_MEMBERS: Final = frozenset({*KINDS, "batch"})
#: `gpt-5-mini-2025-08-07`, `claude-haiku-4-5-20251001`: a dated name is priced as its undated one
_DATE_SUFFIX: Final = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8})\Z")


class PriceError(ValueError):
    """The price list cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One kind of token, in quecto-dollars each."""

    online: int
    batch: int | None = None  #: None: the price's percentage of `online`


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The rates of calls whose prompt is longer than `above_tokens`; they hold for all tokens of such a call."""

    above_tokens: int
    input: Rate
    cached: Rate
    cache_write: Rate
    output: Rate | None  #: None: the model sells no output (embeddings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One model: bands by the length of the prompt, the first from 0 tokens on, ascending."""

    bands: tuple[Band, ...]
    batch_percent: int | None = None  #: of the online rate, for rates without one of their own

    def band(self, input_tokens: int) -> Band:
        """The last one the prompt is long enough for."""
        return next((band for band in reversed(self.bands) if input_tokens > band.above_tokens), self.bands[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as the provider counts them; `cached_tokens` and `cache_write_tokens` are parts of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class PriceList(Protocol):
    """Whatever knows the prices of models by name."""

    @property
    def id(self) -> str:
        """Names the list; stored with each cost that was taken from it."""
        ...

    def of(self, model: str) -> Price | None:
        """The price of `model`, else that of its undated name, else None."""
        ...


@dataclass(frozen=True, slots=True)
class Prices:
    """A frozen price list; `id` is a hash of its content and is stored with each cost."""

    id: str
    models: Mapping[str, Price]
    source: str = ""  #: whose list it was taken from
    as_of: str = ""  #: the day it was taken

    def of(self, model: str) -> Price | None:
        """The price of `model`, else that of its undated name, else None."""
        return self.models.get(model) or self.models.get(undated(model))


def undated(model: str) -> str:
    """The model's name without the date of its release."""
    return _DATE_SUFFIX.sub("", model)


# -- what a call costs -------------------------------------------------------------------------------------------------


def cost_nanos(prices: PriceList, model: str, mode: str, usage: Usage) -> int | None:
    """What `usage` costs in nano-dollars, or None when model, tier or output has no price."""
    price = prices.of(model)
    if price is None or mode not in TIERS:
        return None
    band = price.band(usage.input_tokens)
    cached = min(usage.cached_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    fresh = usage.input_tokens - cached - written
    told = [(fresh, band.input), (cached, band.cached), (written, band.cache_write)]
    if usage.output_tokens:
        if band.output is None:
            return None
        told.append((usage.output_tokens, band.output))
    product = sum(tokens * _hundredths(price, rate, mode) for tokens, rate in told)
    return _divided(product, _PERCENT * _QUECTOS_PER_NANO)


def together_nanos(prices: PriceList, model: str, mode: str, usage: Usage) -> int | None:
    """What many calls cost together, whose usage is known as a sum only.

    None too where the price of each depends on the length of its own prompt, and some may be that long.
    """
    price = prices.of(model)
    if price is not None and price.band(usage.input_tokens) is not price.bands[0]:
        return None
    return cost_nanos(prices, model, mode, usage)


def priced(prices: PriceList, mode: str, asked_model: str, row: RowOutcome) -> tuple[int | None, str | None]:
    """(cost, price id) of one row a provider told us about; (0, None) when it says nothing was charged."""
    if not row.billed:
        return 0, None
    if not row.usage_known:
        return None, None
    usage = Usage(
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        cache_write_tokens=row.cache_write_tokens,
    )
    # the name in the answer is exact; gateways that rename models are priced by what was asked
    for model in (row.model, asked_model):
        cost = None if model is None else cost_nanos(prices, model, mode, usage)
        if cost is not None:
            return cost, prices.id
    return None, None


def _hundredths(price: Price, rate: Rate, mode: str) -> int:
    """Hundredths of a quecto-dollar a token, so that a percentage of a rate is whole too."""
    if mode == "online":
        return rate.online * _PERCENT
    if rate.batch is not None:
        return rate.batch * _PERCENT
    return rate.online * (BATCH_PERCENT if price.batch_percent is None else price.batch_percent)


def _divided(product: int, by: int) -> int:
    """Rounded half up; both are never negative."""
    return (2 * product + by) // (2 * by)


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


# -- what a call may cost ----------------------------------------------------------------------------------------------


def worst_case_nanos(
    prices: PriceList, model: str, mode: str, *, input_tokens: int, output_tokens_max: int
) -> int | None:
    """The most a request can cost: all input at its dearest rate, all output used. For budgets, before it is sent."""
    inputs = (
        Usage(input_tokens=input_tokens, output_tokens=output_tokens_max, cached_tokens=cached, cache_write_tokens=new)
        for cached, new in ((0, 0), (input_tokens, 0), (0, input_tokens))
    )
    costs = [cost_nanos(prices, model, mode, usage) for usage in inputs]
    known = [cost for cost in costs if cost is not None]
    return max(known) if known else None


def expected_nanos(
    prices: PriceList, model: str, mode: str, *, input_tokens: int, output_tokens_max: int | None
) -> int | None:
    """What a request is expected to cost: nothing cached, a quarter of the answer's limit used."""
    room = OUTPUT_TOKENS_ASSUMED if output_tokens_max is None else output_tokens_max
    usage = Usage(input_tokens=input_tokens, output_tokens=-(-room // _EXPECTED_ROOM_SHARE))
    return cost_nanos(prices, model, mode, usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the members of a lane are expected to cost, at the job's prices. What is unpriced counts as 0."""

    prices: PriceList
    model: str
    output_tokens_max: Mapping[str, int | None]  #: by route

    def expected(self, mode: str, route: str, input_tokens: int) -> int:
        room = self.output_tokens_max[route]
        nanos = expected_nanos(self.prices, self.model, mode, input_tokens=input_tokens, output_tokens_max=room)
        return nanos or 0


def estimate_tokens(body_bytes: int) -> int:
    """Prompt tokens of a request body of that size; for limits, never for bills.

    Counted in UTF-8 bytes: scripts that need more tokens per character also need more bytes.
    """
    return -(-body_bytes // BYTES_PER_TOKEN)


# -- price lists as text -----------------------------------------------------------------------------------------------


def parse_prices(text: str | bytes) -> Prices:
    """Read `{"models": {"gpt-5-mini": {"input": "0.25", "cached": "0.025", "output": "2"}}}`: dollars a million.

    Numbers are best written as strings. `cached` and `cache_write` default to `input`; `batch` holds the rates of the
    batch tier, kind by kind, `batch_percent` what the others are of the online ones; `above` holds, by a number of
    prompt tokens, the rates of calls with longer prompts. `output` may be null for a model that sells none.
    """
    try:
        document = orjson.loads(text)
        listed = dict(document["models"].items())
        told = str(document.get("source", "")), str(document.get("as_of", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise PriceError('expected {"models": {name: {"input": dollars, "output": dollars}}}') from None
    return prices_of(listed, source=told[0], as_of=told[1])


def prices_of(listed: Mapping[str, Any], *, source: str = "", as_of: str = "") -> Prices:
    """A list from its entries, as `parse_prices` describes them."""
    if len(listed) > _MODELS_MAX:
        raise PriceError(f"{len(listed)} models are more than the {_MODELS_MAX} a list may have")
    return frozen({str(name): price_of(name, entry) for name, entry in listed.items()}, source=source, as_of=as_of)


def frozen(models: Mapping[str, Price], *, source: str = "", as_of: str = "") -> Prices:
    """A list of these prices. Its id is theirs alone: the same prices from elsewhere, or later, are the same list."""
    entries = {name: entry_of(price) for name, price in models.items()}
    digest = hashlib.sha256(orjson.dumps(entries, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Prices(digest[:16], dict(models), source, as_of)


def write_prices(prices: Prices) -> str:
    """The text `parse_prices` reads back into the very same list."""
    models = {name: entry_of(price) for name, price in prices.models.items()}
    document = {"source": prices.source, "as_of": prices.as_of, "models": models}
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


def entry_of(price: Price) -> dict[str, Any]:
    """A price as an entry of a list: every rate said, in dollars a million tokens."""
    first, *longer = price.bands
    entry = _band_entry(first)
    if price.batch_percent is not None:
        entry["batch_percent"] = price.batch_percent
    if longer:
        entry["above"] = {str(band.above_tokens): _band_entry(band) for band in longer}
    return entry


def dollars_per_million(price: Price, rate: Rate, tier: str) -> str:
    """A rate in a tier as lists print it, exactly: `0.25`."""
    return _dollars(_hundredths(price, rate, tier), _DECIMALS_MAX + 2)


def brief(price: Price) -> str:
    """A price on one line, as people read it."""
    first, *longer = price.bands
    sold = [
        f"{kind} {' / '.join('$' + dollars_per_million(price, rate, tier) for tier in reversed(TIERS))}"
        for kind, rate in (("input", first.input), ("cached", first.cached), ("output", first.output))
        if rate is not None
    ]
    steps = "".join(f"; dearer above {band.above_tokens:,} prompt tokens" for band in longer[:1])
    return f"{', '.join(sold)} a million tokens online / batch{steps}"


def _dollars(amount: int, decimals: int = _DECIMALS_MAX) -> str:
    whole, rest = divmod(amount, 10**decimals)
    return f"{whole}.{rest:0{decimals}d}".rstrip("0").rstrip(".")


def _band_entry(band: Band) -> dict[str, Any]:
    rates: dict[str, Rate | None] = {kind: getattr(band, kind) for kind in KINDS}
    entry: dict[str, Any] = {kind: None if rate is None else _dollars(rate.online) for kind, rate in rates.items()}
    batch = {kind: _dollars(rate.batch) for kind, rate in rates.items() if rate is not None and rate.batch is not None}
    return entry | ({"batch": batch} if batch else {})


def price_of(model: str, entry: Any) -> Price:
    """One entry of a list; PriceError names the model and what is wrong."""
    where = f"price of {model}"
    _check_members(where, entry, _ENTRY_MEMBERS)
    missing = {"input", "output"} - set(entry)
    if missing:
        raise PriceError(f"{where}: {min(missing)!r} is missing")
    above = entry.get("above", {})
    if not isinstance(above, Mapping):
        raise PriceError(f"{where}: 'above' must hold rates by a number of tokens")
    base = _rates(where, entry)
    bands = [_band(where, 0, base, base)]
    for tokens, told in sorted(((_tokens(where, text), told) for text, told in above.items()), key=itemgetter(0)):
        _check_members(where, told, _BAND_MEMBERS)
        bands.append(_band(where, tokens, _rates(where, told), base))
    return Price(bands=tuple(bands), batch_percent=_percent(where, entry.get("batch_percent")))


def _check_members(where: str, told: Any, known: frozenset[str]) -> None:
    """A misspelt rate would be a wrong price, so nothing unknown is passed over."""
    if not isinstance(told, Mapping):
        raise PriceError(f"{where}: expected an object of rates")
    unknown = sorted(str(name) for name in set(told) - known)
    if unknown:
        raise PriceError(f"{where}: {unknown[0]!r} is not known; known are {', '.join(sorted(known))}")


class _Said(NamedTuple):
    """What an entry says of one kind of token."""

    online: int | None
    batch: int | None


def _rates(where: str, told: Mapping[str, Any]) -> dict[str, _Said]:
    batch = told.get("batch", {})
    _check_members(f"{where}, batch", batch, frozenset(KINDS))
    said = {kind: _Said(_quectos(where, told.get(kind)), _quectos(where, batch.get(kind))) for kind in KINDS}
    return {kind: rates for kind, rates in said.items() if rates != (None, None)}


def _band(where: str, above: int, said: Mapping[str, _Said], base: Mapping[str, _Said]) -> Band:
    """Kinds that the band does not mention cost what they cost below it, else what input costs in it."""
    first = _rate(said, base, "input", None)
    if first is None:
        raise PriceError(f"{where}: 'input' must be a number of dollars")
    return Band(
        above_tokens=above,
        input=first,
        cached=_rate(said, base, "cached", first) or first,
        cache_write=_rate(said, base, "cache_write", first) or first,
        output=_rate(said, base, "output", None),
    )


def _rate(said: Mapping[str, _Said], base: Mapping[str, _Said], kind: str, default: Rate | None) -> Rate | None:
    below = base.get(kind, _Said(None, None))
    own = said.get(kind, below)
    online = own.online if own.online is not None else below.online
    if online is None and default is not None and own.batch is not None:
        online = default.online
    return None if online is None else Rate(online, own.batch)


def _tokens(where: str, text: Any) -> int:
    digits = str(text)
    if not (digits.isascii() and digits.isdigit()) or not 0 < int(digits[: _DIGITS_MAX + 2]) <= _TOKENS_MAX:
        raise PriceError(f"{where}: {digits[:20]!r} is not a number of tokens from 1 to {_TOKENS_MAX}")
    return int(digits)


def _percent(where: str, told: Any) -> int | None:
    if told is None:
        return None
    if not isinstance(told, int) or isinstance(told, bool) or not 0 <= told <= _PERCENT:
        raise PriceError(f"{where}: 'batch_percent' must be a whole number from 0 to 100")
    return told


def _quectos(where: str, dollars: Any) -> int | None:
    """Dollars a million tokens as quecto-dollars a token, exactly; None for what is not told."""
    if dollars is None:
        return None
    try:
        number = Decimal(str(dollars))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise PriceError(f"{where}: {str(dollars)[:40]!r} is not a number of dollars, zero or more")
    if not number:
        return 0
    if number.adjusted() >= _DIGITS_MAX or _decimals(number) > _DECIMALS_MAX:
        fits = f"below 10^{_DIGITS_MAX} dollars with at most {_DECIMALS_MAX} decimals"
        raise PriceError(f"{where}: {str(dollars)[:40]!r} is not {fits}")
    return int(Fraction(number) * _QUECTOS_PER_LISTED_DOLLAR)


def _decimals(number: Decimal) -> int:
    """Behind the point, without trailing zeros."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int), "a finite number has an exponent"
    written = "".join(str(digit) for digit in digits)
    return -exponent - (len(written) - len(written.rstrip("0")))
