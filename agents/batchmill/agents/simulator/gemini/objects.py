"""Law: Gemini's JSON objects: file, batch (a long-running operation), list, error. Pure; faults hide things here.

As protocol buffers are written in JSON: whole numbers of 64 bits are strings, what is zero or false is absent, times
are RFC 3339. A batch shows its results twice: in `response`, and in `metadata.output` where the SDK looks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator.faults import Fault
from batchmill.agents.simulator.lives import rows_done
from batchmill.agents.simulator.records import Batch, BatchStatus, StoredFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["batch_object", "error_object", "file_object", "list_object", "operation_ended", "results_shown"]

_TYPES: Final = "type.googleapis.com/google.ai.generativelanguage.v1beta."
_RPC: Final = "type.googleapis.com/google.rpc."
_STATUS: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        413: "INVALID_ARGUMENT",
        429: "RESOURCE_EXHAUSTED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
    }
)
_STATES: Final[Mapping[BatchStatus, str]] = MappingProxyType(
    {
        BatchStatus.VALIDATING: "BATCH_STATE_PENDING",
        BatchStatus.IN_PROGRESS: "BATCH_STATE_RUNNING",
        BatchStatus.FINALIZING: "BATCH_STATE_RUNNING",
        BatchStatus.COMPLETED: "BATCH_STATE_SUCCEEDED",
        BatchStatus.FAILED: "BATCH_STATE_FAILED",
        BatchStatus.EXPIRED: "BATCH_STATE_EXPIRED",
        BatchStatus.CANCELLED: "BATCH_STATE_CANCELLED",
    }
)
_NOT_FOUND, _INVALID, _EXHAUSTED = 5, 3, 8
_PROBLEMS: Final[Mapping[str, int]] = MappingProxyType(
    {"token_limit_exceeded": _EXHAUSTED, "model_not_found": _NOT_FOUND}
)


def error_object(
    status: int, message: str, *, word: str | None = None, reason: str | None = None, wait_seconds: float | None = None
) -> dict[str, Any]:
    details: list[dict[str, Any]] = []
    if reason is not None:
        details.append({"@type": f"{_RPC}ErrorInfo", "reason": reason, "domain": "googleapis.com"})
    if wait_seconds is not None:
        details.append({"@type": f"{_RPC}RetryInfo", "retryDelay": f"{wait_seconds:g}s"})
    error = {"code": status, "message": message, "status": word or _STATUS[status]}
    return {"error": error | ({"details": details} if details else {})}


def file_object(file: StoredFile, *, url: str) -> dict[str, Any]:
    generated = file.purpose == "batch_output"
    shown = {
        "name": f"files/{file.id}",
        "displayName": file.filename,
        "mimeType": "application/jsonl",
        "sizeBytes": str(file.size_bytes),
        "createTime": _time(file.created_ms),
        "updateTime": _time(file.created_ms),
        "uri": f"{url}/v1beta/files/{file.id}",
        "state": "ACTIVE",
        "source": "GENERATED" if generated else "UPLOADED",
    }
    return shown | ({"downloadUri": f"{url}/v1beta/files/{file.id}:download?alt=media"} if generated else {})


def list_object(name: str, items: Sequence[dict[str, Any]], *, next_page: str | None) -> dict[str, Any]:
    """An empty list is no member at all."""
    return ({name: list(items)} if items else {}) | ({"nextPageToken": next_page} if next_page else {})


def operation_ended(batch: Batch) -> bool:
    """A cancel that is taken ends the operation at once, though its rows are still being put together."""
    is_cancelled = batch.status is BatchStatus.CANCELLING and Fault.CANCEL_IGNORED not in batch.faults
    return batch.status.ended or is_cancelled


def results_shown(batch: Batch, *, now_ms: int) -> bool:
    late_ms = batch.faults.get(Fault.LATE_OUTPUT_FILE, 0.0) * 1000
    return batch.ended_ms is not None and batch.output_file_id is not None and now_ms >= batch.ended_ms + late_ms


def batch_object(
    batch: Batch, *, now_ms: int, flapping: bool = False, inlined: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """`inlined`: the responses of a batch whose requests came inline, which has no files to show."""
    name = f"batches/{batch.id}"
    ended = operation_ended(batch) and not flapping
    results = {} if flapping or not results_shown(batch, now_ms=now_ms) else _results(batch, inlined)
    metadata = {
        "@type": f"{_TYPES}GenerateContentBatch",
        "model": f"models/{batch.model}",
        "displayName": batch.metadata.get("display_name", ""),
        **({} if inlined is not None else {"inputConfig": {"fileName": f"files/{batch.input_file_id}"}}),
        **({"output": results} if results else {}),
        "createTime": _time(batch.created_ms),
        **({"endTime": _time(batch.ended_ms)} if batch.ended_ms is not None and ended else {}),
        "updateTime": _time(batch.ended_ms or batch.in_progress_ms or batch.created_ms),
        "batchStats": _stats(batch, now_ms),
        "state": _state(batch, flapping=flapping),
        "name": name,
    }
    shown = {"name": name, "metadata": metadata} | ({"done": True} if ended else {})
    if batch.problem is not None:
        code = _PROBLEMS.get(batch.problem.code, _INVALID)
        return shown | {"error": {"code": code, "message": batch.problem.message}}
    if results:
        shown["response"] = {"@type": f"{_TYPES}GenerateContentBatchOutput", **results}
    return shown


def _state(batch: Batch, *, flapping: bool) -> str:
    if flapping:
        return "BATCH_STATE_RUNNING"
    if batch.status is BatchStatus.CANCELLING:
        return "BATCH_STATE_CANCELLED" if operation_ended(batch) else "BATCH_STATE_RUNNING"
    return _STATES[batch.status]


def _results(batch: Batch, inlined: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    if inlined is None:
        return {"responsesFile": f"files/{batch.output_file_id}"}
    return {"inlinedResponses": {"inlinedResponses": list(inlined)}}


def _stats(batch: Batch, now_ms: int) -> dict[str, str]:
    done = batch.completed if batch.status.ended else rows_done(batch, now_ms)
    counts = {
        "requestCount": batch.total,
        "successfulRequestCount": done,
        "failedRequestCount": batch.failed,
        "pendingRequestCount": 0 if batch.status.ended else batch.total - done,
    }
    return {name: str(count) for name, count in counts.items() if count}


def _time(ms: int) -> str:
    """With nine decimals, as the service writes them."""
    return f"{datetime.fromtimestamp(ms // 1000, tz=UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}000000Z"
