"""What the runtime must be told: one frozen value, built in one place (`app`) and read everywhere here.

What lives here: names, files, hooks and numbers. What must not: a default that names a machine, or reading settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from batchmill.agents.runtime.codec import RowCodec
from batchmill.agents.runtime.observer import Observer
from batchmill.agents.runtime.records import LogRecord
from batchmill.agents.settings_groups import RuntimeSettings

if TYPE_CHECKING:
    from batchmill.agents.runtime.task import Task

__all__ = ["RuntimeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Everything `create_app` needs."""

    app_id: str  #: consumer group; `{app_id}-task-{p}` are the transactional ids
    instance: str  #: this worker's stable name
    bootstrap_servers: str
    partitions: int
    state_topic: str
    state_dir: Path
    codec: RowCodec
    place: Callable[[bytes], int]  #: key -> partition, for what is emitted without one
    tuning: RuntimeSettings = field(default_factory=RuntimeSettings)
    credentials: Any = None  #: a Faust credentials object, or None for plaintext
    request_timeout_ms: int = 15_000
    route_check: Callable[[LogRecord], int | None] | None = None
    on_poison: "Callable[[Task, LogRecord], None] | None" = None
    observer: Observer = field(default_factory=Observer)
    failpoint: str | None = None
    hot_rows_max: int = 5_000  #: decoded rows kept per task
    effect_drain_seconds: float = 2.0  #: effects may finish what they do before their task is handed over
    healthy_seconds: float = 30.0  #: a task that ran this long has forgotten its deaths

    def transactional_id(self, partition: int) -> str:
        return f"{self.app_id}-task-{partition}"

    def client_options(self) -> Mapping[str, Any]:
        """What every aiokafka client of ours is given."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": f"{self.app_id}-{self.instance}",
            "request_timeout_ms": self.request_timeout_ms,
            **credentials_to_aiokafka_auth(self.credentials),
        }

    def producer_options(self) -> Mapping[str, Any]:
        return {
            **self.client_options(),
            "transaction_timeout_ms": self.tuning.transaction_timeout_ms,
            # One record may be as large as the limit, and gets our own headers on top.
            "max_request_size": 2 * self.tuning.record_bytes_max,
        }
