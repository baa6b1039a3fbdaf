"""Raw records that never became a request are put down here; dead letters of either kind are taken up again.

The letter of a request is its life's obituary (`settling`). A letter about a raw record carries the original bytes
while they fit, else where they lie. Kafka headers use the names that existing tools read.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from batchmill.schemas.ids import dead_letter_id
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import DeadLetter, Excluded, Origin
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.facts import NotPromoted, Redriven, Superseded
from batchmill.streams.following import Askers, effect_of
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.promoting import answers_for, bring_forward
from batchmill.streams.settling import moved, unwanted
from batchmill.streams.versioning import promotion_of
from batchmill.streams.view import StateView

__all__ = [
    "FOREIGN_GENERATION",
    "JOB_HEADER",
    "ORIGINAL_BYTES_MAX",
    "RawRecord",
    "headers",
    "key_of_source",
    "of_raw",
    "raw_of",
    "redrive",
    "redrive_fact",
    "source_of_key",
    "uri_of_raw",
]

#: up to here a dead letter carries the bytes themselves; above it names where they lie
ORIGINAL_BYTES_MAX = 256 * 1024
ERROR_CHARS_MAX = 1_000
#: an origin of this generation is no raw event: a record found on one of our own topics that is none of ours
FOREIGN_GENERATION = 0
_KEY_BYTES_MAX = 256

JOB_HEADER = "batchmill-job"
#: reasons that say nothing against the answer
_ANSWER_WAS_GOOD = frozenset({Reason.DECLINED, Reason.SINK_REFUSED, Reason.POISON})
#: marks a source id made of key bytes that are not UTF-8, or that begin like the mark itself
_HEX = "hex:"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """A raw event as the log has it."""

    origin: Origin
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    redrives: int = 0  #: how often it came back from dead-letter


def of_raw(
    raw: RawRecord,
    *,
    stage: str,
    reason: Reason,
    error: str,
    now_ms: int,
    job: str | None = None,
    version: str | None = None,
    source_id: str | None = None,
) -> Emit:
    """Put down a raw record that never became a request; it stays in the raw event's partition."""
    cause = _Cause(stage, reason, error[:ERROR_CHARS_MAX], now_ms, job, version, source_id)
    record = _excluded(raw, cause) if info(reason).excluded else _dead_letter(raw, cause)
    key = (raw.key or uri_of_raw(raw.origin).encode())[:_KEY_BYTES_MAX]
    return Emit(record, key, raw.origin.partition)


@dataclass(frozen=True, slots=True)
class _Cause:
    stage: str
    reason: Reason
    error: str
    at_ms: int
    job: str | None
    version: str | None
    source_id: str | None


def _dead_letter(raw: RawRecord, cause: _Cause) -> DeadLetter:
    value = raw.value or b""
    fits = len(value) <= ORIGINAL_BYTES_MAX
    return DeadLetter(
        id=_id(raw, cause),
        request_id=None,
        job=cause.job,
        version=cause.version,
        source_id=cause.source_id,
        stage=cause.stage,
        reason=cause.reason,
        error=cause.error,
        retryable=info(cause.reason).retryable,
        fault=info(cause.reason).fault.value,
        attempt=0,
        cost_nanos=0,
        original=value if fits else None,
        original_sha256=hashlib.sha256(value).hexdigest(),
        original_bytes=len(value),
        original_uri=None if fits else uri_of_raw(raw.origin),
        redrives=raw.redrives,
        failed_at_ms=cause.at_ms,
        origin=raw.origin,
    )


def _excluded(raw: RawRecord, cause: _Cause) -> Excluded:
    return Excluded(
        id=_id(raw, cause),
        request_id=None,
        job=cause.job or "",
        version=cause.version,
        source_id=cause.source_id,
        stage=cause.stage,
        reason=cause.reason,
        detail=cause.error,
        of_request_id=None,
        cost_nanos=0,
        excluded_at_ms=cause.at_ms,
        origin=raw.origin,
    )


def _id(raw: RawRecord, cause: _Cause) -> str:
    return dead_letter_id(
        cause.stage,
        cause.reason,
        generation=raw.origin.generation,
        partition=raw.origin.partition,
        offset=raw.origin.offset,
        redrives=raw.redrives,
    )


def uri_of_raw(origin: Origin) -> str:
    """Names a raw event by its place in the log, which keeps it for the replay horizon."""
    return f"log:raw/{origin.generation}/{origin.partition}/{origin.offset}"


def headers(letter: DeadLetter | Excluded, *, raw_topic: str, application: str) -> list[tuple[str, bytes]]:
    """Kafka headers under our names, Spring's (numbers as big-endian bytes) and Kafka Connect's (all as text)."""
    origin, error = letter.origin, letter.error if isinstance(letter, DeadLetter) else letter.detail
    ours = {
        "batchmill-reason": letter.reason,
        "batchmill-stage": letter.stage,
        "batchmill-fault": info(letter.reason).fault,
        "batchmill-retryable": "true" if info(letter.reason).retryable else "false",
        JOB_HEADER: letter.job,
        "batchmill-request-id": letter.request_id,
        "batchmill-source-id": letter.source_id,
    }
    exception = f"batchmill.{letter.reason}"
    spring: dict[str, bytes] = {
        "kafka_dlt-original-topic": raw_topic.encode(),
        "kafka_dlt-original-partition": origin.partition.to_bytes(4, "big"),
        "kafka_dlt-original-offset": origin.offset.to_bytes(8, "big"),
        "kafka_dlt-original-timestamp": origin.at_ms.to_bytes(8, "big"),
        "kafka_dlt-original-timestamp-type": b"LogAppendTime",
        "kafka_dlt-original-consumer-group": application.encode(),
        "kafka_dlt-exception-fqcn": exception.encode(),
        "kafka_dlt-exception-message": error.encode(),
    }
    connect = {
        "__connect.errors.topic": raw_topic,
        "__connect.errors.partition": str(origin.partition),
        "__connect.errors.offset": str(origin.offset),
        "__connect.errors.connector.name": application,
        "__connect.errors.task.id": str(origin.partition),
        "__connect.errors.stage": letter.stage,
        "__connect.errors.exception.class.name": exception,
        "__connect.errors.exception.message": error,
    }
    texts = [(name, text.encode()) for name, text in (ours | connect).items() if text]
    return [*texts, *spring.items()]


def redrive(view: StateView, request_id: str, *, now_ms: int, askers: Askers | None = None) -> list[Order]:
    """Give a dead-lettered life another chance; nothing when it has not ended, or a newer event took its place, or its
    version is not wanted any more.

    `askers`: of the command that brings back others, too, so that those with one question are not all paid for.
    """
    life = read.life(view, request_id)
    if life is None:
        return []
    job = read.job(view, life.job)
    # a cancellation names an instant; whoever redrives afterwards means it
    cancelled_before_ms = -1 if job is None else job.cancelled_before_ms or -1
    fact = redrive_fact(life, asked_at_ms=max(now_ms, cancelled_before_ms + 1))
    if fact is None or isinstance(unwanted(view, life), Superseded | NotPromoted):
        return []
    again = moved(life, fact, now_ms)
    if fact.to is Status.QUEUED and again.result_offset is None:
        again = (askers or Askers(view)).joined(again)
    woken = Wake("commit" if fact.to is Status.VALIDATED else effect_of(again))
    source = read.source(view, life.job, life.source_id)
    in_force = job is not None and job.version == life.version
    if job is not None and in_force and again.aside and source is not None and answers_for(view, again, source):
        # it failed before its version was promoted: the event is its own now
        return [*bring_forward(view, again, source, promotion_of(job, life.version), now_ms), woken]
    return [Put(again), woken]


def redrive_fact(life: Life, *, asked_at_ms: int) -> Redriven | None:
    """Where a dead-lettered life starts again: at the earliest step that is not yet paid for. None: it may not.

    A refused commit is committed again. An answer that was good until someone stopped it is read and judged again. An
    answer that failed its checks would fail them again under the same frozen version, so the question is asked anew.
    """
    reason = life.reason
    if life.status is not Status.FAILED_TERMINAL or reason is None or info(reason).excluded:
        return None
    if reason is Reason.SINK_REFUSED and life.verdict_offset is not None:
        return Redriven(to=Status.VALIDATED, asked_at_ms=asked_at_ms, result_offset=None)
    stored = life.result_offset if reason in _ANSWER_WAS_GOOD else None
    return Redriven(to=Status.QUEUED, asked_at_ms=asked_at_ms, result_offset=stored)


def raw_of(letter: DeadLetter, event: RawRecord | None = None) -> RawRecord | None:
    """The raw record to normalize again, for a dead letter that never had a life.

    `event` is what the log still holds; without it and without a copy in the letter there is nothing: None. Nor is
    there for what was no raw event to begin with. An event keeps its key: one that was put down before its job was
    known has no other source.
    """
    if letter.request_id is not None or letter.origin.generation == FOREIGN_GENERATION:
        return None
    job = () if letter.job is None else ((JOB_HEADER, letter.job.encode()),)
    if event is not None:
        named = any(name == JOB_HEADER for name, _ in event.headers)
        told = event.headers if named else (*event.headers, *job)
        return replace(event, origin=letter.origin, headers=told, redrives=letter.redrives + 1)
    if letter.original is None:
        return None
    key = None if letter.source_id is None else key_of_source(letter.source_id)
    return RawRecord(origin=letter.origin, key=key, value=letter.original, headers=job, redrives=letter.redrives + 1)


def source_of_key(key: bytes) -> str:
    """A record key as text, whatever its bytes; `key_of_source` is its inverse."""
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return _HEX + key.hex()
    return _HEX + key.hex() if text.startswith(_HEX) else text


def key_of_source(source_id: str) -> bytes:
    """The bytes `source_of_key` made a text of."""
    return bytes.fromhex(source_id.removeprefix(_HEX)) if source_id.startswith(_HEX) else source_id.encode()
