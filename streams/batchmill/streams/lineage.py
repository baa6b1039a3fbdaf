"""What an event says of where it comes from: the request that it stems from, and of which whole it is a part.

Two members of the metadata of a typed raw event, written by `staging`; anybody may write to raw, so what cannot be read
is passed over here. What must not live here: making such events (`staging`), waiting for parts (`joining`).

    batchmill-parent  REQUEST
    batchmill-part    I/N/WHOLE/SEQ.PROMOTION ...   of a part: its number, their number, the request that was split,
                                                    and its rank; of nested parts the innermost first
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from typing_extensions import override

__all__ = [
    "JOINED",
    "NESTED_MAX",
    "PARENT",
    "PART",
    "PARTS_MAX",
    "Part",
    "parent_of",
    "parts_of",
    "whole_of",
    "written",
]

PARENT: Final = "batchmill-parent"
PART: Final = "batchmill-part"
#: marks the event that was made of all parts of a whole; no such event is ever written to raw
JOINED: Final = "batchmill-joined"
#: parts of one whole
PARTS_MAX: Final = 1_000
#: wholes that are parts of wholes
NESTED_MAX: Final = 8

_REQUEST: Final = re.compile(r"[a-z2-7]{32}")
_PART: Final = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})/([a-z2-7]{32})/(\d{1,19})\.(\d{1,9})")


class Part(NamedTuple):
    """Which part of which whole."""

    number: int  #: from 1
    of: int
    whole: str  #: the request whose output or input was split
    rank: tuple[int, int]  #: of the whole, when it was split

    @override
    def __str__(self) -> str:
        return f"{self.number}/{self.of}/{self.whole}/{self.rank[0]}.{self.rank[1]}"


def parent_of(metadata: Mapping[str, str]) -> str | None:
    """The request an event stems from; a text that is no request id is passed over: anybody may write to raw."""
    named = metadata.get(PARENT, "")
    return named if _REQUEST.fullmatch(named) else None


def parts_of(text: str | None) -> tuple[Part, ...]:
    """What `part` says, the innermost first; empty for what is no part, or cannot be read."""
    words = (text or "").split(" ")
    found = [_PART.fullmatch(word) for word in words[: NESTED_MAX + 1]]
    if len(words) > NESTED_MAX or not all(found):
        return ()
    parts = tuple(Part(int(each[1]), int(each[2]), each[3], (int(each[4]), int(each[5]))) for each in found if each)
    return parts if all(part.number <= part.of <= PARTS_MAX for part in parts) else ()


def written(parts: Sequence[Part]) -> str | None:
    """The inverse of `parts_of`."""
    return " ".join(map(str, parts)) or None


def whole_of(source_id: str) -> str:
    """The source of the whole that the source of a part names."""
    return source_id.rpartition("#")[0] or source_id
