"""What a provider would refuse is found before it is sent: one bad row must not fail fifty thousand.

A row is looked at as the bytes that would leave: strict JSON, one object, its id of the allowed form and met once, the
one model of its batch, no streaming, no larger than a whole batch may be. Templates and parameters are the job
author's, so none of it is taken on trust. A fault ends that row alone (`Unusable`).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from batchmill.schemas.reasons import Reason
from batchmill.streams.ports import Capabilities
from batchmill.streams.unusable import Unusable

__all__ = ["Preflight"]

_ID: Final = re.compile(r"[A-Za-z0-9_-]+")
#: members under which providers carry the question itself
_BODIES: Final = ("body", "params", "request")


class Preflight:
    """Checks the rows of one payload in their order. Remembers the ids it has met, nothing else."""

    def __init__(self, can: Capabilities, *, model: str) -> None:
        self._can = can
        self._model = model
        self._seen: set[str] = set()

    def check(self, custom_id: str, line: bytes) -> None:
        """Take in one row, or raise `Unusable` with what a provider would say of it."""
        if len(line) > self._can.bytes_max:
            raise Unusable(
                Reason.TOO_LARGE_FOR_PROVIDER, f"its row has {len(line)} bytes, at most {self._can.bytes_max}"
            )
        self._check_id(custom_id)
        row = _row(line)
        body = next((row[name] for name in _BODIES if isinstance(row.get(name), Mapping)), None)
        if body is None:
            raise Unusable(Reason.REQUEST_INVALID, "its row holds no request body")
        self._check_body(body)
        self._seen.add(custom_id)

    def _check_id(self, custom_id: str) -> None:
        if not _ID.fullmatch(custom_id) or len(custom_id) > self._can.custom_id_chars_max:
            limit = self._can.custom_id_chars_max
            raise Unusable(Reason.REQUEST_INVALID, f"its id must be 1 to {limit} letters, digits, '_' or '-'")
        if custom_id in self._seen:
            raise Unusable(Reason.REQUEST_INVALID, "another row of the batch has the same id")

    def _check_body(self, body: Mapping[str, Any]) -> None:
        if self._can.one_model and body.get("model", self._model) != self._model:
            raise Unusable(Reason.REQUEST_INVALID, "it asks another model than the rest of its batch")
        if body.get("stream"):
            raise Unusable(Reason.REQUEST_INVALID, "it asks for a stream, which no batch has")


def _row(line: bytes) -> Mapping[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise Unusable(Reason.REQUEST_INVALID, "its row is not strict JSON") from None
    if not isinstance(row, dict) or line.count(b"\n") > 1:
        raise Unusable(Reason.REQUEST_INVALID, "its row is not one JSON object on one line")
    return row
