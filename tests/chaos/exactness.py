"""One run from the first record to the verdict: feed, kill, drain, ask everybody, judge.

What lives here: the course of a run, the simulator's misbehaviour during it, and what is printed. What must not: the
faults (`script`) and the promises (`invariants`) themselves.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchmill.agents.kafka import LocalCluster
from batchmill.agents.simulator import Fault, FaultPlan, FaultRule
from tests.chaos.control import Passed
from tests.chaos.evidence import Evidence
from tests.chaos.invariants import check
from tests.chaos.judging import LABEL_CHUNK, Expect, Finding
from tests.chaos.mill import Mill, running_mill
from tests.chaos.script import FULL, QUICK, WORKERS, Kill, Run, Script
from tests.chaos.workload import REASON_OF, Event, answers_to, events, usable, write_gold

__all__ = ["FAULTS", "Plan", "Report", "exactness", "table"]

#: longer than a worker takes to come back: what it had in hand is not yet at rest
QUIET_SECONDS = 5.0
#: what the provider does wrong meanwhile; some 3 % of rows, and every tenth call that matters
FAULTS: FaultPlan = {
    Fault.SHUFFLED: FaultRule(rate=1.0),
    Fault.ACCEPT_THEN_500: FaultRule(rate=0.05),
    Fault.ACCEPT_THEN_DISCONNECT: FaultRule(rate=0.05),
    Fault.ACCEPT_THEN_HANG: FaultRule(rate=0.03, seconds=6.0),
    Fault.REJECT_500: FaultRule(rate=0.03),
    Fault.REJECT_429: FaultRule(rate=0.03, seconds=1.0),
    Fault.UPLOAD_500: FaultRule(rate=0.03),
    Fault.UPLOAD_ACCEPT_THEN_500: FaultRule(rate=0.03),
    Fault.RETRIEVE_500: FaultRule(rate=0.03),
    Fault.LIST_500: FaultRule(rate=0.05),
    Fault.LIST_LAG: FaultRule(rate=0.2, seconds=1.0),
    Fault.DOWNLOAD_500: FaultRule(rate=0.05),
    Fault.DOWNLOAD_DISCONNECT: FaultRule(rate=0.05),
    Fault.EXPIRE: FaultRule(rate=0.05, share=0.3),
    Fault.LATE_OUTPUT_FILE: FaultRule(rate=0.1, seconds=0.7),
    Fault.STATUS_FLAP: FaultRule(rate=0.1),
    Fault.ROW_500: FaultRule(rate=0.02),
    Fault.ROW_429: FaultRule(rate=0.005),
    Fault.ROW_MISSING: FaultRule(rate=0.002),
    Fault.ROW_DUPLICATED: FaultRule(rate=0.005),
    Fault.ROW_UNKNOWN: FaultRule(rate=0.002),
    Fault.ROW_BROKEN_LINE: FaultRule(rate=0.002),
    Fault.MALFORMED_JSON: FaultRule(rate=0.003),
    Fault.SCHEMA_VIOLATION: FaultRule(rate=0.003),
    Fault.REFUSAL: FaultRule(rate=0.001, transient=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How big a run is."""

    script: Script
    per_second: float  #: records fed, so that all stages are busy while things die
    drain_seconds_max: float
    kills_min: int
    open_transactions_min: int
    accepted_min: int

    @classmethod
    def of(cls, *, quick: bool) -> "Plan":
        if quick:
            return cls(
                script=QUICK,
                per_second=150,
                drain_seconds_max=90,
                kills_min=4,
                open_transactions_min=1,
                accepted_min=1,
            )
        return cls(
            script=FULL,
            per_second=125,
            drain_seconds_max=300,
            kills_min=6,
            open_transactions_min=4,
            accepted_min=1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to."""

    seed: int
    records: int
    seconds: float
    drained: bool
    kills: Sequence[Kill]
    findings: Sequence[Finding]
    figures: Mapping[str, object]
    shortfalls: Sequence[str]  #: what the run should have hit and did not

    @property
    def holds(self) -> bool:
        return self.drained and not self.shortfalls and all(finding.holds for finding in self.findings)


async def exactness(cluster: LocalCluster, directory: Path, *, records: int, seed: int, quick: bool) -> Report:
    """One run; leaves no process behind."""
    began_s = time.monotonic()
    plan, made = Plan.of(quick=quick), events(records, seed)
    gold = directory / "gold.jsonl"
    directory.mkdir(parents=True, exist_ok=True)
    write_gold(gold, made)
    prefix = f"exact-{os.urandom(3).hex()}"
    async with running_mill(
        cluster.bootstrap_servers, directory, prefix=prefix, gold=gold, faults=FAULTS, seed=seed
    ) as mill:
        for name in WORKERS:
            await mill.pool.start(name)
        await mill.apply()
        feeding = asyncio.create_task(mill.ingest(made, per_second=plan.per_second))
        run = Run(mill, cluster, records)
        for step in plan.script:
            await step(run)
        await feeding
        drained = await mill.drained(plan.drain_seconds_max, quiet_seconds=QUIET_SECONDS)
        codes = await mill.pool.stop_all()
        evidence = await mill.evidence()
        findings = [*check(evidence, Expect(answers_to=answers_to, usable=usable)), _strangers(evidence, made)]
        return Report(
            seed=seed,
            records=records,
            seconds=time.monotonic() - began_s,
            drained=drained,
            kills=tuple(run.kills),
            findings=findings,
            figures=_figures(mill, evidence, codes),
            shortfalls=tuple(_shortfalls(plan, run.kills, codes)),
        )


def _strangers(evidence: Evidence, made: Sequence[Event]) -> Finding:
    """Every malformed or filtered event is where its kind belongs, for the reason its kind has."""
    reasons: dict[bytes, set[str]] = {}
    raw = {(seen.place.partition, seen.place.offset): seen.key for seen in evidence.raw}
    for kind in ("dead-letter", "excluded"):
        for letter in evidence.values(kind):
            key = raw.get((letter.origin.partition, letter.origin.offset)) or b""
            reasons.setdefault(key, set()).add(str(letter.reason))
    wanted = [(event.key, event.kind) for event in made if event.kind in REASON_OF]
    wrong = [
        f"{kind} event {key.decode()} ended as {sorted(reasons.get(key, ()))}"
        for key, kind in wanted
        if reasons.get(key) != {str(REASON_OF[kind])}
    ]
    return Finding("strangers_put_down", len(wanted), tuple(wrong))


def _shortfalls(plan: Plan, kills: Sequence[Kill], codes: Mapping[str, int | None]) -> Iterator[str]:
    for kill in kills:
        if not kill.proven:
            yield f"{kill.what} of {kill.who} did not hit what it was for: {kill.hit}"
    open_ones = sum(1 for kill in kills if kill.open_transaction and kill.is_kill)
    counts = (
        ("kill -9", sum(1 for kill in kills if kill.is_kill), plan.kills_min),
        ("kills in an open transaction", open_ones, plan.open_transactions_min),
        ("kills between acceptance and open", sum(kill.accepted_not_open for kill in kills), plan.accepted_min),
    )
    yield from (f"{have} {what}, {least} wanted" for what, have, least in counts if have < least)
    yield from (f"{name} ended with exit code {code} when asked to stop" for name, code in codes.items() if code != 0)


def _figures(mill: Mill, evidence: Evidence, codes: Mapping[str, int | None]) -> dict[str, object]:
    ledger = evidence.ledger
    assert ledger is not None
    chunks = {made.metadata.get(LABEL_CHUNK) for made in ledger.batches_created}
    ends = Counter(f"{end.name}: {end.code}" for end in mill.pool.ends)
    statuses = Counter(str(status) for status in mill.watcher.lives.values())
    faults = Counter(request.fault for request in ledger.requests if request.fault)
    return {
        "lives": ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())),
        "dead letters": len(evidence.values("dead-letter")),
        "excluded": len(evidence.values("excluded")),
        "rows in the sink": len(evidence.sink),
        "batches, chunks of them": f"{len(ledger.batches_created)}, {len(chunks)}",
        "bills": f"{len(ledger.bills)}, {ledger.cost_nanos / 1e9:.4f} USD",
        "provider faults": ", ".join(f"{n} {fault}" for fault, n in sorted(faults.items())),
        "transactions visible, lost": f"{len(evidence.visible)}, {len(evidence.written.keys() - evidence.visible)}",
        "fences": len(evidence.markers),
        "worker starts, ends": f"{mill.pool.starts}; " + ", ".join(f"{n}x {end}" for end, n in sorted(ends.items())),
    }


def table(report: Report, controls: Sequence[Passed] = ()) -> str:
    """The page that is printed."""
    lines = [f"exactness: {report.records} records, seed {report.seed}, {report.seconds:.0f} s", "", "faults"]
    for n, kill in enumerate(report.kills, start=1):
        sign = " " if kill.proven else "!"
        lines += [
            f" {sign}{n:2} {kill.at_s:6.1f} s  {kill.what}  {kill.who}   ({kill.moment})",
            f"      -> {kill.hit}",
        ]
    lines += ["", f"{'promise':26}{'checked':>10}{'violations':>12}"]
    for finding in report.findings:
        lines.append(f"{finding.name:26}{finding.checked:>10}{len(finding.violations):>12}")
        lines += [f"    {violation}" for violation in finding.violations[:5]]
    lines += ["", *(f"{name:28}{value}" for name, value in report.figures.items())]
    if controls:
        lines += ["", "control: one kill script, two drivers", *(f"  {passed}" for passed in controls)]
    lines += ["", *(f"SHORTFALL {each}" for each in report.shortfalls)]
    if not report.drained:
        lines.append("SHORTFALL the pipeline did not come to rest in time")
    return "\n".join([*lines, "EXACT" if report.holds else "NOT PROVEN", ""])
