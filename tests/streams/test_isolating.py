"""What kills the process ends alone, with a reason, and nothing else waits for it."""

from dataclasses import replace

import pytest

from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Origin, Submitted
from batchmill.schemas.state import Chunk, Grant, Life, Meta
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.granting import follow, money_pool
from batchmill.streams.isolating import (
    isolate_chunk,
    isolate_commit,
    isolate_judgement,
    isolate_record,
    verdict_gone,
)
from batchmill.streams.orders import Delete, Emit, Put
from batchmill.streams.view import MemoryView
from tests.schemas.samples import sample

NOW_MS = 1_800_000_000_000


def a_life(**changes):
    plain = {
        "request_id": "a" * 32,
        "status": Status.VALIDATED,
        "chunk_id": None,
        "commit_id": "c1",
        "output_sha256": "s",
        "verdict_offset": 4,
        "reverted": False,
    }
    return replace(sample(Life), **(plain | changes))


def seen_at(key: str, value: bytes = b"") -> RawRecord:
    return RawRecord(origin=Origin(generation=0, partition=2, offset=9, at_ms=1), key=key.encode(), value=value)


def put_and_letter(orders):
    rows = [order.row for order in orders if isinstance(order, Put)]
    letters = [order.record for order in orders if isinstance(order, Emit)]
    return rows, letters


@pytest.mark.parametrize(
    ("topic", "status"), [("results", Status.SUCCEEDED_UNVALIDATED), ("validated", Status.VALIDATED)]
)
def test_a_life_whose_next_record_is_poison_ends_as_poison(topic, status):
    view, life = MemoryView(), a_life(status=status)
    view.put(life)
    rows, letters = put_and_letter(isolate_record(view, topic, seen_at(life.request_id), raw=False, now_ms=NOW_MS))
    assert [(row.status, row.reason) for row in rows] == [(Status.FAILED_TERMINAL, Reason.POISON)]
    assert [(type(each), each.reason, each.request_id) for each in letters] == [
        (DeadLetter, Reason.POISON, life.request_id)
    ]


def test_a_raw_event_that_is_poison_is_put_down_in_its_own_partition():
    raw = replace(seen_at("k", b"deadly"), origin=Origin(generation=1, partition=2, offset=9, at_ms=1))
    (order,) = isolate_record(MemoryView(), "raw", raw, raw=True, now_ms=NOW_MS)
    assert isinstance(order, Emit)
    assert (order.partition, order.record.reason, order.record.original) == (2, Reason.POISON, b"deadly")


def test_a_poisonous_line_on_submitted_still_counts_as_seen_so_that_its_chunk_can_end():
    view = MemoryView()
    chunk = replace(sample(Chunk), state=ChunkState.COLLECTED, members=1, acknowledged=0)
    line = replace(sample(Submitted), chunk_id=chunk.chunk_id)
    view.put(chunk)
    found = seen_at(line.request_id, encode(line))
    rows, letters = put_and_letter(isolate_record(view, "submitted", found, raw=False, now_ms=NOW_MS))
    assert [row.acknowledged for row in rows] == [1]
    assert [each.reason for each in letters] == [Reason.POISON]


def test_a_chunk_that_kills_is_given_up_and_a_closed_one_is_left_alone():
    view = MemoryView()
    chunk = replace(sample(Chunk), state=ChunkState.SEALED, reason=None)
    view.put(chunk)
    rows, _ = put_and_letter(isolate_chunk(view, chunk.chunk_id, "prepare", NOW_MS))
    assert [(row.state, row.reason, row.due_at_ms) for row in rows] == [(ChunkState.ENDED, Reason.POISON, None)]
    view.put(replace(chunk, state=ChunkState.DONE))
    assert isolate_chunk(view, chunk.chunk_id, "prepare", NOW_MS) == []


@pytest.mark.parametrize(
    ("state", "reserved", "doubtful"),
    [
        (ChunkState.PREPARED, 400, 0),
        (ChunkState.OPEN, 400, 300),
        (ChunkState.DOWNLOADED, 400, 300),
        (ChunkState.ATTEMPTING, 0, 75),
    ],
)
def test_what_a_chunk_that_was_sent_and_given_up_may_have_cost_is_doubtful_and_posted(state, reserved, doubtful):
    view = MemoryView()
    settled = {"succeeded": 1, "errored": 0, "expired": 0, "cancelled": 0, "missing": 0}
    costs = {"cost_nanos": 40, "wasted_nanos": 0, "untold_nanos": 0, "doubtful_nanos": 0, "estimated_nanos": 100}
    chunk = replace(sample(Chunk), state=state, reason=None, members=4, reserved_nanos=reserved, **settled, **costs)
    chunk = replace(chunk, waits_for=None, reserved_tokens=0, reserved_creates=0)
    view.put(chunk)
    pool = money_pool(chunk.job)
    sums = {"asked": reserved, "granted": reserved, "posted": 0, "returned": 0}
    view.put(Grant(pool=pool, reserved=reserved, **sums, updated_at_ms=NOW_MS))
    (row,), _ = put_and_letter(isolate_chunk(view, chunk.chunk_id, "poll", NOW_MS))
    assert row.doubtful_nanos == doubtful
    rows, _ = put_and_letter(follow(view, row))
    assert [(each.posted, each.returned) for each in rows if isinstance(each, Grant)] == (
        [(40 + doubtful, reserved - 40 - doubtful)] if reserved else []
    )


def test_a_commit_that_kills_names_its_commit_id_so_that_the_sink_can_be_asked():
    view, life = MemoryView(), a_life()
    view.put(life)
    rows, (letter,) = put_and_letter(isolate_commit(view, life.request_id, NOW_MS))
    assert [(row.status, row.reason) for row in rows] == [(Status.FAILED_TERMINAL, Reason.POISON)]
    assert life.commit_id in letter.error


def test_a_validated_life_without_its_verdict_is_put_down_as_gone():
    rows, (letter,) = put_and_letter(verdict_gone(a_life(commit_id=None), NOW_MS))
    assert [(row.status, row.reason) for row in rows] == [(Status.FAILED_TERMINAL, Reason.BODY_GONE)]
    assert letter.reason is Reason.BODY_GONE


def test_an_answer_whose_judgement_kills_ends_as_poison():
    view, life = MemoryView(), a_life(status=Status.SUCCEEDED_UNVALIDATED, result_offset=5)
    view.put(life)
    rows, (letter,) = put_and_letter(isolate_judgement(view, life.request_id, NOW_MS))
    assert [(row.status, row.reason) for row in rows] == [(Status.FAILED_TERMINAL, Reason.POISON)]
    assert (letter.stage, letter.reason) == ("validator", Reason.POISON)
    view.put(rows[0])
    assert isolate_judgement(view, life.request_id, NOW_MS) == []


def test_a_decision_that_kills_is_dropped_and_its_answer_says_so_in_review():
    view, life = MemoryView(), a_life(status=Status.NEEDS_REVIEW)
    row = Meta(name=f"correction/{life.request_id}/{7:016d}", value_json="{}")
    view.put(life)
    view.put(row)
    orders = isolate_judgement(view, row.key, NOW_MS)
    assert orders[0] == Delete(Meta.schema, row.key)
    rows, letters = put_and_letter(orders)
    assert [(each.status, each.reason) for each in rows] == [(Status.NEEDS_REVIEW, Reason.POISON)]
    assert letters == []
    view.put(replace(life, status=Status.COMMITTED))
    assert isolate_judgement(view, row.key, NOW_MS) == [Delete(Meta.schema, row.key)]
