"""Topics that are not ours, as the broker has them: whether they are there, and how many partitions they have.

What lives here: asking before a record for such a topic is put into a transaction. A transaction that meets a topic
which is not there waits for it, and then ends its worker; so nothing is published that was not looked up a moment ago.
What must not: creating or changing a topic of somebody else.
"""

import asyncio
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code

from batchmill.agents.clock import monotonic_s
from batchmill.agents.settings import KafkaSettings
from batchmill.agents.topics import kafka_client_options
from batchmill.schemas.ids import partition_for

__all__ = ["ForeignTopics", "TopicUnusableError"]

#: a topic that was there so recently is taken to be there
LOOK_SECONDS = 10.0
_ANSWER_SECONDS_MAX = 10.0


class TopicUnusableError(Exception):
    """The broker does not let us write to the topic; the text is Kafka's name for why."""


class ForeignTopics:
    """One per worker process; connects at the first look."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._looking = asyncio.Lock()
        self._seen: dict[str, tuple[int, float]] = {}  #: topic -> partitions, when it was looked at

    async def look(self, topic: str) -> None:
        """Be sure that `topic` is there; raises TopicUnusableError, or whatever the client raises."""
        async with self._looking:
            seen = self._seen.get(topic)
            if seen is not None and monotonic_s() - seen[1] < LOOK_SECONDS:
                return
            self._seen.pop(topic, None)
            try:
                async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                    self._seen[topic] = (await self._partitions(topic), monotonic_s())
            except TopicUnusableError:
                raise
            except BaseException:
                await self.close()
                raise

    def partition_of(self, topic: str, key: bytes) -> int:
        """Where Kafka's own clients would put `key`. The topic was looked at before."""
        seen = self._seen.get(topic)
        assert seen is not None, f"topic {topic} was written to without a look at it"
        return partition_for(key, seen[0])

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _partitions(self, topic: str) -> int:
        if self._client is None:
            client = AIOKafkaAdminClient(**kafka_client_options(self._settings))
            try:
                await client.start()
            except BaseException:
                await client.close()
                raise
            self._client = client
        (found,) = await self._client.describe_topics([topic])
        if found["error_code"]:
            raise TopicUnusableError(for_code(found["error_code"]).__name__)
        return len(found["partitions"])
