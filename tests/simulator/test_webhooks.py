"""Events of batches that ended: what is sent, how it is signed, and that they are hints, not truth."""

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from batchmill.agents.simulator.webhooks import ATTEMPTS_MAX, signature

openai = pytest.importorskip("openai", reason="the official SDK is a development dependency")

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes, nearly").decode()
LOOKS_MAX = 500


class Receiver:
    """Remembers what it heard; answers with the statuses it is given, then with 200."""

    def __init__(self):
        self.heard, self.statuses, self.url = [], [], None

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        self.heard.append((self.cased(head), body))
        status = self.statuses.pop(0) if self.statuses else 200
        writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    @staticmethod
    def cased(head):
        pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        return {name.lower(): value for name, value in pairs}

    async def until(self, count):
        for _ in range(LOOKS_MAX):
            if len(self.heard) >= count:
                return self.heard
            await asyncio.sleep(0.01)
        raise AssertionError(self.heard)


@asynccontextmanager
async def receiving():
    receiver = Receiver()
    async with await asyncio.start_server(receiver.serve, "127.0.0.1", 0) as server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        yield receiver


async def test_the_official_sdk_verifies_the_event_of_a_completed_batch(started, make):
    async with receiving() as receiver, started(webhook_url=receiver.url, webhook_secret=SECRET) as client:
        ended = await client.round([make.row("row-1")])
        [(headers, body)] = await receiver.until(1)
    sdk = openai.OpenAI(api_key="unused", webhook_secret=SECRET)
    event = sdk.webhooks.unwrap(body.decode(), headers)
    assert (event.type, event.data.id, event.object) == ("batch.completed", ended.batch["id"], "event")
    assert headers["webhook-id"] == event.id


@pytest.mark.parametrize(
    ("faults", "content", "kind"),
    [({"expire": 1}, None, "batch.expired"), ({}, b"not json\n", "batch.failed")],
)
async def test_every_way_a_batch_ends_has_its_event(started, make, faults, content, kind):
    async with receiving() as receiver, started(webhook_url=receiver.url, faults=faults) as client:
        await client.round(content or [make.row("row-1")])
        [(headers, body)] = await receiver.until(1)
    assert json.loads(body)["type"] == kind
    assert "webhook-signature" not in headers  # no secret, no signature


@pytest.mark.parametrize("validating_seconds", [0.0, 5.0])
async def test_a_cancelled_batch_has_its_event_whenever_it_was_cancelled(started, make, validating_seconds):
    slow = {"validating_seconds": validating_seconds, "latency_seconds": (5, 5)}
    async with receiving() as receiver, started(webhook_url=receiver.url, **slow) as client:
        batch = await client.open([make.row("row-1")])
        wanted = "validating" if validating_seconds else "in_progress"
        await client.until(batch["id"], lambda batch: batch["status"] == wanted)
        await client.http.post(f"/v1/batches/{batch['id']}/cancel")
        [(_, body)] = await receiver.until(1)
    assert (json.loads(body)["type"], json.loads(body)["data"]) == ("batch.cancelled", {"id": batch["id"]})


async def test_an_event_is_sent_again_under_the_same_id_until_it_is_taken_and_then_given_up(started, make):
    async with receiving() as receiver, started(webhook_url=receiver.url) as client:
        receiver.statuses = [500] * (ATTEMPTS_MAX - 1)
        await client.round([make.row("row-1")])
        heard = await receiver.until(ATTEMPTS_MAX)
        assert len({headers["webhook-id"] for headers, _ in heard}) == 1
        await client.round([make.row("row-2")])
        assert len(await receiver.until(ATTEMPTS_MAX + 1)) == ATTEMPTS_MAX + 1


async def test_events_can_be_lost_forged_or_doubled(started, make):
    faults = {"webhook_lost": {"nth": [1]}, "webhook_forged": {"nth": [2]}, "webhook_twice": {"nth": [3]}}
    async with (
        receiving() as receiver,
        started(webhook_url=receiver.url, webhook_secret=SECRET, faults=faults) as client,
    ):
        ids = [(await client.round([make.row(f"row-{n}")])).batch["id"] for n in range(3)]
        heard = await receiver.until(3)
    assert [json.loads(body)["data"]["id"] for _, body in heard] == [ids[1], ids[2], ids[2]]
    good = [
        headers["webhook-signature"]
        == signature(SECRET, event_id=headers["webhook-id"], timestamp=int(headers["webhook-timestamp"]), body=body)
        for headers, body in heard
    ]
    assert good == [False, True, True]
    assert heard[1][0]["webhook-id"] == heard[2][0]["webhook-id"]


@pytest.mark.parametrize(
    "change", [{"webhook_url": "https://example.org/hook"}, {"webhook_secret": "whsec_not base64"}]
)
def test_an_event_goes_to_this_machine_only_and_a_secret_must_be_one(config, change):
    with pytest.raises(ValueError, match="webhook_"):
        replace(config, **change)
