"""The webhook sink: each committed output is posted, signed, to one address; the receiver knows it again by its id.

What lives here: one write is one POST, bounded in time and number, never redirected. What must not: comparing ranks
(the receiver is told `seq` and `promotion`), or taking anything back.

The commit id is the `Idempotency-Key` and the `webhook-id`, and the body holds nothing that differs from one try to the
next. So asking again is always allowed: when some of a batch were taken and others were not, all are asked again; those
that this process knows to have been taken are answered from memory, the others are posted once more under the same key.
Posts of one target follow each other in order, those of different targets run side by side.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
import orjson

from batchmill.agents import clock
from batchmill.agents.settings import SettingsError, is_loopback
from batchmill.agents.webhooks import signing
from batchmill.streams.ports import (
    OutcomeUnknownError,
    ProviderError,
    SinkOutcome,
    SinkResult,
    SinkWrite,
    TransientError,
)
from batchmill.streams.sinks import SINKS

__all__ = ["WebhookSink"]

TYPE = "output.committed"
#: ids of posts that were taken; as many as a few batches of all tasks hold
REMEMBERED_MAX = 10_000
#: not about this write: who we are, a turn, a rate, a lock; by the draft on idempotency keys 409 says "still at it"
_LATER = frozenset({401, 403, 407, 408, 409, 421, 423, 424, 425, 429})
_SAID_BEFORE = 208


class WebhookSink:
    """One address."""

    name = "webhook"
    capabilities = SINKS["webhook"]

    def __init__(
        self, *, url: str, secret: str, timeout_seconds: float, concurrent_max: int, loopback_only: bool
    ) -> None:
        if loopback_only and not is_loopback(url):
            raise SettingsError("sink.webhook_url is beyond this machine, but loopback_only is set; unset one of them")
        try:
            self._key = signing.secret_bytes(secret)
        except signing.SecretError as error:
            raise SettingsError(f"sink.webhook_secret: {error}") from None
        self._url, self._timeout_seconds = url, timeout_seconds
        self._taken: OrderedDict[str, None] = OrderedDict()
        self._turns = asyncio.Semaphore(concurrent_max)
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=concurrent_max),
            follow_redirects=False,
            trust_env=not is_loopback(url),
            headers={"user-agent": "batchmill", "content-type": "application/json"},
        )

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        """Post all of them; raises when one has no answer yet, after the others have theirs."""
        by_target: dict[tuple[str, str], list[int]] = defaultdict(list)
        for at, each in enumerate(writes):
            by_target[each.table, each.target_key].append(at)
        rows = [self._in_order([(at, writes[at]) for at in places]) for places in by_target.values()]
        done = await asyncio.gather(*rows, return_exceptions=True)
        for found in done:
            if isinstance(found, BaseException):
                raise found
        results = {at: result for found in done if not isinstance(found, BaseException) for at, result in found}
        return tuple(results[at] for at in range(len(writes)))

    async def probe(self) -> str:
        """Connect and hang up; nothing is posted. Says where it is."""
        parts = urlsplit(self._url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except (OSError, TimeoutError) as error:
            raise TransientError(f"webhook_{type(error).__name__}", hint=f"{parts.hostname}:{port}") from None
        writer.close()
        return f"{parts.hostname}:{port} takes connections"

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.aclose()

    async def _in_order(self, writes: Sequence[tuple[int, SinkWrite]]) -> list[tuple[int, SinkResult]]:
        return [(at, await self._one(each)) for at, each in writes]

    async def _one(self, write: SinkWrite) -> SinkResult:
        if write.commit_id in self._taken:
            return _result(write, SinkOutcome.ALREADY)
        try:
            body = _body(write)
        except (TypeError, ValueError) as error:
            return _result(write, SinkOutcome.REFUSED, error=f"not to be written as JSON: {type(error).__name__}")
        async with self._turns:
            status, retry_after = await self._post(write.commit_id, body)
        return self._answer(write, status, retry_after)

    async def _post(self, commit_id: str, body: bytes) -> tuple[int, str | None]:
        headers = signing.headers_for(self._key, commit_id, clock.wall_ms() // 1_000, body)
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._client.stream(
                    "POST", self._url, content=body, headers=headers | {"Idempotency-Key": commit_id}
                ) as answer,
            ):
                return answer.status_code, answer.headers.get("retry-after")  # its body is nobody's business
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            raise OutcomeUnknownError(f"webhook_{type(error).__name__}", hint="no answer to the post") from None

    def _answer(self, write: SinkWrite, status: int, retry_after: str | None) -> SinkResult:
        if 200 <= status < 300:
            self._remember(write.commit_id)
            return _result(write, SinkOutcome.ALREADY if status == _SAID_BEFORE else SinkOutcome.APPLIED)
        if 400 <= status < 500 and status not in _LATER:
            return _result(write, SinkOutcome.REFUSED, error=f"the receiver answered HTTP {status}")
        raise _later(status, retry_after)

    def _remember(self, commit_id: str) -> None:
        self._taken[commit_id] = None
        if len(self._taken) > REMEMBERED_MAX:
            self._taken.popitem(last=False)


def _body(write: SinkWrite) -> bytes:
    """The same bytes at every try: no time of ours, no order of chance."""
    orjson.loads(write.output_json)  # what is not JSON would break the body around it
    data = {
        "table": write.table,
        "target_key": write.target_key,
        "seq": write.seq,
        "promotion": write.promotion,
        "commit_id": write.commit_id,
        "source_id": write.source_id,
        "request_id": write.request_id,
        "job": write.job,
        "version": write.version,
        "run_id": write.run_id,
        "output": orjson.Fragment(write.output_json),
    }
    return orjson.dumps({"type": TYPE, "data": data})


def _later(status: int, retry_after: str | None) -> ProviderError:
    seconds = float(retry_after) if retry_after is not None and retry_after.strip().isdecimal() else None
    hint = "redirects are not followed; set sink.webhook_url to the new address" if 300 <= status < 400 else ""
    kind = OutcomeUnknownError if status >= 500 else TransientError
    return kind("webhook_refused_for_now", http_status=status, retry_after_seconds=seconds, hint=hint)


def _result(write: SinkWrite, outcome: SinkOutcome, *, error: str | None = None) -> SinkResult:
    return SinkResult(commit_id=write.commit_id, outcome=outcome, error=error)
