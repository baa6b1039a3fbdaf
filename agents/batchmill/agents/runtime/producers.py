"""The transactional producer of one task: started to fence, watched for doubt, replaced after it.

aiokafka speaks version 0 of the transaction requests. A request of transaction n that got stuck in the network and was
repeated can arrive during transaction n + 1 and end it half-way; nothing in it says which transaction it meant. So
every such request is watched where it is sent: when one was not plainly answered, the producer is in doubt, and before
its next transaction the same transactional id is initialised again. The new epoch turns the late request away.

What lives here: `TaskProducer`. What must not: what is sent in a transaction (`commit`), and when one is made (`task`).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import ConcurrentTransactions, CoordinatorLoadInProgressError, NoError
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

__all__ = ["LostOwnershipError", "TaskProducer", "is_plain"]

#: aiokafka waits this long before it repeats a request; its default of 100 ms is a long time inside a transaction.
RETRY_BACKOFF_MS = 50
BATCH_BYTES_MAX = 256 * 1024
STOP_SECONDS = 5.0

_WATCHED = (AddPartitionsToTxnRequest, AddOffsetsToTxnRequest, TxnOffsetCommitRequest, EndTxnRequest)
#: Answers that say "I did nothing and will do nothing".
_PLAIN_CODES = frozenset({NoError.errno, ConcurrentTransactions.errno, CoordinatorLoadInProgressError.errno})


class LostOwnershipError(Exception):
    """Somebody else initialised the transactional id between our last transaction and now."""


def is_plain(response: Any) -> bool:
    """The coordinator has answered, and the answer leaves nothing under way."""
    if hasattr(response, "error_code"):
        return response.error_code in _PLAIN_CODES
    return all(code in _PLAIN_CODES for _, partitions in response.errors for _, code in partitions)


class TaskProducer:
    """One transactional id. `start` fences whoever used it before."""

    def __init__(self, transactional_id: str, options: Mapping[str, Any]) -> None:
        self.transactional_id = transactional_id
        self.doubtful = False
        self._options = options
        self._kafka: Any = None

    @property
    def kafka(self) -> Any:
        assert self._kafka is not None, f"{self.transactional_id} is used before it was started"
        return self._kafka

    @property
    def id_and_epoch(self) -> tuple[int, int]:
        manager = self.kafka._txn_manager  # noqa: SLF001  # aiokafka shows them nowhere else
        return manager.producer_id, manager.producer_epoch

    async def start(self) -> None:
        """Fence: after this, no transaction of an earlier owner can commit."""
        self._kafka = await self._started()

    async def recycle(self) -> None:
        """Same id, next epoch. Any other answer than the very next epoch means that we were not alone."""
        before_id, before_epoch = self.id_and_epoch
        await self._close(self._kafka)
        self._kafka = await self._started()
        if self.id_and_epoch != (before_id, before_epoch + 1):
            raise LostOwnershipError(
                f"{self.transactional_id} went from epoch {before_epoch} to {self.id_and_epoch[1]}: another owner "
                "started in between"
            )
        self.doubtful = False

    async def stop(self) -> None:
        if self._kafka is not None:
            await self._close(self._kafka)

    async def _started(self) -> Any:
        kafka = AIOKafkaProducer(
            **self._options,
            transactional_id=self.transactional_id,
            linger_ms=0,
            max_batch_size=BATCH_BYTES_MAX,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        self._watch(kafka)
        try:
            await kafka.start()
        except BaseException:
            await self._close(kafka)
            raise
        return kafka

    def _watch(self, kafka: Any) -> None:
        send = kafka.client.send

        async def watched(node_id: int, request: Any, **options: Any) -> Any:
            if not isinstance(request, _WATCHED):
                return await send(node_id, request, **options)
            plain = False
            try:
                response = await send(node_id, request, **options)
                plain = is_plain(response)
            finally:
                # Also when cancelled or timed out: the request may be on its way.
                self.doubtful = self.doubtful or not plain
            return response

        kafka.client.send = watched

    @staticmethod
    async def _close(kafka: Any) -> None:
        """The client waits for what it cannot deliver any more; a closed epoch is not worth waiting for."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await kafka.stop()
        except TimeoutError:
            await kafka.client.close()
