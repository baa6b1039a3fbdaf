"""Anthropic's Message Batches behind the port `streams.ports.BatchProvider`.

What lives here: Anthropic's words for batches and their states, and the exchange of each call. Its words for rows are
in `anthropic_rows`. What must not: sending create twice for one call of it, or deciding when it may be sent.

Two things are unlike other providers. The payload goes with the create call, as one JSON list: the call spends with its
last bytes and not before, so that one which stops short of them has certainly made nothing. And nothing can be written
on a batch, so a lost one is told by its time, its number of requests and, once its results can be read, by the nonce in
its custom ids. A result names no file: it is read by the id of its batch.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any

from typing_extensions import override

from batchmill.agents.providers.anthropic_rows import parse_row, request_line
from batchmill.agents.providers.batch_account import BatchAccount
from batchmill.agents.providers.http import CallSeen
from batchmill.agents.providers.loose import listed, plain_count, text, time_ms
from batchmill.agents.settings import AccountSettings
from batchmill.schemas.ids import chunk_nonce, parse_custom_id
from batchmill.schemas.reasons import Reason
from batchmill.streams.ports import (
    CreateOrder,
    Label,
    NotFoundError,
    OutcomeUnknownError,
    RemoteBatch,
    RemoteStatus,
    RowOutcome,
    TransientError,
)
from batchmill.streams.unusable import Unusable

__all__ = ["PROVIDER", "AnthropicBatchProvider", "headers", "online_path"]

VERSION = "2023-06-01"
BATCHES = "v1/messages/batches"
MESSAGES = "v1/messages"
#: What a job may call the one thing that can be asked here; its body is a chat completion's in either case.
ASKED_AS = frozenset({"/v1/messages", "/v1/chat/completions"})
PAGE_BATCHES = 1_000
#: 100,000 batches: beyond this the listing is broken, and "not found" would be a guess.
FIND_PAGES_MAX = 100
#: How long an ended batch may still lack its results.
RESULTS_GRACE_SECONDS = 120
#: Whose batches are known by name; that never changes.
NONCES_MAX = 10_000
#: How far into the results of a batch we look for an id of ours before we call it a stranger's.
ROWS_READ_MAX = 100
#: A longer line names no row.
LINE_BYTES_MAX = 32 * 2**20
#: What is remembered of a batch that nobody of our kind has made.
FOREIGN = ""
#: Our word for a batch whose results were removed at the end of their time.
ARCHIVED = "archived"

HEAD, TAIL = b'{"requests":[', b"]}"

_STATUS = {
    "in_progress": RemoteStatus.RUNNING,
    "canceling": RemoteStatus.CANCELLING,
    "ended": RemoteStatus.ENDED,
}
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


class AnthropicBatchProvider(BatchAccount):
    """One account at Anthropic."""

    def __init__(
        self, *, name: str, account: AccountSettings, on_call: Callable[[CallSeen], None], loopback_only: bool
    ) -> None:
        super().__init__(name=name, account=account, on_call=on_call, loopback_only=loopback_only)
        self._nonces: dict[str, str] = {}

    def request_line(self, *, custom_id: str, endpoint: str, body: bytes) -> bytes:
        if endpoint not in ASKED_AS:
            raise Unusable(Reason.REQUEST_INVALID, f"Anthropic has no {endpoint}; it answers {sorted(ASKED_AS)}")
        default = self.capabilities.output_tokens_default
        return request_line(custom_id=custom_id, body=body, output_tokens_default=default)

    def parse_row(self, line: bytes) -> RowOutcome | None:
        return parse_row(line)

    async def upload(
        self,
        *,
        name: str,
        size_bytes: int,  # noqa: ARG002 - of the port
        content: AsyncIterator[bytes],  # noqa: ARG002
        may_start: Callable[[], bool],  # noqa: ARG002
    ) -> str:
        raise AssertionError(f"{self._name} takes no input file ({name}): its payload goes with the create call")

    async def create(self, order: CreateOrder, *, may_start: Callable[[], bool]) -> RemoteBatch:
        body = _Requests(order, may_start)
        sent = {"content-type": "application/json", "content-length": str(body.size_bytes)}
        try:
            reply = await self._http.send_file(
                "create", BATCHES, headers=sent, body=body.parts(), may_start=may_start, spends=True
            )
        except OutcomeUnknownError as error:
            if body.is_complete:
                raise
            raise TransientError(
                error.code, http_status=error.http_status, retry_after_seconds=error.retry_after_seconds
            ) from None
        batch = _batch(reply.document, reply.server_time)
        # Whose it is need not be read from its results: another chunk of the same size will not wait for them.
        self._remember(batch.batch_id, chunk_nonce(order.label.chunk_id))
        return batch

    async def get(self, batch_id: str) -> RemoteBatch:
        reply = await self._http.call("get", "GET", f"{BATCHES}/{batch_id}", names=True)
        return _batch(reply.document, reply.server_time)

    async def find(self, *, label: Label, since_ms: int) -> Sequence[RemoteBatch]:
        since_ms -= round(self._account.clock_skew_seconds * 1_000)
        nonce = chunk_nonce(label.chunk_id)
        found = [
            (batch, await self._nonce_of(batch))
            for batch in await self._created_since(since_ms)
            if batch.total in {None, label.members} and not _is_archived(batch)
        ]
        # Of None nobody knows whose it is; any other nonce is another's.
        return tuple(replace(batch, identified=its == nonce) for batch, its in found if its in {None, nonce})

    async def cancel(self, batch_id: str) -> RemoteBatch:
        reply = await self._http.call("cancel", "POST", f"{BATCHES}/{batch_id}/cancel", names=True)
        return _batch(reply.document, reply.server_time)

    def download(self, file_id: str) -> AsyncIterator[bytes]:
        return self._http.receive_file("download", f"{BATCHES}/{file_id}/results")

    async def delete_file(self, file_id: str) -> None:
        raise AssertionError(f"{self._name} has no input file to delete ({file_id})")

    @override
    def _headers(self) -> dict[str, str]:
        return headers(self._account)

    # -- finding -------------------------------------------------------------------------------------------------------

    async def _created_since(self, since_ms: int) -> Sequence[RemoteBatch]:
        """Every batch of the account that was created since; full paging."""
        found: dict[str, RemoteBatch] = {}
        after: str | None = None
        for _ in range(FIND_PAGES_MAX):
            params = {"limit": str(PAGE_BATCHES)} | ({"after_id": after} if after else {})
            reply = await self._http.call("find", "GET", BATCHES, params=params)
            page = [_listed(item, reply.server_time) for item in listed(reply.document.get("data"))]
            # A batch that does not say when it was made may be the one.
            recent = [batch for batch in page if batch.created_at_ms >= since_ms or not batch.created_at_ms]
            found |= {batch.batch_id: batch for batch in recent}
            # Newest first, but nothing promises it: only a whole page of older ones ends the search.
            if not reply.document.get("has_more") or (page and not recent):
                return tuple(found.values())
            if not page or page[-1].batch_id == after:
                break
            after = page[-1].batch_id
        raise TransientError(
            "listing_endless", hint="the list of batches does not end; nothing may be concluded from it"
        )

    async def _nonce_of(self, batch: RemoteBatch) -> str | None:
        """Whose batch it is: a chunk's nonce, FOREIGN, or None while its results cannot be read."""
        known = self._nonces.get(batch.batch_id)
        if known is not None or batch.output_file_id is None:
            return known
        try:
            read = await self._nonce_in(batch.output_file_id)
        except NotFoundError:
            return None
        if read is not None:
            self._remember(batch.batch_id, read)
        return read

    def _remember(self, batch_id: str, nonce: str) -> None:
        if len(self._nonces) >= NONCES_MAX:
            del self._nonces[next(iter(self._nonces))]
        self._nonces[batch_id] = nonce

    async def _nonce_in(self, batch_id: str) -> str | None:
        """Read results as far as the first custom id of ours; a few rows of strangers may come before it."""
        rows_read = 0
        results = self._http.receive_file("identify", f"{BATCHES}/{batch_id}/results")
        async with aclosing(results) as parts, aclosing(_lines(parts)) as lines:
            async for line in lines:
                row = parse_row(line)
                sent_as = None if row is None else parse_custom_id(row.custom_id)
                if sent_as is not None:
                    return sent_as.nonce
                rows_read += row is not None
                if rows_read == ROWS_READ_MAX:
                    break
        return FOREIGN if rows_read else None


def headers(account: AccountSettings) -> dict[str, str]:
    """Who calls, in the headers of every call of the account."""
    said = {"x-api-key": account.key(), "anthropic-version": VERSION, "user-agent": "batchmill"}
    return {name: value for name, value in said.items() if value}


def online_path(endpoint: str) -> str:  # noqa: ARG001 - whatever a job calls it, there is one
    """Where single questions of an endpoint go, below the account's address."""
    return MESSAGES


class _Requests:
    """The body of a create call: the payload's lines as one JSON list.

    The line ends become the commas, so its size is known beforehand. It is complete only with its last bytes, and these
    leave only while we may still spend: a body that ends before them is no request, whoever gets it.
    """

    def __init__(self, order: CreateOrder, may_start: Callable[[], bool]) -> None:
        self._order, self._may_start = order, may_start
        self.size_bytes = len(HEAD) + order.size_bytes - 1 + len(TAIL)
        self.is_complete = False

    async def parts(self) -> AsyncIterator[bytes]:
        held, left = b"", self._order.size_bytes
        yield HEAD
        async for part in self._order.content():
            left -= len(part)
            whole = held + part.replace(b"\n", b",")
            held = whole[-1:]
            if left >= 0 and len(whole) > 1:
                yield whole[:-1]
        if left != 0 or held != b",":
            raise ValueError(f"a payload of {self._order.size_bytes} bytes was announced, its content is another")
        if not self._may_start():
            raise TransientError("lease_ended", hint="while the payload was sent; it was not finished")
        self.is_complete = True
        yield TAIL


async def _lines(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Lines of a stream, in bounded memory: one that is too long ends the reading."""
    held = b""
    async for part in parts:
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield line
        if len(held) > LINE_BYTES_MAX:
            return
    yield held


def _listed(document: Any, now: datetime) -> RemoteBatch:
    if not isinstance(document, dict) or text(document.get("id")) is None:
        raise TransientError("no_batch_id", hint="the list of batches shows one without an id")
    return _batch(document, now)


def _batch(document: Mapping[str, Any], now: datetime) -> RemoteBatch:
    word, said = str(document.get("processing_status")), document.get("request_counts")
    status = _STATUS.get(word, RemoteStatus.RUNNING)
    there = bool(document.get("results_url"))
    archived = document.get("archived_at") is not None
    if status is RemoteStatus.ENDED and not there and not archived and _is_fresh(document, now):
        status = RemoteStatus.RUNNING
    counts = {name: plain_count(said.get(name)) for name in _COUNTS} if isinstance(said, dict) else {}
    return RemoteBatch(
        batch_id=str(document["id"]),
        status=status,
        status_text=ARCHIVED if archived else word,
        created_at_ms=time_ms(document.get("created_at")),
        output_file_id=str(document["id"]) if status is RemoteStatus.ENDED and there else None,
        total=sum(counts.values()) if counts else None,
        completed=counts.get("succeeded"),
        failed=counts.get("errored"),
    )


def _is_fresh(document: Mapping[str, Any], now: datetime) -> bool:
    ended_ms = time_ms(document.get("ended_at"))
    return ended_ms != 0 and now.timestamp() * 1_000 - ended_ms <= RESULTS_GRACE_SECONDS * 1_000


def _is_archived(batch: RemoteBatch) -> bool:
    """Its results are gone for good: nobody can ever tell whose it was, and nobody gets anything from it."""
    return batch.status_text == ARCHIVED


#: What the registry makes of an account whose row names this protocol.
PROVIDER = AnthropicBatchProvider
