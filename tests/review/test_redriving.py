"""Dead letters that come back, where the controller meets the log: of any job or none, and only as what they are."""

import json

import pytest

from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.controller import Controller
from batchmill.schemas import codec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control, DeadLetter, Origin, WorkItem
from batchmill.streams.dead_lettering import FOREIGN_GENERATION, RawRecord, of_raw
from batchmill.streams.events import RawLimits
from batchmill.streams.redriving import command_body, waiting
from tests.review.stage import PARTITION, MemoryLog, MemoryTask, a_kit, slice_of
from tests.streams.making import make_row, make_spec

ROW = make_row(make_spec())
LETTER_AT, EVENT_AT = 4, 11


def a_letter(*, job: str | None = None, generation: int = 1, source_id: str | None = "k") -> DeadLetter:
    origin = Origin(generation=generation, partition=PARTITION, offset=EVENT_AT, at_ms=1)
    raw = RawRecord(origin=origin, key=b"k", value=b'{"body": "old copy"}')
    emitted = of_raw(raw, stage="normalizer", reason=Reason.NO_JOB, error="", now_ms=1, job=job, source_id=source_id)
    assert isinstance(emitted.record, DeadLetter)
    return emitted.record


def a_command(job: str, *, command: str = "redrive") -> bytes:
    body = command_body(requests=[], letters=[(PARTITION, LETTER_AT), (PARTITION + 1, 9)])
    return codec.encode(
        Control(command_id="c1", command=command, job=job, version=None, body_json=body, actor="me", issued_at_ms=1)
    )


async def brought_back(letter: DeadLetter, *, job: str = "", default_job: str | None = "triage") -> MemoryTask:
    """The task after it has read the command, the letter and whatever raw has at the letter's offset."""
    log, task = MemoryLog(), MemoryTask(ROW)
    log.add("t.dead-letter.v1", LETTER_AT, codec.encode(letter))
    log.add("t.raw.v1", EVENT_AT, b'{"body": "as it lies in raw"}')
    controller = Controller(
        kit=a_kit(log), limits=RawLimits(), default_job=default_job, effects=EffectSettings(idle_seconds=0.01)
    )
    controller.on_slice(task, slice_of("control", a_command(job)))
    assert await controller._redrive(task, waiting(task.view, 10))
    return task


def items(task: MemoryTask) -> list[WorkItem]:
    return [record for record in task.records if isinstance(record, WorkItem)]


async def test_letters_that_no_job_claimed_come_back_under_no_jobs_name() -> None:
    task = await brought_back(a_letter())
    assert [json.loads(item.input_json)["body"] for item in items(task)] == ["as it lies in raw"]
    assert not any(isinstance(record, DeadLetter) for record in task.records), "the command was not refused"


async def test_an_event_that_was_put_down_before_its_source_was_known_is_told_by_its_key() -> None:
    task = await brought_back(a_letter(job="triage", source_id=None), job="triage")
    assert [item.source_id for item in items(task)] == ["k"]


async def test_letters_of_a_job_come_back_under_its_name() -> None:
    task = await brought_back(a_letter(job="triage"), job="triage", default_job=None)
    assert [item.job for item in items(task)] == ["triage"]


@pytest.mark.parametrize("command", ["pause", "apply", "cancel", "import", "look"])
def test_no_other_command_may_go_without_a_name(command: str) -> None:
    task = MemoryTask(ROW)
    controller = Controller(kit=a_kit(), limits=RawLimits(), default_job=None, effects=EffectSettings())
    controller.on_slice(task, slice_of("control", a_command("", command=command)))
    (letter,) = task.records
    assert isinstance(letter, DeadLetter)
    assert "a job's name" in letter.error


async def test_an_event_of_an_earlier_raw_topic_is_taken_from_the_letter_and_not_from_its_offset_in_this_one() -> None:
    task = await brought_back(a_letter(generation=7))
    assert [json.loads(item.input_json)["body"] for item in items(task)] == ["old copy"]


async def test_what_was_no_event_does_not_become_one() -> None:
    task = await brought_back(a_letter(generation=FOREIGN_GENERATION))
    assert task.records == []
    assert waiting(task.view, 10) == []


@pytest.mark.parametrize("value", [b"", b"not of ours", codec.encode(ROW)])
async def test_a_record_that_is_no_letter_is_passed_over_and_stops_nobody(value: bytes) -> None:
    log, task = MemoryLog(), MemoryTask(ROW)
    log.add("t.dead-letter.v1", LETTER_AT, value)
    controller = Controller(kit=a_kit(log), limits=RawLimits(), default_job=None, effects=EffectSettings())
    controller.on_slice(task, slice_of("control", a_command("")))
    assert await controller._redrive(task, waiting(task.view, 10))
    assert task.records == []
    assert waiting(task.view, 10) == []


async def test_a_letter_that_retention_took_is_not_waited_for() -> None:
    task = MemoryTask(ROW)
    controller = Controller(kit=a_kit(), limits=RawLimits(), default_job=None, effects=EffectSettings())
    controller.on_slice(task, slice_of("control", a_command("")))
    assert [each.offset for each in waiting(task.view, 10)] == [LETTER_AT], "the other is another task's"
    await controller._redrive(task, waiting(task.view, 10))
    assert waiting(task.view, 10) == []
