"""Who is killed when: the faults of one run, each waiting for its moment, each proving what it hit.

What lives here: the steps. A step ends with a `Kill`, which says what was seen before and after; a moment that never
came is a step that did not hit, and the run is then no proof. What must not: judging the outcome (`invariants`).
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from batchmill.agents.kafka import LocalCluster
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState
from tests.chaos.evidence import Txn, topic_of
from tests.chaos.judging import LABEL_CHUNK
from tests.chaos.mill import Mill, eventually, is_stopped

__all__ = ["FULL", "QUICK", "WORKERS", "Kill", "Run", "Script"]

MOMENT_SECONDS_MAX = 60.0
#: what is so for this long is held by a failpoint
HELD_SECONDS = 2.5
JOIN_AFTER_SECONDS = 1.2
#: exit code of a worker whose commit was refused because its successor has started
FENCED = 71
_STAGES = ("normalized", "submitted", "results", "validated", "committed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One fault and what it was seen to hit."""

    at_s: float
    who: str
    what: str  #: kill -9, SIGSTOP, ...
    moment: str
    hit: str  #: what it hit, as seen
    is_kill: bool = True
    open_transaction: Txn | None = None
    accepted_not_open: bool = False
    proven: bool = True  #: False: the moment never came


@dataclass(slots=True)
class Run:
    """What the steps share."""

    mill: Mill
    cluster: LocalCluster
    records: int
    began_s: float = field(default_factory=time.monotonic)
    kills: list[Kill] = field(default_factory=list)

    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    def share(self, topic: str) -> float:
        return self.mill.watcher.counts[topic] / self.records

    def note(self, **facts: object) -> None:
        kill = Kill(at_s=self.now_s(), **facts)  # type: ignore[arg-type]
        self.kills.append(kill)
        sys.stderr.write(f"{kill.at_s:6.1f} s  {kill.what} {kill.who} ({kill.moment}): {kill.hit}\n")


Step = Callable[[Run], Awaitable[None]]
Script = Sequence[Step]


# -- steps -------------------------------------------------------------------------------------------------------------


def when(topic: str, share: float, then: Step) -> Step:
    """`then`, as soon as that share of the records is on `topic`."""

    async def step(run: Run) -> None:
        await eventually(lambda: run.share(topic) >= share, seconds=MOMENT_SECONDS_MAX)
        await then(run)

    return step


def plain(name: str, *, armed: str | None = None) -> Step:
    """kill -9 wherever it is; the next incarnation is armed."""

    async def step(run: Run) -> None:
        run.mill.pool.arm(name, _failpoint(run, armed))
        moment = _progress(run)
        await run.mill.pool.kill(name)
        run.note(who=name, what="kill -9", moment=moment, hit="wherever it was")

    return step


def in_open_transaction(name: str, *, armed: str | None = None) -> Step:
    """Wait until a transaction of `name` stays open (a failpoint holds it), show its records, kill -9."""

    async def step(run: Run) -> None:
        txn, topics = await _held_open(run, name)
        moment = _progress(run)
        run.mill.pool.arm(name, _failpoint(run, armed))
        await run.mill.pool.kill(name)
        if txn is None:
            run.note(who=name, what="kill -9", moment=moment, hit="no open transaction in time", proven=False)
            return
        run.mill.doomed.add(txn)
        held = ", ".join(f"{n} {topic}" for topic, n in topics.items())
        hit = f"open transaction of producer {txn.producer_id} epoch {txn.epoch}: {held} seen uncommitted"
        run.note(who=name, what="kill -9", moment=moment, hit=hit, open_transaction=txn)

    return step


def after_acceptance(name: str, *, armed: str | None = None) -> Step:
    """Wait until the provider's ledger has a batch that our log still calls `attempting`, kill -9."""

    async def step(run: Run) -> None:
        await _restored(run, name)
        found: list[tuple[Chunk, str]] = []

        seen: dict[str, float] = {}

        def accepted() -> bool:
            """A create call is over in a moment; what is still so after two seconds is held by the failpoint."""
            now = _accepted_and_attempting(run, name)
            for chunk, _ in now:
                seen.setdefault(chunk.chunk_id, time.monotonic())
            found[:] = [each for each in now if time.monotonic() - seen[each[0].chunk_id] > HELD_SECONDS]
            return bool(found)

        await eventually(accepted, seconds=MOMENT_SECONDS_MAX, every=0.3)
        moment = _progress(run)
        run.mill.pool.arm(name, _failpoint(run, armed))
        await run.mill.pool.kill(name)
        if not found:
            run.note(who=name, what="kill -9", moment=moment, hit="no accepted batch was attempting", proven=False)
            return
        chunk, batch = found[0]
        hit = f"{batch} accepted by the provider, chunk {chunk.chunk_id} attempting({chunk.attempt}) in our log"
        run.note(who=name, what="kill -9", moment=moment, hit=hit, accepted_not_open=True)

    return step


def after_sink(name: str, *, armed: str | None = None) -> Step:
    """Wait until the sink has commits that Kafka does not know and that stay so, kill -9."""

    async def step(run: Run) -> None:
        await _restored(run, name)
        seen: dict[str, float] = {}
        held: list[str] = []

        def ahead() -> bool:
            """A write is committed in Kafka a moment later; what is not after two seconds is held."""
            known, owners = set(run.mill.watcher.commits), _owners(run)
            for commit, partition in run.mill.sink_commits().items():
                if commit not in known and owners.get(partition) == name:
                    seen.setdefault(commit, time.monotonic())
            held[:] = [c for c, at_s in seen.items() if c not in known and time.monotonic() - at_s > HELD_SECONDS]
            return bool(held)

        await eventually(ahead, seconds=MOMENT_SECONDS_MAX, every=0.3)
        moment = _progress(run)
        run.mill.pool.arm(name, _failpoint(run, armed))
        await run.mill.pool.kill(name)
        hit = f"{len(held)} writes in the sink, none of them committed in Kafka"
        run.note(who=name, what="kill -9", moment=moment, hit=hit, proven=bool(held))

    return step


def zombie(name: str, *, armed: str | None = None) -> Step:
    """SIGSTOP in an open transaction until a successor has fenced the task, SIGCONT: its commit must be refused."""

    async def step(run: Run) -> None:
        pool, watcher = run.mill.pool, run.mill.watcher
        pid = pool.pid(name)
        stopped = await eventually(lambda: (p := pool.pid(name)) is not None and is_stopped(p), seconds=90)
        pid = pool.pid(name)
        txn, topics = await _held_open(run, name)
        moment = _progress(run)

        def fences() -> list[str]:
            if txn is None:
                return []
            return [m.instance for m in watcher.markers if m.producer_id == txn.producer_id and m.epoch > txn.epoch]

        fenced = stopped and await eventually(lambda: bool(fences()), seconds=60)
        pool.arm(name, _failpoint(run, armed))
        pool.send(name, signal.SIGCONT)
        ended = await eventually(lambda: pid is not None and pool.end_of(pid) is not None, seconds=60)
        end = pool.end_of(pid) if ended and pid is not None else None
        refused = end is not None and end.code == FENCED
        if txn is not None:
            run.mill.doomed.add(txn)
        by = fences()[0] if fenced else "nobody"
        hit = (
            f"frozen with {sum(topics.values())} records in an open transaction, fenced by {by}; continued, its "
            f"commit was {'refused' if refused else 'not shown refused'}: exit {end.code if end else None}"
        )
        run.note(
            who=name, what="SIGSTOP, SIGCONT", moment=moment, hit=hit, is_kill=False, proven=bool(fenced and refused)
        )

    return step


def rebalance_in_restore(name: str, newcomer: str, *, armed: str | None = None) -> Step:
    """`name`, killed and back, lingers in the middle of reading its state (a failpoint); a newcomer joins just then."""

    async def step(run: Run) -> None:
        pool = run.mill.pool
        before = len(run.mill.worker_said(name, "restore_abandoned"))
        moment = _progress(run)
        pool.arm(name, "restore.read:1:pause")
        await pool.kill(name)
        run.note(who=name, what="kill -9", moment=moment, hit="wherever it was, to make it restore")
        await eventually(lambda: pool.pid(name) is not None, seconds=10)
        # both take as long to start; the newcomer's join falls into the three seconds of the pause
        await asyncio.sleep(JOIN_AFTER_SECONDS)
        await pool.start(newcomer, failpoint=_failpoint(run, armed))

        def abandoned() -> int:
            return len(run.mill.worker_said(name, "restore_abandoned")) - before

        given_up = await eventually(lambda: abandoned() > 0, seconds=20, every=0.3)
        joined = await eventually(
            lambda: any(marker.instance == newcomer for marker in run.mill.watcher.markers), seconds=30, every=0.3
        )
        hit = f"{name}: restore {'abandoned in the middle' if given_up else 'not seen abandoned'}; {newcomer} joined"
        run.note(
            who=f"{name}, {newcomer}",
            what="rebalance in a restore",
            moment=moment,
            hit=hit,
            is_kill=False,
            proven=given_up and joined,
        )

    return step


def broker_restart() -> Step:
    """kill -9 of the broker, and its start with the same data."""

    async def step(run: Run) -> None:
        moment = _progress(run)
        await asyncio.to_thread(run.cluster.kill, 0)
        await asyncio.to_thread(run.cluster.restart, 0)
        counts = run.mill.watcher.counts
        before = counts["committed"]
        went_on = await eventually(lambda: counts["committed"] > before, seconds=90)
        run.note(
            who="broker", what="kill -9, start", moment=moment, hit="all connections", is_kill=False, proven=went_on
        )

    return step


# -- scripts -----------------------------------------------------------------------------------------------------------

WORKERS = ("worker-1", "worker-2")

FULL: Script = (
    when("normalized", 0.01, plain("worker-1", armed="commit.delivered@normalized:2:hold")),
    in_open_transaction("worker-1", armed="create.after:1:hold"),
    after_acceptance("worker-1"),
    when("normalized", 0.15, plain("worker-2", armed="commit.delivered@submitted:2:hold")),
    in_open_transaction("worker-2"),
    when("results", 0.15, plain("worker-1", armed="commit.delivered@results:2:hold")),
    in_open_transaction("worker-1"),
    when("committed", 0.15, plain("worker-2", armed="sink.after:1:hold")),
    after_sink("worker-2"),
    when("committed", 0.25, broker_restart()),
    when("committed", 0.35, rebalance_in_restore("worker-2", "worker-3")),
    when("committed", 0.45, plain("worker-1", armed="commit.delivered@validated:2:stop")),
    zombie("worker-1"),
    when("committed", 0.47, plain("worker-3", armed="commit.delivered@committed:1:hold")),
    in_open_transaction("worker-3"),
    when("committed", 0.6, plain("worker-2")),
)

QUICK: Script = (
    when("normalized", 0.05, plain("worker-1", armed="commit.delivered@normalized:2:hold")),
    in_open_transaction("worker-1", armed="create.after:1:hold"),
    when("submitted", 0.02, after_acceptance("worker-1")),
    when("committed", 0.2, plain("worker-2", armed="sink.after:1:hold")),
    after_sink("worker-2"),
)


# -- what is seen ------------------------------------------------------------------------------------------------------


async def _held_open(run: Run, name: str) -> tuple[Txn | None, Counter[str]]:
    """A transaction of `name` that was open at two looks: an ordinary one is over in a hundredth of a second."""
    seen: dict[Txn, Counter[str]] = {}
    deadline = time.monotonic() + MOMENT_SECONDS_MAX
    while time.monotonic() < deadline:
        now = {txn: n for txn, n in (await run.mill.open_transactions()).items() if txn.instance == name}
        held = [txn for txn in now if txn in seen]
        if held:
            return held[0], now[held[0]]
        seen = now
        await asyncio.sleep(0.2)
    return None, Counter()


async def _restored(run: Run, name: str) -> None:
    """The incarnation after the last kill has its tasks: what is seen to be held from here on is held by it."""
    markers = run.mill.watcher.markers
    before = sum(1 for marker in markers if marker.instance == name)
    await eventually(lambda: sum(1 for m in markers if m.instance == name) > before, seconds=MOMENT_SECONDS_MAX)


def _accepted_and_attempting(run: Run, name: str) -> list[tuple[Chunk, str]]:
    """Chunks of `name` whose batch the provider has accepted while our log does not know its name.

    A chunk whose create call was answered by an error waits for a look with a due time; one that is held has none.
    """
    owners = _owners(run)
    attempting = {
        chunk.chunk_id: chunk
        for chunk in run.mill.watcher.chunks.values()
        if chunk.state is ChunkState.ATTEMPTING
        and chunk.due_at_ms is None
        and owners.get(int(chunk.chunk_id[1:5])) == name
    }
    if not attempting:
        return []
    made = run.mill.simulator.ledger().batches_created
    return [
        (attempting[chunk], batch.batch_id) for batch in made if (chunk := batch.metadata[LABEL_CHUNK]) in attempting
    ]


def _failpoint(run: Run, armed: str | None) -> str | None:
    """`place@topic:nth:action` with the topic's full name in it."""
    if armed is None or "@" not in armed:
        return armed
    place, _, rest = armed.partition("@")
    topic, _, rest = rest.partition(":")
    return f"{place}/{topic_of(run.mill.settings.topic_prefix, topic)}:{rest}"


def _owners(run: Run) -> dict[int, str]:
    """Who fenced each task last."""
    return {marker.place.partition: marker.instance for marker in run.mill.watcher.markers}


def _progress(run: Run) -> str:
    return " ".join(f"{topic} {run.share(topic):.0%}" for topic in _STAGES)
