"""Law: the Mistral Files and Batch Jobs endpoints: read the request, ask the core, answer in Mistral's words.

They lie under `/mistral`, because their paths are OpenAI's own. Faults of uploads, creates, reads and downloads strike
here. Of no document: the answers to a create that names a file which is gone (here 404, about `input_files`) and to the
cancel of a job that has ended (here 400). A filter by metadata comes as the SDK sends it: every pair a parameter.
"""

from __future__ import annotations

from datetime import UTC, datetime
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
    retry_after,
    struck,
    within,
)
from batchmill.agents.simulator.exchange import Disconnect, note
from batchmill.agents.simulator.faults import Fault, Place
from batchmill.agents.simulator.mistral.objects import (
    error_object,
    file_object,
    invalid_object,
    job_object,
    list_object,
    status_of,
)
from batchmill.agents.simulator.mistral.rows import ENDPOINTS
from batchmill.agents.simulator.multipart import FormReader, MultipartError, boundary_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    from batchmill.agents.simulator.core import Core, Upload
    from batchmill.agents.simulator.limits import Verdict
    from batchmill.agents.simulator.records import Batch, StoredFile

__all__ = ["PREFIX", "PROVIDER", "routes"]

PROVIDER: Final = "mistral"
PREFIX: Final = "/mistral/v1"
PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000
JOBS_MAX: Final = 1_000_000  # in the list: all of them
TIMEOUT_HOURS: Final = 24
TIMEOUT_HOURS_MAX: Final = 24 * 7
BODY_BYTES_MAX: Final = 64 * 1024 * 1024  # inline requests included
#: parameters of the list; every other one is a pair of metadata
LISTING: Final = frozenset(
    {"page", "page_size", "model", "agent_id", "created_after", "created_by_me", "status", "order_by"}
)


def routes() -> Sequence[Route]:
    def door(handler: Callable[[Core, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        return guarded(handler, provider=PROVIDER, key_of=_key_of, throttled=_limited)

    return [
        Route(f"{PREFIX}/files", door(_create_file), methods=["POST"]),
        Route(f"{PREFIX}/files", door(_list_files), methods=["GET"]),
        Route(f"{PREFIX}/files/{{file_id}}", door(_get_file), methods=["GET"]),
        Route(f"{PREFIX}/files/{{file_id}}", door(_delete_file), methods=["DELETE"]),
        Route(f"{PREFIX}/files/{{file_id}}/content", door(_file_content), methods=["GET"]),
        Route(f"{PREFIX}/batch/jobs", door(_create_job), methods=["POST"]),
        Route(f"{PREFIX}/batch/jobs", door(_list_jobs), methods=["GET"]),
        Route(f"{PREFIX}/batch/jobs/{{job_id}}", door(_get_job), methods=["GET"]),
        Route(f"{PREFIX}/batch/jobs/{{job_id}}", door(_delete_job), methods=["DELETE"]),
        Route(f"{PREFIX}/batch/jobs/{{job_id}}/cancel", door(_cancel_job), methods=["POST"]),
    ]


def _refusal(status: int, message: str, *, kind: str = "invalid_request_error", **parts: str) -> Refusal:
    return Refusal(status, error_object(message, kind=kind, status=status, **parts))


def _invalid(message: str, *place: str | int, kind: str = "value_error") -> Refusal:
    return Refusal(422, invalid_object(message, kind=kind, place=place))


def _failed(status: int) -> Refusal:
    if status == 503:
        message = "Service tier capacity exceeded for this model."
        return _refusal(status, message, kind="service_tier_capacity_exceeded", code="3505")
    return _refusal(status, "Internal server error", kind="server_error")


def _limited(rates: Verdict) -> Refusal:
    return _throttled(rates.wait_seconds)


def _throttled(wait_seconds: float | None) -> Refusal:
    body = error_object("Rate limit exceeded", kind="rate_limited", code="1300", status=429)
    return Refusal(429, body, headers=retry_after(wait_seconds))


def _key_of(core: Core, request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    known = core.config.api_key is None or token.strip() == core.config.api_key
    if scheme.lower() != "bearer" or not token.strip() or not known:
        raise Refusal(401, {"detail": "Unauthorized"})
    return token.strip()


# Files -------------------------------------------------------------------------------------------------------------


async def _create_file(core: Core, request: Request) -> Response:
    fault = struck(core, request, Place.UPLOAD, request.headers.get("content-length", ""))
    if fault is Fault.UPLOAD_500:
        raise _failed(500)
    if fault is Fault.UPLOAD_DISCONNECT:
        await anext(request.stream())
        return Disconnect()
    upload = core.upload()
    try:
        form = await _receive(core, request, upload)
        file = await _keep(core, form, upload)
    finally:
        upload.discard()
    note(request, file_id=file.id)
    if fault is Fault.UPLOAD_ACCEPT_THEN_500:
        raise _failed(500)
    return JSONResponse(file_object(file))


async def _receive(core: Core, request: Request, upload: Upload) -> FormReader:
    try:
        boundary = boundary_of(request.headers.get("content-type", ""))
        form = FormReader(boundary, file_field="file", sink=upload.write)
        async for chunk in request.stream():
            form.feed(chunk)
            if upload.size_bytes > core.config.upload_bytes_max:
                raise _refusal(413, f"The file is larger than {core.config.upload_bytes_max} bytes.", param="file")
        form.close()
    except MultipartError as error:
        raise _invalid(f"Invalid form: {error}.", "body") from None
    upload.close()
    return form


async def _keep(core: Core, form: FormReader, upload: Upload) -> StoredFile:
    if form.filename is None:
        raise _invalid("Field required", "body", "file", kind="missing")
    if form.fields.get("purpose") != "batch":
        raise _invalid("This simulator takes the purpose 'batch' only.", "body", "purpose")
    return await core.keep_upload(upload, provider=PROVIDER, filename=form.filename, purpose="batch")


def _file(core: Core, request: Request) -> StoredFile:
    file_id = request.path_params["file_id"]
    note(request, file_id=file_id)
    file = core.store.file(PROVIDER, file_id)
    if file is None:
        raise _refusal(404, f"No such file: {file_id}")
    return file


async def _list_files(core: Core, request: Request) -> Response:
    page, size = _page(request)
    found = core.store.files_after(PROVIDER, None, JOBS_MAX) or []
    shown = [file_object(file) for file in found[page * size : (page + 1) * size]]
    return JSONResponse(list_object(shown, total=len(found)))


async def _get_file(core: Core, request: Request) -> Response:
    return JSONResponse(file_object(_file(core, request)) | {"deleted": False})


async def _delete_file(core: Core, request: Request) -> Response:
    file = _file(core, request)
    await core.delete_file(file)
    return JSONResponse({"id": file.id, "object": "file", "deleted": True})


async def _file_content(core: Core, request: Request) -> Response:
    return content_of(core, request, _file(core, request), _failed)


# Jobs --------------------------------------------------------------------------------------------------------------


async def _create_job(core: Core, request: Request) -> Response:
    too_large = _refusal(413, "The request body is too large.")
    body = await body_of(request, bytes_max=BODY_BYTES_MAX, too_large=too_large)
    asked = object_in(body, otherwise=_invalid("JSON decode error", "body", kind="json_invalid"))
    endpoint, model, hours, metadata = _endpoint(asked), _model(core, asked), _hours(asked), _metadata(asked)
    file = await _input(core, asked)
    note(request, file_id=file.id)
    within(core.ask_create(PROVIDER, _key_of(core, request)), _limited)
    fault = struck(core, request, Place.CREATE, file.sha256)
    _reject(core, fault)
    batch = await core.create_batch(file, endpoint=endpoint, window=f"{hours}h", metadata=metadata, model=model)
    note(request, batch_id=batch.id)
    return after_create(core, fault, JSONResponse(job_object(batch, now_ms=clock.wall_ms())), _failed)


def _endpoint(asked: dict[str, Any]) -> str:
    if asked.get("endpoint") not in ENDPOINTS:
        raise _invalid(f"Input should be {', '.join(ENDPOINTS)}", "body", "endpoint", kind="enum")
    return str(asked["endpoint"])


def _model(core: Core, asked: dict[str, Any]) -> str | None:
    model = asked.get("model")
    if model is None:
        return None
    if not isinstance(model, str):
        raise _invalid("Input should be a valid string", "body", "model", kind="string_type")
    if core.config.price_of(model) is None:
        raise _refusal(400, f"Invalid model: {model}", kind="invalid_model", param="model", code="1500")
    return model


def _hours(asked: dict[str, Any]) -> int:
    hours = asked.get("timeout_hours", TIMEOUT_HOURS)
    if not isinstance(hours, int) or not 1 <= hours <= TIMEOUT_HOURS_MAX:
        raise _invalid(f"Input should be from 1 to {TIMEOUT_HOURS_MAX}", "body", "timeout_hours")
    return hours


def _metadata(asked: dict[str, Any]) -> dict[str, str]:
    value = asked.get("metadata") or {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _invalid("Input should be a dictionary of strings", "body", "metadata", kind="dict_type")
    return value


async def _input(core: Core, asked: dict[str, Any]) -> StoredFile:
    files, requests = asked.get("input_files"), asked.get("requests")
    if (files is None) == (requests is None):
        raise _invalid("Give either input_files or requests", "body")
    if requests is not None:
        return await keep_lines(
            core, _inline_lines(requests), provider=PROVIDER, filename="requests.jsonl", purpose="batch"
        )
    if not isinstance(files, list) or len(files) != 1:
        raise _invalid("This simulator takes one input file", "body", "input_files")
    file = core.store.file(PROVIDER, str(files[0]))
    if file is None or file.purpose != "batch":
        raise _refusal(404, f"No such file: {files[0]}", param="input_files")
    return file


def _inline_lines(requests: Any) -> list[bytes]:
    if not isinstance(requests, list) or not requests:
        raise _invalid("Input should be a list of requests", "body", "requests", kind="list_type")
    for place, row in enumerate(requests):
        if not isinstance(row, dict) or not isinstance(row.get("body"), dict):
            raise _invalid("Field required", "body", "requests", place, "body", kind="missing")
    return [orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in requests]


def _reject(core: Core, fault: Fault | None) -> None:
    """Faults that leave nothing behind."""
    if fault is Fault.REJECT_500:
        raise _failed(500)
    if fault is Fault.REJECT_429:
        raise _throttled(core.plan[fault].seconds)
    if fault is Fault.REJECT_OVERLOADED:
        raise _failed(503)
    if fault is Fault.REJECT_QUOTA:
        raise _throttled(None)
    if fault is Fault.REJECT_BILLING:
        raise _refusal(402, "Payment required: the limit of the workspace is reached.", kind="payment_required")


def _job(core: Core, request: Request) -> Batch:
    return batch_at(core, request, request.path_params["job_id"], provider=PROVIDER, absent=_no_job)


def _no_job(job_id: str) -> Refusal:
    return _refusal(404, f"No such batch job: {job_id}")


async def _get_job(core: Core, request: Request) -> Response:
    batch = _job(core, request)
    flapping = flaps(core, request, batch, absent=_no_job, failed=_failed)
    inline = request.query_params.get("inline", "").lower() == "true"
    outputs = _outputs(core, batch) if inline and batch.status.ended else None
    return JSONResponse(job_object(batch, now_ms=clock.wall_ms(), flapping=flapping, outputs=outputs))


def _outputs(core: Core, batch: Batch) -> list[dict[str, Any]]:
    files = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
    return [row for file_id in files for row in _rows(core, file_id)]


def _rows(core: Core, file_id: str) -> list[dict[str, Any]]:
    """A row that a fault broke cannot be part of a JSON answer: it is missing there."""
    rows = []
    for line in core.store.payload_path(file_id).read_bytes().splitlines():
        try:
            rows.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return rows


async def _list_jobs(core: Core, request: Request) -> Response:
    page, size = _page(request)
    if struck(core, request, Place.LIST, str(page)) is not None:
        raise _failed(500)
    now = clock.wall_ms()
    known = core.store.batches_after(PROVIDER, None, now_ms=now, limit=JOBS_MAX) or []
    wanted = _filter(request)
    found = [batch for batch in known if wanted(batch)]
    if request.query_params.get("order_by", "-created") == "created":
        found.reverse()
    shown = [job_object(batch, now_ms=now) for batch in found[page * size : (page + 1) * size]]
    return JSONResponse(list_object(shown, total=len(found)))


def _filter(request: Request) -> Callable[[Batch], bool]:
    asked = request.query_params
    model, statuses = asked.get("model"), set(asked.getlist("status"))
    after_ms = _created_after_ms(asked.get("created_after"))
    pairs = {name: value for name, value in asked.items() if name not in LISTING}

    def wanted(batch: Batch) -> bool:
        return (
            (model is None or batch.model == model)
            and (not statuses or status_of(batch) in statuses)
            and batch.created_ms > after_ms
            and all(batch.metadata.get(name) == value for name, value in pairs.items())
        )

    return wanted


def _created_after_ms(text: str | None) -> int:
    if text is None:
        return -1
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid("Input should be a valid datetime", "query", "created_after") from None
    return round(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)


async def _cancel_job(core: Core, request: Request) -> Response:
    batch = _job(core, request)
    if batch.status.ended:
        raise _refusal(400, f"Batch job {batch.id} has ended with status {status_of(batch)}.")
    asked = await cancelled(core, request, batch, _failed)
    return JSONResponse(job_object(asked, now_ms=clock.wall_ms()))


async def _delete_job(core: Core, request: Request) -> Response:
    batch = _job(core, request)
    if not batch.status.ended:
        raise _refusal(400, f"Batch job {batch.id} has not ended.")
    await core.delete_batch(batch)
    return JSONResponse({"id": batch.id, "object": "batch", "deleted": True})


def _page(request: Request) -> tuple[int, int]:
    page, size = (request.query_params.get(name, str(default)) for name, default in _PAGES)
    if not page.isdecimal() or not size.isdecimal() or not 1 <= int(size) <= PAGE_MAX:
        raise _invalid(f"page is 0 or more, page_size is from 1 to {PAGE_MAX}", "query", "page_size")
    return int(page), int(size)


_PAGES: Final = (("page", 0), ("page_size", PAGE_DEFAULT))
