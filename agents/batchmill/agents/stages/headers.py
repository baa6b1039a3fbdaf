"""The Kafka headers of every record we write: CloudEvents, correlation, trace context, and the dead-letter names.

A request has one trace, hours and crashes apart. It continues the trace of its raw event when that had one (the life
remembers it); else its trace id is the first 128 bits of its request id's hash, so that nothing need be stored.
"""

import hashlib

from uuid_utils import uuid7

from batchmill.agents import clock
from batchmill.schemas.records import Control, DeadLetter, Excluded, RawEvent, Record
from batchmill.streams.dead_lettering import JOB_HEADER
from batchmill.streams.dead_lettering import headers as letter_headers
from batchmill.streams.orders import Publish

__all__ = ["headers_for", "headers_of_output", "trace_id_of", "traceparent_of"]

_SAMPLED = "01"


def headers_for(
    record: Record, *, src: str, app_id: str, raw_topic: str, upstream: str | None
) -> list[tuple[str, bytes]]:
    """Binary-mode CloudEvents attributes and ours; `upstream` is the raw event's trace context, if it had one."""
    found = [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(uuid7()).encode()),
        ("ce_source", app_id.encode()),
        ("ce_type", f"batchmill.{record.schema}".encode()),
        ("ce_time", clock.rfc3339(clock.wall_ms()).encode()),
        ("causationid", src.encode()),
    ]
    if isinstance(record, RawEvent) and record.job is not None:
        found.append((JOB_HEADER, record.job.encode()))
    request_id = None if isinstance(record, RawEvent | Control) else record.request_id
    if request_id is not None:
        found.append(("correlationid", request_id.encode()))
        found.append(("traceparent", traceparent_of(request_id, src, upstream).encode()))
    if isinstance(record, DeadLetter | Excluded):
        found += letter_headers(record, raw_topic=raw_topic, application=app_id)
    return found


def headers_of_output(order: Publish, *, src: str, app_id: str) -> list[tuple[str, bytes]]:
    """The headers of a record for a topic that is not ours: its own, and where and when it came from."""
    about = [
        ("ce_source", app_id.encode()),
        ("ce_time", clock.rfc3339(clock.wall_ms()).encode()),
        ("causationid", src.encode()),
    ]
    return [*order.headers, *about]


def trace_id_of(request_id: str) -> str:
    """32 hex digits, never all zero."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


def traceparent_of(request_id: str, src: str, upstream: str | None) -> str:
    """W3C trace context: the request's trace, and a parent id made of the cause, so that it repeats after a crash."""
    parent = hashlib.sha256(f"{request_id} {src}".encode()).hexdigest()[:16]
    if upstream is None:
        return f"00-{trace_id_of(request_id)}-{parent}-{_SAMPLED}"
    version, trace_id, _, flags = upstream.split("-")
    return f"{version}-{trace_id}-{parent}-{flags}"
