"""Law: a JSON body that is one long list, `{"requests": [...]}`, read piece by piece: each object goes to a sink.

Memory is bounded by one piece of the body plus the longest object allowed here. Only the frame is checked; the bytes of
an object are handed on as they came, without the white space around it, and its reader parses them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ElementReader", "ElementsError"]

HEAD_BYTES_MAX: Final = 1024
ELEMENT_BYTES_MAX: Final = 32 * 1024 * 1024
_STRUCTURE: Final = re.compile(rb'["{}\[\]]')
#: Possessive: a text of a megabyte is passed over in one step, and never gone back into.
_TEXT: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


class ElementsError(ValueError):
    """The body is not the list it should be."""


class ElementReader:
    """Feed it the body, then close it; `count` says how many objects there were."""

    def __init__(self, *, field: str, sink: Callable[[bytes], None]) -> None:
        self.count = 0
        self._sink = sink
        self._head_form = re.compile(rb'\s*\{\s*"' + field.encode() + rb'"\s*:\s*\[')
        self._field = field
        self._buffer = b""
        self._start = 0  # of what is not done with yet
        self._at = 0  # as far as the object that begins at `_start` was looked at
        self._depth = 0
        self._in_text = False
        self._step: Callable[[], bool] = self._head

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass
        self._buffer = self._buffer[self._start :]
        self._at -= self._start
        self._start = 0
        if len(self._buffer) > ELEMENT_BYTES_MAX:
            raise ElementsError(f"{self._field}.{self.count}: larger than {ELEMENT_BYTES_MAX} bytes")

    def close(self) -> None:
        if self._step != self._end:
            raise ElementsError("the body ends too early")

    def _head(self) -> bool:
        found = self._head_form.match(self._buffer)
        if found is None:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise ElementsError(f"{self._field}: Field required, and no other field is permitted")
            return False
        self._start = found.end()
        self._step = self._first
        return True

    def _first(self) -> bool:
        return self._next({b"{": self._object, b"]": self._tail})

    def _value(self) -> bool:
        return self._next({b"{": self._object})

    def _comma(self) -> bool:
        return self._next({b",": self._value, b"]": self._tail})

    def _tail(self) -> bool:
        return self._next({b"}": self._end})

    def _end(self) -> bool:
        return self._next({})

    def _next(self, steps: dict[bytes, Callable[[], bool]]) -> bool:
        """Pass over white space, and take the step of the byte behind it."""
        while self._buffer[self._start : self._start + 1] in {b" ", b"\t", b"\r", b"\n"}:
            self._start += 1
        mark = self._buffer[self._start : self._start + 1]
        if not mark:
            return False
        if mark not in steps:
            raise ElementsError(f"{self._field}.{self.count}: expected an object, or the end of the list")
        self._step = steps[mark]
        if self._step != self._object:
            self._start += 1
        self._at = self._start
        return True

    def _object(self) -> bool:
        """Find the end of the object at `_start`; what was looked at once is not looked at again."""
        while True:
            if self._in_text and not self._pass_text():
                return False
            found = _STRUCTURE.search(self._buffer, self._at)
            if found is None:
                self._at = len(self._buffer)
                return False
            self._at = found.end()
            self._in_text = found[0] == b'"'
            self._depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1, b'"': 0}[found[0]]
            if self._depth == 0:
                break
        self._sink(self._buffer[self._start : self._at])
        self.count += 1
        self._start = self._at
        self._step = self._comma
        return True

    def _pass_text(self) -> bool:
        rest = _TEXT.match(self._buffer, self._at)
        assert rest is not None, "it matches nothing at least"
        self._at = rest.end()
        if self._buffer[self._at : self._at + 1] != b'"':
            return False  # it goes on in the next piece, perhaps behind half an escape
        self._at += 1
        self._in_text = False
        return True
