"""Faust on real exactly-once: tasks, their transactions, their state, and the driver that feeds them.

What lives here: everything between Kafka and a stage. What must not: what a record means; the runtime sees bytes, keys
and rows it cannot read. The public names are below; the modules are private to this package and its tests.
"""

from batchmill.agents.runtime.application import App, create_app, run_worker
from batchmill.agents.runtime.codec import RowCodec
from batchmill.agents.runtime.config import RuntimeConfig
from batchmill.agents.runtime.errors import (
    BareSendError,
    NotOwnedError,
    PoisonEffectError,
    RuntimeRefusedError,
    TooLargeError,
    VersionError,
)
from batchmill.agents.runtime.failpoints import FAILPOINTS, FailpointError
from batchmill.agents.runtime.failstop import Exit, fail_stop
from batchmill.agents.runtime.log import BodyCache, LogReader
from batchmill.agents.runtime.observer import Observer
from batchmill.agents.runtime.records import LogRecord, Slice
from batchmill.agents.runtime.runtime import OnSlice, Runtime
from batchmill.agents.runtime.task import Task

__all__ = [
    "FAILPOINTS",
    "App",
    "BareSendError",
    "BodyCache",
    "Exit",
    "FailpointError",
    "LogReader",
    "LogRecord",
    "NotOwnedError",
    "Observer",
    "OnSlice",
    "PoisonEffectError",
    "RowCodec",
    "Runtime",
    "RuntimeConfig",
    "RuntimeRefusedError",
    "Slice",
    "Task",
    "TooLargeError",
    "VersionError",
    "create_app",
    "fail_stop",
    "run_worker",
]
