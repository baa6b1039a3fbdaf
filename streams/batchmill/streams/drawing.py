"""A sample that stands for the whole: its part of each class, always the same members for the same seed.

Every class has its share of the sample by largest remainder, and at least one member as long as there are as many
places as classes. Which members of a class are drawn is decided by the hash of the seed and their name alone, so the
order in which they come does not count, and of each class a larger sample holds the smaller one.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping

from batchmill.schemas.ids import content_sha256

__all__ = ["drawn", "places_of"]


def places_of(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """How many of each class are drawn; all of them, when no more are there than are wanted."""
    total = sum(sizes.values())
    if wanted >= total:
        return dict(sizes)
    floor = 1 if wanted >= len(sizes) else 0
    left = wanted - floor * len(sizes)
    rest = {name: size - floor for name, size in sizes.items()}
    spread = sum(rest.values())
    exact = {name: (left * size, spread) for name, size in rest.items()}
    places = {name: floor + product // by for name, (product, by) in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (-(exact[name][0] % exact[name][1]), -sizes[name], name))
    for name in by_remainder[: wanted - sum(places.values())]:
        places[name] += 1
    return places


def drawn(classes: Iterable[tuple[str, str]], wanted: int, *, seed: str) -> frozenset[str]:
    """The names that are drawn, of (name, class) pairs; names are unique."""

    def lot(name: str) -> tuple[str, str]:
        return content_sha256(f"{seed}/{name}".encode()), name

    members: dict[str, list[str]] = defaultdict(list)
    for name, label in classes:
        members[label].append(name)
    places = places_of({label: len(names) for label, names in members.items()}, wanted)
    chosen = (heapq.nsmallest(places[label], map(lot, names)) for label, names in members.items())
    return frozenset(name for lots in chosen for _, name in lots)
