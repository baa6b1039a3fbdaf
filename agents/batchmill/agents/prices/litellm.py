"""LiteLLM's `model_prices_and_context_window.json`, read into entries of our own form.

Its rates are dollars a token, under names such as `input_cost_per_token_above_200k_tokens` and
`output_cost_per_token_batches`. A model it lists at 0 both ways is left out: there 0 stands for free, for one's own
machine and for not known alike.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Final

from batchmill.streams.costing import PriceError

__all__ = ["entries", "is_litellm"]

_KINDS: Final = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_token": "output",
}
_RATE: Final = re.compile(rf"({'|'.join(_KINDS)})(?:_above_(\d{{1,6}})k_tokens)?(_batches)?")
#: shows what members there are; its values are prose
_SAMPLE: Final = "sample_spec"
#: a token -> a million tokens; far more digits than any list writes, so that nothing is rounded
_EXACT: Final = Context(prec=400, traps=[Inexact])
#: powers of ten that a rate may be away from a dollar
_MAGNITUDE_MAX: Final = 100
_MILLION: Final = 6


def is_litellm(document: Any) -> bool:
    """Whether a JSON document looks like LiteLLM's list: models at the top, with a cost per token."""
    if not isinstance(document, Mapping) or "models" in document:
        return False
    return any(isinstance(entry, Mapping) and "input_cost_per_token" in entry for entry in document.values())


def entries(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every model that has prices by the token."""
    found = ((str(name), _entry(str(name), told)) for name, told in document.items() if name != _SAMPLE)
    return {name: entry for name, entry in found if entry is not None}


def _entry(model: str, told: Any) -> dict[str, Any] | None:
    if not isinstance(told, Mapping):
        raise PriceError(f"price of {model}: expected an object of rates")
    entry: dict[str, Any] = {"output": None}
    for kind, above, batch, dollars in _rates(model, told):
        level = entry if above is None else entry.setdefault("above", {}).setdefault(above, {})
        into = level.setdefault("batch", {}) if batch else level
        into[kind] = dollars
    if entry.get("input") is None:
        return None
    free = all(Decimal(entry[kind] or 0) == 0 for kind in ("input", "output"))
    return None if free else entry


def _rates(model: str, told: Mapping[str, Any]) -> Iterator[tuple[str, str | None, bool, str]]:
    """(kind, prompt tokens above which it holds, of the batch tier, dollars a million tokens)."""
    for name, value in told.items():
        match = _RATE.fullmatch(str(name))
        if match is None or value is None:
            continue
        above = None if match[2] is None else str(int(match[2]) * 1_000)
        yield _KINDS[match[1]], above, match[3] is not None, _per_million(model, str(name), value)


def _per_million(model: str, name: str, dollars: Any) -> str:
    try:
        number = Decimal(str(dollars))
    except InvalidOperation:
        number = Decimal("NaN")
    if (
        not number.is_finite()
        or abs(number.adjusted()) > _MAGNITUDE_MAX
        or len(number.as_tuple().digits) > _MAGNITUDE_MAX
    ):
        raise PriceError(f"price of {model}: {name} is not a number of dollars")
    return str(number.scaleb(_MILLION, _EXACT))
