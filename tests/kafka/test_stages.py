"""Classify, extract from each page of the chosen documents, review the whole: through kill -9, exact in every stage.

The documents are made of real sentences, four to each; whoever asks about one of these gets its gold label. What lives
here: only what a broker and processes can show. The laws are in `streams/test_staging` and `streams/test_joining`.
"""

import json
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import Rig
from batchmill.agents.ingest import SourceRecord, ingest
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector.costs import conservation
from batchmill.agents.projector.metrics import Scope, accounting
from batchmill.agents.projector.queries import LifeRow
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.stages import ancestors, paths
from batchmill.agents.simulator.ledger import read_ledger
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.jobs import ChunkSpec, JobSpec, JudgeSpec, ModeSpec, PlaceSpec, RuleSpec
from batchmill.schemas.promotion import JoinSpec, ThenSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Place, Status
from batchmill.schemas.versions import version_of
from batchmill.streams.redriving import command_body
from tests.kafka.small_rig import command_line, eventually, small_rig, the_lives
from tests.streams.test_drifting import shuffled

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

DOCUMENTS, PAGES = 24, 4
#: a worker that was killed is missed soon
QUICK_TO_RETURN = {
    "runtime.session_timeout_seconds": 6,
    "runtime.heartbeat_seconds": 1,
    "runtime.rebalance_timeout_seconds": 15,
}
OUTPUT = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["pos", "neu", "neg"]}},
    "required": ["label"],
    "additionalProperties": False,
}


def stage(job: str, user: str, *, sink: str = "sqlite", **changes: Any) -> JobSpec:
    spec = JobSpec(
        job=job,
        ask=AskSpec(
            user=user,
            model=ModelSpec(provider="openai", name="gpt-5-mini", params_json='{"max_output_tokens":60}'),
            output_schema_json=json.dumps(OUTPUT),
        ),
        mode=ModeSpec(chunk=ChunkSpec(max_count=20, max_age_seconds=0.3)),
        place=PlaceSpec(sink=sink, table=job),
    )
    return replace(spec, **changes)


CLASSIFY = stage(
    "classify",
    "{{ input.title }}",
    sink="none",
    then=(ThenSpec(job="extract", when='output.label == "neg"', split="$.input.pages"),),
)
EXTRACT = stage("extract", "{{ input.item }}", then=(ThenSpec(job="review"),))
REVIEW = stage(
    "review",
    "{% for part in input.parts %}{{ part.output.label }}: {{ part.input.item }}\n{% endfor %}",
    join=JoinSpec(deadline_seconds=120),
    # a late stage that fails for good on some: pages that are all of one mind are none of its business
    judge=JudgeSpec(
        rules=(RuleSpec(id="mixed", require='!input.parts.all(part, part.output.label == "neg")'),), on_reject="dead"
    ),
)


def documents() -> dict[str, dict[str, Any]]:
    """Titles and pages are sentences; those of every third document are all negative."""
    rows = shuffled("movieReviewSnippets", 3)
    negative = [row for row in rows if row["label"] == "neg"]
    mixed = [row for row in rows if row["label"] != "neg"]
    made: dict[str, dict[str, Any]] = {}
    for number in range(DOCUMENTS):
        title = (negative if number % 2 else mixed).pop()
        pool = negative if number % 3 == 0 else mixed
        pages = [pool.pop() for _ in range(PAGES)]
        made[f"doc-{number:03d}"] = {
            "rows": [title, *pages],
            "title": title["text"],
            "pages": [p["text"] for p in pages],
        }
    return made


def chosen(made: Mapping[str, Any]) -> list[str]:
    return [source for source, doc in made.items() if doc["rows"][0]["label"] == "neg"]


def refused(made: Mapping[str, Any]) -> list[str]:
    return [source for source in chosen(made) if {row["label"] for row in made[source]["rows"][1:]} == {"neg"}]


async def apply(rig: Rig, spec: JobSpec) -> None:
    applied = await issue(
        rig.settings, "apply", spec.job, actor="me", version=version_of(spec), body_json=spec.to_json(), wait_seconds=30
    )
    assert applied.effective


async def publish(rig: Rig, made: Mapping[str, Any]) -> None:
    records = (
        SourceRecord(line=n, key=source.encode(), value=json.dumps({"title": d["title"], "pages": d["pages"]}).encode())
        for n, (source, d) in enumerate(made.items(), 1)
    )
    report = await ingest(rig.settings, records, run="r", job="classify")
    assert report.sent == len(made)


def settled(rig: Rig, job: str, count: int) -> list[LifeRow]:
    """The lives of a job once there are `count` of them and all have ended; else none."""
    lives = the_lives(rig, job)
    ended = all(life.status in {Status.COMMITTED, Status.FAILED_TERMINAL} for life in lives)
    return lives if len(lives) == count and ended else []


def asked(rig: Rig) -> Counter[str]:
    """How often the provider has billed each request."""
    bills = read_ledger(rig.plan.work_dir / "simulator" / "ledger.jsonl").bills
    sent = [parse_custom_id(bill.custom_id) for bill in bills]
    return Counter(each.request_id for each in sent if each is not None)


def of_job(bills: Counter[str], lives: list[LifeRow]) -> list[int]:
    return [bills[life.request_id] for life in lives]


async def kill_the_worker(rig: Rig) -> None:
    starts = rig.group.starts("worker-1")
    assert rig.group.send("worker-1", signal.SIGKILL)
    await eventually("the worker is started again", lambda: rig.group.starts("worker-1") > starts)


async def told(rig: Rig, *words: str) -> Any:
    command = await command_line(rig, *words)
    out, error = await command.communicate()
    assert command.returncode == 0, error
    return json.loads(out) if "--json" in words else out.decode()


async def test_three_stages_are_exact_whoever_is_killed_and_a_late_failure_runs_no_early_stage_again(
    broker: RunningCluster, topic_prefix: str, tmp_path: Path
) -> None:
    made = documents()
    picked, bad = chosen(made), refused(made)
    assert len(bad) > 3
    assert len(picked) - len(bad) > 3
    gold = tmp_path / "gold.jsonl"
    rows = [row for doc in made.values() for row in doc["rows"]]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"topic_prefix": topic_prefix, **QUICK_TO_RETURN}
    async with small_rig(tmp_path, broker, REVIEW, settings, gold_path=gold) as rig:
        await apply(rig, EXTRACT)
        await apply(rig, CLASSIFY)
        await publish(rig, made)
        await eventually("the first commits have fired", lambda: len(the_lives(rig, "extract")) > 0)
        await kill_the_worker(rig)
        await eventually("the first wholes are joined", lambda: len(the_lives(rig, "review")) > 0)
        await kill_the_worker(rig)

        reviews = await eventually("all are reviewed", lambda: settled(rig, "review", len(picked)))
        pages = await eventually("all pages are read", lambda: settled(rig, "extract", PAGES * len(picked)))
        titles = await eventually("all titles are read", lambda: settled(rig, "classify", DOCUMENTS))

        assert {life.status for life in (*titles, *pages)} == {Status.COMMITTED}
        failed = [life for life in reviews if life.status is Status.FAILED_TERMINAL]
        assert sorted(life.source_id for life in failed) == sorted(bad)
        assert {life.reason for life in failed} == {Reason.RULE_FAILED}
        assert sorted(life.source_id for life in pages) == sorted(
            f"{s}#{n}" for s in picked for n in range(1, PAGES + 1)
        )
        bills = asked(rig)
        assert set(of_job(bills, titles)) == set(of_job(bills, pages)) == set(of_job(bills, reviews)) == {1}

        whole_again = command_body(requests=[life.request_id for life in failed], letters=[])
        await issue(rig.settings, "redrive", "review", actor="me", version=None, body_json=whole_again, wait_seconds=30)
        await eventually("they fail once more", lambda: sum(asked(rig).values()) == sum(bills.values()) + len(bad))
        again = await eventually("and end", lambda: settled(rig, "review", len(picked)))
        after = asked(rig)
        assert set(of_job(after, titles)) == set(of_job(after, pages)) == {1}, (
            "a late failure runs no early stage again"
        )
        assert Counter(of_job(after, again)) == {1: len(picked) - len(bad), 2: len(bad)}

        await eventually("the money adds up", lambda: money_holds(rig))
        with View(rig.settings.view_path) as view:
            places = {job: accounting(view, Scope(job=job)) for job in ("classify", "extract", "review")}
            assert all(found.holds and not found.lost for found in places.values())
            assert [places[job].account.raw for job in places] == [DOCUMENTS, len(pages), len(pages)]
            joined = places["review"].account.places
            assert joined[Place.EXCLUDED] == (PAGES - 1) * len(picked), "all parts but the last are accounted for"
            assert (joined[Place.COMMITTED], joined[Place.DEAD_LETTERED]) == (len(picked) - len(bad), len(bad))
            up = [each.job for each in ancestors(view, again[0].request_id)]
            assert up == ["classify"], "the whole is what was split"
            costs = {each.path: each for each in paths(view)}
        chain = ("classify", "extract", "review")
        assert list(costs) == [chain[:1], chain[:2], chain]
        ledger = read_ledger(rig.plan.work_dir / "simulator" / "ledger.jsonl")
        assert sum(each.own_nanos for each in costs.values()) == ledger.cost_nanos
        titles_of = {life.source_id: life.cost_nanos for life in titles}
        shared = sum(titles_of[source] for source in picked)
        own = costs[chain].own_nanos + costs[chain[:2]].own_nanos
        assert costs[chain].all_nanos == own + shared, "a title is counted once, whatever its pages"

        drawn = await told(rig, "job", "graph", "--costs")
        assert '└─ extract  for each of $.input.pages  when output.label == "neg"  [' in drawn
        story = (await told(rig, "explain", again[0].request_id, "--json"))["stories"][0]
        assert [each["job"] for each in story["stems_from"]] == ["classify"]
        page = next(life for life in pages if life.source_id.startswith(f"{again[0].source_id}#"))
        started = (await told(rig, "explain", page.request_id, "--json"))["stories"][0]["started"]
        assert [each["request_id"] for each in started] == [again[0].request_id]


def money_holds(rig: Rig) -> bool:
    with View(rig.settings.view_path) as view:
        return conservation(view, Scope().values).holds
