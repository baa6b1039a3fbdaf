"""Law: Anthropic's JSON objects: batch, list, error. Pure; what a fault hides or alters in them is decided here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchmill.agents.simulator.faults import Fault
from batchmill.agents.simulator.records import Batch, BatchStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["batch_object", "deleted_object", "error_object", "has_results", "list_object"]


def error_object(kind: str, message: str, *, request_id: str | None, code: str | None = None) -> dict[str, Any]:
    error = {"type": kind, "message": message} | ({"details": {"error_code": code}} if code else {})
    return {"type": "error", "error": error, "request_id": request_id}


def deleted_object(batch_id: str) -> dict[str, Any]:
    return {"id": batch_id, "type": "message_batch_deleted"}


def list_object(items: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "data": list(items),
        "has_more": has_more,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
    }


def batch_object(batch: Batch, *, now_ms: int, base_url: str, flapping: bool = False) -> dict[str, Any]:
    ended = batch.status.ended and not flapping
    there = ended and has_results(batch, now_ms=now_ms)
    archived_ms = _archived_ms(batch)
    shown = {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": _status(batch, ended=ended),
        "request_counts": _counts(batch, ended=ended),
        "ended_at": _time(batch.ended_ms) if ended else None,
        "created_at": _time(batch.created_ms),
        "expires_at": _time(batch.expires_ms),
        "archived_at": _time(archived_ms) if archived_ms is not None and now_ms >= archived_ms else None,
        "cancel_initiated_at": _time(batch.cancelling_ms),
        "results_url": f"{base_url}/v1/messages/batches/{batch.id}/results" if there else None,
    }
    absent = Fault.ABSENT_KEYS in batch.faults
    return {name: value for name, value in shown.items() if not (absent and value is None)}


def has_results(batch: Batch, *, now_ms: int) -> bool:
    """Whether the results can be read now: not before the end, not too soon after it, not too late."""
    if batch.ended_ms is None:
        return False
    archived_ms = _archived_ms(batch)
    late_ms = batch.ended_ms + batch.faults.get(Fault.LATE_OUTPUT_FILE, 0.0) * 1000
    return now_ms >= late_ms and (archived_ms is None or now_ms < archived_ms)


def _archived_ms(batch: Batch) -> int | None:
    if Fault.ARCHIVED not in batch.faults or batch.ended_ms is None:
        return None
    return batch.ended_ms + round(batch.faults[Fault.ARCHIVED] * 1000)


def _status(batch: Batch, *, ended: bool) -> str:
    if ended:
        return "ended"
    if batch.cancelling_ms is not None:
        return "canceling"
    return "scheduling" if Fault.STATUS_SCHEDULING in batch.faults else "in_progress"


def _counts(batch: Batch, *, ended: bool) -> dict[str, int]:
    """Everything is `processing` until all of it has ended."""
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    if not ended:
        return counts | {"processing": batch.total}
    counts |= {"succeeded": batch.completed, "errored": batch.failed}
    left = "canceled" if batch.status is BatchStatus.CANCELLED else "expired"
    return counts | {left: batch.total - batch.completed - batch.failed}


def _time(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat()
