"""Result lines from elsewhere, joined by id to requests: what would become of each, by the read model.

What lives here: one pass over a file, with a fate for every line. What must not: moving anything. The read model may be
behind; each task decides again by its own rows (`streams.importing`), by the same rule. A line that matches nothing, a
second line for a request, a line that says that the request failed: all of them are counted and named by line, none is
guessed at. Memory does not grow with the file, but for eight bytes' worth of every request that was met.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from batchmill.agents.interchange.forms import Form, LineError, read_result
from batchmill.agents.projector.reading import View
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams.answering import bounded
from batchmill.streams.importing import Bought, Fate, fate, standing

__all__ = ["JoinReport", "Joiner", "LineFate"]

#: requests that are remembered to tell a second line; beyond it the task tells
_MET_MAX = 5_000_000
_NAMED_LINES_MAX = 20


class LineFate(StrEnum):
    """What would become of a line."""

    ANSWERS = "answers"
    IN_FLIGHT = "in_flight"  #: its request is in a batch that is on its way
    PAST = "past"  #: its request has an answer, has ended, or is beyond the send that the line names
    UNKNOWN = "unknown"  #: no request of the job has this id
    REPEATED = "repeated"  #: an earlier line was for the same request
    NO_ANSWER = "no_answer"  #: it says that the request failed, expired or was cancelled
    UNREADABLE = "unreadable"


_FATES = {Fate.ANSWERED: LineFate.ANSWERS, Fate.IN_FLIGHT: LineFate.IN_FLIGHT, Fate.PAST: LineFate.PAST}


@dataclass(slots=True, kw_only=True)
class JoinReport:
    """What would become of a file's lines."""

    lines: int = 0
    by_fate: Counter[LineFate] = field(default_factory=Counter)
    named: list[tuple[int, LineFate, str]] = field(default_factory=list)  #: the first few that answer nothing

    def note(self, number: int, what: LineFate, why: str) -> None:
        self.lines += 1
        self.by_fate[what] += 1
        if what is not LineFate.ANSWERS and len(self.named) < _NAMED_LINES_MAX:
            self.named.append((number, what, why))


_LIFE = """SELECT l.request_id, l.partition, l.status, l.sends, l.result_offset, c.state, c.payload_sha256
  FROM lives l LEFT JOIN chunks c ON c.chunk_id = l.chunk_id WHERE l.request_id = ? AND l.job = ?"""
_OF_SOURCE = "SELECT request_id FROM sources WHERE job = ? AND source_id = ?"


class Joiner:
    """Joins the lines of one file to the requests of one job.

    `by_source`: ids are source ids, and name the next send of each source's newest request. Whoever asks for it says
    that the file answers what the sources say now: an id of ours says so by itself.
    """

    def __init__(self, view: View, *, job: str, form: Form | None, by_source: bool, output_bytes_max: int) -> None:
        self._view = view
        self._job = job
        self._form = form
        self._by_source = by_source
        self._output_bytes_max = output_bytes_max
        self._met: set[bytes] = set()

    def join(self, lines: Iterable[tuple[int, bytes | None]], take: Callable[[int, Bought], None]) -> JoinReport:
        """Give (partition, answer) of every line that answers a request to `take`."""
        report = JoinReport()
        for number, line in lines:
            try:
                what, why = self._one(line, take)
            except LineError as wrong:
                what, why = LineFate.UNREADABLE, str(wrong)
            report.note(number, what, why)
        return report

    def _one(self, line: bytes | None, take: Callable[[int, Bought], None]) -> tuple[LineFate, str]:
        if line is None:
            raise LineError("longer than a result line may be")
        row = bounded(read_result(line, self._form), self._output_bytes_max)
        found, send = self._request(row.custom_id)
        if found is None:
            return LineFate.UNKNOWN, "no request of this job has this custom_id"
        if row.outcome is not Outcome.SUCCEEDED:
            return LineFate.NO_ANSWER, f"it says {row.error_code or row.outcome}"
        what = _fate_of(found, send)
        if what is LineFate.ANSWERS and not self._first(found["request_id"]):
            return LineFate.REPEATED, "an earlier line is for the same request"
        if what is LineFate.ANSWERS:
            take(found["partition"], Bought(request_id=found["request_id"], send=send, row=row))
        return what, f"its request is {Status(found['status'])}, sent {found['sends']} times"

    def _request(self, custom_id: str) -> tuple[Any, int]:
        """The request's row and the send that is meant; None when there is none."""
        if self._by_source:
            newest = self._view.row(_OF_SOURCE, (self._job, custom_id))
            found = None if newest is None else self._view.row(_LIFE, (newest["request_id"], self._job))
            return found, 0 if found is None else found["sends"] + 1
        meant = standing(custom_id)
        return (None, 0) if meant is None else (self._view.row(_LIFE, (meant[0], self._job)), meant[1])

    def _first(self, request_id: str) -> bool:
        mark = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
        if mark in self._met:
            return False
        if len(self._met) < _MET_MAX:
            self._met.add(mark)
        return True


def _fate_of(found: Any, send: int) -> LineFate:
    what = fate(
        status=Status(found["status"]),
        sends=found["sends"],
        stored=found["result_offset"] is not None,
        chunk=None if found["state"] is None else ChunkState(found["state"]),
        sent_before=found["payload_sha256"] is not None,
        send=send,
    )
    return _FATES[what]
