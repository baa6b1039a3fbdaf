"""Where Faust's rebalance meets our tasks: a TransactionManager that lets no send past them.

What lives here: the hooks Faust calls, in their order. What must not: the rules of a hand-over (`runtime`).
"""

from typing import Any

from faust.transport.consumer import TransactionManager as FaustTransactionManager

from batchmill.agents.runtime.errors import BareSendError
from batchmill.agents.runtime.runtime import Runtime

__all__ = ["TransactionManager"]


class TransactionManager(FaustTransactionManager):  # type: ignore[misc]
    """Tasks own the transactions; what Faust would do with them is refused or done by the runtime."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.runtime: Runtime = self.app.runtime
        # Awaited before partitions resume, and the group's heartbeat runs meanwhile.
        self.app.on_rebalance_complete.connect(self._restore, weak=False)

    async def on_rebalance(self, assigned: Any, _revoked: Any, _newly_assigned: Any) -> None:
        by_topic: dict[str, set[int]] = {}
        for tp in assigned:
            by_topic.setdefault(tp.topic, set()).add(tp.partition)
        self.runtime.assign(
            {topic: frozenset(partitions) for topic, partitions in by_topic.items()},
            self.app.consumer_generation_id,
        )

    async def _restore(self, *_args: Any, **_options: Any) -> None:
        await self.runtime.restore(self.consumer.positions_of)

    async def on_partitions_revoked(self, _revoked: Any) -> None:
        """The consumer has handed the tasks over already."""

    async def flush(self) -> None:
        """Nothing is buffered outside of the tasks."""

    async def commit(self, _offsets: Any, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002
        """Tasks commit by themselves."""
        return True

    async def send(self, topic: Any, *_args: Any, **_options: Any) -> Any:
        raise BareSendError(str(topic))

    async def send_and_wait(self, topic: Any, *_args: Any, **_options: Any) -> Any:
        raise BareSendError(str(topic))

    def send_soon(self, fut: Any) -> None:
        raise BareSendError(str(fut.message.channel))
