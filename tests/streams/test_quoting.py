"""What a redrive would take, told beforehand: the same decision that is made later, with a price."""

from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.jobs import ModeSpec, RetryRule, RetrySpec, TruncationSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Origin
from batchmill.schemas.state import Job, Life, Source
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.costing import parse_prices, write_prices
from batchmill.streams.dead_lettering import FOREIGN_GENERATION, RawRecord, of_raw, redrive
from batchmill.streams.normalizing import RawLimits
from batchmill.streams.orders import Put
from batchmill.streams.quoting import STAYS, Quote, Way, attempts_max, quote, quote_event
from batchmill.streams.view import MemoryView
from tests.streams.making import make_row, make_spec
from tests.streams.rows import NOW_MS, make_life, make_source

#: a dollar a million prompt tokens is 1000 nano-dollars each; batches are half of it
PRICES = parse_prices('{"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}')
ROW = make_row(make_spec())
KEPT = {"normalized": 0, "results": 0, "validated": 0}


def dead(reason: Reason, **changes: Any) -> Life:
    life = make_life(job=ROW.job, version=ROW.version, status=Status.FAILED_TERMINAL, reason=reason)
    return replace(life, **{"tokens_estimate": 100, "input_offset": 5, **changes})


def quoted(life: Life | None, *, source: Source | None = None, row: Job | None = ROW, **more: Any) -> Quote:
    told: dict[str, Any] = {"kept": KEPT, "jobs": CompiledJobs(), "prices": PRICES, "now_ms": NOW_MS, **more}
    return quote(life, source, row, **told)


def test_a_question_that_failed_is_asked_again_and_priced_by_its_prompt_and_its_room() -> None:
    told = quoted(dead(Reason.NOT_JSON))
    # 100 prompt tokens at 500 and a quarter of 200 at 5000; at most twice as much room, three times
    assert told.way is Way.ASKED
    assert told.expected_nanos == 100 * 500 + 50 * 5_000
    assert told.most_nanos == 3 * (100 * 500 + 400 * 5_000)


def test_the_prices_frozen_with_the_job_come_before_those_at_hand() -> None:
    dear = parse_prices('{"models": {"gpt-5-mini": {"input": "2", "output": "20"}}}')
    row = make_row(make_spec(prices_json=write_prices(dear)))
    life = replace(dead(Reason.NOT_JSON), version=row.version)
    assert quoted(life, row=row).expected_nanos == 2 * (100 * 500 + 50 * 5_000)


def test_a_job_that_chooses_by_deadline_pays_online_at_most() -> None:
    row = make_row(make_spec(mode=ModeSpec(prefer="auto", deadline_seconds=3_600)))
    told = quoted(replace(dead(Reason.NOT_JSON), version=row.version), row=row)
    assert told.expected_nanos == 100 * 500 + 50 * 5_000
    assert told.most_nanos == 3 * 2 * (100 * 500 + 400 * 5_000)


def test_without_a_price_the_cost_is_unknown_and_not_nothing() -> None:
    none = parse_prices('{"models": {}}')
    assert quoted(dead(Reason.NOT_JSON), prices=none) == Quote(way=Way.ASKED, expected_nanos=None, most_nanos=None)


def test_without_a_limit_on_the_answer_there_is_no_most() -> None:
    row = make_row(make_spec(params="{}"))
    told = quoted(replace(dead(Reason.NOT_JSON), version=row.version), row=row)
    assert told.expected_nanos is not None
    assert told.most_nanos is None


def test_a_version_nobody_knows_has_no_price() -> None:
    told = quoted(replace(dead(Reason.NOT_JSON), version="forgotten"))
    assert (told.way, told.most_nanos) == (Way.ASKED, None)


@pytest.mark.parametrize(
    ("reason", "changes", "way"),
    [
        (Reason.SINK_REFUSED, {"verdict_offset": 3}, Way.COMMITTED),
        (Reason.DECLINED, {"result_offset": 3}, Way.JUDGED),
        (Reason.POISON, {"result_offset": 3}, Way.JUDGED),
        (Reason.DECLINED, {"result_offset": None}, Way.ASKED),
    ],
)
def test_what_is_paid_for_already_is_free(reason: Reason, changes: dict[str, Any], way: Way) -> None:
    told = quoted(dead(reason, **changes))
    assert told.way is way
    assert (told.most_nanos == 0) is (way is not Way.ASKED)


def test_a_newer_event_of_the_source_has_taken_its_place() -> None:
    life = dead(Reason.NOT_JSON)
    assert quoted(life, source=make_source(life, request_id="newer")) == Quote(way=Way.SUPERSEDED)
    assert quoted(life, source=make_source(life)).way is Way.ASKED


@pytest.mark.parametrize("life", [None, make_life(status=Status.COMMITTED), dead(Reason.CANCELLED)])
def test_what_has_moved_on_or_was_excluded_stays(life: Life | None) -> None:
    assert quoted(life).way is Way.OVER


@pytest.mark.parametrize(
    ("reason", "changes", "gone", "way"),
    [
        (Reason.NOT_JSON, {}, "normalized", Way.GONE),
        (Reason.SINK_REFUSED, {"verdict_offset": 3}, "validated", Way.GONE),
        (Reason.DECLINED, {"result_offset": 3}, "results", Way.ASKED),  # its stored answer is: paid for anew
    ],
)
def test_what_retention_took_is_seen(reason: Reason, changes: dict[str, Any], gone: str, way: Way) -> None:
    assert quoted(dead(reason, **changes), kept=KEPT | {gone: 1_000}).way is way


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("stored", [None, 3])
def test_a_quote_comes_back_exactly_if_the_redrive_would_do_something(reason: Reason, stored: int | None) -> None:
    life = dead(reason, result_offset=stored, verdict_offset=stored)
    view = MemoryView()
    view.put(ROW)
    view.put(life)
    moves = [order.row for order in redrive(view, life.request_id, now_ms=NOW_MS) if isinstance(order, Put)]
    assert (quoted(life).way in STAYS) is (not moves)


def test_the_most_attempts_are_those_of_the_most_patient_reason() -> None:
    retry = RetrySpec(max_attempts=2, on={Reason.NOT_JSON: RetryRule(max_attempts=5)}, truncated=TruncationSpec())
    assert attempts_max(retry) == 5
    assert attempts_max(RetrySpec(max_attempts=2)) == 2


# -- events that never became a request --------------------------------------------------------------------------------


def letter_of(value: bytes, *, job: str | None = "triage", generation: int = 1) -> DeadLetter:
    raw = RawRecord(origin=Origin(generation=generation, partition=3, offset=7, at_ms=1), key=b"k", value=value)
    emitted = of_raw(raw, stage="normalizer", reason=Reason.UNKNOWN_JOB, error="", now_ms=1, job=job, source_id="k")
    assert isinstance(emitted.record, DeadLetter)
    return emitted.record


def event_quoted(letter: DeadLetter, value: bytes | None, *rows: Job, default_job: str | None = None) -> Quote:
    return quote_event(
        letter,
        None if value is None else RawRecord(origin=letter.origin, key=b"k", value=value),
        rows,
        jobs=CompiledJobs(),
        prices=PRICES,
        limits=RawLimits(),
        default_job=default_job,
        now_ms=NOW_MS,
    )


def test_an_event_that_passes_now_is_priced_as_what_it_would_ask() -> None:
    told = event_quoted(letter_of(b'{"body": "Broken"}'), b'{"body": "Broken"}', ROW)
    assert told.way is Way.NORMALIZED
    assert 0 < (told.expected_nanos or 0) < (told.most_nanos or 0)


def test_a_pause_does_not_hide_what_it_would_ask() -> None:
    told = event_quoted(letter_of(b'{"body": "x"}'), None, replace(ROW, paused=True))
    assert told.way is Way.NORMALIZED, "from the letter's own copy"


def test_an_event_that_fails_still_says_so() -> None:
    assert event_quoted(letter_of(b"{"), b"{", ROW) == Quote(way=Way.FAILS, note="undecodable")
    assert event_quoted(letter_of(b'{"body": "x"}', job=None), None, ROW) == Quote(way=Way.FAILS, note="no_job")


def test_an_event_that_would_be_filtered_costs_nothing() -> None:
    row = make_row(make_spec(given=replace(make_spec().input, filter="size(input.body) > 20")))
    assert event_quoted(letter_of(b'{"body": "x"}'), None, row) == Quote(way=Way.NORMALIZED, note="filtered")


def test_an_event_of_a_job_that_is_not_applied_would_wait_for_it_in_vain() -> None:
    assert event_quoted(letter_of(b'{"body": "x"}', job="other"), None, ROW).way is Way.FAILS


def test_the_default_job_claims_what_no_job_did() -> None:
    assert event_quoted(letter_of(b'{"body": "x"}', job=None), None, ROW, default_job="triage").way is Way.NORMALIZED


def test_an_event_that_is_nowhere_is_gone_and_what_was_no_event_is_none() -> None:
    letter = replace(letter_of(b'{"body": "x"}'), original=None)
    assert event_quoted(letter, None, ROW).way is Way.GONE
    foreign = letter_of(b'{"body": "x"}', generation=FOREIGN_GENERATION)
    assert event_quoted(foreign, b'{"body": "x"}', ROW).way is Way.FOREIGN
