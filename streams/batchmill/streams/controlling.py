"""What an operator's command does to this task's rows.

Each partition gets its own copy of every command, so each task decides alone. A command taken twice (same command id)
is taken once. A pause stops what spends; it never stops finding out and collecting what was paid for. A cancellation
is an instant: lives asked for up to then end, later events are taken as ever. What has nothing in flight ends in the
sweep, in cuts; members of chunks end when their chunk settles.

The overseer writes commands too, each to the one task it is about. They are no operator's word: they leave the job's
last command as it is, and a pause that it passes on holds only until an operator says anything newer.

Which version is in force is `versioning`'s to read and `promoting`'s to change: the first one that is applied is
promoted by that, a later one is tried out beside it.
"""

import json
import re
from dataclasses import replace
from typing import Any, Final

from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control
from batchmill.schemas.spec_rules import JobSpecError
from batchmill.schemas.state import Chunk, Job, Life, Meta
from batchmill.schemas.status import ChunkState
from batchmill.schemas.versions import version_of
from batchmill.streams import hinting, limiting, promoting, rerunning, reverting
from batchmill.streams import view as read
from batchmill.streams.chunking import CUT_MEMBERS
from batchmill.streams.facts import Cancelled
from batchmill.streams.granting import granted, heard_anew
from batchmill.streams.graphing import cycle, edges, edges_of_row, told_cycle
from batchmill.streams.linting import errors
from batchmill.streams.orders import Delete, Order, Put, Wake
from batchmill.streams.settling import ENDED_AT_ONCE, moved, obituary, unwanted
from batchmill.streams.versioning import knows, listed, promoted, tried_out
from batchmill.streams.view import StateView

__all__ = [
    "COMMANDS",
    "GRANT",
    "MANIFEST",
    "OVERSEER_COMMANDS",
    "PAUSE_TOO",
    "READ_TO",
    "control",
    "jobs",
    "knows_version",
    "read_to",
    "read_up_to",
    "refusal",
    "stopped",
    "sweep",
]

_STAGE: Final = "controller"
#: the meta row that says how far the commands were read
READ_TO: Final = "control_read_to"
#: commands handled here; `redrive` is `redriving`'s, `look` is `hinting`'s, `import` is `importing`'s, `rerun` is
#: `rerunning`'s, `revert` and `replay` are `reverting`'s
COMMANDS: Final = ("apply", *promoting.COMMANDS, "pause", "resume", "cancel", "approve", limiting.COMMAND)
#: the overseer's: what a task was handed, and that a job paused by itself elsewhere
GRANT: Final = "grant"
PAUSE_TOO: Final = "pause_too"
OVERSEER_COMMANDS: Final = (GRANT, PAUSE_TOO)
#: what an ingest says of itself at its end; it is no command to a task
MANIFEST: Final = "manifest"
#: chunks and jobs of one task that a command looks at
_ROWS_MAX: Final = 10_000
#: all frozen versions of a job are one row, and a row has to fit a record
_VERSIONS_BYTES_MAX: Final = 800_000
_NO_OBJECT: Final = "its body is expected to be a JSON object"
_JOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: states in which certainly no batch of the chunk exists, nor may exist
_UNSENT: Final = frozenset(
    {ChunkState.FILLING, ChunkState.SEALED, ChunkState.HELD, ChunkState.PREPARED, ChunkState.UPLOADED}
)


def control(view: StateView, command: Control, at_ms: int, now_ms: int) -> list[Order]:
    """The rows after `command`, which the broker appended at `at_ms`. Unknown jobs and commands change nothing."""
    if command.command == GRANT:
        body = json.loads(command.body_json)
        return granted(view, body.get("granted", {}), body.get("most", {}), now_ms)
    job = read.job(view, command.job)
    if job is not None and job.last_command_id == command.command_id:
        return []
    if command.command == "apply":
        return _applied(view, job, command, now_ms)
    if job is None:
        return []
    noted = replace(job, last_command_id=command.command_id, updated_at_ms=now_ms)
    match command.command:
        case promoting.PROMOTE:
            return promoting.promote(job, command, now_ms)
        case promoting.REJECT:
            return promoting.reject(job, command, now_ms)
        case "pause":
            return [Put(replace(noted, paused=True, pause_reason=None))]
        case "pause_too":
            return _paused_too(job, json.loads(command.body_json), now_ms)
        case "resume":
            return [Put(replace(noted, paused=False, pause_reason=None)), *_woken()]
        case "cancel":
            return _cancelled(view, noted, at_ms, now_ms)
        case "approve":
            return [Put(noted), *_approved(view, noted, json.loads(command.body_json), now_ms)]
        case limiting.COMMAND:
            return [Put(noted), *limiting.go(view, noted, json.loads(command.body_json))]
        case _:
            return []


def refusal(view: StateView, command: Control) -> str | None:
    """Why `command` must not be carried out, or None. Whoever can write to `control` may write anything; taken as it
    is, a spec that does not compile would stop every worker at the next event.
    """
    # A redrive names lives and letters; letters of events that no job claimed belong to none. Nor need an ingest.
    nameless = command.command in {"redrive", MANIFEST} and not command.job
    if not nameless and not _JOB_NAME.fullmatch(command.job):
        return "a job's name has 1 to 64 letters, digits, '.', '_' or '-'"
    match command.command:
        case "apply":
            return _spec_refusal(view, command)
        case promoting.PROMOTE | promoting.REJECT:
            return promoting.fault(read.job(view, command.job), command)
        case "approve" | "redrive" | "grant" | "pause_too":
            body = _object(command.body_json)
            return _NO_OBJECT if body is None else _body_refusal(body)
        case hinting.COMMAND:
            body = _object(command.body_json)
            return _NO_OBJECT if body is None else hinting.fault(body)
        case limiting.COMMAND:
            body = _object(command.body_json)
            return _NO_OBJECT if body is None else limiting.fault(body)
        case "revert" | "replay":
            body = _object(command.body_json)
            return _NO_OBJECT if body is None else reverting.fault(body)
        case "import":
            body = _object(command.body_json)
            return _NO_OBJECT if body is None else _files_refusal(body)
        case rerunning.COMMAND:
            body = _object(command.body_json)
            job = read.job(view, command.job)
            return _NO_OBJECT if body is None else rerunning.fault(job, command.version, body)
        case _:
            return None


def _spec_refusal(view: StateView, command: Control) -> str | None:
    try:
        spec = JobSpec.from_json(command.body_json)
    except JobSpecError as error:
        return f"the spec is ill-formed: {error}"
    if spec.job != command.job or version_of(spec) != command.version:
        return "the command names another job or version than its spec"
    wrong = errors(spec)
    if wrong:
        return f"the spec does not compile: {wrong[0]}"
    way = cycle([*edges(spec), *(edge for row in jobs(view) if row.job != spec.job for edge in edges_of_row(row))])
    if way is not None:
        return told_cycle(way)
    job = read.job(view, command.job)
    held = 0 if job is None or knows(job, command.version or "") else len(job.versions_json.encode())
    if held + len(command.body_json.encode()) > _VERSIONS_BYTES_MAX:
        return f"all versions of a job take at most {_VERSIONS_BYTES_MAX} bytes together: apply it under a new job name"
    return None


def _body_refusal(body: dict[str, Any]) -> str | None:
    if not _texts(body.get("chunks") or []):
        return "`chunks` is expected to be a list of chunk ids"
    if not _texts(body.get("requests", [])):
        return "`requests` is expected to be a list of request ids"
    if not _amounts(body.get("granted", {})) or not _amounts(body.get("most", {})):
        return "`granted` and `most` are expected to be whole numbers by pool"
    if not _texts([body.get("reason", ""), body.get("after", "")]):
        return "`reason` and `after` are expected to be texts"
    letters = body.get("letters", [])
    if not isinstance(letters, list) or not all(_is_place(letter) for letter in letters):
        return "`letters` is expected to be a list of [partition, offset]"
    return None


def _files_refusal(body: dict[str, Any]) -> str | None:
    files = body.get("files")
    if not isinstance(files, dict) or not all(_is_part(part) for part in files.values()):
        return "`files` is expected to name a part {uri, lines} by partition"
    return None


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _amounts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(amount) is int for amount in value.values())


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("uri"), str) and type(value.get("lines")) is int


def _is_place(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(item) is int and item >= 0 for item in value)


def read_up_to(end: int) -> list[Order]:
    """Remember how far the commands were read: an unknown job may be one that was not heard of yet."""
    return [Put(Meta(name=READ_TO, value_json=str(end))), Wake("arrivals")]


def read_to(view: StateView) -> int:
    """The offset of the next command."""
    row = read.meta(view, READ_TO)
    return 0 if row is None else int(row.value_json)


def jobs(view: StateView) -> list[Job]:
    """Every job this task knows."""
    return [row for _, row in view.scan("job", "", limit=_ROWS_MAX) if isinstance(row, Job)]


def knows_version(view: StateView, job_name: str, version: str) -> bool:
    """Whether this task has heard of a version: commands and records of other tasks arrive in no common order."""
    job = read.job(view, job_name)
    return job is not None and knows(job, version)


def sweep(view: StateView, job_name: str, now_ms: int) -> list[Order]:
    """One cut of ending the lives that a cancellation of the job is about; empty when there is nothing to sweep.

    Its cursor is the meta row that the cancellation left; the last cut takes it away.
    """
    row = read.meta(view, _sweep_name(job_name))
    if row is None:
        return []
    after: str | None = json.loads(row.value_json)
    found = view.scan("open", f"{job_name}/", after=after, limit=CUT_MEMBERS)
    orders: list[Order] = []
    for _, life in found:
        assert isinstance(life, Life)
        free = life.chunk_id is None and life.status in ENDED_AT_ONCE
        if free and isinstance(unwanted(view, life), Cancelled):
            ended = moved(life, Cancelled(), now_ms)
            orders += [Put(ended), obituary(ended, stage=_STAGE, error="", now_ms=now_ms)]
    if len(found) < CUT_MEMBERS:
        return [Delete(Meta.schema, row.name), *orders]
    return [Put(replace(row, value_json=json.dumps(found[-1][0]))), *orders]


def _applied(view: StateView, job: Job | None, command: Control, now_ms: int) -> list[Order]:
    """Add the version if it is new. The job's first one is in force from now on; a later one is tried out."""
    if command.version is None:
        return []
    versions: dict[str, Any] = {} if job is None else json.loads(job.versions_json)
    # A version names ask and judge only: what else the spec says (place, mode, retry) is taken as it is now.
    spec = versions[command.version] = json.loads(command.body_json)
    row = listed(job) if job is not None else _first(command)
    row = replace(
        row,
        versions_json=json.dumps(versions, separators=(",", ":")),
        last_command_id=command.command_id,
        updated_at_ms=now_ms,
    )
    if row.version != command.version:
        row = tried_out(row, command.version, (spec.get("gate") or {}).get("live_sample", 0))
    return [Put(row), Wake("arrivals"), *heard_anew(view, row, now_ms)]


def _first(command: Control) -> Job:
    assert command.version is not None, "an application names its version"
    row = Job(
        job=command.job,
        version=command.version,
        versions_json="{}",
        paused=False,
        cancelled_before_ms=None,
        last_command_id=command.command_id,
        updated_at_ms=command.issued_at_ms,
    )
    return promoted(row, command.version, at_ms=command.issued_at_ms, command_id=command.command_id)


def _paused_too(job: Job, body: dict[str, Any], now_ms: int) -> list[Order]:
    """Pause as another task did by itself; not if an operator has spoken since: a resume is never undone."""
    if job.paused or job.last_command_id != body.get("after"):
        return []
    return [Put(replace(job, paused=True, pause_reason=body.get("reason"), updated_at_ms=now_ms))]


def _cancelled(view: StateView, job: Job, at_ms: int, now_ms: int) -> list[Order]:
    before = max(at_ms, job.cancelled_before_ms or 0)
    orders: list[Order] = [
        Put(replace(job, cancelled_before_ms=before)),
        Put(Meta(name=_sweep_name(job.job), value_json="null")),
    ]
    orders += [Put(row) for chunk in _chunks(view, job.job) if (row := stopped(chunk, now_ms)) is not None]
    return [*orders, Wake("sweep"), *_woken()]


def stopped(chunk: Chunk, now_ms: int) -> Chunk | None:
    """The chunk as it is once nobody wants it sent: ended where it was not, else on its way to that; None: too late."""
    if chunk.state in _UNSENT:
        ended = {"state": ChunkState.ENDED, "reason": Reason.CANCELLED, "note": "cancelled before it was sent"}
        return _with(chunk, now_ms, cursor=None, due_at_ms=None, cancel_requested=True, **ended)
    if chunk.state is ChunkState.ATTEMPTING:
        return _with(chunk, now_ms, cancel_requested=True)
    if chunk.state is ChunkState.OPEN:
        return _with(chunk, now_ms, cancel_requested=True, due_at_ms=None)
    return None


def _approved(view: StateView, job: Job, body: dict[str, Any], now_ms: int) -> list[Order]:
    """Let held chunks go: those that `chunks` names, else all of the job."""
    named = body.get("chunks")
    held = [chunk for chunk in _chunks(view, job.job) if chunk.state is ChunkState.HELD]
    chosen = [chunk for chunk in held if named is None or chunk.chunk_id in named]
    return [*(Put(_with(chunk, now_ms, state=ChunkState.SEALED, note=None)) for chunk in chosen), *_woken()]


def _chunks(view: StateView, job_name: str) -> list[Chunk]:
    found = view.scan("chunk_job", f"{job_name}/", limit=_ROWS_MAX)
    return [row for _, row in found if isinstance(row, Chunk)]


def _with(chunk: Chunk, now_ms: int, **changes: Any) -> Chunk:
    return replace(chunk, updated_at_ms=now_ms, **changes)


def _sweep_name(job_name: str) -> str:
    return f"sweep/{job_name}"


def _woken() -> list[Order]:
    return [Wake(effect) for effect in ("arrivals", "sealing", "dispatch", "calls", "poll", "commit")]
