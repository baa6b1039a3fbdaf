"""What applying a job would mean: what differs from the active version, and what sample events would ask and cost.

The samples go through the real normalizer over an empty state, so what is shown is what would be sent.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from batchmill.agents.checks import installed_checks
from batchmill.agents.jobs.differing import Difference, TextDifference, compare
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import DeadLetter, Excluded, Origin, WorkItem
from batchmill.schemas.state import Arrival, Job
from batchmill.schemas.versions import ask_fingerprint, judge_fingerprint, place_fingerprint, version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.costing import PriceList, estimate_tokens, expected_nanos, worst_case_nanos
from batchmill.streams.dead_lettering import JOB_HEADER, RawRecord
from batchmill.streams.events import RawLimits
from batchmill.streams.normalizing import INDEX_LOADED, lacking, normalize, revisit
from batchmill.streams.orders import Emit, Put
from batchmill.streams.retrieving import Indexes, NoIndexes
from batchmill.streams.routing import Route, Routes, from_here
from batchmill.streams.tooling import LOOKUP, Found, told
from batchmill.streams.unusable import Unusable
from batchmill.streams.view import MemoryView
from batchmill.streams.weighing import Scales, Weight, mean

__all__ = ["Plan", "Sample", "plan_job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What would become of one sample event."""

    number: int
    #: looked_up: asked with what is found first; waits: for its index, which is not there
    outcome: Literal["asked", "looked_up", "excluded", "dead_lettered", "waits"]
    reason: str | None = None
    note: str | None = None
    route: str = ""  #: empty: the question itself
    model: str | None = None
    later: tuple[str, ...] = ()  #: routes that the cascade may come to, where an answer is no good
    context: tuple[str, ...] = ()  #: ids of the pieces that were found for it
    messages: tuple[Mapping[str, str], ...] = ()
    tokens: int = 0
    #: at most, each route that the cascade may come to included; None when a price is unknown or an output has no limit
    cost_nanos: int | None = None
    expected_nanos: int | None = None  #: by its route alone, nothing cached, a quarter of the room for the answer used
    weight: Weight | None = None  #: what its tokens are spent on
    lookups: tuple[Mapping[str, Any], ...] = ()  #: what would be looked up and fetched for it first


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole answer of `job plan`."""

    job: str
    version: str
    active_version: str | None
    ask: str
    judge: str
    place: str
    asks_again: bool  #: every source would be asked (and paid) again
    judges_again: bool
    places_again: bool  #: what is committed from now on goes elsewhere
    differences: tuple[Difference, ...]
    texts: tuple[TextDifference, ...]
    samples: tuple[Sample, ...]

    @property
    def tokens_mean(self) -> float | None:
        asked = [sample.tokens for sample in self.samples if sample.outcome == "asked"]
        return sum(asked) / len(asked) if asked else None

    @property
    def cost_mean_nanos(self) -> float | None:
        return _mean([sample.cost_nanos for sample in self.samples if sample.outcome == "asked"])

    @property
    def expected_mean_nanos(self) -> float | None:
        return _mean([sample.expected_nanos for sample in self.samples if sample.outcome == "asked"])

    @property
    def weights(self) -> tuple[Weight, ...]:
        return tuple(sample.weight for sample in self.samples if sample.weight is not None)

    @property
    def weight_mean(self) -> Weight | None:
        return mean(self.weights) if self.weights else None


def _mean(costs: list[int | None]) -> float | None:
    """None as soon as one of them is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) / len(known) if known and len(known) == len(costs) else None


def plan_job(
    spec: JobSpec,
    *,
    active: JobSpec | None,
    samples: Iterable[tuple[bytes | None, bytes]],
    prices: PriceList,
    limits: RawLimits,
    now_ms: int,
    indexes: Indexes | None = None,
) -> Plan:
    """Compare and try out; `samples` are (key, value) pairs as they would lie in raw."""
    against = None if active is None else compare(active, spec)
    return Plan(
        job=spec.job,
        version=version_of(spec),
        active_version=None if active is None else version_of(active),
        ask=ask_fingerprint(spec),
        judge=judge_fingerprint(spec),
        place=place_fingerprint(spec),
        asks_again=against is not None and against.asks_again,
        judges_again=against is not None and against.judges_again,
        places_again=against is not None and against.places_again,
        differences=() if against is None else against.differences,
        texts=() if against is None else against.texts,
        samples=tuple(_Trial(spec, prices, limits, now_ms, indexes or NoIndexes()).run(samples)),
    )


class _Trial:
    """The normalizer over a state that knows the job and nothing else."""

    def __init__(self, spec: JobSpec, prices: PriceList, limits: RawLimits, now_ms: int, indexes: Indexes) -> None:
        self._spec = spec
        self._prices = prices
        self._limits = limits
        self._indexes = indexes
        self._now_ms = now_ms
        self._jobs = CompiledJobs(installed_checks(), indexes)
        self._weighing: dict[str, Scales] = {}
        version = version_of(spec)
        self._row = Job(
            job=spec.job,
            version=version,
            versions_json=json.dumps({version: json.loads(spec.to_json())}),
            paused=False,
            cancelled_before_ms=None,
            last_command_id="",
            updated_at_ms=now_ms,
        )
        self._view = MemoryView()
        self._view.put(self._row)

    def run(self, samples: Iterable[tuple[bytes | None, bytes]]) -> Iterable[Sample]:
        for number, (key, value) in enumerate(samples, start=1):
            raw = RawRecord(
                origin=Origin(generation=1, partition=0, offset=number, at_ms=self._now_ms),
                key=key if key is not None else b"sample-%d" % number,
                value=value,
                headers=[(JOB_HEADER, self._spec.job.encode())],
            )
            orders = normalize(self._view, raw, jobs=self._jobs, now_ms=self._now_ms, limits=self._limits)
            match orders:
                case [Put(Arrival(waiting_for=waiting)), *_] if waiting == INDEX_LOADED:
                    yield Sample(number=number, outcome="waits", reason=waiting, note=self._awaited())
                case [Put(Arrival() as arrival), *_]:
                    yield self._looked_up(number, raw, arrival)
                case [Emit(record), *_]:
                    yield self._told(number, record)
                case _:
                    raise AssertionError("a known job parks nothing but what waits for its index or look-ups")

    def _looked_up(self, number: int, raw: RawRecord, arrival: Arrival) -> Sample:
        """What would be asked first, and the question as it is when that finds nothing: nobody is asked here."""
        view, jobs, now_ms, limits = self._view, self._jobs, self._now_ms, self._limits
        questions, _ = lacking(view, arrival, raw, jobs=jobs, now_ms=now_ms, limits=limits)
        found = Found()
        for question in questions:
            found = found.answered(question, [] if question.tool == LOOKUP else {})
        lookups = tuple({"tool": question.tool, **told(question)} for question in questions)
        known = replace(arrival, value_json=found.to_json())
        orders = revisit(view, known, raw, jobs=jobs, now_ms=now_ms, limits=limits)
        if isinstance(orders[0], Emit) and isinstance(orders[0].record, WorkItem):
            note = "without what is to be looked up: the question will be longer"
            return replace(self._asked(number, orders[0].record), lookups=lookups, note=note)
        return Sample(number=number, outcome="looked_up", lookups=lookups)

    def _told(self, number: int, record: object) -> Sample:
        match record:
            case WorkItem():
                return self._asked(number, record)
            case DeadLetter():
                return Sample(number=number, outcome="dead_lettered", reason=record.reason, note=record.error)
            case Excluded():
                return Sample(number=number, outcome="excluded", reason=record.reason, note=record.detail)
            case _:
                raise AssertionError(f"the normalizer emitted a {type(record).__name__}")

    def _awaited(self) -> str | None:
        retrieval = self._spec.ask.retrieval
        return None if retrieval is None else f"index {retrieval.index}: {self._indexes.fault(retrieval.sha256)}"

    def _context(self, item: WorkItem) -> tuple[str, ...]:
        retrieval = self._spec.ask.retrieval
        return () if retrieval is None else tuple(each["id"] for each in json.loads(item.input_json)[retrieval.into])

    def _asked(self, number: int, item: WorkItem) -> Sample:
        compiled = self._jobs.of(self._row, item.version)
        assert compiled is not None, "the job was put into the state above"
        route = compiled.routes.of(item.route)
        body = route.form.body(item.input_json)
        tokens = estimate_tokens(len(body))
        return Sample(
            number=number,
            outcome="asked",
            route=item.route,
            model=route.model.name,
            later=tuple(each.name for each in from_here(compiled.routes, route)[1:]),
            context=self._context(item),
            messages=tuple(json.loads(body)["messages"]),
            tokens=tokens,
            cost_nanos=self._at_most(compiled.routes, route, item.input_json),
            expected_nanos=self._expected(route, tokens),
            weight=self._scales(route).weigh(item.input_json),
        )

    def _scales(self, route: Route) -> Scales:
        if route.name not in self._weighing:
            self._weighing[route.name] = Scales(replace(self._spec, ask=route.ask), route.form)
        return self._weighing[route.name]

    def _expected(self, route: Route, input_tokens: int) -> int | None:
        """By this route alone. A job that chooses its mode by deadline pays batch as a rule."""
        prefer, room = self._spec.mode.prefer, route.form.output_tokens_max()
        usual = "batch" if prefer == "auto" else prefer
        return expected_nanos(self._prices, route.model.name, usual, input_tokens=input_tokens, output_tokens_max=room)

    def _at_most(self, routes: Routes, route: Route, input_json: str) -> int | None:
        """By this route and by each that the cascade may come to after it, online where the job may choose."""
        costs: list[int | None] = []
        for each in from_here(routes, route):
            with suppress(Unusable):  # a later route that does not take the input asks nothing
                costs.append(self._worst(each, estimate_tokens(len(each.form.body(input_json)))))
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def _worst(self, route: Route, input_tokens: int) -> int | None:
        prefer, room = self._spec.mode.prefer, route.form.output_tokens_max()
        if room is None:
            return None
        dearest = "online" if prefer == "auto" else prefer
        return worst_case_nanos(
            self._prices, route.model.name, dearest, input_tokens=input_tokens, output_tokens_max=room
        )
