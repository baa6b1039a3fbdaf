"""Topics for the scripts that pages show."""

from collections.abc import Awaitable, Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from batchmill.streams.topology import topic_name

__all__ = ["topic"]


@pytest.fixture
def topic(bootstrap_servers: str, topic_prefix: str) -> Callable[[str], Awaitable[str]]:
    """Make a topic by its short name, of this test alone; its full name."""

    async def make(short: str) -> str:
        name = topic_name(topic_prefix, short)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, 3, 1)])
        finally:
            await admin.close()
        return name

    return make
