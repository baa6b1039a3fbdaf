"""Law: a resumable upload: started by one request, filled and finished by others. What is not finished is forgotten.

The first request names the file and is given an address; every further one sends bytes there, from the offset where the
last ended. Sessions live in memory: a client whose session is gone begins again, as it would with the real service.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from batchmill.agents.simulator.core import Core, Upload

__all__ = ["Session", "Sessions"]

SESSIONS_MAX: Final = 256  # the oldest is forgotten for the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    upload: Upload
    display_name: str


class Sessions:
    def __init__(self) -> None:
        self._open: dict[str, Session] = {}

    def begin(self, core: Core, display_name: str) -> str:
        if len(self._open) == SESSIONS_MAX:
            self.end(next(iter(self._open)))
        upload_id = secrets.token_urlsafe(24)
        self._open[upload_id] = Session(upload=core.upload(), display_name=display_name)
        return upload_id

    def get(self, upload_id: str) -> Session | None:
        return self._open.get(upload_id)

    def end(self, upload_id: str) -> None:
        session = self._open.pop(upload_id, None)
        if session is not None:
            session.upload.discard()
