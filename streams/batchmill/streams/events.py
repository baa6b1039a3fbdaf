"""A raw record's bytes -> the event in them: which job, which source, which rank, and what it says.

What lives here: strict, bounded reading of what strangers wrote, JSON and Avro alike. What must not: what a job asks of
its input (`items`), and what becomes of a record that cannot be read (`normalizing`).
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from batchmill.schemas import codec
from batchmill.schemas.ids import log_seq
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Origin, RawEvent
from batchmill.streams.compiling import CompiledJob
from batchmill.streams.dead_lettering import JOB_HEADER, RawRecord, source_of_key
from batchmill.streams.jsontext import DEPTH_MAX, JsonObject, decode_object
from batchmill.streams.unusable import Unusable

__all__ = [
    "RUN_HEADER",
    "Event",
    "RawLimits",
    "decoded",
    "header",
    "named_job",
    "run_of",
    "seq_of",
    "source_of",
    "traceparent_of",
]

RUN_HEADER: Final = "batchmill-run"
TRACE_HEADER: Final = "traceparent"

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


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded raw record, in one shape for JSON and Avro."""

    job: str | None
    source_id: str | None
    seq: int | None
    payload: JsonObject
    metadata: Mapping[str, str] = field(default_factory=dict)  #: of a typed event

    def copied(self) -> "Event":
        """With a payload of its own: whoever cleans it cleans no other version's."""
        return replace(self, payload=deepcopy(self.payload))


# -- bytes -> event ----------------------------------------------------------------------------------------------------


def named_job(raw: RawRecord) -> str | None:
    """The job that the header names, if it is a name; the event need not be readable for that."""
    named = header(raw, JOB_HEADER)
    return named if named is not None and _JOB_NAME.match(named) else None


def decoded(raw: RawRecord, limits: RawLimits, default_job: str | None) -> Event:
    """The event, its job named; raises Unusable."""
    in_header = header(raw, JOB_HEADER)
    value = raw.value
    if not value:
        raise Unusable(Reason.TOMBSTONE, "a raw record without a value asks for nothing")
    if len(value) > limits.value_bytes_max:
        raise Unusable(Reason.OVERSIZED, f"{len(value)} bytes, at most {limits.value_bytes_max} are taken")
    event = _from_avro(value, limits) if value.startswith(_AVRO_FRAME) else _from_json(value, limits, in_header is None)
    named = event.job if in_header is None else in_header
    return replace(event, job=_job_name(default_job if named is None else named))


def _from_avro(value: bytes, limits: RawLimits) -> Event:
    try:
        typed = codec.decode(value, RawEvent)
    except codec.CodecError as error:
        raise Unusable(error.reason, f"not a raw record in Avro: {error.hint}") from None
    if typed.op != "upsert":
        raise Unusable(Reason.TOMBSTONE, "a delete asks for nothing")
    payload = decode_object(typed.payload_json.encode(), bytes_max=limits.value_bytes_max, depth_max=limits.depth_max)
    return Event(typed.job, typed.source_id, typed.seq, payload, typed.metadata)


def _from_json(value: bytes, limits: RawLimits, job_is_inside: bool) -> Event:  # noqa: FBT001 - one caller, above
    payload = decode_object(value, bytes_max=limits.value_bytes_max, depth_max=limits.depth_max)
    job = payload.pop("job", None) if job_is_inside else None
    if job is not None and not isinstance(job, str):
        raise Unusable(Reason.NO_JOB, "the member `job` is not a text")
    return Event(job, None, None, payload)


def _job_name(name: str | None) -> str:
    if name is None:
        raise Unusable(Reason.NO_JOB, f"name the job: header `{JOB_HEADER}`, member `job`, or a default for the topic")
    if not _JOB_NAME.match(name):
        raise Unusable(Reason.NO_JOB, "a job's name has 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def header(raw: RawRecord, name: str) -> str | None:
    """The text of the first header of that name."""
    for given, value in raw.headers:
        if given == name:
            return value.decode("utf-8", "replace")
    return None


# -- identity and rank -------------------------------------------------------------------------------------------------


def source_of(job: CompiledJob, event: Event, raw: RawRecord, limits: RawLimits) -> str:
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


def seq_of(job: CompiledJob, event: Event, origin: Origin) -> int:
    """The event's rank among those of its source."""
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


def traceparent_of(raw: RawRecord) -> str | None:
    """The upstream trace this request continues; anything that is no W3C trace context is passed over."""
    named = header(raw, TRACE_HEADER)
    return named if named is not None and _TRACEPARENT.match(named) else None


def run_of(raw: RawRecord) -> str | None:
    """The run that the publisher says it belongs to."""
    named = header(raw, RUN_HEADER)
    return named if named is not None and _RUN_ID.match(named) else None
