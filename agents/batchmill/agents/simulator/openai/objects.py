"""Law: OpenAI's JSON objects: file, batch, list, error. Pure; what a fault hides or alters in them is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.faults import Fault
from batchmill.agents.simulator.lives import rows_done
from batchmill.agents.simulator.records import Batch, BatchStatus, StoredFile

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["batch_object", "error_object", "event_object", "file_object", "list_object"]


def error_object(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def file_object(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_ms // 1000,
        "expires_at": None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def list_object(items: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def batch_object(batch: Batch, *, now_ms: int, flapping: bool = False) -> dict[str, Any]:
    status = BatchStatus.IN_PROGRESS if flapping else batch.status
    shown: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": _errors(batch),
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": "scheduling" if Fault.STATUS_SCHEDULING in batch.faults and status in _EARLY else status,
        **_files(batch, now_ms=now_ms, hidden=flapping),
        "created_at": batch.created_ms // 1000,
        "in_progress_at": _seconds(batch.in_progress_ms),
        "expires_at": batch.expires_ms // 1000,
        "finalizing_at": None if flapping else _seconds(batch.finalizing_ms),
        "completed_at": _ended_at(batch, status, BatchStatus.COMPLETED),
        "failed_at": _ended_at(batch, status, BatchStatus.FAILED),
        "expired_at": _ended_at(batch, status, BatchStatus.EXPIRED),
        "cancelling_at": _seconds(batch.cancelling_ms),
        "cancelled_at": _ended_at(batch, status, BatchStatus.CANCELLED),
        "request_counts": _counts(batch, now_ms),
        "metadata": batch.metadata or None,
        "usage": _usage(batch),
    }
    if Fault.ABSENT_KEYS in batch.faults:
        return {name: value for name, value in shown.items() if value is not None}
    return shown


_EARLY: Final = frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS})


def event_object(batch: Batch) -> dict[str, Any] | None:
    """The webhook event of a batch that ended; its id follows from what happened, so told twice it is the same."""
    if not batch.status.ended:
        return None
    return {
        "id": f"evt_{digest_of(batch.id, batch.status).hex()[:24]}",
        "object": "event",
        "type": f"batch.{batch.status}",
        "created_at": _seconds(batch.ended_ms),
        "data": {"id": batch.id},
    }


def _errors(batch: Batch) -> dict[str, Any] | list[dict[str, Any]] | None:
    if batch.problem is None:
        return None
    problem = batch.problem
    entry = {"code": problem.code, "line": problem.line, "message": problem.message, "param": problem.param}
    return [entry] if Fault.ERRORS_LIST in batch.faults else {"object": "list", "data": [entry]}


def _files(batch: Batch, *, now_ms: int, hidden: bool) -> dict[str, str | None]:
    late_seconds = batch.faults.get(Fault.LATE_OUTPUT_FILE, 0.0)
    late = batch.ended_ms is not None and now_ms < batch.ended_ms + late_seconds * 1000
    if hidden or late or not batch.status.ended:
        return {"output_file_id": None, "error_file_id": None}
    empty = "" if Fault.EMPTY_ERROR_FILE_ID in batch.faults else None
    return {"output_file_id": batch.output_file_id, "error_file_id": batch.error_file_id or empty}


def _counts(batch: Batch, now_ms: int) -> dict[str, int]:
    if batch.status.ended:
        return {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
    return {"total": batch.total, "completed": rows_done(batch, now_ms), "failed": 0}


def _usage(batch: Batch) -> dict[str, Any]:
    return {
        "input_tokens": batch.input_tokens,
        "input_tokens_details": {"cached_tokens": batch.cached_tokens, "cache_write_tokens": batch.cache_write_tokens},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": batch.input_tokens + batch.output_tokens,
    }


def _ended_at(batch: Batch, shown: BatchStatus, status: BatchStatus) -> int | None:
    return _seconds(batch.ended_ms) if shown is status else None


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
