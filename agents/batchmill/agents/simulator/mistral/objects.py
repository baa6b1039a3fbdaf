"""Law: Mistral's JSON objects: file, batch job, list, error. Pure; what a fault hides or alters is decided here."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator.faults import Fault
from batchmill.agents.simulator.lives import rows_done
from batchmill.agents.simulator.records import Batch, BatchStatus, StoredFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["error_object", "file_object", "invalid_object", "job_object", "list_object", "status_of"]

_SAMPLES: Final[Mapping[str, str]] = MappingProxyType({"output": "batch_result", "error": "batch_error"})
_STATUSES: Final[Mapping[BatchStatus, str]] = MappingProxyType(
    {
        BatchStatus.VALIDATING: "QUEUED",
        BatchStatus.IN_PROGRESS: "RUNNING",
        BatchStatus.FINALIZING: "RUNNING",
        BatchStatus.CANCELLING: "CANCELLATION_REQUESTED",
        BatchStatus.COMPLETED: "SUCCESS",
        BatchStatus.FAILED: "FAILED",
        BatchStatus.EXPIRED: "TIMEOUT_EXCEEDED",
        BatchStatus.CANCELLED: "CANCELLED",
    }
)


def error_object(
    message: str, *, kind: str, status: int, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {
        "object": "error",
        "message": message,
        "type": kind,
        "param": param,
        "code": code,
        "raw_status_code": status,
    }


def invalid_object(message: str, *, kind: str, place: Sequence[str | int]) -> dict[str, Any]:
    """What a request is refused with that does not have the form of one (422)."""
    return {"detail": [{"type": kind, "loc": list(place), "msg": message}]}


def file_object(file: StoredFile) -> dict[str, Any]:
    uploaded = file.purpose == "batch"
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_ms // 1000,
        "filename": file.filename,
        "purpose": "batch",
        "sample_type": "batch_request" if uploaded else _sample(file),
        "num_lines": None,
        "mimetype": "application/jsonl",
        "source": "upload" if uploaded else "mistral",
        "signature": None,
        "expires_at": None,
        "visibility": "workspace",
    }


def list_object(items: Sequence[dict[str, Any]], *, total: int) -> dict[str, Any]:
    return {"data": list(items), "object": "list", "total": total}


def job_object(
    batch: Batch, *, now_ms: int, flapping: bool = False, outputs: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {
        "id": batch.id,
        "object": "batch",
        "input_files": [batch.input_file_id],
        "metadata": batch.metadata or None,
        "endpoint": batch.endpoint,
        "model": batch.model,
        "agent_id": None,
        **_files(batch, now_ms=now_ms, hidden=flapping),
        "errors": [] if batch.problem is None else [{"message": batch.problem.message, "count": 1}],
        "outputs": outputs,
        "status": "RUNNING" if flapping else status_of(batch),
        "created_at": batch.created_ms // 1000,
        **_counts(batch, now_ms),
        "started_at": _seconds(batch.in_progress_ms),
        "completed_at": None if flapping else _seconds(batch.ended_ms),
    }


def status_of(batch: Batch) -> str:
    return _STATUSES[batch.status]


def _files(batch: Batch, *, now_ms: int, hidden: bool) -> dict[str, str | None]:
    late_seconds = batch.faults.get(Fault.LATE_OUTPUT_FILE, 0.0)
    late = batch.ended_ms is not None and now_ms < batch.ended_ms + late_seconds * 1000
    if hidden or late or not batch.status.ended:
        return {"output_file": None, "error_file": None}
    empty = "" if Fault.EMPTY_ERROR_FILE_ID in batch.faults else None
    return {"output_file": batch.output_file_id, "error_file": batch.error_file_id or empty}


def _counts(batch: Batch, now_ms: int) -> dict[str, int]:
    succeeded = batch.completed if batch.status.ended else rows_done(batch, now_ms)
    return {
        "total_requests": batch.total,
        "completed_requests": succeeded + batch.failed,
        "succeeded_requests": succeeded,
        "failed_requests": batch.failed,
    }


def _sample(file: StoredFile) -> str:
    kind = file.filename.removesuffix(".jsonl").rpartition("_")[2]
    return _SAMPLES.get(kind, "batch_result")


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
