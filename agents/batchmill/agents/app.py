"""The wiring place of a worker: the only module that builds the Faust app, the stages, the clients and the stores.

What lives here: from `Settings` to a running process. What must not: decisions, protocols, reading the environment.
`faust -A batchmill.agents.app agents` lists the agents (`app` is made on first use, from the environment's settings).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from faust.types import TP

from batchmill.agents import clock
from batchmill.agents.checks import installed_checks
from batchmill.agents.credentials import faust_credentials
from batchmill.agents.foreign import ForeignTopics
from batchmill.agents.health import serving_health
from batchmill.agents.logs import get_logger, set_up_logging
from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.prices import load_prices
from batchmill.agents.providers.registry import Providers
from batchmill.agents.retrieval.library import Library
from batchmill.agents.runtime import App, LogRecord, RuntimeConfig, Task, create_app
from batchmill.agents.runtime import run_worker as run_app
from batchmill.agents.settings import Settings, load_settings
from batchmill.agents.sinks.registry import OutsideSink, build_sinks
from batchmill.agents.stages.answerer import Answerer
from batchmill.agents.stages.caller import Caller
from batchmill.agents.stages.changer import Changer
from batchmill.agents.stages.collector import Collector
from batchmill.agents.stages.committer import Committer
from batchmill.agents.stages.controller import Controller
from batchmill.agents.stages.firing import Firing
from batchmill.agents.stages.importer import Importer
from batchmill.agents.stages.judge import JudgeLoop
from batchmill.agents.stages.kit import Kit
from batchmill.agents.stages.normalizer import Normalizer
from batchmill.agents.stages.rerunner import Rerunner
from batchmill.agents.stages.reviewer import Reviewer
from batchmill.agents.stages.rows import StateRows
from batchmill.agents.stages.submitter import Submitter
from batchmill.agents.stages.tally import Tally
from batchmill.agents.stages.tooler import Tooler
from batchmill.agents.stages.traces import Traces
from batchmill.agents.stages.validator import Validator
from batchmill.agents.telemetry import RuntimeObserver, Telemetry
from batchmill.agents.tools import ToolSources
from batchmill.agents.topics import verify
from batchmill.schemas.ids import partition_for
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.events import RawLimits
from batchmill.streams.isolating import isolate_record
from batchmill.streams.rereading import Reading
from batchmill.streams.topology import stage, topic

__all__ = ["Worker", "build_worker", "run_worker"]

_log = get_logger(__name__)

Shown = tuple[float, dict[str, str | int | bool]]

#: what of a key decides its partition: the placing half of a request id (see `schemas.ids`)
_PLACING_BYTES = 16
_BOOKING_SECONDS = 1.0
#: chunks of one task that a look at /metrics counts
_CHUNKS_SEEN_MAX = 10_000
_KEYED_BY_REQUEST = frozenset({"normalized", "submitted", "results", "validated", "decisions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker process, built and not yet started."""

    app: App
    kit: Kit
    telemetry: Telemetry
    providers: Providers
    sinks: Mapping[str, OutsideSink]


def run_worker(settings: Settings) -> int:
    """Run a worker until it is told to stop; the exit code. Refuses to start on topics that are not as declared."""
    set_up_logging(settings.log, process="worker", instance=settings.instance)
    asyncio.run(verify(settings))
    worker = build_worker(settings)
    return run_app(worker.app)


def build_worker(settings: Settings) -> Worker:
    """Build everything; nothing is connected yet."""
    telemetry = Telemetry(settings, process="worker")
    providers = Providers(settings, on_call=telemetry.provider_call)
    names = Kit.names(settings.topic_prefix)
    short = {full: name for name, full in names.items()}
    hooks = _Hooks(short, settings.partitions)
    app = create_app(
        RuntimeConfig(
            app_id=settings.app_id,
            instance=settings.instance,
            bootstrap_servers=settings.kafka.bootstrap_servers,
            partitions=settings.partitions,
            state_topic=names["state"],
            state_dir=settings.state_dir,
            codec=StateRows(),
            place=partial(_place, partitions=settings.partitions),
            tuning=settings.runtime,
            credentials=faust_credentials(settings.kafka),
            request_timeout_ms=settings.kafka.request_timeout_ms,
            route_check=hooks.home,
            on_poison=hooks.poisoned,
            observer=RuntimeObserver(telemetry),
            failpoint=settings.failpoint,
        )
    )
    tally = Tally(telemetry, kind_of=providers.kind_of)
    foreign = ForeignTopics(settings.kafka)
    payloads = FilePayloadStore(directory=settings.payload_dir, shared=settings.payloads.shared)
    library = Library(store=payloads, indexes_max=settings.effects.indexes_max)
    kit = Kit(
        app_id=settings.app_id,
        topics=names,
        raw_generation=settings.raw_generation,
        log=app.runtime.log,
        jobs=CompiledJobs(installed_checks(), library),
        carried=tally.ordered,
        stepped=tally.stepped,
        foreign=foreign,
    )
    hooks.kit = kit
    sinks = build_sinks(settings)
    traces = Traces(telemetry, kind_of=providers.kind_of)
    sources = ToolSources(settings, on_asked=traces.tool_asked)
    committer = _add_stages(app, settings, kit, providers, payloads, library, sources, sinks, traces, tally)
    tooler = Tooler(
        kit=kit,
        sources=sources,
        limits=_raw_limits(settings),
        default_job=settings.default_job,
        tools=settings.tools,
        effects=settings.effects,
    )
    app.runtime.add_effect("tools", tooler.run)
    _follow_ownership(app, settings, providers)
    for close in (*(sink.close for sink in sinks.values()), providers.close, sources.close, foreign.close):
        app.runtime.on_end(close)
    app.task(partial(_serve_health, app, settings, telemetry))
    gauges = _Gauges(app, committer)
    telemetry.watch("batchmill.provider.batches", lambda: gauges.batches)
    telemetry.watch("batchmill.consumer.lag", lambda: gauges.lag)
    telemetry.watch("batchmill.commits.held", lambda: gauges.held)
    app.timer(_BOOKING_SECONDS)(partial(_book, tally, gauges))
    return Worker(app=app, kit=kit, telemetry=telemetry, providers=providers, sinks=sinks)


def _add_stages(
    app: App,
    settings: Settings,
    kit: Kit,
    providers: Providers,
    payloads: FilePayloadStore,
    library: Library,
    sources: ToolSources,
    sinks: Mapping[str, OutsideSink],
    traces: Traces,
    tally: Tally,
) -> Committer:
    effects, limits = settings.effects, _raw_limits(settings)
    normalizer = Normalizer(
        kit=kit,
        limits=limits,
        default_job=settings.default_job,
        rows_at_once=effects.step_rows,
        idle_seconds=effects.idle_seconds,
        unknown_job_seconds=effects.unknown_job_seconds,
        library=library,
        index_seconds=effects.index_seconds,
    )
    prices = load_prices(settings.prices_file)
    submitter = Submitter(
        kit=kit,
        providers=providers,
        payloads=payloads,
        prices=prices,
        effects=effects,
        tasks_total=settings.partitions,
    )
    collector = Collector(
        kit=kit,
        providers=providers,
        payloads=payloads,
        prices=prices,
        effects=effects,
        line_bytes_max=settings.limits.result_line_bytes_max,
        output_bytes_max=settings.limits.output_bytes_max,
        traces=traces,
        submitter=submitter,
    )
    importer = Importer(
        kit=kit,
        payloads=payloads,
        prices=prices,
        effects=effects,
        output_bytes_max=settings.limits.output_bytes_max,
    )
    rerunner = Rerunner(
        kit=kit,
        payloads=payloads,
        sources=sources,
        reading=Reading(limits=limits, default_job=settings.default_job, prices=prices),
        effects=effects,
    )
    caller = Caller(
        kit=kit,
        providers=providers,
        payloads=payloads,
        prices=prices,
        effects=effects,
        output_bytes_max=settings.limits.output_bytes_max,
        traces=traces,
        submitter=submitter,
    )
    committer = Committer(kit=kit, sinks=sinks, effects=effects, traces=traces, tasks_total=settings.partitions)
    changer = Changer(kit=kit, sinks=sinks, effects=effects, traces=traces)
    controller = Controller(kit=kit, limits=limits, default_job=settings.default_job, effects=effects)
    consumers: dict[str, Callable[..., None]] = {
        "raw": normalizer.on_slice,
        "normalized": submitter.on_slice,
        "submitted": collector.on_slice,
        "results": Validator(kit=kit, refused=tally.refused).on_slice,
        "validated": committer.on_slice,
        "decisions": Reviewer(kit=kit).on_slice,
        "control": controller.on_slice,
    }
    for name, on_slice in consumers.items():
        agent = topic(name).agent
        assert agent is not None, f"{name} has a consumer that the topology does not know"
        traced = traces.of_slices(name, on_slice)
        app.add_stage(kit.topics[name], name=agent, on_slice=traced, says=stage(agent).says)
    loops: dict[str, Callable[[Task], Any]] = {
        "arrivals": normalizer.run,
        "sealing": submitter.run_sealing,
        "stored": Answerer(kit=kit, effects=effects).run,
        "retry": submitter.run_retry,
        "sweep": controller.run_sweep,
        "promote": controller.run_promotions,
        "redrive": controller.run_redrive,
        "imports": importer.run,
        "rerun": rerunner.run,
        "dispatch": submitter.dispatch().run,
        "calls": caller.calls().run,
        "poll": collector.poll().run,
        "judge": JudgeLoop(kit=kit, refused=tally.refused, effects=effects).run,
        "commit": committer.run,
        "change": changer.run,
        "then": Firing(kit=kit, effects=effects, tasks_total=settings.partitions).run,
    }
    for name, run in loops.items():
        app.runtime.add_effect(name, run)
    return committer


@dataclass(slots=True)
class _Hooks:
    """What the runtime asks about a record before an agent sees it. `kit` is set once the app exists."""

    short: dict[str, str]
    partitions: int
    kit: Kit | None = None

    def home(self, record: LogRecord) -> int | None:
        """The partition a record belongs to, when its key says so."""
        if record.key is None or self.short[record.topic] not in _KEYED_BY_REQUEST:
            return None
        return _place(record.key, partitions=self.partitions)

    def poisoned(self, task: Task, record: LogRecord) -> None:
        """Put down a record that has killed the process three times."""
        assert self.kit is not None, "the runtime ran before the app was wired"
        name = self.short[record.topic]
        found = self.kit.raw_record(record) if name == "raw" else self.kit.foreign_record(record)
        orders = isolate_record(task.view, name, found, raw=name == "raw", now_ms=clock.wall_ms())
        self.kit.carry(task, orders, src=record.src)
        _log.error("record_isolated", topic=name, partition=record.partition, offset=record.offset)


def _place(key: bytes, *, partitions: int) -> int:
    return partition_for(key[:_PLACING_BYTES], partitions)


def _raw_limits(settings: Settings) -> RawLimits:
    limits = settings.limits
    return RawLimits(
        value_bytes_max=limits.raw_bytes_max,
        depth_max=limits.nesting_max,
        source_id_chars_max=limits.source_id_chars_max,
    )


async def _serve_health(app: App, settings: Settings, telemetry: Telemetry) -> None:
    def reasons() -> list[str]:
        return [] if app.runtime.ready else ["tasks are being restored"]

    async with serving_health(settings.health, reasons=reasons, metrics=telemetry.prometheus):
        await asyncio.Event().wait()


class _Gauges:
    """What /metrics shows of our tasks, read in the event loop once a second: a collector asks from its own thread."""

    def __init__(self, app: App, committer: Committer) -> None:
        self._app = app
        self._committer = committer
        self.batches: list[Shown] = []
        self.held: list[Shown] = []
        self.lag: list[Shown] = []

    def read(self) -> None:
        counts: Counter[tuple[str, str]] = Counter()
        lag: list[Shown] = []
        for task in self._app.runtime.tasks():
            for _, row in task.view.scan("chunk", "", limit=_CHUNKS_SEEN_MAX):
                counts[row.state, row.account] += 1
            for name, position in task.positions.items():
                end = self._app.consumer.highwater(TP(name, task.partition)) or 0
                lag.append((max(0, end - position), {"topic": name, "partition": task.partition}))
        self.batches = [(n, {"state": state, "account": account}) for (state, account), n in counts.items()]
        self.lag = lag
        held: Counter[tuple[str, str]] = Counter()
        for waiting in self._committer.waiting.values():
            held.update(waiting)
        self.held = [(n, {"sink": sink, "cause": cause}) for (sink, cause), n in held.items()]


async def _book(tally: Tally, gauges: _Gauges) -> None:
    tally.book()
    gauges.read()


def _follow_ownership(app: App, settings: Settings, providers: Providers) -> None:
    """Account limits follow the tasks: a worker may use the share of those it owns."""

    def changed(_: Task) -> None:
        providers.set_share(owned=len(app.runtime.tasks()), of=settings.partitions)

    app.runtime.on_ready(changed)
    app.runtime.on_lost(changed)


def __getattr__(name: str) -> Any:
    """`app`, for the `faust` command: built when it is asked for, so that importing this module connects nothing."""
    if name == "app":
        return build_worker(load_settings()).app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
