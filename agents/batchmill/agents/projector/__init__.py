"""The read model: every topic folded into one SQLite file that `status`, `records` and the API ask.

`tables` says what is kept, `folding` turns log records into rows, `store` writes them together with the offsets they
came from, `projector` feeds it from Kafka, `queries` and `metrics` read it. The truth stays in the log: the file may be
deleted at any time and is built again. Nothing that guards money or commits may depend on it.
"""

from batchmill.agents.projector.projector import Projector
from batchmill.agents.projector.store import ViewBusyError, ViewStore

__all__ = ["Projector", "ViewBusyError", "ViewStore"]
