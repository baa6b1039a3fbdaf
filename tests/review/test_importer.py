"""The effect of imports: it goes on where it was when the worker died, and a part that is not there harms nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.runtime import PoisonEffectError
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages import importer as importer_module
from batchmill.agents.stages.importer import Importer
from batchmill.schemas.records import Control, Result
from batchmill.schemas.state import Life, Meta
from batchmill.schemas.status import Outcome, Status
from batchmill.streams.costing import parse_prices
from batchmill.streams.importing import Bought, Part, bought_line, command_body, counts_of, import_command, waiting
from batchmill.streams.index import IMPORTED_ROWS
from batchmill.streams.orders import Delete, Put
from batchmill.streams.ports import RowOutcome
from tests.review.stage import PARTITION, MemoryTask, a_kit
from tests.streams.making import make_row, make_spec
from tests.streams.rows import NOW_MS, make_life, request_name

REQUESTS = 1_200
PRICES = parse_prices(
    '{"models": {"gpt-5-mini": {"input": "0.002", "cached": "0.001", "output": "0.004", "batch_percent": 50}}}'
)


class DiedError(Exception):
    """The worker was killed."""


def line(number: int, text: str = "yes") -> bytes:
    row = RowOutcome(
        custom_id="x",
        outcome=Outcome.SUCCEEDED,
        reason=None,
        output=text,
        model="gpt-5-mini",
        input_tokens=10,
        output_tokens=5,
    )
    return bought_line(Bought(request_id=request_name(number), send=1, row=row))


def stored(folder: Path, lines: Sequence[bytes]) -> Part:
    async def content() -> AsyncIterator[bytes]:
        for each in lines:
            yield each

    kept = asyncio.run(FilePayloadStore(directory=folder).put(content()))
    return Part(kept.uri, len(lines))


def a_task(part: Part, requests: int = REQUESTS) -> MemoryTask:
    job = make_row(make_spec())
    task = MemoryTask(job, *(make_life(number, version=job.version) for number in range(requests)))
    body = command_body({PARTITION: part})
    command = Control(
        command_id="c1", command="import", job="triage", version=None, body_json=body, actor="me", issued_at_ms=NOW_MS
    )
    for order in import_command(task.view, command, PARTITION):
        match order:
            case Put(row):
                task.put(row)
            case Delete(table, key):
                task.delete(table, key)
            case _:
                pass
    return task


def run(task: MemoryTask, folder: Path, until: Callable[[], bool]) -> None:
    importer = Importer(
        kit=a_kit(),
        payloads=FilePayloadStore(directory=folder),
        prices=PRICES,
        effects=EffectSettings(idle_seconds=0.01),
        output_bytes_max=1_000,
    )

    async def work() -> None:
        running = asyncio.create_task(importer.run(task))
        while not until() and not running.done():
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()

    asyncio.run(work())


def counts(task: MemoryTask) -> dict[str, int]:
    row = task.view.get(Meta.schema, IMPORTED_ROWS + "c1")
    assert isinstance(row, Meta)
    return counts_of(row)


def over(task: MemoryTask) -> Callable[[], bool]:
    return lambda: not waiting(task.view, 1)


def test_every_answer_of_the_part_is_taken_at_its_price(tmp_path: Path) -> None:
    task = a_task(stored(tmp_path, [line(number) for number in range(REQUESTS)]))
    run(task, tmp_path, over(task))
    assert counts(task) == {"answered": REQUESTS}
    lives = [row for row in task.view.rows(Life.schema) if isinstance(row, Life)]
    assert {(life.status, life.cost_nanos) for life in lives} == {(Status.SUCCEEDED_UNVALIDATED, 20)}
    assert [each.price_id for each in task.records if isinstance(each, Result)] == [PRICES.id] * REQUESTS


def test_a_worker_that_dies_between_two_cuts_leaves_the_rest_to_the_next_one(tmp_path: Path) -> None:
    task = a_task(stored(tmp_path, [line(number) for number in range(REQUESTS)]))
    cuts = 0

    def dies(where: str) -> None:
        nonlocal cuts
        cuts += where == "capacity"
        if cuts == 2:
            raise DiedError

    task.at_wait = dies
    with pytest.raises(DiedError):
        run(task, tmp_path, over(task))
    (progress,) = waiting(task.view, 1)
    assert 0 < progress.done == len(task.records) < REQUESTS
    task.at_wait = lambda _: None
    run(task, tmp_path, over(task))
    assert counts(task) == {"answered": REQUESTS}
    assert len({each.request_id for each in task.records if isinstance(each, Result)}) == REQUESTS == len(task.records)


def test_lines_that_are_damaged_or_too_long_cost_themselves_only(tmp_path: Path) -> None:
    long = line(1, "x" * 2_000)  # longer than an answer may be
    endless = b'{"' + b"y" * 100_000 + b'"}\n'  # longer than a line may be
    task = a_task(stored(tmp_path, [line(0), b"{\n", long, endless, line(2)]), requests=3)
    run(task, tmp_path, over(task))
    assert counts(task) == {"answered": 2, "unreadable": 3}


def test_a_part_that_is_not_there_is_given_up_and_its_requests_wait(tmp_path: Path) -> None:
    task = a_task(Part("payload:sha256/" + "0" * 64, 5), requests=2)
    run(task, tmp_path, over(task))
    assert counts(task) == {"unread": 5}
    assert task.rests >= 30
    assert {row.status for row in task.view.rows(Life.schema) if isinstance(row, Life)} == {Status.QUEUED}


def test_an_address_that_is_none_is_a_part_that_is_not_there(tmp_path: Path) -> None:
    task = a_task(Part("/etc/passwd", 5), requests=1)
    run(task, tmp_path, over(task))
    assert counts(task) == {"unread": 5}


def test_an_import_that_kills_workers_is_given_up(tmp_path: Path) -> None:
    task = a_task(stored(tmp_path, [line(0)]), requests=1)

    def condemned(where: str) -> None:
        if where == "effect imports":
            raise PoisonEffectError("imports", "c1", 3)

    task.at_wait = condemned
    run(task, tmp_path, over(task))
    assert counts(task) == {"unread": 1}
    assert task.records == []


def test_a_cut_is_bounded_by_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = stored(tmp_path, [line(number, "z" * 900) for number in range(40)])
    task = a_task(part, requests=40)
    cuts = 0

    def counted(where: str) -> None:
        nonlocal cuts
        cuts += where == "capacity"

    task.at_wait = counted
    monkeypatch.setattr(importer_module, "_CUT_BYTES", 5_000)
    run(task, tmp_path, over(task))
    assert cuts >= 8
    assert counts(task) == {"answered": 40}
