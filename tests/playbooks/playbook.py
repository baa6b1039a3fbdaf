"""A test as a transcript: lines that begin with `>` happen, the lines below each are what it must come to.

    > event s1 A
    normalized s1/A
    life s1/A: queued
    > send
    ...

One task, one partition, a provider that does as the script says, and a clock that moves only when told. What the
transcript prints are the orders: lives and chunks as they move, and every record that is emitted, in order. `> wait`
moves the clock; `> lose create` and the like decide what the next create call comes to; a text with `(chatty)`,
`(cut)`, `(broken)`, `(invalid)`, `(expired)` or `(missing)` in it gets that outcome once.
"""

import difflib
import json
from collections.abc import Callable, Iterable
from random import Random

from batchmill.schemas import codec
from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.records import (
    Committed,
    Control,
    DeadLetter,
    Decision,
    Excluded,
    Origin,
    RawEvent,
    Record,
    Result,
    Submitted,
    Verdict,
    WorkItem,
)
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.versions import version_of
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.orders import Emit, Order, Put
from batchmill.streams.ports import RowOutcome
from tests.simulation.oracle import PROMPTS, spec_of
from tests.simulation.provider import NONE, SimProvider
from tests.simulation.sink import SimSink
from tests.simulation.stages import EFFECTS, TOPICS, Worker
from tests.simulation.world import SimTask, World

__all__ = ["Playbook", "play"]

ROUNDS_MAX = 200
IDLE_ROUNDS_MAX = 12
MARKS = ("chatty", "cut", "broken", "invalid", "expired", "missing", "unpriced")


def play(transcript: str, *, hide: tuple[str, ...] = (), **job: object) -> "Playbook":
    """Let the transcript happen; fails with a difference when it came to anything else.

    `hide` leaves out lines that begin so, where they are not what the transcript is about.
    """
    book = Playbook(hide, **job)
    wanted = [line.strip() for line in transcript.strip().splitlines()]
    for line in wanted:
        if line.startswith(">"):
            book.happen(line)
    if book.said != wanted:
        told = difflib.unified_diff(wanted, book.said, "the transcript", "what happened", lineterm="", n=4)
        raise AssertionError("\n".join(["it went otherwise:", *told]))
    return book


class Scripted(SimProvider):
    """Does as it is told, once each, and is faultless otherwise."""

    def __init__(self) -> None:
        super().__init__(Random(0), NONE)
        self.next_create: list[str] = []
        self.marked: set[str] = set()

    def _drawn(self) -> str:
        return self.next_create.pop(0) if self.next_create else "fine"

    def _answered(self, batch: object, custom_id: str, text: str) -> RowOutcome | None:
        mark = next((mark for mark in MARKS if f"({mark})" in text), "fine")
        fault = mark if text not in self.marked else "fine"
        self.marked.add(text)
        return self._with_fault(batch, custom_id, text, fault)


class ToldTask(SimTask):
    """A task that tells each order it carries out."""

    def __init__(self, world: World, tell: Callable[[Order, SimTask], None]) -> None:
        super().__init__(world, 0)
        self._tell = tell

    def apply(self, orders: Iterable[Order]) -> None:
        for order in orders:
            self._tell(order, self)
            super().apply([order])


class Playbook:
    """The stage on which a transcript happens."""

    def __init__(self, hide: tuple[str, ...] = (), **job: object) -> None:
        self.said: list[str] = []
        self._hide = hide
        self.world = World(Random(0), 1)
        self.provider = Scripted()
        self.sink = SimSink()
        self.worker = Worker(self.world, self.provider, self.sink, crash_share=0.0, rough=False)
        self.specs = [spec_of(number, **job) for number in range(len(PROMPTS))]
        self.task = ToldTask(self.world, self._tell)
        self._names: dict[str, str] = {}
        self._chunks: dict[str, int] = {}
        self._commands = 0
        self._quiet = True
        self._control("apply", version=0)
        self._consume("control")
        self._quiet = False

    def happen(self, line: str) -> None:
        self.said.append(line)
        verb, *words = line.removeprefix(">").split()
        getattr(self, f"_do_{verb}")(*words)
        self.task.commit()

    # -- what may happen ----------------------------------------------------------------------------------------------

    def _do_event(self, source: str, text: str, *seq: str) -> None:
        given = RawEvent(
            job="sim",
            source_id=source,
            seq=int(seq[0]) if seq else None,
            payload_json=json.dumps({"text": text}),
        )
        self._append_raw(source.encode(), codec.encode(given))
        self._consume("raw", "normalized")

    def _do_junk(self) -> None:
        self._append_raw(b"junk", b"\xff")
        self._consume("raw")

    def _do_seal(self) -> None:
        self._effect("sealing")

    def _do_send(self) -> None:
        """Fill a chunk, let it grow old enough to be closed, and send it."""
        self._effect("sealing")
        self.world.now_ms += 60_000
        self._effect("sealing")
        self._until(lambda: not self._chunk_rows("sealed", "prepared", "uploaded"), "dispatch")

    def _do_answer(self) -> None:
        """The provider finishes; everything up to the verdict follows."""
        self.world.now_ms += 100_000
        self._until(lambda: not self._chunk_rows("open", "ended", "downloaded", "collected"), "poll")
        self._judged()

    def _do_dispatch(self) -> None:
        self._effect("dispatch")

    def _do_look(self) -> None:
        """Time for one more look at what became of a create call."""
        self.world.now_ms += 30_000
        self._effect("dispatch")

    def _do_work(self) -> None:
        """Everything there is to do, until nothing is."""
        for _ in range(ROUNDS_MAX):
            before = len(self.said)
            self.world.now_ms += 10_000
            for name in EFFECTS:
                self._effect(name)
            self._consume(*TOPICS)
            if len(self.said) == before and not self.task.view.scan("chunk", "", limit=1):
                return

    def _do_commit(self) -> None:
        self._effect("commit")

    def _do_stored(self) -> None:
        self._effect("stored")
        self._judged()

    def _do_retry(self) -> None:
        self.world.now_ms += 60_000
        self._effect("retry")

    def _do_wait(self, seconds: str) -> None:
        self.world.now_ms += int(seconds) * 1_000

    def _do_lose(self, what: str) -> None:
        self.provider.next_create.append({"create": "lost_unknown", "answer": "accepted_unknown"}[what])

    def _do_refuse(self, what: str) -> None:
        self.provider.next_create.append({"throttled": "transient", "money": "no_money", "full": "queue_full"}[what])

    def _do_crash(self) -> None:
        self.task.crash()

    def _do_pause(self) -> None:
        self._command("pause")

    def _do_resume(self) -> None:
        self._command("resume")
        self._effect("arrivals")
        self._consume("normalized")

    def _do_cancel(self) -> None:
        self._command("cancel")
        self._effect("sweep")

    def _do_approve(self) -> None:
        self._command("approve")

    def _do_apply(self, version: str) -> None:
        self._control("apply", version=int(version))
        self._consume("control")

    def _do_promote(self, version: str) -> None:
        self._control("promote", version=int(version))
        self._consume("control")
        self._effect("promote")

    def _do_review(self, name: str, action: str) -> None:
        request_id = next(key for key, told in self._names.items() if told == name)
        life = self.task.view.get(Life.schema, request_id)
        assert isinstance(life, Life)
        decision = Decision(
            id="decision-1",
            request_id=request_id,
            job="sim",
            action=action,
            output_sha256_seen=life.output_sha256 or "",
            output_json=None,
            reason=None,
            actor="someone",
            decided_at_ms=self.world.now_ms,
        )
        self.world.append("decisions", 0, decision)
        self._consume("decisions")
        self._effect("judge")

    # -- how it happens -----------------------------------------------------------------------------------------------

    def _judged(self) -> None:
        self._consume("results")
        self._effect("judge")
        self._consume("validated")

    def _append_raw(self, key: bytes, value: bytes) -> None:
        nowhere = Origin(generation=0, partition=0, offset=0, at_ms=0)
        self.world.append("raw", 0, RawRecord(origin=nowhere, key=key, value=value))

    def _command(self, command: str) -> None:
        self._control(command)
        self._consume("control")

    def _control(self, command: str, *, version: int | None = None) -> None:
        self._commands += 1
        spec = None if version is None else self.specs[version]
        control = Control(
            command_id=f"command-{self._commands}",
            command=command,
            job="sim",
            version=None if spec is None else version_of(spec),
            body_json="{}" if spec is None else spec.to_json(),
            actor="operator",
            issued_at_ms=self.world.now_ms,
        )
        self.world.append("control", 0, control)

    def _consume(self, *topics: str) -> None:
        for name in topics:
            TOPICS[name](self.worker, self.task, 1_000)
            self.task.commit()

    def _effect(self, name: str) -> bool:
        did = EFFECTS[name](self.worker, self.task)
        self.task.commit()
        return did

    def _until(self, over: Callable[[], bool], effect: str) -> None:
        """A provider's answer takes its time: let it pass whenever nothing else is to do."""
        for _ in range(IDLE_ROUNDS_MAX):
            while not over() and self._effect(effect):
                pass
            if over():
                return
            self.world.now_ms += 10_000

    def _chunk_rows(self, *states: str) -> bool:
        return any(self.task.view.scan("chunk", f"{state}/", limit=1) for state in states)

    # -- how it is told -----------------------------------------------------------------------------------------------

    def _tell(self, order: Order, task: SimTask) -> None:
        line = self._told(order, task)
        if line is not None and not self._quiet and not line.startswith(self._hide):
            self.said.append(line)

    def _told(self, order: Order, task: SimTask) -> str | None:
        match order:
            case Put(Life() as row):
                return self._life(task.view.get(Life.schema, row.key), row)
            case Put(Chunk() as row):
                return self._chunk(task.view.get(Chunk.schema, row.key), row)
            case Emit(record):
                return self._record(record)
            case _:
                return None

    def _life(self, before: object, after: Life) -> str | None:
        name = self._names[after.request_id]
        if not isinstance(before, Life):
            return f"life {name}: {after.status}"
        if before.status is not after.status:
            why = "" if after.reason is None else f" ({after.reason})"
            return f"life {name}: {before.status} -> {after.status}{why}"
        if before.chunk_id != after.chunk_id:
            return f"life {name}: {'left its chunk' if after.chunk_id is None else f'in chunk {self._number(after)}'}"
        return None

    def _number(self, life: Life) -> int:
        return self._chunks.setdefault(life.chunk_id or "", len(self._chunks) + 1)

    def _chunk(self, before: object, after: Chunk) -> str | None:
        number = self._chunks.setdefault(after.chunk_id, len(self._chunks) + 1)
        if not isinstance(before, Chunk):
            return f"chunk {number}: {after.state}"
        if before.state is not after.state:
            return f"chunk {number}: {before.state} -> {after.state}"
        if before.looks < after.looks:
            return f"chunk {number}: not found, {after.looks} looks"
        return None

    def _record(self, record: Record) -> str | None:
        match record:
            case WorkItem():
                text = json.loads(record.input_json)["text"]
                again = "" if self.specs[0] and record.version == version_of(self.specs[0]) else "'"
                self._names[record.request_id] = f"{record.source_id}/{text}{again}"
                return f"normalized {self._names[record.request_id]}"
            case Submitted():
                sent = parse_custom_id(record.custom_id)
                assert sent is not None
                name = self._names[record.request_id]
                return f"submitted {name} line {record.line} send {sent.sends} attempt {record.chunk_attempt}"
            case Result():
                return f"result {self._names[record.request_id]} {record.outcome} by {record.answered_by}"
            case Verdict():
                return f"verdict {self._names[record.request_id]} {record.status}"
            case Committed():
                return f"committed {self._names[record.request_id]}"
            case Excluded() | DeadLetter():
                name = self._names.get(record.request_id or "", "raw")
                return f"{record.schema} {name} {record.reason}"
            case _:
                return record.schema
