"""Which sinks there are in this process, by the names that jobs use.

What lives here: building them from settings; nothing is connected before the first write. What must not: a sink of its
own. One that is not set, or whose library is missing, stands here too: its writes wait until somebody sets it.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Protocol

from batchmill.agents.settings import Settings, env_name
from batchmill.agents.sinks.files import JSONL, PARQUET, FileSink
from batchmill.agents.sinks.sqlite import SqliteSink
from batchmill.agents.sinks.webhook import WebhookSink
from batchmill.streams.ports import Sink, SinkCapabilities, SinkResult, SinkWrite, TransientError
from batchmill.streams.sinks import SINKS

__all__ = ["OutsideSink", "UnsetSink", "build_sinks"]


class OutsideSink(Sink, Protocol):
    """A sink that can be tried out without writing."""

    async def probe(self) -> str:
        """Say where it is; raises when it cannot be reached."""
        ...


class UnsetSink:
    """Holds the place of a sink that this process does not have; `missing` says what to do about it."""

    def __init__(self, *, name: str, missing: str) -> None:
        self.name = name
        self.missing = missing

    @property
    def capabilities(self) -> SinkCapabilities:
        return SINKS[self.name]

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        """Hold the writes: nothing is lost, and they go on when the sink is there."""
        if not writes:
            return ()
        raise TransientError("sink_not_set", hint=f"{self.name}: {self.missing}")

    async def probe(self) -> str:
        raise TransientError("sink_not_set", hint=f"{self.name}: {self.missing}")

    async def close(self) -> None:
        """Nothing is open."""


def build_sinks(settings: Settings) -> Mapping[str, OutsideSink]:
    """Every sink that is written from outside Kafka's transaction; those inside are orders, not sinks."""
    builders: Mapping[str, Callable[[Settings], OutsideSink]] = {
        "sqlite": _sqlite,
        "postgres": _postgres,
        "jsonl": _jsonl,
        "parquet": _parquet,
        "webhook": _webhook,
    }
    return {name: build(settings) for name, build in builders.items()}


def _sqlite(settings: Settings) -> OutsideSink:
    return SqliteSink(path=settings.sink_path, busy_timeout_ms=settings.sink.busy_timeout_ms)


def _postgres(settings: Settings) -> OutsideSink:
    sink = settings.sink
    dsn = sink.postgres_address()
    if dsn is None:
        return UnsetSink(name="postgres", missing=f"set {env_name('sink.postgres_dsn')}")
    try:
        from batchmill.agents.sinks.postgres import PostgresSink  # noqa: PLC0415 - the extra `postgres`
    except ImportError:
        return UnsetSink(name="postgres", missing="its library is missing: pip install 'batchmill[postgres]'")
    return PostgresSink(
        dsn=dsn,
        connections_max=sink.postgres_connections_max,
        connect_timeout_seconds=sink.postgres_connect_timeout_seconds,
        lock_timeout_ms=sink.postgres_lock_timeout_ms,
        statement_timeout_ms=sink.postgres_statement_timeout_ms,
    )


def _jsonl(settings: Settings) -> OutsideSink:
    return FileSink(form=JSONL, folder=settings.files_dir, busy_timeout_ms=settings.sink.busy_timeout_ms)


def _parquet(settings: Settings) -> OutsideSink:
    if find_spec("pyarrow") is None:
        return UnsetSink(name="parquet", missing="its library is missing: pip install 'batchmill[parquet]'")
    return FileSink(form=PARQUET, folder=settings.files_dir, busy_timeout_ms=settings.sink.busy_timeout_ms)


def _webhook(settings: Settings) -> OutsideSink:
    sink = settings.sink
    secret = sink.webhook_key()
    if sink.webhook_url is None or secret is None:
        return UnsetSink(name="webhook", missing=f"set {env_name('sink.webhook_url')} and its secret")
    return WebhookSink(
        url=sink.webhook_url,
        secret=secret,
        timeout_seconds=sink.webhook_timeout_seconds,
        concurrent_max=sink.webhook_concurrent_max,
        loopback_only=settings.loopback_only,
    )
