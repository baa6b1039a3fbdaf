"""Raw events are read again and asked under one version: the `rerun` command, its row in each task, its cuts.

What is read again was selected before the command was written, from the read model, and does not change any more:
each task's part is a file of the payload store with one `Line` for each raw event of its partition. The row says how
far the task has got; it is put in the same transaction as the work items of a cut, so a crash repeats a cut as a whole
or not at all. Nothing here guards money: a request that is known is not made again, whatever was selected.

A run that *writes* asks nothing: it names requests of the task itself, and what of them is committed and still the
newest is written once more, at the place that the job names by now.

A run in front answers for its events at the number of the promotion that was in force when it was commanded. A fresh
one, and one that writes, is a promotion of the same version for that, in every task at the same command, so that what
comes of it outranks what was there; once anything else is promoted, the run is overtaken. A run aside is asked and
judged, and nothing of it is written.

What becomes of the lines of a cut is `rereading`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import orjson

from batchmill.schemas.records import Control
from batchmill.schemas.state import Chunk, Job, Meta
from batchmill.schemas.status import ChunkState
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.index import RERUN_ROWS
from batchmill.streams.orders import Delete, Order, Put, Wake
from batchmill.streams.versioning import is_rejected, knows, promoted, promotion_of
from batchmill.streams.view import StateView

__all__ = [
    "COMMAND",
    "CUT_LINES",
    "LINE_BYTES_MAX",
    "OVER",
    "STEERS",
    "TRIES_MAX",
    "Fate",
    "Kind",
    "Line",
    "Next",
    "Part",
    "Progress",
    "RunState",
    "compiled_of",
    "current",
    "ended",
    "fault",
    "is_run_name",
    "line_of",
    "next_of",
    "progress_of",
    "put_off",
    "read_line",
    "rerun_command",
    "run_id_of",
    "start_body",
    "steer_body",
    "under_way",
]

COMMAND: Final = "rerun"
#: raw events that one transaction takes
CUT_LINES: Final = 200
#: a line is an offset, an epoch and a key
LINE_BYTES_MAX: Final = 256
#: times a part that is not in the payload store, or an index that is not loaded, is looked for
TRIES_MAX: Final = 30
#: lives of the version that wait in this task without a chunk, and chunks' worth of them that were not sent: while
#: there are more, the run reads no further. So what it asks never stands in front of much that is live.
QUEUED_MAX: Final = 1_000
CHUNKS_AHEAD: Final = 2
#: runs that a task remembers; of more, those that are over leave, the oldest first
REMEMBERED_MAX: Final = 200
#: chunks of a job that are looked through
_CHUNKS_MAX: Final = 1_000
#: what a command may say
_TEXT_CHARS_MAX: Final = 2_000
_COUNT_MAX: Final = 2**62
_RUN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,119}")
_UNSENT: Final = frozenset(
    {ChunkState.FILLING, ChunkState.SEALED, ChunkState.HELD, ChunkState.PREPARED, ChunkState.UPLOADED}
)


class RunState(StrEnum):
    """Of a run in one task."""

    RUNNING = "running"
    PAUSED = "paused"  #: until it is resumed
    DONE = "done"
    CANCELLED = "cancelled"
    OVER_COST = "over_cost"  #: the next event might exceed the task's part of the run's limit
    OVERTAKEN = "overtaken"  #: another promotion is in force by now
    FAILED = "failed"  #: its part could not be read, or its index not be had
    SKIPPED = "skipped"  #: a tick that was not started


OVER: Final = frozenset(RunState) - {RunState.RUNNING, RunState.PAUSED}
#: what a person can tell a run, and what that makes of its state
STEERS: Final[Mapping[str, tuple[frozenset[RunState], RunState]]] = {
    "pause": (frozenset({RunState.RUNNING}), RunState.PAUSED),
    "resume": (frozenset({RunState.PAUSED}), RunState.RUNNING),
    "cancel": (frozenset({RunState.RUNNING, RunState.PAUSED}), RunState.CANCELLED),
}


class Kind(StrEnum):
    """What a run does again."""

    ASK = "ask"
    WRITE = "write"


class Fate(StrEnum):
    """What became of one line."""

    ASKED = "asked"
    KNOWN = "known"  #: its question is being asked or was answered: it is taken from there
    UNUSABLE = "unusable"  #: the version does not take it
    GONE = "gone"  #: retention has removed it
    CANCELLED = "cancelled"  #: the job was cancelled after it
    FOREIGN = "foreign"  #: an event of another job, or a benchmark record
    WAITING = "waiting"  #: it is about to be taken up for the first time
    UNREADABLE = "unreadable"  #: of the part
    WRITTEN = "written"  #: once more
    LEFT = "left"  #: not committed, or not the newest: not written again


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One raw event of a part."""

    offset: int
    epoch: int = 0
    known: str | None = None  #: the ask key of the question that is asked or answered already


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one task has to read, and its share of the run's limits."""

    uri: str
    lines: int
    per_second: float | None = None
    max_nanos: int | None = None
    fresh_tools: bool = False  #: what is kept of look-ups does not count


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task has got with a run."""

    run: str
    job: str
    version: str
    at_ms: int  #: when the command was appended
    part: Part
    kind: Kind = Kind.ASK
    aside: bool = False
    promotion: int = 0
    state: RunState = RunState.RUNNING
    note: str = ""
    done: int = 0  #: lines
    at_byte: int = 0  #: of the part, behind the lines that are done
    tries: int = 0  #: in a row that did not find the part, or the index
    most_nanos: int = 0  #: what the questions that were asked can cost
    counts: Mapping[str, int] = field(default_factory=dict)  #: by Fate

    @property
    def row(self) -> Meta:
        told = asdict(self)
        return Meta(name=RERUN_ROWS + told.pop("run"), value_json=json.dumps(told, separators=(",", ":")))


# -- the part ----------------------------------------------------------------------------------------------------------


def line_of(line: Line | str) -> bytes:
    """A line of a part; of one that is written: a request id."""
    if isinstance(line, str):
        return line.encode("ascii") + b"\n"
    return orjson.dumps([line.offset, line.epoch, line.known], option=orjson.OPT_APPEND_NEWLINE)


def read_line(text: bytes) -> Line | None:
    """What `line_of` wrote; None for anything else."""
    try:
        offset, epoch, known = orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None
    fits = type(offset) is int and type(epoch) is int and (known is None or isinstance(known, str))
    return Line(offset=offset, epoch=epoch, known=known) if fits and offset >= 0 and epoch >= 0 else None


def run_id_of(run: str) -> str:
    """The run that the lives of a replay belong to."""
    return f"replay:{run}"


# -- the command -------------------------------------------------------------------------------------------------------


def start_body(
    *,
    run: str,
    parts: Mapping[int, Part],
    kind: Kind = Kind.ASK,
    aside: bool = False,
    fresh: bool = False,
    epoch: int = 0,
    sha256: str = "",
    skipped: str | None = None,
    selection: Mapping[str, Any] | None = None,
) -> str:
    """The body of a command that starts a run. `selection` is for people: how it was chosen, and the counts."""
    told = {
        "run": run,
        "kind": kind,
        "aside": aside,
        "fresh": fresh,
        "epoch": epoch,
        "parts": {str(partition): asdict(part) for partition, part in sorted(parts.items())},
        "sha256": sha256,
        "skipped": skipped,
        "selection": dict(selection or {}),
    }
    return json.dumps(told, separators=(",", ":"))


def steer_body(run: str, do: str) -> str:
    """The body of a command that pauses, resumes or cancels a run."""
    return json.dumps({"run": run, "do": do}, separators=(",", ":"))


def is_run_name(text: Any) -> bool:
    return isinstance(text, str) and _RUN_NAME.fullmatch(text) is not None


def fault(job: Job | None, version: str | None, body: Mapping[str, Any]) -> str | None:
    """Why such a command cannot be obeyed, or None."""
    if job is None:
        return "no such job is applied"
    if not is_run_name(body.get("run")):
        return "`run` is expected to be the name of a run: 1 to 120 letters, digits, '.', '_', ':', '/', '+' or '-'"
    if "do" in body:
        return None if body["do"] in tuple(STEERS) else f"`do` is expected to be one of {', '.join(STEERS)}"
    if version is None or not knows(job, version):
        return "it names a version that was not applied"
    if body.get("aside") and is_rejected(job, version):
        return "the version was rejected: apply it again first"
    if not body.get("aside") and version != job.version:
        return "the version is not in force: promote it first, or let its answers stand aside"
    if body.get("kind", Kind.ASK) not in tuple(Kind) or (body.get("kind") == Kind.WRITE and body.get("aside")):
        return f"`kind` is expected to be one of {', '.join(Kind)}; what stands aside is not written"
    parts = body.get("parts")
    if not isinstance(parts, dict) or not all(_is_part(part) for part in parts.values()):
        return "`parts` is expected to name a part {uri, lines, per_second, max_nanos} by partition"
    if not _is_text(body.get("skipped") or ""):
        return f"`skipped` is expected to be a text of at most {_TEXT_CHARS_MAX} characters"
    return None


def _is_part(told: Any) -> bool:
    if not isinstance(told, dict) or set(told) - set(Part.__dataclass_fields__):
        return False
    rate, most = told.get("per_second"), told.get("max_nanos")
    named = _is_text(told.get("uri")) and _is_count(told.get("lines")) and type(told.get("fresh_tools", False)) is bool
    return named and (rate is None or _is_rate(rate)) and (most is None or _is_count(most))


def _is_text(value: Any) -> bool:
    """It stands in a row, and a row has to fit a record."""
    return isinstance(value, str) and len(value) <= _TEXT_CHARS_MAX


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _COUNT_MAX


def _is_rate(value: Any) -> bool:
    """Neither what never lets anything go nor what is no number."""
    return type(value) in (int, float) and 0 < value <= _COUNT_MAX


def rerun_command(view: StateView, command: Control, partition: int, at_ms: int) -> list[Order]:
    """Note this task's part of a run, or what a person says of one. A run that is known is started once."""
    body: dict[str, Any] = json.loads(command.body_json)
    job = read.job(view, command.job)
    assert job is not None, "a command that names no job was refused"
    known = _found(view, body["run"])
    if "do" in body:
        return [] if known is None or known.job != command.job else _steered(known, body["do"])
    return [] if known is not None else _started(view, job, command, body, partition, at_ms)


def _started(
    view: StateView, job: Job, command: Control, body: Mapping[str, Any], partition: int, at_ms: int
) -> list[Order]:
    assert command.version is not None, "a run without a version was refused"
    aside, kind, parts = bool(body.get("aside")), Kind(body.get("kind", Kind.ASK)), body["parts"]
    orders: list[Order] = []
    if parts and not aside and (body.get("fresh") or kind is Kind.WRITE):
        job = promoted(job, job.version, at_ms=command.issued_at_ms, command_id=command.command_id)
        orders.append(Put(job))
    told = parts.get(str(partition))
    part = Part(uri="", lines=0) if told is None else Part(**told)
    skipped = body.get("skipped")
    state = RunState.SKIPPED if skipped else RunState.RUNNING if part.lines else RunState.DONE
    progress = Progress(
        run=body["run"],
        job=job.job,
        version=command.version,
        at_ms=at_ms,
        part=part,
        kind=kind,
        aside=aside,
        promotion=0 if aside else promotion_of(job, command.version),
        state=state,
        note=str(skipped or ""),
    )
    return [*orders, Put(progress.row), *_forgotten(view), Wake("rerun")]


def _steered(progress: Progress, do: str) -> list[Order]:
    before, after = STEERS[do]
    return [Put(replace(progress, state=after).row), Wake("rerun")] if progress.state in before else []


def _forgotten(view: StateView) -> list[Order]:
    """The oldest run that is over, once there are too many."""
    known = _runs(view)
    if len(known) < REMEMBERED_MAX:
        return []
    over = [each for each in known if each.state in OVER]
    oldest = min(over, key=lambda each: (each.at_ms, each.run), default=None)
    return [] if oldest is None else [Delete(Meta.schema, oldest.row.name)]


# -- the rows ----------------------------------------------------------------------------------------------------------


def under_way(view: StateView) -> list[Progress]:
    """Runs that are not over, oldest first."""
    found = [each for each in _runs(view) if each.state not in OVER]
    return sorted(found, key=lambda each: (each.at_ms, each.run))


def current(view: StateView, run: str) -> Progress | None:
    """The run as its row says now."""
    return _found(view, run)


def progress_of(name: str, value_json: str) -> Progress:
    """A run from its row, here or in the read model."""
    told = json.loads(value_json)
    part, state, kind = Part(**told.pop("part")), RunState(told.pop("state")), Kind(told.pop("kind"))
    return Progress(run=name.removeprefix(RERUN_ROWS), part=part, state=state, kind=kind, **told)


def _found(view: StateView, run: str) -> Progress | None:
    row = read.meta(view, RERUN_ROWS + run)
    return None if row is None else progress_of(row.name, row.value_json)


def _runs(view: StateView) -> list[Progress]:
    rows = [row for _, row in view.scan("rerun", RERUN_ROWS, limit=2 * REMEMBERED_MAX)]
    return [progress_of(row.name, row.value_json) for row in rows if isinstance(row, Meta)]


# -- what is next ------------------------------------------------------------------------------------------------------


class Next(StrEnum):
    """What a task does about a run."""

    READ = "read"
    WAIT = "wait"
    END = "end"


def next_of(view: StateView, progress: Progress, jobs: CompiledJobs) -> tuple[Next, list[Order]]:
    """What is to be done about a run now; orders, if it is over."""
    job = read.job(view, progress.job)
    assert job is not None, f"run {progress.run} is of a job that the task does not know"
    if job.cancelled_before_ms is not None and progress.at_ms <= job.cancelled_before_ms:
        return Next.END, ended(progress, RunState.CANCELLED, "the job was cancelled")
    if not progress.aside and (job.version, promotion_of(job, job.version)) != (progress.version, progress.promotion):
        return Next.END, ended(progress, RunState.OVERTAKEN, "another promotion is in force by now")
    if progress.state is RunState.PAUSED or job.paused:
        return Next.WAIT, []
    if progress.done >= progress.part.lines:
        return Next.END, ended(progress, RunState.DONE)
    full = progress.kind is Kind.ASK and _is_full(view, compiled_of(job, progress, jobs))
    return (Next.WAIT if full else Next.READ), []


def ended(progress: Progress, state: RunState, note: str = "") -> list[Order]:
    return [Put(replace(progress, state=state, note=note).row)]


def put_off(progress: Progress, why: str) -> list[Order]:
    """What the run needs is not there: it is looked for again later, a bounded number of times."""
    after = replace(progress, tries=progress.tries + 1)
    return [Put(after.row)] if after.tries < TRIES_MAX else ended(after, RunState.FAILED, why)


def _is_full(view: StateView, job: CompiledJob) -> bool:
    """Whether enough of the version waits here to be sent."""
    name, chunk_max = job.spec.job, job.spec.mode.chunk.max_count
    lanes = {route.lane for route in job.routes.by_name.values()}
    queued = [view.scan("queue", f"{lane}/{name}/{job.version}/", limit=QUEUED_MAX) for lane in sorted(lanes)]
    chunks = [row for _, row in view.scan("chunk_job", f"{name}/", limit=_CHUNKS_MAX) if isinstance(row, Chunk)]
    unsent = sum(row.members for row in chunks if row.version == job.version and row.state in _UNSENT)
    return sum(map(len, queued)) >= QUEUED_MAX or unsent >= CHUNKS_AHEAD * chunk_max


def compiled_of(job: Job, progress: Progress, jobs: CompiledJobs) -> CompiledJob:
    compiled = jobs.of(job, progress.version)
    assert compiled is not None, f"run {progress.run} names a version that the task does not know"
    return compiled
