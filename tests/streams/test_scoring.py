"""A question to another job, and the way its answer takes back."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas import codec
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import PlaceSpec
from batchmill.schemas.records import Decision, RawEvent, Verdict, WorkItem
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.normalizing import RawLimits, normalize
from batchmill.streams.orders import Emit
from batchmill.streams.scoring import QUESTION_BYTES_MAX, decision_of, question, trouble
from tests.schemas.samples import sample
from tests.streams.making import NOW_MS, make_raw, make_row, make_spec, make_view
from tests.streams.rows import make_life, request_name

OUTPUT = '{"confidence":0.9,"label":"fire"}'
SHA256 = content_sha256(OUTPUT.encode())
SCORER = make_spec(
    job="second",
    user="Is {{ input.output.label }} right for {{ input.input.body }}?",
    id_path="$.no.such",
    seq="$.no.such",
    place=PlaceSpec(sink="decisions", table="decisions", key="$.job"),
)


def asked(life: Life, output_json: str = OUTPUT, input_json: str = '{"body":"smoke"}') -> Emit | None:
    return question(life, scorer="second", input_json=input_json, output_json=output_json)


def as_work(order: Emit, offset: int = 7) -> WorkItem:
    """The question as the scoring job takes it in."""
    assert isinstance(order.record, RawEvent)
    raw = replace(make_raw(codec.encode(order.record), offset=offset), key=order.key, headers=())
    (made,) = normalize(make_view(make_row(SCORER)), raw, jobs=CompiledJobs(), now_ms=NOW_MS, limits=RawLimits())
    assert isinstance(made, Emit)
    assert isinstance(made.record, WorkItem)
    return made.record


def answered(item: WorkItem, output_json: str = '{"label":"fire"}') -> tuple[Life, Verdict]:
    """The scoring job's life and verdict."""
    life = make_life(1, job=item.job, source_id=item.source_id, target_key=item.target_key, status=Status.VALIDATED)
    verdict = replace(sample(Verdict), request_id=life.request_id, output_json=output_json, output_sha256=SHA256)
    return life, verdict


def test_a_question_shows_the_scorer_input_and_answer() -> None:
    life = make_life(5)
    order = asked(life)
    assert order is not None
    assert order.key == life.request_id.encode(), "all questions about a request lie in one partition"
    item = as_work(order)
    assert (item.job, orjson.loads(item.input_json)) == (
        "second",
        {
            "request_id": life.request_id,
            "output_sha256": SHA256,
            "job": life.job,
            "input": {"body": "smoke"},
            "output": {"confidence": 0.9, "label": "fire"},
        },
    )


def test_the_answer_finds_its_way_back_whatever_the_scoring_job_declares_of_its_own() -> None:
    life = make_life(5)
    order = asked(life)
    assert order is not None
    scored, verdict = answered(as_work(order))
    decision = decision_of(scored, verdict, NOW_MS)
    assert decision is not None
    assert codec.decode(codec.encode(decision), Decision) == decision
    assert (decision.request_id, decision.job, decision.output_sha256_seen) == (life.request_id, life.job, SHA256)
    assert (decision.action, decision.actor, decision.output_json) == ("score", "job:second", '{"label":"fire"}')
    assert decision_of(scored, verdict, NOW_MS + 9) == replace(decision, decided_at_ms=NOW_MS + 9), "named by content"


def test_the_same_answer_is_asked_about_anew_after_its_request_was_brought_back() -> None:
    first, again = asked(make_life(5)), asked(make_life(5, redrives=1))
    assert first is not None
    assert again is not None
    assert as_work(first).request_id != as_work(again, offset=8).request_id
    assert as_work(first).request_id == as_work(first, offset=8).request_id


def test_a_newer_answer_is_another_question() -> None:
    life = make_life(5)
    one, other = asked(life), asked(life, '{"confidence":0.8,"label":"fire"}')
    assert one is not None
    assert other is not None
    assert as_work(one).request_id != as_work(other).request_id


def test_an_event_that_somebody_else_gave_the_scoring_job_decides_nothing() -> None:
    scored, verdict = answered(
        as_work(Emit(RawEvent(source_id="mine", seq=1, job="second", payload_json=PAYLOAD), b"k"))
    )
    assert decision_of(scored, verdict, NOW_MS) is None


PAYLOAD = '{"job":"triage","input":{"body":"x"},"output":{"label":"y"}}'


@given(st.text(max_size=120))
def test_no_source_id_of_a_stranger_is_taken_for_one_of_ours_in_part(text: str) -> None:
    scored, verdict = answered(replace(sample(WorkItem), job="second", source_id=text))
    assert decision_of(scored, verdict, NOW_MS) is None


def test_the_verdict_of_another_life_is_never_a_decision() -> None:
    order = asked(make_life(5))
    assert order is not None
    scored, verdict = answered(as_work(order))
    with pytest.raises(AssertionError, match="the verdict is on"):
        decision_of(scored, replace(verdict, request_id=request_name(9)), NOW_MS)


def test_what_would_not_fit_a_raw_event_is_not_asked() -> None:
    large: dict[str, Any] = {"body": "x" * QUESTION_BYTES_MAX}
    assert asked(make_life(5), input_json=orjson.dumps(large).decode()) is None


def test_a_scorer_that_would_never_answer_is_told_of() -> None:
    assert "not applied" in (trouble("second", None) or "")
    assert "would decide nothing" in (trouble("second", make_spec()) or "")
    assert trouble("second", SCORER) is None
