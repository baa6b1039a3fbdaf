"""The story in one table, what the sink held and what had been paid at each moment; and all that the commands said.

What must not: judging it (`verdict`).
"""

import shlex

from tests.story.running import MOMENTS, Outcome
from tests.story.script import MODELS
from tests.story.verdict import right_share, sources_of

__all__ = ["table_text", "transcript"]

_TOLD = {
    "answered": "v1 has answered",
    "stopped": "v2 is stopped by the gate and rejected",
    "tried out": "v3 is tried out",
    "promoted": "v3 is promoted",
    "replayed": "what was stale is replayed",
    "replayed again": "everything is replayed under v3 again",
    "rolled back": "v1 is back",
    "at the end": "live records have ended",
}


def table_text(told: Outcome) -> str:
    """Markdown: moments down; rows of the sink, their quality, and what was asked and paid so far across."""
    heads = [
        "moment",
        "live so far",
        "rows of v1",
        "rows of v3",
        "right",
        *(f"asked {name}" for name in MODELS),
        "paid",
    ]
    lines = [" | ".join(["", *heads, ""]).strip(), "|---|" + "---:|" * (len(heads) - 1)]
    for name in MOMENTS:
        moment = told.moments[name]
        rows = [sum(row.version == told.versions[each] for row in moment.sink.values()) for each in ("v1", "v3")]
        asked = [moment.asked.get(model, 0) for model in MODELS.values()]
        figures = [*(f"{n:,}" for n in (moment.live, *rows)), f"{right_share(told, moment):.1%}"]
        cells = [_TOLD[name], *figures, *(f"{n:,}" for n in asked), f"${moment.cost_nanos / 10**9:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n" + _totals(told)


def _totals(told: Outcome) -> str:
    sources, end = sources_of(told), told.moments["at the end"]
    return (
        f"{len(told.script.records):,} records and {end.live:,} live ones: {len(sources.both):,} written by v1, by v3"
        f" and by v1 again, {len(sources.between):,} by v3 only, {len(sources.v1 - sources.v3):,} by v1 only;"
        f" {len(told.bills):,} requests billed, {sum(end.commits.values()):,} commits, one worker killed\n"
    )


def transcript(told: Outcome) -> str:
    """Every command with what it said, data first, in the order in which they ended."""
    return "\n".join(
        f"$ batchmill {shlex.join(each.words)}\n{each.out}{each.said}(exit code {each.code})\n"
        for each in told.given.values()
    )
