"""Two contenders' answers, out of the read model and the log, and what their comparison and the gate say of them.

What lives here: which pairs are read (all of the benchmark, and a sample of the others that is drawn by what A said),
reading them in cuts, and putting one `Report` together. What must not: statistics (`streams.comparing`), conditions
(`streams.gating`), words for people (`cli`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, Protocol

import orjson

from batchmill.agents.bodies import At, LogBodies
from batchmill.agents.projector.comparing import (
    CURRENT,
    Contender,
    ContenderError,
    Match,
    Standing,
    Told,
    contender,
    job_row,
    matches,
    reruns,
    specs_of,
    standing,
    told,
)
from batchmill.agents.projector.reading import View
from batchmill.agents.rivals import Baseline, rival
from batchmill.agents.settings import Settings
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.promotion import GateSpec
from batchmill.streams.baselines import Contest
from batchmill.streams.cleaning import compile_cleaner
from batchmill.streams.comparing import Comparison, Ended, Outcome, Pair, compare
from batchmill.streams.drawing import Drawing
from batchmill.streams.estimating import Share
from batchmill.streams.gating import Gate, gate
from batchmill.streams.golden import GOLD_MAX, Gold, answers, gold_of, run_of_gold

__all__ = [
    "PAIRS_MAX",
    "Bodies",
    "Coverage",
    "Noise",
    "Report",
    "Wanted",
    "gate_of",
    "gate_report",
    "gold_of_gate",
    "report",
    "wanted_by",
]

#: pairs that are read at most, beside those of the benchmark
PAIRS_MAX: Final = 10_000
_NOISE_PAIRS_MAX: Final = 1_000
_CUT_PAIRS: Final = 500
_SEED: Final = "compare"


class Bodies(Protocol):
    """The log's values by their places; what is gone is absent."""

    async def read(self, places: Iterable[At]) -> dict[At, dict[str, Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is compared, and how."""

    fields: tuple[str, ...] = ()
    confidence: float = 0.95
    gold: Mapping[str, Gold] = field(default_factory=dict)
    baselines: tuple[Baseline, ...] = ()
    limit: int = PAIRS_MAX
    seed: str = _SEED


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many records the figures stand on, and what is missing."""

    matched: int = 0  #: records that both have a life for
    waiting: int = 0  #: one of them has no answer yet
    outside: int = 0  #: cancelled, superseded and the like before there was an answer
    gone: int = 0  #: the log has one of the answers no more
    benchmark: int = 0  #: records whose right output is known
    benchmark_waiting: int = 0
    benchmark_settled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How far a version agrees with itself when it is asked again."""

    first: Contender
    again: Contender
    agreement: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All there is to say about two contenders. `right_by`: what baselines are held against."""

    a: Contender
    b: Contender
    coverage: Coverage
    comparison: Comparison
    contests: tuple[Contest, ...] = ()
    right_by: str = "gold"  #: gold | a
    noise: tuple[Noise, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_rerun(self) -> bool:
        """One version against itself: what differs is the provider's doing."""
        return self.a.version == self.b.version


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A pair, and what was asked."""

    pair: Pair
    item: At


async def gate_report(settings: Settings, job: str, version: str) -> tuple[Gate | None, Report]:
    """The gate of `version` over what it and the version in force have answered; None where its job declares no gate.

    ContenderError: there is no such version, or it is in force already.
    """
    async with LogBodies(settings) as bodies:
        with View(settings.view_path) as view:
            row = job_row(view, job)
            a, b = contender(view, row, CURRENT), contender(view, row, version)
            if a == b:
                raise ContenderError(
                    f"version {b} of job {job} is in force already; there is nothing to compare it with"
                )
            spec = specs_of(row)[b.version]
            found = await report(view, bodies, a, b, wanted_by(spec))
            return gate_of(spec, found), found


def gate_of(spec: JobSpec, found: Report) -> Gate | None:
    """What the gate of B's version says."""
    if spec.gate is None:
        return None
    coverage = found.coverage
    return gate(spec.gate, found.comparison, benchmark=coverage.benchmark, waiting=coverage.benchmark_waiting)


def wanted_by(spec: JobSpec) -> Wanted:
    """What the gate of a version asks for; what it has no word on is as usual."""
    if spec.gate is None:
        return Wanted()
    return Wanted(fields=spec.gate.fields, confidence=spec.gate.confidence, gold=gold_of_gate(spec.gate))


def gold_of_gate(spec: GateSpec | None) -> dict[str, Gold]:
    """The benchmark of a gate, by id; empty where there is none."""
    text = None if spec is None else spec.benchmark_json
    return {} if text is None else gold_of(enumerate(orjson.loads(text), start=1))


async def report(view: View, bodies: Bodies, a: Contender, b: Contender, wanted: Wanted) -> Report:
    """Compare them. Raises BaselineError, PathError or JsonLinesError where what is wanted cannot be had."""
    golden = _Golden(view, a.job, wanted.gold)
    gathered = _Gathered.of(view, a, b, wanted, golden)
    read = await _pairs(view, bodies, gathered, golden)
    pairs = [each.pair for each in read]
    comparison = compare(pairs, fields=wanted.fields, confidence=wanted.confidence)
    coverage = replace(
        gathered.coverage,
        gone=len(gathered.chosen) - len(pairs),
        benchmark=len(wanted.gold),
        benchmark_settled=sum(pair.truth is not None for pair in pairs),
    )
    found = Report(a=a, b=b, coverage=coverage, comparison=comparison)
    if wanted.baselines:
        found = await _with_rivals(found, bodies, read, wanted)
    if found.is_rerun:
        return found
    return replace(found, noise=await _noise(view, bodies, (a, b), replace(wanted, fields=comparison.judged)))


# -- which pairs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gathered:
    """The pairs that will be read."""

    coverage: Coverage
    golden: list[Match]
    drawn: list[Match]

    @property
    def chosen(self) -> list[Match]:
        return [*self.golden, *self.drawn]

    @classmethod
    def of(cls, view: View, a: Contender, b: Contender, wanted: Wanted, golden: "_Golden") -> "_Gathered":
        known: Drawing[Match] = Drawing(limit=GOLD_MAX, seed=wanted.seed)
        others: Drawing[Match] = Drawing(limit=wanted.limit, seed=wanted.seed)
        late: list[Match] = []
        counts = dict.fromkeys(Standing, 0)
        for match in matches(view, a, b):
            now = _standing(match)
            counts[now] += 1
            if now is Standing.WAITING and match.source_id in wanted.gold:
                late.append(match)
            elif now is Standing.SETTLED:
                drawing = known if match.source_id in wanted.gold else others
                drawing.offer(match.a, f"{match.a_status}/{match.a_output_sha256}", match)
        told_late = [both for match in islice(late, GOLD_MAX) if (both := _both(view, match)) is not None]
        coverage = Coverage(
            matched=sum(counts.values()),
            waiting=counts[Standing.WAITING],
            outside=counts[Standing.OUTSIDE],
            benchmark_waiting=sum(golden.truth(both) is not None for both in told_late),
        )
        return cls(coverage=coverage, golden=known.drawn(), drawn=others.drawn())


def _standing(match: Match) -> Standing:
    """The less settled of both."""
    both = (
        standing(match.a_status, match.a_reason, answered=match.a_output_sha256 is not None),
        standing(match.b_status, match.b_reason, answered=match.b_output_sha256 is not None),
    )
    for less in (Standing.OUTSIDE, Standing.WAITING):
        if less in both:
            return less
    return Standing.SETTLED


_Both = tuple[Told, Told]


def _both(view: View, match: Match) -> _Both | None:
    """None: one has expired since."""
    found = list(told(view, (match.a, match.b)))
    return (found[0], found[1]) if len(found) == 2 else None


class _Golden:
    """The benchmark, and which lives were asked its records."""

    def __init__(self, view: View, job: str, gold: Mapping[str, Gold]) -> None:
        self.gold = gold
        self._run = run_of_gold(gold)
        self._cleaners = {
            version: compile_cleaner(spec.input) for version, spec in specs_of(job_row(view, job)).items()
        }

    def truth(self, both: _Both) -> Mapping[str, Any] | None:
        """The right output, where one of the lives was asked the very record."""
        known = self.gold.get(both[0].source_id)
        return known.output if known is not None and any(self._asked(known, each) for each in both) else None

    def _asked(self, known: Gold, life: Told) -> bool:
        cleaner = self._cleaners[life.version]
        return answers(known, run=self._run, run_id=life.run_id, input_sha256=life.input_sha256, cleaner=cleaner)


# -- what they said ----------------------------------------------------------------------------------------------------


async def _pairs(view: View, bodies: Bodies, gathered: _Gathered, golden: _Golden) -> list[_Read]:
    """Those whose answers the log still has, in the order of their names, which says nothing of them."""
    known = [both for match in gathered.chosen if (both := _both(view, match)) is not None]
    read: list[_Read] = []
    for cut in _cuts(sorted(known, key=lambda both: _verdict_at(both[0]))):  # neighbours in the log are read at once
        places = [_verdict_at(each) for both in cut for each in both if each.verdict_offset is not None]
        found = await bodies.read(places)
        for both in cut:
            a, b = (_outcome(each, found.get(_verdict_at(each))) for each in both)
            if a is not None and b is not None:
                pair = Pair(key=both[0].request_id, source_id=both[0].source_id, a=a, b=b, truth=golden.truth(both))
                read.append(_Read(pair=pair, item=("normalized", both[0].partition, both[0].input_offset)))
    return sorted(read, key=lambda each: each.pair.key)


def _cuts(found: Sequence[_Both]) -> Iterator[Sequence[_Both]]:
    for at in range(0, len(found), _CUT_PAIRS):
        yield found[at : at + _CUT_PAIRS]


def _verdict_at(life: Told) -> At:
    return "validated", life.partition, -1 if life.verdict_offset is None else life.verdict_offset


def _outcome(life: Told, verdict: Mapping[str, Any] | None) -> Outcome | None:
    """None: the answer is not there any more."""
    if life.is_dead:
        checks = _passed(orjson.loads(life.letter_checks_json or "[]"))
        return Outcome(ended=Ended.DEAD, checks=checks, cost_nanos=life.cost_nanos, tokens=life.tokens)
    if verdict is None or verdict.get("request_id") != life.request_id:
        return None
    return Outcome(
        ended=Ended(verdict["status"]),
        output=orjson.loads(verdict["output_json"]),
        checks=_passed(verdict["checks"]),
        cost_nanos=life.cost_nanos,
        tokens=life.tokens,
    )


def _passed(checks: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """One check may have been made at several places: it passed if it did at all of them."""
    found: dict[str, bool] = {}
    for check in checks:
        found[check["id"]] = found.get(check["id"], True) and bool(check["passed"])
    return found


# -- baselines and noise -----------------------------------------------------------------------------------------------


async def _with_rivals(found: Report, bodies: Bodies, read: Sequence[_Read], wanted: Wanted) -> Report:
    by_gold = any(each.pair.truth is not None for each in read)
    judged = [each for each in (read if by_gold else map(_by_a, read)) if each.pair.truth is not None]
    inputs: dict[At, Any] = {}
    places = sorted(each.item for each in judged)
    for at in range(0, len(places), _CUT_PAIRS):
        cut = await bodies.read(places[at : at + _CUT_PAIRS])
        inputs |= {place: orjson.loads(body["input_json"]) for place, body in cut.items() if "input_json" in body}
    told_inputs = [(each.pair, inputs[each.item]) for each in judged if each.item in inputs]
    contests, notes = [], []
    for baseline in wanted.baselines:
        contest, said = rival(baseline, told_inputs, fields=wanted.fields, confidence=wanted.confidence)
        contests += [] if contest is None else [contest]
        notes += said
    return replace(found, contests=tuple(contests), right_by="gold" if by_gold else "a", notes=(*found.notes, *notes))


def _by_a(each: _Read) -> _Read:
    """With what A said for right, where there is nothing better."""
    valid = each.pair.a.ended is Ended.VALIDATED and isinstance(each.pair.a.output, dict)
    return replace(each, pair=replace(each.pair, truth=each.pair.a.output if valid else None))


async def _noise(view: View, bodies: Bodies, contenders: Iterable[Contender], wanted: Wanted) -> tuple[Noise, ...]:
    """Of each version that was asked again, by its newest rerun."""
    limits = replace(wanted, gold={}, limit=_NOISE_PAIRS_MAX)
    found = []
    for first in contenders:
        golden = _Golden(view, first.job, limits.gold)
        for run in reruns(view, first.job, first.version)[:1]:
            again = replace(first, run=run)
            gathered = _Gathered.of(view, replace(first, run=None), again, limits, golden)
            pairs = [each.pair for each in await _pairs(view, bodies, gathered, golden)]
            if pairs:
                agreement = compare(pairs, fields=wanted.fields, confidence=wanted.confidence).agreement
                found.append(Noise(first=first, again=again, agreement=agreement))
    return tuple(found)
