"""What must hold of the story, whatever its numbers are: each promise that was broken is a sentence.

What must not: running anything (`running`).
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.status import Place
from tests.story.running import MOMENTS, Moment, Outcome, Row
from tests.story.script import ACCURACY, LIVE, MODELS

__all__ = ["Sources", "faults_of", "right_share", "sources_of"]

#: a share may be so many of its standard deviations off
_DEVIATIONS = 4.5
_RIGHT = re.compile(r"^right: ([AB]) +([\d.]+)%", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Who was asked under which version; without the benchmark."""

    v1: frozenset[str]
    v3: frozenset[str]
    sample: frozenset[str]  #: answered under v3 before it was in force

    @cached_property
    def both(self) -> frozenset[str]:
        """There before v3 was in force: answered by v1, then by v3, then by v1 again."""
        return self.v1 & self.v3

    @property
    def between(self) -> frozenset[str]:
        """Came while v3 was in force."""
        return self.v3 - self.v1


def sources_of(told: Outcome) -> Sources:
    gold = {each.id for each in told.script.gold}

    def under(name: str, run: str | None = None) -> frozenset[str]:
        found = (each for each in told.lives if each.version == told.versions[name] and run in {None, each.run_id})
        return frozenset(each.source_id for each in found) - gold

    return Sources(v1=under("v1"), v3=under("v3"), sample=under("v3", "replay:sample-v3"))


def right_share(told: Outcome, moment: Moment) -> float:
    """Of the records, without the live ones, those whose label in the sink is the one that people gave."""
    rows = (moment.sink.get(each.id) for each in told.script.records)
    right = sum(
        row is not None and f'"{each.label}"' in row.output
        for row, each in zip(rows, told.script.records, strict=True)
    )  # fmt: skip
    return right / len(told.script.records)


def faults_of(told: Outcome) -> list[str]:
    """Empty when every promise holds."""
    sources = sources_of(told)
    return [
        *_of_the_account(told),
        *_of_the_money(told, sources),
        *_of_the_gate(told),
        *_of_the_promotion(told, sources),
        *_of_the_replay(told, sources),
        *_of_the_rollback(told, sources),
        *_of_the_live_records(told, sources),
    ]


def _of_the_account(told: Outcome) -> Iterator[str]:
    account, end = told.account, told.moments["at the end"]
    all_sources, gold = len(told.script.records) + end.live, len(told.script.gold)
    if not account.holds or account.lost or account.doubled or account.unborn:
        yield f"the account does not hold: {account}"
    if account.account.raw != all_sources + 2 * gold:
        yield f"{account.account.raw} raw events, {all_sources + 2 * gold} were published"
    places = {place: count for place, count in account.account.places.items() if count}
    if places != {Place.COMMITTED: all_sources, Place.EXCLUDED: 2 * gold}:
        yield f"not all records are committed and the benchmark excluded: {places}"
    front = {each.source_id: each.request_id for each in told.lives if not each.aside and each.status == "committed"}
    if front != {source: row.request_id for source, row in end.sink.items()}:
        yield f"the sink has {len(end.sink)} rows and is not what stands in front, {len(front)} lives"
    if told.kills != 1:
        yield f"{told.kills} workers were killed, not one"


def _of_the_money(told: Outcome, sources: Sources) -> Iterator[str]:
    sent = [parse_custom_id(bill.custom_id) for bill in told.bills]
    asked = Counter(each.request_id for each in sent if each is not None)
    if twice := [name for name, count in asked.items() if count > 1]:
        yield f"{len(twice)} requests were billed more than once"
    lives = {each.request_id for each in told.lives}
    if lives != asked.keys() or len(sent) != len(told.bills) or None in sent:
        yield f"{len(lives ^ asked.keys())} requests are billed and not known, or known and not billed"
    gold = len(told.script.gold)
    expected = {
        "v1": len(sources.v1) + gold,
        "v2": told.script.sample + gold,
        "v3": len(sources.v3) + gold,
    }
    bills = Counter(bill.model for bill in told.bills)
    for name, count in expected.items():
        if bills[MODELS[name]] != count:
            yield f"{MODELS[name]} has billed {bills[MODELS[name]]} requests, not {count}"
    paid = sum(bill.cost_nanos for bill in told.bills)
    if not told.money_holds or told.cost_nanos != paid:
        yield f"the read model has {told.cost_nanos} nano-dollars, the provider {paid}"


def _of_the_gate(told: Outcome) -> Iterator[str]:
    for purpose, code in (("v2 compared", 3), ("v2 refused", 3), ("v3 compared", 0), ("v3 promoted", 0)):
        if told.given[purpose].code != code:
            yield f"{purpose}: exit code {told.given[purpose].code}, not {code}"
    for name in ("v2", "v3"):
        figures = {side: float(share) / 100 for side, share in _RIGHT.findall(told.given[f"{name} compared"].out)}
        for side, version in (("A", "v1"), ("B", name)):
            if not _is_near(figures.get(side, -1.0), ACCURACY[version], len(told.script.gold)):
                yield f"{name} compared: {side} is right on {figures.get(side)}, its model on {ACCURACY[version]}"
    if any(row.version == told.versions["v2"] for moment in told.moments.values() for row in moment.sink.values()):
        yield "something of v2 is in the sink"
    for moment, version in (("answered", "v1"), ("replayed", "v3"), ("rolled back", "v1")):
        share = right_share(told, told.moments[moment])
        if not _is_near(share, ACCURACY[version], len(told.script.records) // 2):
            yield f"{moment}: {share:.1%} of the sink is right, the model of {version} on {ACCURACY[version]:.0%}"


def _is_near(found: float, expected: float, of: int) -> bool:
    return abs(found - expected) < _DEVIATIONS * sqrt(expected * (1 - expected) / of)


def _of_the_promotion(told: Outcome, sources: Sources) -> Iterator[str]:
    before, after = told.moments["tried out"], told.moments["promoted"]
    v3 = told.versions["v3"]
    if any(row.version != told.versions["v1"] for row in before.sink.values()):
        yield "something of a version that is tried out is in the sink"
    if len(sources.sample) != told.script.sample:
        yield f"v3 was tried out on {len(sources.sample)} records, not {told.script.sample}"
    written = {source for source, row in after.sink.items() if row.version == v3} & sources.both
    if written != sources.sample:
        yield f"{len(written ^ sources.sample)} records were written by the promotion and not tried out, or not written"


def _of_the_replay(told: Outcome, sources: Sources) -> Iterator[str]:
    stale = sources.both - sources.sample
    planned = told.given["stale"].told
    if planned["count"] != len(stale) or planned["by_way"] != {"asked": len(stale)}:
        yield f"the plan of the replay says {planned['by_way']}; {len(stale)} records are stale"
    asked = {each.source_id for each in told.lives if each.run_id == "replay:stale"}
    if asked != stale:
        yield f"{len(asked ^ stale)} records are stale and were not asked again, or the other way round"
    done, again = told.moments["replayed"], told.moments["replayed again"]
    if any(row.version != told.versions["v3"] for row in done.sink.values()):
        yield "something in the sink is not of v3 after the replay"
    plan = told.given["again"].told
    if plan["by_way"] != {"nothing: asked already": plan["count"]} or plan["count"] < len(done.sink):
        yield f"the plan of a replay under the same version says {plan['by_way']}"
    if any(each.run_id == "replay:again" for each in told.lives):
        yield "a replay under the same version has asked something"
    # the sink may be ahead of the read model by what has just been written
    written = [source for source in done.sink if again.sink[source] != done.sink[source]]
    if written or any(again.commits[source] != count for source, count in done.commits.items()):
        yield "a replay under the same version has written something"


def _of_the_rollback(told: Outcome, sources: Sources) -> Iterator[str]:
    v1, after = told.versions["v1"], told.moments["rolled back"]
    first = _rows_of(told, v1, ("answered", "stopped", "tried out", "promoted"))
    if first.keys() != sources.both:
        yield f"{len(first.keys() ^ sources.both)} records were written by v1 and not asked by v3, or not written"
    other = [source for source, row in first.items() if after.sink.get(source) != row]
    if other:
        yield f"{len(other)} records are not in the sink as they were before v3"
    between = _rows_of(told, told.versions["v3"], ("rolled back", "at the end"))
    if between.keys() != sources.between:
        yield f"{len(between)} records keep what v3 has said, {len(sources.between)} have nothing else"
    count = told.given["stale after it"].told["count"]
    if count != len(sources.between):
        yield f"{count} records are told as stale after the rollback, not {len(sources.between)}"
    commits = told.moments["at the end"].commits
    expected = {source: 3 if source in sources.both else 1 for source in sources.v1 | sources.v3}
    if commits != expected:
        wrong = [source for source in commits.keys() | expected.keys() if commits.get(source) != expected.get(source)]
        yield f"{len(wrong)} records were not written once under each version that was in force"


def _rows_of(told: Outcome, version: str, moments: tuple[str, ...]) -> dict[str, Row]:
    """What a version had in the sink at any of these moments."""
    found: dict[str, Row] = {}
    for name in moments:
        found |= {source: row for source, row in told.moments[name].sink.items() if row.version == version}
    return found


def _of_the_live_records(told: Outcome, sources: Sources) -> Iterator[str]:
    counts = [told.moments[name].live for name in MOMENTS[:-1]]
    if counts != sorted(set(counts)):
        yield f"no live record came between two moments: {counts}"
    published = {each.id for each in told.script.live[: told.moments["at the end"].live]}
    sink = {source for source in told.moments["at the end"].sink if source.startswith(LIVE)}
    if sink != published:
        yield f"{len(sink ^ published)} live records were published and not written, or the other way round"
    if not (sources.both & published and sources.between and sources.v1 - sources.v3):
        yield "live records did not come under each version that was in force"
