"""Letters existing tools can read, and second chances at the earliest step that is not paid for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import DeadLetter, WorkItem
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import (
    FOREIGN_GENERATION,
    headers,
    key_of_source,
    of_raw,
    raw_of,
    redrive,
    redrive_fact,
    source_of_key,
)
from batchmill.streams.lifecycle import evolve
from batchmill.streams.normalizing import RawLimits, normalize
from batchmill.streams.orders import Emit
from tests.streams.making import (
    NOW_MS,
    carry_out,
    decide,
    life_of,
    make_raw,
    make_row,
    make_spec,
    make_view,
    take_in,
)

DEAD = sorted(reason for reason in Reason if not info(reason).excluded)


def letter(reason: Reason = Reason.UNDECODABLE) -> DeadLetter:
    made = of_raw(make_raw(b"\xff"), stage="normalizer", reason=reason, error="no", now_ms=NOW_MS, job="triage").record
    assert isinstance(made, DeadLetter)
    return made


def test_the_headers_are_those_that_spring_and_connect_read() -> None:
    told = dict(headers(letter(), raw_topic="acme.raw.v1", application="acme"))
    assert told["kafka_dlt-original-topic"] == b"acme.raw.v1"
    assert told["kafka_dlt-original-partition"] == b"\x00\x00\x00\x03"
    assert told["kafka_dlt-original-offset"] == (7).to_bytes(8, "big")
    assert told["kafka_dlt-original-timestamp"] == NOW_MS.to_bytes(8, "big")
    assert told["kafka_dlt-exception-message"] == b"no"
    assert told["__connect.errors.topic"] == b"acme.raw.v1"
    assert told["__connect.errors.partition"] == b"3"
    assert told["__connect.errors.offset"] == b"7"
    assert told["__connect.errors.stage"] == b"normalizer"
    assert told["batchmill-reason"] == b"undecodable"
    assert told["batchmill-retryable"] == b"false"
    assert told["batchmill-fault"] == b"upstream"
    assert told["batchmill-job"] == b"triage"
    assert "batchmill-request-id" not in told


@given(st.binary(max_size=40))
def test_a_source_id_gives_its_key_back(key: bytes) -> None:
    assert key_of_source(source_of_key(key)) == key
    source_of_key(key).encode()


def test_a_letter_repeats_its_id_until_it_is_redriven() -> None:
    assert letter().id == letter().id
    again = of_raw(
        make_raw(b"\xff", redrives=1), stage="normalizer", reason=Reason.UNDECODABLE, error="no", now_ms=NOW_MS
    )
    assert again.record.id != letter().id  # type: ignore[union-attr]


def test_a_raw_record_that_was_put_down_can_be_normalized_again() -> None:
    spec = make_spec(seq="$.at")
    dead = decide(spec, make_raw({"body": "x"}))
    assert dead.reason is Reason.BAD_SEQ
    raw = raw_of(dead)
    assert raw is not None
    mended = make_view(make_row(make_spec()))
    (order,) = normalize(mended, raw, jobs=CompiledJobs(), now_ms=NOW_MS, limits=RawLimits())
    assert isinstance(order, Emit)
    assert isinstance(order.record, WorkItem)
    assert (order.record.source_id, order.record.origin) == ("ticket-1", dead.origin)
    assert raw.redrives == 1
    assert raw_of(replace(dead, original=None)) is None, "without a copy the log must be read"
    told = [("batchmill-run", b"run-1")]
    from_log = raw_of(replace(dead, original=None), make_raw({"body": "y"}, key=b"own", headers=told))
    assert from_log is not None
    assert (from_log.key, from_log.value, from_log.origin) == (b"own", b'{"body": "y"}', dead.origin)
    assert list(from_log.headers) == [*told, ("batchmill-job", b"triage")]
    assert raw_of(replace(dead, origin=replace(dead.origin, generation=FOREIGN_GENERATION))) is None, "no raw event"
    assert raw_of(replace(dead, request_id="r" * 32)) is None, "a life is redriven as a life"


@pytest.mark.parametrize("reason", DEAD)
def test_every_dead_life_starts_again_somewhere(reason: Reason) -> None:
    view = make_view(make_row(make_spec()))
    item = take_in(view, make_raw())
    dead = evolve(
        life_of(view, item.request_id), status=Status.FAILED_TERMINAL, reason=reason, result_offset=4, verdict_offset=5
    )
    fact = redrive_fact(dead, asked_at_ms=1)
    assert fact is not None
    if reason is Reason.SINK_REFUSED:
        assert fact.to is Status.VALIDATED
    else:
        paid_for = reason in {Reason.DECLINED, Reason.POISON}
        assert (fact.to, fact.result_offset) == (Status.QUEUED, 4 if paid_for else None)
    view.put(dead)
    carry_out(view, redrive(view, item.request_id, now_ms=NOW_MS))
    alive = life_of(view, item.request_id)
    assert (alive.status, alive.redrives, alive.reason) == (fact.to, 1, None)
    assert redrive(view, item.request_id, now_ms=NOW_MS) == [], "once is enough"


def test_what_was_excluded_or_replaced_is_not_redriven() -> None:
    view = make_view(make_row(make_spec()))
    item = take_in(view, make_raw())
    live = life_of(view, item.request_id)
    assert redrive(view, item.request_id, now_ms=NOW_MS) == []
    view.put(evolve(live, status=Status.FAILED_TERMINAL, reason=Reason.CANCELLED))
    assert redrive(view, item.request_id, now_ms=NOW_MS) == []
    view.put(evolve(live, status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON))
    take_in(view, make_raw({"body": "newer"}, offset=8))
    assert redrive(view, item.request_id, now_ms=NOW_MS) == []
    assert redrive(view, "unknown", now_ms=NOW_MS) == []


def test_a_redriven_life_is_not_caught_by_an_earlier_cancellation() -> None:
    view = make_view(make_row(make_spec()))
    item = take_in(view, make_raw())
    view.put(evolve(life_of(view, item.request_id), status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON))
    view.put(make_row(make_spec(), cancelled_before_ms=NOW_MS + 10))
    carry_out(view, redrive(view, item.request_id, now_ms=NOW_MS))
    assert life_of(view, item.request_id).queued_at_ms == NOW_MS + 11
