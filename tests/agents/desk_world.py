"""A desk without a broker: one task in memory that obeys the real decisions of `streams`, its records folded by the
real projector into a real view, and the log's bodies out of the same list of bytes.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.holding import Holding
from batchmill.agents.desk.model import Role, User
from batchmill.agents.projector import ViewStore
from batchmill.agents.projector.folding import Fold
from batchmill.agents.settings import ReviewSettings
from batchmill.schemas.codec import decode_any, encode
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import JobSpec, JudgeSpec, ReviewSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check, Committed, Decision, Record, Verdict, WorkItem
from batchmill.schemas.state import Life, Row
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.schemas.versions import version_of
from batchmill.streams.committing import meet_verdict
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.jsontext import canonical
from batchmill.streams.orders import Delete, Emit, Order, Put
from batchmill.streams.reviewing import Beside, review, review_beside, waiting
from batchmill.streams.view import MemoryView
from tests.streams.making import make_row, make_spec
from tests.streams.rows import make_item, make_life, origin, request_name

__all__ = ["ADA", "BOB", "NOW_MS", "OLGA", "VERA", "World", "a_spec"]

NOW_MS = 1_800_000_000_000
ADA = User(name="ada", role=Role.REVIEWER)
BOB = User(name="bob", role=Role.REVIEWER)
OLGA = User(name="olga", role=Role.OPERATOR)
VERA = User(name="vera", role=Role.VIEWER)


@dataclass(frozen=True)
class _Logged:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def a_spec(**changes: Any) -> JobSpec:
    judge = JudgeSpec(categories={"label": ("fire", "water", "other")})
    return make_spec(**{"judge": judge, "review": ReviewSpec(undo_seconds=15), **changes})


class World:
    """`decided` are the decisions that were written; they take effect when `work` is called, or at once (`eager`)."""

    def __init__(self, folder: Path, *, spec: JobSpec | None = None, eager: bool = True, **settings: Any) -> None:
        self.spec = spec or a_spec()
        self.version = version_of(self.spec)
        self.now_ms = NOW_MS
        self.eager = eager
        self.broken: Exception | None = None
        self.decided: list[Decision] = []
        self.reads = 0
        self.task = MemoryView()
        self._jobs = CompiledJobs()
        self._log: dict[str, list[_Logged]] = {}
        self._folded: dict[str, int] = {}
        self._waiting: list[tuple[int, Decision]] = []
        self._numbers = itertools.count(1)
        self.view_path = folder / "view.sqlite"
        self.store = ViewStore(self.view_path, identity={"topics": "t"})
        self.holding = Holding(folder / "desk.sqlite")
        self.settings = ReviewSettings(**settings)
        self.row(make_row(self.spec))
        self.fold()

    def desk(self) -> Desk:
        """Another process's desk over the same files."""
        return Desk(
            view_path=self.view_path,
            holding=self.holding,
            bodies=self,
            write=self.write,
            settings=self.settings,
            jobs=CompiledJobs(),
            now_ms=lambda: self.now_ms,
        )

    def close(self) -> None:
        self.store.close()
        self.holding.close()

    # -- the log -------------------------------------------------------------------------------------------------------

    def log(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        held = self._log.setdefault(topic, [])
        offset = held[-1].offset + 2 if held else 0  # holes, as transactions leave them
        held.append(_Logged(offset, self.now_ms, key, value))
        return offset

    def record(self, record: Record, key: str) -> int:
        return self.log(record.schema, key.encode(), encode(record))

    def values(self, topic: str) -> list[bytes]:
        """What was written to a topic, oldest first."""
        return [each.value for each in self._log.get(topic, []) if each.value is not None]

    def row(self, row: Row) -> None:
        self.task.put(row)
        self.log("state", f"{row.schema}/{row.key}".encode(), encode(row))

    def fold(self) -> None:
        """Let the view see everything."""
        fold, positions = Fold(raw_generation=1), {}
        for topic, held in self._log.items():
            new = [each for each in held if each.offset >= self._folded.get(topic, 0)]
            if new:
                fold.add(topic, 0, new)
                self._folded[topic] = new[-1].offset + 1
                positions[topic, 0] = (new[-1].offset + 1, new[-1].timestamp, len(new))
        self.store.write(fold.statements(), positions)

    async def read(self, places: Iterable[tuple[str, int, int]]) -> dict[tuple[str, int, int], dict[str, Any]]:
        """The bodies, as `LogBodies` gives them."""
        self.reads += 1
        if self.broken is not None:
            raise self.broken
        found = {}
        for topic, partition, offset in places:
            for each in self._log.get(topic, []):
                if each.offset == offset and each.value is not None:
                    found[topic, partition, offset] = asdict(decode_any(each.value))
        return found

    async def write(self, decisions: Sequence[Decision]) -> None:
        if self.broken is not None:
            raise self.broken
        for decision in decisions:
            self.decided.append(decision)
            self._waiting.append((self.record(decision, decision.request_id), decision))
        if self.eager:
            self.work()

    # -- the task ------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Let the task obey what was decided, and the view see it."""
        todo, self._waiting = self._waiting, []
        for offset, decision in todo:
            self.now_ms += 1
            self.carry(review(self.task, decision, offset, jobs=self._jobs, now_ms=self.now_ms))
            self._judge()
        self.fold()

    def _judge(self) -> None:
        """What effect `judge` does about decisions that wait for their bodies."""
        for asked in waiting(self.task, 100):
            decision = self._body("decisions", asked.offset)
            item = self._body("normalized", self.life(asked.request_id).input_offset)
            assert isinstance(decision, Decision)
            assert isinstance(item, WorkItem)
            beside = Beside(item=item, result=None)
            self.carry(review_beside(self.task, asked, decision, beside, jobs=self._jobs, now_ms=self.now_ms))

    def _body(self, topic: str, offset: int) -> Any:
        (found,) = (each.value for each in self._log[topic] if each.offset == offset)
        return decode_any(found)

    def carry(self, orders: Iterable[Order]) -> None:
        for order in orders:
            match order:
                case Put():
                    self.row(order.row)
                case Delete():
                    self.task.delete(order.table, order.key)
                    self.log("state", f"{order.table}/{order.key}".encode(), None)
                case Emit():
                    offset = self.log(order.record.schema, order.key, encode(order.record))
                    if isinstance(order.record, Verdict):
                        self.carry(meet_verdict(self.task, order.record, offset, self.now_ms))
                case _:
                    pass

    def answer_anew(self, request_id: str, output: Any) -> None:
        """Another answer of this request waits for a person: it was redriven, and judged again."""
        text = canonical(output).decode()
        life = self.life(request_id)
        sha256 = content_sha256(text.encode())
        changes: dict[str, Any] = {"status": Status.NEEDS_REVIEW, "reason": Reason.LOW_CONFIDENCE, "due_at_ms": None}
        self.now_ms += 1
        self.row(replace(life, **changes, output_sha256=sha256, review_sha256=sha256, updated_at_ms=self.now_ms))
        self.fold()

    def life(self, request_id: str) -> Life:
        row = self.task.get(Life.schema, request_id)
        assert isinstance(row, Life)
        return row

    def ask(
        self,
        output: Any = None,
        *,
        given: Any = None,
        reason: Reason | None = Reason.LOW_CONFIDENCE,
        confidence: float | None = 0.5,
        checks: tuple[Check, ...] = (),
        **changes: Any,
    ) -> str:
        """An answer that waits for a person; its request id."""
        number = next(self._numbers)
        name = request_name(number)
        answer = {"label": "fire", "confidence": 0.5} if output is None else output
        text = canonical(answer).decode()
        item = make_item(
            number,
            job=self.spec.job,
            version=self.version,
            source_id=f"s{number}",
            input_json=json.dumps({"body": "The printer is on fire."} if given is None else given),
        )
        sha256 = content_sha256(text.encode())
        life = make_life(
            number,
            job=self.spec.job,
            version=self.version,
            status=Status.NEEDS_REVIEW,
            reason=reason,
            confidence=confidence,
            output_sha256=sha256,
            input_offset=self.record(item, name),
            review_sha256=sha256,
            updated_at_ms=self.now_ms,
            **changes,
        )
        verdict = Verdict(
            request_id=name,
            job=life.job,
            version=life.version,
            source_id=life.source_id,
            seq=life.seq,
            promotion=life.promotion,
            attempt=life.attempt,
            status=VerdictStatus.NEEDS_REVIEW,
            output_json=text,
            output_sha256=sha256,
            checks=checks,
            confidence=confidence,
            target_key=life.target_key,
            decided_by="rules",
            judged_at_ms=self.now_ms,
        )
        offset = self.record(verdict, name)
        self.row(replace(life, verdict_offset=offset, review_offset=offset))
        self.now_ms += 1
        self.fold()
        return name

    def commit(self, request_id: str) -> None:
        """Let the sink have it."""
        life = self.life(request_id)
        after = replace(life, status=Status.COMMITTED, commit_id="commit-1", updated_at_ms=self.now_ms)
        self.row(after)
        self.record(
            Committed(
                request_id=request_id,
                job=life.job,
                version=life.version,
                source_id=life.source_id,
                seq=life.seq,
                promotion=life.promotion,
                run_id=life.run_id,
                sink="sqlite",
                target_key=life.target_key,
                commit_id="commit-1",
                previous_commit_id=None,
                reverts=None,
                output_json="{}",
                output_sha256=life.output_sha256 or "",
                cost_nanos=0,
                committed_at_ms=self.now_ms,
                origin=origin(),
            ),
            request_id,
        )
        self.fold()
