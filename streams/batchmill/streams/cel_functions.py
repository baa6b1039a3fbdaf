"""The functions that batchmill adds to CEL for the rules of a job: pure, bounded, and silent about values.

What lives here: what each function answers, and how much work one expression may ask for. What must not: compiling,
jobs, records. A function that has no answer notes why in `Work` and answers null; whoever asked the expression looks
there afterwards, so that no exception (and no value in its message) passes through the library.

Numbers: JSON has one kind, CEL has two. Comparing a whole number with a fraction works in CEL itself; these functions
take both kinds everywhere. `sum` adds decimals as they are written, so 0.1 and 0.2 make 0.3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, DecimalException
from typing import Any

import orjson

__all__ = ["FUNCTION_NAMES", "WORDS_MAX", "WORK_CHARS_MAX", "Work", "folded"]

#: characters and items that the functions of one expression may go through
WORK_CHARS_MAX = 20_000_000
#: of one text that `words` takes apart
WORDS_MAX = 1_000
_CLOSE = 1e-9
_DIGITS_MAX = 12


def folded(text: str) -> str:
    """`text` as it is compared where white space and letter case do not count."""
    return " ".join(text.split()).casefold()


class _NoAnswerError(Exception):
    """Said by a function of this module, about kinds of values and never about a value."""


class Work:
    """What one expression asked for so far, and why a function of it had no answer."""

    __slots__ = ("_folded", "_left", "fault")

    def __init__(self) -> None:
        self._folded = ("", "")  #: the text folded last: a rule asks many passages of one text
        self.begin()

    def begin(self) -> None:
        self.fault: str | None = None
        self._left = WORK_CHARS_MAX

    def functions(self) -> dict[str, Callable[..., Any]]:
        """By name, as expressions call them."""
        return {name: self._guarded(name, function) for name, function in _FUNCTIONS.items()}

    def charge(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise _NoAnswerError("the texts and lists are too long for it")

    def fold(self, text: str) -> str:
        if self._folded[0] != text:
            self.charge(len(text))
            self._folded = (text, folded(text))
        return self._folded[1]

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*given: Any) -> Any:
            if self.fault is not None:
                return None
            try:
                self.charge(16 + sum(len(value) for value in given if isinstance(value, str | list | dict)) // 16)
                return function(self, *given)
            except _NoAnswerError as wrong:
                self.fault = f"{name}: {wrong}"
            except Exception as error:  # noqa: BLE001 - what a value of any kind may bring about; its message may quote
                self.fault = f"{name}: it cannot take these values ({type(error).__name__})"
            return None

        return guarded


def _sum(work: Work, values: Any) -> int | float:
    numbers = _numbers(work, values)
    if all(isinstance(number, int) for number in numbers):
        return sum(numbers)
    return float(sum((Decimal(repr(number)) for number in numbers), Decimal(0)))


def _max(work: Work, *values: Any) -> Any:
    return max(_several(work, values))


def _min(work: Work, *values: Any) -> Any:
    return min(_several(work, values))


def _several(work: Work, values: tuple[Any, ...]) -> list[Any]:
    """The values themselves, or those of the one list that is given."""
    numbers = _numbers(work, values[0] if len(values) == 1 and isinstance(values[0], list) else list(values))
    if not numbers:
        raise _NoAnswerError("there is nothing to choose from")
    return numbers


def _abs(_: Work, value: Any) -> int | float:
    return abs(_number(value))


def _round(_: Work, value: Any, digits: Any = 0) -> float:
    if not isinstance(digits, int) or not 0 <= digits <= _DIGITS_MAX:
        raise _NoAnswerError(f"takes 0 to {_DIGITS_MAX} digits")
    try:
        return float(Decimal(repr(_number(value))).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))
    except DecimalException:
        raise _NoAnswerError("the number is too large to be rounded") from None


def _close(_: Work, one: Any, other: Any, tolerance: Any = None) -> bool:
    if tolerance is None:
        return math.isclose(_number(one), _number(other), rel_tol=_CLOSE, abs_tol=_CLOSE)
    apart = abs(Decimal(repr(_number(one))) - Decimal(repr(_number(other))))
    return apart <= Decimal(repr(_number(tolerance)))


def _lower(work: Work, text: Any) -> str:
    return _text(work, text).lower()


def _upper(work: Work, text: Any) -> str:
    return _text(work, text).upper()


def _trim(work: Work, text: Any) -> str:
    return _text(work, text).strip()


def _distinct(work: Work, values: Any) -> list[Any]:
    """Without repeats; 1 and 1.0 are one number."""
    kept: dict[Any, Any] = {}
    for value in _list(work, values):
        kept.setdefault(_identity(value), value)
    return list(kept.values())


def _identity(value: Any) -> Any:
    if isinstance(value, list | dict):
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return (isinstance(value, bool), value)


def _members(work: Work, values: Any, name: Any) -> list[Any]:
    """That member of each: as `map`, in one step however long the list."""
    found = [each.get(name, _members) if isinstance(each, dict) else _members for each in _list(work, values)]
    if _members in found:
        raise _NoAnswerError("an item has no such member")
    return found


def _occurs(work: Work, part: Any, text: Any) -> bool:
    """Whether the passage stands in the text, or in one of the texts; a blank one does not."""
    sought = folded(_text(work, part))
    texts = _list(work, text) if isinstance(text, list) else [text]
    return bool(sought) and any(sought in work.fold(_text(work, each)) for each in texts)


def _words(work: Work, text: Any) -> list[str]:
    """What stands between white space, in its order."""
    found = _text(work, text).split(maxsplit=WORDS_MAX)
    if len(found) > WORDS_MAX:
        raise _NoAnswerError(f"takes texts of at most {WORDS_MAX} words")
    return found


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": _abs,
    "close": _close,
    "distinct": _distinct,
    "lower": _lower,
    "max": _max,
    "members": _members,
    "min": _min,
    "occurs": _occurs,
    "round": _round,
    "sum": _sum,
    "trim": _trim,
    "upper": _upper,
    "words": _words,
}
FUNCTION_NAMES = frozenset(_FUNCTIONS)


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _NoAnswerError("takes numbers")
    return value


def _numbers(work: Work, values: Any) -> list[int | float]:
    return [_number(value) for value in _list(work, values)]


def _list(work: Work, values: Any) -> Sequence[Any]:
    if not isinstance(values, list):
        raise _NoAnswerError("takes a list")
    work.charge(16 * len(values))
    return values


def _text(work: Work, value: Any) -> str:
    if not isinstance(value, str):
        raise _NoAnswerError("takes text")
    work.charge(len(value))
    return value
