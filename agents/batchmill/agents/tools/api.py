"""One GET of an API whose address the settings fix. A record's values are in the path already, encoded.

What lives here: the exchange, bounded in size and time, and whose fault its failure is. What must not: retries (that is
`sources`), redirects (the address is what was set, not what a server says), anything but JSON.

Whatever would be so for every record (no connection, 5xx, 429, a key that is refused, a redirect) means that the source
is away: the records wait. Whatever is about this one path (404, 400, no JSON, too large) is told as a refusal.
"""

import asyncio
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from batchmill.agents.settings import SettingsError, is_loopback
from batchmill.streams.jsontext import decode
from batchmill.streams.ports import RefusedError, TransientError
from batchmill.streams.tooling import ANSWER_BYTES_MAX, Fetch
from batchmill.streams.unusable import Unusable

__all__ = ["WebApi"]

#: 4xx that speak of us or of the moment, not of the path
_AWAY: Final = frozenset({401, 403, 407, 408, 421, 423, 425, 429})
#: an answer may be written with as much white space as it has content
_BODY_BYTES_MAX: Final = 4 * ANSWER_BYTES_MAX
_PROBE_SECONDS: Final = 5.0


class WebApi:
    """One API. Paths are below its base address and stay there."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        headers: Mapping[str, str],
        connections_max: int,
        connect_timeout_seconds: float,
        loopback_only: bool,
    ) -> None:
        near = is_loopback(base_url)
        if loopback_only and not near:
            raise SettingsError(
                f"api {name} points beyond this machine, but loopback_only is set;"
                " unset it or point base_url at a server on 127.0.0.1"
            )
        self._name, self._base = name, httpx.URL(base_url.rstrip("/"))
        self._client = httpx.AsyncClient(
            headers={"accept": "application/json", "user-agent": "batchmill", **headers},
            timeout=httpx.Timeout(None, connect=connect_timeout_seconds),
            limits=httpx.Limits(max_connections=connections_max),
            trust_env=not near,
            follow_redirects=False,
            # what is asked follows from the record alone, not from what was answered about the one before
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    async def ask(self, question: Fetch) -> Any:
        """The JSON that is there."""
        url = self._url(question.path)
        try:
            async with asyncio.timeout(question.timeout_seconds), self._client.stream("GET", url) as answer:
                self._refuse(answer)
                body = await _bounded(answer)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError) as error:
            code = "timeout" if isinstance(error, httpx.TimeoutException | TimeoutError) else type(error).__name__
            raise TransientError(f"api_{code}", hint=f"{self._name} at {self._base.host} gives no answer") from None
        try:
            return decode(body, bytes_max=_BODY_BYTES_MAX)
        except Unusable as wrong:
            raise RefusedError("no_json", hint=f"its answer is not taken: {wrong.note}") from None

    async def probe(self) -> str:
        """Ask for the base address itself; any answer will do, a key that is refused will not."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS), self._client.stream("GET", self._base) as answer:
                status = answer.status_code
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            raise TransientError(f"api_{type(error).__name__}", hint=f"no answer from {self._base.host}") from None
        if status in _AWAY or status >= 500:
            raise TransientError("api_refused", http_status=status, hint=f"from {self._base.host}")
        return f"{self._base.host} answers (HTTP {status})"

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.aclose()

    def _url(self, path: str) -> httpx.URL:
        url = self._base.copy_with(raw_path=self._base.raw_path.rstrip(b"/") + path.encode("ascii"))
        within = url.raw_path.startswith(self._base.raw_path.rstrip(b"/") + b"/")
        assert (url.host, url.port, url.scheme) == (self._base.host, self._base.port, self._base.scheme), "another host"
        assert within, "a path that leaves its API"
        return url

    def _refuse(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status == 200:
            return
        if status in _AWAY or status >= 500:
            raise TransientError(
                "api_refused", http_status=status, retry_after_seconds=_wait_s(answer), hint=f"{self._name} is away"
            )
        if 300 <= status < 400:
            hint = f"{self._name} redirects, which is not followed: set apis.{self._name}.base_url to where it is"
            raise TransientError("api_redirects", http_status=status, hint=hint)
        raise RefusedError("api_refused", http_status=status, hint=f"{self._name} has no answer for this path")


def _wait_s(answer: httpx.Response) -> float | None:
    told = answer.headers.get("retry-after", "").strip()
    return float(told) if told.isdecimal() else None


async def _bounded(answer: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > _BODY_BYTES_MAX:
            raise RefusedError("too_large", hint=f"its answer has more than {_BODY_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)
