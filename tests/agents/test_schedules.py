"""When schedules are due, as the read model tells it: the last tick, the next, and what became of the last."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.jobs import JobFileError, load_job
from batchmill.agents.replays.cron import cron_fault, ticks_around
from batchmill.agents.replays.scheduling import Scheduled, scheduled
from batchmill.schemas.codec import encode
from batchmill.schemas.promotion import ScheduleSpec
from batchmill.schemas.records import Control
from batchmill.schemas.versions import version_of
from batchmill.streams.rerunning import Part, Progress, RunState
from tests.agents.test_projector import Log
from tests.streams.making import make_row, make_spec

SPEC = make_spec(schedules=(ScheduleSpec(cron="0 2 * * *"), ScheduleSpec(cron="30 * * * *", select="failed")))


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


NOW_MS = ms("2026-11-26T05:45:10")


class Held:
    def __init__(self, path: Path) -> None:
        self.log = Log(path)

    def applied(self, at: str, spec: Any = SPEC, command: str = "apply", **changes: Any) -> None:
        """The job as the view has it once such a command was appended at that moment."""
        record = Control(
            command_id="c",
            command=command,
            job=spec.job,
            version=version_of(spec),
            body_json="{}",
            actor="me",
            issued_at_ms=ms(at),
        )
        self.log.add("control", 0, encode(record), b"0")
        last = self.log.records["control", 0][-1]
        self.log.records["control", 0][-1] = replace(last, timestamp=ms(at))
        self.log.row(replace(make_row(spec), **changes))
        self.log.fold()

    def found(self, now_ms: int = NOW_MS) -> list[Scheduled]:
        with self.log.view() as view:
            return scheduled(view, now_ms)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    made = Held(tmp_path / "data" / "view.sqlite")
    yield made
    made.log.store.close()


@pytest.mark.parametrize(
    ("cron", "last", "following"),
    [
        ("0 2 * * *", "2026-11-26T02:00:00", "2026-11-27T02:00:00"),
        ("45 5 * * *", "2026-11-26T05:45:00", "2026-11-27T05:45:00"),  # it has just come
        ("46 5 * * *", "2026-11-25T05:46:00", "2026-11-26T05:46:00"),
        ("0 0 1 * *", "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
        ("*/15 * * * 0", "2026-11-22T23:45:00", "2026-11-29T00:00:00"),
    ],
)
def test_the_ticks_around_a_moment(cron: str, last: str, following: str) -> None:
    assert ticks_around(cron, NOW_MS) == (ms(last), ms(following))


def test_a_tick_has_come_from_its_very_moment_on() -> None:
    tick = ms("2026-11-26T02:00:00")
    assert ticks_around("0 2 * * *", tick)[0] == tick
    assert ticks_around("0 2 * * *", tick - 1) == (tick - 86_400_000, tick)


def test_an_expression_that_cannot_be_read_has_no_ticks_and_says_so() -> None:
    for text in ("61 * * * *", "x", "0 0 31 2 *"):
        assert cron_fault(text) is not None
        assert ticks_around(text, NOW_MS) == (None, None)
    assert cron_fault("0 2 * * *") is None


def test_each_schedule_of_the_version_in_force_has_its_ticks(held: Held) -> None:
    held.applied("2026-11-20T00:00:00")
    nightly, hourly = held.found()
    assert nightly.last is not None
    assert hourly.last is not None
    assert (nightly.last.at_ms, nightly.next_ms) == (ms("2026-11-26T02:00:00"), ms("2026-11-27T02:00:00"))
    assert hourly.last.at_ms == ms("2026-11-26T05:30:00")
    assert nightly.last.run.startswith("tick/triage/")
    assert nightly.last.run.endswith("/2026-11-26T02:00Z")
    assert nightly.last.run.split("/")[2] != hourly.last.run.split("/")[2]


@pytest.mark.parametrize("command", ["apply", "promote"])
def test_a_tick_before_the_version_came_into_force_is_none(held: Held, command: str) -> None:
    held.applied("2026-11-26T04:00:00", command=command)
    nightly, hourly = held.found()
    assert nightly.last is None
    assert hourly.last is not None


def test_what_became_of_a_tick_is_found_by_its_name(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held.applied("2026-11-20T00:00:00")
    nightly, _ = held.found()
    assert nightly.last is not None
    progress = Progress(
        run=nightly.last.run,
        job=SPEC.job,
        version=version_of(SPEC),
        at_ms=1,
        part=Part(uri="", lines=0),
        state=RunState.SKIPPED,
        note="the job was paused",
    )
    held.log.row(progress.row)
    held.log.fold()
    again, other = held.found()
    assert again.last is not None
    assert again.last.found is not None
    assert again.last.found.note == "the job was paused"
    assert other.last is not None
    assert other.last.found is None

    monkeypatch.chdir(tmp_path)
    assert run(["--set", f"data_dir={tmp_path}/data", "schedules", "triage", "--json"]) == ExitCode.OK
    items = json.loads(capsys.readouterr().out)["items"]
    assert [each["schedule"]["cron"] for each in items] == ["0 2 * * *", "30 * * * *"]
    assert run(["--set", f"data_dir={tmp_path}/data", "schedules"]) == ExitCode.OK
    assert "0 2 * * *" in capsys.readouterr().out


def test_a_schedule_that_nobody_can_read_is_an_error_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "user.md").write_text("{{ input.body }}")
    (tmp_path / "job.yaml").write_text(
        """
job: triage
ask:
  prompt: {user: user.md}
  model: {provider: openai, name: gpt-5-mini}
place: {sink: sqlite, table: triage}
schedule:
  - cron: "0 2 * * *"
  - cron: "0 25 * * *"
"""
    )
    with pytest.raises(JobFileError) as told:
        load_job(tmp_path)
    assert "schedule.cron '0 25 * * *'" in str(told.value)
