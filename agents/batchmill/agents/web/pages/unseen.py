"""Characters that nobody sees: controls, directions, joins, tags. Found in hostile texts, made visible for people.

What lives here: which ones they are, cutting a text at them. What must not: HTML (templates write the pieces). Line
ends, tabs and the joiners that Persian, Hindi and emoji are written with are left alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Piece", "escaped_unseen", "has_unseen", "pieces"]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_ASTRAL = 0x10000


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text as it is, or (`code`) the name of one character that nobody would see."""

    text: str
    code: str = ""


def has_unseen(text: str) -> bool:
    return _UNSEEN.search(text) is not None


def pieces(text: str) -> Iterator[Piece]:
    """`text`, cut so that each unseen character stands alone under its name."""
    at = 0
    for found in _UNSEEN.finditer(text):
        if found.start() > at:
            yield Piece(text[at : found.start()])
        yield Piece(found[0], f"U+{ord(found[0]):04X}")
        at = found.end()
    if at < len(text):
        yield Piece(text[at:])


def escaped_unseen(json_text: str) -> str:
    r"""`json_text` with what nobody would see inside its strings written as `\u202e`: the same JSON."""
    return _UNSEEN.sub(lambda found: _escape(ord(found[0])), json_text)


def _escape(code: int) -> str:
    if code < _ASTRAL:
        return f"\\u{code:04x}"
    code -= _ASTRAL
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
