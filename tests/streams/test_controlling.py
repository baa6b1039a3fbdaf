"""What operators say, once per task and command."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control
from batchmill.schemas.state import Chunk, Job
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import CUT_MEMBERS
from batchmill.streams.controlling import MANIFEST, control, jobs, knows_version, refusal, sweep
from batchmill.streams.versioning import former_of, promotion_of, shadows_of
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import NOW_MS, make_chunk, make_job, make_life, make_source, put_rows


def a_command(command: str, name: str, **changes: Any) -> Control:
    return Control(
        **{
            "command_id": name,
            "command": command,
            "job": "triage",
            "version": None,
            "body_json": "{}",
            "actor": "someone",
            "issued_at_ms": NOW_MS,
            **changes,
        }
    )


def told(view: MemoryView, command: str, *, name: str = "c1", at_ms: int = NOW_MS, **changes: Any) -> list[Any]:
    return carry_out(view, control(view, a_command(command, name, **changes), at_ms, NOW_MS))


def job(view: MemoryView) -> Job:
    row = read.job(view, "triage")
    assert row is not None
    return row


def swept(view: MemoryView) -> list[Any]:
    said: list[Any] = []
    while orders := sweep(view, "triage", NOW_MS):
        said += carry_out(view, orders)
    return said


def test_the_first_version_becomes_the_job() -> None:
    view = put_rows()
    told(view, "apply", version="v1", body_json='{"job":"triage"}')
    assert (job(view).version, job(view).paused) == ("v1", False)
    assert json.loads(job(view).versions_json) == {"v1": {"job": "triage"}}
    assert jobs(view) == [job(view)]


def test_a_later_version_is_tried_out_until_it_is_promoted_and_then_ranks_above_the_earlier_one() -> None:
    view = put_rows(make_job(paused=True))
    told(view, "apply", version="v2", body_json='{"gate":{"live_sample":0.25}}')
    assert (job(view).version, job(view).paused) == ("v1", True)
    assert dict(shadows_of(job(view))) == {"v2": 0.25}
    told(view, "promote", name="c2", version="v2")
    assert (job(view).version, dict(shadows_of(job(view)))) == ("v2", {})
    assert (promotion_of(job(view), "v1"), promotion_of(job(view), "v2")) == (0, 1)
    told(view, "promote", name="c3", version="v1")
    assert (job(view).version, former_of(job(view))) == ("v1", "v2")
    assert (promotion_of(job(view), "v1"), promotion_of(job(view), "v2")) == (2, 1)


def test_a_version_that_nobody_applied_is_neither_promoted_nor_rejected_and_the_one_in_force_is_not_rejected() -> None:
    view = put_rows(make_job())
    for command, version in (("promote", "v9"), ("reject", "v9"), ("reject", "v1"), ("promote", None)):
        assert refusal(view, a_command(command, "c9", version=version)) is not None, (command, version)
    assert refusal(view, a_command("promote", "c9", version="v1")) is None


def test_a_version_brings_along_what_it_does_not_name() -> None:
    view = put_rows(make_job())
    told(view, "apply", version="v1", body_json='{"place":"elsewhere"}')
    assert json.loads(job(view).versions_json) == {"v1": {"place": "elsewhere"}}


def test_a_version_not_heard_of_is_not_known() -> None:
    view = put_rows(make_job())
    assert knows_version(view, "triage", "v1")
    assert not knows_version(view, "triage", "v9")
    assert not knows_version(view, "nobody", "v1")
    with pytest.raises(KeyError):
        promotion_of(job(view), "v9")


def test_a_command_is_taken_once() -> None:
    view = put_rows(make_job())
    told(view, "pause")
    view.put(replace(job(view), paused=False))
    told(view, "pause")
    assert not job(view).paused


def test_pause_and_resume() -> None:
    view = put_rows(make_job())
    told(view, "pause", name="c1")
    assert job(view).paused
    told(view, "resume", name="c2")
    assert not job(view).paused


@pytest.mark.parametrize("command", ["pause", "resume", "cancel", "approve", "dance"])
def test_a_command_for_a_job_nobody_knows_changes_nothing(command: str) -> None:
    view = put_rows()
    assert told(view, command) == []
    assert view.rows(Job.schema) == []


def test_an_unknown_command_changes_nothing() -> None:
    view = put_rows(make_job())
    assert told(view, "dance") == []
    assert job(view) == make_job()


@pytest.mark.parametrize("named", ["triage", ""])
def test_a_manifest_is_taken_from_any_run_and_changes_nothing(named: str) -> None:
    view = put_rows(make_job())
    manifest = {"name": "m1", "job": named, "body_json": '{"run":"ingest-1","count":3}'}
    assert told(view, MANIFEST, **manifest) == []
    assert job(view) == make_job()
    order = Control(
        command_id="m1",
        command=MANIFEST,
        job=named,
        version=None,
        body_json="{}",
        actor="someone",
        issued_at_ms=NOW_MS,
    )
    assert refusal(view, order) is None


def test_approval_lets_the_held_chunks_go_that_it_names() -> None:
    held = [make_chunk([], ChunkState.HELD, chunk_id=name)[0] for name in ("one", "two", "three")]
    view = put_rows(make_job(), *held)
    told(view, "approve", body_json='{"chunks":["two"]}')
    assert [str(row.state) for row in view.rows(Chunk.schema) if isinstance(row, Chunk)].count("sealed") == 1
    told(view, "approve", name="c2")
    assert {str(row.state) for row in view.rows(Chunk.schema) if isinstance(row, Chunk)} == {"sealed"}


STATES_AFTER_CANCEL = {
    **dict.fromkeys(
        (ChunkState.FILLING, ChunkState.SEALED, ChunkState.HELD, ChunkState.PREPARED, ChunkState.UPLOADED),
        ChunkState.ENDED,
    ),
    **{state: state for state in (ChunkState.ATTEMPTING, ChunkState.OPEN, ChunkState.ENDED)},
    **{state: state for state in (ChunkState.DOWNLOADED, ChunkState.COLLECTED, ChunkState.DONE, ChunkState.FAILED)},
}


@pytest.mark.parametrize("state", ChunkState)
def test_a_cancellation_ends_unsent_chunks_and_asks_the_provider_to_stop_the_others(state: ChunkState) -> None:
    chunk, _ = make_chunk([make_life()], state)
    view = put_rows(make_job(), chunk)
    told(view, "cancel")
    after = read.chunk(view, chunk.chunk_id)
    assert after is not None
    assert after.state is STATES_AFTER_CANCEL[state]
    ended = state is not after.state
    assert after.reason == (Reason.CANCELLED if ended else None)
    assert after.cancel_requested is (ended or state in {ChunkState.ATTEMPTING, ChunkState.OPEN})


@pytest.mark.parametrize("status", Status)
def test_a_sweep_ends_what_has_nothing_in_flight(status: Status) -> None:
    life = make_life(status=status, reason=Reason.NOT_JSON if status is Status.FAILED_TERMINAL else None)
    view = put_rows(make_job(), life, make_source(life))
    told(view, "cancel")
    said = swept(view)
    free = status in {Status.QUEUED, Status.FAILED_RETRYABLE, Status.NEEDS_REVIEW}
    assert [each.reason for each in said] == ([Reason.CANCELLED] if free else [])


def test_a_sweep_leaves_members_of_chunks_later_events_and_other_jobs_alone() -> None:
    rows = [make_life(1, chunk_id="c"), make_life(2, queued_at_ms=NOW_MS + 1), make_life(3, job="other")]
    view = put_rows(make_job(), *rows)
    told(view, "cancel")
    assert swept(view) == []


def test_a_sweep_goes_in_cuts_and_forgets_its_cursor() -> None:
    view = put_rows(make_job(), *[make_life(number) for number in range(CUT_MEMBERS + 3)])
    told(view, "cancel")
    assert len(carry_out(view, sweep(view, "triage", NOW_MS))) == CUT_MEMBERS
    assert len(carry_out(view, sweep(view, "triage", NOW_MS))) == 3
    assert sweep(view, "triage", NOW_MS) == []


def test_a_cancellation_never_moves_back() -> None:
    view = put_rows(make_job(cancelled_before_ms=NOW_MS + 9))
    told(view, "cancel", at_ms=NOW_MS)
    assert job(view).cancelled_before_ms == NOW_MS + 9


# -- the overseer's commands -------------------------------------------------------------------------------------------


def test_a_grant_adds_to_what_the_task_was_handed_and_is_no_operators_word() -> None:
    view = put_rows(make_job())
    body = json.dumps({"granted": {"money/triage": 50}, "most": {}})
    told(view, "grant", name="g1", job="overseer", body_json=body)
    told(view, "grant", name="g1", job="overseer", body_json=body)
    row = read.grant(view, "money/triage")
    assert row is not None
    assert (row.granted, row.returned) == (50, 50), "nobody waits for it"
    assert job(view).last_command_id == "command-0"


def test_a_pause_that_another_task_made_by_itself_is_followed() -> None:
    view = put_rows(make_job())
    body = json.dumps({"reason": "insufficient_quota", "after": "command-0"})
    told(view, "pause_too", body_json=body)
    assert (job(view).paused, job(view).pause_reason) == (True, "insufficient_quota")
    assert job(view).last_command_id == "command-0"


def test_a_resume_is_not_undone_by_a_pause_from_before_it() -> None:
    view = put_rows(make_job(paused=True, pause_reason="insufficient_quota"))
    told(view, "resume", name="c7")
    assert (job(view).paused, job(view).pause_reason) == (False, None)
    told(view, "pause_too", body_json=json.dumps({"reason": "insufficient_quota", "after": "command-0"}))
    assert not job(view).paused


def test_a_persons_pause_has_no_reason_and_an_apply_keeps_the_one_there_is() -> None:
    view = put_rows(make_job(paused=True, pause_reason="insufficient_quota"))
    told(view, "apply", name="c2", version="v1", body_json="{}")
    assert job(view).pause_reason == "insufficient_quota"
    told(view, "pause", name="c3")
    assert (job(view).paused, job(view).pause_reason) == (True, None)


@pytest.mark.parametrize(
    "body",
    [
        '{"granted":[1]}',
        '{"granted":{"money/x":"1"}}',
        '{"granted":{"money/x":true}}',
        '{"most":{"money/x":1.5}}',
        "[]",
    ],
)
def test_a_grant_that_is_none_is_refused(body: str) -> None:
    order = Control(
        command_id="g",
        command="grant",
        job="overseer",
        version=None,
        body_json=body,
        actor="a",
        issued_at_ms=1,
    )
    assert refusal(put_rows(), order) is not None
    assert refusal(put_rows(), replace(order, body_json='{"granted":{"money/x":1},"most":{}}')) is None


def test_a_pause_that_is_none_is_refused() -> None:
    order = Control(
        command_id="g",
        command="pause_too",
        job="triage",
        version=None,
        body_json='{"reason":1}',
        actor="a",
        issued_at_ms=1,
    )
    assert refusal(put_rows(), order) is not None
