"""One partition number, one owner, one producer: its state, its outbox and its input positions commit together.

What lives here: `Task`, with the two sides it shows. Stages and effects see what may be asked of it (view, put, emit,
finish, durable, effect); the runtime sees its life: fence, open, resume, freeze, close. What must not: knowing Faust,
other tasks, or what any row or record means.

    made --fence--> fenced --open--> opened --resume--> owned --freeze--> frozen --resume--> owned
                                                                            |
    any of them, when the task goes elsewhere -----------------------------close

Only an owned task takes orders. All of put, emit, delete and finish between two awaits share one transaction.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka.errors import ProducerFenced

from batchmill.agents.clock import boottime_s, monotonic_s, wall_ms
from batchmill.agents.runtime.codec import HEARTBEAT, OWN_TABLE, RESTART, TRYING, Write
from batchmill.agents.runtime.commit import Destination, transact
from batchmill.agents.runtime.config import RuntimeConfig
from batchmill.agents.runtime.errors import NotOwnedError, TooLargeError
from batchmill.agents.runtime.failpoints import FAILPOINTS
from batchmill.agents.runtime.failstop import Exit, fail_stop
from batchmill.agents.runtime.guard import Guard
from batchmill.agents.runtime.outbox import Outbox
from batchmill.agents.runtime.producers import LostOwnershipError, TaskProducer
from batchmill.agents.runtime.records import Headers, Slice, size_bytes
from batchmill.agents.runtime.store import Store, StoreBrokenError
from batchmill.agents.runtime.suspicion import Thresholds
from batchmill.agents.runtime.view import TaskView

__all__ = ["Task"]

_LOG = structlog.get_logger(__name__)

#: A transaction that the broker has given up by then cannot become committed; waiting on is pointless.
COMMIT_TIMEOUT_FACTOR = 2
#: Room for the headers that are added at the commit, when a size is checked.
OWN_HEADERS_BYTES = 512


class Task:
    """Made by the runtime, one per assigned partition number."""

    def __init__(self, partition: int, config: RuntimeConfig, trials: asyncio.Lock) -> None:
        self.partition = partition
        self.round = 0  #: ownership round it was resumed in; slices of another round are refused
        self.owned = False
        self.draining = False  #: no new effects: a hand-over is near
        self.last_commit_boottime_s = 0.0  #: when the newest commit known successful was sent
        self.fenced_boottime_s = 0.0
        self.previous_owner_clean = False
        self.frozen_round: int | None = None  #: round of the hand-over it went through cleanly
        self.positions: dict[str, int] = {}  #: input topic -> where the next slice must start
        self._config = config
        self._producer = TaskProducer(config.transactional_id(partition), config.producer_options())
        self._to = Destination(config.app_id, config.state_topic, partition, config.instance)
        self._thresholds = Thresholds(config.tuning.suspicion_deaths, config.tuning.poison_deaths)
        self.guard = self._new_guard()
        self._outbox = Outbox()
        self._store: Store | None = None
        self._view: TaskView | None = None
        self._changelog = 0  #: position up to which the store is applied
        self._committing = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._last_commit_s = 0.0
        self._resumed_s = 0.0
        self._open_effects = 0
        self._left_in_the_air = 0
        self._effects_idle = asyncio.Event()
        self._effects_idle.set()
        self._trials = trials
        self._bells: dict[str, asyncio.Event] = {}

    # --- what stages and effects ask ---

    @property
    def view(self) -> TaskView:
        assert self._view is not None, f"task {self.partition} was used before its state was restored"
        return self._view

    def put(self, row: Any) -> None:
        """Remember `row` under its own key."""
        self._assert_owned()
        write = self.view.written(row)
        self._assert_fits(self._to.state_topic, write.key.encode(), write.data, ())
        self.view.lay(write, row)
        self._write(write)

    def delete(self, table: str, key: str) -> None:
        """Forget the row `key` of `table`."""
        self._assert_owned()
        write = Write(table, key, None, ())
        self.view.lay(write, None)
        self._write(write)

    def emit(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        src: str,
        intent: str = "",
        partition: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Write a record in this task's next transaction."""
        self._assert_owned()
        named: Headers = (("src", src.encode()), *((("intent", intent.encode()),) if intent else ()), *headers)
        self._assert_fits(topic, key, value, named)
        if partition is None:
            partition = self.partition if key is None else self._config.place(key)
        self._outbox.emit(topic, partition, key, value, named)
        self._after_change()

    def fits(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> bool:
        """Whether such a record may be emitted."""
        return size_bytes(key, value, headers) + OWN_HEADERS_BYTES <= self._config.tuning.record_bytes_max

    def finish(self, slice_: Slice) -> None:
        """`slice_` is done; it must start where the last finished one of its topic ended."""
        self._assert_owned()
        if slice_.start != self.positions.get(slice_.topic):
            fail_stop(
                Exit.GAP,
                "a slice does not start where the last finished one ended",
                topic=slice_.topic,
                partition=self.partition,
                start=slice_.start,
                expected=self.positions.get(slice_.topic),
            )
        self.positions[slice_.topic] = slice_.end
        self._outbox.finished(slice_.topic, slice_.end)
        self.guard.handled(slice_)
        self._after_change()

    def ticket(self) -> int:
        """A mark for everything asked so far."""
        return self._outbox.ticket()

    async def durable(self, ticket: int | None = None) -> None:
        """Until everything up to `ticket` (default: so far) is known committed."""
        await self._outbox.durable(self.ticket() if ticket is None else ticket)

    async def capacity(self) -> None:
        """Until the outbox is below its cap."""
        while self.full:
            self._assert_owned()
            self._room.clear()
            await self._room.wait()
        self._assert_owned()

    @property
    def full(self) -> bool:
        """The outbox is at its cap: nothing more is fetched for this task."""
        tuning = self._config.tuning
        return self._outbox.count >= tuning.outbox_records or self._outbox.size_bytes >= tuning.outbox_bytes

    @asynccontextmanager
    async def effect(self, name: str, row_id: str) -> AsyncGenerator[None]:
        """Work in the world on behalf of one row. After unclean stops it is announced, then tried alone."""
        self._assert_takes_effects()
        if not self.guard.announces:
            with _counted(self):
                yield
            return
        # A death is the whole process's: with one trial at a time in it, only the culprit's trial is found.
        alone = self.guard.one_at_a_time
        async with self._trials if alone else _Unlocked():
            self._assert_takes_effects()
            with _counted(self):
                await self.announce(self.guard.start(name, row_id))
                try:
                    yield
                finally:
                    survived = self.guard.end(name, row_id)
                    if self.owned:
                        for write in survived:
                            self._write(write)
                if alone:
                    await self.announce([])

    def wake(self, effect: str) -> None:
        """Let the effect look at its rows now."""
        self._bells.setdefault(effect, asyncio.Event()).set()

    async def rest(self, effect: str, seconds: float) -> bool:
        """Until someone wakes the effect (True) or the time is over (False)."""
        self._assert_owned()
        bell = self._bells.setdefault(effect, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await bell.wait()
        except TimeoutError:
            return False
        finally:
            bell.clear()
        self._assert_owned()
        return True

    # --- life ---

    async def fence(self) -> None:
        """From here on no earlier owner can commit."""
        started = monotonic_s()
        await self._producer.start()
        self.fenced_boottime_s = boottime_s()
        self._config.observer.fenced(self.partition, monotonic_s() - started)
        if FAILPOINTS.armed:
            await FAILPOINTS.reach("fence.done")

    @property
    def producer(self) -> TaskProducer:
        return self._producer

    async def open(self, store: Store, positions: Mapping[str, int]) -> None:
        """State is restored; write down that it is ours, and be sure that this is known."""
        self._store, self._changelog = store, store.position
        self._view = TaskView(store, self._config.codec, hot_rows_max=self._config.hot_rows_max)
        self.positions = dict(positions)
        own = [store.get(OWN_TABLE, key) for key in (RESTART, TRYING)]
        self.previous_owner_clean = self.guard.open(own[0], own[1], positions)
        for topic in self.guard.suspected:
            self._config.observer.suspicious(self.partition, topic)
        await self.reopen()

    async def reopen(self) -> None:
        """The last thing written says that an owner left; say that one is back before it does anything."""
        for write in self.guard.opening():
            self._write(write)
        await self.commit()

    def resume(self, round_: int) -> None:
        """Owned from here on."""
        self.round, self.owned, self.draining = round_, True, False
        self.frozen_round = None
        self._resumed_s = monotonic_s()
        self._loop = asyncio.create_task(self._commit_loop(), name=f"commit-{self.partition}")
        self._loop.add_done_callback(self._loop_ended)

    def freeze(self) -> None:
        """No order is taken from here on; what was taken may still be committed."""
        if self.owned:
            self._left_in_the_air = self._open_effects
        self.owned = False
        self._room.set()
        for bell in self._bells.values():
            bell.set()
        if self._loop is not None:
            self._loop.cancel()

    async def hand_over(self, round_: int) -> None:
        """The last transaction of this owner, after `freeze`: says whether nothing of ours is still in the air."""
        clean = self._left_in_the_air == 0
        for write in self.guard.closing(self.positions, clean=clean):
            self._write(write)
        await self.commit()
        self.frozen_round = round_

    async def abandon(self) -> None:
        """Somebody else owns the task by now; only what is under way may still end."""
        self._outbox.abandon(NotOwnedError(self.partition))
        async with self._committing:
            pass

    async def effects_ended(self) -> None:
        await self._effects_idle.wait()

    async def close(self) -> None:
        self.freeze()
        self._outbox.abandon(NotOwnedError(self.partition))
        await self._producer.stop()
        if self._store is not None:
            self._store.close()

    # --- commit ---

    async def announce(self, writes: list[Write]) -> None:
        """Write the runtime's own rows and wait until they, and everything before them, are durable."""
        self._assert_owned()
        for write in writes:
            self._write(write)
        self._hurry.set()
        await self.durable()
        self._assert_owned()

    async def commit(self) -> None:
        """One transaction with everything taken so far, if there is anything."""
        async with self._committing:
            if self._outbox.filling:
                try:
                    await self._commit()
                except BaseException as error:  # noqa: BLE001  # cancelled or failed: nobody knows the outcome
                    self._stop(error)

    async def _commit(self) -> None:
        started = monotonic_s()
        batch = self._outbox.take()
        tuning = self._config.tuning
        async with asyncio.timeout(COMMIT_TIMEOUT_FACTOR * tuning.transaction_timeout_ms / 1000):
            done = await transact(self._producer, batch, self._to)
        if FAILPOINTS.armed:
            await FAILPOINTS.reach("commit.committed")
        self.last_commit_boottime_s = done.sent_boottime_s
        if done.changelog_end is not None and self._store is not None:
            self._apply(list(batch.writes.values()), done.changelog_end)
        self._outbox.committed()
        self._room.set()
        self._last_commit_s = monotonic_s()
        observer = self._config.observer
        observer.committed(self.partition, done.records, batch.size_bytes, self._last_commit_s - started)
        if FAILPOINTS.armed:
            await FAILPOINTS.reach("commit.applied")
        if self._producer.doubtful:
            async with asyncio.timeout(COMMIT_TIMEOUT_FACTOR * tuning.transaction_timeout_ms / 1000):
                await self._producer.recycle()
            observer.recycled(self.partition)
            _LOG.warning("producer_recycled", partition=self.partition, epoch=self._producer.id_and_epoch[1])

    def _apply(self, writes: list[Write], end: int) -> None:
        assert self._store is not None
        self._store.apply(writes, expect=self._changelog, position=end, now_ms=wall_ms())
        self._changelog = end
        if self._view is not None:
            self._view.applied(writes)

    def _stop(self, error: BaseException) -> None:
        if isinstance(error, ProducerFenced | LostOwnershipError):
            fail_stop(Exit.FENCED, "another owner has started", error=error, partition=self.partition)
        if isinstance(error, StoreBrokenError):
            fail_stop(Exit.STORE_BROKEN, "the local state does not follow on", error=error, partition=self.partition)
        fail_stop(Exit.COMMIT_UNKNOWN, "a transaction is not known committed", error=error, partition=self.partition)

    async def _commit_loop(self) -> None:
        pause = self._config.tuning.commit_pause_ms / 1000
        while True:
            await self._until_due()
            # Shielded: a hand-over ends this loop, but never a transaction.
            await asyncio.shield(asyncio.ensure_future(self.commit()))
            await asyncio.sleep(pause)

    async def _until_due(self) -> None:
        tuning = self._config.tuning
        self._config.observer.outbox(self.partition, self._outbox.count, self._outbox.size_bytes)
        if monotonic_s() - self._resumed_s > self._config.healthy_seconds:
            for write in self.guard.healthy():
                self._write(write)
        try:
            async with asyncio.timeout(tuning.heartbeat_record_seconds):
                await self._outbox.changed.wait()
        except TimeoutError:
            self._write(Write(OWN_TABLE, HEARTBEAT, json.dumps({"at_ms": wall_ms()}).encode(), ()))
            return
        try:
            async with asyncio.timeout(tuning.commit_interval_ms / 1000):
                await self._hurry.wait()
        except TimeoutError:
            pass
        finally:
            self._hurry.clear()

    def _loop_ended(self, loop: asyncio.Task[None]) -> None:
        if not loop.cancelled() and loop.exception() is not None:
            fail_stop(Exit.LOOP_DIED, "the commit loop ended", error=loop.exception(), partition=self.partition)

    # --- inside ---

    def _new_guard(self) -> Guard:
        return Guard(self._thresholds, alone_records=self._config.tuning.slice_records)

    def _write(self, write: Write) -> None:
        self._outbox.write(write)
        self._after_change()

    def _after_change(self) -> None:
        filling, tuning = self._outbox.filling, self._config.tuning
        if filling.count >= tuning.commit_records or filling.size_bytes >= tuning.commit_bytes:
            self._hurry.set()

    def _assert_fits(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        if not self.fits(key, value, headers):
            size = size_bytes(key, value, headers) + OWN_HEADERS_BYTES
            raise TooLargeError(topic, size, self._config.tuning.record_bytes_max)

    def _assert_owned(self) -> None:
        if not self.owned:
            raise NotOwnedError(self.partition)

    def _assert_takes_effects(self) -> None:
        if not self.owned or self.draining:
            raise NotOwnedError(self.partition)

    def _effect_opened(self) -> None:
        self._open_effects += 1
        self._effects_idle.clear()

    def _effect_closed(self) -> None:
        self._open_effects -= 1
        if not self._open_effects:
            self._effects_idle.set()


class _Unlocked:
    """Takes the place of a lock where none is needed."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


class _counted:  # noqa: N801  # read as a verb: with _counted(task)
    """The task has an effect in the air while inside."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __enter__(self) -> None:
        self._task._effect_opened()  # noqa: SLF001

    def __exit__(self, *_: object) -> None:
        self._task._effect_closed()  # noqa: SLF001
