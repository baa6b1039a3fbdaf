"""A provider's adapter against the simulator over real HTTP, spoken to through the port alone: one world for each kind.

What must be alike for all kinds is asked of a `World`; what a kind has of its own is asked of its adapter.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from batchmill.agents import clock
from batchmill.agents.providers.registry import provider_for
from batchmill.agents.settings import AccountSettings
from batchmill.agents.simulator import SimulatorConfig, plan_from_json, read_ledger, running_simulator
from batchmill.schemas.ids import chunk_nonce, custom_id
from batchmill.streams.ports import CreateOrder, Label, MustPauseError, TransientError

LOOKS_MAX = 1_000
CHUNK = "c0003-0000000007-aaaaaaaaaaaaaaaa"
OTHER = "c0003-0000000008-bbbbbbbbbbbbbbbb"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["pos", "neg"]}},
    "required": ["label"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Kind:
    """What the tests must know of a kind beside its row of capabilities."""

    base: str  #: of its API below the simulator's address
    model: str
    out_of_quota: type[Exception] = MustPauseError  #: what a spent quota is to us
    tells_unrun: bool = True  #: rows that a batch did not come to are in its files
    expires_whole: bool = False  #: an expired batch delivers nothing, and is sent again
    refuses: bool = True  #: it has a word for an answer that is a refusal


KINDS = {
    "openai": Kind(base="/v1", model="gpt-5-mini"),
    "anthropic": Kind(base="", model="claude-haiku-4-5"),
    "gemini": Kind(
        base="/gemini",
        model="gemini-2.5-flash",
        out_of_quota=TransientError,
        tells_unrun=False,
        expires_whole=True,
    ),
    "mistral": Kind(
        base="/mistral/v1",
        model="mistral-small-latest",
        out_of_quota=TransientError,
        tells_unrun=False,
        refuses=False,
    ),
}


def an_id(number: int, chunk: str = CHUNK) -> str:
    request_id = f"{number:032d}".translate(str.maketrans("0123456789", "abcdefghij"))
    return custom_id(request_id, 1, chunk_nonce(chunk))


def a_label(chunk: str = CHUNK, *, members: int = 6, attempt: int = 1) -> Label:
    return Label(app="app", chunk_id=chunk, chunk_attempt=attempt, payload_sha256="ab" * 32, members=members)


class World:
    def __init__(self, kind, provider, calls, ledger_path):
        self.kind, self.provider, self.calls = KINDS[kind], provider, calls
        self._ledger_path, self.since_ms = ledger_path, clock.wall_ms()

    def ledger(self):
        return read_ledger(self._ledger_path)

    def batches(self):
        """Give the batches that exist, whatever the adapter was told."""
        return self.ledger().batches_created

    def line(self, number, chunk=CHUNK, **changes):
        body = {
            "model": self.kind.model,
            "max_completion_tokens": 200,
            "messages": [{"role": "system", "content": "Classify."}, {"role": "user", "content": "A good film."}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": SCHEMA}},
        } | changes
        endpoint = self.provider.capabilities.endpoints[0]
        return self.provider.request_line(
            custom_id=an_id(number, chunk), endpoint=endpoint, body=json.dumps(body).encode()
        )

    def payload(self, count, chunk=CHUNK):
        return b"".join(self.line(number, chunk) for number in range(count))

    async def create(self, payload, label, may_start=lambda: True):
        """Upload where the provider wants it, and create."""

        async def content():
            yield payload

        file_id, can = None, self.provider.capabilities
        if can.input_file:
            file_id = await self.provider.upload(
                name="c.jsonl", size_bytes=len(payload), content=content(), may_start=may_start
            )
        order = CreateOrder(
            label=replace(label, payload_sha256=hashlib.sha256(payload).hexdigest()),
            endpoint=can.endpoints[0],
            model=self.kind.model,
            file_id=file_id,
            size_bytes=0 if can.input_file else len(payload),
            content=content,
        )
        return await self.provider.create(order, may_start=may_start)

    async def opened(self, count=6, chunk=CHUNK):
        return await self.create(self.payload(count, chunk), a_label(chunk, members=count))

    def label_of(self, count=6, chunk=CHUNK):
        """The label under which `opened` made its batch, as a later attempt would look for it."""
        sha256 = hashlib.sha256(self.payload(count, chunk)).hexdigest()
        return replace(a_label(chunk, members=count, attempt=2), payload_sha256=sha256)

    async def find(self, count=6, chunk=CHUNK, since_ms=None):
        return await self.provider.find(label=self.label_of(count, chunk), since_ms=since_ms or self.since_ms)

    async def until(self, batch_id, *wanted):
        for _ in range(LOOKS_MAX):
            batch = await self.provider.get(batch_id)
            if batch.status in wanted:
                return batch
            await asyncio.sleep(0.01)
        raise AssertionError(batch)

    async def until_found(self, holds, **wanted):
        for _ in range(LOOKS_MAX):
            found = await self.find(**wanted)
            if holds(found):
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(found)

    async def rows(self, batch):
        files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
        data = [b"".join([part async for part in self.provider.download(file)]) for file in files]
        return [self.provider.parse_row(line) for content in data for line in content.split(b"\n") if line]


def by_number(rows, count) -> Iterator[list]:
    """The rows of each request, in the order of their numbers."""
    return ([row for row in rows if row is not None and row.custom_id == an_id(n)] for n in range(count))


@asynccontextmanager
async def a_world(kind, directory, faults=None, *, simulator=None, **account):
    config = SimulatorConfig(
        data_dir=directory / "simulator",
        **{"latency_seconds": (0.02, 0.05), "validating_seconds": 0.01, "finalizing_seconds": 0.01}
        | {"cancelling_seconds": 0.01, "faults": plan_from_json(faults or {})}
        | (simulator or {}),
    )
    async with running_simulator(config) as url:
        numbers = {"requests_per_minute": 600_000, "cooldown_max_seconds": 0.01, "clock_skew_seconds": 5.0}
        settings = AccountSettings(kind=kind, base_url=url + KINDS[kind].base, api_key="k", **numbers | account)
        calls = []
        provider = provider_for("acme", settings, on_call=calls.append, loopback_only=True)
        try:
            yield World(kind, provider, calls, config.ledger_file)
        finally:
            await provider.close()
