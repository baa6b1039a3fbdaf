"""Mistral's batch jobs behind the port `streams.ports.BatchProvider`.

What lives here: Mistral's words for files, jobs and their states, and the exchange of each call. Its words for rows are
in `mistral_rows`. What must not: sending create twice for one call of it, or deciding when it may be sent.

The label is the job's metadata, and the list is filtered by it on the server. A filter that finds nothing proves
nothing (no document says how it compares, nor how soon it sees a new job), so then the whole list is read.

Of no document: codes of refusals beside their HTTP statuses; whether a failed job that ran has files (it is collected
where it has); whether an ended job names its files at once (it is given a while); what becomes of rows that a cancelled
or timed out job did not come to. A job says why it failed in messages only, which are not read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from typing_extensions import override

from batchmill.agents.providers.batch_account import WRITTEN, FilesAccount, answers_to, label_in, metadata_of
from batchmill.agents.providers.loose import count, listed, mapping, text, whole
from batchmill.agents.providers.mistral_rows import parse_row, request_line
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    CreateOrder,
    Label,
    RemoteBatch,
    RemoteStatus,
    RowOutcome,
    TransientError,
)

__all__ = ["PROVIDER", "MistralBatchProvider"]

PAGE_JOBS = 100
#: 100,000 jobs: beyond this the listing is broken, and "not found" would be a guess.
FIND_PAGES_MAX = 1_000
#: How long an ended job may still lack the files that its counts promise.
FILES_GRACE_SECONDS = 120
#: A job that does not say when it ended: by then it had.
WINDOW_SECONDS = 86_400
HOUR_SECONDS = 3_600

#: By what the server is asked to choose; the rest is compared here.
FILTERED_BY = ("app", "chunk_id")

_STATUS = {
    "CANCELLATION_REQUESTED": RemoteStatus.CANCELLING,
    "SUCCESS": RemoteStatus.ENDED,
    "TIMEOUT_EXCEEDED": RemoteStatus.ENDED,
    "CANCELLED": RemoteStatus.ENDED,
    "FAILED": RemoteStatus.FAILED,
}


class MistralBatchProvider(FilesAccount):
    """One account (a key of one workspace) at Mistral."""

    def request_line(self, *, custom_id: str, endpoint: str, body: bytes) -> bytes:
        return request_line(custom_id=custom_id, endpoint=endpoint, body=body)

    def parse_row(self, line: bytes) -> RowOutcome | None:
        return parse_row(line)

    async def create(self, order: CreateOrder, *, may_start: Callable[[], bool]) -> RemoteBatch:
        body = {
            "input_files": [order.file_id],
            "endpoint": order.endpoint,
            "model": order.model,
            "metadata": metadata_of(order.label),
            "timeout_hours": max(1, self._account.can.window_seconds // HOUR_SECONDS),
        }
        reply = await self._http.call(
            "create", "POST", "batch/jobs", json=body, names=True, spends=True, may_start=may_start
        )
        return _batch(reply.document, reply.server_time)

    async def get(self, batch_id: str) -> RemoteBatch:
        reply = await self._http.call("get", "GET", f"batch/jobs/{batch_id}", names=True)
        return _batch(reply.document, reply.server_time)

    async def find(self, *, label: Label, since_ms: int) -> Sequence[RemoteBatch]:
        since_ms -= round(self._account.clock_skew_seconds * 1_000)
        written = metadata_of(label)
        chosen = {WRITTEN[name]: written[WRITTEN[name]] for name in FILTERED_BY}
        return await self._found(label, since_ms, chosen) or await self._found(label, since_ms, {})

    async def _found(self, label: Label, since_ms: int, chosen: Mapping[str, str]) -> Sequence[RemoteBatch]:
        """Read the list of those that the server chooses, page by page."""
        found: dict[str, RemoteBatch] = {}
        for number in range(FIND_PAGES_MAX):
            params = {"page": str(number), "page_size": str(PAGE_JOBS), "order_by": "-created", **chosen}
            reply = await self._http.call("find", "GET", "batch/jobs", params=params)
            page = [_listed(item, reply.server_time) for item in listed(reply.document.get("data"))]
            # A job that does not say when it was made may be the one.
            recent = [batch for batch in page if batch.created_at_ms >= since_ms or not batch.created_at_ms]
            found |= {batch.batch_id: batch for batch in recent if answers_to(batch, label)}
            # A page that is not full may still be followed by others; an empty one is the end of the list, and so is
            # a whole page of older jobs, because the newest were asked for first.
            if not recent:
                return tuple(found.values())
        raise TransientError("listing_endless", hint="the list of jobs does not end; nothing may be concluded from it")

    async def cancel(self, batch_id: str) -> RemoteBatch:
        reply = await self._http.call("cancel", "POST", f"batch/jobs/{batch_id}/cancel", names=True)
        return _batch(reply.document, reply.server_time)

    @override
    def _headers(self) -> dict[str, str]:
        said = {"authorization": f"Bearer {key}" if (key := self._account.key()) else None, "user-agent": "batchmill"}
        return {name: value for name, value in said.items() if value}


def _listed(document: Any, now: datetime) -> RemoteBatch:
    if not isinstance(document, dict) or text(document.get("id")) is None:
        raise TransientError("no_batch_id", hint="the list of jobs shows one without an id")
    return _batch(document, now)


def _batch(document: Mapping[str, Any], now: datetime) -> RemoteBatch:
    word = str(document.get("status"))
    batch = RemoteBatch(
        batch_id=str(document["id"]),
        status=_STATUS.get(word, RemoteStatus.RUNNING),
        status_text=word,
        created_at_ms=count(document.get("created_at")) * 1_000,
        input_file_id=text(next(iter(listed(document.get("input_files"))), None)),
        output_file_id=text(document.get("output_file")),
        error_file_id=text(document.get("error_file")),
        label=label_in(mapping(document.get("metadata"))),
        total=whole(document.get("total_requests")),
        completed=whole(document.get("succeeded_requests")),
        failed=whole(document.get("failed_requests")),
    )
    return _settled(batch, document, now)


def _settled(batch: RemoteBatch, document: Mapping[str, Any], now: datetime) -> RemoteBatch:
    """What an end means: a failed job that ran has rows like any other; one that did not is refused as a whole."""
    if batch.status is RemoteStatus.FAILED:
        if batch.output_file_id or batch.error_file_id:
            return replace(batch, status=RemoteStatus.ENDED)
        if not batch.completed and not batch.failed:
            return replace(batch, failure=BatchFailure(action=Action.RETRY_ROW, code="failed"))
        batch = replace(batch, status=RemoteStatus.ENDED)
    if batch.status is not RemoteStatus.ENDED or _is_final(batch, document, now):
        return batch
    return replace(batch, status=RemoteStatus.RUNNING)


def _is_final(batch: RemoteBatch, document: Mapping[str, Any], now: datetime) -> bool:
    """Are the files there that the counts promise? After a grace it is final as it stands."""
    lacking = (batch.completed and not batch.output_file_id) or (batch.failed and not batch.error_file_id)
    if not lacking and (batch.output_file_id or batch.error_file_id or batch.total is not None):
        return True
    ended_at = whole(document.get("completed_at")) or batch.created_at_ms // 1_000 + WINDOW_SECONDS
    return now.timestamp() - ended_at > FILES_GRACE_SECONDS


#: What the registry makes of an account whose row names this protocol.
PROVIDER = MistralBatchProvider
