"""What applying a job would mean: what differs from the active version, and what sample events would ask and cost.

The samples go through the real normalizer over an empty state, so what is shown is what would be sent.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from batchmill.agents.checks import installed_checks
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import DeadLetter, Excluded, Origin, WorkItem
from batchmill.schemas.state import Job
from batchmill.schemas.strict_json import plain
from batchmill.schemas.versions import ask_fingerprint, judge_fingerprint, place_fingerprint, version_of
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.costing import PriceList, expected_nanos, worst_case_nanos
from batchmill.streams.dead_lettering import JOB_HEADER, RawRecord
from batchmill.streams.events import RawLimits
from batchmill.streams.normalizing import normalize
from batchmill.streams.orders import Emit
from batchmill.streams.view import MemoryView
from batchmill.streams.weighing import Scales, Weight, mean

__all__ = ["Difference", "Plan", "Sample", "TextDifference", "plan_job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One member of the spec that is not as in the active version."""

    member: str
    active: Any
    planned: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDifference:
    """A text of the question, line by line, against the active version's."""

    member: str
    lines: tuple[str, ...]  #: as a unified diff has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What would become of one sample event."""

    number: int
    outcome: Literal["asked", "excluded", "dead_lettered"]
    reason: str | None = None
    note: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()
    tokens: int = 0
    cost_nanos: int | None = None  #: at most; None when the price is unknown or the output has no limit
    expected_nanos: int | None = None  #: nothing cached, a quarter of the room for the answer used
    weight: Weight | None = None  #: what its tokens are spent on


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
) -> Plan:
    """Compare and try out; `samples` are (key, value) pairs as they would lie in raw."""
    return Plan(
        job=spec.job,
        version=version_of(spec),
        active_version=None if active is None else version_of(active),
        ask=ask_fingerprint(spec),
        judge=judge_fingerprint(spec),
        place=place_fingerprint(spec),
        asks_again=active is not None and ask_fingerprint(active) != ask_fingerprint(spec),
        judges_again=active is not None and judge_fingerprint(active) != judge_fingerprint(spec),
        places_again=active is not None and place_fingerprint(active) != place_fingerprint(spec),
        differences=tuple(_differences(active, spec)) if active is not None else (),
        texts=tuple(_text_differences(active, spec)) if active is not None else (),
        samples=tuple(_Trial(spec, prices, limits, now_ms).run(samples)),
    )


def _differences(active: JobSpec, planned: JobSpec) -> Iterable[Difference]:
    # Prices are no part of what a job says: the day and the list decide them.
    before, after = (_flat(plain(replace(spec, prices_json=None))) for spec in (active, planned))
    for member in sorted(before.keys() | after.keys()):
        if before.get(member) != after.get(member):
            yield Difference(member=member, active=before.get(member), planned=after.get(member))


def _text_differences(active: JobSpec, planned: JobSpec) -> Iterator[TextDifference]:
    before, after = _texts(active), _texts(planned)
    for member, text in before.items():
        lines = difflib.unified_diff(
            text.splitlines(), after[member].splitlines(), "active", "planned", lineterm="", n=_CONTEXT_LINES
        )
        told = tuple(lines)
        if told:
            yield TextDifference(member=member, lines=told)


def _texts(spec: JobSpec) -> dict[str, str]:
    """All that a model reads of a job, in the order in which it reads it."""
    ask = spec.ask
    examples = json.loads(ask.examples_json) if ask.examples_json is not None else []
    schema = json.loads(ask.output_schema_json) if ask.output_schema_json is not None else None
    return {
        "ask.system": ask.system or "",
        "ask.missing": ask.missing or "",
        "ask.uncertain": ask.uncertain or "",
        "ask.examples_json": "\n".join(json.dumps(each, ensure_ascii=False) for each in examples),
        "ask.user": ask.user,
        "ask.output_schema_json": "" if schema is None else json.dumps(schema, ensure_ascii=False, indent=2),
    }


_CONTEXT_LINES = 3


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for name, member in value.items():
        found |= _flat(member, f"{path}.{name}" if path else name)
    return found


class _Trial:
    """The normalizer over a state that knows the job and nothing else."""

    def __init__(self, spec: JobSpec, prices: PriceList, limits: RawLimits, now_ms: int) -> None:
        self._spec = spec
        self._prices = prices
        self._limits = limits
        self._now_ms = now_ms
        self._jobs = CompiledJobs(installed_checks())
        self._weighing: Scales | None = None
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
            (order,) = normalize(self._view, raw, jobs=self._jobs, now_ms=self._now_ms, limits=self._limits)
            assert isinstance(order, Emit), "a known job that is not paused parks nothing"
            yield self._told(number, order.record)

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

    def _asked(self, number: int, item: WorkItem) -> Sample:
        compiled = self._jobs.of(self._row, item.version)
        assert compiled is not None, "the job was put into the state above"
        body = json.loads(compiled.form.body(item.input_json))
        cost, expected = self._costs(item.tokens_estimate, compiled.form.output_tokens_max())
        return Sample(
            number=number,
            outcome="asked",
            messages=tuple(body["messages"]),
            tokens=item.tokens_estimate,
            cost_nanos=cost,
            expected_nanos=expected,
            weight=self._scales(compiled).weigh(item.input_json),
        )

    def _scales(self, compiled: CompiledJob) -> Scales:
        if self._weighing is None:
            self._weighing = Scales(self._spec, compiled.form)
        return self._weighing

    def _costs(self, input_tokens: int, room: int | None) -> tuple[int | None, int | None]:
        """(at most, expected). A job that chooses its mode by deadline pays batch as a rule, and online at most."""
        model, prefer = self._spec.ask.model, self._spec.mode.prefer
        dearest, usual = ("online", "batch") if prefer == "auto" else (prefer, prefer)
        expected = expected_nanos(self._prices, model.name, usual, input_tokens=input_tokens, output_tokens_max=room)
        if room is None:
            return None, expected
        worst = worst_case_nanos(self._prices, model.name, dearest, input_tokens=input_tokens, output_tokens_max=room)
        return worst, expected
