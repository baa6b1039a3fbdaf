"""A sink in memory that keeps the law of all sinks (`streams.holding`), and one that cannot compare. Either may hang up
after it wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from batchmill.schemas.ids import change_id, content_sha256
from batchmill.streams import holding
from batchmill.streams.ports import Beneath, SinkCapabilities, SinkChange, SinkOutcome, SinkResult, SinkWrite

__all__ = ["Held", "SimSink"]


@dataclass(frozen=True, slots=True)
class Held:
    write: SinkWrite
    previous_commit_id: str | None


@dataclass(slots=True)
class SimSink:
    compares: bool = True
    rows: dict[str, Held] = field(default_factory=dict)  #: target key -> what it holds
    history: dict[str, Held] = field(default_factory=dict)  #: commit id -> what was written
    asked: list[SinkWrite] = field(default_factory=list)  #: every write, in order, told or not
    made: set[str] = field(default_factory=set)  #: changes that were carried out
    _targets: dict[str, holding.Target] = field(default_factory=dict)

    @property
    def capabilities(self) -> SinkCapabilities:
        return SinkCapabilities(compares=self.compares, revertible=self.compares)

    def apply(self, writes: Sequence[SinkWrite]) -> list[SinkResult]:
        self.asked += writes
        return [self._write(write) if self.compares else self._overwrite(write) for write in writes]

    def change(self, changes: Sequence[SinkChange]) -> list[SinkResult]:
        return [self._change(change) for change in changes]

    def output_of(self, target_key: str) -> str | None:
        held = self.rows.get(target_key)
        return None if held is None else held.write.output_json

    def dump(self) -> dict[str, Held]:
        """Everything that readers see."""
        return dict(self.rows)

    def _write(self, write: SinkWrite) -> SinkResult:
        target = self._targets.get(write.target_key, holding.Target())
        decided = holding.write(target, write, content_sha256(write.output_json.encode()))
        if decided.past is not None:
            self.rows[write.target_key] = self.history[write.commit_id] = Held(write, decided.past.previous_commit_id)
        self._targets[write.target_key] = decided.target
        return decided.result

    def _overwrite(self, write: SinkWrite) -> SinkResult:
        before = self.rows.get(write.target_key)
        held = Held(write, None if before is None else before.write.commit_id)
        self.rows[write.target_key] = held
        self.history.setdefault(write.commit_id, held)
        return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.APPLIED)

    def _change(self, change: SinkChange) -> SinkResult:
        target = self._targets.get(change.target_key, holding.Target())
        decided = holding.change(self._with_beneath(target, change), change)
        self._targets[change.target_key] = decided.target
        if decided.moves:
            self.made.add(change_id(change.kind, change.commit_id, change.order))
            to = decided.target.held_commit_id
            if to is None:
                del self.rows[change.target_key]
            else:
                self.rows[change.target_key] = self.history[to]
                held = self.history[to]
                sha256 = content_sha256(held.write.output_json.encode())
                self._targets[change.target_key] = holding.Target(
                    held_commit_id=to, held_sha256=sha256, newest=decided.target.newest, past=decided.target.past
                )
        return SinkResult(
            commit_id=decided.result.commit_id,
            outcome=decided.result.outcome,
            previous_commit_id=decided.result.previous_commit_id,
            changed=decided.result.changed,
            held_commit_id=decided.result.held_commit_id,
            output_json=self.output_of(change.target_key),
            beneath=decided.result.beneath,
        )

    def _with_beneath(self, target: holding.Target, change: SinkChange) -> holding.Target:
        past = target.past.get(change.commit_id)
        before = None if past is None or past.previous_commit_id is None else self.history.get(past.previous_commit_id)
        if past is None or before is None:
            return target
        write = before.write
        beneath = Beneath(commit_id=write.commit_id, request_id=write.request_id, run_id=write.run_id, seq=write.seq)
        known = {**target.past, change.commit_id: replace(past, beneath=beneath)}
        return replace(target, past=known)
