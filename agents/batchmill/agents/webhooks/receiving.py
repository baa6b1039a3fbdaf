"""The HTTP side of webhooks: `POST /webhooks/{account}`, and what is answered.

    202  taken, repeated, or none of our business: the sender is done
    400  signed by the account's secret, but it does not name a batch
    401  not signed by it, too old or too young, or no secret is set: nothing is believed
    404  no such account
    408, 413  the body is too slow or too large
    503  Kafka does not take it just now: the sender should try again

What lives here: the order of the checks. What must not: believing anything: what is accepted becomes a hint that makes
a poll earlier (`streams.hinting`). The signature is Standard Webhooks (`signing`), as OpenAI sends it.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchmill.agents.webhooks.signing import ID_HEADER, fault
from batchmill.agents.webhooks.telling import Teller, TellError
from batchmill.streams.hinting import Hint

__all__ = ["BODY_BYTES_MAX", "REMEMBERED_MAX", "Receiver"]

BODY_BYTES_MAX: Final = 64 * 2**10
#: webhooks that are remembered, so that one that comes again is not told again
REMEMBERED_MAX: Final = 10_000
_BODY_SECONDS: Final = 5.0
_RETRY_AFTER_SECONDS: Final = 30
_TYPES: Final = "batch."
_BATCH_ID: Final = re.compile(r"[\x21-\x7e]{1,200}")

_Answer = tuple[int, str]


class Receiver:
    """Answers webhooks. `keys`: account -> key, None where no secret is set; `count` is told (account, outcome)."""

    def __init__(
        self,
        *,
        keys: Mapping[str, bytes | None],
        teller: Teller,
        now_s: Callable[[], float],
        count: Callable[[str, str], None],
    ) -> None:
        self._keys = keys
        self._teller = teller
        self._now_s = now_s
        self._count = count
        self._remembered: OrderedDict[tuple[str, str], None] = OrderedDict()

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/webhooks/{account}", self.receive, methods=["POST"])])

    async def receive(self, request: Request) -> Response:
        account = request.path_params["account"]
        status, outcome = await self._answer(account, request)
        self._count(account if account in self._keys else "unknown", outcome)
        headers = {"retry-after": str(_RETRY_AFTER_SECONDS)} if status == 503 else None
        return JSONResponse({"status": outcome}, status_code=status, headers=headers)

    async def _answer(self, account: str, request: Request) -> _Answer:
        if account not in self._keys:
            return 404, "unknown_account"
        key = self._keys[account]
        if key is None:
            return 401, "no_secret"
        body = await _body(request)
        if isinstance(body, tuple):
            return body
        wrong = fault(key, request.headers, body, now_s=self._now_s())
        if wrong is not None:
            return 401, f"bad_{wrong}"
        name = (account, request.headers[ID_HEADER])
        if name in self._remembered:
            return 202, "repeated"
        answer = await self._told(account, body)
        if answer[0] == 202:
            self._remember(name)
        return answer

    async def _told(self, account: str, body: bytes) -> _Answer:
        event = _event(body)
        if event is None:
            return 400, "bad_body"
        kind, batch_id = event
        if not kind.startswith(_TYPES):
            return 202, "ignored"
        if batch_id is None:
            return 400, "no_batch"
        try:
            await self._teller.tell(Hint(account, batch_id))
        except TellError:
            return 503, "away"
        return 202, "accepted"

    def _remember(self, name: tuple[str, str]) -> None:
        self._remembered[name] = None
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)


async def _body(request: Request) -> bytes | _Answer:
    """The body, or what to answer instead; never more of it in memory than we take."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > BODY_BYTES_MAX:
                    return 413, "too_large"
    except TimeoutError:
        return 408, "too_slow"
    except ClientDisconnect:
        return 400, "gone"
    return bytes(body)


def _event(body: bytes) -> tuple[str, str | None] | None:
    """(type, batch id or None) of an event; None for anything else."""
    try:
        told: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("type"), str):
        return None
    data = told.get("data")
    batch_id = data.get("id") if isinstance(data, dict) else None
    named = isinstance(batch_id, str) and _BATCH_ID.fullmatch(batch_id) is not None
    return told["type"], batch_id if named else None
