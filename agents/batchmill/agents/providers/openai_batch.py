"""The OpenAI Batch API (Azure's and compatible servers' too) behind the port `streams.ports.BatchProvider`.

What lives here: OpenAI's words for files, batches and their states, and the exchange of each call. Its words for rows
are in `openai_rows`. What must not: sending create twice for one call of it, or deciding when it may be sent.

Learned from the real service and its imitators: a batch can be `completed` before its file ids are filled in; an empty
file id is none; `errors` is a list object or a bare list; an unknown status is a running one; absent means null.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from typing_extensions import override

from batchmill.agents.providers.batch_account import FilesAccount, answers_to, label_in, metadata_of
from batchmill.agents.providers.errors import batch_action
from batchmill.agents.providers.loose import listed, mapping, number, text
from batchmill.agents.providers.openai_rows import parse_row, request_line
from batchmill.agents.settings import AccountSettings
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    CreateOrder,
    Label,
    RemoteBatch,
    RemoteStatus,
    RowOutcome,
)

__all__ = ["PROVIDER", "OpenAIBatchProvider", "headers", "online_path"]

PAGE_BATCHES = 100
#: 100,000 batches: beyond this the listing is broken, and "not found" would be a guess.
FIND_PAGES_MAX = 1_000
#: How long an ended batch may still lack the files that its counts promise.
FILES_GRACE_SECONDS = 120
#: A service that does not say when a batch ended: by then it had.
WINDOW_SECONDS = 86_400

AZURE = "azure"

_STATUS = {
    "failed": RemoteStatus.FAILED,
    "cancelling": RemoteStatus.CANCELLING,
    "completed": RemoteStatus.ENDED,
    "expired": RemoteStatus.ENDED,
    "cancelled": RemoteStatus.ENDED,
}


class OpenAIBatchProvider(FilesAccount):
    """One account at OpenAI, or at a service that speaks its batch protocol."""

    def request_line(self, *, custom_id: str, endpoint: str, body: bytes) -> bytes:
        return request_line(custom_id=custom_id, endpoint=endpoint, body=body)

    def parse_row(self, line: bytes) -> RowOutcome | None:
        return parse_row(line)

    async def create(self, order: CreateOrder, *, may_start: Callable[[], bool]) -> RemoteBatch:
        body = {
            "input_file_id": order.file_id,
            "endpoint": order.endpoint,
            "completion_window": "24h",
            "metadata": metadata_of(order.label),
        }
        reply = await self._http.call(
            "create", "POST", "batches", json=body, names=True, spends=True, may_start=may_start
        )
        return _batch(reply.document, reply.server_time)

    async def get(self, batch_id: str) -> RemoteBatch:
        reply = await self._http.call("get", "GET", f"batches/{batch_id}", names=True)
        return _batch(reply.document, reply.server_time)

    async def find(self, *, label: Label, since_ms: int) -> Sequence[RemoteBatch]:
        made = self._made_since(
            since_ms, "batches", cursor="after", page_batches=PAGE_BATCHES, pages_max=FIND_PAGES_MAX, read=_batch
        )
        return tuple({batch.batch_id: batch async for batch in made if answers_to(batch, label)}.values())

    async def cancel(self, batch_id: str) -> RemoteBatch:
        reply = await self._http.call("cancel", "POST", f"batches/{batch_id}/cancel", names=True)
        return _batch(reply.document, reply.server_time)

    @override
    def _headers(self) -> dict[str, str]:
        return headers(self._account)


def headers(account: AccountSettings) -> dict[str, str]:
    """What every request of the account carries; with its key in clear, so never to be shown."""
    key, azure = account.key(), account.kind == AZURE
    said = {
        "authorization": f"Bearer {key}" if key and not azure else None,
        "api-key": key if azure else None,
        "openai-organization": account.organization,
        "openai-project": account.project,
        "user-agent": "batchmill",
    }
    return {name: value for name, value in said.items() if value}


def online_path(endpoint: str) -> str:
    """Where a single call goes, relative to the account's URL."""
    return endpoint.removeprefix("/v1/")


def _batch(document: Mapping[str, Any], now: datetime) -> RemoteBatch:
    word = str(document.get("status"))
    counts = mapping(document.get("request_counts"))
    metadata = mapping(document.get("metadata"))
    usage = mapping(document.get("usage"))
    batch = RemoteBatch(
        batch_id=str(document["id"]),
        status=_STATUS.get(word, RemoteStatus.RUNNING),
        status_text=word,
        created_at_ms=(number(document.get("created_at")) or 0) * 1_000,
        input_file_id=text(document.get("input_file_id")),
        output_file_id=text(document.get("output_file_id")),
        error_file_id=text(document.get("error_file_id")),
        label=label_in(metadata),
        total=number(counts.get("total")),
        completed=number(counts.get("completed")),
        failed=number(counts.get("failed")),
        failure=_failure(document) if word == "failed" else None,
        input_tokens=number(usage.get("input_tokens")),
        output_tokens=number(usage.get("output_tokens")),
        cached_tokens=number(mapping(usage.get("input_tokens_details")).get("cached_tokens")) or 0,
    )
    if batch.status is RemoteStatus.FAILED and _ran(batch):
        batch = replace(batch, status=RemoteStatus.ENDED, failure=None)
    return batch if _is_final(batch, document, now) else replace(batch, status=RemoteStatus.RUNNING)


def _ran(batch: RemoteBatch) -> bool:
    """OpenAI refuses a batch before any row runs; others call one failed that broke off, and what ran is billed."""
    return bool(batch.completed or batch.output_file_id or (batch.failed and batch.error_file_id))


def _is_final(batch: RemoteBatch, document: Mapping[str, Any], now: datetime) -> bool:
    """Are the files there that the counts of an ended batch promise? After a grace it is final as it stands."""
    if batch.status is not RemoteStatus.ENDED:
        return True
    promised = not batch.completed or batch.output_file_id
    promised = promised and (not batch.failed or batch.error_file_id)
    if promised and (batch.output_file_id or batch.error_file_id or batch.total == 0):
        return True
    ended_at = number(document.get(f"{batch.status_text}_at")) or batch.created_at_ms // 1_000 + WINDOW_SECONDS
    return now.timestamp() - ended_at > FILES_GRACE_SECONDS


def _failure(document: Mapping[str, Any]) -> BatchFailure:
    errors = document.get("errors")
    complaints = listed(errors.get("data") if isinstance(errors, dict) else errors)
    first = mapping(complaints[0]) if complaints else {}
    code, line = text(first.get("code")), number(first.get("line"))
    if code is None:
        return BatchFailure(action=Action.RETRY_ROW, code="unexplained", line=line)
    return BatchFailure(action=batch_action(code, line=line), code=code, line=line)


#: What the registry makes of an account whose row names this protocol.
PROVIDER = OpenAIBatchProvider
