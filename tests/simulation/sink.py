"""A sink in memory that compares ranks, answers a commit it knows unchanged, and may hang up after it wrote."""

from dataclasses import dataclass, field

from batchmill.streams.ports import SinkOutcome, SinkResult, SinkWrite

__all__ = ["Held", "SimSink"]


@dataclass(frozen=True, slots=True)
class Held:
    write: SinkWrite
    previous_commit_id: str | None


@dataclass(slots=True)
class SimSink:
    rows: dict[str, Held] = field(default_factory=dict)  #: target key -> what it holds
    history: dict[str, Held] = field(default_factory=dict)  #: commit id -> what was written

    def apply(self, writes: list[SinkWrite]) -> list[SinkResult]:
        return [self._one(write) for write in writes]

    def _one(self, write: SinkWrite) -> SinkResult:
        known = self.history.get(write.commit_id)
        if known is not None:
            return SinkResult(
                commit_id=write.commit_id, outcome=SinkOutcome.ALREADY, previous_commit_id=known.previous_commit_id
            )
        held = self.rows.get(write.target_key)
        if held is not None and (held.write.seq, held.write.promotion) >= (write.seq, write.promotion):
            return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.STALE, held_commit_id=held.write.commit_id)
        now_held = Held(write, None if held is None else held.write.commit_id)
        self.rows[write.target_key] = self.history[write.commit_id] = now_held
        return SinkResult(
            commit_id=write.commit_id, outcome=SinkOutcome.APPLIED, previous_commit_id=now_held.previous_commit_id
        )
