"""Out and in again: a job's requests leave as a batch file, the simulator answers them for the official SDK, and the
results come back shuffled, damaged and mixed with others'. Every request gets its own answer, once, or goes on waiting.

The tasks, their log and the read model are in memory; the decisions, the files, the adapters and the SQL are the real
ones.
"""

import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.interchange.exporting import Named, Skipped, export_requests, export_results
from batchmill.agents.interchange.forms import Form, numbered_lines
from batchmill.agents.interchange.importing import Parts, request_records
from batchmill.agents.interchange.joining import Joiner, JoinReport, LineFate
from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.store import ViewStore
from batchmill.agents.providers.openai_rows import request_line
from batchmill.agents.simulator import RunningSimulator, SimulatorConfig
from batchmill.schemas.asking import RouteSpec
from batchmill.schemas.codec import encode
from batchmill.schemas.ids import parse_custom_id, partition_for
from batchmill.schemas.jobs import ChunkSpec, JobSpec, ModeSpec
from batchmill.schemas.records import Control, Origin, Result
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Status
from batchmill.schemas.versions import version_of
from batchmill.streams import importing
from batchmill.streams.compiling import compile_job
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.ports import RowOutcome
from tests.simulation.provider import NONE, SimProvider
from tests.simulation.sink import SimSink
from tests.simulation.stages import EFFECTS, TOPICS, Worker
from tests.simulation.world import SimTask, World
from tests.streams.making import make_spec

openai = pytest.importorskip("openai", reason="the official SDK is a development dependency")
anthropic = pytest.importorskip("anthropic", reason="the official SDK is a development dependency")

RECORDS = 120
PARTITIONS = 3
NANOS_PER_TOKEN = 5
LINE_BYTES_MAX = 100_000


def price(life: Life, row: RowOutcome) -> tuple[int | None, str | None]:
    assert "|gpt-5-mini|" in life.lane
    return NANOS_PER_TOKEN * (row.input_tokens + row.output_tokens), "list"


@dataclass(frozen=True)
class _Logged:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Mill:
    """Tasks in memory, whose rows and records are folded into a read model when somebody wants to look."""

    def __init__(self, folder: Path, spec: JobSpec) -> None:
        self.folder = folder
        self.spec = spec
        self.world = World(random.Random(7), PARTITIONS)
        self.worker = Worker(self.world, SimProvider(self.world.chance, NONE), SimSink(), 0.0, rough=False)
        self.tasks = [SimTask(self.world, partition) for partition in range(PARTITIONS)]
        self.payloads = FilePayloadStore(directory=folder / "payloads")
        self._views = 0
        self.command("apply", version=version_of(spec), body=spec.to_json())

    def publish(self, key: bytes, value: bytes) -> None:
        nowhere = Origin(generation=0, partition=0, offset=0, at_ms=0)
        headers = (("batchmill-job", self.spec.job.encode()),)
        record = RawRecord(origin=nowhere, key=key, value=value, headers=headers)
        self.world.append("raw", partition_for(key, PARTITIONS), record)

    def command(self, command: str, *, version: str | None = None, body: str = "{}") -> Control:
        order = Control(
            command_id=f"c{self.world.now_ms}",
            command=command,
            job=self.spec.job,
            version=version,
            body_json=body,
            actor="me",
            issued_at_ms=self.world.now_ms,
        )
        for partition in range(PARTITIONS):
            self.world.append("control", partition, order)
        return order

    def settle(self, *effects: str) -> None:
        """Let the tasks read all there is, with these effects running."""
        did = True
        while did:
            self.world.now_ms += 1_000
            did = False
            for task in self.tasks:
                for consume in TOPICS.values():
                    did = consume(self.worker, task, 1_000) or did
                for name in effects:
                    did = EFFECTS[name](self.worker, task) or did
                task.commit()

    def lives(self) -> dict[str, Life]:
        rows = [row for task in self.tasks for row in task.view.rows(Life.schema) if isinstance(row, Life)]
        return {row.request_id: row for row in rows}

    def view(self) -> View:
        """A read model of everything up to now."""
        self._views += 1
        path = self.folder / f"view{self._views}.sqlite"
        fold = Fold(raw_generation=0)
        for (topic, partition), entries in self.world.log.items():
            if topic != "raw":
                logged = [_Logged(n, entry.at_ms, b"k", encode(entry.value)) for n, entry in enumerate(entries)]
                fold.add(topic, partition, logged)
        for task in self.tasks:
            rows = [row for (_, _), row in task.view._rows.items()]
            state = [_Logged(n, 1, f"{row.schema}/{row.key}".encode(), encode(row)) for n, row in enumerate(rows)]
            fold.add("state", task.partition, state)
        with ViewStore(path, identity={}) as store:
            store.write(fold.statements(), {})
        return View(path)

    async def bodies(self, topic: str, partition: int, offsets: Iterable[int]) -> Mapping[int, bytes]:
        entries = self.world.log[topic, partition]
        return {offset: encode(entries[offset].value) for offset in offsets}

    # -- what the command line does -----------------------------------------------------------------------------------

    async def export_requests(self, **options: Any) -> tuple[list[bytes], Counter[Skipped]]:
        lines: list[bytes] = []
        told: dict[str, Any] = {"form": Form.OPENAI, "named": Named.CUSTOM, "statuses": (), **options}
        with self.view() as view:
            report = await export_requests(view, self.bodies, job=self.spec.job, write=lines.append, **told)
        assert (report.lines, report.bytes) == (len(lines), sum(map(len, lines)))
        return lines, report.skipped

    async def export_results(self, **options: Any) -> list[bytes]:
        lines: list[bytes] = []
        told: dict[str, Any] = {"form": Form.OPENAI, "named": Named.CUSTOM, "every_attempt": False, **options}
        with self.view() as view:
            await export_results(view, self.bodies, job=self.spec.job, write=lines.append, **told)
        return lines

    async def import_results(
        self, lines: list[bytes], *, execute: bool = True, by_source: bool = False
    ) -> tuple[JoinReport, Counter[str]]:
        """Join by a read model of now, hand the parts to the tasks, and let them go through them."""
        with self.view() as view, Parts() as parts:
            joiner = Joiner(view, job=self.spec.job, form=None, by_source=by_source, output_bytes_max=10_000)
            file = io.BytesIO(b"".join(lines))
            report = joiner.join(numbered_lines(file, bytes_max=LINE_BYTES_MAX), parts.take)
            body = importing.command_body(await parts.store(self.payloads)) if execute else None
        return report, (Counter() if body is None else await self._told(self.command("import", body=body)))

    async def _told(self, command: Control) -> Counter[str]:
        counts: Counter[str] = Counter()
        for task in self.tasks:
            task.apply(importing.import_command(task.view, command, task.partition))
            for progress in importing.waiting(task.view, 1):
                content = b"".join([part async for part in self.payloads.read(progress.part.uri)])
                bought = [importing.read_bought(line) for line in content.splitlines()]
                assert len(bought) == progress.part.lines
                for start in range(0, len(bought), 7):
                    now = importing.current(task.view, progress)
                    cut = bought[start : start + 7]
                    task.apply(importing.import_cut(task.view, now, cut, price=price, now_ms=self.world.now_ms))
                counts.update(importing.current(task.view, progress).counts)
                task.apply(importing.finish_import(task.view, importing.current(task.view, progress)))
            task.commit()
        self.settle("commit")
        return counts


@pytest.fixture
def mill(tmp_path: Path) -> Mill:
    """A job that holds its batches back, with its records queued."""
    mode = ModeSpec(hold_submit=True, chunk=ChunkSpec(max_count=20, max_age_seconds=10**6))
    made = Mill(tmp_path, make_spec(mode=mode))
    for number in range(RECORDS):
        made.publish(f"ticket-{number}".encode(), json.dumps({"body": f"Ticket number {number}."}).encode())
    made.settle("sealing")
    return made


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    config = SimulatorConfig(data_dir=tmp_path_factory.mktemp("simulator"), latency_seconds=(0.02, 0.05))
    with RunningSimulator(config) as running:
        yield running


def buy(simulator: RunningSimulator, lines: list[bytes]) -> list[bytes]:
    """What anybody does with a batch file: the official SDK uploads it and fetches the results."""
    with openai.OpenAI(api_key="test", base_url=f"{simulator.base_url}/v1", max_retries=0) as sdk:
        file = sdk.files.create(file=b"".join(lines), purpose="batch")
        batch = sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        for _ in range(1_000):
            batch = sdk.batches.retrieve(batch.id)
            if batch.status == "completed":
                return sdk.files.content(batch.output_file_id).content.splitlines(keepends=True)
    raise AssertionError(batch)


def buy_messages(simulator: RunningSimulator, lines: list[bytes]) -> list[bytes]:
    """The same at the other provider; its SDK hands the results out as objects, the file has them as lines."""
    with anthropic.Anthropic(api_key="test", base_url=simulator.base_url, max_retries=0) as sdk:
        batch = sdk.messages.batches.create(requests=[json.loads(line) for line in lines])
        for _ in range(1_000):
            batch = sdk.messages.batches.retrieve(batch.id)
            if batch.processing_status == "ended":
                return [each.to_json(indent=None).encode() + b"\n" for each in sdk.messages.batches.results(batch.id)]
    raise AssertionError(batch)


def by_id(lines: Iterable[bytes]) -> dict[str, Any]:
    return {told["custom_id"]: told for told in map(json.loads, lines)}


def content(told: Any) -> str:
    return str(told["response"]["body"]["choices"][0]["message"]["content"])


def tokens(told: Any) -> int:
    return int(told["response"]["body"]["usage"]["total_tokens"])


def results(mill: Mill) -> dict[str, Result]:
    found = [record for record in mill.world.records("results") if isinstance(record, Result)]
    assert len({record.request_id for record in found}) == len(found)
    return {record.request_id: record for record in found}


async def test_what_was_bought_elsewhere_is_joined_judged_and_committed(
    mill: Mill, simulator: RunningSimulator
) -> None:
    lines, skipped = await mill.export_requests(statuses=(Status.QUEUED,))
    assert (len(lines), skipped) == (RECORDS, Counter())
    states = {row.state for task in mill.tasks for row in task.view.rows(Chunk.schema) if isinstance(row, Chunk)}
    assert states == {ChunkState.HELD, ChunkState.FILLING}
    bought = buy(simulator, lines)
    foreign = [line.replace(b'"custom_id":"', b'"custom_id":"z') for line in bought[:5]]
    damaged = [bought[0][:40] + b"\n", b"{}\n", b"x" * (LINE_BYTES_MAX + 1) + b"\n"]
    failed = json.dumps({"custom_id": json.loads(bought[9])["custom_id"], "response": None, "error": {"code": "x"}})
    kept = bought[10:]  # the first ten are missing
    shuffled = [*kept, *kept[:7], *foreign, *damaged, failed.encode() + b"\n"]
    random.Random(3).shuffle(shuffled)

    dry, nobody = await mill.import_results(shuffled, execute=False)
    assert (results(mill), nobody) == ({}, Counter())
    report, counts = await mill.import_results(shuffled)
    assert report.by_fate == dry.by_fate
    assert report.by_fate == {
        LineFate.ANSWERS: len(kept),
        LineFate.REPEATED: 7,
        LineFate.UNKNOWN: 5,
        LineFate.UNREADABLE: 3,
        LineFate.NO_ANSWER: 1,
    }
    assert counts == {"answered": len(kept)}

    told = by_id(kept)
    named = {custom_id: parse_custom_id(custom_id) for custom_id in told}
    wanted = {sent.request_id: told[name] for name, sent in named.items() if sent is not None}
    assert {each.request_id: each.output for each in results(mill).values()} == {
        request_id: content(answer) for request_id, answer in wanted.items()
    }
    lives = mill.lives()
    for request_id, answer in wanted.items():
        life = lives[request_id]
        assert (life.status, life.attempt, life.cost_nanos) == (Status.COMMITTED, 1, NANOS_PER_TOKEN * tokens(answer))
    assert Counter(life.status for life in lives.values()) == {Status.COMMITTED: len(kept), Status.QUEUED: 10}
    held = {key: json.loads(row.write.output_json) for key, row in mill.worker.sink.rows.items()}
    assert held == {lives[request_id].source_id: json.loads(content(answer)) for request_id, answer in wanted.items()}
    members = [row for task in mill.tasks for row in task.view.rows(Chunk.schema) if isinstance(row, Chunk)]
    assert sum(row.members for row in members) == 10


async def test_the_same_requests_can_be_bought_at_the_other_provider(mill: Mill, simulator: RunningSimulator) -> None:
    lines, skipped = await mill.export_requests(form=Form.ANTHROPIC)
    assert (len(lines), skipped) == (RECORDS, Counter())
    bought = buy_messages(simulator, lines)
    random.Random(5).shuffle(bought)
    report, counts = await mill.import_results(bought)
    assert (report.by_fate, counts) == ({LineFate.ANSWERS: RECORDS}, {"answered": RECORDS})
    told = {name.partition("-")[0]: line["result"]["message"] for name, line in by_id(bought).items()}
    for request_id, result in results(mill).items():
        assert result.output == told[request_id]["content"][0]["text"]
        assert result.output_tokens == told[request_id]["usage"]["output_tokens"]
    assert {life.status for life in mill.lives().values()} == {Status.COMMITTED}
    out = by_id(await mill.export_results(form=Form.ANTHROPIC, named=Named.REQUEST))
    assert {name: line["result"]["message"]["content"] for name, line in out.items()} == {
        name: [{"type": "text", "text": message["content"][0]["text"]}] for name, message in told.items()
    }


async def test_a_file_that_is_imported_again_changes_nothing(mill: Mill, simulator: RunningSimulator) -> None:
    lines, _ = await mill.export_requests()
    bought = buy(simulator, lines[:30])
    await mill.import_results(bought)
    lives, held = mill.lives(), dict(mill.worker.sink.rows)
    report, counts = await mill.import_results(bought)
    assert (report.by_fate, counts) == ({LineFate.PAST: 30}, Counter())
    assert (mill.lives(), mill.worker.sink.rows) == (lives, held)


async def test_what_moved_since_the_read_model_was_made_is_decided_by_the_tasks(
    mill: Mill, simulator: RunningSimulator
) -> None:
    lines, _ = await mill.export_requests()
    bought = buy(simulator, lines[:40])
    with mill.view() as view, Parts() as parts:
        joiner = Joiner(view, job=mill.spec.job, form=None, by_source=False, output_bytes_max=10_000)
        report = joiner.join(enumerate(bought, 1), parts.take)
        body = importing.command_body(await parts.store(mill.payloads))
    assert report.by_fate == {LineFate.ANSWERS: 40}
    mill.command("approve")
    mill.settle("dispatch")  # held batches are at the provider now
    before = results(mill)
    counts = await mill._told(mill.command("import", body=body))
    in_flight = counts["in_flight"]
    assert in_flight > 0
    assert counts == Counter(answered=40 - in_flight, in_flight=in_flight)
    assert len(results(mill)) - len(before) == 40 - in_flight
    open_lives = [life for life in mill.lives().values() if life.status is Status.PROCESSING]
    assert all(life.chunk_id is not None for life in open_lives)


async def test_somebody_elses_files_come_in_as_requests_and_as_results_by_their_own_ids(
    tmp_path: Path, simulator: RunningSimulator
) -> None:
    mode = ModeSpec(hold_submit=True)
    mill = Mill(tmp_path, make_spec(user="{{ input.text }}", mode=mode))
    body = {"model": "gpt-5-mini", "response_format": None}
    schema = json.loads(mill.spec.ask.output_schema_json or "{}")
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    requests = [
        {
            "custom_id": f"their-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "messages": [{"role": "user", "content": f"Say {number}."}]},
        }
        for number in range(20)
    ]
    lines = [json.dumps(each).encode() + b"\n" for each in requests]
    file = io.BytesIO(b"".join([*lines, b"{broken\n"]))
    records = list(request_records(numbered_lines(file, bytes_max=LINE_BYTES_MAX), None, bytes_max=LINE_BYTES_MAX))
    assert [each.line for each in records if each.trouble is not None] == [21]
    for each in records[:20]:
        assert each.key is not None
        mill.publish(each.key, each.value)
    mill.settle()
    assert sorted(life.source_id for life in mill.lives().values()) == sorted(each["custom_id"] for each in requests)

    bought = buy(simulator, lines)
    nobody, _ = await mill.import_results(bought)
    assert nobody.by_fate == {LineFate.UNKNOWN: 20}
    report, counts = await mill.import_results(bought, by_source=True)
    assert (report.by_fate, counts) == ({LineFate.ANSWERS: 20}, {"answered": 20})

    out = by_id(await mill.export_results(named=Named.SOURCE))
    told = by_id(bought)
    assert {name: content(line) for name, line in out.items()} == {name: content(line) for name, line in told.items()}
    assert {name: tokens(line) for name, line in out.items()} == {name: tokens(line) for name, line in told.items()}


async def test_ids_are_those_of_the_send_and_a_bare_request_id_means_the_first(mill: Mill) -> None:
    lives = mill.lives()
    for line in (await mill.export_requests())[0]:
        sent = parse_custom_id(json.loads(line)["custom_id"])
        assert sent is not None
        assert (sent.request_id in lives, sent.sends) == (True, 1)
    assert set(by_id((await mill.export_requests(named=Named.REQUEST))[0])) == set(lives)
    sources = {life.source_id for life in lives.values()}
    assert set(by_id((await mill.export_requests(named=Named.SOURCE))[0])) == sources
    mill.command("approve")
    mill.settle("dispatch")
    processing = (await mill.export_requests(statuses=(Status.PROCESSING,)))[0]
    sent_as = {record.custom_id for record in mill.world.records("submitted")}
    assert set(by_id(processing)) == sent_as


async def test_a_line_is_the_very_line_of_the_payload(mill: Mill) -> None:
    form = compile_job(mill.spec, "v").routes.of("").form
    items = {item.request_id: item for item in mill.world.records("normalized")}
    for line in (await mill.export_requests(named=Named.REQUEST))[0]:
        name = json.loads(line)["custom_id"]
        body = form.body(items[name].input_json)
        assert line == request_line(custom_id=name, endpoint="/v1/chat/completions", body=body)


async def test_a_line_is_put_as_its_records_own_route_puts_it(tmp_path: Path) -> None:
    spec = make_spec(mode=ModeSpec(hold_submit=True))
    dear = RouteSpec(name="dear", when="input.body == 'Hard.'", model=replace(spec.ask.model, name="gpt-5"))
    odd = RouteSpec(name="odd", when="input.body == 'Odd.'", user="Odd: {{ input.body }}")
    mill = Mill(tmp_path, replace(spec, ask=replace(spec.ask, routes=(dear, odd))))
    for body in ("Hard.", "Odd.", "Plain."):
        mill.publish(body.encode(), json.dumps({"body": body}).encode())
    mill.settle("sealing")
    bodies = [told["body"] for told in by_id((await mill.export_requests())[0]).values()]
    asked = sorted((body["model"], body["messages"][-1]["content"]) for body in bodies)
    assert asked == [("gpt-5", "Hard."), ("gpt-5-mini", "Odd: Odd."), ("gpt-5-mini", "Plain.")]


async def test_what_has_no_line_is_counted_by_why(mill: Mill) -> None:
    gone = {life.input_offset for life in mill.lives().values() if life.input_offset % 2}
    held = mill.bodies

    async def bodies(topic: str, partition: int, offsets: Iterable[int]) -> Mapping[int, bytes]:
        return await held(topic, partition, [offset for offset in offsets if offset not in gone])

    mill.bodies = bodies  # type: ignore[method-assign]
    lines, skipped = await mill.export_requests()
    lost = sum(life.input_offset in gone for life in mill.lives().values())
    assert (len(lines), skipped) == (RECORDS - lost, {Skipped.BODY_GONE: lost})
