"""An effect that can do nothing rests; one that waits for others does not hold them up."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.runtime.log import READ_SECONDS
from batchmill.agents.settings import EffectSettings, SettingsError
from batchmill.agents.stages import kit as kit_module
from batchmill.agents.stages.answerer import Answerer
from batchmill.agents.stages.kit import LogSlowError
from batchmill.schemas.state import Answer, Life
from batchmill.schemas.status import Status
from tests.review.stage import MemoryLog, MemoryTask, Provider, a_kit, a_submitter
from tests.streams.making import make_row, make_spec
from tests.streams.rows import NOW_MS, make_life

SPEC = make_spec()


def test_stored_answers_of_a_version_not_heard_of_wait_without_stopping_the_worker(tmp_path: Path) -> None:
    """A judge-only change: another task normalized under the new version before our copy of the command was read."""
    life = make_life(version="not-heard-of-yet", result_offset=5)
    stored = Answer(ask_key=life.ask_key, request_id="r", result_offset=5, output_sha256="s", stored_at_ms=NOW_MS)
    task = MemoryTask(make_row(SPEC), life, stored)
    answerer = Answerer(kit=a_kit(), effects=EffectSettings(idle_seconds=0.01))
    rounds = 0

    def at_wait(_: str) -> None:
        nonlocal rounds
        rounds += 1
        assert rounds < 1_000, "the effect never rests, and nothing else runs in this worker"

    task.at_wait = at_wait

    async def a_while() -> None:
        running = asyncio.create_task(answerer.run(task))
        while not task.rests and not running.done():
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()

    asyncio.run(a_while())
    assert task.rests
    kept = task.view.get(Life.schema, life.request_id)
    assert isinstance(kept, Life)
    assert (kept.status, kept.result_offset) == (Status.QUEUED, 5)


def test_nothing_is_concluded_from_a_log_that_was_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that restarts gives nothing for a while; its records are not gone for that."""
    now_s = [100.0]
    monkeypatch.setattr(kit_module.clock, "monotonic_s", lambda: now_s[0])
    log = MemoryLog()
    log.add("t.normalized.v1", 1, b"x")
    found = log.read

    async def slowly(*args: Any) -> Any:
        now_s[0] += READ_SECONDS
        return await found(*args)

    kit, task = a_kit(log), MemoryTask()
    assert set(asyncio.run(kit.bodies(task, "normalized", [1, 2]))) == {1}
    log.read = slowly  # type: ignore[method-assign]
    assert set(asyncio.run(kit.bodies(task, "normalized", [1]))) == {1}
    with pytest.raises(LogSlowError):
        asyncio.run(kit.bodies(task, "normalized", [1, 2]))


def test_a_record_that_a_broker_gave_only_when_it_was_back_is_not_gone() -> None:
    log, down = MemoryLog(), [True]
    log.add("t.normalized.v1", 1, b"x")
    found = log.read

    async def read(*args: Any) -> Any:
        return {} if down else await found(*args)

    async def answered(*_: Any) -> int:
        down.clear()
        return 2

    log.read, log.end_offset = read, answered  # type: ignore[method-assign]
    assert set(asyncio.run(a_kit(log).bodies(MemoryTask(), "normalized", [1]))) == {1}


def test_a_job_whose_account_is_not_set_up_waits_and_others_go_on(tmp_path: Path) -> None:
    version = make_row(SPEC).version
    task = MemoryTask(make_row(SPEC), make_life(version=version))
    provider = Provider()

    def refuse(_account: str) -> Provider:
        raise SettingsError("there is no provider account")

    provider.of = refuse  # type: ignore[method-assign]
    submitter = a_submitter(a_kit(), provider, tmp_path)

    async def a_while() -> None:
        running = asyncio.create_task(submitter.run_sealing(task))
        while task.rests < 2 and not running.done():
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()

    asyncio.run(a_while())
    assert task.rests == 2
