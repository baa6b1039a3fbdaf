"""A signed webhook, sent to the receiver's own process, makes a worker look at a batch long before it would have."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import httpx

from batchmill.agents.kafka import RunningCluster
from batchmill.agents.kafka.network import free_ports
from batchmill.agents.webhooks.signing import headers_for
from batchmill.schemas.jobs import ChunkSpec, ModeSpec
from batchmill.schemas.status import Status
from tests.kafka.small_rig import command_line, eventually, publish, small_rig, the_lives
from tests.streams.making import make_spec

KEY = b"k" * 24
RECORDS = 9
#: the first look at a fresh batch: far beyond what this test takes
POLL_SECONDS = 600
#: so that no batch is over by the look that follows its creation at once
LATENCY_SECONDS = (8.0, 8.0)


def event(batch_id: str) -> bytes:
    return json.dumps({"id": "evt", "object": "event", "type": "batch.completed", "data": {"id": batch_id}}).encode()


async def test_a_hint_leads_to_an_earlier_poll_and_a_forged_one_to_nothing(
    tmp_path: Path, broker: RunningCluster
) -> None:
    spec = make_spec(mode=ModeSpec(chunk=ChunkSpec(max_age_seconds=0.1)))
    settings = {
        "accounts.openai.poll_min_seconds": POLL_SECONDS,
        "accounts.openai.poll_max_seconds": POLL_SECONDS,
        "accounts.openai.webhook_secret": "whsec_" + base64.b64encode(KEY).decode(),
    }
    port, health = free_ports(2)
    async with (
        small_rig(tmp_path, broker, spec, settings, latency_seconds=LATENCY_SECONDS) as rig,
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
    ):
        words = ("--set", f"health.port={health}", "webhooks", "--port", str(port))
        receiver = await command_line(rig, *words, output=None)
        try:
            await eventually("the receiver is ready", lambda: _answers(http, f"http://127.0.0.1:{health}/readyz"))
            await publish(rig, "triage", {f"s{number}": f"Ticket {number}." for number in range(RECORDS)})
            base_url = rig.settings.accounts["openai"].url
            batches = await eventually("the provider has done it all", lambda: _done(http, base_url))
            url = f"http://127.0.0.1:{port}/webhooks/openai"

            forged = [await _post(http, url, b"o" * 24, name) for name in batches]
            assert {answer.status_code for answer in forged} == {401}
            assert {life.status for life in the_lives(rig, "triage")} <= {Status.QUEUED, Status.PROCESSING}

            answers = [await _post(http, url, KEY, name) for name in batches]
            assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [
                (202, "accepted") for _ in batches
            ]
            await eventually("every record is committed", lambda: _all_committed(rig))
            metrics = (await http.get(f"http://127.0.0.1:{health}/metrics")).text
            assert f'outcome="accepted"}} {float(len(batches))}' in metrics
        finally:
            receiver.terminate()
            assert await asyncio.wait_for(receiver.wait(), 20) == 0


async def _post(http: httpx.AsyncClient, url: str, key: bytes, batch_id: str) -> httpx.Response:
    body = event(batch_id)
    return await http.post(url, content=body, headers=headers_for(key, f"msg_{batch_id}", int(time.time()), body))


async def _done(http: httpx.AsyncClient, base_url: str) -> list[str] | None:
    """The ids of all batches, once they hold every record and have ended."""
    answer = await http.get(f"{base_url}/batches", headers={"authorization": "Bearer any"})
    found: list[Any] = answer.json()["data"]
    rows = sum(batch["request_counts"]["completed"] for batch in found if batch["status"] == "completed")
    return [batch["id"] for batch in found] if rows == RECORDS else None


def _all_committed(rig: Any) -> bool:
    lives = the_lives(rig, "triage")
    return len(lives) == RECORDS and all(life.status is Status.COMMITTED for life in lives)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
