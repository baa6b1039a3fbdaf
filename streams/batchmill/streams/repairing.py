"""Repairs that a job may ask for by name, for an answer that is not one JSON value.

Each takes something away or mends punctuation; none may add, drop or reorder a word, a number or a sign that changes
what one means (`<5`, `!true`, `5%`), and neither prose nor a part of an answer becomes an answer. They are tried in the
order declared, each on what the one before left, until one JSON value stands there. What was done is told, so that it
is recorded. All are linear in the text; the library's, which is slow, takes short texts only.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import json_repair
import orjson

from batchmill.schemas.jobs import Repair
from batchmill.streams.jsontext import DEPTH_MAX, decode
from batchmill.streams.unusable import Unusable

__all__ = ["LIBRARY_BYTES_MAX", "Repaired", "repaired"]

#: (the value, what was done to get it)
Repaired = tuple[Any, tuple[Repair, ...]]

#: what the library of that name is given
LIBRARY_BYTES_MAX: Final = 64 * 2**10
#: bytes times quotation marks: from a mark it may look at all of the rest, at some 0.1 microseconds a byte
LIBRARY_LOOKS_MAX: Final = 10_000_000
#: places where a value may begin that are tried, in a text around it
_STARTS_MAX: Final = 16
_FENCE: Final = "```"
_INFO_WORD: Final = re.compile(r"[A-Za-z0-9_+-]{0,20}\s")
_BEGINNING: Final = re.compile(r"[\[{]")
#: a string literal, or what is left of one (so that the scan is linear), or a bracket
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_WORD: Final = re.compile(
    r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+|[^\W\d_]+|[!#$%&*+<=>@^|~\u00a2-\u00b1\u20a0-\u20bf\u2200-\u22ff]"
)
_BLANKS: Final = frozenset("nrtbf")
_QUOTATION_MARKS: Final = "\"'\u201c\u201d"
_NULL: Final = frozenset({"none", "null"})


def repaired(text: str, repairs: tuple[Repair, ...], *, bytes_max: int) -> Repaired | None:
    """The one JSON value that the repairs make of `text`, which is none; None: they make none of it."""
    if len(text) > bytes_max:
        return None
    done: list[Repair] = []
    for repair in repairs:
        changed = _REPAIRS[repair](text)
        if changed is None:
            continue
        text = changed
        done.append(repair)
        value = _decoded(text, bytes_max)
        if value is not _NOTHING:
            return value, tuple(done)
    return None


_NOTHING: Final = object()


def _decoded(text: str, bytes_max: int) -> Any:
    try:
        return decode(text.encode(), bytes_max=bytes_max, depth_max=DEPTH_MAX)
    except (Unusable, UnicodeEncodeError):
        return _NOTHING


def _unfenced(text: str) -> str | None:
    """What stands between the first fence and the last; None where a value begins outside: it could be meant."""
    first, last = text.find(_FENCE), text.rfind(_FENCE)
    if first < 0 or last < first + len(_FENCE):
        return None
    if _BEGINNING.search(text, 0, first) or _values(text[last + len(_FENCE) :]) != []:
        return None
    inside = text[first + len(_FENCE) : last]
    info = _INFO_WORD.match(inside)
    return inside[info.end() :] if info else inside


def _untrailed(text: str) -> str | None:
    """The one object or list in the text; None where there are two, since either could be meant."""
    found = _values(text)
    return found[0] if found is not None and len(found) == 1 else None


def _values(text: str) -> list[str] | None:
    """Objects and lists that stand in the text side by side; None where that cannot be told.

    What follows a bracket that is never closed may be a part of something that was cut off, and of too many places
    the rest was not looked at.
    """
    found: list[str] = []
    at = 0
    for _ in range(_STARTS_MAX):
        start = _BEGINNING.search(text, at)
        if start is None:
            return found
        end = _end(text, start.start())
        if end is None:
            return None
        candidate = text[start.start() : end]
        if _decoded(candidate, len(text) * 4) is not _NOTHING:
            found.append(candidate)
        at = end
    return found if _BEGINNING.search(text, at) is None else None


def _end(text: str, start: int) -> int | None:
    """Behind the bracket that closes the one at `start`."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in {"[", "{"}:
            depth += 1
        elif token[0] in {"]", "}"}:
            depth -= 1
            if depth == 0:
                return token.end()
    return None


def _mended(text: str) -> str | None:
    """As the library mends it, if that changed punctuation only, of something that was meant as an object or a list."""
    text = text.strip()
    whole = text[:1] + text[-1:] in {"{}", "[]"}
    structured = any(mark in text for mark in "\"':") or _WORD.sub("", text) == text
    if not whole or not structured or not _fits_library(text):
        return None
    try:
        value = json_repair.repair_json(text, return_objects=True, skip_json_loads=True, strict=True)
        if not isinstance(value, dict | list) or list(_words_of(value)) != list(_words(_unescaped(text))):
            return None
        return orjson.dumps(value).decode()
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None


def _fits_library(text: str) -> bool:
    size = len(text.encode("utf-8", "surrogatepass"))
    marks = sum(text.count(mark) for mark in _QUOTATION_MARKS)
    return size <= LIBRARY_BYTES_MAX and size * marks <= LIBRARY_LOOKS_MAX


def _words_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _words(name)
            yield from _words_of(member)
    elif isinstance(value, list):
        for item in value:
            yield from _words_of(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no JSON number")
    else:
        yield from _words(value if isinstance(value, str) else repr(value))


def _words(text: str) -> Iterator[str]:
    """Words and numbers in their order, numbers by what they are worth."""
    for found in _WORD.finditer(text):
        word = found[0].casefold()
        if word[-1].isdigit():
            yield repr(float(word))
        else:
            yield "null" if word in _NULL else word


def _unescaped(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        if found[1] is not None:
            return chr(int(found[1], 16))
        return " " if found[2] in _BLANKS else found[2]

    return _ESCAPE.sub(plain, text)


_REPAIRS: Final[Mapping[Repair, Callable[[str], str | None]]] = {
    Repair.CODE_FENCE: _unfenced,
    Repair.TRAILING_TEXT: _untrailed,
    Repair.JSON_REPAIR: _mended,
}
