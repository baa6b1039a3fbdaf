"""Whatever strangers, operators and providers write is data: it never stops a worker."""

import json
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import codec as kafka_codec

from batchmill.agents.providers.errors import complaint_in
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.controller import Controller
from batchmill.schemas import codec
from batchmill.schemas.jobs import InputSpec, JudgeSpec, PlaceSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control, DeadLetter, Verdict, WorkItem
from batchmill.schemas.state import Job
from batchmill.schemas.status import Outcome, Status
from batchmill.schemas.versions import version_of
from batchmill.streams.answering import bounded
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.controlling import refusal
from batchmill.streams.events import RawLimits
from batchmill.streams.ports import RowOutcome
from batchmill.streams.redriving import command_body
from batchmill.streams.validating import validate
from tests.review.stage import MemoryTask, a_kit, slice_of
from tests.streams.making import (
    NOW_MS,
    answer,
    carry_out,
    decide,
    life_of,
    make_raw,
    make_row,
    make_spec,
    make_view,
    take_in,
)

#: what a worker writes at most into one record; below it stand headers and the rest of the record
RECORD_BYTES_MAX = 1_000_000
SPEC = make_spec()


def a_command(**changes: Any) -> Control:
    told: dict[str, Any] = {
        "command_id": "c-1",
        "command": "apply",
        "job": SPEC.job,
        "version": version_of(SPEC),
        "body_json": SPEC.to_json(),
        "actor": "a",
        "issued_at_ms": 1,
    }
    return Control(**{**told, **changes})


BROKEN = make_spec(user="{{ unknown_name }}")
BAD = [
    a_command(body_json="{"),
    a_command(body_json="[]"),
    a_command(body_json='{"job":"triage"}'),
    a_command(version=None),
    a_command(version="another"),
    a_command(job="other"),
    a_command(job="a/b", command="pause"),
    a_command(version=version_of(BROKEN), body_json=BROKEN.to_json()),
    a_command(command="approve", body_json="nonsense"),
    a_command(command="approve", body_json='{"chunks":7}'),
    a_command(command="redrive", body_json="[" * 100_000),
    a_command(command="redrive", body_json='{"requests":[7]}'),
    a_command(command="redrive", body_json='{"letters":[[0,-1]]}'),
    a_command(command="redrive", body_json='{"letters":[7]}'),
    a_command(command="redrive", body_json='{"letters":[["0","1"]]}'),
]
GOOD = [
    a_command(),
    a_command(command="pause", body_json=""),
    a_command(command="approve", body_json="{}"),
    a_command(command="approve", body_json='{"chunks":["c-1"]}'),
    a_command(command="redrive", body_json=command_body(requests=["a" * 32], letters=[(0, 3)])),
    a_command(command="of-a-newer-release", body_json="?"),
]


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_that_a_producer_may_choose_can_be_read(name: str) -> None:
    assert getattr(kafka_codec, f"has_{name}")()


@pytest.mark.parametrize("command", BAD)
def test_a_command_that_cannot_be_carried_out_ends_as_a_letter_and_changes_nothing(command: Control) -> None:
    task = MemoryTask()
    controller = Controller(kit=a_kit(), limits=RawLimits(), default_job=None, effects=EffectSettings())
    slice_ = slice_of("t.control.v1", codec.encode(command))
    controller.on_slice(task, slice_)
    (letter,) = task.records
    assert isinstance(letter, DeadLetter)
    assert "refused" in letter.error
    assert task.view.rows(Job.schema) == []
    assert task.finished == [slice_]


@pytest.mark.parametrize("command", GOOD)
def test_a_proper_command_is_not_refused(command: Control) -> None:
    assert refusal(make_view(), command) is None


def test_versions_of_a_job_stop_before_their_row_is_too_large_to_write() -> None:
    padded = json.dumps({f"v{number}": {"system": "x" * 20_000} for number in range(40)})
    view = make_view(replace(make_row(SPEC), versions_json=padded))
    assert "new job name" in (refusal(view, a_command()) or "")


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("NFC", b'{"body":"x","n":[' + b"1e20," * 170_000 + b"1]}"),
        ("NFKC", b'{"body":"' + b"\xef\xb7\xba" * 90_000 + b'"}'),
    ],
    ids=["numbers", "ligatures"],
)
def test_an_event_that_grows_when_it_is_normalized_is_put_down(form: Any, body: bytes) -> None:
    limits = RawLimits(value_bytes_max=900_000)
    assert len(body) < limits.value_bytes_max
    letter = decide(make_spec(given=InputSpec(normalize=form)), make_raw(body), limits=limits)
    assert isinstance(letter, DeadLetter)
    assert letter.reason is Reason.OVERSIZED
    assert len(codec.encode(letter)) < RECORD_BYTES_MAX


def test_a_target_key_is_no_body() -> None:
    spec = make_spec(place=PlaceSpec(sink="sqlite", table="triage", key="$.key"))
    assert isinstance(decide(spec, make_raw({"body": "x", "key": "k" * 512})), WorkItem)
    letter = decide(spec, make_raw({"body": "x", "key": "k" * 513}))
    assert letter.reason is Reason.INVALID_INPUT


def a_row(**changes: Any) -> RowOutcome:
    return replace(RowOutcome(custom_id="c", outcome=Outcome.SUCCEEDED, reason=None, output="x"), **changes)


def test_a_row_of_a_provider_fits_our_records_whatever_it_says() -> None:
    huge = 2**64 - 1
    row = bounded(
        a_row(input_tokens=huge, output_tokens=huge, cached_tokens=huge, http_status=huge, model="m" * 10**6), 100
    )
    assert (row.outcome, row.output, row.http_status) == (Outcome.SUCCEEDED, "x", None)
    assert max(row.input_tokens, row.output_tokens, row.cached_tokens) < 2**31
    assert len(row.model or "") == 100


@pytest.mark.parametrize("where", ["output", "refusal"])
def test_an_answer_larger_than_we_keep_is_an_error_that_was_paid_for(where: str) -> None:
    row = bounded(a_row(**{where: "ä" * 51, "output_tokens": 7}), 100)
    assert (row.outcome, row.reason, row.output, row.refusal) == (Outcome.ERROR, Reason.OVERSIZED, None, None)
    assert (row.billed, row.output_tokens) == (True, 7)
    assert bounded(a_row(**{where: "ä" * 50}), 100).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("on_reject", ["retry", "review", "dead"])
@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (None, "\x01" * 200_000),
        ({"type": "array"}, "[" + "1e20," * 50_000 + "1]"),
        ({"type": "array"}, "\x01" * 200_000),
    ],
    ids=["text", "numbers", "no json"],
)
def test_an_answer_that_grows_as_json_is_judged_in_records_that_fit(schema: Any, text: str, on_reject: Any) -> None:
    spec = make_spec(output_schema=schema, judge=JudgeSpec(on_reject=on_reject))
    view = make_view(make_row(spec))
    item = take_in(view, make_raw())
    result = answer(view, item.request_id, text)
    told = carry_out(view, validate(view, result, 5, jobs=CompiledJobs(), now_ms=NOW_MS))
    assert all(len(codec.encode(record)) < RECORD_BYTES_MAX for record in told)
    wanted = Status.NEEDS_REVIEW if on_reject == "review" else None
    assert wanted in {None, life_of(view, item.request_id).status}
    assert not any(isinstance(record, Verdict) for record in told) or on_reject == "review"


def test_codes_of_a_provider_are_words_not_messages() -> None:
    assert len(complaint_in({"error": {"code": "x" * 10**6}}, "f").code) <= 100
