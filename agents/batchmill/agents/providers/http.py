"""The seam to HTTP: one call is one exchange, with a total timeout, never repeated.

What lives here: the client and its timeouts, the account's gate before each call, bounded reading, and the one question
that matters when an exchange breaks: can the provider have seen the request? What must not: retries, redirects, or a
provider's vocabulary beyond the shape of its error document. Nothing else in the project imports httpx for provider
calls, so another client can take its place here.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import orjson

from batchmill.agents import clock
from batchmill.agents.providers.errors import Complaint, complaint_in, error_for
from batchmill.agents.providers.limits import AccountGate
from batchmill.agents.settings import AccountSettings, SettingsError, is_loopback
from batchmill.streams.ports import OutcomeUnknownError, ProviderError, TransientError

__all__ = ["REPLY_BYTES_MAX", "CallSeen", "HttpSeam", "Reply", "is_near"]

T = TypeVar("T")

#: A JSON answer of a provider's control API; files are streamed and bounded elsewhere.
REPLY_BYTES_MAX = 16 * 2**20
#: Shorter than the idle limit of common servers, so that we rarely send into a connection they are closing.
KEEPALIVE_SECONDS = 2.0
#: Errors of httpx after which no byte of the request can have reached the provider.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSeen:
    """One finished call, for telemetry: no bodies, no ids."""

    account: str
    operation: str
    outcome: str  #: ok | the class of the error
    http_status: int | None
    seconds: float  #: of the exchange itself
    waited_seconds: float  #: for a turn at the account's gate before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A 2xx answer of the control API."""

    document: Mapping[str, Any]
    server_time: datetime
    headers: Mapping[str, str]


class HttpSeam:
    """One account's connection to its provider. `on_call` hears of every call that was sent.

    `id_member` is the member by which this provider's objects are named.
    """

    def __init__(
        self,
        *,
        name: str,
        account: AccountSettings,
        headers: Mapping[str, str],
        on_call: Callable[[CallSeen], None],
        loopback_only: bool,
        id_member: str = "id",
    ) -> None:
        near = is_near(name, account, loopback_only=loopback_only)
        self._name, self._account, self._on_call = name, account, on_call
        self._id_member = id_member
        self.gate = AccountGate(
            requests_per_minute=account.requests_per_minute,
            concurrent_max=account.concurrent_requests_max,
            cooldown_max_seconds=account.cooldown_max_seconds,
        )
        self._client = httpx.AsyncClient(
            base_url=account.url.rstrip("/") + "/",
            headers=dict(headers),
            timeout=httpx.Timeout(account.read_timeout_seconds, connect=account.connect_timeout_seconds),
            limits=httpx.Limits(max_connections=account.concurrent_requests_max, keepalive_expiry=KEEPALIVE_SECONDS),
            # Proxy variables of the machine are for the world outside, not for its own loopback.
            trust_env=not near,
            follow_redirects=False,
        )

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        names: bool = False,
        bare: bool = False,
        spends: bool = False,
        may_start: Callable[[], bool] | None = None,
    ) -> Reply:
        """Exchange JSON once.

        `names`: an answer that names no object is a broken one. `bare`: only its head counts, the body may be empty.
        `spends`: a broken exchange is `OutcomeUnknownError`, not `TransientError`.
        """
        body = None if json is None else orjson.dumps(json)
        said = {} if body is None else {"content-type": "application/json"}
        request = self._client.build_request(
            method, path, content=body, headers=said | dict(headers or {}), params=params
        )
        seconds = self._account.total_timeout_seconds
        named = self._id_member if names else None
        return await self._exchange(
            operation, request, seconds, named=named, bare=bare, spends=spends, may_start=may_start
        )

    async def send_file(
        self,
        operation: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: AsyncIterator[bytes],
        may_start: Callable[[], bool],
        spends: bool = False,
        names: bool = True,
    ) -> Reply:
        """Send a body piece by piece. What its iterator raises ends the exchange and is raised as it is."""
        request = self._client.build_request("POST", path, content=body, headers=dict(headers))
        seconds = self._account.transfer_timeout_seconds
        named = self._id_member if names else None
        return await self._exchange(operation, request, seconds, named=named, spends=spends, may_start=may_start)

    async def receive_file(self, operation: str, path: str) -> AsyncGenerator[bytes, None]:
        """Read a body piece by piece; one that breaks off raises. The reader may stop early by closing the iterator."""
        request = self._client.build_request("GET", path)
        async with self._turn(operation, spends=False, may_start=None) as seen:
            # Only our own waiting is timed: a limit around `yield` would cancel whatever the reader awaits meanwhile.
            until_s = asyncio.get_running_loop().time() + self._account.transfer_timeout_seconds
            async with self._sent(request, seen, spends=False, until_s=until_s) as response:
                parts = response.aiter_bytes()
                try:
                    while (part := await _within(until_s, anext(parts, b""))) != b"":
                        yield part
                except GeneratorExit:
                    seen.outcome = "ok"  # the reader has read enough
                    raise

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.aclose()

    async def _exchange(
        self,
        operation: str,
        request: httpx.Request,
        seconds: float,
        *,
        named: str | None,
        bare: bool = False,
        spends: bool = False,
        may_start: Callable[[], bool] | None = None,
    ) -> Reply:
        async with self._turn(operation, spends=spends, may_start=may_start) as seen:
            until_s = asyncio.get_running_loop().time() + seconds
            async with self._sent(request, seen, spends=spends, until_s=until_s) as response:
                body = await _within(until_s, _bounded(response))
                return _reply(b"{}" if bare and not body.strip() else body, response, named)

    @asynccontextmanager
    async def _turn(
        self, operation: str, *, spends: bool, may_start: Callable[[], bool] | None
    ) -> AsyncIterator["_Seen"]:
        """Wait for a turn, then let the body make its exchange; whatever breaks leaves as an error of the port."""
        async with self.gate.turn() as waited_seconds:
            if may_start is not None and not may_start():
                raise TransientError("lease_ended", hint="a pause, or no recent commit: it may not start any more")
            seen, started_s = _Seen(), clock.monotonic_s()
            try:
                yield seen
                seen.outcome = "ok"
            except ProviderError as error:
                seen.outcome = type(error).__name__
                raise
            except (
                httpx.HTTPError,
                httpx.InvalidURL,
                httpx.StreamError,
                TimeoutError,
                orjson.JSONDecodeError,
            ) as error:
                mapped = _broken(error, spends=spends)
                seen.outcome = type(mapped).__name__
                raise mapped from None
            finally:
                seconds = clock.monotonic_s() - started_s
                self._on_call(
                    CallSeen(
                        account=self._name,
                        operation=operation,
                        outcome=seen.outcome,
                        http_status=seen.http_status,
                        seconds=seconds,
                        waited_seconds=waited_seconds,
                    )
                )

    @asynccontextmanager
    async def _sent(
        self, request: httpx.Request, seen: "_Seen", *, spends: bool, until_s: float
    ) -> AsyncIterator[httpx.Response]:
        """Send, and hand on a 2xx answer whose body has not been read; any other raises."""
        response = await _within(until_s, self._client.send(request, stream=True))
        try:
            seen.http_status = response.status_code
            if not response.is_success:
                complaint = await _within(until_s, _error_document(response))
                raise self._complained(complaint, response, spends=spends)
            yield response
        finally:
            await response.aclose()

    def _complained(self, complaint: Complaint, response: httpx.Response, *, spends: bool) -> ProviderError:
        error = error_for(
            response.status_code, complaint, spends=spends, headers=response.headers, now=_server_time(response)
        )
        if response.status_code == 429 and isinstance(error, TransientError):
            self.gate.cool_down(error.retry_after_seconds)
        return error


def is_near(name: str, account: AccountSettings, *, loopback_only: bool) -> bool:
    """Is the account's provider on this machine? One that must be and is not is refused."""
    near = is_loopback(account.url)
    if loopback_only and not near:
        raise SettingsError(
            f"account {name} points beyond this machine, but loopback_only is set so that nothing can be spent;"
            " unset it or point base_url at a simulator on 127.0.0.1"
        )
    return near


class _Seen:
    """What is known of a running call."""

    outcome = "cancelled"
    http_status: int | None = None


def _broken(error: Exception, *, spends: bool) -> ProviderError:
    code = "timeout" if isinstance(error, httpx.TimeoutException | TimeoutError) else type(error).__name__
    if spends and not isinstance(error, NEVER_SENT):
        return OutcomeUnknownError(code, hint="the request was sent and its answer was lost")
    return TransientError(code, hint="the exchange broke off")


async def _within(until_s: float, waiting: Awaitable[T]) -> T:
    async with asyncio.timeout_at(until_s):
        return await waiting


async def _bounded(response: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > REPLY_BYTES_MAX:
            raise httpx.DecodingError(f"answer larger than {REPLY_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


async def _error_document(response: httpx.Response) -> Complaint:
    """Read the code of a refusal; whatever cannot be read does not change the status we already have."""
    fallback = f"http_{response.status_code}"
    try:
        return complaint_in(orjson.loads(await _bounded(response)), fallback)
    except (httpx.HTTPError, httpx.StreamError, orjson.JSONDecodeError):
        return Complaint(code=fallback)


def _reply(body: bytes, response: httpx.Response, named: str | None) -> Reply:
    document = orjson.loads(body)
    if not isinstance(document, dict) or (named is not None and not isinstance(document.get(named), str)):
        raise httpx.DecodingError("answer is not the JSON object it should be")
    return Reply(document=document, server_time=_server_time(response), headers=response.headers)


def _server_time(response: httpx.Response) -> datetime:
    """Read the provider's clock, so that its own times are compared with itself; ours when it does not say."""
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).astimezone(UTC)
    except ValueError:
        return datetime.fromtimestamp(clock.wall_ms() / 1_000, tz=UTC)
