"""Law: events of batches that ended, signed by Standard Webhooks and sent to one URL on this machine; hints, no truth.

Each is sent up to ATTEMPTS_MAX times until it is answered with 2xx. Events wait in memory: a kill loses those that were
not sent, as a provider may; whoever relies on them must poll as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson

from batchmill.agents import clock
from batchmill.agents.simulator.faults import Fault, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchmill.agents.simulator.config import SimulatorConfig
    from batchmill.agents.simulator.records import Batch

__all__ = ["Webhooks", "signature"]

ATTEMPTS_MAX: Final = 4
WAIT_SECONDS: Final = 0.2  # before the second attempt; doubled before each further one
SEND_SECONDS_MAX: Final = 5.0
WAITING_MAX: Final = 10_000  # events; the oldest are dropped
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - a prefix
_TIMES: Final = {Fault.WEBHOOK_LOST: 0, Fault.WEBHOOK_TWICE: 2}


def signature(secret: str, *, event_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over id, timestamp and body, joined by dots."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    signed = b".".join((event_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Webhooks:
    """Sends in the background. `events` says, by provider, what is told of a batch."""

    def __init__(
        self,
        *,
        config: SimulatorConfig,
        events: Mapping[str, Callable[[Batch], dict[str, Any] | None]],
        strike: Callable[[Place, str], Fault | None],
    ) -> None:
        self._url, self._secret = config.webhook_url, config.webhook_secret
        self._events = events
        self._strike = strike
        self._waiting: asyncio.Queue[tuple[dict[str, Any], Fault | None]] = asyncio.Queue(WAITING_MAX)
        self._sending: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._url is not None:
            self._sending = asyncio.create_task(self._run(self._url))

    async def stop(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            with suppress(asyncio.CancelledError):
                await self._sending

    def ended(self, batch: Batch) -> None:
        """To be called when the end is on disk."""
        made = self._events.get(batch.provider)
        event = None if self._url is None or made is None else made(batch)
        if event is None:
            return
        fault = self._strike(Place.WEBHOOK, batch.stable_key)
        times = 1 if fault is None else _TIMES.get(fault, 1)
        for _ in range(times):
            if self._waiting.full():
                self._waiting.get_nowait()
            self._waiting.put_nowait((event, fault))

    async def _run(self, url: str) -> None:
        async with httpx.AsyncClient(timeout=SEND_SECONDS_MAX, trust_env=False) as client:
            while True:
                event, fault = await self._waiting.get()
                await self._send(client, url, event, forged=fault is Fault.WEBHOOK_FORGED)

    async def _send(self, client: httpx.AsyncClient, url: str, event: Mapping[str, Any], *, forged: bool) -> None:
        body = orjson.dumps(event)
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(WAIT_SECONDS * 2 ** (attempt - 1))
            with suppress(httpx.HTTPError):
                answer = await client.post(url, content=body, headers=self._headers(event["id"], body, forged=forged))
                if answer.is_success:
                    return

    def _headers(self, event_id: str, body: bytes, *, forged: bool) -> dict[str, str]:
        now = clock.wall_ms() // 1000
        signed = body + b" " if forged else body
        headers = {"content-type": "application/json", "webhook-id": event_id, "webhook-timestamp": str(now)}
        if self._secret is not None:
            signed_as = signature(self._secret, event_id=event_id, timestamp=now, body=signed)
            headers["webhook-signature"] = signed_as
        return headers
