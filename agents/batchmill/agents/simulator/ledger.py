"""Law: the ledger is the truth about what was asked and what was billed: JSON lines, only ever appended, fsynced.

One line is one fact; `kind` says which. Lines are numbered by `seq` from 1 in file order. Payloads are never in it,
only their sha256. This module reads; `ledger_writer` writes. A checker needs nothing else of the simulator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "BatchCancelAsked",
    "BatchCreated",
    "BatchEnded",
    "Bill",
    "FileCreated",
    "FileDeleted",
    "Ledger",
    "OnlineTotals",
    "RequestSeen",
    "ledger_lines",
    "online_totals",
    "read_ledger",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    seq: int
    at_ms: int  # wall clock
    mono_s: float  # monotonic clock of the simulator's process


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSeen(_Entry):
    """One HTTP request, written before its answer left. `status` 0: the connection was dropped without an answer."""

    method: str
    path: str
    status: int
    fault: str | None = None
    batch_id: str | None = None
    file_id: str | None = None
    call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCreated(_Entry):
    file_id: str
    purpose: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDeleted(_Entry):
    file_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCreated(_Entry):
    batch_id: str
    provider: str
    endpoint: str
    input_file_id: str
    input_sha256: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCancelAsked(_Entry):
    batch_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnded(_Entry):
    """`code` tells why a failed batch failed. The sums repeat the bills of this batch."""

    batch_id: str
    status: str
    total: int
    billed_rows: int
    cost_nanos: int
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill(_Entry):
    """One question that a model answered. `delivered` is false where a fault kept the answer from the client.

    `tier` is "batch" for a row (at the batch's share of the list price) and "online" for a single call (at list price,
    with `call_id` and no `batch_id`). `request_sha256` is over the input line without its line end, or over the body of
    the call; `result_sha256` over content, refusal or vector (as JSON) in UTF-8. Cached tokens are part of the input.
    """

    batch_id: str
    custom_id: str
    request_sha256: str
    result_sha256: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_nanos: int
    delivered: bool
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    tier: str = "batch"
    call_id: str = ""
    provider: str = "openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineTotals:
    """What single calls came to."""

    billed_calls: int
    cost_nanos: int


_KINDS: Final[dict[str, type[_Entry]]] = {
    "request": RequestSeen,
    "file_created": FileCreated,
    "file_deleted": FileDeleted,
    "batch_created": BatchCreated,
    "batch_cancel_asked": BatchCancelAsked,
    "batch_ended": BatchEnded,
    "bill": Bill,
}
_ONLINE: Final = b'"tier":"online"'
_FIELDS: Final = {kind: frozenset(f.name for f in fields(cls)) for kind, cls in _KINDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    requests: tuple[RequestSeen, ...]
    files_created: tuple[FileCreated, ...]
    files_deleted: tuple[FileDeleted, ...]
    batches_created: tuple[BatchCreated, ...]
    cancels_asked: tuple[BatchCancelAsked, ...]
    batches_ended: tuple[BatchEnded, ...]
    bills: tuple[Bill, ...]

    @property
    def cost_nanos(self) -> int:
        return sum(bill.cost_nanos for bill in self.bills)

    def batches_by_label(self, label: str) -> Counter[str]:
        """How many batches were created for each value of one metadata key: more than one is a batch paid twice."""
        return Counter(made.metadata[label] for made in self.batches_created if label in made.metadata)

    def batches_by_input(self) -> Counter[str]:
        """How many batches were created of each input, by its sha256: where nothing can be written on a batch."""
        return Counter(made.input_sha256 for made in self.batches_created)

    def bills_by_custom_id(self) -> dict[str, tuple[Bill, ...]]:
        found: dict[str, list[Bill]] = {}
        for bill in self.bills:
            found.setdefault(bill.custom_id, []).append(bill)
        return {custom_id: tuple(bills) for custom_id, bills in found.items()}

    def cost_nanos_by_batch(self) -> dict[str, int]:
        """Of rows of batches; what single calls cost is `cost_nanos_by_tier()["online"]`."""
        sums: Counter[str] = Counter()
        for bill in self.bills:
            if bill.batch_id:
                sums[bill.batch_id] += bill.cost_nanos
        return dict(sums)

    def cost_nanos_by_tier(self) -> dict[str, int]:
        """Adds up to `cost_nanos`."""
        sums: Counter[str] = Counter()
        for bill in self.bills:
            sums[bill.tier] += bill.cost_nanos
        return dict(sums)

    def requests_to(self, method: str, path_prefix: str) -> tuple[RequestSeen, ...]:
        return tuple(r for r in self.requests if r.method == method and r.path.startswith(path_prefix))


def ledger_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every complete line, oldest first. A last line without its end is being written, or was torn by a kill."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def online_totals(path: Path) -> OnlineTotals:
    """Of a ledger that is there or not; only lines of single calls are decoded."""
    calls = cost = 0
    if path.exists():
        with path.open("rb") as lines:
            for line in lines:
                if _ONLINE in line and line.endswith(b"\n"):
                    calls += 1
                    cost += orjson.loads(line)["cost_nanos"]
    return OnlineTotals(billed_calls=calls, cost_nanos=cost)


def read_ledger(path: Path) -> Ledger:
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    last = 0
    for line in ledger_lines(path):
        if line["seq"] <= last:
            raise ValueError(f"ledger {path}: line number {line['seq']} follows {last}; the file was edited or mixed")
        last = line["seq"]
        kind = line.pop("kind")
        found[kind].append(_KINDS[kind](**{name: line[name] for name in line.keys() & _FIELDS[kind]}))
    return Ledger(
        requests=tuple(found["request"]),
        files_created=tuple(found["file_created"]),
        files_deleted=tuple(found["file_deleted"]),
        batches_created=tuple(found["batch_created"]),
        cancels_asked=tuple(found["batch_cancel_asked"]),
        batches_ended=tuple(found["batch_ended"]),
        bills=tuple(found["bill"]),
    )
