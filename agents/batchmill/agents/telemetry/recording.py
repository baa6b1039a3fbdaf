"""The OpenTelemetry SDK behind typed names: count, measure, watch, trace.

What lives here: building meters and tracers from the settings, the registry behind /metrics, the push to a collector
when the standard variables name one, and spans whose beginning lies in the past. What must not: global state of the
OpenTelemetry API, so that two of these (two tests, a host application) do not mix.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from prometheus_client import CollectorRegistry, generate_latest

from batchmill.agents import clock
from batchmill.agents.providers.http import CallSeen
from batchmill.agents.settings import Settings, TelemetrySettings
from batchmill.agents.telemetry.names import METRICS, SPANS, CounterName, GaugeName, HistogramName, SpanName, is_counter
from batchmill.agents.telemetry.tracing import Headers, context_headers, context_of, written

__all__ = ["LINKS_MAX", "Telemetry"]

SCOPE = "batchmill"
#: The SDK keeps 128; a batch has up to 50,000 records, which link to it rather than it to them.
LINKS_MAX = 64
NANOS_PER_MS = 1_000_000
NANO_DOLLARS = 1_000_000_000

Label = str | int | bool
Watched = Callable[[], Iterable[tuple[float, Mapping[str, Label]]]]


class Telemetry:
    """One process's telemetry. `process` is worker, projector, simulator, ..."""

    def __init__(
        self,
        settings: Settings,
        *,
        process: str,
        readers: Sequence[MetricReader] = (),
        span_processors: Sequence[SpanProcessor] = (),
    ) -> None:
        said = settings.telemetry
        self.registry = CollectorRegistry()
        self.messaging = "messaging" in said.semconv_opt_in
        resource = Resource.create(
            {
                "service.name": said.service_name or f"batchmill-{process}",
                "service.instance.id": settings.instance,
                "service.namespace": settings.app_id,
            }
        )
        self._meters = None if said.disabled else _meter_provider(said, resource, self.registry, readers)
        self._tracers = None if said.disabled else _tracer_provider(said, resource, span_processors)
        meter = (self._meters or metrics.NoOpMeterProvider()).get_meter(SCOPE)
        self._tracer = (self._tracers or trace.NoOpTracerProvider()).get_tracer(SCOPE)
        self._counters, self._histograms = _instruments(meter)
        self._meter = meter

    @property
    def traces(self) -> bool:
        """Does anybody take spans? Without a taker contexts are passed on as they came, at no cost."""
        return self._tracers is not None

    def count(self, name: CounterName, amount: float = 1, **labels: Label) -> None:
        """Add to a counter. In a slice: once per slice and label set, not once per record."""
        self._counters[name].add(amount, labels)

    def measure(self, name: HistogramName, value: float, **labels: Label) -> None:
        """Add one observation to a distribution."""
        self._histograms[name].record(value, labels)

    def watch(self, name: GaugeName, read: Watched) -> None:
        """Ask `read` for the present values whenever somebody looks."""

        def observe(_: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
            for value, labels in read():
                yield metrics.Observation(value, dict(labels))

        metric = METRICS[name]
        self._meter.create_observable_gauge(name, [observe], unit=metric.unit, description=metric.meaning)

    def used(
        self,
        *,
        provider: str,
        operation: str,
        asked_model: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
    ) -> None:
        """Book the tokens of one call; once, when what came of it is collected. `model` is the one that answered."""
        for kind, tokens in (("input", input_tokens), ("output", output_tokens)):
            self._histograms["gen_ai.client.token.usage"].record(
                tokens,
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": provider,
                    "gen_ai.request.model": asked_model,
                    "gen_ai.response.model": model,
                    "gen_ai.token.type": kind,
                },
            )

    def spent(self, nanos: int | None, *, job: str, model: str, tier: str, outcome: str) -> None:
        """Book what one call cost; None is unpriced and counted apart."""
        if nanos is None:
            self.count("batchmill.unpriced.calls", job=job, model=model)
        else:
            self.count("batchmill.cost", nanos / NANO_DOLLARS, job=job, model=model, tier=tier, outcome=outcome)

    def provider_call(self, seen: CallSeen) -> None:
        """Book one exchange with a provider, as the HTTP seam saw it."""
        status = str(seen.http_status or "none")
        labels = {"account": seen.account, "operation": seen.operation, "outcome": seen.outcome, "status": status}
        self._histograms["batchmill.provider.call.duration"].record(seen.seconds, labels)
        self._histograms["batchmill.provider.turn.wait"].record(seen.waited_seconds, {"account": seen.account})
        if self.traces:
            end_ms = clock.wall_ms()
            self.past_span(
                "{call} {account}",
                {"call": seen.operation, "account": seen.account},
                start_ms=end_ms - round(seen.seconds * 1_000),
                end_ms=end_ms,
                attributes={"http.response.status_code": seen.http_status or 0},
                error=None if seen.outcome == "ok" else seen.outcome,
            )

    @contextmanager
    def span(self, name: SpanName, words: Mapping[str, str], *, parent: Headers = ()) -> Iterator[trace.Span]:
        """Trace what happens inside the block."""
        with self._tracer.start_as_current_span(
            name.format(**words),
            context=context_of(parent) if parent else None,
            kind=_kind(name),
            # An exception's text and stack may quote what a record holds; its class is enough.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                _failed(span, type(error).__name__)
                raise

    def past_span(
        self,
        name: SpanName,
        words: Mapping[str, str],
        *,
        start_ms: int,
        end_ms: int,
        parent: Headers = (),
        links: Iterable[Headers] = (),
        attributes: Mapping[str, Label] | None = None,
        error: str | None = None,
    ) -> Headers:
        """Trace what is already over (a batch that ran for hours) and give the headers that continue from it.

        Without anybody to take spans the parent's context is handed on as it came.
        """
        if not self.traces:
            return context_headers(parent)
        span = self._tracer.start_span(
            name.format(**words),
            context=context_of(parent),
            kind=_kind(name),
            attributes=dict(attributes or {}),
            links=_links(links),
            start_time=start_ms * NANOS_PER_MS,
        )
        if error is not None:
            _failed(span, error)
        span.end(end_ms * NANOS_PER_MS)
        return written(trace.set_span_in_context(span, Context()))

    def prometheus(self) -> bytes:
        """Render /metrics."""
        return generate_latest(self.registry)

    def shutdown(self) -> None:
        """Push what is left and stop; nothing may be recorded afterwards."""
        if self._meters is not None:
            self._meters.shutdown()
        if self._tracers is not None:
            self._tracers.shutdown()


def _meter_provider(
    said: TelemetrySettings, resource: Resource, registry: CollectorRegistry, readers: Sequence[MetricReader]
) -> MeterProvider:
    scraped = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
    pushed = []
    if said.metrics_exporter == "otlp" and (said.otlp_endpoint or said.otlp_metrics_endpoint):
        # The exporter reads endpoint, headers, timeout and compression from the standard variables itself.
        pushed.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    return MeterProvider([scraped, *pushed, *readers], resource=resource, shutdown_on_exit=False)


def _tracer_provider(
    said: TelemetrySettings, resource: Resource, processors: Sequence[SpanProcessor]
) -> TracerProvider | None:
    wanted = list(processors)
    if said.traces_exporter == "otlp" and (said.otlp_endpoint or said.otlp_traces_endpoint):
        wanted.append(BatchSpanProcessor(OTLPSpanExporter()))
    if not wanted:
        return None
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for processor in wanted:
        provider.add_span_processor(processor)
    return provider


def _instruments(meter: metrics.Meter) -> tuple[dict[str, metrics.Counter], dict[str, metrics.Histogram]]:
    counters: dict[str, metrics.Counter] = {}
    histograms: dict[str, metrics.Histogram] = {}
    for name, metric in METRICS.items():
        if metric.buckets is not None:
            histograms[name] = meter.create_histogram(
                name, metric.unit, metric.meaning, explicit_bucket_boundaries_advisory=metric.buckets
            )
        elif is_counter(name):
            counters[name] = meter.create_counter(name, metric.unit, metric.meaning)
    return counters, histograms


def _kind(name: SpanName) -> SpanKind:
    return SpanKind[SPANS[name].kind.upper()]


def _failed(span: trace.Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))


def _links(carriers: Iterable[Headers]) -> list[Link]:
    links = []
    for headers in carriers:
        there = trace.get_current_span(context_of(headers)).get_span_context()
        if there.is_valid:
            links.append(Link(there))
        if len(links) == LINKS_MAX:
            break
    return links
