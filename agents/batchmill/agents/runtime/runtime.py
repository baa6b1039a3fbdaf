"""All tasks of one worker: who owns what now, and how slices and effects reach their task.

What lives here: the registry of tasks, the ownership rounds, and the rules of a hand-over (freeze, last commit, fence,
restore, resume). What must not: Faust. The driver (`transactions`, `transport`) calls these at the right moments.

A round is counted at every revocation, by us: the group's generation moves later, and a static restart keeps it. A task
is kept over a rebalance only if it was handed over cleanly in the round just ended and the group's generation is the
next one; anything else is fenced and restored again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import structlog

from batchmill.agents.clock import monotonic_s
from batchmill.agents.runtime.config import RuntimeConfig
from batchmill.agents.runtime.errors import NotOwnedError
from batchmill.agents.runtime.failpoints import FAILPOINTS
from batchmill.agents.runtime.failstop import Exit, fail_stop
from batchmill.agents.runtime.log import BodyCache, LogReader
from batchmill.agents.runtime.records import LogRecord, Slice
from batchmill.agents.runtime.restore import RestoreAbandonedError, cluster_id, read_back, write_marker
from batchmill.agents.runtime.store import Store, StoreIdentity
from batchmill.agents.runtime.supervision import EffectRunner, Run
from batchmill.agents.runtime.task import Task

__all__ = ["OnSlice", "Positions", "Runtime"]

_LOG = structlog.get_logger(__name__)

OnSlice = Callable[[Task, Slice], None]
#: Asks the group where the given tasks' inputs stand: partition -> topic -> position.
Positions = Callable[[Iterable[int]], Awaitable[Mapping[int, Mapping[str, int]]]]
Listener = Callable[[Task], None]
Closing = Callable[[], Awaitable[None]]
#: for each of the things that are closed at the end; what takes longer is left to the end of the process
_CLOSE_SECONDS: Final = 5.0


class Runtime:
    """One per worker process."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.config = config
        self.round = 0
        self.generation = -1
        self.draining = False
        self.bodies = BodyCache(bytes_max=config.tuning.body_cache_bytes)
        self._log: LogReader | None = None
        self._tasks: dict[int, Task] = {}
        self._leaving: list[Task] = []
        self._effects = EffectRunner()
        self._on_ready: list[Listener] = [self._effects.start]
        self._on_lost: list[Listener] = [self._effects.stop]
        self._on_end: list[Closing] = []
        self._cluster: str | None = None
        self._rounds = asyncio.Lock()  # one restore at a time; a newer one waits until the older has noticed
        self._trials = asyncio.Lock()  # what is suspected of killing the process is tried alone in it
        FAILPOINTS.arm(config.failpoint)

    # --- what the application asks ---

    @property
    def log(self) -> LogReader:
        if self._log is None:
            options = self.config.client_options()
            self._log = LogReader(bootstrap_servers=self.config.bootstrap_servers, bodies=self.bodies, options=options)
        return self._log

    def tasks(self) -> list[Task]:
        """The tasks owned now."""
        return [task for task in self._tasks.values() if task.owned]

    def task(self, partition: int) -> Task:
        task = self._tasks.get(partition)
        if task is None or not task.owned:
            raise NotOwnedError(partition)
        return task

    @property
    def ready(self) -> bool:
        """Every assigned task is owned; also true with none assigned, once the group has answered."""
        return self.generation >= 0 and all(task.owned for task in self._tasks.values())

    def on_ready(self, listener: Listener) -> None:
        self._on_ready.append(listener)

    def on_lost(self, listener: Listener) -> None:
        self._on_lost.append(listener)

    def on_end(self, close: Closing) -> None:
        """Close something of the application once no task can use it any more."""
        self._on_end.append(close)

    def add_effect(self, name: str, run: Run) -> None:
        """Run `run(task)` for every owned task."""
        self._effects.add(name, run)

    # --- slices ---

    async def run_slices(self, stream: Any, on_slice: OnSlice) -> None:
        """The body of an agent: every slice to its task, refused if it is of another round."""
        async for event in stream.events():
            await self._handle(event.message.value, on_slice)

    async def _handle(self, slice_: Slice, on_slice: OnSlice) -> None:
        task = self.current(slice_)
        if task is None:
            return
        if not task.guard.suspects(slice_):
            self._decide(task, slice_, on_slice)
            return
        # A death is the whole process's: with one trial at a time in it, only the culprit's trial is found.
        async with self._trials:
            try:
                await self._try_alone(slice_, on_slice)
            except NotOwnedError:
                return

    async def _try_alone(self, slice_: Slice, on_slice: OnSlice) -> None:
        task = self.current(slice_)
        if task is not None:
            await task.announce(task.guard.before(slice_))
            if self.current(slice_) is task:
                self._decide(task, slice_, on_slice)
                await task.announce([])

    def current(self, slice_: Slice) -> Task | None:
        """The task of this slice, if it is still the one the slice was fetched for."""
        task = self._tasks.get(slice_.partition)
        if task is None or not task.owned or task.round != slice_.round:
            self.config.observer.stale(slice_.topic, slice_.partition)
            return None
        return task

    def _decide(self, task: Task, slice_: Slice, on_slice: OnSlice) -> None:
        started = monotonic_s()
        observer, on_poison = self.config.observer, self.config.on_poison
        try:
            if FAILPOINTS.armed:
                FAILPOINTS.hit("slice.handed")
            if on_poison is not None and task.guard.condemned(slice_):
                record = slice_.records[0]
                _LOG.error("record_condemned", src=record.src)
                observer.poisoned(record.topic, record.partition, record.offset)
                on_poison(task, record)
                task.finish(slice_)
            else:
                self._hand(task, slice_, on_slice)
            if FAILPOINTS.armed:
                FAILPOINTS.hit("slice.decided")
            assert task.positions[slice_.topic] == slice_.end, "the agent did not finish its slice"
        except Exception as error:  # noqa: BLE001
            where = {"topic": slice_.topic, "partition": slice_.partition, "start": slice_.start, "end": slice_.end}
            fail_stop(Exit.AGENT_RAISED, "an agent raised", error=error, **where)
        observer.slice(slice_.topic, slice_.partition, len(slice_.records), monotonic_s() - started)

    def _hand(self, task: Task, slice_: Slice, on_slice: OnSlice) -> None:
        here = self._at_home(task, slice_)
        if len(here) == len(slice_.records):
            on_slice(task, slice_)
        elif here:
            on_slice(task, Slice(slice_.topic, slice_.partition, here, slice_.start, slice_.end, slice_.round))
        else:
            task.finish(slice_)

    def _at_home(self, task: Task, slice_: Slice) -> tuple[LogRecord, ...]:
        """The records that belong to this task; the others are sent home, in the same transaction."""
        check = self.config.route_check
        if check is None:
            return slice_.records
        here = []
        for record in slice_.records:
            home = check(record)
            if home is None or home == slice_.partition:
                here.append(record)
                continue
            kept = tuple(header for header in record.headers if header[0] not in {"src", "txn", "intent"})
            task.emit(
                record.topic,
                key=record.key,
                value=record.value,
                partition=home,
                src=record.src,
                intent="forward",
                headers=kept,
            )
            self.config.observer.forwarded(record.topic, record.partition)
        return tuple(here)

    # --- rounds ---

    async def revoke(self, *, lost: bool) -> None:
        """Partitions are being taken away. Lost: somebody may own them already, so nothing is committed."""
        owned = self.tasks()
        if not lost:
            await self._drain(owned, self.config.effect_drain_seconds)
        self.round += 1
        self._freeze(owned)
        if FAILPOINTS.armed:
            await FAILPOINTS.reach("revoke.frozen")
        leave = [task.abandon() if lost else task.hand_over(self.round) for task in owned]
        await self._bounded(leave, self.config.tuning.revoke_commit_seconds)
        self.draining = False
        _LOG.info("tasks_revoked", round=self.round, lost=lost, tasks=[task.partition for task in owned])

    async def _drain(self, tasks: Iterable[Task], seconds: float) -> None:
        """Effects may finish what they do; none begins."""
        self.draining = True
        for task in tasks:
            task.draining = True
        ending = [asyncio.ensure_future(task.effects_ended()) for task in tasks]
        if ending:
            _, late = await asyncio.wait(ending, timeout=seconds)
            for waiting in late:
                waiting.cancel()

    def _freeze(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            task.freeze()
            for listener in self._on_lost:
                listener(task)

    @staticmethod
    async def _bounded(leave: list[Any], seconds: float) -> None:
        if not leave:
            return
        done, late = await asyncio.wait([asyncio.ensure_future(one) for one in leave], timeout=seconds)
        if late:
            fail_stop(Exit.REVOKE_TIMEOUT, f"{len(late)} last transactions took longer than {seconds} s")
        for one in done:
            if one.exception() is not None:
                fail_stop(Exit.COMMIT_UNKNOWN, "a last transaction failed", error=one.exception())

    def assign(self, assigned: Mapping[str, frozenset[int]], generation: int) -> None:
        """What the group gave us, by topic. Restoring comes later: no heartbeat runs inside this callback."""
        wanted = next(iter(assigned.values()), frozenset())
        if any(partitions != wanted for partitions in assigned.values()):
            fail_stop(
                Exit.NOT_COLOCATED,
                "the group assigned a task in pieces; all members must run this assignor",
                assigned={topic: sorted(partitions) for topic, partitions in assigned.items()},
            )
        follows = generation == self.generation + 1
        self.generation = generation
        for partition, task in list(self._tasks.items()):
            if not (partition in wanted and follows and task.frozen_round == self.round):
                self._leaving.append(self._tasks.pop(partition))
        for partition in sorted(wanted - self._tasks.keys()):
            self._tasks[partition] = Task(partition, self.config, self._trials)
        self.config.observer.rebalanced(self.round, wanted)

    async def restore(self, positions: Positions) -> None:
        """Fence, restore, resume whatever is assigned and not owned yet."""
        async with self._rounds:
            round_ = self.round
            try:
                async with asyncio.timeout(self.config.tuning.restore_timeout_seconds):
                    await self._restore(round_, positions)
            except RestoreAbandonedError:
                _LOG.info("restore_abandoned", round=round_)
            except Exception as error:  # noqa: BLE001
                fail_stop(Exit.RESTORE_FAILED, "state could not be restored", error=error, round=round_)

    async def _restore(self, round_: int, positions: Positions) -> None:
        await self._close_leaving()
        waiting = [task for task in self._tasks.values() if not task.owned]
        kept = [task for task in waiting if task.frozen_round is not None]
        new = [task for task in waiting if task.frozen_round is None]
        started = monotonic_s()
        await asyncio.gather(*(task.fence() for task in new))
        self._assert_round(round_)
        await self._open(new, round_, positions)
        for task in kept:
            task.frozen_round = None  # from here on the log says that an owner is at work
        await asyncio.gather(*(task.reopen() for task in kept))
        self._assert_round(round_)
        for task in waiting:
            task.resume(round_)
            for listener in self._on_ready:
                listener(task)
        _LOG.info(
            "tasks_ready",
            round=round_,
            generation=self.generation,
            restored=[task.partition for task in new],
            kept=[task.partition for task in kept],
            seconds=round(monotonic_s() - started, 3),
        )

    async def _open(self, new: list[Task], round_: int, positions: Positions) -> None:
        if not new:
            return
        config = self.config
        if self._cluster is None:
            self._cluster = await cluster_id(config.client_options())
        offsets = await asyncio.gather(*(write_marker(task.producer, config, task.partition) for task in new))
        markers = {task.partition: offset for task, offset in zip(new, offsets, strict=True)}
        stores = {task.partition: self._store(task.partition) for task in new}
        try:
            await read_back(config, stores, markers, cluster=self._cluster, still_ours=lambda: self.round == round_)
            # After the fence: whatever the last owner committed is known, and nothing can follow.
            stand = await positions(stores)
            self._assert_round(round_)
        except BaseException:
            for store in stores.values():
                store.close()
            raise
        await asyncio.gather(*(task.open(stores[task.partition], stand.get(task.partition, {})) for task in new))

    def _store(self, partition: int) -> Store:
        assert self._cluster is not None
        return Store.open(self.config.state_dir, StoreIdentity(self._cluster, self.config.state_topic, partition))

    def _assert_round(self, round_: int) -> None:
        if self.round != round_:
            raise RestoreAbandonedError

    async def _close_leaving(self) -> None:
        leaving, self._leaving = self._leaving, []
        await asyncio.gather(*(task.close() for task in leaving))

    async def stop(self) -> None:
        """A clean end: effects finish, everything taken is committed, and the log says that the owner left."""
        owned = self.tasks()
        await self._drain(owned, self.config.tuning.drain_timeout_seconds)
        self.round += 1
        self._freeze(owned)
        await self._bounded([task.hand_over(self.round) for task in owned], self.config.tuning.drain_timeout_seconds)
        async with self._rounds:
            self._leaving += self._tasks.values()
            self._tasks = {}
            await self._close_leaving()
        if self._log is not None:
            await self._log.close()
            self._log = None
        await asyncio.gather(*(_closed(close) for close in self._on_end))
        _LOG.info("tasks_stopped", tasks=[task.partition for task in owned])


async def _closed(close: Closing) -> None:
    """One that fails does not keep the others from it: everything that counts is committed already."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await close()
    except Exception as error:  # noqa: BLE001
        _LOG.warning("not_closed", kind=type(error).__name__)
