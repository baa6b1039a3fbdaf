"""What a target of a sink holds, and what a write, a revert or a replay makes of it: the law that all sinks keep.

A sink reads the facts of a target, asks here, and carries out the answer in the transaction in which it read them. The
history of a target keeps every row that it ever had. A write must outrank all of them, not only the row that is held:
after a revert the target holds an old row again, exactly as it was, and still nothing older than what was taken back
may enter. What must not live here: a row's bytes, SQL, or a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from batchmill.streams.ports import Beneath, ChangeKind, SinkChange, SinkOutcome, SinkResult, SinkWrite

__all__ = ["NO_ORDER", "Changed", "Past", "Target", "Written", "change", "write"]

#: `Past.change_order` of a commit that no command has touched; below every offset of a log
NO_ORDER: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One commit in the history of a target."""

    commit_id: str
    previous_commit_id: str | None  #: what the target held when this was written
    changed: bool  #: it held something, and that was another value
    reverted: bool = False
    change_order: int = NO_ORDER  #: of the last command that reverted it or put it back
    beneath: Beneath | None = None  #: whose `previous_commit_id` is; only changes need it


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The facts of one target, before or after an answer. `past` needs to hold the commits that are asked about."""

    held_commit_id: str | None = None
    held_sha256: str | None = None  #: of the bytes held; only writes need it
    newest: tuple[int, int] | None = None  #: the highest rank it ever held
    past: Mapping[str, Past] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The answer to a write. `past` is the history row to add, with the row itself; None: write nothing."""

    result: SinkResult
    target: Target
    past: Past | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The answer to a change. `past` is the history row to replace; None: touch nothing."""

    result: SinkResult
    target: Target
    past: Past | None = None
    moves: bool = False  #: the target now holds the row of `target.held_commit_id`, or none


def write(target: Target, asked: SinkWrite, sha256: str) -> Written:
    """Compare and set; `sha256` is of the bytes asked for."""
    known = target.past.get(asked.commit_id)
    if known is not None:
        return Written(result=_told(known, SinkOutcome.ALREADY, changed=known.changed), target=target)
    rank = (asked.seq, asked.promotion)
    if target.newest is not None and rank <= target.newest:
        held = target.held_commit_id
        stale = SinkResult(commit_id=asked.commit_id, outcome=SinkOutcome.STALE, held_commit_id=held)
        return Written(result=stale, target=target)
    past = Past(
        commit_id=asked.commit_id,
        previous_commit_id=target.held_commit_id,
        changed=target.held_commit_id is not None and target.held_sha256 != sha256,
    )
    after = Target(
        held_commit_id=asked.commit_id,
        held_sha256=sha256,
        newest=rank,
        past={**target.past, asked.commit_id: past},
    )
    return Written(result=_told(past, SinkOutcome.APPLIED, changed=past.changed), target=after, past=past)


def change(target: Target, asked: SinkChange) -> Changed:
    """Take a commit back, or put it back; the result's `output_json` is the sink's to fill in."""
    past = target.past.get(asked.commit_id)
    if past is None:
        return _conflict(target, asked)
    made = _revert(target, asked, past) if asked.kind is ChangeKind.REVERT else _replay(target, asked, past)
    return replace(made, result=replace(made.result, beneath=past.beneath))


def _revert(target: Target, asked: SinkChange, past: Past) -> Changed:
    differs = past.changed or past.previous_commit_id is None
    if past.reverted:
        return _already(target, asked, past, changed=differs)
    if asked.order < past.change_order or target.held_commit_id != past.commit_id:
        return _conflict(target, asked)
    return _moved(target, asked, past, to=past.previous_commit_id, changed=differs)


def _replay(target: Target, asked: SinkChange, past: Past) -> Changed:
    # Put back by this command or a newer one, and perhaps replaced since: the command has been carried out.
    carried_out = not past.reverted and asked.order <= past.change_order
    if carried_out or target.held_commit_id == past.commit_id:
        return _already(target, asked, past, changed=past.changed)
    if asked.order < past.change_order or target.held_commit_id != past.previous_commit_id:
        return _conflict(target, asked)
    return _moved(target, asked, past, to=past.commit_id, changed=past.changed)


def _moved(target: Target, asked: SinkChange, past: Past, *, to: str | None, changed: bool) -> Changed:
    done = replace(past, reverted=asked.kind is ChangeKind.REVERT, change_order=asked.order)
    after = replace(_with(target, done), held_commit_id=to, held_sha256=None)
    return Changed(result=_told(done, SinkOutcome.APPLIED, changed=changed), target=after, past=done, moves=True)


def _already(target: Target, asked: SinkChange, past: Past, *, changed: bool) -> Changed:
    """Done before; the newer of two orders is the one that counts, so that one in between comes too late."""
    told = _told(past, SinkOutcome.ALREADY, changed=changed)
    if asked.order <= past.change_order:
        return Changed(result=told, target=target)
    noted = replace(past, change_order=asked.order)
    return Changed(result=told, target=_with(target, noted), past=noted)


def _conflict(target: Target, asked: SinkChange) -> Changed:
    held = target.held_commit_id
    result = SinkResult(commit_id=asked.commit_id, outcome=SinkOutcome.CONFLICT, held_commit_id=held)
    return Changed(result=result, target=target)


def _with(target: Target, past: Past) -> Target:
    return replace(target, past={**target.past, past.commit_id: past})


def _told(past: Past, outcome: SinkOutcome, *, changed: bool) -> SinkResult:
    return SinkResult(
        commit_id=past.commit_id,
        outcome=outcome,
        previous_commit_id=past.previous_commit_id,
        changed=changed,
    )
