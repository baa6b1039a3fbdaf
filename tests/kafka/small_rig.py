"""One worker, a projector and the simulator on the test's broker, and one job: for tests that need the whole of it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from batchmill.agents.clock import monotonic_s
from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import CONFIG_FILE, Rig, RigPlan, running_rig
from batchmill.agents.ingest import SourceRecord, ingest
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector import queries
from batchmill.agents.projector.queries import LifeRow
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.settings import CONFIG_VARIABLE
from batchmill.agents.simulator import SimulatorConfig
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.versions import version_of

__all__ = ["command_line", "eventually", "publish", "small_rig", "the_lives"]

COMMAND_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.2


@asynccontextmanager
async def small_rig(
    folder: Path,
    broker: RunningCluster,
    spec: JobSpec,
    settings: Mapping[str, Any],
    *,
    latency_seconds: tuple[float, float] = (0.05, 0.1),
    gold_path: Path | None = None,
    accuracy: float = 1.0,
    model_accuracy: Mapping[str, float] | None = None,
) -> AsyncIterator[Rig]:
    """The job is applied when this is entered."""
    config = SimulatorConfig(
        data_dir=folder / "simulator",
        latency_seconds=latency_seconds,
        accuracy=accuracy,
        model_accuracy=model_accuracy or {},
        gold_path=gold_path,
    )
    plan = RigPlan(work_dir=folder, workers=1, simulator=config, settings={"partitions": 3, **settings})
    async with running_rig(plan, broker, say=lambda _: None) as rig:
        version, body = version_of(spec), spec.to_json()
        applied = await issue(
            rig.settings, "apply", spec.job, actor="me", version=version, body_json=body, wait_seconds=30
        )
        assert applied.effective
        yield rig


async def publish(rig: Rig, job: str, texts: Mapping[str, str]) -> None:
    records = (
        SourceRecord(line=number, key=source.encode(), value=json.dumps({"body": text}).encode())
        for number, (source, text) in enumerate(texts.items(), 1)
    )
    report = await ingest(rig.settings, records, run="r", job=job)
    assert report.sent == len(texts)


async def command_line(rig: Rig, *words: str, output: int | None = asyncio.subprocess.PIPE) -> Any:
    """Start `batchmill WORDS` with the rig's settings."""
    env = {**os.environ, CONFIG_VARIABLE: str(rig.plan.work_dir / CONFIG_FILE)}
    argv = (sys.executable, "-m", "batchmill.agents.cli", *words)
    return await asyncio.create_subprocess_exec(*argv, env=env, stdout=output, stderr=output)


def the_lives(rig: Rig, job: str) -> list[LifeRow]:
    try:
        with View(rig.settings.view_path) as view:
            return queries.lives(view, job=job, limit=10_000)
    except ViewMissingError:
        return []


async def eventually(what: str, holds: Any) -> Any:
    """What `holds()` gives, as soon as it gives something."""
    deadline = monotonic_s() + COMMAND_SECONDS_MAX
    while monotonic_s() < deadline:
        found = holds()
        found = await found if asyncio.iscoroutine(found) else found
        if found:
            return found
        await asyncio.sleep(LOOK_SECONDS)
    raise AssertionError(f"never: {what}")
