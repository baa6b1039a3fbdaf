"""A simulator per test, in the test's event loop, and a small client that speaks plain HTTP to it."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from batchmill.agents.simulator import SimulatorConfig, plan_from_json, read_ledger, running_simulator

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["pos", "neg", "neu"]},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "reason": {"type": "string"},
    },
    "required": ["label", "confidence", "reason"],
    "additionalProperties": False,
}
ENDED = {"completed", "failed", "expired", "cancelled"}
LOOKS_MAX = 1000  # of 10 ms each


def row(custom_id, text="A good film.", *, model="gpt-4o-mini", **body):
    schema = {"type": "json_schema", "json_schema": {"name": "sentiment", "strict": True, "schema": SCHEMA}}
    messages = [{"role": "system", "content": "Classify."}, {"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "response_format": schema, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def jsonl(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@dataclass
class Ended:
    batch: dict
    output: list
    error: list

    @property
    def status(self):
        return self.batch["status"]

    @property
    def contents(self):
        return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in self.output}


class Client:
    def __init__(self, base_url, ledger_path):
        headers = {"authorization": "Bearer test"}
        self.http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=20)
        self.base_url = base_url
        self.ledger_path = ledger_path

    def ledger(self):
        return read_ledger(self.ledger_path)

    async def faults(self, **rules):
        answer = await self.http.post("/admin/faults", json=rules)
        assert answer.status_code == 200, answer.text

    async def upload(self, content):
        if not isinstance(content, bytes):
            content = jsonl(content)
        files = {"file": ("input.jsonl", content, "application/jsonl")}
        return await self.http.post("/v1/files", data={"purpose": "batch"}, files=files)

    async def create(self, file_id, **extra):
        asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **extra}
        return await self.http.post("/v1/batches", json=asked)

    async def open(self, content, **extra):
        """Upload and create; gives the new batch."""
        file_id = (await self.upload(content)).json()["id"]
        answer = await self.create(file_id, **extra)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def batch(self, batch_id):
        return (await self.http.get(f"/v1/batches/{batch_id}")).json()

    async def until(self, batch_id, holds):
        for _ in range(LOOKS_MAX):
            batch = await self.batch(batch_id)
            if holds(batch):
                return batch
            await asyncio.sleep(0.01)
        raise AssertionError(f"the batch did not get there: {batch}")

    async def lines(self, file_id):
        if not file_id:
            return []
        content = (await self.http.get(f"/v1/files/{file_id}/content")).content
        return [json.loads(line) for line in content.splitlines()]

    async def ended(self, batch_id):
        batch = await self.until(batch_id, lambda batch: batch["status"] in ENDED)
        output, error = await self.lines(batch["output_file_id"]), await self.lines(batch["error_file_id"])
        return Ended(batch, output, error)

    async def round(self, content, **extra):
        return await self.ended((await self.open(content, **extra))["id"])


@pytest.fixture
def config(tmp_path: Path) -> SimulatorConfig:
    return SimulatorConfig(
        data_dir=tmp_path / "simulator",
        latency_seconds=(0.02, 0.05),
        validating_seconds=0.01,
        finalizing_seconds=0.01,
        cancelling_seconds=0.01,
    )


@pytest.fixture
def started(config):
    """`async with started(faults={...}, latency_seconds=...) as client`."""

    @asynccontextmanager
    async def start(*, faults=None, **changes):
        changed = replace(config, faults=plan_from_json(faults or {}), **changes)
        async with running_simulator(changed) as base_url:
            client = Client(base_url, changed.ledger_file)
            async with client.http:
                yield client

    return start


@pytest.fixture
async def client(started):
    async with started() as client:
        yield client


@pytest.fixture
def make():
    """The helpers of this file, for tests that are imported by path."""
    return type("Make", (), {"row": staticmethod(row), "jsonl": staticmethod(jsonl), "schema": SCHEMA})
