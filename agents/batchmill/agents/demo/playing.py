"""The play itself: publish, watch, kill a worker in the middle, wait until everything has come to rest, collect.

What must not: starting processes (`rig`), judging what came out (`report`).
"""

import asyncio
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from batchmill.agents.clock import monotonic_s
from batchmill.agents.commands import issue
from batchmill.agents.demo import collecting
from batchmill.agents.demo.events import Script
from batchmill.agents.demo.measures import score
from batchmill.agents.demo.progress import Pace, Screen, Snapshot, look
from batchmill.agents.demo.report import Kill, Published, Report
from batchmill.agents.demo.rig import CONFIG_FILE, Rig, RigError
from batchmill.agents.ingest import ingest
from batchmill.agents.jobs import load_job
from batchmill.agents.prices import load_prices, prices_for, with_prices
from batchmill.agents.projector import Projector
from batchmill.agents.projector.metrics import Accounting, Funnel, accounting, failures, funnel, metrics
from batchmill.agents.projector.queries import freshness
from batchmill.agents.projector.reading import View
from batchmill.agents.settings import CONFIG_VARIABLE
from batchmill.agents.simulator import read_ledger
from batchmill.agents.supervise import batchmill_argv

__all__ = ["JOB_FOLDER", "Play", "apply_job"]

JOB_FOLDER = Path(__file__).with_name("job")
_LABEL = "label"
_RUN = "demo"
#: published over some seconds, as a stream would come, so that there is a middle to kill a worker in
_PUBLISHING_CUTS = 16
_PUBLISHING_SECONDS = 8.0
_LOOK_SECONDS = 0.25
_APPLY_SECONDS_MAX = 30.0
_CATCH_UP_SECONDS_MAX = 30.0
#: how long the records may take: so much for the faults and the killed worker, and so many a second
_DRAIN_SECONDS = 90.0
_DRAIN_PER_SECOND = 100
_KILL_AT_SHARE = 0.2


async def apply_job(rig: Rig) -> str:
    """Apply the demo's job in every task; its name."""
    job = load_job(JOB_FOLDER)
    prices = prices_for(job.spec, load_prices(rig.settings.prices_file))
    issued = await issue(
        rig.settings,
        "apply",
        job.spec.job,
        actor="demo",
        version=job.version,
        body_json=with_prices(job.spec, prices).to_json(),
        wait_seconds=_APPLY_SECONDS_MAX,
    )
    if not issued.effective:
        raise RigError(f"the job is not in effect in tasks {issued.laggards}; see {rig.log_path(rig.workers[0])}")
    return job.spec.job


@dataclass(slots=True)
class Play:
    """One run of the demo, over a rig that is ready."""

    rig: Rig
    script: Script
    screen: Screen
    accuracy: float
    seed: int
    kill: bool
    seconds: dict[str, float]  #: what took how long, so far
    killed: Kill | None = None
    problems: list[str] = field(default_factory=list)

    async def run(self) -> Report:
        """Everything from `apply` to the facts; the workers have left when it returns."""
        job = await apply_job(self.rig)
        self.screen.say(f"job {job} is in effect; publishing {len(self.script.events):,} events to {_RUN}")
        began_s = monotonic_s()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish(job))
            group.create_task(self._watch(group))
        self.seconds["records, first to last"] = monotonic_s() - began_s
        self.screen.say("everything has come to rest" if not self.problems else "; ".join(self.problems))
        await self.rig.group.stop()
        await self._level()
        return await self._collected(job)

    async def _publish(self, job: str) -> None:
        events = self.script.events
        size = -(-len(events) // _PUBLISHING_CUTS)
        for start in range(0, len(events), size):
            await ingest(self.rig.settings, iter(events[start : start + size]), run=_RUN, job=job)
            await asyncio.sleep(_PUBLISHING_SECONDS / _PUBLISHING_CUTS)

    async def _watch(self, group: asyncio.TaskGroup) -> None:
        """Look until all is at rest, or too late; kill a worker when the moment has come."""
        expected, pace = len(self.script.events), Pace()
        deadline_s = monotonic_s() + _DRAIN_SECONDS + expected / _DRAIN_PER_SECOND
        with View(self.rig.settings.view_path) as view:
            while True:
                books, steps = await asyncio.to_thread(_counted, self.rig.settings.view_path)
                now = look(view, books, steps, expected=expected, pace=pace)
                self.screen.show(now)
                if now.drained:
                    return
                if monotonic_s() > deadline_s:
                    self.problems.append(f"not everything came to rest in time; see {self.rig.plan.work_dir / 'logs'}")
                    return
                if self.kill and self.killed is None and self._may_kill(now):
                    self._kill(now, group)
                await asyncio.sleep(_LOOK_SECONDS)

    def _may_kill(self, now: Snapshot) -> bool:
        return now.funnel.committed >= _KILL_AT_SHARE * len(self.script.sentences) and now.open_batches > 0

    def _kill(self, now: Snapshot, group: asyncio.TaskGroup) -> None:
        worker = self.rig.workers[0]
        pid = self.rig.group.pid(worker)
        if pid is None or not self.rig.group.send(worker, signal.SIGKILL):
            return
        self.screen.say(
            f"kill -9 {pid}: {worker} dies with {now.open_batches} chunks open,"
            f" {now.funnel.committed:,} of {len(self.script.sentences):,} committed"
        )
        self.killed = Kill(
            worker=worker,
            pid=pid,
            committed=now.funnel.committed,
            open_chunks=now.open_batches,
            ready_again_seconds=None,
        )
        group.create_task(self._await_return(self.killed, self.rig.group.starts(worker)))

    async def _await_return(self, kill: Kill, starts: int) -> None:
        began_s = monotonic_s()
        try:
            await self.rig.ready(kill.worker, starts=starts + 1)
        except RigError as error:
            self.problems.append(str(error))
            return
        took_s = monotonic_s() - began_s
        self.killed = replace(kill, ready_again_seconds=took_s)
        self.screen.say(f"{kill.worker} has its tasks back after {took_s:.1f} s")

    async def _level(self) -> None:
        """Fold what the workers wrote last; the projector process has left with them."""
        async with Projector(self.rig.settings) as projector:
            await projector.catch_up(timeout_seconds=_CATCH_UP_SECONDS_MAX)

    async def _collected(self, job: str) -> Report:
        settings, ledger = self.rig.settings, read_ledger(self.rig.plan.simulator.ledger_file)
        committed = await collecting.read_committed(settings)
        with View(settings.view_path) as view:
            fresh = freshness(view)
            labels = collecting.labels_committed(committed, _LABEL)
            unsure = await collecting.answers_in_review(view, settings, _LABEL)
            compared = collecting.compared_answers(view, ledger)
            return Report(
                accuracy_setting=self.accuracy,
                seed=self.seed,
                workers=len(self.rig.workers),
                seconds=self.seconds,
                published=_published(self.script),
                funnel=funnel(view),
                ledgers=collecting.ledgers_of(accounting(view), unreadable=fresh.unreadable + fresh.gaps),
                metrics=metrics(view),
                money=collecting.money_of(view, ledger),
                log=collecting.log_against_sink(committed, settings.sink_path, job, compared),
                accuracy=score(labels | unsure, collecting.gold_of(self.script)),
                put_down=tuple(each for each in failures(view) if each.place in {"dead_lettered", "excluded"}),
                hostiles=collecting.hostiles_found(view, self.script.hostile),
                faults=collecting.faults_met(ledger),
                kill=self.killed,
                kill_wanted=self.kill,
                problems=tuple(self.problems),
                commands=_commands(view, self.rig.plan.work_dir, settings.sink_path, job),
            )


def _counted(view_path: Path) -> tuple[Accounting, Funnel]:
    """The expensive half of a look, for a thread of its own."""
    with View(view_path) as view:
        return accounting(view), funnel(view)


def _published(script: Script) -> Published:
    return Published(
        events=len(script.events),
        sentences=len(script.sentences),
        repeated=script.repeated,
        hostile=len(script.hostile),
    )


#: what is worth a look -> the life that shows it
_SHOWN: Mapping[str, str] = {
    "one record's whole story: retried, then committed": "status = 'committed' AND sends > 1",
    "an answer that waits for a person": "status = 'needs_review'",
}


def _commands(view: View, work_dir: Path, sink: Path, job: str) -> tuple[tuple[str, str], ...]:
    program = shlex.join(_program())
    prefix = f"{CONFIG_VARIABLE}={shlex.quote(_near(work_dir / CONFIG_FILE))} {program}"
    found = [("everything at a glance", f"{prefix} status")]
    for what, where in _SHOWN.items():
        row = view.row(f"SELECT request_id FROM lives WHERE {where} ORDER BY attempt DESC, request_id LIMIT 1")  # noqa: S608  ours
        if row is not None:
            found.append((what, f"{prefix} explain {row['request_id']}"))
    query = f"select json_extract(output_json, '$.{_LABEL}'), count(*) from {job} group by 1"  # noqa: S608  shown, not run
    reader = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]), sep=chr(10))"
    return (
        *found,
        ("what was put down, and why", f"{prefix} dlq list"),
        ("the provider's batches", f"{prefix} batches list"),
        (
            "the sink itself",
            f"{sys.executable} -c {shlex.quote(reader)} {shlex.quote(_near(sink))} {shlex.quote(query)}",
        ),
    )


def _program() -> tuple[str, ...]:
    """How we were called, when that was as a command."""
    called = Path(sys.argv[0])
    return (str(called),) if called.name == "batchmill" else batchmill_argv()


def _near(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
