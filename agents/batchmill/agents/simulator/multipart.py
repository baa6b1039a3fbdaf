"""Law: a multipart/form-data body read piece by piece: one file goes to a sink as it comes, small fields are kept.

Memory is bounded by one chunk of the body plus the longest part head and field allowed here.
"""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FormReader", "MultipartError", "boundary_of"]

HEAD_BYTES_MAX: Final = 16 * 1024
FIELD_BYTES_MAX: Final = 64 * 1024
_LINE_END: Final = b"\r\n"


class MultipartError(ValueError):
    """The body is not the form it says it is."""


def boundary_of(content_type: str) -> bytes:
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_param("boundary")
    if head.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise MultipartError("the body must be multipart/form-data with a boundary")
    return boundary.encode("latin-1")


class FormReader:
    """Feed it the body; afterwards `fields` and `filename` tell what the form held."""

    def __init__(self, boundary: bytes, *, file_field: str, sink: Callable[[bytes], None]) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._delimiter = _LINE_END + b"--" + boundary
        self._file_field = file_field
        self._sink = sink
        self._buffer = _LINE_END  # the first boundary has no line before it
        self._step: Callable[[], bool] = self._body
        self._take: Callable[[bytes], None] = _ignored

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass

    def close(self) -> None:
        if self._step != self._epilogue:
            raise MultipartError("the form ends before its closing boundary")

    def _body(self) -> bool:
        found = self._buffer.find(self._delimiter)
        if found < 0:
            ready = len(self._buffer) - len(self._delimiter)
            if ready > 0:
                self._take(self._buffer[:ready])
                self._buffer = self._buffer[ready:]
            return False
        if found > 0:
            self._take(self._buffer[:found])
        self._buffer = self._buffer[found + len(self._delimiter) :]
        self._step = self._after_boundary
        return True

    def _after_boundary(self) -> bool:
        if len(self._buffer) < len(_LINE_END):
            return False
        mark, self._buffer = self._buffer[:2], self._buffer[2:]
        if mark not in {b"--", _LINE_END}:
            raise MultipartError("a boundary is followed by something else than a line end")
        self._step = self._epilogue if mark == b"--" else self._head
        return True

    def _head(self) -> bool:
        end = self._buffer.find(_LINE_END * 2)
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise MultipartError("the head of a part is too long")
            return False
        head = BytesHeaderParser().parsebytes(self._buffer[:end])
        self._buffer = self._buffer[end + 4 :]
        name = head.get_param("name", header="content-disposition")
        if name == self._file_field:
            self.filename = head.get_filename() or self._file_field
            self._take = self._sink
        else:
            self._take = self._field(str(name))
        # A part may be empty: its closing boundary then follows the blank line, whose line end it shares.
        self._buffer = self._buffer if not self._buffer.startswith(self._delimiter[2:]) else _LINE_END + self._buffer
        self._step = self._body
        return True

    def _epilogue(self) -> bool:
        self._buffer = b""
        return False

    def _field(self, name: str) -> Callable[[bytes], None]:
        self.fields[name] = ""

        def take(data: bytes) -> None:
            if len(self.fields[name]) + len(data) > FIELD_BYTES_MAX:
                raise MultipartError(f"form field {name} is too long")
            self.fields[name] += data.decode("utf-8", "replace")

        return take


def _ignored(_: bytes) -> None:
    """What comes before the first boundary has no meaning."""
