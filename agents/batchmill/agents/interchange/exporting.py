"""Requests and results of a job as batch files, out of the read model and the log.

What lives here: walking the read model's rows in the order in which their bodies lie in the log, and writing a line for
each. What must not: a second way to render a request: the line is made by the adapter from the job's frozen version,
exactly as the payload of a batch is. Rows are read as they come, bodies some hundred at a time, so memory does not grow
with the job. What gets no line is counted by why.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import orjson

from batchmill.agents.interchange.forms import Form, request_line
from batchmill.agents.interchange.results import result_line
from batchmill.agents.projector.reading import View
from batchmill.schemas import codec, ids
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import Result, WorkItem
from batchmill.schemas.status import Status
from batchmill.streams.compiling import FAULTS, compile_job
from batchmill.streams.routing import Routes
from batchmill.streams.unusable import Unusable

__all__ = [
    "Bodies",
    "ExportError",
    "ExportReport",
    "Named",
    "Skipped",
    "export_requests",
    "export_results",
]

#: rows whose bodies are read from the log together
_CUT_ROWS = 500
#: stands for the chunk in the custom id of a request that is in none
_NO_CHUNK = "export"

#: values by offset of a topic (its short name) and partition; what retention took is absent
Bodies = Callable[[str, int, Iterable[int]], Awaitable[Mapping[int, bytes]]]


class ExportError(Exception):
    """The job cannot be exported like this; says why and what next."""


class Named(StrEnum):
    """What stands as `custom_id`."""

    CUSTOM = "custom"  #: the id of the very send: only this one tells a later answer from an earlier one
    REQUEST = "request"
    SOURCE = "source"  #: the newest request of each source


class Skipped(StrEnum):
    """Why a row got no line."""

    BODY_GONE = "body_gone"  #: retention removed it from the log
    NOT_RENDERED = "not_rendered"  #: the job's templates do not take it: it would be refused before it is sent
    NO_SUCH_ID = "no_such_id"  #: the form does not take its id as a `custom_id`
    FOLLOWS = "follows"  #: another request asks the same question, and its answer serves this one too
    NO_LINE = "no_line"  #: the form has no line for such an outcome: the provider never gave one


@dataclass(slots=True, kw_only=True)
class ExportReport:
    """What was written."""

    lines: int = 0
    bytes: int = 0
    skipped: Counter[Skipped] = field(default_factory=Counter)


# -- requests ----------------------------------------------------------------------------------------------------------

_REQUESTS = """SELECT l.request_id, l.source_id, l.version, l.status, l.sends, l.chunk_id, l.room, l.route,
    l.partition, l.input_offset AS offset, l.follows,
    (SELECT s.custom_id FROM submissions s WHERE s.request_id = l.request_id ORDER BY s.offset DESC LIMIT 1) AS sent_as
  FROM lives l WHERE l.job = ? {} ORDER BY l.partition, l.input_offset"""
_NEWEST = """AND EXISTS (SELECT 1 FROM sources s WHERE s.job = l.job AND s.source_id = l.source_id
    AND s.request_id = l.request_id)"""


async def export_requests(
    view: View,
    bodies: Bodies,
    *,
    job: str,
    form: Form,
    named: Named,
    statuses: Sequence[Status],
    write: Callable[[bytes], object],
) -> ExportReport:
    """Write what was or would be sent for each request of the job, one line each."""
    render = _Renderer(view, job, form)
    report = ExportReport()
    for topic_rows in _cuts(_request_rows(view, job, named, statuses)):
        found = await bodies("normalized", topic_rows[0]["partition"], [row["offset"] for row in topic_rows])
        for row in topic_rows:
            _note(report, render.line(row, _id_of_request(row, named), found.get(row["offset"])), write)
    return report


def _request_rows(view: View, job: str, named: Named, statuses: Sequence[Status]) -> Iterator[Any]:
    of_status = f"AND l.status IN ({', '.join('?' * len(statuses))})" if statuses else ""
    newest = _NEWEST if named is Named.SOURCE else ""
    return view.rows(_REQUESTS.format(f"{of_status} {newest}"), (job, *statuses))


def _id_of_request(row: Any, named: Named) -> str:
    """The id of the newest send; of the one to come for a request that waits."""
    if named is not Named.CUSTOM:
        return str(row["request_id"] if named is Named.REQUEST else row["source_id"])
    waits = row["status"] == Status.QUEUED
    if row["sent_as"] is not None and not waits:
        return str(row["sent_as"])
    send = row["sends"] + 1 if waits else max(1, row["sends"])
    return ids.custom_id(row["request_id"], send, ids.chunk_nonce(row["chunk_id"] or _NO_CHUNK))


class _Renderer:
    """Renders requests of any version of one job."""

    def __init__(self, view: View, job: str, form: Form) -> None:
        self._form = form
        self._specs = _specs(view, job)
        self._made: dict[str, Routes] = {}

    def line(self, row: Any, custom_id: str, value: bytes | None) -> bytes | Skipped:
        if row["follows"] is not None and row["status"] == Status.QUEUED:
            return Skipped.FOLLOWS
        if not _takes(self._form, custom_id):
            return Skipped.NO_SUCH_ID
        if value is None:
            return Skipped.BODY_GONE
        item = codec.decode(value, WorkItem)
        assert item.request_id == row["request_id"], f"offset {row['offset']} of normalized is another request's"
        route = self._of(row["version"]).of(row["route"])
        try:
            body = route.form.body(item.input_json, room=row["room"])
            return request_line(self._form, custom_id=custom_id, endpoint=route.model.endpoint, body=body)
        except Unusable:
            return Skipped.NOT_RENDERED

    def _of(self, version: str) -> Routes:
        if version not in self._made:
            self._made[version] = self._compiled(version)
        return self._made[version]

    def _compiled(self, version: str) -> Routes:
        spec = self._specs.get(version)
        if spec is None:
            raise ExportError(f"the read model does not know version {version} of the job; is the projector level?")
        try:
            return compile_job(spec, version).routes
        except FAULTS as error:
            raise ExportError(f"version {version} does not compile: {error}") from None


def _specs(view: View, job: str) -> dict[str, JobSpec]:
    rows = list(view.rows("SELECT versions_json FROM jobs WHERE job = ?", (job,)))
    if not rows:
        raise ExportError(f"the read model knows no job {job}; see `batchmill job list`")
    versions = {version: spec for row in rows for version, spec in orjson.loads(row["versions_json"]).items()}
    return {version: JobSpec.from_json(orjson.dumps(spec)) for version, spec in versions.items()}


# -- results -----------------------------------------------------------------------------------------------------------

_RESULTS = """SELECT r.partition, r.offset, r.request_id, r.custom_id, l.source_id
  FROM results r LEFT JOIN lives l ON l.request_id = r.request_id WHERE r.job = ? {} ORDER BY r.partition, r.offset"""
_LAST = """AND NOT EXISTS (SELECT 1 FROM results n WHERE n.request_id = r.request_id AND n.partition = r.partition
    AND n.offset > r.offset)"""


async def export_results(
    view: View,
    bodies: Bodies,
    *,
    job: str,
    form: Form,
    named: Named,
    every_attempt: bool,
    write: Callable[[bytes], object],
) -> ExportReport:
    """Write what came back for each request of the job: its last result, or the result of each attempt."""
    condition = ("" if every_attempt else _LAST) + (f" {_NEWEST}" if named is Named.SOURCE else "")
    report = ExportReport()
    for topic_rows in _cuts(view.rows(_RESULTS.format(condition), (job,))):
        found = await bodies("results", topic_rows[0]["partition"], [row["offset"] for row in topic_rows])
        for row in topic_rows:
            _note(report, _result_of(form, named, row, found.get(row["offset"])), write)
    return report


def _result_of(form: Form, named: Named, row: Any, value: bytes | None) -> bytes | Skipped:
    member = {Named.CUSTOM: "custom_id", Named.REQUEST: "request_id", Named.SOURCE: "source_id"}[named]
    if row[member] is None or not _takes(form, row[member]):
        return Skipped.NO_SUCH_ID
    if value is None:
        return Skipped.BODY_GONE
    result = codec.decode(value, Result)
    assert result.request_id == row["request_id"], f"offset {row['offset']} of results is another request's"
    return result_line(form, row[member], result) or Skipped.NO_LINE


# -- both --------------------------------------------------------------------------------------------------------------


def _takes(form: Form, custom_id: str) -> bool:
    """Whether the form takes such a `custom_id`; OpenAI takes any text."""
    if form is Form.OPENAI:
        return bool(custom_id)
    plain = custom_id.replace("-", "a").replace("_", "a")
    return len(custom_id) <= ids.CUSTOM_ID_CHARS_MAX and plain.isascii() and plain.isalnum()


def _note(report: ExportReport, made: bytes | Skipped, write: Callable[[bytes], object]) -> None:
    if isinstance(made, Skipped):
        report.skipped[made] += 1
        return
    write(made)
    report.lines += 1
    report.bytes += len(made)


def _cuts(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Rows in cuts of one partition."""
    for _, of_partition in groupby(rows, key=itemgetter("partition")):
        while cut := list(islice(of_partition, _CUT_ROWS)):
            yield cut
