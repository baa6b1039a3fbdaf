"""Law: what the simulator remembers, in no provider's words: files and batches, frozen, with their JSON form.

A batch carries everything that was decided about it when it was created (its latency, the faults that will strike it),
so that a restart continues the same life.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import orjson

__all__ = ["Batch", "BatchProblem", "BatchStatus", "StoredFile", "batch_from_json", "batch_to_json"]


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in {BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    id: str
    provider: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProblem:
    """Why a whole batch failed: the one entry the provider shows."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    id: str
    provider: str
    endpoint: str
    input_file_id: str
    input_sha256: str
    occurrence: int  # how many batches had the same input before this one
    window: str
    created_ms: int
    expires_ms: int
    listed_ms: int  # from when the list shows it
    latency_ms: int
    status: BatchStatus = BatchStatus.VALIDATING
    due_ms: int | None = None  # when its life moves next; None once it ended
    metadata: dict[str, str] = field(default_factory=dict)
    faults: dict[str, float] = field(default_factory=dict)  # fault name -> its measure (seconds or share)
    model: str | None = None
    problem: BatchProblem | None = None
    total: int = 0
    queued_tokens: int = 0  # of all its prompts, while a queue is limited
    completed: int = 0
    failed: int = 0
    done_share: float = 1.0  # of the rows, when it was cancelled or expired
    in_progress_ms: int | None = None
    finalizing_ms: int | None = None
    cancelling_ms: int | None = None
    ended_ms: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    billed_rows: int = 0
    cost_nanos: int = 0

    @property
    def stable_key(self) -> str:
        """Names the batch by what it is, not by its random id: seeds repeat over runs."""
        return f"{self.input_sha256}/{self.occurrence}"


def batch_to_json(batch: Batch) -> bytes:
    return orjson.dumps(asdict(batch))


def batch_from_json(data: bytes) -> Batch:
    value: dict[str, Any] = orjson.loads(data)
    problem = value.pop("problem")
    return Batch(**value | {"status": BatchStatus(value["status"]), "problem": problem and BatchProblem(**problem)})
