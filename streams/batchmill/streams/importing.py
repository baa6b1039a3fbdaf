"""The `import` command: answers that were bought elsewhere, joined by id to requests that still wait.

The file was read, joined and split by task before the command was written (`agents.interchange`); each task finds its
part in the payload store and goes through it in cuts. Here it is decided again, by the task's own rows, whether a
request still waits: what has been sent, answered or ended meanwhile is left as it is. An answer that is taken counts as
one attempt of its request, made elsewhere: it has its own send number and custom id, its usage is priced and posted
once, and it is judged like any other. The progress of an import is a row, put in the same transaction as the moves of a
cut, so that a crash repeats a cut as a whole or not at all.

A request waits if it is queued for the send that the answer names, and no batch that is closed and on its way to the
provider has it. From a batch that is still filling, or is held for approval before its first attempt, it is taken out.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import orjson

from batchmill.schemas.ids import chunk_nonce, content_sha256, custom_id, parse_custom_id
from batchmill.schemas.records import Control, Result
from batchmill.schemas.state import Chunk, Life, Meta
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import without_members
from batchmill.streams.controlling import knows_version
from batchmill.streams.facts import Answered, Attempted, Charge, Released
from batchmill.streams.index import IMPORT_ROWS, IMPORTED_ROWS
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.ports import RowOutcome
from batchmill.streams.settling import life_key, moved, unwanted
from batchmill.streams.view import StateView

__all__ = [
    "COMMAND",
    "CUT_LINES",
    "TIER",
    "TRIES_MAX",
    "Bought",
    "Fate",
    "Part",
    "Price",
    "Progress",
    "bought_line",
    "command_body",
    "counts_of",
    "current",
    "fate",
    "finish_import",
    "import_command",
    "import_cut",
    "put_off",
    "read_bought",
    "standing",
    "waiting",
]

COMMAND: Final = "import"
#: answers that one transaction takes
CUT_LINES: Final = 500
#: times a part that is not in the payload store is looked for
TRIES_MAX: Final = 30
#: finished imports that a task remembers
_REMEMBERED_MAX: Final = 20
#: which price list applies: what was bought as a batch elsewhere was sold as a batch
TIER: Final = "batch"
#: chunk states in which a member is certainly not on its way
_TAKES_BACK: Final = frozenset({ChunkState.FILLING, ChunkState.HELD})

#: prices an answer of a life: (nano-dollars, or None when there is no price; id of the price list)
Price = Callable[[Life, RowOutcome], tuple[int | None, str | None]]


class Fate(StrEnum):
    """What becomes of one answer."""

    ANSWERED = "answered"  #: it is its request's answer now
    UNKNOWN = "unknown"  #: no such request of this job
    IN_FLIGHT = "in_flight"  #: the request is in a batch that is on its way: its own answer comes
    PAST = "past"  #: the request has an answer, has ended, or is beyond the send that the answer names
    UNREADABLE = "unreadable"  #: the line cannot be read
    UNREAD = "unread"  #: the part was not in the payload store, as often as it was looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """One answer and the send of the request that it belongs to."""

    request_id: str
    send: int
    row: RowOutcome


@dataclass(frozen=True, slots=True)
class Part:
    """What one task has to read: a file of the payload store."""

    uri: str
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task has got with its part."""

    command_id: str
    job: str
    part: Part
    done: int = 0  #: lines
    tries: int = 0  #: in a row that did not find the file
    counts: Mapping[str, int] = field(default_factory=dict)  #: by Fate


# -- one answer --------------------------------------------------------------------------------------------------------


def bought_line(bought: Bought) -> bytes:
    """A line of a part."""
    row = bought.row
    told = {name: getattr(row, name) for name in _TOLD}
    line = {"request_id": bought.request_id, "send": bought.send, "custom_id": row.custom_id, **told}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def read_bought(line: bytes) -> Bought | None:
    """What `bought_line` wrote; None for anything else."""
    try:
        told = orjson.loads(line)
        row = RowOutcome(
            custom_id=told["custom_id"],
            outcome=Outcome.SUCCEEDED,
            reason=None,
            **{name: told[name] for name in _TOLD},
        )
        return Bought(request_id=told["request_id"], send=told["send"], row=row)
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None


_TOLD: Final = (
    "output",
    "finish_reason",
    "refusal",
    "http_status",
    "model",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "usage_known",
    "billed",
)


def standing(custom_id: str) -> tuple[str, int] | None:
    """The request and send that an id names: a custom id of ours, or a bare request id, which means its first send."""
    sent = parse_custom_id(custom_id)
    if sent is not None:
        return sent.request_id, sent.sends
    bare = parse_custom_id(f"{custom_id}-1-{chunk_nonce('')}")
    return None if bare is None else (bare.request_id, 1)


def fate(*, status: Status, sends: int, stored: bool, chunk: ChunkState | None, sent_before: bool, send: int) -> Fate:
    """What an answer for `send` can be to a life. `chunk` is the state of the batch it is in; `sent_before`: the batch
    has a payload already. `stored`: a stored answer is about to be read.
    """
    if status is Status.PROCESSING and send == sends:
        return Fate.IN_FLIGHT
    if status is not Status.QUEUED or send != sends + 1 or stored:
        return Fate.PAST
    if chunk is None or (chunk in _TAKES_BACK and not sent_before):
        return Fate.ANSWERED
    return Fate.IN_FLIGHT


# -- the command -------------------------------------------------------------------------------------------------------


def command_body(parts: Mapping[int, Part]) -> str:
    """The body of an import command: each task's part by its partition."""
    files = {str(partition): {"uri": part.uri, "lines": part.lines} for partition, part in parts.items()}
    return json.dumps({"files": files}, separators=(",", ":"))


def import_command(view: StateView, command: Control, partition: int) -> list[Order]:
    """Note this task's part, to be gone through by the effect; without one the import is over here at once."""
    told: dict[str, Any] | None = json.loads(command.body_json)["files"].get(str(partition))
    part = Part("", 0) if told is None else Part(told["uri"], told["lines"])
    progress = Progress(command_id=command.command_id, job=command.job, part=part)
    if told is None:
        return finish_import(view, progress)
    return [Put(_row(progress)), Wake("imports")]


def waiting(view: StateView, limit: int) -> list[Progress]:
    """Imports that are under way, oldest first."""
    rows = [row for _, row in view.scan("import", IMPORT_ROWS, limit=limit)]
    return [_progress(row) for row in rows if isinstance(row, Meta)]


def current(view: StateView, progress: Progress) -> Progress:
    """The import as its row says now."""
    row = read.meta(view, IMPORT_ROWS + progress.command_id)
    assert row is not None, f"import {progress.command_id} is over"
    return _progress(row)


def import_cut(
    view: StateView, progress: Progress, lines: Sequence[Bought | None], *, price: Price, now_ms: int
) -> list[Order]:
    """Take the next lines of a part; None stands for one that cannot be read."""
    cut = _Cut(view, progress, price, now_ms)
    fates = Counter(cut.take(line) for line in lines)
    counts = Counter(progress.counts) + Counter({each.value: count for each, count in fates.items()})
    after = replace(progress, done=progress.done + len(lines), tries=0, counts=dict(counts))
    return [Put(_row(after)), *cut.ordered()]


def put_off(view: StateView, progress: Progress) -> list[Order]:
    """The part is not in the payload store: look again later, and after many times count its rest as unread."""
    after = replace(progress, tries=progress.tries + 1)
    return finish_import(view, after) if after.tries >= TRIES_MAX else [Put(_row(after))]


def finish_import(view: StateView, progress: Progress) -> list[Order]:
    """Remember what became of the part, and forget the oldest of such memories."""
    left = max(0, progress.part.lines - progress.done)
    counts = dict(progress.counts) | ({Fate.UNREAD.value: left} if left else {})
    row = Meta(name=IMPORTED_ROWS + progress.command_id, value_json=json.dumps({"job": progress.job, "counts": counts}))
    old = view.scan("import", IMPORTED_ROWS, limit=_REMEMBERED_MAX)
    forgotten = [Delete(Meta.schema, old[0][1].key)] if len(old) == _REMEMBERED_MAX else []
    return [Put(row), Delete(Meta.schema, IMPORT_ROWS + progress.command_id), *forgotten]


def counts_of(row: Meta) -> dict[str, int]:
    """What became of the lines of a finished part, by Fate."""
    found: dict[str, int] = json.loads(row.value_json)["counts"]
    return found


def _row(progress: Progress) -> Meta:
    told = {
        "job": progress.job,
        "uri": progress.part.uri,
        "lines": progress.part.lines,
        "done": progress.done,
        "tries": progress.tries,
        "counts": dict(progress.counts),
    }
    return Meta(name=IMPORT_ROWS + progress.command_id, value_json=json.dumps(told, separators=(",", ":")))


def _progress(row: Meta) -> Progress:
    told = json.loads(row.value_json)
    return Progress(
        command_id=row.name.removeprefix(IMPORT_ROWS),
        job=told["job"],
        part=Part(told["uri"], told["lines"]),
        done=told["done"],
        tries=told["tries"],
        counts=told["counts"],
    )


# -- a cut -------------------------------------------------------------------------------------------------------------


class _Cut:
    """The rows after some answers were taken: later ones of the same cut must see what earlier ones did."""

    def __init__(self, view: StateView, progress: Progress, price: Price, now_ms: int) -> None:
        self._view = view
        self._progress = progress
        self._price = price
        self._now_ms = now_ms
        self._chunks: dict[str, Chunk] = {}
        self._taken: set[str] = set()
        self._orders: list[Order] = []

    def take(self, bought: Bought | None) -> Fate:
        if bought is None:
            return Fate.UNREADABLE
        life = read.life(self._view, bought.request_id)
        if life is None or life.job != self._progress.job or not knows_version(self._view, life.job, life.version):
            return Fate.UNKNOWN
        if life.request_id in self._taken or unwanted(self._view, life) is not None:
            return Fate.PAST
        chunk = None if life.chunk_id is None else self._chunk(life.chunk_id)
        found = fate(
            status=life.status,
            sends=life.sends,
            stored=life.result_offset is not None,
            chunk=None if chunk is None else chunk.state,
            sent_before=chunk is not None and chunk.payload_sha256 is not None,
            send=bought.send,
        )
        if found is Fate.ANSWERED:
            self._taken.add(life.request_id)
            self._answered(life if chunk is None else self._taken_out(life, chunk), bought.row)
        return found

    def ordered(self) -> list[Order]:
        return [*(Put(chunk) for chunk in self._chunks.values()), *self._orders]

    def _chunk(self, chunk_id: str) -> Chunk:
        row = self._chunks.get(chunk_id) or read.chunk(self._view, chunk_id)
        assert row is not None, f"a life names chunk {chunk_id}, which the task lacks"
        return row

    def _taken_out(self, life: Life, chunk: Chunk) -> Life:
        self._chunks[chunk.chunk_id] = without_members(chunk, [life], self._now_ms)
        return moved(life, Released(chunk_id=chunk.chunk_id), self._now_ms)

    def _answered(self, life: Life, row: RowOutcome) -> None:
        """One attempt, begun and ended in one step: nobody can see it under way."""
        name = f"import-{self._progress.command_id}"
        nanos, price_id = self._price(life, row) if row.billed else (0, None)
        result = _result(life, row, name, nanos, price_id, self._now_ms)
        charge = Charge(
            cost_nanos=nanos,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            calls=1 if row.billed else 0,
        )
        asked = moved(life, Attempted(chunk_id=name, sends=life.sends + 1), self._now_ms)
        assert result.output_sha256 is not None, "an answer is named by its hash"
        fact = Answered(sends=asked.sends, output_sha256=result.output_sha256, charge=charge)
        self._orders += [Put(moved(asked, fact, self._now_ms)), Emit(result, key=life_key(life))]


def _result(life: Life, row: RowOutcome, name: str, nanos: int | None, price_id: str | None, now_ms: int) -> Result:
    return Result(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        attempt=life.attempt + 1,
        chunk_id=name,
        custom_id=custom_id(life.request_id, life.sends + 1, chunk_nonce(name)),
        outcome=Outcome.SUCCEEDED,
        output=row.output,
        output_sha256=content_sha256((row.output or "").encode("utf-8", "surrogatepass")),
        finish_reason=row.finish_reason,
        refusal=row.refusal,
        http_status=row.http_status,
        error_code=None,
        reason=None,
        model=row.model,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        cache_write_tokens=row.cache_write_tokens,
        tier=TIER,
        cost_nanos=nanos,
        price_id=price_id,
        answered_by="import",
        route=life.route,
        received_at_ms=now_ms,
    )
