"""The page of `batchmill drift JOB --html`: one file, no script, nothing fetched, readable in light and dark.

What lives here: drawing. What must not: judging what is drawn. Every text from outside is escaped.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from batchmill.agents.cli.door import utc

if TYPE_CHECKING:
    from batchmill.agents.projector.drift import SignalRow, WatchRow
    from batchmill.streams.drifting import Score

__all__ = ["page"]

_PSI_USUAL = 0.2
_WIDE, _HIGH, _LEFT, _BELOW = 640, 160, 44, 22
_BAR_HIGH, _BAR_WIDE, _NAME_WIDE = 13, 380, 200
_CLASSES_DRAWN = 12
_NAME_CHARS = 30

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667; --paper: #fff; --line: #d5d9e0; --calm: #4573a8;
  --moved: #c22f2f; --before: #9aa7b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa3b2; --paper: #14181e; --line: #39414d;
  --calm: #7fb0e8; --moved: #ff7b72; --before: #66738a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 46rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.axis { stroke: var(--line); } .limit { stroke: var(--moved); stroke-dasharray: 5 4; }
.line { fill: none; stroke: var(--calm); stroke-width: 1.5; }
.calm { fill: var(--calm); } .moved { fill: var(--moved); }
.before { fill: var(--before); } .after { fill: var(--calm); }
.alarm { border-left: 4px solid var(--moved); padding: .2rem .8rem; } .soft { color: var(--soft); }
"""


def page(rows: Sequence["WatchRow"]) -> str:
    """All versions of one job."""
    job = escape(rows[0].job)
    body = "\n".join(line for row in rows for line in _version(row))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Drift of {job}</title><style>{_STYLE}</style></head>
<body><h1>Drift of {job}</h1>
<p class="soft">Each point is one window, held against the reference. A window is an alarm if it lies above the dashed
line and the chi-square test is sure of it: red. Below it each class has its share of the reference (grey) and of the
newest window (blue).</p>
{body}
</body></html>
"""


def _version(row: "WatchRow") -> Iterator[str]:
    from batchmill.streams.drifting import sentence

    force = "in force" if row.in_force else "not in force"
    yield f"<h2>Version {escape(row.version)}, {force}</h2>"
    if row.held:
        yield '<p class="alarm">The job was paused by an alarm and was not resumed.</p>'
    for moved in row.moved:
        yield f'<p class="alarm">{escape(sentence(moved))}</p>'
    limit = _PSI_USUAL if row.spec is None else row.spec.psi_above
    for each in row.signals:
        yield from _signal(each, limit)


def _signal(each: "SignalRow", limit: float) -> Iterator[str]:
    records = f"reference of {sum(each.reference.values()):,}, {each.looks} windows, {each.filling} in the next"
    yield f'<h3>{escape(str(each.signal))}</h3><p class="soft">{records}</p>'
    if each.scores:
        yield _chart(each.scores, limit, str(each.signal))
        yield _bars(each)


def _chart(scores: Sequence["Score"], limit: float, name: str) -> str:
    top = max(1.25 * limit, *(1.1 * score.psi for score in scores))
    wide, high = _WIDE - _LEFT - 10, _HIGH - _BELOW - 8

    def at(number: int, psi: float) -> tuple[float, float]:
        x = _LEFT + wide * (0.5 if len(scores) == 1 else number / (len(scores) - 1))
        return x, 8 + high * (1 - psi / top)

    points = [at(number, score.psi) for number, score in enumerate(scores)]
    limit_y = at(0, limit)[1]
    dots = "".join(_dot(x, y, score) for (x, y), score in zip(points, scores, strict=True))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    first, last = f"window {scores[0].look}", f"window {scores[-1].look}"
    ends = (_label(_LEFT, _HIGH - 6, first), _label(_WIDE - 80, _HIGH - 6, last))
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escape(name)}: PSI by window">'
        f'<line class="axis" x1="{_LEFT}" y1="{8 + high}" x2="{_WIDE}" y2="{8 + high}"/>'
        f'<line class="limit" x1="{_LEFT}" y1="{limit_y:.1f}" x2="{_WIDE}" y2="{limit_y:.1f}"/>'
        f"{_label(2, limit_y + 4, f'{limit:g}')}{_label(2, 16, f'{top:.2f}')}{_label(2, 8 + high, '0')}"
        f'<polyline class="line" points="{line}"/>{dots}{"".join(ends)}</svg>'
    )


def _dot(x: float, y: float, score: "Score") -> str:
    kind = "moved" if score.moved else "calm"
    title = f"window {score.look}, {utc(score.at_ms)} UTC: PSI {score.psi:.3f}, JS {score.js:.3f}, p {score.p:.1g}"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(title)}</title></circle>'


def _bars(each: "SignalRow") -> str:
    """Shares of each class: above in the reference, below in the newest window."""
    found = each.shares[:_CLASSES_DRAWN]
    step = 2 * _BAR_HIGH + 8
    drawn = "".join(_pair(number * step, *share) for number, share in enumerate(found))
    high = step * len(found)
    label = f"{each.signal}: shares before and after"
    return f'<svg viewBox="0 0 {_WIDE} {high}" role="img" aria-label="{escape(label)}">{drawn}</svg>'


def _pair(y: int, name: str, before: float, after: float) -> str:
    shown = name if len(name) <= _NAME_CHARS else name[: _NAME_CHARS - 1] + "…"
    bars = "".join(
        f'<rect class="{kind}" x="{_NAME_WIDE}" y="{y + n * _BAR_HIGH}" width="{share * _BAR_WIDE:.1f}" '
        f'height="{_BAR_HIGH - 1}"/>'
        f"{_label(_NAME_WIDE + share * _BAR_WIDE + 4, y + n * _BAR_HIGH + 10, f'{share:.1%}')}"
        for n, (kind, share) in enumerate((("before", before), ("after", after)))
    )
    return f"{_label(2, y + _BAR_HIGH + 3, shown)}{bars}"


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
