"""Asking versions about records whose right output is known: what it would take, and what is sent."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

from batchmill.agents import ingest
from batchmill.agents.cli.program import run
from batchmill.schemas.promotion import GateSpec
from batchmill.schemas.records import Excluded, Origin, WorkItem
from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.events import RawLimits
from batchmill.streams.golden import gold_of, run_of_gold
from batchmill.streams.normalizing import normalize
from batchmill.streams.orders import Emit
from tests.agents.compare_world import FIRST, SECOND, World, gate_lines, two_versions
from tests.streams.making import NOW_MS, make_view

KNOWN = {f"g{at}": "pos" for at in range(5)}
GATED = replace(SECOND, gate=GateSpec(benchmark_json=gate_lines(KNOWN)))
ROW = two_versions(FIRST, GATED)
ONE, TWO = version_of(FIRST), version_of(GATED)


class Raw:
    """Stands where the broker would: keeps what is sent to it."""

    def __init__(self) -> None:
        self.sent: list[RawRecord] = []

    def __call__(self, *_: Any) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""

    async def send(self, _topic: str, *, value: bytes, key: bytes, headers: Any) -> "asyncio.Future[None]":
        origin = Origin(generation=1, partition=0, offset=len(self.sent), at_ms=NOW_MS)
        self.sent.append(RawRecord(origin=origin, key=key, value=value, headers=headers))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def flush(self) -> None:
        """Nothing waits."""


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Raw:
    made = Raw()
    monkeypatch.setattr(ingest, "_producer", made)
    return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "view.sqlite")
    made.applied(ROW)
    yield made
    made.log.store.close()


def words(world: World, *more: str) -> list[str]:
    return ["--set", f"view.path={world.path}", "benchmark", "triage", *more]


def test_without_execute_nothing_is_sent_and_the_price_is_told(
    world: World, raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(world, "--json")) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert (told["records"], told["sent"], raw.sent) == (5, 0, [])
    assert [each["version"] for each in told["versions"]] == [ONE, TWO]
    for each in told["versions"]:
        assert (each["asked"], each["known"], each["refused"]) == (5, 0, 0)
        assert each["most_nanos"] > each["expected_nanos"] > 0
        assert each["tokens"] > 0
    assert run(words(world)) == 0
    assert "nothing was sent; say --execute" in capsys.readouterr().err


def test_what_is_sent_is_asked_of_every_version_aside_and_once(
    world: World, raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(world, "--execute")) == 0
    capsys.readouterr()
    first = raw.sent.copy()
    assert [event.key for event in first] == [name.encode() for name in KNOWN]
    requests = []
    for event in first:
        orders = normalize(make_view(ROW), event, jobs=CompiledJobs(), now_ms=NOW_MS, limits=RawLimits())
        excluded, *items = [order.record for order in orders if isinstance(order, Emit)]
        assert isinstance(excluded, Excluded)
        assert excluded.reason == "benchmark"
        asked = [item for item in items if isinstance(item, WorkItem)]
        assert [(item.version, item.aside, item.source_id) for item in asked] == [
            (version, True, event.key.decode() if event.key else "") for version in (ONE, TWO)
        ]
        assert {item.run_id for item in asked} == {run_of_gold(gold_of(enumerate(json.loads(gate_lines(KNOWN)))))}
        requests += [item.request_id for item in asked]
    assert run(words(world, "--execute")) == 0
    capsys.readouterr()
    again = [
        order.record.request_id
        for event in raw.sent[len(first) :]
        for order in normalize(make_view(ROW), event, jobs=CompiledJobs(), now_ms=NOW_MS, limits=RawLimits())
        if isinstance(order, Emit) and isinstance(order.record, WorkItem)
    ]
    assert (len(set(requests)), again) == (10, requests)


def test_what_was_answered_before_costs_nothing(world: World, raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    for source in list(KNOWN)[:2]:
        world.answered(FIRST, source, {"label": "pos"})
    run_id = run_of_gold(gold_of(enumerate(json.loads(gate_lines(KNOWN)))))
    world.answered(FIRST, "g2", {"label": "pos"}, run=run_id, given={"body": "g2", "context": ["a passage"]})
    world.folded()
    assert run(words(world, "--version", "current", "--json")) == 0
    (told,) = orjson.loads(capsys.readouterr().out)["versions"]
    assert (told["version"], told["known"], told["asked"]) == (ONE, 3, 2)


def test_a_file_may_be_named_and_records_that_a_version_takes_not_are_told(
    world: World, raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = tmp_path / "gold.jsonl"
    known = [
        {"id": "a", "input": {"body": "x"}, "output": {"label": "pos"}},
        {"id": 2, "input": {}, "output": {"l": 1}},
    ]
    gold.write_text("\n".join(map(json.dumps, known)))
    assert run(words(world, "--gold", str(gold), "--version", TWO[:6], "--json")) == 0
    (told,) = orjson.loads(capsys.readouterr().out)["versions"]
    assert (told["asked"], told["refusals"]) == (1, {"render_error": 1})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"id": "a", "output": {"label": "pos"}}, "it has no `input`"),
        ({"id": "a", "input": {"id": "b"}, "output": {"label": "pos"}}, "takes the source id from \\$.id"),
    ],
)
def test_a_record_that_can_be_no_event_is_refused(
    tmp_path: Path, raw: Raw, line: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path / "view.sqlite")
    world.applied(two_versions(FIRST, replace(GATED, id_path="$.id")))
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps(line))
    assert run(words(world, "--gold", str(gold), "--execute")) == 2
    assert raw.sent == []
    assert why.replace("\\", "") in capsys.readouterr().err
    world.log.store.close()


def test_what_cannot_be_benchmarked_is_said(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words(world, "--version", "zzz")) == 4
    assert "has no version 'zzz'" in capsys.readouterr().err
    world.applied(two_versions(FIRST, SECOND))
    assert run(words(world)) == 4
    assert "has no benchmark: name a file with --gold" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_text("\n")
    assert run(words(world, "--gold", str(tmp_path / "empty.jsonl"))) == 4
    assert "has no records" in capsys.readouterr().err
