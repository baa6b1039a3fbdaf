"""Whether a version may take over: each condition of its gate, with its figure, and what became of it.

A is the version in force, B the one that wants to take over. A condition is met, is not met, or cannot be told yet; the
gate passes if all are met. Shares and the cost are taken as they were found, and told with their intervals. A drop
counts only if it is *sure*: chance alone would show it less often than 1 - confidence; of the drops of all checks
together, by Holm's procedure, so that many checks do not make a false alarm likelier. What must not live here: how the
figures come about (`comparing`, `estimating`), and who may override (`promoting`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from batchmill.schemas.promotion import GateSpec
from batchmill.streams.comparing import Comparison, Contended
from batchmill.streams.estimating import Interval, Share, drop_of, drop_p, holm

__all__ = ["Condition", "Finding", "Gate", "Rule", "gate", "number", "sentence"]


class Rule(StrEnum):
    """The conditions, by the names of the gate's members."""

    MINIMUM = "minimum"
    MIN_ACCURACY = "min_accuracy"
    MAX_ACCURACY_DROP = "max_accuracy_drop"
    MIN_AGREEMENT = "min_agreement"
    MAX_COST_RATIO = "max_cost_ratio"
    MAX_RULE_DROP = "max_rule_drop"


class Finding(StrEnum):
    MET = "met"
    NOT_MET = "not met"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition. `figure` is None where there is none to tell; `p` is of a drop, as it counts among all."""

    rule: Rule
    finding: Finding
    figure: float | None
    limit: float
    interval: Interval | None = None
    p: float | None = None
    note: str = ""  #: what the figure is of, and what is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The verdict."""

    passed: bool
    conditions: tuple[Condition, ...]


def gate(spec: GateSpec, comparison: Comparison, *, benchmark: int = 0, waiting: int = 0) -> Gate:
    """`benchmark`: records whose right output is known; `waiting`: of these, still on their way under A or B."""
    conditions = tuple(_conditions(spec, comparison, benchmark, waiting))
    return Gate(passed=all(each.finding is Finding.MET for each in conditions), conditions=conditions)


def sentence(condition: Condition) -> str:
    """One condition, as people read it."""
    figure = "no figure" if condition.figure is None else number(condition.figure)
    around = condition.interval
    between = "" if around is None else f" [{number(around.low)}, {number(around.high)}]"
    sure = "" if condition.p is None else f", p {condition.p:.2g}"
    note = f": {condition.note}" if condition.note else ""
    return f"{condition.rule} {condition.limit:g} {condition.finding}, {figure}{between}{sure}{note}"


def number(figure: float) -> str:
    """A count in full, a share or a quotient to four digits."""
    return f"{figure:,.0f}" if figure >= 1_000 else f"{figure:.4g}"


def _conditions(spec: GateSpec, comparison: Comparison, benchmark: int, waiting: int) -> Iterator[Condition]:
    few = comparison.pairs < spec.minimum
    yield Condition(
        rule=Rule.MINIMUM,
        finding=Finding.CANNOT_TELL if few else Finding.MET,
        figure=comparison.pairs,
        limit=spec.minimum,
        note="records that both versions have settled",
    )
    yield from _accurate(spec, comparison, benchmark, waiting)
    if spec.min_agreement is not None:
        yield _agreeing(spec.min_agreement, comparison.agreement, few=few)
    if spec.max_cost_ratio is not None:
        yield _priced(spec.max_cost_ratio, comparison, few=comparison.cost.of < spec.minimum)
    if spec.max_rule_drop is not None:
        yield _no_worse(spec.max_rule_drop, comparison, few=few)


def _accurate(spec: GateSpec, comparison: Comparison, benchmark: int, waiting: int) -> Iterator[Condition]:
    found = None if comparison.accuracy is None else comparison.accuracy.whole
    unready = _unready(spec, found, benchmark, waiting)
    if spec.min_accuracy is not None:
        yield _right_enough(spec.min_accuracy, found, unready, benchmark)
    if spec.max_accuracy_drop is not None and benchmark:
        yield _as_right(spec, spec.max_accuracy_drop, found, unready)


def _unready(spec: GateSpec, found: Contended | None, benchmark: int, waiting: int) -> str:
    """Why the benchmark tells nothing yet; empty where it does."""
    if waiting:
        return f"{waiting} of the benchmark's {benchmark} records are still on their way"
    needed, known = min(spec.minimum, benchmark), 0 if found is None else found.a.of
    if known < needed:
        return (
            f"both versions have settled {known} of the benchmark's {benchmark} records; `batchmill benchmark` runs it"
        )
    return ""


def _right_enough(limit: float, found: Contended | None, unready: str, benchmark: int) -> Condition:
    if not benchmark:
        note = "the gate names no benchmark, so no accuracy can be known: add gate.benchmark"
        return Condition(rule=Rule.MIN_ACCURACY, finding=Finding.NOT_MET, figure=None, limit=limit, note=note)
    b = None if found is None else found.b
    finding = Finding.CANNOT_TELL if unready or b is None else _by(b.value >= limit)
    return _shared(Rule.MIN_ACCURACY, finding, b, limit, unready or f"right on {_of(b)} of the benchmark")


def _as_right(spec: GateSpec, limit: float, found: Contended | None, unready: str) -> Condition:
    if unready or found is None:
        return _unknown(Rule.MAX_ACCURACY_DROP, limit, unready)
    p = drop_p(found.lost, found.won, found.a.of, limit)
    worse = _drop(found) > limit and p <= 1 - spec.confidence
    return Condition(
        rule=Rule.MAX_ACCURACY_DROP,
        finding=_by(not worse),
        figure=_drop(found),
        limit=limit,
        interval=found.drop,
        p=p,
        note=f"{found.lost} right under the version in force only, {found.won} under this one only",
    )


def _agreeing(limit: float, found: Share | None, *, few: bool) -> Condition:
    finding = Finding.CANNOT_TELL if few or found is None else _by(found.value >= limit)
    return _shared(Rule.MIN_AGREEMENT, finding, found, limit, f"the same on {_of(found)} records")


def _priced(limit: float, comparison: Comparison, *, few: bool) -> Condition:
    cost = comparison.cost
    if cost.of and cost.a is not None and cost.b is None:
        note = "this version has not one success among the records whose cost is known"
        return Condition(rule=Rule.MAX_COST_RATIO, finding=Finding.NOT_MET, figure=None, limit=limit, note=note)
    if cost.ratio is None:
        return _unknown(Rule.MAX_COST_RATIO, limit, f"both costs are known of {cost.of} records; there is no quotient")
    return Condition(
        rule=Rule.MAX_COST_RATIO,
        finding=Finding.CANNOT_TELL if few else _by(cost.ratio.value <= limit),
        figure=cost.ratio.value,
        limit=limit,
        interval=cost.ratio.interval,
        note=f"cost of a success over that under the version in force, {cost.of} records",
    )


def _no_worse(limit: float, comparison: Comparison, *, few: bool) -> Condition:
    """The check whose drop is the surest speaks for all."""
    met = {check.id: check.both for check in comparison.checks if check.both is not None}
    if not met:
        return _unknown(Rule.MAX_RULE_DROP, limit, "no check was met under both versions")
    ps = holm({name: drop_p(each.lost, each.won, each.a.of, limit) for name, each in met.items()})
    surest = min(met, key=lambda name: (_drop(met[name]) <= limit, ps[name], -_drop(met[name]), name))
    found = met[surest]
    worse = _drop(found) > limit and ps[surest] <= 1 - comparison.confidence
    # as wide as for all checks together, else it would look surer than it is
    together = 1 - (1 - comparison.confidence) / len(met)
    return Condition(
        rule=Rule.MAX_RULE_DROP,
        finding=Finding.CANNOT_TELL if few else _by(not worse),
        figure=_drop(found),
        limit=limit,
        interval=drop_of(found.lost, found.won, found.a.of, together),
        p=ps[surest],
        note=f"{surest}: passed by {found.a.value:.1%} before, {found.b.value:.1%} now; {len(met)} checks",
    )


def _drop(found: Contended) -> float:
    return (found.lost - found.won) / found.a.of


def _shared(rule: Rule, finding: Finding, found: Share | None, limit: float, note: str) -> Condition:
    figure, interval = (None, None) if found is None else (found.value, found.interval)
    return Condition(rule=rule, finding=finding, figure=figure, limit=limit, interval=interval, note=note)


def _unknown(rule: Rule, limit: float, note: str) -> Condition:
    return Condition(rule=rule, finding=Finding.CANNOT_TELL, figure=None, limit=limit, note=note)


def _of(found: Share | None) -> str:
    return "0 of 0" if found is None else f"{found.count} of {found.of}"


def _by(holds: bool) -> Finding:  # noqa: FBT001 - reads as the sentence it is
    return Finding.MET if holds else Finding.NOT_MET
