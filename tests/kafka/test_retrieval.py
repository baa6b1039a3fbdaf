"""Questions about batchmill's own documentation, answered with quotes from it, through the whole pipeline.

What lives here: only what a broker and processes can show: records wait for a snapshot that is not there, a worker is
killed twice, every quote that is in the sink stands in what its record was shown, and nothing is paid twice.
"""

import json
import re
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.bodies import read_bodies
from batchmill.agents.demo.rig import Rig
from batchmill.agents.ingest import SourceRecord, ingest
from batchmill.agents.jobs import load_job
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.retrieval.building import build_index
from batchmill.agents.retrieval.library import load_index
from batchmill.agents.retrieval.searching import Index
from batchmill.agents.simulator import read_ledger
from batchmill.schemas.asking import RetrievalSpec
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.status import Status
from batchmill.streams.citing import Texts, compile_citation, uncited
from batchmill.streams.indexing import Cutting, Piece
from batchmill.streams.retrieving import Inquiry, found_for
from tests.kafka.small_rig import eventually, small_rig, the_lives

pytestmark = [pytest.mark.timeout(180)]

PAGES = Path(__file__).parents[2] / "docs"
STAFF_ONLY = frozenset({"budgets", "costs", "money", "operations"})
NOW_MS = 1_800_000_000_000
RECORDS = 120
QUOTE_CHARS = 60
ACCURACY = 0.75
AT_REST = frozenset({Status.COMMITTED, Status.NEEDS_REVIEW})

JOB = """\
job: ask-docs
input: {schema: input.schema.json}
ask:
  prompt: {system: system.j2, user: user.j2}
  model: {provider: openai, name: gpt-5-mini, params: {max_output_tokens: 400}}
  output: output.schema.json
  retrieval: {index: docs.index.json, query: $.question, allow: $.team, top: 4, tokens_max: 700, on_empty: dead}
mode: {chunk: {max_count: 20, max_age: 500ms}}
judge:
  citations: [{id: quoted, field: quotes, quote: text, source: source, within: $.context}]
  rules: [{id: two, require: "size(output.quotes) == 2"}]
  on_reject: review
place: {sink: sqlite, table: answers}
"""
QUOTE = {
    "type": "object",
    "properties": {"source": {"type": "string"}, "text": {"type": "string"}},
    "required": ["source", "text"],
    "additionalProperties": False,
}
FILES = {
    "job.yaml": JOB,
    "system.j2": "Answer with two quotes from the passages, word for word, each with the id of its passage.",
    "user.j2": "{% for each in input.context %}[{{ each.id }}]\n{{ each.text }}\n\n{% endfor %}{{ input.question }}",
    "input.schema.json": json.dumps(
        {
            "type": "object",
            "properties": {"question": {"type": "string"}, "team": {"type": "string"}},
            "required": ["question", "team"],
            "additionalProperties": False,
        }
    ),
    "output.schema.json": json.dumps(
        {
            "type": "object",
            "properties": {"quotes": {"type": "array", "items": QUOTE}},
            "required": ["quotes"],
            "additionalProperties": False,
        }
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One record, what it must be shown, and the right answer."""

    source: str
    question: str
    team: str
    context: tuple[dict[str, str], ...]
    answer: Mapping[str, Any]


def pages() -> list[dict[str, Any]]:
    found = []
    for file in sorted(PAGES.glob("*.md")):
        told = {"id": file.stem, "text": file.read_text("utf-8")}
        found.append(told | ({"allow": ["staff"]} if file.stem in STAFF_ONLY else {}))
    return found


def questions() -> list[str]:
    """What the pages' own headings and table rows speak of."""
    lines = [line for page in pages() for line in page["text"].splitlines()]
    told = [re.sub(r"[#|`*]", " ", line).strip() for line in lines if line.startswith(("#", "| "))]
    return [f"What about this: {' '.join(each.split())[:120]}?" for each in dict.fromkeys(told) if len(each) > 8]


def the_answer(shown: list[Piece]) -> Mapping[str, Any] | None:
    """A quote from each of the first two pieces; None where one of them says the same as the other."""
    quotes = [{"source": piece.id, "text": piece.text[:QUOTE_CHARS].strip()} for piece in shown[:2]]
    if len(quotes) < 2 or any(quote["text"] in other.text for quote, other in zip(quotes, shown[1::-1], strict=True)):
        return None
    return {"quotes": quotes}


def asked(spec: RetrievalSpec, index: Index) -> list[Asked]:
    found: list[Asked] = []
    for number, question in enumerate(questions()):
        team = "staff" if number % 2 else "guest"
        shown = found_for(spec, index, Inquiry(query=question, groups=frozenset({team}), at_ms=NOW_MS))
        answer = the_answer(shown)
        if answer is not None:
            context = tuple({"id": each.id, "document": each.document.id, "text": each.text} for each in shown)
            found.append(Asked(source=f"q{number}", question=question, team=team, context=context, answer=answer))
    assert len(found) >= RECORDS
    return found[:RECORDS]


async def the_job(folder: Path, store: FilePayloadStore) -> JobSpec:
    job = folder / "job"
    job.mkdir()
    for name, text in FILES.items():
        (job / name).write_text(text)
    documents = folder / "docs.jsonl"
    documents.write_text("".join(json.dumps(page) + "\n" for page in pages()))
    cutting = Cutting(tokens_max=150, overlap_tokens=20)
    await build_index(documents, name="docs", folder=job, store=store, cutting=cutting, embedder=None, now_ms=NOW_MS)
    return load_job(job).spec


async def publish(rig: Rig, records: list[Asked], *, run: str) -> None:
    rows = (
        SourceRecord(
            line=number,
            key=each.source.encode(),
            value=json.dumps({"question": each.question, "team": each.team}).encode(),
        )
        for number, each in enumerate(records, 1)
    )
    report = await ingest(rig.settings, rows, run=run, job="ask-docs")
    assert report.sent == len(records)


def counted(rig: Rig, sql: str) -> int:
    try:
        with View(rig.settings.view_path) as view:
            row = view.row(sql, ())
    except ViewMissingError:
        return 0
    return 0 if row is None else int(row[0])


async def kill_the_worker(rig: Rig) -> None:
    starts = rig.group.starts("worker-1")
    assert rig.group.send("worker-1", signal.SIGKILL)
    await eventually("the worker is started again", lambda: rig.group.starts("worker-1") > starts)


def at_rest(rig: Rig) -> int:
    return sum(life.status in AT_REST for life in the_lives(rig, "ask-docs"))


def billed(rig: Rig) -> int:
    return len(read_ledger(rig.plan.simulator.ledger_file).bills)


async def test_every_quote_in_the_sink_stands_in_what_its_record_was_shown_whoever_is_killed(
    broker: RunningCluster, topic_prefix: str, tmp_path: Path
) -> None:
    store = FilePayloadStore(directory=tmp_path / "data" / "payloads")
    spec = await the_job(tmp_path, store)
    retrieval = spec.ask.retrieval
    assert retrieval is not None
    records = asked(retrieval, await load_index(store, retrieval.sha256))
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps({"text": each.question, "label": each.answer}) + "\n" for each in records))
    snapshot = next((tmp_path / "data" / "payloads" / "sha256").glob(f"*/{retrieval.sha256}"))
    away = snapshot.rename(tmp_path / "away")

    settings = {"topic_prefix": topic_prefix}
    async with small_rig(tmp_path, broker, spec, settings, gold_path=gold, accuracy=ACCURACY) as rig:
        await publish(rig, records, run="first")
        waiting = "SELECT count(*) FROM arrivals WHERE waiting_for = 'index'"
        await eventually("every record waits for the index", lambda: counted(rig, waiting) == RECORDS)
        await kill_the_worker(rig)
        away.rename(snapshot)
        await eventually("some answers are judged", lambda: at_rest(rig) > RECORDS // 10)
        await kill_the_worker(rig)
        await eventually("every answer is judged", lambda: at_rest(rig) == RECORDS)
        assert counted(rig, waiting) == 0

        lives = {life.source_id: life for life in the_lives(rig, "ask-docs")}
        inputs = await read_bodies(
            rig.settings, [("normalized", life.partition, life.input_offset) for life in lives.values()]
        )
        results = await read_bodies(
            rig.settings, [("results", life.partition, life.result_offset or 0) for life in lives.values()]
        )
        with closing(sqlite3.connect(rig.settings.sink_path)) as sink:
            rows = {
                source: json.loads(text) for source, text in sink.execute("SELECT source_id, output_json FROM answers")
            }

        citation = compile_citation(spec.judge.citations[0])
        wrong = 0
        for each in records:
            life = lives[each.source]
            given = json.loads(inputs["normalized", life.partition, life.input_offset]["input_json"])
            assert given["context"] == list(each.context)
            assert each.team == "staff" or not {one["document"] for one in each.context} & STAFF_ONLY
            said = json.loads(results["results", life.partition, life.result_offset or 0]["output"])
            if life.status is Status.COMMITTED:
                assert rows[each.source] == said == each.answer
                assert not list(uncited(citation, Texts(given), said))
            else:
                wrong += 1
                assert each.source not in rows
                assert said != each.answer
        assert len(rows) + wrong == RECORDS
        assert RECORDS // 10 < wrong < RECORDS // 2, "the model was not wrong enough, or too often, to show anything"
        assert any({one["document"] for one in each.context} & STAFF_ONLY for each in records)
        assert billed(rig) == RECORDS

        await publish(rig, records, run="again")
        repeated = "SELECT count(*) FROM excluded WHERE reason = 'duplicate'"
        await eventually("the same records are known", lambda: counted(rig, repeated) == RECORDS)
        assert billed(rig) == RECORDS
        assert len(the_lives(rig, "ask-docs")) == RECORDS
