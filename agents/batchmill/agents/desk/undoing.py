"""Whether a decision can still be taken back. Pure; the task has the last word (`streams.reviewing`)."""

from typing import Final

from batchmill.agents.desk import cards
from batchmill.agents.desk.model import DeskError, ErrorKind
from batchmill.agents.projector.reviewing import WaitingRow
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Decision
from batchmill.schemas.status import Status

__all__ = ["UNDOABLE", "refuse_late", "until_ms"]

UNDOABLE: Final = frozenset({"accept", "correct", "decline"})
_MS: Final = 1_000


def until_ms(decision: Decision, undo_seconds: float) -> int | None:
    """Until when undo is offered; None: never."""
    return decision.decided_at_ms + int(undo_seconds * _MS) if decision.action in UNDOABLE else None


def refuse_late(row: WaitingRow, undone: Decision, *, undo_seconds: float, pending: bool, now_ms: int) -> None:
    """CONFLICT when something has come of the decision already, or may have by the time the task hears of it.

    `pending`: it was written a moment ago and the view does not show it yet.
    """
    latest_ms = until_ms(undone, undo_seconds)
    if latest_ms is None:
        raise DeskError(ErrorKind.CONFLICT, f"{undone.action} cannot be undone")
    if not pending and not _stands(row, undone):
        told = f"nothing is left to undo: request {row.request_id} is {row.status}"
        back = f"; {_way_back(row)}" if row.commit_id is not None else ""
        raise DeskError(ErrorKind.CONFLICT, told + back)
    if undone.action != "decline" and not _is_opinion(row, undone) and now_ms > latest_ms:
        told = f"it is too late to undo (the job allows {undo_seconds:g} s); {_way_back(row)}"
        raise DeskError(ErrorKind.CONFLICT, told)


def _way_back(row: WaitingRow) -> str:
    return f"take the commit back with `batchmill commits revert {row.request_id}`"


def _is_opinion(row: WaitingRow, undone: Decision) -> bool:
    """Nothing comes of it until somebody else has decided, too."""
    return undone.id in {each.decision_id for each in cards.opinions(row)}


def _stands(row: WaitingRow, undone: Decision) -> bool:
    if _is_opinion(row, undone):
        return True
    if undone.action == "decline":
        return row.status is Status.FAILED_TERMINAL and row.reason is Reason.DECLINED
    return row.status is Status.VALIDATED and row.commit_id is None and not row.reverted
