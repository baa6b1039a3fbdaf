"""Telemetry: one list of names, no global state, contexts that survive Kafka, and silence unless asked."""

import ast
import inspect
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import prometheus_client
import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import batchmill.agents
from batchmill.agents.providers.http import CallSeen
from batchmill.agents.runtime.observer import Observer
from batchmill.agents.settings import Settings, TelemetrySettings
from batchmill.agents.stages.traces import Traces
from batchmill.agents.telemetry import (
    METRICS,
    SPANS,
    RuntimeObserver,
    Telemetry,
    context_headers,
    metrics_reference,
    traceparent_of,
)
from batchmill.agents.telemetry.names import CounterName, GaugeName, HistogramName, SpanName, prometheus_name
from batchmill.agents.telemetry.recording import LINKS_MAX
from batchmill.agents.tools import Asked

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode())


class Taken:
    """A telemetry with everything it recorded at hand."""

    def __init__(self, **said):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.telemetry = Telemetry(
            Settings(telemetry=TelemetrySettings(**said)),
            process="test",
            readers=[self.reader],
            span_processors=[SimpleSpanProcessor(self.exporter)],
        )

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def points(self):
        data = self.reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics if data and data.resource_metrics else []
        return {m.name: list(m.data.data_points) for scope in scopes for m in scope.metrics}

    def value(self, name, **labels):
        (point,) = [p for p in self.points()[name] if dict(p.attributes) == labels]
        return point.value


@pytest.fixture
def taken():
    made = Taken()
    yield made
    made.telemetry.shutdown()


def test_a_look_up_is_counted_by_its_end_and_traced_where_the_source_was_asked(taken):
    traces = Traces(taken.telemetry)
    for outcome, tries in (("ok", 1), ("cached", 0), ("away", 3)):
        traces.tool_asked(Asked(source="shop", tool="lookup", outcome=outcome, tries=tries, seconds=0.25))
    for outcome in ("ok", "cached", "away"):
        assert taken.value("batchmill.tool.calls", tool="lookup", source="shop", outcome=outcome) == 1
    done, failed = taken.spans
    assert {done.name, failed.name} == {"execute_tool lookup"}
    assert (done.kind, done.status.status_code, failed.status.status_code) == (
        SpanKind.CLIENT,
        StatusCode.UNSET,
        StatusCode.ERROR,
    )
    assert dict(done.attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "shop",
        "batchmill.tool.tries": 1,
    }


def a_call(**changes):
    seen = {"account": "acme", "operation": "create", "outcome": "ok", "http_status": 200, "seconds": 0.2}
    return CallSeen(**seen | {"waited_seconds": 0.1} | changes)


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_name_is_described_once_with_unit_and_meaning():
    assert list(METRICS) != []
    assert set(METRICS) == {*get_args(CounterName), *get_args(HistogramName), *get_args(GaugeName)}
    assert set(SPANS) == set(get_args(SpanName))
    for name, metric in METRICS.items():
        assert metric.unit, name
        assert metric.meaning.endswith("."), name
        assert (metric.buckets is not None) == (name in get_args(HistogramName)), name
        if metric.buckets is not None:
            assert list(metric.buckets) == sorted(set(metric.buckets)), name


def test_no_label_can_hold_an_id_or_a_text():
    endless = {"request_id", "source_id", "custom_id", "chunk_id", "batch_id", "key", "offset", "prompt", "error"}
    for name, metric in METRICS.items():
        assert not endless & set(metric.labels), name


def recorded_names():
    """Every first argument of count/measure/watch/span/past_span in the source of `agents`, with where it stands."""
    for root in batchmill.agents.__path__:
        for path in Path(root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                    first = node.args[0]
                    known_call = node.func.attr in {"count", "measure", "watch", "span", "past_span"}
                    if known_call and isinstance(first, ast.Constant) and isinstance(first.value, str):
                        labels = {k.arg for k in node.keywords if k.arg}
                        yield f"{path.name}:{node.lineno}", node.func.attr, first.value, labels


def test_every_recorded_name_and_label_is_in_the_list():
    kinds = {"count": get_args(CounterName), "measure": get_args(HistogramName), "watch": get_args(GaugeName)}
    found = list(recorded_names())
    assert len(found) > 15
    for where, method, name, labels in found:
        if "span" in method:
            assert name in SPANS, where
        elif name.startswith(("batchmill.", "gen_ai.", "messaging.")):
            assert name in kinds[method], where
            assert labels - {"amount", "value"} <= set(METRICS[name].labels), where


def test_the_reference_page_names_every_metric_and_span():
    page = metrics_reference()
    for name in [*METRICS, *SPANS]:
        assert f"`{name}`" in page


def test_the_prometheus_names_on_the_page_are_those_that_are_served(taken):
    for name in get_args(CounterName):
        taken.telemetry.count(name)
    for name in get_args(HistogramName):
        taken.telemetry.measure(name, 1)
    for name in get_args(GaugeName):
        taken.telemetry.watch(name, lambda: [(1, {})])
    served = {
        line.split(" ")[2] for line in taken.telemetry.prometheus().decode().splitlines() if line.startswith("# TYPE")
    }
    assert {prometheus_name(name) for name in METRICS} <= served


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_counters_distributions_and_gauges_arrive_with_their_labels(taken):
    taken.telemetry.count("batchmill.records", 3, stage="validator", job="j", status="validated")
    taken.telemetry.count("batchmill.records", 2, stage="validator", job="j", status="validated")
    taken.telemetry.measure("batchmill.sink.duration", 0.2, sink="sqlite")
    taken.telemetry.watch("batchmill.review.queue.depth", lambda: [(4, {"job": "a"}), (5, {"job": "b"})])
    assert taken.value("batchmill.records", stage="validator", job="j", status="validated") == 5
    assert taken.value("batchmill.review.queue.depth", job="b") == 5
    (point,) = taken.points()["batchmill.sink.duration"]
    assert (point.count, point.sum) == (1, 0.2)
    assert tuple(point.explicit_bounds) == METRICS["batchmill.sink.duration"].buckets


def test_tokens_are_booked_under_the_names_of_the_convention(taken):
    taken.telemetry.used(
        provider="openai", operation="chat", asked_model="m", model="m-2026-01-01", input_tokens=10, output_tokens=3
    )
    points = {p.attributes["gen_ai.token.type"]: p for p in taken.points()["gen_ai.client.token.usage"]}
    assert {kind: point.sum for kind, point in points.items()} == {"input": 10, "output": 3}
    assert dict(points["input"].attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m-2026-01-01",
        "gen_ai.token.type": "input",
    }
    assert points["input"].explicit_bounds[:4] == (1, 4, 16, 64)
    assert points["input"].explicit_bounds[-1] == 67_108_864


def test_an_unknown_price_is_never_booked_as_nothing(taken):
    taken.telemetry.spent(2_500_000_000, job="j", model="m", tier="batch", outcome="succeeded")
    taken.telemetry.spent(None, job="j", model="m", tier="batch", outcome="succeeded")
    assert taken.value("batchmill.cost", job="j", model="m", tier="batch", outcome="succeeded") == 2.5
    assert taken.value("batchmill.unpriced.calls", job="j", model="m") == 1


def test_two_of_them_do_not_mix_nor_touch_the_global_registry():
    one, two = Taken(), Taken()
    before = list(prometheus_client.REGISTRY.collect())
    one.telemetry.count("batchmill.transactions", 7)
    assert b"batchmill_transactions_total 7.0" in one.telemetry.prometheus()
    assert b"batchmill_transactions_total" not in two.telemetry.prometheus()
    assert {m.name for m in prometheus_client.REGISTRY.collect()} == {m.name for m in before}
    one.telemetry.shutdown()
    two.telemetry.shutdown()


def test_the_service_is_named_by_the_process_unless_it_has_a_name():
    assert _target(Taken()) == "batchmill-test"
    assert _target(Taken(service_name="mill-7")) == "mill-7"


def _target(taken):
    taken.telemetry.count("batchmill.transactions")
    return taken.reader.get_metrics_data().resource_metrics[0].resource.attributes["service.name"]


def test_disabled_means_nothing_is_recorded_and_nothing_breaks():
    taken = Taken(disabled=True)
    taken.telemetry.count("batchmill.transactions")
    taken.telemetry.measure("batchmill.transaction.duration", 1)
    taken.telemetry.watch("batchmill.tasks", lambda: [(1, {})])
    taken.telemetry.provider_call(a_call())
    with taken.telemetry.span("commit {sink}", {"sink": "sqlite"}):
        pass
    assert taken.telemetry.prometheus() == b""
    assert taken.spans == ()
    assert not taken.telemetry.traces
    taken.telemetry.shutdown()


# -- traces ------------------------------------------------------------------------------------------------------------


def test_the_context_of_a_record_is_passed_on_as_it_came_when_nobody_takes_spans():
    telemetry = Telemetry(Settings(), process="test")
    headers = (("src", b"t/0/1"), PARENT, ("tracestate", b"a=b"))
    assert context_headers(headers) == (PARENT, ("tracestate", b"a=b"))
    onward = telemetry.past_span("chat {model}", {"model": "m"}, start_ms=1, end_ms=2, parent=headers)
    assert onward == (PARENT, ("tracestate", b"a=b"))
    telemetry.shutdown()


def test_a_span_that_is_already_over_keeps_its_times_and_its_trace(taken):
    onward = taken.telemetry.past_span(
        "chat {model}", {"model": "gpt"}, start_ms=1_000, end_ms=5_000, parent=(PARENT,), attributes={"attempt": 2}
    )
    (span,) = taken.spans
    assert (span.name, span.kind) == ("chat gpt", SpanKind.CLIENT)
    assert (span.start_time, span.end_time) == (1_000_000_000, 5_000_000_000)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent.span_id == 0xB7AD6B7169203331
    assert span.attributes == {"attempt": 2}
    assert traceparent_of(onward).startswith(f"00-{TRACE}-{span.context.span_id:016x}-")


def test_a_record_without_context_starts_a_trace_of_its_own(taken):
    onward = taken.telemetry.past_span("chat {model}", {"model": "m"}, start_ms=1, end_ms=2)
    (span,) = taken.spans
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" in traceparent_of(onward)


def test_a_batch_links_to_a_bounded_sample_of_its_records(taken):
    others = [((PARENT[0], PARENT[1].replace(b"b7ad", f"{n:04x}".encode())),) for n in range(1, 500)]
    taken.telemetry.past_span("batch {account}", {"account": "a"}, start_ms=1, end_ms=2, links=[(), *others])
    (span,) = taken.spans
    assert len(span.links) == LINKS_MAX


def test_a_provider_call_is_one_duration_and_one_span(taken):
    taken.telemetry.provider_call(a_call(outcome="OutcomeUnknownError", http_status=None))
    (point,) = taken.points()["batchmill.provider.call.duration"]
    assert dict(point.attributes) == {
        "account": "acme",
        "operation": "create",
        "outcome": "OutcomeUnknownError",
        "status": "none",
    }
    (span,) = taken.spans
    assert (span.name, span.status.status_code) == ("create acme", StatusCode.ERROR)
    assert span.attributes["error.type"] == "OutcomeUnknownError"


def test_an_exception_inside_a_span_leaves_no_text_of_it_behind(taken):
    with pytest.raises(ValueError, match="PRIVATE"), taken.telemetry.span("commit {sink}", {"sink": "s"}):
        raise ValueError("PRIVATE")
    (span,) = taken.spans
    assert "PRIVATE" not in span.to_json()
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"00-zz", b"0" * 5_000])
def test_a_broken_traceparent_is_no_reason_to_fail(taken, value):
    onward = taken.telemetry.past_span(
        "chat {model}", {"model": "m"}, start_ms=1, end_ms=2, parent=(("traceparent", value),)
    )
    assert traceparent_of(onward) is not None


# -- the collector -----------------------------------------------------------------------------------------------------


@pytest.fixture
def collector():
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", heard
    server.shutdown()
    server.server_close()


def test_a_collector_named_by_the_standard_variable_gets_both(collector, monkeypatch):
    url, heard = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    telemetry = Telemetry(Settings(), process="test")
    telemetry.count("batchmill.transactions")
    telemetry.past_span("chat {model}", {"model": "m"}, start_ms=1, end_ms=2)
    telemetry.shutdown()
    assert {path for path, _ in heard} == {"/v1/metrics", "/v1/traces"}
    assert any(b"batchmill.transactions" in body for _, body in heard)


def test_nothing_leaves_the_process_unless_a_variable_asks(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    before = {thread.name for thread in threading.enumerate()}
    telemetry = Telemetry(Settings(), process="test")
    assert not telemetry.traces
    assert {thread.name for thread in threading.enumerate()} <= before  # nobody pushes
    telemetry.shutdown()


# -- the runtime's observer --------------------------------------------------------------------------------------------


def test_every_happening_of_the_runtime_is_booked(taken):
    observer = RuntimeObserver(taken.telemetry)
    observer.committed(0, 10, 1_000, 0.02)
    observer.recycled(0)
    observer.fenced(0, 0.1)
    observer.restored(0, 5, 0.1, from_local=True)
    observer.slice("t", 0, 10, 0.001)
    observer.dropped("t", 0, 3)
    observer.forwarded("t", 0)
    observer.stale("t", 0)
    observer.backpressure(0, on=True)
    observer.backpressure(0, on=False)
    observer.poisoned("t", 0, 7)
    observer.suspicious(0, "effect submit/app-3-7")
    observer.rebalanced(2, frozenset({0, 1}))
    observer.outbox(0, 4, 40)
    observer.outbox(1, 1, 10)
    booked = taken.points()
    assert taken.value("batchmill.transactions") == 1
    assert taken.value("batchmill.records.dropped", topic="t") == 3
    assert taken.value("batchmill.backpressure") == 1
    assert taken.value("batchmill.suspicions", what="effect") == 1
    assert (taken.value("batchmill.tasks"), taken.value("batchmill.outbox.bytes")) == (2, 50)
    assert "messaging.process.duration" not in booked
    observer.rebalanced(3, frozenset({1}))
    assert taken.value("batchmill.outbox.records") == 1


def test_messaging_metrics_appear_when_the_opt_in_variable_says_so():
    taken = Taken(semconv_opt_in="http,messaging")
    RuntimeObserver(taken.telemetry).slice("t", 0, 10, 0.001)
    labels = {"messaging.system": "kafka", "messaging.destination.name": "t"}
    assert taken.value("messaging.client.consumed.messages", **labels) == 10
    taken.telemetry.shutdown()


def test_the_observer_knows_every_happening_there_is():
    happenings = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if not name.startswith("_")}
    assert happenings <= set(vars(RuntimeObserver))
