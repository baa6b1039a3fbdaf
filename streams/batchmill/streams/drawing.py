"""A sample that stands for all: so many of each class as its share of the whole, the same every time.

Which records of a class are drawn goes by a hash of their names, so a record that was drawn is drawn again, whatever
order they come in. One pass, bounded memory: of each class no more is held than could be drawn in the end. What must
not live here: what a class is.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Final, Generic, TypeVar

__all__ = ["CLASSES_MAX", "Drawing", "quotas"]

T = TypeVar("T")

#: classes that are told apart; what comes later is one more
CLASSES_MAX: Final = 64
_REST: Final = ""

_Held = tuple[int, str, T]  #: (how far back in the queue, negated; name; what was offered)


@dataclass(slots=True, kw_only=True)
class Drawing(Generic[T]):
    """Offer all, then take what was drawn."""

    limit: int
    seed: str
    offered: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _held: dict[str, list[_Held[T]]] = field(default_factory=dict)

    def offer(self, name: str, of_class: str, what: T) -> None:
        known = of_class in self._counts or len(self._counts) < CLASSES_MAX
        kept = of_class if known else _REST
        self.offered += 1
        self._counts[kept] = self._counts.get(kept, 0) + 1
        held = self._held.setdefault(kept, [])
        entry = (-_place(self.seed, name), name, what)
        if len(held) < self.limit:
            heappush(held, entry)
        else:
            heappushpop(held, entry)

    def drawn(self) -> list[T]:
        """At most `limit`, in the order of their names."""
        wanted = quotas(self._counts, self.limit)
        chosen = [each for kept, held in self._held.items() for each in sorted(held, key=_first)[: wanted[kept]]]
        return [what for _, _, what in sorted(chosen, key=lambda entry: entry[1])]


def quotas(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """How many of each class, together the limit, or all, if there are few: shares by largest remainder, and of each
    class one at least as long as there are as many places as classes, so that a rare one is seen.
    """
    if sum(counts.values()) <= limit:
        return dict(counts)
    floor = 1 if limit >= len(counts) else 0
    left, rest = limit - floor * len(counts), {name: count - floor for name, count in counts.items()}
    spread = sum(rest.values())
    places = {name: floor + left * count // spread for name, count in rest.items()}
    by_remainder = sorted(rest, key=lambda name: (-(left * rest[name] % spread), -counts[name], name))
    for name in by_remainder[: limit - sum(places.values())]:
        places[name] += 1
    return places


def _first(entry: _Held[T]) -> tuple[int, str]:
    return -entry[0], entry[1]


def _place(seed: str, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
