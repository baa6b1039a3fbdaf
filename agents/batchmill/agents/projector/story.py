"""The whole story of one record, or of one batch: every hop with its topic, partition and offset, in order of time.

A name may be a request id, a source id, a custom id, a chunk id, a provider's batch id, a dead letter's id, or the
place of a raw event (`raw/<partition>/<offset>`).
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from batchmill.agents.projector.commits import commit_limits
from batchmill.agents.projector.queries import BatchRow, LifeRow, batch, freshness, life, overseen, source_lives
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.stages import Relative, ancestors, descendants
from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.status import Status
from batchmill.streams.joining import PARTS

__all__ = ["Beside", "Found", "Hop", "Story", "find", "raw_story", "story"]

_RAW_PLACE = re.compile(r"(?:log:)?raw/(?:(\d+)/)?(\d+)/(\d+)")
_HOPS_MAX = 1_000

Kind = Literal["request", "source", "batch", "raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One record of the log about the request."""

    at_ms: int
    topic: str  #: short name
    partition: int
    offset: int
    what: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything the view knows of one request, or of a raw event that never became one."""

    request_id: str | None
    life: LifeRow | None
    batch: BatchRow | None  #: the one it is a member of now
    hops: tuple[Hop, ...]
    failed_checks: tuple[dict[str, Any], ...]
    waits_for: str | None
    aside: str | None = None  #: of a life aside: what answers for its raw event
    beside: tuple["Beside", ...] = ()  #: other versions' lives of the same raw event
    stems_from: tuple[Relative, ...] = ()  #: the nearest first
    started: tuple[Relative, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Another life of the same raw event."""

    request_id: str
    version: str
    status: str
    aside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a name names."""

    kind: Kind
    request_ids: tuple[str, ...] = ()
    batch: BatchRow | None = None
    raw: tuple[int, int, int] | None = None


def find(view: View, name: str, *, job: str | None = None) -> Found | None:
    """What `name` names; None when the view knows nothing by it."""
    sent_as = parse_custom_id(name)
    request_id = sent_as.request_id if sent_as is not None else name
    if life(view, request_id) is not None:
        return Found(kind="request", request_ids=(request_id,))
    if (chunk := batch(view, name)) is not None:
        members = view.rows("SELECT DISTINCT request_id FROM submissions WHERE chunk_id = ?", (chunk.chunk_id,))
        return Found(kind="batch", request_ids=tuple(row["request_id"] for row in members), batch=chunk)
    of_source = source_lives(view, name, job=job)
    if of_source:
        return Found(kind="source", request_ids=tuple(row.request_id for row in of_source))
    return _find_raw(view, name)


def _find_raw(view: View, name: str) -> Found | None:
    place = _RAW_PLACE.fullmatch(name)
    if place is not None:
        row = view.row(
            """SELECT generation, partition, offset, request_id FROM raw WHERE partition = ? AND offset = ?
            AND (? IS NULL OR generation = ?) ORDER BY generation DESC LIMIT 1""",
            (int(place[2]), int(place[3]), place[1], place[1]),
        )
    else:
        row = view.row(
            """SELECT origin_generation AS generation, origin_partition AS partition, origin_offset AS offset,
            request_id FROM dead_letters WHERE id = ? OR source_id = ? ORDER BY at_ms DESC LIMIT 1""",
            (name, name),
        )
    if row is None:
        return None
    if row["request_id"] is not None and life(view, row["request_id"]) is not None:
        return Found(kind="request", request_ids=(row["request_id"],))
    return Found(kind="raw", raw=(row["generation"], row["partition"], row["offset"]))


def story(view: View, request_id: str) -> Story:
    """All hops of one request."""
    row = life(view, request_id)
    chunk = batch(view, row.chunk_id) if row is not None and row.chunk_id is not None else None
    failed = view.rows(
        "SELECT id, severity, path, note, partition, offset FROM failed_checks WHERE request_id = ?", (request_id,)
    )
    return Story(
        request_id=request_id,
        life=row,
        batch=chunk,
        hops=_hops(view, request_id, row),
        failed_checks=tuple(dict(each) for each in failed),
        waits_for=_waits_for(view, row, chunk),
        aside=None if row is None or not row.aside else _aside(view, row),
        beside=() if row is None else _beside(view, row),
        stems_from=tuple(ancestors(view, request_id)),
        started=tuple(descendants(view, request_id)),
    )


def _aside(view: View, row: LifeRow) -> str:
    """What answers for the raw event of a life that does not."""
    found = view.row(
        """SELECT l.request_id, l.version, l.status, r.letter FROM raw r
        LEFT JOIN lives l ON r.alive AND l.request_id = r.request_id
        WHERE r.generation = ? AND r.partition = ? AND r.offset = ?""",
        (row.origin_generation, row.origin_partition, row.origin_offset),
    )
    if found is None:
        return "its raw event has left the read model"
    if found["version"] is not None:
        return f"version {found['version']} answers for its raw event, by request {found['request_id']}"
    place = (found["letter"] or "in flight").replace("_", " ")
    return f"its raw event is {place}, answered for by no version"


def _beside(view: View, row: LifeRow) -> tuple[Beside, ...]:
    return tuple(
        view.typed(
            Beside,
            """SELECT request_id, version, status, aside FROM lives WHERE source_id = ? AND job = ?
            AND origin_generation = ? AND origin_partition = ? AND origin_offset = ? AND request_id <> ?
            ORDER BY queued_at_ms, request_id LIMIT ?""",
            (
                row.source_id,
                row.job,
                row.origin_generation,
                row.origin_partition,
                row.origin_offset,
                row.request_id,
                _HOPS_MAX,
            ),
        )
    )


def raw_story(view: View, raw: tuple[int, int, int]) -> Story:
    """The hops of a raw event that never became a request."""
    hops = [
        *_raw_hops(view, "generation = ? AND partition = ? AND offset = ?", raw),
        *_letters(view, "origin_generation = ? AND origin_partition = ? AND origin_offset = ?", raw),
    ]
    parked = view.row(
        """SELECT waiting_for, "group", due_at_ms FROM arrivals
        WHERE origin_generation = ? AND origin_partition = ? AND origin_offset = ?""",
        raw,
    )
    waits = None if parked is None else _parked(parked)
    return Story(request_id=None, life=None, batch=None, hops=_ordered(hops), failed_checks=(), waits_for=waits)


def _parked(row: Any) -> str:
    if row["waiting_for"] == PARTS:
        return f"the other parts of whole {row['group']}, at most until {row['due_at_ms']}"
    return _PARKED.get(row["waiting_for"], f"what is called {row['waiting_for']}")


#: what a raw event waits for, in words
_PARKED = {
    "job_known": "its job, which nobody has applied",
    "job_resumed": "its job, which is paused",
    "index": "the snapshot of an index",
    "tools": "what is looked up for it; `batchmill doctor` tries the sources",
}
#: topic, table, what it says, columns worth telling
_TELLING = (
    (
        "submitted",
        "submissions",
        "sent",
        ("chunk_id", "chunk_attempt", "line", "attempt", "custom_id", "model", "mode"),
    ),
    (
        "results",
        "results",
        "answered",
        (
            "attempt",
            "outcome",
            "reason",
            "finish_reason",
            "http_status",
            "error_code",
            "model",
            "route",
            "input_tokens",
            "output_tokens",
            "cost_nanos",
            "answered_by",
            "of_request_id",
            "similarity",
            "route",
            "chunk_id",
        ),
    ),
    ("validated", "verdicts", "judged", ("attempt", "status", "decided_by", "confidence", "output_sha256")),
    ("decisions", "decisions", "decided", ("action", "actor", "reason")),
    (
        "committed",
        "commits",
        "committed",
        (
            "kind",
            "version",
            "sink",
            "target_key",
            "commit_id",
            "previous_commit_id",
            "reverts",
            "removed",
            "seq",
            "promotion",
        ),
    ),
)


def _hops(view: View, request_id: str, row: LifeRow | None) -> tuple[Hop, ...]:
    hops = [*_events(view, request_id, row), *_letters(view, "request_id = ?", (request_id,))]
    if row is not None:
        hops += _work_items(view, row)
    for topic, table, what, columns in _TELLING:
        found = view.rows(
            f"SELECT * FROM {table} WHERE request_id = ? ORDER BY at_ms LIMIT {_HOPS_MAX}",  # noqa: S608  own names
            (request_id,),
        )
        hops += [_hop(topic, what, each, columns) for each in found]
    return _ordered(hops)


def _events(view: View, request_id: str, row: LifeRow | None) -> list[Hop]:
    """The raw events that speak of the request; that of a life aside speaks of another one."""
    found = _raw_hops(view, "request_id = ?", (request_id,))
    if row is None or not row.aside:
        return found
    own = (row.origin_generation, row.origin_partition, row.origin_offset)
    places = {(hop.partition, hop.offset) for hop in found}
    more = _raw_hops(view, "generation = ? AND partition = ? AND offset = ?", own)
    return [*found, *(hop for hop in more if (hop.partition, hop.offset) not in places)]


def _raw_hops(view: View, where: str, values: tuple[Any, ...]) -> list[Hop]:
    found = view.rows(f"SELECT * FROM raw WHERE at_ms IS NOT NULL AND {where} LIMIT {_HOPS_MAX}", values)  # noqa: S608
    return [_hop("raw", "published", each, ("generation", "key", "job", "run_id", "bytes")) for each in found]


def _work_items(view: View, row: LifeRow) -> list[Hop]:
    found = view.rows("SELECT * FROM work_items WHERE partition = ? AND offset = ?", (row.partition, row.input_offset))
    columns = (
        "version",
        "seq",
        "run_id",
        "lane",
        "route",
        "parent",
        "part",
        "target_key",
        "tokens_estimate",
        "bytes_estimate",
    )
    return [_hop("normalized", "asked", each, columns) for each in found]


def _letters(view: View, where: str, values: tuple[Any, ...]) -> list[Hop]:
    dead = view.rows(f"SELECT * FROM dead_letters WHERE {where} LIMIT {_HOPS_MAX}", values)  # noqa: S608  own names
    out = view.rows(f"SELECT * FROM excluded WHERE {where} LIMIT {_HOPS_MAX}", values)  # noqa: S608
    told = ("id", "stage", "reason", "error", "fault", "retryable", "attempt", "redrives", "original_bytes")
    return [
        *(_hop("dead-letter", "dead-lettered", each, told) for each in dead),
        *(_hop("excluded", "excluded", each, ("id", "stage", "reason", "detail", "of_request_id")) for each in out),
    ]


def _hop(topic: str, what: str, row: Any, columns: tuple[str, ...]) -> Hop:
    detail = {name: row[name] for name in columns if row[name] is not None and row[name] != ""}
    return Hop(
        at_ms=row["at_ms"], topic=topic, partition=row["partition"], offset=row["offset"], what=what, detail=detail
    )


_FLOW = ("raw", "normalized", "submitted", "results", "validated", "decisions", "committed", "dead-letter", "excluded")


def _ordered(hops: list[Hop]) -> tuple[Hop, ...]:
    return tuple(sorted(hops, key=lambda hop: (hop.at_ms, _FLOW.index(hop.topic), hop.partition, hop.offset)))


def _waits_for_grant(view: View, chunk: BatchRow, pool: str) -> str:
    told = f"batch {chunk.chunk_id}, which waits for a grant of {pool}"
    if overseen(view).silent(freshness(view).newest_at_ms):
        return f"{told}; no overseer was heard of for 30 s: start one with `batchmill overseer`"
    return f"{told} ({chunk.note})" if chunk.note else told


def _paused(view: View, row: LifeRow) -> str | None:
    """That a person must act, and why; None when the record's task has not paused the job."""
    sql = "SELECT pause_reason FROM jobs WHERE partition = ? AND job = ? AND paused"
    found = view.row(sql, (row.partition, row.job))
    if found is None:
        return None
    why = f", by itself ({found['pause_reason']})" if found["pause_reason"] else ""
    return f"`batchmill resume {row.job}`: the job is paused{why}"


def _taken_back(row: LifeRow) -> str | None:
    if not row.reverted:
        return None
    return f"`batchmill commits replay {row.request_id} --execute`: its commit was taken back"


def _limited(view: View, row: LifeRow) -> str | None:
    """That a person must let commits of its version go on."""
    found = commit_limits(view, job=row.job, version=row.version, partition=row.partition)
    held = [each for each in found if each.held is not None]
    return f"`batchmill commits go {row.job}`: {held[0].why}" if held else None


def _waits_unsent(row: LifeRow) -> str:
    if row.result_offset is not None:
        return "the stored answer to its question, which is read again"
    return "a batch to fill up" if row.follows is None else f"the answer of request {row.follows}, which asks the same"


def _waits_for(view: View, row: LifeRow | None, chunk: BatchRow | None) -> str | None:
    if row is None:
        return None
    if chunk is not None and chunk.waits_for is not None:
        return _waits_for_grant(view, chunk, chunk.waits_for)
    paused = _paused(view, row)
    if chunk is not None and chunk.batch_id is not None:
        return f"batch {chunk.chunk_id} ({chunk.state}, provider's {chunk.batch_id}: {chunk.remote_status})"
    if chunk is not None:
        note = f": {chunk.note}" if chunk.note and chunk.failures else ""
        return paused or f"batch {chunk.chunk_id} ({chunk.state}{note})"
    if row.aside and row.status in {Status.NEEDS_REVIEW, Status.VALIDATED} and row.commit_id is None:
        return f"a promotion of version {row.version}, if one comes: until then nothing of it is written"
    if row.follows is not None:
        return f"the answer to request {row.follows}, which asks the same"
    match row.status.value:
        case "queued":
            return paused or _waits_unsent(row)
        case "failed_retryable":
            return f"its next attempt, due at {row.due_at_ms}"
        case "needs_review":
            return "a person's decision (`batchmill review list`)"
        case "succeeded_unvalidated":
            return "its judgement"
        case "validated":
            return _taken_back(row) or paused or _limited(view, row) or "the sink"
        case _:
            return None
