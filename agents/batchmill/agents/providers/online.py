"""Single questions behind the port `streams.ports.OnlineProvider`: one call is one exchange, never repeated.

What lives here: the connection pool of one account, a turn from its pacer before each call, and what an exchange that
went wrong means. What must not: retries, redirects, a protocol's own words (each protocol brings four functions for
them) or deciding what becomes of a question. It stands on aiohttp: docs/decisions/0012-online-http.md says why.

What an exchange means for the money: an answer is an answer; a refusal of the question is an answer too, an unbilled
one. A throttled call, a full service that says so, a connection that was never made: certainly not billed. Any other
failure of the service, and silence: nobody knows. aiohttp repeats a request on a stale connection by itself, but only
idempotent ones; ours are POST.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Protocol, cast

import aiohttp
import orjson
from aiohttp import hdrs

from batchmill.agents import clock
from batchmill.agents.providers.errors import Complaint, complaint_in, error_for
from batchmill.agents.providers.http import REPLY_BYTES_MAX, CallSeen, is_near
from batchmill.agents.providers.pacing import Ended, Pacer
from batchmill.agents.providers.rate_headers import rates_in
from batchmill.agents.settings import AccountSettings
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.capabilities import facts_of
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.ports import (
    MustPauseError,
    NotFoundError,
    NotStartedError,
    OutcomeUnknownError,
    ProviderError,
    RowOutcome,
    TransientError,
)

__all__ = ["OnlineClient"]

OPERATION = "ask"
#: Names the call in the provider's own logs, where it keeps such names: a call in doubt can be asked about.
REQUEST_ID = "x-client-request-id"
#: Shorter than the idle limit of common servers, so that we rarely send into a connection they are closing.
KEEPALIVE_SECONDS = 2.0
#: How long a name is remembered: with hundreds of calls a second it must not be looked up for each.
DNS_SECONDS = 60
#: Errors of aiohttp after which no byte of the request can have reached the provider.
NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)
#: What a service says when it did not take the question up: as good as throttled.
OVERLOADED_STATUS = 529
OVERLOADED_CODES = frozenset({"overloaded_error", "slow_down", "rate_limit_exceeded", "rate_limit_error"})
#: About the account's address or the job's model, never about this very question: the next one fares no better.
ADDRESS_STATUSES = frozenset({301, 302, 303, 307, 308, 404, 405})
ADDRESS_CODES = frozenset({"model_not_found", "invalid_url", "not_found_error"})


class _Rows(Protocol):
    """What a protocol's `<protocol>_rows` says of single calls."""

    def call_of(self, line: bytes) -> bytes: ...

    def row_of(self, custom_id: str, http_status: int, body: bytes) -> RowOutcome: ...


class _Paths(Protocol):
    """What a protocol's `<protocol>_batch` says of single calls."""

    def headers(self, account: AccountSettings) -> dict[str, str]: ...

    def online_path(self, endpoint: str) -> str: ...


@dataclass(slots=True)
class _Call:
    """What is known of a running call."""

    ended: Ended = Ended.UNTOLD
    outcome: str = "cancelled"
    http_status: int | None = None
    sent: bool = False
    retry_after_seconds: float | None = None


class OnlineClient:
    """One account's endpoints for single questions. `on_call` hears of every call that was sent."""

    def __init__(
        self, *, name: str, account: AccountSettings, on_call: Callable[[CallSeen], None], loopback_only: bool
    ) -> None:
        protocol = facts_of(account.kind).protocol
        self._rows = cast("_Rows", import_module(f"batchmill.agents.providers.{protocol}_rows"))
        self._paths = cast("_Paths", import_module(f"batchmill.agents.providers.{protocol}_batch"))
        self._name, self._account, self._on_call = name, account, on_call
        self._near = is_near(name, account, loopback_only=loopback_only)
        self._base = account.url.rstrip("/") + "/"
        self.pacer = Pacer(
            requests_per_minute=account.online_requests_per_minute,
            tokens_per_minute=account.online_tokens_per_minute,
            concurrent_max=account.online_concurrent_max,
            cooldown_max_seconds=account.cooldown_max_seconds,
        )
        self.set_share = self.pacer.set_share
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self._name

    def closed_seconds(self) -> float:
        """How long no call will be let through: who waits until then holds nothing open."""
        return self.pacer.closed_seconds()

    async def ask(self, *, endpoint: str, line: bytes, tokens: int, may_start: Callable[[], bool]) -> RowOutcome:
        custom_id, model = _named(line)
        body = self._rows.call_of(line)
        prompt_tokens = min(tokens, estimate_tokens(len(body)))
        turn = await self.pacer.admit(model=model, prompt_tokens=prompt_tokens, answer_tokens=tokens - prompt_tokens)
        call, started_s = _Call(), clock.monotonic_s()
        try:
            if not may_start():
                raise NotStartedError("lease_ended", hint="a pause, or no recent commit: it may not start any more")
            call.sent = True
            url = self._base + self._paths.online_path(endpoint)
            status, headers, answer = await self._exchange(url, custom_id, body, call)
            self.pacer.heard(turn, rates_in(headers))
            row = self._understood(custom_id, status, headers, answer, call)
            if row.usage_known and row.billed:
                self.pacer.used(turn, input_tokens=row.input_tokens, output_tokens=row.output_tokens)
        except ProviderError as error:
            call.outcome, call.retry_after_seconds = type(error).__name__, error.retry_after_seconds
            raise
        finally:
            self.pacer.done(turn, call.ended, retry_after_seconds=call.retry_after_seconds)
            if call.sent:
                self._tell(call, seconds=clock.monotonic_s() - started_s, waited_seconds=turn.waited_seconds)
        return row

    async def close(self) -> None:
        """Close idle connections."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self, url: str, custom_id: str, body: bytes, call: _Call
    ) -> tuple[int, Mapping[str, str], bytes | None]:
        """Status, headers and body of the answer; None for a body that is too large to be read."""
        try:
            named = {REQUEST_ID: custom_id}
            async with self._opened().post(url, data=body, headers=named, allow_redirects=False) as response:
                call.http_status = response.status
                return response.status, response.headers, await _bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            call.ended = Ended.UNABLE
            raise _broken(error) from None

    def _understood(
        self, custom_id: str, status: int, headers: Mapping[str, str], answer: bytes | None, call: _Call
    ) -> RowOutcome:
        """The answer as a row, or the error that it is."""
        call.ended = Ended.ANSWERED
        if 200 <= status < 300:
            call.outcome = "ok"
            return _too_large(custom_id, status) if answer is None else self._rows.row_of(custom_id, status, answer)
        complaint = _complaint(status, answer)
        error = _meant(status, complaint, headers)
        if error is None:
            call.outcome = "refused"
            return self._rows.row_of(custom_id, status, answer or b"")
        if isinstance(error, TransientError):
            call.ended = Ended.THROTTLED if status < 500 else Ended.UNABLE
        elif isinstance(error, OutcomeUnknownError):
            call.ended = Ended.UNABLE
        raise error

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made on first use because it belongs to the event loop."""
        if self._session is None:
            account = self._account
            self._session = aiohttp.ClientSession(
                headers={**self._paths.headers(account), "content-type": "application/json"},
                connector=aiohttp.TCPConnector(
                    limit=account.online_concurrent_max,
                    keepalive_timeout=KEEPALIVE_SECONDS,
                    ttl_dns_cache=DNS_SECONDS,
                ),
                timeout=aiohttp.ClientTimeout(
                    total=account.online_timeout_seconds, sock_connect=account.connect_timeout_seconds
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Proxy variables of the machine are for the world outside, not for its own loopback.
                trust_env=not self._near,
            )
        return self._session

    def _tell(self, call: _Call, *, seconds: float, waited_seconds: float) -> None:
        self._on_call(
            CallSeen(
                account=self._name,
                operation=OPERATION,
                outcome=call.outcome,
                http_status=call.http_status,
                seconds=seconds,
                waited_seconds=waited_seconds,
            )
        )


def _named(line: bytes) -> tuple[str, str]:
    """The custom id of a payload line, and the model it asks; every protocol with single calls writes them so."""
    row = orjson.loads(line)
    body = row.get("body") or row.get("params") or {}
    return row["custom_id"], str(body.get("model", ""))


async def _bounded(response: aiohttp.ClientResponse) -> bytes | None:
    length = response.content_length
    if length is not None and length <= REPLY_BYTES_MAX and hdrs.CONTENT_ENCODING not in response.headers:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > REPLY_BYTES_MAX:
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _broken(error: Exception) -> ProviderError:
    code = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
    if isinstance(error, NEVER_SENT):
        return TransientError(code, hint="no connection was made")
    return OutcomeUnknownError(code, hint="the question was sent and its answer was lost")


def _complaint(status: int, answer: bytes | None) -> Complaint:
    """The code of a refusal; whatever cannot be read does not change the status we already have."""
    fallback = f"http_{status}"
    try:
        document: Any = orjson.loads(answer or b"")
    except orjson.JSONDecodeError:
        return Complaint(code=fallback)
    return complaint_in(document, fallback)


def _meant(status: int, complaint: Complaint, headers: Mapping[str, str]) -> ProviderError | None:
    """The error that an answer outside 2xx is; None: it refuses this very question."""
    now = datetime.fromtimestamp(clock.wall_ms() / 1_000, tz=UTC)
    error = error_for(status, complaint, spends=True, headers=headers, now=now)
    if isinstance(error, TransientError | MustPauseError):
        return error
    if isinstance(error, OutcomeUnknownError):
        if status == OVERLOADED_STATUS or complaint.code in OVERLOADED_CODES:
            return TransientError(error.code, http_status=status, retry_after_seconds=error.retry_after_seconds)
        return error
    about_address = status in ADDRESS_STATUSES or complaint.code in ADDRESS_CODES
    if about_address or isinstance(error, NotFoundError):
        return MustPauseError(error.code, http_status=status, hint="look at the account's base_url and the job's model")
    return None


def _too_large(custom_id: str, status: int) -> RowOutcome:
    """The same question would be answered at the same length again, and be paid for again."""
    return RowOutcome(
        custom_id=custom_id,
        outcome=Outcome.ERROR,
        reason=Reason.OVERSIZED,
        error_code="answer_too_large",
        http_status=status,
        usage_known=False,
    )
