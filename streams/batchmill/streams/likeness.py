"""How alike two inputs are, told from a short signature of each: MinHash over their shingles.

What lives here: making signatures and comparing them. What must not: what likeness means for a life (`following`).

A text is taken as its words, folded, and a *shingle* is so many words in a row; a number or a truth value is a shingle
of its own, with the name of its member. Two inputs are as alike as the share of shingles that both have among those
that either has (Jaccard). One hash of each shingle serves all 128 values of a signature (one permutation): it falls
into one of 128 bins, a bin keeps its smallest, and an empty bin borrows from another one, the same for every input. Of
two inputs at likeness s a value is the same with probability s, so the estimate is off by about sqrt(s(1-s)/128): 0.027
at 0.9. The hash is BLAKE2b: the same in every process, for ever.

Only what meets can be compared, and a task sees its own records alone. So inputs are *placed* by the smallest hash of
all their shingles, which two inputs at likeness s share with probability s: of such pairs that share is found at most.
"""

import base64
import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

__all__ = ["VALUES", "Likeness", "alike", "bands", "likeness_of", "similarity", "threshold_of"]

#: values of a signature, two bytes each
VALUES: Final = 128
BANDS: Final = 8
#: values of one band, by whether much likeness is asked for: few enough that a pair at the threshold shares a band
ROWS_STRICT: Final = 6
ROWS_LOOSE: Final = 3
STRICT_FROM: Final = 0.8
#: shingles of one input that are looked at; what is longer is alike if its beginning is
SHINGLES_MAX: Final = 20_000

_WORD: Final = re.compile(r"\w+")
_PER_MILLE: Final = 1_000
_HEAD_CHARS: Final = 5  # "0900:"
_SIXTEEN_BITS: Final = 0xFFFF


class Likeness(NamedTuple):
    """What an input is compared by."""

    placing: str  #: equal with probability s at likeness s
    key: str  #: the signature, and what counts as alike


def likeness_of(item_input: Any, shingle: int, threshold: float) -> Likeness | None:
    """Of an input as it is asked about; None where it has nothing to compare."""
    hashes = {_hashed(text) for text in _shingles(item_input, shingle)}
    if not hashes:
        return None
    values = b"".join(value.to_bytes(2, "big") for value in _signature(hashes))
    key = f"{round(threshold * _PER_MILLE):04d}:{base64.urlsafe_b64encode(values).decode('ascii')}"
    return Likeness(placing=f"{min(hashes):016x}", key=key)


def similarity(one: str, other: str) -> float:
    """The estimated likeness of two signatures."""
    pairs = zip(_values(one), _values(other), strict=True)
    return sum(a == b for a, b in pairs) / VALUES


def threshold_of(key: str) -> float:
    """From which likeness on the signature's job takes one answer for two inputs."""
    return int(key[: _HEAD_CHARS - 1]) / _PER_MILLE


def alike(one: str, other: str) -> float | None:
    """The estimated likeness if it is enough for the first one's job, else None."""
    found = similarity(one, other)
    return found if found >= threshold_of(one) else None


def bands(key: str) -> Iterator[str]:
    """Cuts of the signature: inputs that are alike share one of them, most others share none.

    Three bytes are four characters, so a band of whole values is a cut of the text.
    """
    rows = ROWS_STRICT if threshold_of(key) >= STRICT_FROM else ROWS_LOOSE
    chars = rows * 2 * 4 // 3
    for number in range(BANDS):
        start = _HEAD_CHARS + number * chars
        yield f"{number}{key[start : start + chars]}"


def _shingles(item_input: Any, words: int) -> Iterator[str]:
    left = SHINGLES_MAX
    for name, leaf in _leaves(item_input):
        for text in _of_leaf(name, leaf, words):
            if left == 0:
                return
            left -= 1
            yield text


def _of_leaf(name: str, leaf: Any, words: int) -> Iterator[str]:
    if not isinstance(leaf, str):
        yield f"{name}={leaf!r}"
        return
    found = _WORD.findall(leaf.casefold())
    for at in range(max(1 if found else 0, len(found) - words + 1)):
        yield " ".join(found[at : at + words])


def _leaves(item_input: Any) -> Iterator[tuple[str, Any]]:
    """(name of its member, value) of everything that has no parts; never deeper than an input may be."""
    open_ = [("", item_input)]
    while open_:
        name, value = open_.pop()
        if isinstance(value, dict):
            open_ += [(str(member), part) for member, part in reversed(value.items())]
        elif isinstance(value, list):
            open_ += [(name, part) for part in reversed(value)]
        elif value is not None:
            yield name, value


def _hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _signature(hashes: set[int]) -> list[int]:
    smallest: list[int | None] = [None] * VALUES
    for found in hashes:
        bin_, rest = found % VALUES, found // VALUES
        known = smallest[bin_]
        if known is None or rest < known:
            smallest[bin_] = rest
    return [_filled(smallest, bin_) & _SIXTEEN_BITS for bin_ in range(VALUES)]


def _filled(smallest: list[int | None], bin_: int) -> int:
    """Of an empty bin: what the first bin of its own order has that has any."""
    for other in _order(bin_):
        found = smallest[other]
        if found is not None:
            return found
    raise AssertionError("an input with a shingle fills a bin")


@lru_cache(maxsize=VALUES)
def _order(bin_: int) -> tuple[int, ...]:
    others = sorted((other for other in range(VALUES) if other != bin_), key=lambda at: _hashed(f"{bin_}/{at}"))
    return (bin_, *others)


def _values(key: str) -> memoryview:
    return memoryview(base64.urlsafe_b64decode(key[_HEAD_CHARS:])).cast("H")
