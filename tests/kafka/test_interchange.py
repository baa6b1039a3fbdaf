"""The command line, a worker and a broker: requests out, answers from the official SDK back in, committed once."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.kafka import RunningCluster
from batchmill.schemas.jobs import ChunkSpec, ModeSpec
from batchmill.schemas.status import Status
from tests.kafka.small_rig import command_line, eventually, publish, small_rig, the_lives
from tests.streams.making import make_spec

openai = pytest.importorskip("openai", reason="the official SDK is a development dependency")

RECORDS = 40


async def run(rig: Any, *words: str) -> tuple[int, bytes, str]:
    process = await command_line(rig, *words)
    out, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out, said.decode()


def buy(base_url: str, content: bytes) -> bytes:
    with openai.OpenAI(api_key="test", base_url=base_url, max_retries=0) as sdk:
        file = sdk.files.create(file=content, purpose="batch")
        batch = sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        for _ in range(2_000):
            batch = sdk.batches.retrieve(batch.id)
            if batch.status == "completed":
                return bytes(sdk.files.content(batch.output_file_id).content)
    raise AssertionError(batch)


async def test_answers_bought_elsewhere_are_committed_once_and_the_rest_is_bought_by_us(
    tmp_path: Path, broker: RunningCluster
) -> None:
    spec = make_spec(mode=ModeSpec(hold_submit=True, chunk=ChunkSpec(max_age_seconds=0.1)))
    async with small_rig(tmp_path, broker, spec, {}) as rig:
        await publish(rig, "triage", {f"s{number}": f"Ticket {number}." for number in range(RECORDS)})
        await eventually("all wait", lambda: _count(rig, Status.QUEUED) == RECORDS)
        requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
        code, _, said = await run(rig, "export", "requests", "triage", "--status", "queued", "-o", str(requests))
        assert (code, len(requests.read_bytes().splitlines())) == (0, RECORDS), said
        bought = (await asyncio.to_thread(buy, rig.settings.accounts["openai"].url, requests.read_bytes())).splitlines()
        kept = bought[: RECORDS // 2]
        results.write_bytes(b"\n".join([*kept, kept[0], b"{damaged"]))

        code, out, _ = await run(rig, "import", "results", str(results), "--job", "triage", "--json")
        dry = json.loads(out)
        assert (code, dry["executed"]) == (1, False)
        assert dry["by_fate"] == {"answers": len(kept), "repeated": 1, "unreadable": 1}
        assert _count(rig, Status.QUEUED) == RECORDS
        code, out, said = await run(rig, "import", "results", str(results), "--job", "triage", "--execute", "--json")
        assert json.loads(out)["tasks"] == {"counts": {"answered": len(kept)}, "laggards": []}, said
        await eventually("what was imported is committed", lambda: _count(rig, Status.COMMITTED) == len(kept))

        code, out, _ = await run(rig, "import", "results", str(results), "--job", "triage", "--execute", "--json")
        again = json.loads(out)
        assert (again["by_fate"]["past"], again["executed"]) == (len(kept) + 1, False)
        await run(rig, "approve", "--job", "triage")
        await eventually("the rest is committed too", lambda: _count(rig, Status.COMMITTED) == RECORDS)

        code, out, _ = await run(rig, "export", "results", "triage")
        lines = [json.loads(line) for line in out.splitlines()]
        assert (code, len(lines)) == (0, RECORDS)
        content = {_request(line): line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}
        for line in map(json.loads, kept):
            assert content[_request(line)] == line["response"]["body"]["choices"][0]["message"]["content"]


def _request(line: Any) -> str:
    return str(line["custom_id"]).partition("-")[0]


def _count(rig: Any, status: Status) -> int:
    return sum(life.status is status for life in the_lives(rig, "triage"))
