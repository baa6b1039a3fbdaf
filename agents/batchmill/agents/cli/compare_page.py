"""The page of `batchmill compare --html`: one file, no script, nothing fetched, readable in light and dark.

What lives here: drawing. What must not: judging what is drawn. Every text from outside is escaped.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from batchmill.agents.cli.compare import sentences, shared, usd

if TYPE_CHECKING:
    from batchmill.agents.contenders import Report
    from batchmill.streams.comparing import Changed, Contended, FieldFound, Outcome, Price
    from batchmill.streams.estimating import Interval, Share
    from batchmill.streams.gating import Gate

__all__ = ["page"]

_WIDE, _NAME_WIDE, _ROW_HIGH, _TEXT_WIDE = 720, 190, 34, 120
_NAME_CHARS = 28
_OUTPUT_CHARS = 600
_RATIO_SPAN = 2.0  #: the axis of a quotient goes from a half to the double at least

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667; --paper: #fff; --line: #d5d9e0; --a: #8a94a6;
  --b: #2f6db3; --good: #2c7a4b; --bad: #c22f2f; --mark: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa3b2; --paper: #14181e; --line: #39414d;
  --a: #98a3b5; --b: #7fb0e8; --good: #6fcf97; --bad: #ff7b72; --mark: #3a3320; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 56rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.axis { stroke: var(--line); } .limit { stroke: var(--bad); stroke-dasharray: 5 4; }
.a { fill: var(--a); stroke: var(--a); } .b { fill: var(--b); stroke: var(--b); } .bar { stroke-width: 3; }
.soft { color: var(--soft); } .say { border-left: 4px solid var(--b); padding: .2rem .8rem; }
.met { color: var(--good); } .unmet { color: var(--bad); font-weight: 600; }
div.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
td.n { text-align: right; font-variant-numeric: tabular-nums; } td.same { background: var(--mark); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
"""


def page(told: "Report", verdict: "Gate | None") -> str:
    """All of one comparison."""
    title = f"{escape(told.a.job)}: {escape(str(told.a))} and {escape(str(told.b))}"
    body = "\n".join(line for part in _parts(told, verdict) for line in part)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{_STYLE}</style></head>
<body><h1>{title}</h1>
<p class="soft">A (grey) is {escape(str(told.a))}, B (blue) is {escape(str(told.b))}. A dot is what was found; the line
through it is where the truth lies, with {told.comparison.confidence:.0%} confidence. Shares whose lines overlap may
still differ surely, since both versions had the same records: the p value tells.</p>
{body}
</body></html>
"""


def _parts(told: "Report", verdict: "Gate | None") -> Iterator[Iterable[str]]:
    yield (f'<p class="say">{escape(text)}</p>' for text in sentences(told))
    if verdict is not None:
        yield _gate(verdict)
    yield _summary(told)
    yield _checks(told)
    yield _fields(told)
    yield _prices(told)
    yield _changed(told)


def _gate(verdict: "Gate") -> Iterator[str]:
    from batchmill.streams.gating import number

    word, kind = ("passed", "met") if verdict.passed else ("not passed", "unmet")
    yield f'<h2>Gate: <span class="{kind}">{word}</span></h2>'
    rows = [
        (
            escape(each.rule),
            f"{each.limit:g}",
            "" if each.figure is None else number(each.figure),
            "" if each.interval is None else f"{number(each.interval.low)} to {number(each.interval.high)}",
            "" if each.p is None else f"{each.p:.2g}",
            f'<span class="{"met" if each.finding == "met" else "unmet"}">{escape(each.finding)}</span>',
            escape(each.note),
        )
        for each in verdict.conditions
    ]
    yield _table(("condition", "limit", "found", "between", "p", "finding", "of what"), rows)


def _summary(told: "Report") -> Iterator[str]:
    found, coverage = told.comparison, told.coverage
    yield "<h2>Records</h2>"
    yield (
        f"<p>{found.pairs:,} compared of {coverage.matched:,} that both have a life for; {coverage.waiting:,} wait for "
        f"an answer, {coverage.outside:,} ended for reasons that are none of a version, of {coverage.gone:,} the log "
        f"has an answer no more. {found.neither:,} were given up by both.</p>"
    )
    rows = [(escape(a), escape(b), f"{count:,}") for (a, b), count in sorted(found.ended.items())]
    yield _table(("A ended", "B ended", "records"), rows)
    judged = ", ".join(found.judged) or "the whole output"
    yield f"<p>Agreement: <b>{escape(shared(found.agreement))}</b>, by {escape(judged)}.</p>"
    if found.accuracy is not None:
        whole = found.accuracy.whole
        yield f"<h3>Right, of {whole.a.of:,} whose right output is known</h3>"
        yield _forest([("all fields right", whole.a, whole.b)])
        yield _tests([("all fields right", whole)])


def _checks(told: "Report") -> Iterator[str]:
    yield "<h2>Checks: share that passed</h2>"
    yield _forest([(each.id, each.a, each.b) for each in told.comparison.checks])
    yield _tests([(each.id, each.both) for each in told.comparison.checks])


def _fields(told: "Report") -> Iterator[str]:
    found = told.comparison.fields
    yield "<h2>Fields</h2>"
    yield "<h3>Same under both</h3>"
    yield _forest([(each.name, None, each.agreement) for each in found])
    known = [each for each in found if each.accuracy is not None]
    if known:
        yield "<h3>Right</h3>"
        yield _forest([(each.name, each.accuracy.a, each.accuracy.b) for each in known if each.accuracy is not None])
        yield _tests([(each.name, each.accuracy) for each in known])
    for each in found:
        if each.confusions:
            yield from _confusions(each)


def _confusions(each: "FieldFound") -> Iterator[str]:
    labels = sorted({label for both in each.confusions for label in both})
    yield f"<h3>{escape(each.name)}: A down, B across</h3>"
    rows = [(escape(a), *(_count(each.confusions.get((a, b), 0), same=a == b) for b in labels)) for a in labels]
    yield _table(("", *map(escape, labels)), rows)


def _count(count: int, *, same: bool) -> str:
    shown = f"{count:,}" if count else ""
    return f"<b>{shown}</b>" if same else shown


def _prices(told: "Report") -> Iterator[str]:
    yield "<h2>Cost and tokens of a success</h2>"
    rows: list[tuple[str, float, Interval | None]] = []
    lines = []
    for name, found, spelled in (
        ("cost", told.comparison.cost, usd),
        ("tokens", told.comparison.tokens, lambda tokens: f"{tokens:,.0f}"),
    ):
        lines.append((name, f"{found.of:,}", _amount(found, "a", spelled), _amount(found, "b", spelled)))
        if found.ratio is not None:
            rows.append((f"{name}, B over A", found.ratio.value, found.ratio.interval))
    yield _table(("", "records", "A", "B"), lines)
    if rows:
        yield _ratios(rows)


def _amount(found: "Price", side: str, spelled: Any) -> str:
    one = getattr(found, side)
    if one is None:
        return "not known"
    around = "" if one.interval is None else f" [{spelled(one.interval.low)}, {spelled(one.interval.high)}]"
    return escape(spelled(one.value) + around)


def _changed(told: "Report") -> Iterator[str]:
    found = told.comparison
    yield f"<h2>Changed records: {len(found.changed):,} of {found.changes:,}</h2>"
    if found.changed:
        rows = [_sides(each) for each in found.changed]
        yield _table(("source", "differs in", "A", "B", "right"), rows)


def _sides(each: "Changed") -> tuple[str, ...]:
    right = "" if each.truth is None else _output(each.truth)
    names = escape(", ".join(each.fields))
    return escape(each.source_id), names, _answer(each.a), _answer(each.b), right


def _answer(outcome: "Outcome") -> str:
    if outcome.output is None:
        return f'<span class="soft">{escape(outcome.ended)}</span>'
    return _output(outcome.output) + (f'<span class="soft">{escape(outcome.ended)}</span>')


def _output(output: Any) -> str:
    import orjson

    text = orjson.dumps(output, option=orjson.OPT_INDENT_2).decode()
    return f"<pre>{escape(text[:_OUTPUT_CHARS])}{'…' if len(text) > _OUTPUT_CHARS else ''}</pre>"


# -- drawing -----------------------------------------------------------------------------------------------------------


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _tests(found: "Iterable[tuple[str, Contended | None]]") -> str:
    rows = [
        (
            escape(name),
            f"{each.a.of:,}",
            f"{each.lost:,}",
            f"{each.won:,}",
            f"{(each.lost - each.won) / each.a.of:+.1%} [{each.drop.low:+.1%}, {each.drop.high:+.1%}]",
            f"{each.p:.2g}",
            f"{each.p_adjusted:.2g}",
        )
        for name, each in found
        if each is not None
    ]
    return _table(("", "records", "A only", "B only", "A less B", "p", "p (Holm)"), rows)


def _forest(rows: "Sequence[tuple[str, Share | None, Share | None]]") -> str:
    """One row each: the shares of A and B with their intervals, from 0 to 1."""
    high = _ROW_HIGH * len(rows) + 20
    drawn = "".join(
        _label(2, at * _ROW_HIGH + 20, _short(name))
        + "".join(
            _whisker(
                kind, at * _ROW_HIGH + 10 + 12 * n, each.value, each.interval, 0, 1, f"{each.value:.1%} of {each.of}"
            )
            for n, (kind, each) in enumerate((("a", a), ("b", b)))
            if each is not None
        )
        for at, (name, a, b) in enumerate(rows)
    )
    ticks = "".join(_tick(share, 0, 1, f"{share:.0%}", high) for share in (0, 0.25, 0.5, 0.75, 1))
    return f'<svg viewBox="0 0 {_WIDE} {high}" role="img" aria-label="shares with intervals">{ticks}{drawn}</svg>'


def _ratios(rows: "Sequence[tuple[str, float, Interval | None]]") -> str:
    ends = [end for _, ratio, around in rows for end in (ratio, *((around.low, around.high) if around else ()))]
    low, high_end = min([1 / _RATIO_SPAN, *ends]), max([_RATIO_SPAN, *ends])
    high = _ROW_HIGH * len(rows) + 20
    drawn = "".join(
        _label(2, at * _ROW_HIGH + 20, name)
        + _whisker("b", at * _ROW_HIGH + 16, ratio, around, low, high_end, f"{ratio:.3g}")
        for at, (name, ratio, around) in enumerate(rows)
    )
    ticks = "".join(_tick(each, low, high_end, f"{each:.3g}", high) for each in (low, 1, high_end))
    return f'<svg viewBox="0 0 {_WIDE} {high}" role="img" aria-label="B over A">{ticks}{drawn}</svg>'


def _whisker(kind: str, y: float, dot: float, around: "Interval | None", low: float, high: float, text: str) -> str:
    line = ""
    if around is not None:
        x1, x2 = _x(around.low, low, high), _x(around.high, low, high)
        line = f'<line class="bar {kind}" x1="{x1:.1f}" y1="{y}" x2="{x2:.1f}" y2="{y}"/>'
    at = _x(dot, low, high)
    right = _label(_WIDE - _TEXT_WIDE + 8, y + 4, text)
    return f'{line}<circle class="{kind}" cx="{at:.1f}" cy="{y}" r="4"><title>{escape(text)}</title></circle>{right}'


def _tick(at: float, low: float, high: float, text: str, bottom: float) -> str:
    x = _x(at, low, high)
    return f'<line class="axis" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom - 16}"/>{_label(x - 8, bottom - 4, text)}'


def _x(at: float, low: float, high: float) -> float:
    return _NAME_WIDE + (_WIDE - _NAME_WIDE - _TEXT_WIDE) * (at - low) / (high - low)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else name[: _NAME_CHARS - 1] + "…"


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
