"""Answers that were had a moment ago, bounded by age, count and bytes.

What must not live here: refusals and failures, which are asked again.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

import orjson

from batchmill.agents import clock
from batchmill.streams.jsontext import canonical
from batchmill.streams.unusable import Unusable

__all__ = ["AnswerCache"]


class _Kept(NamedTuple):
    answer: bytes
    until_s: float


class AnswerCache:
    """Kept as canonical bytes, the form in which a record keeps an answer: whoever gets one may change it."""

    def __init__(self, *, seconds: float, entries_max: int, bytes_max: int) -> None:
        self._seconds, self._entries_max, self._bytes_max = seconds, entries_max, bytes_max
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: str) -> tuple[Any] | None:
        """The answer in a tuple of one, since an answer may be null; None when there is none."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_s <= clock.monotonic_s():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return (orjson.loads(kept.answer),)

    def put(self, key: str, answer: Any) -> None:
        """Keep it, and let the longest unused go. What has no canonical form is for no record, and is not kept."""
        if self._seconds <= 0:
            return
        self._drop(key)
        try:
            data = canonical(answer)
        except Unusable:
            return
        self._kept[key] = _Kept(data, clock.monotonic_s() + self._seconds)
        self.size_bytes += len(data)
        while self._kept and (len(self._kept) > self._entries_max or self.size_bytes > self._bytes_max):
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        self.size_bytes -= 0 if kept is None else len(kept.answer)
