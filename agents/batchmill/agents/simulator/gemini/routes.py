"""Law: the Gemini Files and Batches endpoints: read the request, ask the core, answer in Gemini's words.

They lie under `/gemini`, because some of their paths are OpenAI's own; v1beta and v1, which the SDK takes by itself,
are one. Faults of uploads, creates, reads and downloads strike here. Of no document: the answer to a create that names
a file which is gone; here it is what the Files API says of such a file (403 PERMISSION_DENIED, "or it may not exist").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchmill.agents import clock
from batchmill.agents.simulator.doors import (
    Refusal,
    after_create,
    batch_at,
    body_of,
    cancelled,
    content_of,
    flaps,
    guarded,
    keep_lines,
    object_in,
    received,
    struck,
    within,
)
from batchmill.agents.simulator.exchange import Disconnect, note
from batchmill.agents.simulator.faults import Fault, Place
from batchmill.agents.simulator.gemini.objects import (
    batch_object,
    error_object,
    file_object,
    list_object,
    operation_ended,
    results_shown,
)
from batchmill.agents.simulator.gemini.rows import model_of
from batchmill.agents.simulator.gemini.uploading import Sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    from batchmill.agents.simulator.core import Core
    from batchmill.agents.simulator.limits import Verdict
    from batchmill.agents.simulator.records import Batch, StoredFile

__all__ = ["PREFIX", "PROVIDER", "routes"]

PROVIDER: Final = "gemini"
PREFIX: Final = "/gemini"
VERSIONS: Final = ("v1beta", "v1")
WINDOW: Final = "48h"
PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 1_000
START_BYTES_MAX: Final = 64 * 1024
INLINE_BYTES_MAX: Final = 20 * 1024 * 1024
INLINE: Final = "inline"  # purpose of a file that was never uploaded; nobody is shown it
KEY: Final = "key"


def routes() -> Sequence[Route]:
    sessions = Sessions()

    def door(handler: Callable[[Core, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        return guarded(handler, provider=PROVIDER, key_of=_key_of, throttled=_limited)

    async def upload(core: Core, request: Request) -> Response:
        return await _upload(sessions, core, request)

    def under(version: str) -> Sequence[Route]:
        at = f"{PREFIX}/{version}"
        downloads = (f"{PREFIX}/download/{version}/files/{{file_id}}:download", f"{at}/files/{{file_id}}:download")
        return [
            Route(f"{PREFIX}/upload/{version}/files", door(upload), methods=["POST"]),
            *(Route(path, door(_download), methods=["GET"]) for path in downloads),
            Route(f"{at}/files", door(_list_files), methods=["GET"]),
            Route(f"{at}/files/{{file_id}}", door(_get_file), methods=["GET"]),
            Route(f"{at}/files/{{file_id}}", door(_delete_file), methods=["DELETE"]),
            Route(f"{at}/models/{{model}}:batchGenerateContent", door(_create_batch), methods=["POST"]),
            Route(f"{at}/batches", door(_list_batches), methods=["GET"]),
            Route(f"{at}/batches/{{batch_id}}:cancel", door(_cancel_batch), methods=["POST"]),
            Route(f"{at}/batches/{{batch_id}}:delete", door(_delete_batch), methods=["POST"]),
            Route(f"{at}/batches/{{batch_id}}", door(_get_batch), methods=["GET"]),
            Route(f"{at}/batches/{{batch_id}}", door(_delete_batch), methods=["DELETE"]),
        ]

    return [route for version in VERSIONS for route in under(version)]


def _refusal(status: int, message: str, *, word: str | None = None, reason: str | None = None) -> Refusal:
    return Refusal(status, error_object(status, message, word=word, reason=reason))


def _failed(status: int) -> Refusal:
    return _refusal(status, "An internal error has occurred. Please retry.")


def _limited(rates: Verdict) -> Refusal:
    return _throttled(rates.wait_seconds)


def _throttled(wait_seconds: float | None) -> Refusal:
    message = "Resource has been exhausted (e.g. check quota)."
    return Refusal(429, error_object(429, message, wait_seconds=wait_seconds))


def _key_of(core: Core, request: Request) -> str:
    """The address of an upload is a key to it: the SDK sends no other there."""
    if "upload_id" in request.query_params:
        return request.query_params["upload_id"]
    key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
    if not key:
        raise _refusal(403, "Method doesn't allow unregistered callers.")
    if core.config.api_key is not None and key != core.config.api_key:
        raise _refusal(400, "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID")
    return key


# Files -------------------------------------------------------------------------------------------------------------


async def _upload(sessions: Sessions, core: Core, request: Request) -> Response:
    commands = {word.strip() for word in request.headers.get("x-goog-upload-command", "").split(",")}
    if "start" in commands:
        return await _start(sessions, core, request)
    if "upload" not in commands:
        raise _refusal(400, "X-Goog-Upload-Command must be start, or upload with or without finalize.")
    return await _fill(sessions, core, request, finalize="finalize" in commands)


async def _start(sessions: Sessions, core: Core, request: Request) -> Response:
    too_large = _refusal(400, "The description of the file is too long.")
    body = await body_of(request, bytes_max=START_BYTES_MAX, too_large=too_large)
    asked = object_in(body or b"{}", otherwise=_refusal(400, "Invalid JSON payload received."))
    size = request.headers.get("x-goog-upload-header-content-length", "0")
    if size.isdecimal() and int(size) > core.config.upload_bytes_max:
        raise _refusal(413, f"The file is larger than {core.config.upload_bytes_max} bytes.")
    described = asked.get("file")
    described = described if isinstance(described, dict) else {}
    name = described.get("displayName") or described.get("display_name") or ""  # both spellings are JSON of a message
    upload_id = sessions.begin(core, str(name))
    here = f"{request.url.scheme}://{request.url.netloc}{request.url.path}"
    url = f"{here}?upload_id={upload_id}&upload_protocol=resumable"
    return Response(headers={"x-goog-upload-url": url, "x-goog-upload-status": "active"})


async def _fill(sessions: Sessions, core: Core, request: Request, *, finalize: bool) -> Response:
    upload_id = request.query_params.get("upload_id", "")
    session = sessions.get(upload_id)
    if session is None:
        raise _refusal(404, "The upload session is not known, or is over.")
    upload = session.upload
    fault = struck(core, request, Place.UPLOAD, request.headers.get("content-length", ""))
    if fault is Fault.UPLOAD_500:
        raise _failed(500)
    if fault is Fault.UPLOAD_DISCONNECT:
        await anext(request.stream())
        return Disconnect()
    if request.headers.get("x-goog-upload-offset") != str(upload.size_bytes):
        raise _refusal(400, f"The upload goes on at offset {upload.size_bytes}.")
    if not await received(request.stream(), upload.write, size_max=core.config.upload_bytes_max - upload.size_bytes):
        sessions.end(upload_id)
        raise _refusal(413, f"The file is larger than {core.config.upload_bytes_max} bytes.")
    if not finalize:
        return Response(headers={"x-goog-upload-status": "active"})
    upload.close()
    file = await core.keep_upload(upload, provider=PROVIDER, filename=session.display_name, purpose="batch")
    sessions.end(upload_id)
    note(request, file_id=file.id)
    if fault is Fault.UPLOAD_ACCEPT_THEN_500:
        raise _failed(500)
    shown = {"file": file_object(file, url=_origin(request))}
    return JSONResponse(shown, headers={"x-goog-upload-status": "final"})


def _file(core: Core, file_id: str) -> StoredFile:
    file = core.store.file(PROVIDER, file_id)
    if file is None or file.purpose == INLINE:
        raise _refusal(403, f"You do not have permission to access the File {file_id} or it may not exist.")
    return file


def _named_file(core: Core, request: Request) -> StoredFile:
    file_id = request.path_params["file_id"]
    note(request, file_id=file_id)
    return _file(core, file_id)


async def _list_files(core: Core, request: Request) -> Response:
    size, after = _page(request)
    found = core.store.files_after(PROVIDER, after, size + 1)
    if found is None:
        raise _refusal(400, "The page token is invalid.")
    shown = [file_object(file, url=_origin(request)) for file in found[:size] if file.purpose != INLINE]
    return JSONResponse(list_object("files", shown, next_page=found[size - 1].id if len(found) > size else None))


async def _get_file(core: Core, request: Request) -> Response:
    return JSONResponse(file_object(_named_file(core, request), url=_origin(request)))


async def _delete_file(core: Core, request: Request) -> Response:
    await core.delete_file(_named_file(core, request))
    return JSONResponse({})


async def _download(core: Core, request: Request) -> Response:
    file = _named_file(core, request)
    if file.purpose == "batch":
        raise _refusal(400, "Only generated files can be downloaded.")
    return content_of(core, request, file, _failed)


# Batches -----------------------------------------------------------------------------------------------------------


async def _create_batch(core: Core, request: Request) -> Response:
    model = model_of(request.path_params["model"])
    if core.config.price_of(model) is None:
        raise _refusal(404, f"models/{model} is not found.")
    too_large = _refusal(400, "Request payload size exceeds the limit: 20971520 bytes.")
    body = await body_of(request, bytes_max=INLINE_BYTES_MAX, too_large=too_large)
    asked = object_in(body, otherwise=_refusal(400, "Invalid JSON payload received."))
    name, source = _checked(asked.get("batch"))
    file = await _input(core, source)
    note(request, file_id=file.id)
    within(core.ask_create(PROVIDER, _key_of(core, request)), _limited)
    fault = struck(core, request, Place.CREATE, file.sha256)
    _reject(core, fault)
    batch = await core.create_batch(
        file, endpoint="generateContent", window=WINDOW, metadata={"display_name": name}, model=model
    )
    note(request, batch_id=batch.id)
    return after_create(core, fault, JSONResponse(_shown(core, batch)), _failed)


def _checked(batch: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(batch, dict):
        raise _refusal(400, "batch: a required field is missing.")
    name, source = batch.get("displayName"), batch.get("inputConfig")
    if not isinstance(name, str) or not name:
        raise _refusal(400, "batch.display_name: a required field is missing.")
    if not isinstance(source, dict):
        raise _refusal(400, "batch.input_config: a required field is missing.")
    return name, source


async def _input(core: Core, source: dict[str, Any]) -> StoredFile:
    name = source.get("fileName")
    if isinstance(name, str):
        return _file(core, name.removeprefix("files/"))
    inlined = source.get("requests", {})
    requests = inlined.get("requests") if isinstance(inlined, dict) else None
    if not isinstance(requests, list) or not requests:
        raise _refusal(400, "batch.input_config.source: a required field is missing.")
    lines = _inline_lines(requests)
    return await keep_lines(core, lines, provider=PROVIDER, filename="inline.jsonl", purpose=INLINE)


def _inline_lines(requests: list[Any]) -> list[bytes]:
    """Told apart by the `key` in their metadata where they have one of their own, else by their place."""
    lines, seen = [], set()
    for place, inline in enumerate(requests):
        if not isinstance(inline, dict) or not isinstance(inline.get("request"), dict):
            raise _refusal(400, f"batch.input_config.requests.requests[{place}].request: a required field is missing.")
        metadata = inline.get("metadata", {})
        key = metadata.get(KEY) if isinstance(metadata, dict) else None
        key = key if isinstance(key, str) and key not in seen else str(place)
        seen.add(key)
        line = {KEY: key, "request": inline["request"], "metadata": metadata}
        lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return lines


def _reject(core: Core, fault: Fault | None) -> None:
    """Faults that leave nothing behind."""
    if fault is Fault.REJECT_500:
        raise _failed(500)
    if fault is Fault.REJECT_429:
        raise _throttled(core.plan[fault].seconds)
    if fault is Fault.REJECT_OVERLOADED:
        raise _failed(503)
    if fault is Fault.REJECT_QUOTA:
        raise _refusal(429, "Your prepayment credits are depleted.")
    if fault is Fault.REJECT_BILLING:
        raise _refusal(403, "This API method requires billing to be enabled.", reason="BILLING_DISABLED")


def _shown(core: Core, batch: Batch, *, flapping: bool = False) -> dict[str, Any]:
    now = clock.wall_ms()
    source = core.store.file(PROVIDER, batch.input_file_id)
    if source is None or source.purpose != INLINE:
        return batch_object(batch, now_ms=now, flapping=flapping)
    inlined = _inlined(core, batch, source) if results_shown(batch, now_ms=now) else []
    return batch_object(batch, now_ms=now, flapping=flapping, inlined=inlined)


def _inlined(core: Core, batch: Batch, source: StoredFile) -> list[dict[str, Any]]:
    """The rows of a batch whose requests came inline, each with the metadata of its request."""
    asked = [orjson.loads(line) for line in core.store.payload_path(source.id).read_bytes().splitlines()]
    metadata = {row[KEY]: row["metadata"] for row in asked}
    path = core.store.payload_path(str(batch.output_file_id))
    rows = [row for line in path.read_bytes().splitlines() if (row := _readable(line)) is not None]
    if Fault.INLINE_METADATA_MISSING in batch.faults:
        return [{name: part for name, part in row.items() if name != KEY} for row in rows]
    return [
        {name: part for name, part in row.items() if name != KEY} | {"metadata": metadata.get(row[KEY], {})}
        for row in rows
    ]


def _readable(line: bytes) -> dict[str, Any] | None:
    """A row that a fault broke cannot be part of a JSON answer: it is missing there."""
    try:
        row: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row


def _batch(core: Core, request: Request) -> Batch:
    return batch_at(core, request, request.path_params["batch_id"], provider=PROVIDER, absent=_no_batch)


def _no_batch(batch_id: str) -> Refusal:
    return _refusal(404, f"Requested entity was not found: batches/{batch_id}.")


async def _get_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    flapping = flaps(core, request, batch, absent=_no_batch, failed=_failed)
    return JSONResponse(_shown(core, batch, flapping=flapping))


async def _list_batches(core: Core, request: Request) -> Response:
    size, after = _page(request)
    if struck(core, request, Place.LIST, after or "") is not None:
        raise _failed(500)
    found = core.store.batches_after(PROVIDER, after, now_ms=clock.wall_ms(), limit=size + 1)
    if found is None:
        raise _refusal(400, "The page token is invalid.")
    shown = [_shown(core, batch) for batch in found[:size]]
    return JSONResponse(list_object("operations", shown, next_page=found[size - 1].id if len(found) > size else None))


async def _cancel_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    if operation_ended(batch):
        raise _refusal(400, f"batches/{batch.id} has ended.", word="FAILED_PRECONDITION")
    await cancelled(core, request, batch, _failed)
    return JSONResponse({})


async def _delete_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    if not batch.status.ended:
        raise _refusal(400, f"batches/{batch.id} has not ended.", word="FAILED_PRECONDITION")
    await core.delete_batch(batch)
    return JSONResponse({})


def _page(request: Request) -> tuple[int, str | None]:
    text = request.query_params.get("pageSize", "0")
    if not text.isdecimal():
        raise _refusal(400, "page_size is a whole number.")
    return min(int(text) or PAGE_DEFAULT, PAGE_MAX), request.query_params.get("pageToken") or None


def _origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{PREFIX}"
