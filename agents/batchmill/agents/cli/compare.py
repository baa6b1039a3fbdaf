"""`batchmill compare`: two versions over the same records, what the gate says, and whether a baseline would do."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from dataclasses import fields as members_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.contenders import Report, Wanted
    from batchmill.agents.rivals import Baseline
    from batchmill.streams.comparing import Contended, Price
    from batchmill.streams.estimating import Interval, Share, Weighed
    from batchmill.streams.gating import Gate
    from batchmill.streams.golden import Gold

__all__ = ["add", "plain", "plot", "sentences", "shared", "tell_gate", "usd", "value"]

Spelled = Callable[[float], str]

_NANOS = 10**9
_CHANGED_TOLD = 10
_VALUE_CHARS = 60
_PLOT_CHARS = 26
_CONFUSIONS_TOLD = 12


def add(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    a: Annotated[str, typer.Argument(help="VERSION or VERSION@RUN; current: the version in force.")] = "current",
    b: Annotated[str, typer.Argument(help="As A; shadow: the newest version that was never promoted.")] = "shadow",
    field: Annotated[list[str] | None, typer.Option(help="Output member that counts; repeatable.")] = None,
    gold: Annotated[
        Path | None, typer.Option(help="JSONL of {id, input, output}; default: the benchmark of B's gate.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="majority[:FIELD]|keyword:FILE|function:NAME", help="Hold this against B; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Records at most, beside the benchmark's.")] = 10_000,
    gate: Annotated[bool, typer.Option("--gate", help="Judge by B's gate; fails unless all of it is met.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots to this file.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Hold two versions of a job against each other, over the records that both have answered. Changes nothing.

    \b
    Examples:
      batchmill compare triage
      batchmill compare triage current shadow --gate --html compare.html
      batchmill compare triage mzpb5ewp 3tqk --field label --baseline majority:label
    """
    from batchmill.agents.json_lines import json_lines
    from batchmill.agents.rivals import baseline as named
    from batchmill.streams.golden import gold_of

    here = door(context)
    asked = _Asked(
        fields=tuple(field or ()),
        gold=None if gold is None else gold_of(json_lines(gold)),
        baselines=tuple(named(text) for text in baseline or ()),
        limit=limit,
    )
    told, verdict = asyncio.run(_compared(here, job, (a, b), asked))
    if gate and verdict is None:
        raise CommandError(f"version {told.b} declares no gate: add one to job.yaml", ExitCode.GATE)
    if html is not None:
        _page(here, html, told, verdict)
    if json:
        here.emit("compare", {"report": plain(told), "gate": plain(verdict)})
    else:
        _show(here, told, verdict)
    if gate and verdict is not None and not verdict.passed:
        raise typer.Exit(ExitCode.GATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a person said; the gate of B has the word on what they did not."""

    fields: tuple[str, ...]
    gold: "Mapping[str, Gold] | None"
    baselines: "tuple[Baseline, ...]"
    limit: int

    def over(self, wanted: "Wanted") -> "Wanted":
        return replace(
            wanted,
            fields=self.fields or wanted.fields,
            gold=wanted.gold if self.gold is None else self.gold,
            baselines=self.baselines,
            limit=self.limit,
        )


async def _compared(here: Door, job: str, names: tuple[str, str], asked: _Asked) -> "tuple[Report, Gate | None]":
    from batchmill.agents import bodies as log
    from batchmill.agents.contenders import gate_of, report, wanted_by
    from batchmill.agents.projector.comparing import contender, job_row, specs_of

    with here.view() as view:
        row = job_row(view, job)
        a, b = (contender(view, row, name) for name in names)
        if a == b:
            raise CommandError(f"both are {a}: name two, or a rerun as VERSION@RUN", ExitCode.USAGE)
        spec = specs_of(row)[b.version]
        async with log.LogBodies(here.settings) as bodies:
            told = await report(view, bodies, a, b, asked.over(wanted_by(spec)))
        return told, gate_of(spec, told)


def _page(here: Door, file: Path, told: "Report", verdict: "Gate | None") -> None:
    from batchmill.agents.cli.compare_page import page

    file.write_text(page(told, verdict), encoding="utf-8")
    here.say(f"wrote {file}")


def plain(found: Any) -> Any:
    """As JSON has it; a table by pairs becomes a list of {a, b, count}."""
    if is_dataclass(found) and not isinstance(found, type):
        return {member.name: plain(getattr(found, member.name)) for member in members_of(found)}
    if isinstance(found, Mapping):
        if any(isinstance(key, tuple) for key in found):
            return [{"a": a, "b": b, "count": count} for (a, b), count in found.items()]
        return {str(key): plain(each) for key, each in found.items()}
    return [plain(each) for each in found] if isinstance(found, tuple | list) else found


# -- words -------------------------------------------------------------------------------------------------------------


def sentences(told: "Report") -> Iterator[str]:
    """What a person should know before the figures, and of baselines after them."""
    from batchmill.streams.baselines import sentence

    if told.is_rerun:
        yield "both are one version: what differs is the provider's own noise, not a change of yours"
    for each in told.noise:
        agreed = "nothing to compare" if each.agreement is None else f"agrees with itself on {shared(each.agreement)}"
        yield f"noise: {each.first.version} asked again in {each.again.run} {agreed}"
    if told.contests:
        right = "the gold" if told.right_by == "gold" else "what A says (there is no gold)"
        yield f"baselines, right by {right}:"
        yield from (f"  {sentence(each)}" for each in told.contests)
    yield from told.notes


def shared(found: "Share | None") -> str:
    """A share with its interval."""
    if found is None:
        return "nothing to count"
    return f"{found.value:.1%} {_between(found.interval)} of {found.of}"


def value(found: Any) -> str:
    """A value of an output as one short line."""
    from batchmill.schemas.strict_json import canonical_json

    text = found if isinstance(found, str) else canonical_json(found)
    return text if len(text) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…"


def usd(nanos: float) -> str:
    """Dollars; less than a thousandth of one to the nano-dollar."""
    return f"${nanos / _NANOS:,.6f}" if nanos >= _NANOS / 1_000 else f"${nanos / _NANOS:.9f}"


def plot(found: "Share | None") -> str:
    """From 0 to 1: the interval as a line, the share as a dot on it."""
    if found is None:
        return ""
    low, at, high = (round(part * (_PLOT_CHARS - 1)) for part in (found.interval.low, found.value, found.interval.high))
    return "".join("●" if n == at else "─" if low <= n <= high else "·" for n in range(_PLOT_CHARS))


def _between(found: "Interval") -> str:
    return f"[{found.low:.1%}, {found.high:.1%}]"


# -- on a terminal -----------------------------------------------------------------------------------------------------


def _show(here: Door, told: "Report", verdict: "Gate | None") -> None:
    here.fields(_summary(told))
    _tables(here, told)
    for text in sentences(told):
        typer.echo(text)
    if verdict is not None:
        tell_gate(here, verdict)


def _summary(told: "Report") -> list[tuple[str, Any]]:
    found, coverage = told.comparison, told.coverage
    lost = [("waiting", coverage.waiting), ("not its doing", coverage.outside), ("gone from the log", coverage.gone)]
    pair = f"{found.pairs:,} of {coverage.matched:,} that both have a life for"
    counts = ", ".join(f"{a}/{b} {count}" for (a, b), count in sorted(found.ended.items()))
    gold = f"{coverage.benchmark_settled} of {coverage.benchmark} settled" if coverage.benchmark else None
    return [
        ("job", told.a.job),
        ("A", told.a),
        ("B", told.b),
        ("records compared", pair),
        *((name, count or None) for name, count in lost),
        ("benchmark", gold),
        ("A/B ended", counts),
        ("given up by both", found.neither or None),
        ("agreement", shared(found.agreement)),
        *_accuracy(told),
        *_priced("cost of a success", found.cost, usd),
        *_priced("tokens of a success", found.tokens, lambda tokens: f"{tokens:,.0f}"),
    ]


def _accuracy(told: "Report") -> list[tuple[str, Any]]:
    found = told.comparison.accuracy
    if found is None:
        return []
    whole = found.whole
    return [
        ("right: A", shared(whole.a)),
        ("right: B", shared(whole.b)),
        ("right: A less B", _difference(whole)),
    ]


def _difference(found: "Contended") -> str:
    drop = (found.lost - found.won) / found.a.of
    return f"{drop:+.1%} {_between(found.drop)}, {found.lost} lost, {found.won} won, p {found.p:.2g}"


def _priced(name: str, found: "Price", spelled: Spelled) -> list[tuple[str, Any]]:
    if found.a is None or found.b is None:
        return [(name, "not known of both")]
    both = f"A {_amount(found.a, spelled)}, B {_amount(found.b, spelled)}"
    ratio = "" if found.ratio is None else f", B/A {_amount(found.ratio, lambda times: f'{times:.3g}')}"
    return [(name, f"{both}{ratio} ({found.of} records)")]


def _amount(found: "Weighed", spelled: Spelled) -> str:
    around = found.interval
    return spelled(found.value) + ("" if around is None else f" [{spelled(around.low)}, {spelled(around.high)}]")


def _tables(here: Door, told: "Report") -> None:
    found = told.comparison
    typer.echo("")
    rows = [
        [each.name, each.agreement and f"{each.agreement.value:.1%}", plot(each.agreement), *_right(each.accuracy)]
        for each in found.fields
    ]
    here.table(("field", "same", "0 to 1", "A right", "B right", "p (Holm)"), rows, empty="no field was compared")
    for each in found.fields:
        unlike = {both: count for both, count in each.confusions.items() if both[0] != both[1]}
        most = sorted(unlike.items(), key=lambda entry: -entry[1])[:_CONFUSIONS_TOLD]
        if most:
            typer.echo(f"{each.name}: " + ", ".join(f"{value(a)} -> {value(b)} {count}" for (a, b), count in most))
    typer.echo("")
    checks = [
        [each.id, each.a and f"{each.a.value:.1%}", plot(each.a), each.b and f"{each.b.value:.1%}", plot(each.b),
         *_tested(each.both)]
        for each in found.checks
    ]  # fmt: skip
    here.table(("check", "A", "0 to 1", "B", "0 to 1", "A less B", "p (Holm)"), checks)
    _changed(here, told)


def _right(found: "Contended | None") -> Iterable[Any]:
    if found is None:
        return (None, None, None)
    return (f"{found.a.value:.1%}", f"{found.b.value:.1%}", f"{found.p_adjusted:.2g}")


def _tested(found: "Contended | None") -> Iterable[Any]:
    if found is None:
        return ("not both", None)
    return (f"{(found.lost - found.won) / found.a.of:+.1%} {_between(found.drop)}", f"{found.p_adjusted:.2g}")


def _changed(here: Door, told: "Report") -> None:
    found = told.comparison
    if not found.changes:
        return
    shown = found.changed[:_CHANGED_TOLD]
    typer.echo(f"\n{found.changes} changed records, {len(shown)} of them:")
    rows = [[each.source_id, *(_said(each, side) for side in ("a", "b", "truth"))] for each in shown]
    here.table(("source", "A", "B", "right"), rows)


def _said(each: Any, side: str) -> str:
    """Of the members that differ, or all of it."""
    from batchmill.streams.paths import ABSENT, compile_path

    if side == "truth":
        output = each.truth
    else:
        outcome = getattr(each, side)
        output = outcome.output
        if output is None:
            return f"({outcome.ended})"
    if output is None:
        return ""
    told = {name: found for name in each.fields if (found := compile_path(name).find(output)) is not ABSENT}
    return value(told or output)


def tell_gate(here: Door, verdict: "Gate") -> None:
    """The verdict of a gate, condition by condition."""
    from batchmill.streams.gating import number

    typer.echo(f"\ngate: {'passed' if verdict.passed else 'NOT PASSED'}")
    rows = [
        [
            each.rule,
            f"{each.limit:g}",
            None if each.figure is None else number(each.figure),
            None if each.interval is None else f"{number(each.interval.low)} to {number(each.interval.high)}",
            each.p,
            each.finding,
            each.note,
        ]
        for each in verdict.conditions
    ]
    here.table(("condition", "limit", "found", "between", "p", "finding", "of what"), rows)
