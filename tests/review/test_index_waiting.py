"""The effect that looks again at waiting records: it loads the index they wait for, or gives them up after a time."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.retrieval.building import build_index
from batchmill.agents.retrieval.library import Library
from batchmill.agents.runtime import LogRecord
from batchmill.agents.stages.kit import Kit
from batchmill.agents.stages.normalizer import Normalizer
from batchmill.schemas.asking import AskSpec, ModelSpec, RetrievalSpec
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, WorkItem
from batchmill.schemas.state import Arrival
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.events import RawLimits
from batchmill.streams.indexing import Cutting
from tests.review.stage import PARTITION, MemoryLog, MemoryTask, slice_of
from tests.streams.making import make_row

NOW_MS = 1_800_000_000_000
_ROUNDS_MAX = 100
VALUE = b'{"job": "support", "question": "When is the money back?"}'


class Support:
    """One job with an index in a store, one task, and one record on raw."""

    def __init__(self, folder: Path, *, index_seconds: float) -> None:
        self.folder, self.store = folder, FilePayloadStore(directory=folder / "payloads")
        documents = folder / "docs.jsonl"
        documents.write_text(json.dumps({"id": "refunds", "text": "The money is back within 14 days."}))
        making = build_index(
            documents, name="faq", folder=folder, store=self.store, cutting=Cutting(), embedder=None, now_ms=NOW_MS
        )
        self.sha256 = asyncio.run(making).pointer.sha256
        self.file = next((folder / "payloads" / "sha256").glob(f"*/{self.sha256}"))
        spec = JobSpec(
            job="support",
            ask=AskSpec(
                user="{{ input.question }} {% for each in input.context %}{{ each.text }}{% endfor %}",
                model=ModelSpec(provider="openai", name="m"),
                retrieval=RetrievalSpec(index="faq", sha256=self.sha256, query="$.question"),
            ),
            place=PlaceSpec(sink="sqlite", table="support"),
        )
        self.task, self.log = MemoryTask(make_row(spec)), MemoryLog()
        self.library = library = Library(store=self.store, indexes_max=1, retry_seconds=0)
        kit = Kit(
            app_id="app",
            topics=Kit.names("t"),
            raw_generation=1,
            log=self.log,  # type: ignore[arg-type]
            jobs=CompiledJobs(indexes=library),
            carried=lambda _: None,
            stepped=lambda _, __: None,
        )
        self.normalizer = Normalizer(
            kit=kit,
            limits=RawLimits(),
            default_job=None,
            rows_at_once=10,
            idle_seconds=0.01,
            unknown_job_seconds=0,
            library=library,
            index_seconds=index_seconds,
        )
        self.log.records["t.raw.v1", 0] = LogRecord("t.raw.v1", PARTITION, 0, 1, b"k", VALUE, ())

    def receive(self) -> list[Any]:
        """What the record became on arrival: what was emitted, else what waits."""
        self.normalizer.on_slice(self.task, slice_of("t.raw.v1", VALUE))  # type: ignore[arg-type]
        return self.task.records or self.waiting()

    def waiting(self) -> list[Arrival]:
        rows = [row for _, row in self.task.view.scan("arrival", "", limit=10)]
        return [row for row in rows if isinstance(row, Arrival)]

    def look_until(self, holds: Callable[[], bool]) -> None:
        """Rounds of the effect until something is so; a round may be cancelled in the middle of a load."""
        for _ in range(_ROUNDS_MAX):
            if holds():
                return
            self.look_again()
        raise AssertionError("the effect never came to it")

    def look_again(self) -> None:
        """One round of the effect."""

        async def a_round() -> None:
            running = asyncio.create_task(self.normalizer.run(self.task))  # type: ignore[arg-type]
            rests = self.task.rests
            while self.task.rests == rests and not running.done():
                await asyncio.sleep(0.001)
            running.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                running.result()

        asyncio.run(a_round())


def test_a_record_that_comes_before_its_index_is_loaded_waits_a_moment(tmp_path: Path) -> None:
    support = Support(tmp_path, index_seconds=300)
    (arrival,) = support.receive()
    assert arrival.waiting_for == "index"
    support.look_until(lambda: not support.waiting())
    (item,) = support.task.records
    assert isinstance(item, WorkItem)
    assert [each["id"] for each in json.loads(item.input_json)["context"]] == ["refunds#1"]
    assert support.waiting() == []


def test_the_index_of_a_job_is_loaded_before_its_first_record_comes(tmp_path: Path) -> None:
    support = Support(tmp_path, index_seconds=300)
    support.look_until(lambda: support.library.of(support.sha256) is not None)
    (item,) = support.receive()
    assert isinstance(item, WorkItem)


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_a_snapshot_that_comes_back_in_time_costs_nothing_but_time(tmp_path: Path, damage: str) -> None:
    support = Support(tmp_path, index_seconds=300)
    content = support.file.read_bytes()
    support.file.unlink() if damage == "gone" else support.file.write_bytes(content + b"\n")
    support.receive()
    support.look_again()
    assert support.task.records == []
    assert len(support.waiting()) == 1
    support.file.write_bytes(content)
    support.look_until(lambda: not support.waiting())
    (item,) = support.task.records
    assert isinstance(item, WorkItem)
    assert support.waiting() == []


def test_a_snapshot_that_stays_away_is_a_letter_that_says_so(tmp_path: Path) -> None:
    support = Support(tmp_path, index_seconds=0.001)
    support.file.unlink()
    support.receive()
    support.look_until(lambda: not support.waiting())
    (letter,) = support.task.records
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.job, letter.stage) == (Reason.INDEX_GONE, "support", "normalizer")
    assert letter.error.startswith(f"index faq: payload:sha256/{support.sha256} is not in ")
    assert letter.original == VALUE
    assert support.waiting() == []
