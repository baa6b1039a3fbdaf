"""A real Apache Kafka for this machine, with or without Docker, Java or Maven.

What lives here: having a broker to talk to. What must not: talking to it (that is `runtime` and the stages).
"""

from batchmill.agents.kafka.errors import KafkaStartError
from batchmill.agents.kafka.launcher import RunningCluster, find_or_start
from batchmill.agents.kafka.local import LocalCluster, start_cluster

__all__ = ["KafkaStartError", "LocalCluster", "RunningCluster", "find_or_start", "start_cluster"]
