"""Batches of the Gemini Developer API behind the port `streams.ports.BatchProvider`.

What lives here: Google's words for files, batches and their states, and the exchanges of each call. Its words for rows
are in `gemini_rows`. What must not: sending create twice for one call of it, or deciding when it may be sent.

A batch is a long-running operation: its state lies in `metadata`, its results in `response`; counts are texts, and what
is zero is absent. The one thing of ours that it carries is its display name, so the label is written there.

Of no document: how long a display name may be (kept within what Google's other one takes); in which order batches are
listed (newest first, as seen); what a create says of a file that is gone (the Files API says 403 "or it may not exist",
so after a refusal the file is looked for); what a cancelled batch delivers of the rows it finished. The guide says that
an expired batch has no results; one that shows some is collected all the same.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlsplit

from typing_extensions import override

from batchmill.agents.providers.batch_account import BatchAccount
from batchmill.agents.providers.errors import GOOGLE_CODES, batch_action
from batchmill.agents.providers.gemini_rows import parse_row, request_line
from batchmill.agents.providers.loose import count, listed, mapping, text, time_ms, whole
from batchmill.agents.providers.uploads import exactly
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    CreateOrder,
    Label,
    MustPauseError,
    NotFoundError,
    ProviderError,
    RefusedError,
    RemoteBatch,
    RemoteStatus,
    RowOutcome,
    TransientError,
)

__all__ = ["PROVIDER", "GeminiBatchProvider"]

VERSION = "v1beta"
#: Names begin with what they name; ids are what follows.
FILES, BATCHES = "files/", "batches/"
PAGE_BATCHES = 100
#: 100,000 batches: beyond this the listing is broken, and "not found" would be a guess.
FIND_PAGES_MAX = 1_000
#: How long an ended batch may still lack the file that its counts promise.
FILES_GRACE_SECONDS = 120
#: A batch that does not say when it ended: by then it had.
WINDOW_SECONDS = 2 * 86_400

DISPLAY_NAME_CHARS_MAX = 128
#: Of the payload's SHA-256: enough that another payload of the same chunk is never taken for it.
SHA256_CHARS = 32
SEPARATOR = "/"
_LABEL_PARTS = 4
_ATTEMPT_CHARS_MAX = 10
_NAME_CHARS_MAX = (DISPLAY_NAME_CHARS_MAX - SHA256_CHARS - _ATTEMPT_CHARS_MAX - _LABEL_PARTS + 1) // 2

DENIED = "PERMISSION_DENIED"
_STATE = {
    "SUCCEEDED": RemoteStatus.ENDED,
    "PARTIALLY_SUCCEEDED": RemoteStatus.ENDED,
    "CANCELLED": RemoteStatus.ENDED,
    "EXPIRED": RemoteStatus.ENDED,
    "FAILED": RemoteStatus.FAILED,
    "CANCELLING": RemoteStatus.CANCELLING,
}
CANCELLED = "CANCELLED"
EXPIRED = "EXPIRED"


class GeminiBatchProvider(BatchAccount):
    """One account (a key of one project) at the Gemini Developer API."""

    id_member = "name"

    def request_line(self, *, custom_id: str, endpoint: str, body: bytes) -> bytes:  # noqa: ARG002 - there is but one
        return request_line(custom_id=custom_id, body=body)

    def parse_row(self, line: bytes) -> RowOutcome | None:
        return parse_row(line)

    async def upload(
        self, *, name: str, size_bytes: int, content: AsyncIterator[bytes], may_start: Callable[[], bool]
    ) -> str:
        """Begin an upload, then send all of it to the address that was given for it."""
        begun = await self._http.call(
            "upload_begin",
            "POST",
            f"upload/{VERSION}/files",
            json={"file": {"displayName": name}},
            headers={
                "x-goog-upload-protocol": "resumable",
                "x-goog-upload-command": "start",
                "x-goog-upload-header-content-length": str(size_bytes),
                "x-goog-upload-header-content-type": "application/jsonl",
            },
            bare=True,
            may_start=may_start,
        )
        headers = {
            "x-goog-upload-command": "upload, finalize",
            "x-goog-upload-offset": "0",
            "content-length": str(size_bytes),
        }
        address = self._address(begun.headers.get("x-goog-upload-url"))
        reply = await self._http.send_file(
            "upload",
            address,
            headers=headers,
            body=exactly(content, size_bytes),
            may_start=may_start,
            names=False,
        )
        file_id = text(mapping(reply.document.get("file")).get("name"))
        if file_id is None or reply.headers.get("x-goog-upload-status") != "final":
            raise TransientError("upload_not_final", hint="all of the file was sent, and it is not told to be there")
        return file_id.removeprefix(FILES)

    def _address(self, told: str | None) -> str:
        """The address of an upload, at the account's own host: the key goes nowhere else."""
        parts = urlsplit(told or "")
        if not parts.path or not parts.query:
            raise TransientError("no_upload_url", hint="the upload was begun, and no address was given for it")
        own = urlsplit(self._account.url)
        return parts._replace(scheme=own.scheme, netloc=own.netloc).geturl()

    async def create(self, order: CreateOrder, *, may_start: Callable[[], bool]) -> RemoteBatch:
        batch = {"displayName": _display_name(order.label), "inputConfig": {"fileName": f"{FILES}{order.file_id}"}}
        path = f"{VERSION}/models/{quote(order.model.removeprefix('models/'), safe='')}:batchGenerateContent"
        try:
            reply = await self._http.call(
                "create", "POST", path, json={"batch": batch}, names=True, spends=True, may_start=may_start
            )
        except (MustPauseError, NotFoundError) as error:
            raise await self._why_refused(error, order.file_id) from None
        return _batch(reply.document, reply.server_time)

    async def _why_refused(self, error: ProviderError, file_id: str | None) -> ProviderError:
        """A create was refused for sure: because its file is gone, or its model is none, or for what it says?"""
        if isinstance(error, MustPauseError) and error.code != DENIED:
            return error
        try:
            await self._http.call("look_for_file", "GET", f"{VERSION}/{FILES}{file_id}", names=True)
        except (MustPauseError, NotFoundError) as missing:
            about_file = isinstance(missing, NotFoundError) or missing.code == DENIED
            return NotFoundError(error.code, http_status=error.http_status) if about_file else missing
        except ProviderError as unclear:
            return unclear
        if isinstance(error, NotFoundError):
            return RefusedError(error.code, http_status=error.http_status, hint="look at the name of the model")
        return error

    async def get(self, batch_id: str) -> RemoteBatch:
        reply = await self._http.call("get", "GET", f"{VERSION}/{BATCHES}{batch_id}", names=True)
        return _batch(reply.document, reply.server_time)

    async def find(self, *, label: Label, since_ms: int) -> Sequence[RemoteBatch]:
        since_ms -= round(self._account.clock_skew_seconds * 1_000)
        found: dict[str, RemoteBatch] = {}
        token: str | None = None
        for _ in range(FIND_PAGES_MAX):
            params = {"pageSize": str(PAGE_BATCHES)} | ({"pageToken": token} if token else {})
            reply = await self._http.call("find", "GET", f"{VERSION}/batches", params=params)
            page = [_listed(item, reply.server_time) for item in listed(reply.document.get("operations"))]
            # A batch that does not say when it was made may be the one.
            recent = [batch for batch in page if batch.created_at_ms >= since_ms or not batch.created_at_ms]
            found |= {batch.batch_id: batch for batch in recent if _answers_to(batch, label)}
            following = text(reply.document.get("nextPageToken"))
            # Newest first, but nothing promises it: only a whole page of older ones ends the search.
            if following is None or (page and not recent):
                return tuple(found.values())
            if following == token:
                break
            token = following
        raise TransientError(
            "listing_endless", hint="the list of batches does not end; nothing may be concluded from it"
        )

    async def cancel(self, batch_id: str) -> RemoteBatch:
        """The answer to a cancel says nothing, so the batch is looked at."""
        await self._http.call("cancel", "POST", f"{VERSION}/{BATCHES}{batch_id}:cancel", bare=True)
        return await self.get(batch_id)

    async def download(self, file_id: str) -> AsyncIterator[bytes]:
        path = f"download/{VERSION}/{FILES}{file_id}:download?alt=media"
        try:
            async for part in self._http.receive_file("download", path):
                yield part
        except MustPauseError as error:
            raise _about_a_file(error) from None

    async def delete_file(self, file_id: str) -> None:
        try:
            await self._http.call("delete_file", "DELETE", f"{VERSION}/{FILES}{file_id}", bare=True)
        except NotFoundError:
            return
        except MustPauseError as error:
            if isinstance(refused := _about_a_file(error), NotFoundError):
                return
            raise refused from None

    @override
    def _headers(self) -> dict[str, str]:
        said = {"x-goog-api-key": self._account.key(), "user-agent": "batchmill"}
        return {name: value for name, value in said.items() if value}


def _about_a_file(error: MustPauseError) -> ProviderError:
    """A file that is not there is denied, and without a reason; what concerns key or project comes with one."""
    return NotFoundError(error.code, http_status=error.http_status) if error.code == DENIED else error


# -- the label ---------------------------------------------------------------------------------------------------------


def _display_name(label: Label) -> str:
    app, chunk_id, payload = _told(label)
    return SEPARATOR.join((app, chunk_id, str(label.chunk_attempt), payload))


def _told(label: Label) -> tuple[str, str, str]:
    """App, chunk and payload as they are written: long names by their digest."""
    return _fitting(label.app), _fitting(label.chunk_id), label.payload_sha256[:SHA256_CHARS]


def _fitting(name: str) -> str:
    if len(name) <= _NAME_CHARS_MAX and SEPARATOR not in name:
        return name
    return sha256(name.encode()).hexdigest()[:SHA256_CHARS]


def _label_in(display_name: str | None) -> dict[str, str]:
    parts = (display_name or "").split(SEPARATOR)
    if len(parts) != _LABEL_PARTS:
        return {}
    return dict(zip(("app", "chunk_id", "chunk_attempt", "payload_sha256"), parts, strict=True))


def _answers_to(batch: RemoteBatch, label: Label) -> bool:
    """Is it this chunk's, of any attempt, with the very same input? Another input would be another chunk's answer."""
    carried = tuple(batch.label.get(name) for name in ("app", "chunk_id", "payload_sha256"))
    return carried == _told(label)


# -- the batch ---------------------------------------------------------------------------------------------------------


def _listed(document: Any, now: datetime) -> RemoteBatch:
    if not isinstance(document, dict) or text(document.get("name")) is None:
        raise TransientError("no_batch_name", hint="the list of batches shows one without a name")
    return _batch(document, now)


def _batch(document: Mapping[str, Any], now: datetime) -> RemoteBatch:
    metadata = mapping(document.get("metadata"))
    word = str(metadata.get("state"))
    state = word.removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    stats = mapping(metadata.get("batchStats"))
    results = mapping(document.get("response")) or mapping(metadata.get("output"))
    batch = RemoteBatch(
        batch_id=str(document["name"]).removeprefix(BATCHES),
        status=_STATE.get(state, RemoteStatus.RUNNING),
        status_text=word,
        created_at_ms=time_ms(metadata.get("createTime")),
        input_file_id=_file_id(mapping(metadata.get("inputConfig")).get("fileName")),
        output_file_id=_file_id(results.get("responsesFile")),
        label=_label_in(text(metadata.get("displayName"))),
        total=whole(stats.get("requestCount")),
        completed=count(stats.get("successfulRequestCount")),
        failed=count(stats.get("failedRequestCount")),
    )
    return _settled(batch, state, document, now)


def _file_id(name: Any) -> str | None:
    named = text(name)
    return None if named is None else named.removeprefix(FILES)


def _settled(batch: RemoteBatch, state: str, document: Mapping[str, Any], now: datetime) -> RemoteBatch:
    """What an end without results means; with results it is an end like any other."""
    if batch.status not in {RemoteStatus.ENDED, RemoteStatus.FAILED}:
        return batch
    if batch.output_file_id is not None:
        return replace(batch, status=RemoteStatus.ENDED)
    if state == EXPIRED:
        # Nothing was delivered: the same batch may be sent again.
        failure = BatchFailure(action=Action.DEFER_CHUNK, code=EXPIRED)
        return replace(batch, status=RemoteStatus.FAILED, failure=failure)
    if batch.status is RemoteStatus.FAILED:
        return replace(batch, failure=_failure(document))
    if state == CANCELLED and not batch.completed and not batch.failed:
        return batch
    return batch if _is_over(document, now) else replace(batch, status=RemoteStatus.RUNNING)


def _is_over(document: Mapping[str, Any], now: datetime) -> bool:
    """Were the results that it promises given time enough? Then it is final as it stands."""
    metadata = mapping(document.get("metadata"))
    ended_at_ms = time_ms(metadata.get("endTime")) or time_ms(metadata.get("updateTime"))
    ended_at_ms = ended_at_ms or time_ms(metadata.get("createTime")) + WINDOW_SECONDS * 1_000
    return now.timestamp() * 1_000 - ended_at_ms > FILES_GRACE_SECONDS * 1_000


def _failure(document: Mapping[str, Any]) -> BatchFailure:
    number = count(mapping(document.get("error")).get("code"))
    code, _ = GOOGLE_CODES.get(number, ("unexplained", 0))
    action = Action.RETRY_ROW if code == "unexplained" else batch_action(code, line=None)
    return BatchFailure(action=action, code=code)


#: What the registry makes of an account whose row names this protocol.
PROVIDER = GeminiBatchProvider
