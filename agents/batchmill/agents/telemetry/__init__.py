"""Telemetry: what a process tells a collector and a scraper about itself.

What lives here: every metric and span name (`names`), the OpenTelemetry SDK behind them (`recording`), trace context in
Kafka headers (`tracing`), and the runtime's observer (`observing`). What must not: a name that is not in the list, a
record id or a text as a label.
"""

from batchmill.agents.telemetry.names import METRICS, SPANS, metrics_reference
from batchmill.agents.telemetry.observing import RuntimeObserver
from batchmill.agents.telemetry.recording import Telemetry
from batchmill.agents.telemetry.tracing import context_headers, traceparent_of

__all__ = [
    "METRICS",
    "SPANS",
    "RuntimeObserver",
    "Telemetry",
    "context_headers",
    "metrics_reference",
    "traceparent_of",
]
