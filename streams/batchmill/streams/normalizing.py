"""A raw record becomes a work item, or is put down with a reason, or waits: raw -> normalized.

Order of the steps, each refusing what the next may rely on: size, encoding, JSON or Avro, job, identity and rank, text
normalisation, input schema, required members, filter, rendering. Nothing is asked of the outside; whether a request is
new is not decided here but by its own task (`queueing`). A record of an unknown or paused job waits as an `Arrival`.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from batchmill.schemas import codec
from batchmill.schemas.ids import ask_key, content_sha256, log_seq, request_id
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Origin, RawEvent, WorkItem
from batchmill.schemas.state import Arrival, Job
from batchmill.streams import view as views
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.controlling import promotion_of
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.dead_lettering import JOB_HEADER, RawRecord, of_raw, source_of_key
from batchmill.streams.expressions import ConditionError
from batchmill.streams.jsontext import DEPTH_MAX, JsonObject, canonical, decode_object
from batchmill.streams.orders import Delete, Emit, Order, Put
from batchmill.streams.paths import ABSENT, Path
from batchmill.streams.routing import route_of, sizes_of
from batchmill.streams.unusable import Unusable
from batchmill.streams.view import StateView

__all__ = [
    "JOB_KNOWN",
    "JOB_RESUMED",
    "RUN_HEADER",
    "STAGE",
    "RawLimits",
    "give_up",
    "live_run",
    "normalize",
    "revisit",
]

STAGE = "normalizer"
RUN_HEADER = "batchmill-run"
TRACE_HEADER = "traceparent"
#: what an arrival waits for
JOB_KNOWN = "job_known"
JOB_RESUMED = "job_resumed"

#: what the provider's line adds around a body: custom id, method, url, punctuation
LINE_FRAMING_BYTES = 200
_SEQ_MAX = 2**62
_AVRO_FRAME = b"\x00"
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\Z")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLimits:
    """How much of a stranger's record is taken."""

    value_bytes_max: int = 2**20
    depth_max: int = DEPTH_MAX
    source_id_chars_max: int = 512


def normalize(
    view: StateView,
    raw: RawRecord,
    *,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None = None,
) -> list[Order]:
    """What to do with one raw record: exactly one work item, dead letter, exclusion or arrival."""
    known = _Known()
    try:
        return [_decided(view, raw, known, jobs, now_ms, limits, default_job)]
    except Unusable as wrong:
        return [_put_down(raw, known, wrong.reason, wrong.note, now_ms)]


def revisit(
    view: StateView,
    arrival: Arrival,
    raw: RawRecord,
    *,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None = None,
) -> list[Order]:
    """Look again at a record that waited; it goes on waiting (for something else, perhaps) or leaves its arrival."""
    assert raw.origin == arrival.origin, f"arrival {arrival.key} was read back as another record"
    orders = normalize(view, raw, jobs=jobs, now_ms=now_ms, limits=limits, default_job=default_job)
    match orders:
        case [Put(Arrival(waiting_for=still, job=job))]:
            return [] if (still, job) == (arrival.waiting_for, arrival.job) else orders
        case _:
            return [*orders, Delete(Arrival.schema, arrival.key)]


def give_up(arrival: Arrival, raw: RawRecord, *, now_ms: int) -> list[Order]:
    """Dead-letter a record whose job nobody has heard of, once control was read to its end."""
    assert arrival.waiting_for == JOB_KNOWN, f"arrival {arrival.key} waits for {arrival.waiting_for}"
    error = f"job {arrival.job!r} is not known; `batchmill job apply` it, then redrive"
    known = _Known(job=arrival.job)
    return [_put_down(raw, known, Reason.UNKNOWN_JOB, error, now_ms), Delete(Arrival.schema, arrival.key)]


def live_run(job: str, version: str) -> str:
    """The run that live events of a version belong to."""
    return f"live:{job}:{version}"


@dataclass(slots=True)
class _Known:
    """What has been found out about a record so far, for the letter it may end in."""

    job: str | None = None
    version: str | None = None
    source_id: str | None = None


@dataclass(slots=True)
class _Event:
    """A decoded raw record, in one shape for JSON and Avro."""

    job: str | None
    source_id: str | None
    seq: int | None
    payload: JsonObject


def _put_down(raw: RawRecord, known: _Known, reason: Reason, error: str, now_ms: int) -> Emit:
    return of_raw(
        raw,
        stage=STAGE,
        reason=reason,
        error=error,
        now_ms=now_ms,
        job=known.job,
        version=known.version,
        source_id=known.source_id,
    )


def _decided(
    view: StateView,
    raw: RawRecord,
    known: _Known,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None,
) -> Order:
    event = _decoded(raw, known, limits, default_job)
    known.job = event.job
    row = views.job(view, known.job) if known.job is not None else None
    if row is None or row.paused:
        return Put(_waiting(raw, known.job, JOB_KNOWN if row is None else JOB_RESUMED, now_ms))
    if raw.redrives == 0 and row.cancelled_before_ms is not None and raw.origin.at_ms <= row.cancelled_before_ms:
        raise Unusable(Reason.CANCELLED, "the job was cancelled after this event")
    known.version = row.version
    job = _compiled(jobs, row)
    known.source_id = source_id = _source_id(job, event, raw, limits)
    seq = _seq(job, event, raw.origin)
    item_input = _accepted(job, event.payload)
    return _work_item(job, raw, source_id, (seq, promotion_of(row, row.version)), item_input, limits)


def _compiled(jobs: CompiledJobs, row: Job) -> CompiledJob:
    job = jobs.of(row)
    assert job is not None, f"job {row.job} promotes version {row.version}, which its row does not hold"
    return job


def _waiting(raw: RawRecord, job: str | None, waiting_for: str, now_ms: int) -> Arrival:
    return Arrival(job=job, waiting_for=waiting_for, since_ms=now_ms, origin=raw.origin)


# -- bytes -> event ----------------------------------------------------------------------------------------------------


def _decoded(raw: RawRecord, known: _Known, limits: RawLimits, default_job: str | None) -> _Event:
    header = _header(raw, JOB_HEADER)
    known.job = header if header is not None and _JOB_NAME.match(header) else None
    value = raw.value
    if not value:
        raise Unusable(Reason.TOMBSTONE, "a raw record without a value asks for nothing")
    if len(value) > limits.value_bytes_max:
        raise Unusable(Reason.OVERSIZED, f"{len(value)} bytes, at most {limits.value_bytes_max} are taken")
    event = _from_avro(value, limits) if value.startswith(_AVRO_FRAME) else _from_json(value, limits, header is None)
    named = event.job if header is None else header
    event.job = _job_name(default_job if named is None else named)
    return event


def _from_avro(value: bytes, limits: RawLimits) -> _Event:
    try:
        typed = codec.decode(value, RawEvent)
    except codec.CodecError as error:
        raise Unusable(error.reason, f"not a raw record in Avro: {error.hint}") from None
    if typed.op != "upsert":
        raise Unusable(Reason.TOMBSTONE, "a delete asks for nothing")
    payload = decode_object(typed.payload_json.encode(), bytes_max=limits.value_bytes_max, depth_max=limits.depth_max)
    return _Event(typed.job, typed.source_id, typed.seq, payload)


def _from_json(value: bytes, limits: RawLimits, job_is_inside: bool) -> _Event:  # noqa: FBT001 - one caller, above
    payload = decode_object(value, bytes_max=limits.value_bytes_max, depth_max=limits.depth_max)
    job = payload.pop("job", None) if job_is_inside else None
    if job is not None and not isinstance(job, str):
        raise Unusable(Reason.NO_JOB, "the member `job` is not a text")
    return _Event(job, None, None, payload)


def _job_name(name: str | None) -> str:
    if name is None:
        raise Unusable(Reason.NO_JOB, f"name the job: header `{JOB_HEADER}`, member `job`, or a default for the topic")
    if not _JOB_NAME.match(name):
        raise Unusable(Reason.NO_JOB, "a job's name has 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def _header(raw: RawRecord, name: str) -> str | None:
    for given, value in raw.headers:
        if given == name:
            return value.decode("utf-8", "replace")
    return None


# -- identity and rank -------------------------------------------------------------------------------------------------


def _source_id(job: CompiledJob, event: _Event, raw: RawRecord, limits: RawLimits) -> str:
    """A typed event says it; else the path the job declares; a job that declares none goes by the record's key."""
    if event.source_id:
        found: Any = event.source_id
    elif job.id_path is not None:
        found = job.id_path.find(event.payload)
        found = str(found) if type(found) is int else found
    else:
        found = source_of_key(raw.key) if raw.key else None
    if not isinstance(found, str) or not found:
        where = "as the record's key" if job.id_path is None else f"as a text or whole number at {job.id_path.text}"
        raise Unusable(Reason.NO_SOURCE, f"the source id is expected {where}")
    if len(found) > limits.source_id_chars_max:
        raise Unusable(Reason.NO_SOURCE, f"a source id has at most {limits.source_id_chars_max} characters")
    return found


def _seq(job: CompiledJob, event: _Event, origin: Origin) -> int:
    if event.seq is not None:
        found: Any = event.seq
    elif job.seq_path is None:
        return log_seq(origin.generation, origin.offset)
    else:
        found = job.seq_path.find(event.payload)
    if isinstance(found, str):
        found = _microseconds(found)
    if type(found) is not int or not 0 <= found < _SEQ_MAX:
        where = "in `seq`" if job.seq_path is None else f"at {job.seq_path.text}"
        raise Unusable(Reason.BAD_SEQ, f"expected a whole number from 0 or an RFC 3339 time with zone {where}")
    return found


def _microseconds(text: str) -> int | None:
    """Since 1970, exact; None when `text` is no RFC 3339 time."""
    if not _TIMESTAMP.match(text):
        return None
    try:
        since = datetime.fromisoformat(text.upper()) - _EPOCH
    except (ValueError, OverflowError):
        return None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


# -- what the job asks of its input ------------------------------------------------------------------------------------


def _accepted(job: CompiledJob, payload: JsonObject) -> JsonObject:
    job.cleaner.apply(payload)
    if job.input_shape is not None and not job.input_shape.fits(payload):
        faults = job.input_shape.mismatches(payload)
        raise Unusable(Reason.INVALID_INPUT, "; ".join(f"{fault.path}: {fault.note}" for fault in faults))
    for path in job.required:
        if _blank(path.find(payload)):
            raise Unusable(Reason.INVALID_INPUT, f"{path.text}: expected to be there and not blank")
    _filter(job, payload)
    return payload


def _blank(value: Any) -> bool:
    return value is ABSENT or value is None or (isinstance(value, str) and not value.strip())


def _filter(job: CompiledJob, payload: JsonObject) -> None:
    if job.filter is None:
        return
    try:
        wanted = job.filter.holds({"input": payload})
    except ConditionError as error:
        raise Unusable(Reason.FILTER_ERROR, f"input.filter: {error}") from None
    if not wanted:
        raise Unusable(Reason.FILTERED, "the job's filter does not take it")


# -- the work item -----------------------------------------------------------------------------------------------------


def _work_item(
    job: CompiledJob,
    raw: RawRecord,
    source_id: str,
    rank: tuple[int, int],
    item_input: JsonObject,
    limits: RawLimits,
) -> Emit:
    seq, promotion = rank
    spec, input_json = job.spec, canonical(item_input)
    if len(input_json) > limits.value_bytes_max:
        # Numbers written out and compatibility characters can take many times the bytes they came in.
        raise Unusable(
            Reason.OVERSIZED, f"{len(input_json)} bytes once normalized, at most {limits.value_bytes_max} are taken"
        )
    sha256 = content_sha256(input_json)
    named = request_id(spec.job, source_id, sha256, job.version, 0, spec.dedupe)
    route = route_of(job.routes, item_input)
    body_bytes, bytes_max = sizes_of(job.routes, route, input_json)
    tokens, chunk = estimate_tokens(body_bytes), spec.mode.chunk
    if body_bytes + LINE_FRAMING_BYTES > chunk.max_bytes or tokens > chunk.max_tokens:
        raise Unusable(Reason.TOO_LARGE_FOR_PROVIDER, f"{body_bytes} bytes rendered: above mode.chunk's limits")
    item = WorkItem(
        request_id=named,
        job=spec.job,
        version=job.version,
        ask_key=ask_key(spec.job, source_id, sha256, job.ask_fingerprint, 0, spec.dedupe),
        source_id=source_id,
        seq=seq,
        promotion=promotion,
        seq_from_log=job.seq_path is None,
        run_id=_run_id(raw, job),
        epoch=0,
        lane=route.lane,
        route=route.name,
        input_json=input_json.decode(),
        input_sha256=sha256,
        target_key=_target_key(job.target_path, item_input, source_id, limits),
        tokens_estimate=estimate_tokens(bytes_max),
        bytes_estimate=bytes_max + LINE_FRAMING_BYTES,
        traceparent=_traceparent(raw),
        origin=raw.origin,
    )
    return Emit(item, named.encode())


def _target_key(path: Path | None, item_input: JsonObject, source_id: str, limits: RawLimits) -> str:
    if path is None:
        return source_id
    found = path.find(item_input)
    found = str(found) if type(found) is int else found
    if not isinstance(found, str) or not found:
        raise Unusable(Reason.INVALID_INPUT, f"{path.text}: expected a text or whole number, it is the target's key")
    if len(found) > limits.source_id_chars_max:
        raise Unusable(Reason.INVALID_INPUT, f"{path.text}: a key has at most {limits.source_id_chars_max} characters")
    return found


def _traceparent(raw: RawRecord) -> str | None:
    """The upstream trace this request continues; anything that is no W3C trace context is passed over."""
    named = _header(raw, TRACE_HEADER)
    return named if named is not None and _TRACEPARENT.match(named) else None


def _run_id(raw: RawRecord, job: CompiledJob) -> str:
    named = _header(raw, RUN_HEADER)
    return named if named is not None and _RUN_ID.match(named) else live_run(job.spec.job, job.version)
