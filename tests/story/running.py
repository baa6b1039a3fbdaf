"""One job through three versions, with the commands that a person would give, while live records flow.

What lives here: giving the commands, waiting for what they bring about, and what was found at each moment. What must
not: what ought to have been found (`verdict`), and words about it (`telling`).
"""

import asyncio
import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchmill.agents.clock import monotonic_s
from batchmill.agents.demo.rig import Rig, RigPlan, running_rig
from batchmill.agents.ingest import SourceRecord, ingest
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector.costs import conservation
from batchmill.agents.projector.metrics import Accounting, Scope, accounting
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.projector.reruns import ReplayRow, replay
from batchmill.agents.simulator import SimulatorConfig, parse_fault, read_ledger
from batchmill.agents.simulator.ledger import Bill
from batchmill.streams.rerunning import RunState
from tests.kafka.small_rig import command_line
from tests.story.script import ACCURACY, JOB, MODELS, Script, job_folders, write_gold, write_records

__all__ = ["MOMENTS", "Given", "Life", "Moment", "Outcome", "Row", "run"]

#: in the order in which they come
MOMENTS = ("answered", "stopped", "tried out", "promoted", "replayed", "replayed again", "rolled back", "at the end")
#: a worker that was killed is missed soon
_SETTINGS = {
    "partitions": 4,
    "runtime.session_timeout_seconds": 6,
    "runtime.heartbeat_seconds": 1,
    "runtime.rebalance_timeout_seconds": 15,
}
_FAULTS = ("row_500=0.01", "shuffled")
_LOOK_SECONDS = 0.3
_WAIT_SECONDS_MAX = 420.0
_LIVE_PAUSE_SECONDS = 0.3
_KILL_AT_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One command, and what it said."""

    words: tuple[str, ...]
    code: int
    out: str  #: its data
    said: str  #: to people

    @property
    def told(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the sink holds of one source."""

    version: str
    request_id: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One request, as the read model has it."""

    request_id: str
    source_id: str
    version: str
    status: str
    aside: bool
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What there was when one thing was done and the next was not begun."""

    live: int  #: live records that were published so far
    sink: Mapping[str, Row]  #: by source
    commits: Mapping[str, int]  #: that were ever made, by source
    asked: Mapping[str, int]  #: requests that the provider answered, by model
    cost_nanos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that a judge needs."""

    script: Script
    versions: Mapping[str, str]  #: v1, v2, v3 -> its name
    moments: Mapping[str, Moment]
    given: Mapping[str, Given]  #: by what it was for
    lives: tuple[Life, ...]
    bills: tuple[Bill, ...]
    account: Accounting
    money_holds: bool
    cost_nanos: int  #: as the read model has it
    kills: int


async def run(folder: Path, cluster: RunningCluster, script: Script, *, say: Callable[[str], None] = print) -> Outcome:
    """The whole story; the workers have left when it returns."""
    simulator = SimulatorConfig(
        data_dir=folder / "simulator",
        seed=6,
        model_accuracy={MODELS[name]: share for name, share in ACCURACY.items()},
        gold_path=write_gold(script, folder / "labels.jsonl"),
        latency_seconds=(0.1, 0.4),
        faults=dict(map(parse_fault, _FAULTS)),
    )
    plan = RigPlan(work_dir=folder, workers=2, simulator=simulator, settings=_SETTINGS)
    async with running_rig(plan, cluster, say=say) as rig:
        story = _Story(rig=rig, script=script, folders=job_folders(script, folder / "jobs"), say=say)
        return await story.told()


@dataclass(slots=True, kw_only=True)
class _Story:
    rig: Rig
    script: Script
    folders: Mapping[str, Path]
    say: Callable[[str], None]
    versions: dict[str, str] = field(default_factory=dict)
    given: dict[str, Given] = field(default_factory=dict)
    moments: dict[str, Moment] = field(default_factory=dict)
    live: int = 0
    is_over: bool = False
    kills: int = 0

    async def told(self) -> Outcome:
        await self._apply("v1")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._live_records())
            await self._first()
            await self._worse()
            await self._better()
            await self._stale()
            await self._back()
            self.is_over = True
        await self._settled()
        await self._moment("at the end")
        return self._outcome()

    # -- the acts ------------------------------------------------------------------------------------------------------

    async def _first(self) -> None:
        file = write_records(self.script, self.rig.plan.work_dir / "records.jsonl")
        await self._give("ingest", "ingest", str(file), "--job", JOB, "--key", "id", "--run", "first")
        await self._until("all records are committed", lambda: self._written("v1") == len(self.script.records))
        await self._moment("answered")

    async def _worse(self) -> None:
        await self._tried_out("v2")
        await asyncio.gather(
            self._give("v2 compared", "compare", JOB, "current", "shadow", "--gate", code=3),
            self._give("v2 refused", "job", "promote", JOB, self.versions["v2"], "--execute", code=3),
        )
        await self._give(
            "v2 rejected", "job", "reject", JOB, self.versions["v2"], "--execute", "--reason", "wrong too often"
        )
        await self._moment("stopped")

    async def _better(self) -> None:
        await self._tried_out("v3")
        await asyncio.gather(
            self._give("v3 compared", "compare", JOB, "current", "shadow", "--gate"),
            self._give("v3 asked for", "job", "promote", JOB, self.versions["v3"]),
        )
        await self._moment("tried out")
        await self._give("v3 promoted", "job", "promote", JOB, self.versions["v3"], "--execute")
        await self._until("what it was tried out on is written", lambda: self._run_of("v3") == self.script.sample)
        await self._settled()
        await self._moment("promoted")

    async def _stale(self) -> None:
        words = ("replay", "--job", JOB, "--select", "stale")
        await self._give("stale, dry", *words)
        rate = f"{self.script.per_second:g}"
        await self._give("stale", *words, "--rate", rate, "--run", "stale", "--execute", "--json")
        await self._kill_in_the_middle("stale")
        await self._done("stale")
        await self._until("nothing is in front under v1", lambda: self._in_front("v1") == 0)
        await self._until("v3 has written all records", lambda: self._written("v3") == len(self.script.records))
        await self._settled()
        await self._moment("replayed")
        await self._give("again", "replay", "--job", JOB, "--select", "all", "--run", "again", "--execute", "--json")
        await self._done("again")
        await self._moment("replayed again")

    async def _back(self) -> None:
        await self._give("demotion, dry", "job", "demote", JOB)
        await self._give("demoted", "job", "demote", JOB, "--execute", "--reason", "a customer complains")
        await self._until("what v1 had written is written again", lambda: self._owed_again("v1") == 0)
        await self._settled()
        await self._moment("rolled back")
        await asyncio.gather(
            self._give("stale after it", "replay", "--job", JOB, "--select", "stale", "--json"),
            self._give("versions", "job", "versions", JOB),
        )

    async def _apply(self, name: str) -> None:
        given = await self._give(f"{name} applied", "job", "apply", str(self.folders[name]))
        self.versions[name] = given.said.partition("version ")[2].split()[0].rstrip(",")

    async def _tried_out(self, name: str) -> None:
        """Apply it, and have it answer the benchmark and a sample of what is there."""
        await self._apply(name)
        version = self.versions[name]
        words = ("--select", "all", "--sample", str(self.script.sample), "--run", f"sample-{name}")
        await asyncio.gather(
            self._give(f"{name} benchmark", "benchmark", JOB, "--execute"),
            self._give(f"{name} sample", "replay", "--job", JOB, "--version", version, "--aside", *words, "--execute"),
        )
        await self._done(f"sample-{name}")
        expected = self.script.sample + len(self.script.gold)
        await self._until(f"{name} has answered", lambda: self._answered_aside(name) == expected)

    # -- live records, and a worker that dies --------------------------------------------------------------------------

    async def _live_records(self) -> None:
        for each in self.script.live:
            if self.is_over:
                return
            record = SourceRecord(line=self.live + 1, key=each.id.encode(), value=each.event())
            report = await ingest(self.rig.settings, iter((record,)), run="live", job=JOB)
            assert report.sent == 1, f"{each.id} was not sent"
            self.live += 1
            await asyncio.sleep(_LIVE_PAUSE_SECONDS)
        raise AssertionError("the story is longer than there are live records")

    async def _kill_in_the_middle(self, name: str) -> None:
        worker = self.rig.workers[0]

        def is_middle() -> bool:
            row = self._run(name)
            return row is not None and row.done >= row.lines * _KILL_AT_SHARE

        await self._until("the replay is under way", is_middle)
        starts = self.rig.group.starts(worker)
        assert self.rig.group.send(worker, signal.SIGKILL), f"{worker} did not run"
        self.kills += 1
        await self._until(f"{worker} is started again", lambda: self.rig.group.starts(worker) > starts)
        row = self._run(name)
        assert row is not None, f"run {name} is not known any more"
        assert row.state is RunState.RUNNING, "the replay was over before a worker could be killed"

    # -- giving a command, waiting -------------------------------------------------------------------------------------

    async def _give(self, purpose: str, *words: str, code: int = 0) -> Given:
        began_s = monotonic_s()
        process = await command_line(self.rig, *words)
        out, said = await process.communicate()
        given = Given(words=words, code=process.returncode, out=out.decode(), said=said.decode())
        self.given[purpose] = given
        self.say(f"batchmill {' '.join(words)}  [{monotonic_s() - began_s:.1f} s]")
        assert given.code == code, f"{purpose}: exit code {given.code}, not {code}\n{given.out}\n{given.said}"
        return given

    async def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline_s = monotonic_s() + _WAIT_SECONDS_MAX
        while not await asyncio.to_thread(holds):
            assert monotonic_s() < deadline_s, f"never: {what}; see {self.rig.plan.work_dir / 'logs'}"
            await asyncio.sleep(_LOOK_SECONDS)

    async def _done(self, name: str) -> None:
        def is_done() -> bool:
            row = self._run(name)
            assert row is None or row.state in {RunState.RUNNING, RunState.DONE}, f"run {name}: {row}"
            return row is not None and row.state is RunState.DONE

        await self._until(f"run {name} is done", is_done)

    async def _settled(self) -> None:
        """What was published live so far is committed, and nothing in front is on its way."""
        published = self.live
        await self._until(
            f"{published} live records are committed",
            lambda: self._number("SELECT COUNT(*) FROM lives WHERE job = ? AND NOT aside AND status = 'committed'"
                                 " AND source_id LIKE 'live-%' AND source_id < ?", f"live-{published:05d}")
            == published,
        )  # fmt: skip

    # -- looking -------------------------------------------------------------------------------------------------------

    def _number(self, sql: str, *values: Any) -> int:
        try:
            with View(self.rig.settings.view_path) as view:
                return view.number(sql, (JOB, *values))
        except ViewMissingError:
            return 0

    def _run(self, name: str) -> ReplayRow | None:
        with View(self.rig.settings.view_path) as view:
            return replay(view, name)

    def _written(self, name: str) -> int:
        """Committed records under a version, without the live ones."""
        sql = """SELECT COUNT(*) FROM lives WHERE job = ? AND version = ? AND source_id LIKE 's-%'
          AND NOT aside AND status = 'committed'"""
        return self._number(sql, self.versions[name])

    def _owed_again(self, name: str) -> int:
        """What a version had answered when another one took its place, and is not committed in front."""
        sql = """SELECT COUNT(*) FROM lives WHERE job = ? AND version = ? AND (aside OR status <> 'committed')
          AND (source_id LIKE 's-%' OR (source_id LIKE 'live-%' AND source_id < ?))"""
        return self._number(sql, self.versions[name], f"live-{self.moments['promoted'].live:05d}")

    def _in_front(self, name: str) -> int:
        sql = "SELECT COUNT(*) FROM lives WHERE job = ? AND version = ? AND NOT aside"
        return self._number(sql, self.versions[name])

    def _answered_aside(self, name: str) -> int:
        sql = "SELECT COUNT(*) FROM lives WHERE job = ? AND version = ? AND aside AND status = 'validated'"
        return self._number(sql, self.versions[name])

    def _run_of(self, name: str) -> int:
        """Committed of the sample of a version."""
        sql = "SELECT COUNT(*) FROM lives WHERE job = ? AND run_id = ? AND NOT aside AND status = 'committed'"
        return self._number(sql, f"replay:sample-{name}")

    async def _moment(self, name: str) -> None:
        self.moments[name] = await asyncio.to_thread(self._now)
        self.say(f"-- {name}: {self.live} live records so far")

    def _now(self) -> Moment:
        bills = read_ledger(self.rig.plan.simulator.ledger_file).bills
        with closing(sqlite3.connect(self.rig.settings.sink_path)) as sink:
            rows = sink.execute(f"SELECT source_id, version, request_id, output_json FROM {JOB}").fetchall()
        with View(self.rig.settings.view_path) as view:
            sql = "SELECT source_id, COUNT(*) AS n FROM commits WHERE job = ? AND kind = 'commit' GROUP BY 1"
            commits = {row["source_id"]: row["n"] for row in view.rows(sql, (JOB,))}
        return Moment(
            live=self.live,
            sink={row[0]: Row(version=row[1], request_id=row[2], output=row[3]) for row in rows},
            commits=commits,
            asked=Counter(bill.model for bill in bills),
            cost_nanos=sum(bill.cost_nanos for bill in bills),
        )

    def _outcome(self) -> Outcome:
        with View(self.rig.settings.view_path) as view:
            scope = Scope(job=JOB)
            sql = "SELECT request_id, source_id, version, status, aside, run_id FROM lives WHERE job = ?"
            return Outcome(
                script=self.script,
                versions=self.versions,
                moments=self.moments,
                given=self.given,
                lives=tuple(view.typed(Life, sql, (JOB,))),
                bills=read_ledger(self.rig.plan.simulator.ledger_file).bills,
                account=accounting(view, scope),
                money_holds=conservation(view, Scope().values).holds,
                cost_nanos=view.number("SELECT SUM(cost_nanos) FROM lives WHERE job = ?", (JOB,)),
                kills=self.kills,
            )
