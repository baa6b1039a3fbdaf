"""A small client that speaks plain HTTP to the Anthropic side, for tests of what the official SDK hides."""

import asyncio
import json

from batchmill.agents.simulator import read_ledger

LOOKS_MAX = 1000  # of 10 ms each
HEADERS = {"x-api-key": "test", "anthropic-version": "2023-06-01", "authorization": ""}
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["pos", "neg", "neu"]}, "confidence": {"type": "number"}},
    "required": ["label", "confidence"],
    "additionalProperties": False,
}


def request(custom_id, text="A good film.", **params):
    """One request; a parameter that is None is left out."""
    given = {
        "model": "claude-haiku-4-5",
        "max_tokens": 200,
        "system": "Classify.",
        "messages": [{"role": "user", "content": text}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        **params,
    }
    return {
        "custom_id": custom_id,
        "params": {name: value for name, value in given.items() if value is not None},
    }


def requests(count, **params):
    return [request(f"row-{n}", f"Text {n}.", **params) for n in range(count)]


class Batches:
    """The Message Batches of one running simulator."""

    PATH = "/v1/messages/batches"

    def __init__(self, client):
        self.http, self.faults, self._ledger_path = client.http, client.faults, client.ledger_path
        self.http.headers = HEADERS

    def ledger(self):
        return read_ledger(self._ledger_path)

    async def create(self, body):
        content = body if isinstance(body, bytes) else json.dumps({"requests": body}).encode()
        return await self.http.post(self.PATH, content=content)

    async def open(self, body):
        answer = await self.create(body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def get(self, batch_id):
        return await self.http.get(f"{self.PATH}/{batch_id}")

    async def list(self, **query):
        return await self.http.get(self.PATH, params=query)

    async def cancel(self, batch_id):
        return await self.http.post(f"{self.PATH}/{batch_id}/cancel")

    async def delete(self, batch_id):
        return await self.http.delete(f"{self.PATH}/{batch_id}")

    async def results(self, batch_id):
        return await self.http.get(f"{self.PATH}/{batch_id}/results")

    async def ended(self, batch_id):
        for _ in range(LOOKS_MAX):
            batch = (await self.get(batch_id)).json()
            if batch["processing_status"] == "ended":
                return batch
            await asyncio.sleep(0.01)
        raise AssertionError(batch)

    async def lines(self, batch_id):
        return [json.loads(line) for line in (await self.results(batch_id)).content.splitlines()]

    async def round(self, body):
        """Gives the ended batch and its result lines."""
        batch = await self.ended((await self.open(body))["id"])
        return batch, await self.lines(batch["id"])
