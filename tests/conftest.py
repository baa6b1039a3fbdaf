"""What every test may use, brokers included. Brokers start only when a test asks for them, and once per run."""

import os
import re
from collections.abc import Iterator

import hypothesis
import pytest

from batchmill.agents.kafka import LocalCluster, RunningCluster, start_cluster
from batchmill.agents.kafka.launcher import ForeignCluster
from tests.postgres import PostgresServer, running_postgres

# No test can spend money by accident, nor can the reader's own settings change what a test means. Children inherit it.
for _name in [name for name in os.environ if name.startswith(("BATCHMILL_", "OPENAI_", "ANTHROPIC_", "OTEL_"))]:
    if not _name.startswith("BATCHMILL_TEST_"):
        del os.environ[_name]
os.environ["BATCHMILL_LOOPBACK_ONLY"] = "true"

# A machine that is busy is no reason to fail: neither a slow example nor slow drawing says anything of the code.
# BATCHMILL_TEST_EXAMPLES=1000 looks longer where a test does not say how many examples it needs.
hypothesis.settings.register_profile(
    "unhurried",
    deadline=None,
    max_examples=int(os.environ.get("BATCHMILL_TEST_EXAMPLES", "50")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")

#: Set once per process that runs tests, so that runs against a foreign broker do not meet each other's topics.
_RUN = os.urandom(3).hex()


#: whoever asks for one of these has a broker, a browser or a database beside it, and the machine for itself
_LARGE = frozenset({"broker", "own_broker", "three_brokers", "browser", "postgres"})
#: the first that asks for a browser may have to install one
_BROWSER_SECONDS = 900


#: processes are killed and topics made anew at moments there; beside other work a moment passes
_TIMED = (
    "tests/chaos/",
    "tests/kafka/test_runtime_",
    "tests/kafka/test_projector",
    "tests/kafka/test_postgres_mill",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs much more than a processor runs in other parts of `make test` than the rest."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(_BROWSER_SECONDS), append=False)
        if _LARGE.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.alone)
            if item.nodeid.startswith(_TIMED):
                item.add_marker(pytest.mark.timed)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """One broker for the whole run; KAFKA_BOOTSTRAP_SERVERS names one that is already there."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    cluster = ForeignCluster(named) if named else start_cluster(tmp_path_factory.mktemp("kafka"))
    with cluster:
        yield cluster


@pytest.fixture
def bootstrap_servers(broker: RunningCluster) -> str:
    return broker.bootstrap_servers


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A name no other test uses: for topics, groups and transactional ids."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40]
    return f"t-{_RUN}-{os.urandom(3).hex()}-{words}"


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A broker for the tests of one module that harm it; each leaves it running."""
    with start_cluster(tmp_path_factory.mktemp("kafka-own")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three brokers, three copies, two of them in sync: for faults of one."""
    with start_cluster(tmp_path_factory.mktemp("kafka-3"), brokers=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the whole run, for tests that leave it running."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server for the tests of one module that stop, kill and start it; each leaves it running."""
    with running_postgres() as server:
        yield server
