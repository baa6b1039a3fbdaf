"""Every metric and span this project records: name, kind, unit, meaning, labels. One list, used by code and pages.

Names follow OpenTelemetry: dots, no unit in the name (exporters add it), `gen_ai.*` and `messaging.*` where a
convention exists, `batchmill.*` where none does. Labels have few values: never an id, a key or a text.
"""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "METRICS",
    "SPANS",
    "CounterName",
    "GaugeName",
    "HistogramName",
    "Metric",
    "Span",
    "SpanName",
    "is_counter",
    "metrics_reference",
    "prometheus_name",
]

CounterName = Literal[
    "batchmill.records",
    "batchmill.dead_letters",
    "batchmill.excluded",
    "batchmill.retries",
    "batchmill.cache.hits",
    "batchmill.validation.failures",
    "batchmill.cost",
    "batchmill.unpriced.calls",
    "batchmill.wasted",
    "batchmill.doubtful",
    "batchmill.chunks",
    "batchmill.reconciliations",
    "batchmill.chunks.unreconciled",
    "batchmill.result.rows",
    "batchmill.sink.writes",
    "batchmill.webhooks",
    "batchmill.tool.calls",
    "batchmill.transactions",
    "batchmill.transaction.recycles",
    "batchmill.rebalances",
    "batchmill.records.dropped",
    "batchmill.records.forwarded",
    "batchmill.slices.stale",
    "batchmill.backpressure",
    "batchmill.poisoned",
    "batchmill.suspicions",
    "messaging.client.consumed.messages",
    "messaging.client.sent.messages",
]

HistogramName = Literal[
    "batchmill.record.latency",
    "batchmill.batch.age",
    "batchmill.batch.size",
    "batchmill.provider.call.duration",
    "batchmill.provider.turn.wait",
    "batchmill.sink.duration",
    "batchmill.tool.duration",
    "batchmill.transaction.duration",
    "batchmill.transaction.records",
    "batchmill.transaction.bytes",
    "batchmill.slice.duration",
    "batchmill.fence.duration",
    "batchmill.restore.duration",
    "batchmill.restore.rows",
    "gen_ai.client.token.usage",
    "messaging.process.duration",
]

GaugeName = Literal[
    "batchmill.provider.batches",
    "batchmill.review.queue.depth",
    "batchmill.review.age",
    "batchmill.commits.held",
    "batchmill.consumer.lag",
    "batchmill.tasks",
    "batchmill.outbox.records",
    "batchmill.outbox.bytes",
    "batchmill.view.lag",
    "batchmill.drift.score",
    "batchmill.drift.moved",
]

SpanName = Literal[
    "process {topic}",
    "chat {model}",
    "batch {account}",
    "{call} {account}",
    "commit {sink}",
    "execute_tool {tool}",
]

#: From a millisecond to four minutes.
SECONDS_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 240)
#: From a second to two days.
SECONDS_LONG = (1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 57_600, 86_400, 172_800)
COUNTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000)
BYTES = tuple(1_024 * 4**power for power in range(10))
#: Fixed by the GenAI convention.
TOKENS = tuple(4**power for power in range(14))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `buckets` are set for histograms only."""

    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """One kind of span."""

    kind: str
    meaning: str


METRICS: dict[CounterName | HistogramName | GaugeName, Metric] = {
    "batchmill.records": Metric(
        "{record}", "Records a stage finished, by what became of them.", ("stage", "job", "status")
    ),
    "batchmill.dead_letters": Metric("{record}", "Records dead-lettered.", ("stage", "job", "reason")),
    "batchmill.excluded": Metric("{record}", "Records accounted for without an answer.", ("stage", "job", "reason")),
    "batchmill.retries": Metric("{record}", "Records put back for another attempt.", ("job", "reason")),
    "batchmill.cache.hits": Metric("{record}", "Records answered from a stored answer, unpaid.", ("job",)),
    "batchmill.validation.failures": Metric("{record}", "Checks that failed.", ("job", "rule")),
    "batchmill.cost": Metric(
        "USD", "Money spent at providers, priced calls only.", ("job", "model", "tier", "outcome")
    ),
    "batchmill.unpriced.calls": Metric("{call}", "Paid calls whose price or usage is unknown.", ("job", "model")),
    "batchmill.wasted": Metric(
        "USD",
        "Money spent for nothing: twin batches, rows that never came, failed calls, rejected answers.",
        ("job", "cause"),
    ),
    "batchmill.doubtful": Metric(
        "USD", "What calls of unknown outcome may have cost beside the known cost.", ("job", "cause")
    ),
    "batchmill.chunks": Metric("{chunk}", "Chunks that entered a state.", ("state", "account")),
    "batchmill.reconciliations": Metric("{look}", "Looks for a batch of unknown outcome.", ("account", "verdict")),
    "batchmill.chunks.unreconciled": Metric("{chunk}", "Chunks closed with counts that do not add up.", ("account",)),
    "batchmill.result.rows": Metric("{row}", "Rows of result files.", ("account", "outcome")),
    "batchmill.sink.writes": Metric("{row}", "Rows a sink was asked to write.", ("sink", "outcome")),
    "batchmill.webhooks": Metric("{webhook}", "Webhooks received, by what was answered.", ("account", "outcome")),
    "batchmill.tool.calls": Metric(
        "{call}",
        "Look-ups and fetches, by how they ended; cached: the source was not asked.",
        ("tool", "source", "outcome"),
    ),
    "batchmill.transactions": Metric("{transaction}", "Kafka transactions committed."),
    "batchmill.transaction.recycles": Metric("{producer}", "Producers renewed after a doubtful answer."),
    "batchmill.rebalances": Metric("{rebalance}", "Assignments received."),
    "batchmill.records.dropped": Metric("{record}", "Fetched records given back unprocessed.", ("topic",)),
    "batchmill.records.forwarded": Metric("{record}", "Records sent on to their home partition.", ("topic",)),
    "batchmill.slices.stale": Metric("{slice}", "Slices of an earlier ownership, ignored.", ("topic",)),
    "batchmill.backpressure": Metric("{pause}", "Times fetching was stopped because an outbox was full."),
    "batchmill.poisoned": Metric("{record}", "Records isolated because they killed the process.", ("topic",)),
    "batchmill.suspicions": Metric("{task}", "Restarts that suspect a record or effect row.", ("what",)),
    "messaging.client.consumed.messages": Metric(
        "{message}", "Messages delivered to the application.", ("messaging.destination.name", "messaging.system")
    ),
    "messaging.client.sent.messages": Metric("{message}", "Messages sent by the application.", ("messaging.system",)),
    "batchmill.record.latency": Metric(
        "s", "From the raw event's append to the end of a stage.", ("stage", "job"), SECONDS_LONG
    ),
    "batchmill.batch.age": Metric(
        "s", "From create to the end of a provider batch.", ("account", "model"), SECONDS_LONG
    ),
    "batchmill.batch.size": Metric("{record}", "Members of a sealed chunk.", ("account", "model"), COUNTS),
    "batchmill.provider.call.duration": Metric(
        "s", "One HTTP exchange with a provider.", ("account", "operation", "outcome", "status"), SECONDS_SHORT
    ),
    "batchmill.provider.turn.wait": Metric(
        "s", "Waiting for a turn at an account's gate.", ("account",), SECONDS_SHORT
    ),
    "batchmill.sink.duration": Metric("s", "One transaction of a sink.", ("sink",), SECONDS_SHORT),
    "batchmill.tool.duration": Metric(
        "s", "One look-up or fetch, its tries and its turn included.", ("tool", "source", "outcome"), SECONDS_SHORT
    ),
    "batchmill.transaction.duration": Metric("s", "One Kafka transaction, begin to committed.", (), SECONDS_SHORT),
    "batchmill.transaction.records": Metric("{record}", "Records of one Kafka transaction.", (), COUNTS),
    "batchmill.transaction.bytes": Metric("By", "Bytes of one Kafka transaction.", (), BYTES),
    "batchmill.slice.duration": Metric("s", "One slice in its stage.", ("topic",), SECONDS_SHORT),
    "batchmill.fence.duration": Metric("s", "Fencing the previous owner of a task.", (), SECONDS_SHORT),
    "batchmill.restore.duration": Metric("s", "Reading a task's state back.", ("source",), SECONDS_SHORT),
    "batchmill.restore.rows": Metric("{row}", "Rows read back for a task.", ("source",), COUNTS),
    "gen_ai.client.token.usage": Metric(
        "{token}",
        "Tokens of one call, as the provider counts them.",
        (
            "gen_ai.operation.name",
            "gen_ai.provider.name",
            "gen_ai.request.model",
            "gen_ai.response.model",
            "gen_ai.token.type",
        ),
        TOKENS,
    ),
    "messaging.process.duration": Metric(
        "s", "Processing one slice of messages.", ("messaging.destination.name", "messaging.system"), SECONDS_SHORT
    ),
    "batchmill.provider.batches": Metric("{batch}", "Chunks not yet done, by state.", ("state", "account")),
    "batchmill.review.queue.depth": Metric("{record}", "Records that wait for a person.", ("job",)),
    "batchmill.review.age": Metric("s", "Age of the oldest record that waits for a person.", ("job",)),
    "batchmill.commits.held": Metric(
        "{record}",
        "Records that passed and are not written yet, by what they wait for: the sink, a limit, a pause, time to undo.",
        ("sink", "cause"),
    ),
    "batchmill.consumer.lag": Metric(
        "{record}", "Log offsets appended but not yet processed; transaction markers count.", ("topic", "partition")
    ),
    "batchmill.tasks": Metric("{task}", "Tasks this worker owns."),
    "batchmill.outbox.records": Metric("{record}", "Records that wait for the next transaction."),
    "batchmill.outbox.bytes": Metric("By", "Bytes that wait for the next transaction."),
    "batchmill.view.lag": Metric("{record}", "Records the read model has not folded yet.", ("topic",)),
    "batchmill.drift.score": Metric(
        "{index}", "Population stability index of the newest window against the reference.", ("job", "signal")
    ),
    "batchmill.drift.moved": Metric("{alarm}", "1 while the newest window is an alarm, else 0.", ("job", "signal")),
}

SPANS: dict[SpanName, Span] = {
    "process {topic}": Span("consumer", "A slice of one partition in its stage; linked to the records' traces."),
    "chat {model}": Span("client", "One record's inference, from create to answer; linked to its batch."),
    "batch {account}": Span("client", "One provider batch, made when it has ended; linked to a sample of its records."),
    "{call} {account}": Span("client", "One HTTP exchange with a provider."),
    "commit {sink}": Span("client", "One transaction of a sink."),
    "execute_tool {tool}": Span("client", "One look-up or fetch for a record, its tries included."),
}


def metrics_reference() -> str:
    """Write the reference page of metrics and spans."""
    lines = ["## Metrics", "", "| metric | Prometheus | kind | unit | labels | meaning |", "|---|---|---|---|---|---|"]
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(
            f"| `{name}` | `{prometheus_name(name)}` | {_kind(name)} | {metric.unit} | {labels} | {metric.meaning} |"
        )
    lines += ["", "## Spans", "", "| span | kind | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {span.kind} | {span.meaning} |" for name, span in SPANS.items()]
    return "\n".join([*lines, ""])


def prometheus_name(name: CounterName | HistogramName | GaugeName) -> str:
    """Say what the Prometheus exporter calls a metric (histograms add _bucket, _sum and _count)."""
    unit = {"s": "_seconds", "By": "_bytes", "USD": "_USD"}.get(METRICS[name].unit, "")
    base = name.replace(".", "_").removesuffix(unit)
    return f"{base}{unit}_total" if _kind(name) == "counter" else f"{base}{unit}"


def is_counter(name: str) -> bool:
    """Does it only ever grow?"""
    return name in get_args(CounterName)


def _kind(name: CounterName | HistogramName | GaugeName) -> str:
    if is_counter(name):
        return "counter"
    return "gauge" if METRICS[name].buckets is None else "histogram"
