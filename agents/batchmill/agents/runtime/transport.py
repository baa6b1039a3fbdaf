"""The Faust driver `batchmill://`: one event is one slice of one partition; only its task acknowledges it.

What lives here: subclasses of Faust's aiokafka driver. What must not: any rule about ownership or transactions
(`runtime`), and any decoding; agents get bytes.

The order at a rebalance, as Faust calls it:

    on_partitions_revoked   freeze, last commit (bounded), then Faust's own clearing of buffers
    on_rebalance            which tasks are ours now (in the join callback: no heartbeat, so nothing slow)
    on_rebalance_complete   fence, restore, resume (the heartbeat runs)
    perform_seek            every input to where its task stands
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from batchmill.agents.runtime.errors import BareSendError
from batchmill.agents.runtime.failstop import Exit, fail_stop
from batchmill.agents.runtime.records import LogRecord
from batchmill.agents.runtime.runtime import Runtime
from batchmill.agents.runtime.shelf import Shelf
from batchmill.agents.runtime.transactions import TransactionManager

__all__ = ["Consumer", "Producer", "Transport"]

#: While something fetched waits for its task, fetching only looks in.
BUSY_FETCH_SECONDS = 0.02
#: How long the broker may hold a fetch for which there is nothing; a partition drained meanwhile waits that long.
FETCH_WAIT_MS = 250
#: Most bytes of one partition per fetch.
PARTITION_FETCH_BYTES = 2**20
#: Stands for "no partition": to aiokafka, an empty set means all of them.
NOWHERE = frozenset({TP("", 0)})


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to the group. Only methods run by `call_thread` may touch the aiokafka consumer."""

    #: Number of the newest seek that was carried out; what was fetched before it is of an older round.
    seek_done = 0

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001  # Faust has no setting for it
        consumer._fetch_max_bytes = self.consumer.runtime.config.tuning.fetch_bytes_max  # noqa: SLF001
        return consumer

    async def fetch(self, partitions: Iterable[TP], timeout: float) -> tuple[int, Mapping[Any, list[Any]]]:  # noqa: ASYNC109
        """What has arrived, and after which seek. The two are read without a pause between."""
        return await self.call_thread(self._fetch, partitions, timeout)  # type: ignore[no-any-return]

    async def _fetch(self, partitions: Iterable[TP], timeout: float) -> tuple[int, Mapping[Any, list[Any]]]:  # noqa: ASYNC109
        consumer = self._ensure_consumer()
        consumer._coordinator.check_errors()  # noqa: SLF001  # Faust never looks: a member thrown out would go on silently
        fetched = await self._fetch_records(consumer, partitions, timeout=timeout, max_records=None)
        return self.seek_done, fetched

    async def seek_all(self, positions: Mapping[TP, int], number: int) -> None:
        await self.call_thread(self._seek_all, positions, number)

    async def _seek_all(self, positions: Mapping[TP, int], number: int) -> None:
        consumer = self._ensure_consumer()
        for tp, position in positions.items():
            consumer.seek(TopicPartition(*tp), position)
        self.seek_done = number

    async def committed(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        return await self.call_thread(self._committed, list(tps))  # type: ignore[no-any-return]

    async def _committed(self, tps: list[TP]) -> Mapping[TP, int]:
        """Where the group stands; the log's start where it has never been or where the log has moved on."""
        consumer = self._ensure_consumer()
        asked = [TopicPartition(*tp) for tp in tps]
        known = await consumer._coordinator.fetch_committed_offsets(asked)  # noqa: SLF001  # asks, never a cache
        starts = await consumer.beginning_offsets(asked)
        return {TP(*tp): max(known[tp].offset if tp in known else -1, starts[tp]) for tp in asked}

    @property
    def lost(self) -> bool:
        """The group has thrown us out: somebody else may own our tasks by now."""
        return bool(self._ensure_consumer()._coordinator.generation < 0)  # noqa: SLF001


class Consumer(driver.Consumer):
    """Fetches slices for tasks; seeks where they say."""

    def __init__(self, *args: Any, **options: Any) -> None:
        transport = args[0] if args else options["transport"]
        self.runtime: Runtime = transport.app.runtime
        super().__init__(*args, **options)
        self._shelf = Shelf(self.runtime)
        self._newest_seek = 0

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # --- fetching ---

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        hungry = self._shelf.hungry(self._active_partitions | self._buffered_partitions)
        patient = timeout if hungry and self._shelf.is_empty else BUSY_FETCH_SECONDS
        try:
            seek, fetched = await self._thread.fetch(hungry or NOWHERE, patient)
        except self.consumer_stopped_errors:
            raise
        except Exception as error:  # noqa: BLE001
            if self.should_stop or self.app.should_stop:
                return
            fail_stop(Exit.LOOP_DIED, "the consumer cannot go on", error=error)
        self._keep(seek, fetched)
        if self.should_stop or not self.flow_active:
            return
        for slice_ in self._shelf.take():
            tp = TP(slice_.topic, slice_.partition)
            yield tp, self._message(tp, slice_)

    def _keep(self, seek: int, fetched: Mapping[Any, list[Any]]) -> None:
        """Put what was fetched after the newest seek on the shelf, whatever else is going on.

        A fetch that was under way over a rebalance may return what lies behind the new positions before the flow
        resumes: the group's client has moved past it and will never hand it out again.
        """
        for tp, records in fetched.items():
            if seek == self._newest_seek:
                self._shelf.put(TP(tp.topic, tp.partition), [LogRecord.of(record) for record in records])
            else:
                self.runtime.config.observer.dropped(tp.topic, tp.partition, len(records))

    def _message(self, tp: TP, slice_: Any) -> ConsumerMessage:
        last = slice_.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            slice_.end - 1,
            last.timestamp_ms / 1000,
            0,
            [],
            None,
            slice_,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def perform_seek(self) -> None:
        """Every input of an owned task to where the task stands."""
        assigned = self.assignment()
        positions = {
            tp: task.positions[tp.topic]
            for task in self.runtime.tasks()
            for tp in assigned
            if tp.partition == task.partition and tp.topic in task.positions
        }
        self._shelf.clear(positions)
        # Numbered before it is carried out: what is fetched behind it may be here before we are told that it was.
        self._newest_seek += 1
        await self._thread.seek_all(positions, self._newest_seek)
        for tp, position in positions.items():
            self._read_offset[tp] = position
            self._committed_offset[tp] = position

    async def positions_of(self, partitions: Iterable[int]) -> Mapping[int, Mapping[str, int]]:
        """Where the group stands in all inputs of the given tasks."""
        wanted = set(partitions)
        committed = await self._thread.committed(tp for tp in self.assignment() if tp.partition in wanted)
        stand: dict[int, dict[str, int]] = {partition: {} for partition in wanted}
        for tp, position in committed.items():
            stand[tp.partition][tp.topic] = position
        return stand

    # --- ownership ---

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self.runtime.revoke(lost=self._thread.lost)
        await super().on_partitions_revoked(revoked)

    async def on_stop(self) -> None:
        await self.runtime.stop()
        await super().on_stop()

    # --- what Faust would do by itself ---

    def ack(self, message: Any) -> bool:
        """Only a task knows what is finished."""
        message.acked = True
        return True

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002
        return True

    async def wait_empty(self) -> None:
        """Nothing is waited for: what is not finished is fetched again."""

    async def _add_gap(self, _tp: TP, _offset_from: int, _offset_to: int) -> None:
        """Offsets are sparse; holes mean nothing."""

    async def verify_all_partitions_active(self) -> None:
        """Faust would complain of partitions that back-pressure holds back."""


class Producer(driver.Producer):
    """Exists because Faust wants one; everything is written by tasks."""

    async def on_start(self) -> None:
        await self.add_runtime_dependency(self.buffer)

    async def send(self, topic: Any, *_args: Any, **_options: Any) -> Any:
        raise BareSendError(str(topic))

    async def send_and_wait(self, topic: Any, *_args: Any, **_options: Any) -> Any:
        raise BareSendError(str(topic))

    async def flush(self) -> None:
        """Nothing is buffered here."""


class Transport(driver.Transport):
    """Scheme `batchmill://`."""

    Consumer = Consumer
    Producer = Producer
    TransactionManager = TransactionManager
    driver_version = f"batchmill over {driver.Transport.driver_version}"
