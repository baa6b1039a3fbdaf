"""A job with a cheap question, a dear route and a cascade, on a real Kafka and the simulator: who is asked, and billed.

What lives here: only what a broker, a process that is killed and a ledger can show. The laws are those of
`streams/test_routing` and `streams/test_escalating`.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from batchmill.schemas.records import Result
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status
from tests.chaos.evidence import Evidence
from tests.chaos.invariants import check
from tests.chaos.judging import Expect
from tests.chaos.mill import Mill, eventually, running_mill
from tests.chaos.workload import JOB_DIR, Event, Kind, answers_to, mark_of, write_gold

CHEAP, DEAR = "gpt-5-nano", "gpt-5-mini"
ORDINARY, HARD = 80, 12
#: the cheap model is wrong so often; nobody else is
CHEAP_IS_RIGHT = 0.7
#: a record is hard if its text is longer than this
_LONG_CHARS = 90

_ROUTES = f"""
  routes:
    - name: hard
      when: size(input.text) > {_LONG_CHARS}
      model: {{provider: openai, name: {DEAR}, params: {{max_completion_tokens: 400}}}}
      prompt: {{user: careful.j2}}
    - name: again
      model: {{provider: openai, name: {DEAR}, params: {{max_completion_tokens: 300}}}}
  cascade: {{routes: [again], on: [rejected]}}
"""
_JUDGE = """
judge:
  rules: [{id: right, require: "output.mark == input.mark"}]
  on_reject: dead
"""


def job_folder(directory: Path) -> Path:
    """The chaos job, asked of a cheap model, by rules that see a wrong answer, with one attempt of each."""
    folder = directory / "job"
    shutil.copytree(JOB_DIR, folder)
    file = folder / "job.yaml"
    text = file.read_text().replace(DEAR, CHEAP).replace("max_count: 150", "max_count: 20")
    head, _, rest = text.partition("judge:\n")
    text = head.replace("\nmode:", f"{_ROUTES}\nmode:") + _JUDGE + "retry:" + rest.partition("retry:")[2]
    file.write_text(text.replace("max_attempts: 4", "max_attempts: 1"))
    (folder / "careful.j2").write_text("{{ input.text }}")
    schema = json.loads((folder / "input.schema.json").read_text())
    schema["properties"]["mark"] = {"type": "string"}
    (folder / "input.schema.json").write_text(json.dumps(schema | {"required": ["text", "mark"]}))
    return folder


def made() -> list[Event]:
    ordinary = [f"an ordinary text of source number {n:03d}" for n in range(ORDINARY)]
    hard = [f"a text of source number {n:03d} {'that goes on and on, ' * 4}for a while" for n in range(HARD)]
    return [
        Event(Kind.FRESH, f"s-{n:03d}".encode(), json.dumps({"text": text, "mark": mark_of(text)}).encode())
        for n, text in enumerate([*ordinary, *hard])
    ]


@asynccontextmanager
async def a_mill(bootstrap: str, prefix: str, directory: Path) -> AsyncIterator[Mill]:
    write_gold(directory / "gold.jsonl", made())
    async with running_mill(
        bootstrap,
        directory,
        prefix=prefix,
        gold=directory / "gold.jsonl",
        job_dir=job_folder(directory),
        latency_seconds=(0.3, 0.6),
        model_accuracy={CHEAP: CHEAP_IS_RIGHT},
    ) as mill:
        await mill.pool.start("worker-1")
        await mill.apply()
        yield mill


async def test_each_model_is_billed_for_the_records_that_needed_it_and_for_no_other(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with a_mill(bootstrap_servers, topic_prefix, tmp_path) as mill:
        await mill.ingest(made())
        assert await eventually(lambda: mill.watcher.counts["results"] >= ORDINARY // 4, seconds=60), "nothing came"
        await mill.pool.kill("worker-1")
        await mill.pool.start("worker-2")
        assert await mill.drained(90), "it did not go on"
        codes = await mill.pool.stop_all()
        assert set(codes.values()) == {0}
        evidence = await mill.evidence()
    findings = check(evidence, Expect(answers_to=answers_to))
    assert [str(finding) for finding in findings if not finding.holds] == []
    _billed_as_needed(evidence)


def _billed_as_needed(evidence: Evidence) -> None:
    assert evidence.ledger is not None
    asked = defaultdict[str, list[str]](list)
    for bill in evidence.ledger.bills:
        asked[bill.custom_id.partition("-")[0]].append(bill.model)
    lives = [row for row in evidence.rows().values() if isinstance(row, Life)]
    needed = _needed(evidence)
    assert {life.request_id: sorted(asked[life.request_id]) for life in lives} == {
        request: sorted(models) for request, models in needed.items()
    }
    assert {life.status for life in lives} == {Status.COMMITTED}
    assert Counter(life.route for life in lives) == _routes(needed)
    assert sum(life.cost_nanos for life in lives) == evidence.ledger.cost_nanos


def _needed(evidence: Evidence) -> dict[str, tuple[str, ...]]:
    """Whom each request needed: the dear model where it is hard, or where the cheap one's own words were wrong."""
    said = {(row.request_id, row.model): row for row in evidence.values("results") if isinstance(row, Result)}
    found: dict[str, tuple[str, ...]] = {}
    for item in evidence.values("normalized"):
        given = json.loads(item.input_json)
        if len(given["text"]) > _LONG_CHARS:
            found[item.request_id] = (DEAR,)
            continue
        cheap = said[item.request_id, CHEAP]
        assert cheap.route == ""
        right = json.loads(cheap.output or "")["mark"] == given["mark"]
        found[item.request_id] = (CHEAP,) if right else (CHEAP, DEAR)
    return found


def _routes(needed: dict[str, tuple[str, ...]]) -> Counter[str]:
    named = {(DEAR,): "hard", (CHEAP,): "", (CHEAP, DEAR): "again"}
    found = Counter(named[models] for models in needed.values())
    assert found["hard"] == HARD
    assert 0 < found["again"] < ORDINARY // 2, "the cheap model was never wrong, or always"
    return found
