"""Rows of the view and bodies of the log, put together into what the desk shows. Pure: nothing is read here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from batchmill.agents.desk.model import Card, DeskError, ErrorKind, Gold, Lock, QueueItem, User
from batchmill.agents.desk.passages import passages
from batchmill.agents.projector.reviewing import DecisionRow, GoldRow, Position, WaitingRow
from batchmill.schemas.records import Check, Decision
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJob
from batchmill.streams.reviewing import Opinion, drawn_twice, read_opinions

__all__ = [
    "Places",
    "actors",
    "card",
    "decision_of",
    "gold",
    "gold_places",
    "input_of",
    "item",
    "newest_in_force",
    "opinions",
    "places",
    "position",
    "position_of",
    "veiled",
]

At = tuple[str, int, int]
Bodies = Mapping[At, Mapping[str, Any]]

_DECIDES: Final = frozenset({"accept", "correct", "decline"})
#: the action of a decision that is not told
VEILED: Final = "decided"
_CURSOR_PARTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the texts of one card lie in the log."""

    asked: At
    judged: At | None
    corrections: tuple[At, ...]

    @property
    def all(self) -> tuple[At, ...]:
        return (self.asked, *(() if self.judged is None else (self.judged,)), *self.corrections)


def places(row: WaitingRow, decided: Sequence[DecisionRow]) -> Places:
    return Places(
        asked=("normalized", row.partition, row.input_offset),
        judged=None if row.verdict_at is None else ("validated", row.partition, row.verdict_at),
        corrections=tuple(("decisions", each.partition, each.offset) for each in decided if each.action == "correct"),
    )


def item(row: WaitingRow, lock: Lock | None, now_ms: int) -> QueueItem:
    later = row.due_at_ms is not None and row.due_at_ms > now_ms and row.status is Status.NEEDS_REVIEW
    return QueueItem(
        request_id=row.request_id,
        job=row.job,
        version=row.version,
        source_id=row.source_id,
        reason=row.reason,
        confidence=row.confidence,
        risk=row.risk,
        waiting_since_ms=row.updated_at_ms,
        deferred_until_ms=row.due_at_ms if later else None,
        needs_second=len(opinions(row)) == 1,
        lock=lock,
        cursor=cursor_of(position(row)),
    )


def card(
    row: WaitingRow,
    shown: QueueItem,
    job: CompiledJob,
    at: Places,
    bodies: Bodies,
    decided: Sequence[DecisionRow],
    pending: Decision | None,
) -> Card:
    asked = _of(bodies.get(at.asked), row.request_id)
    judged = None if at.judged is None else _of(bodies.get(at.judged), row.request_id)
    given, output = _decoded(asked, "input_json"), _decoded(judged, "output_json")
    schema = job.spec.ask.output_schema_json
    given_before = opinions(row)
    # who decides second must not be led by the first; who decides a disagreement should know both
    veiled = {each.decision_id for each in given_before} if len(given_before) == 1 else set()
    return Card(
        item=shown,
        status=row.status,
        aside=row.aside,
        pending=pending,
        input=given,
        output=output,
        output_sha256=row.output_sha256 or "",
        output_schema=None if schema is None else orjson.loads(schema),
        checks=tuple(Check(**check) for check in (judged or {}).get("checks", ())),
        passages=passages(job.judge, given, output),
        decline_reasons=job.spec.review.decline_reasons,
        undo_seconds=job.spec.review.undo_seconds,
        decisions=tuple(
            decision_of(each, bodies.get(("decisions", each.partition, each.offset)))
            for each in decided
            if each.id not in veiled
        ),
    )


def veiled(row: WaitingRow, job: CompiledJob, pending: Decision, user: User) -> Decision:
    """A decision on its way, without what it says to somebody who may be the second to decide on their own."""
    is_first = drawn_twice(row.request_id, job.spec) and not opinions(row) and pending.action in _DECIDES
    return replace(pending, action=VEILED, reason=None) if is_first and pending.actor != user.name else pending


def decision_of(row: DecisionRow, body: Mapping[str, Any] | None) -> Decision:
    """With the correction's text where `body` has it."""
    return Decision(
        id=row.id,
        request_id=row.request_id,
        job=row.job,
        action=row.action,
        output_sha256_seen=row.output_sha256_seen,
        output_json=(_of(body, row.request_id) or {}).get("output_json"),
        reason=row.reason,
        until_ms=row.until_ms,
        undoes=row.undoes,
        actor=row.actor,
        decided_at_ms=row.decided_at_ms,
    )


def newest_in_force(decided: Sequence[DecisionRow]) -> DecisionRow | None:
    """The newest decision that was not undone."""
    undone = {each.undoes for each in decided if each.action == "undo"}
    standing = [each for each in decided if each.action in _DECIDES and each.id not in undone]
    return standing[-1] if standing else None


def opinions(row: WaitingRow) -> tuple[Opinion, ...]:
    """The independent decisions there are on the answer that waits, oldest first."""
    if row.opinion_json is None or row.status is not Status.NEEDS_REVIEW:
        return ()
    return tuple(each for each in read_opinions(row.opinion_json) if each.seen_sha256 == row.output_sha256)


def actors(row: WaitingRow) -> frozenset[str]:
    """Who has given one of these."""
    return frozenset(each.actor for each in opinions(row))


def input_of(row: WaitingRow, body: Mapping[str, Any] | None) -> Any:
    """The decoded input of a record; None when the log no longer has it."""
    return _decoded(_of(body, row.request_id), "input_json")


def gold_places(row: GoldRow) -> Iterator[At]:
    yield ("normalized", row.partition, row.input_offset)
    if row.verdict_at is not None:
        yield ("validated", row.partition, row.verdict_at)
    if row.action == "correct":
        yield ("decisions", row.partition, row.offset)


def gold(row: GoldRow, bodies: Bodies) -> Gold | None:
    """None when the log no longer has what makes an example: its input and the right answer."""
    asked = _of(bodies.get(("normalized", row.partition, row.input_offset)), row.request_id)
    place = None if row.verdict_at is None else ("validated", row.partition, row.verdict_at)
    judged = None if place is None else _of(bodies.get(place), row.request_id)
    decided = _of(bodies.get(("decisions", row.partition, row.offset)), row.request_id)
    right = decided if row.action == "correct" else judged
    if asked is None or right is None:
        return None
    return Gold(
        request_id=row.request_id,
        job=row.job,
        version=row.version,
        source_id=row.source_id,
        input=_decoded(asked, "input_json"),
        output=_decoded(right, "output_json"),
        original=_decoded(judged, "output_json"),
        action=row.action,
        decided_by=row.actor,
        decided_at_ms=row.decided_at_ms,
        reason=row.reason,
    )


def position(row: WaitingRow) -> Position:
    return Position(risk=row.risk, since_ms=row.updated_at_ms, request_id=row.request_id)


def cursor_of(at: Position) -> str:
    return f"{at.risk!r}~{at.since_ms}~{at.request_id}"


def position_of(cursor: str | None) -> Position | None:
    """What `cursor_of` wrote; REFUSED for anything else."""
    if cursor is None:
        return None
    try:
        told, since, request_id = cursor.split("~", _CURSOR_PARTS - 1)
        return Position(risk=_share(told), since_ms=_number(since), request_id=request_id)
    except ValueError:
        raise DeskError(ErrorKind.REFUSED, "`after` is no place in the queue; begin at the start") from None


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def _number(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise ValueError
    return value


def _of(body: Mapping[str, Any] | None, request_id: str) -> Mapping[str, Any] | None:
    """A body, if it is of this request: what lies at an offset is asserted, never assumed."""
    return body if body is not None and body.get("request_id") == request_id else None


def _decoded(body: Mapping[str, Any] | None, member: str) -> Any:
    text = None if body is None else body.get(member)
    return None if text is None else orjson.loads(text)
