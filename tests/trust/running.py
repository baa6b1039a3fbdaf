"""Real addresses through the whole pipeline, with a model that makes mistakes its schema allows.

    job addresses          rules and citations only
    job addresses-checked  the same, and a second model has to say the same

What lives here: running it, and where each record came to rest. What must not: what counts as wrong (`table`).
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchmill.agents.cli.bodies import read_bodies
from batchmill.agents.clock import monotonic_s
from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import Rig, RigPlan, running_rig
from batchmill.agents.ingest import SourceRecord, ingest
from batchmill.agents.jobs import load_job
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector import queries
from batchmill.agents.projector.queries import LifeRow
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.simulator import SimulatorConfig, parse_fault
from batchmill.schemas.status import Status
from tests.trust.gold import Address, gold_lines
from tests.trust.table import Told

__all__ = ["CHECKED", "RULES_ONLY", "Outcome", "run"]

JOBS = Path(__file__).with_name("jobs")
RULES_ONLY, CHECKED, SECOND = "addresses", "addresses-checked", "addresses-second"
TABLES = {RULES_ONLY: "addresses", CHECKED: "addresses_checked"}
FAULTS = ("malformed_json=0.02", "schema_violation=0.01", "row_500=0.01", "shuffled")
ACCURACY = 0.75
_REST = frozenset({Status.COMMITTED, Status.NEEDS_REVIEW, Status.FAILED_TERMINAL})
_LOOK_SECONDS = 0.3
_DRAIN_SECONDS_MAX = 240.0
_QUIET_LOOKS = 6  #: at rest so many looks in a row: nothing is on its way between two tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where every record of one job came to rest."""

    job: str
    told: tuple[Told, ...]
    sink_rows: int


async def run(
    folder: Path,
    cluster: RunningCluster,
    known: Sequence[Address],
    *,
    seed: int = 5,
    say: Callable[[str], None] = print,
) -> dict[str, Outcome]:
    """Publish every address to both jobs and wait until all is at rest."""
    gold = folder / "gold.jsonl"
    gold.write_text("".join(gold_lines(known)), encoding="utf-8")
    simulator = SimulatorConfig(
        data_dir=folder / "simulator",
        seed=seed,
        accuracy=ACCURACY,
        gold_path=gold,
        latency_seconds=(0.1, 0.4),
        faults=dict(map(parse_fault, FAULTS)),
    )
    plan = RigPlan(work_dir=folder, workers=2, simulator=simulator, settings={"partitions": 4})
    async with running_rig(plan, cluster, say=say) as rig:
        for job in (SECOND, RULES_ONLY, CHECKED):
            await _apply(rig, job)
        for job in TABLES:
            await _publish(rig, job, known)
        await _at_rest(rig, expected=len(TABLES) * len(known))
        return {job: await _outcome(rig, job, known) for job in TABLES}


async def _apply(rig: Rig, job: str) -> None:
    loaded = load_job(JOBS / job)
    issued = await issue(
        rig.settings,
        "apply",
        job,
        actor="trust",
        version=loaded.version,
        body_json=loaded.spec.to_json(),
        wait_seconds=30,
    )
    assert issued.effective, f"{job} is not in effect in tasks {issued.laggards}"


async def _publish(rig: Rig, job: str, known: Sequence[Address]) -> None:
    records = (
        SourceRecord(line=number, key=each.id.encode(), value=json.dumps({"text": each.text}).encode())
        for number, each in enumerate(known, 1)
    )
    report = await ingest(rig.settings, records, run=f"{job}-1", job=job)
    assert report.sent == len(known)


async def _at_rest(rig: Rig, *, expected: int) -> None:
    deadline_s, quiet = monotonic_s() + _DRAIN_SECONDS_MAX, 0
    while quiet < _QUIET_LOOKS:
        assert monotonic_s() < deadline_s, f"not at rest in time; see {rig.plan.work_dir / 'logs'}"
        await asyncio.sleep(_LOOK_SECONDS)
        lives = await asyncio.to_thread(_lives, rig)
        mine = [life for life in lives if life.job in TABLES]
        waits = [life for life in lives if life.status not in _REST or life.reason == "awaiting_score"]
        quiet = quiet + 1 if len(mine) == expected and not waits else 0


def _lives(rig: Rig) -> list[LifeRow]:
    try:
        with View(rig.settings.view_path) as view:
            return queries.lives(view, limit=100_000)
    except ViewMissingError:
        return []


async def _outcome(rig: Rig, job: str, known: Sequence[Address]) -> Outcome:
    with closing(sqlite3.connect(rig.settings.sink_path)) as sink:
        rows: dict[str, str] = dict(sink.execute(f"SELECT source_id, output_json FROM {TABLES[job]}"))
    lives = {life.source_id: life for life in _lives(rig) if life.job == job}
    answers = await _answers(rig, [life for life in lives.values() if life.status is not Status.COMMITTED])
    told = []
    for each in known:
        life = lives[each.id]
        in_sink = each.id in rows
        assert in_sink == (life.status is Status.COMMITTED), (
            f"{life.request_id} is {life.status}; in the sink: {in_sink}"
        )
        output = json.loads(rows[each.id]) if in_sink else answers.get(life.request_id)
        told.append(Told(source_id=each.id, gold=each.answer, output=output, place=_place(life)))
    return Outcome(job=job, told=tuple(told), sink_rows=len(rows))


def _place(life: LifeRow) -> str:
    match life.status:
        case Status.COMMITTED:
            return "sink"
        case Status.NEEDS_REVIEW:
            return f"review: {life.reason}"
        case _:
            return f"dead letter: {life.reason}"


async def _answers(rig: Rig, lives: Sequence[LifeRow]) -> dict[str, Any]:
    """The newest answer of each, when it is JSON of the schema's kind."""
    places = {("results", life.partition, life.result_offset): life for life in lives if life.result_offset is not None}
    found = await read_bodies(rig.settings, list(places))
    told: dict[str, Any] = {}
    for at, body in found.items():
        try:
            output = json.loads(body.get("output") or "")
        except json.JSONDecodeError:
            continue
        if isinstance(output, dict) and {"label", "components"} <= output.keys():
            told[places[at].request_id] = output
    return told
