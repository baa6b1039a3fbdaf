"""The gate every request passes: the right name, the right site, a known person, a bounded body.

    Host        one of ours, else 421: a name that somebody else's DNS points here (rebinding) is not
    site        unsafe methods must come from our own pages (Sec-Fetch-Site, Origin), else 403; a program with a bearer
                token and without the cookie is nobody's browser
    person      bearer token or cookie; without any token made, on loopback only and not through a proxy: whoever sits
                here, as an operator
    body        at most `web.body_bytes_max` within `web.body_seconds`, read before anything is done

Every answer carries the security headers. What a role may do is said where the route is declared (`needs`).
"""

import asyncio
import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import quote, urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchmill.agents.desk.model import DeskError, ErrorKind, Role, User
from batchmill.agents.settings import WebSettings
from batchmill.agents.web.problems import API, LOGIN, refusal
from batchmill.agents.web.tokens import TokenError, TokenFile

__all__ = ["HEADERS", "STATIC", "Gate", "is_loopback_host", "needs", "user_of"]

STATIC: Final = "/static/"
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # with `no-referrer` a browser names no origin when it posts a form, and we could not tell it from a stranger's
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER: Final = "bearer "
#: what a proxy adds: whoever asks through one does not sit here, though the proxy does
_PROXIED: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})


def is_loopback_host(host: str) -> bool:
    """Whether that is this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def user_of(request: Request) -> User:
    """Who was let in."""
    found: User = request.state.user
    return found


def needs(role: Role) -> Callable[[Request], User]:
    """A dependency: the user, if they may do what this role may; FORBIDDEN otherwise."""

    def check(request: Request) -> User:
        user = user_of(request)
        if not user.role.may(role):
            raise DeskError(ErrorKind.FORBIDDEN, f"{user.name} is {user.role}; this needs {role}")
        return user

    return check


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    status: int
    detail: str

    def answer(self, scope: Scope) -> Response:
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else None
        return refusal(str(scope["path"]), Headers(scope=scope), self.status, self.detail, headers=headers)


class Gate:
    """ASGI around everything. `local`: who is let in while there are no tokens; None: nobody."""

    def __init__(
        self, app: ASGIApp, *, settings: WebSettings, tokens: TokenFile, hosts: Collection[str], local: User | None
    ) -> None:
        self._app = app
        self._settings = settings
        self._tokens = tokens
        self._hosts = frozenset(host.lower() for host in hosts)
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded = _with_headers(send)
        refused = self._let_in(scope, Headers(scope=scope))
        if refused is not None:
            await refused(scope, receive, guarded)
            return
        if scope["method"] in _SAFE:
            await self._app(scope, receive, guarded)
            return
        body = await self._body(Headers(scope=scope), receive)
        if isinstance(body, _Refusal):
            await body.answer(scope)(scope, receive, guarded)
            return
        await self._app(scope, _again(body, receive), guarded)

    def _let_in(self, scope: Scope, headers: Headers) -> Response | None:
        """None, with the user in the scope; or what is answered instead."""
        refused = self._wrong_host(headers) or self._wrong_site(scope, headers)
        if refused is not None:
            return refused.answer(scope)
        path = str(scope["path"])
        if path == LOGIN or path.startswith(STATIC):
            return None
        user = self._user(scope, headers)
        if isinstance(user, User):
            scope.setdefault("state", {})["user"] = user
            return None
        wants_page = "text/html" in headers.get("accept", "") and not path.startswith(API)
        if user.status == 401 and scope["method"] == "GET" and wants_page:
            return RedirectResponse(f"{LOGIN}?next={quote(_asked(scope), safe='/')}", status_code=303)
        return user.answer(scope)

    def _wrong_host(self, headers: Headers) -> _Refusal | None:
        given = headers.getlist("host")
        if len(given) == 1 and _host_of(given[0]) in self._hosts:
            return None
        return _Refusal(status=421, detail="this server does not go by that name; see web.allowed_hosts")

    def _wrong_site(self, scope: Scope, headers: Headers) -> _Refusal | None:
        if scope["method"] in _SAFE:
            return None
        if _bearer(headers) is not None and self._cookie(headers) is None:
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        own = f"{'https' if self._settings.tls_proxy else scope['scheme']}://{headers['host'].lower()}"
        told = site is not None or origin is not None
        if told and site in {None, "same-origin"} and origin in {None, own}:
            return None
        return _Refusal(status=403, detail="not from one of our own pages; a program sends a bearer token instead")

    def _user(self, scope: Scope, headers: Headers) -> User | _Refusal:
        try:
            if not self._tokens.tokens():
                return self._here(scope, headers)
            given = _bearer(headers) or self._cookie(headers)
            user = None if given is None else self._tokens.user(given)
        except TokenError as error:
            return _Refusal(status=503, detail=str(error))
        return user or _Refusal(status=401, detail="a token is needed: `batchmill tokens create NAME --role ROLE`")

    def _here(self, scope: Scope, headers: Headers) -> User | _Refusal:
        client = scope.get("client")
        sits_here = client is not None and is_loopback_host(client[0]) and _PROXIED.isdisjoint(headers.keys())
        if self._local is not None and sits_here:
            return self._local
        return _Refusal(status=401, detail="there are no tokens yet: `batchmill tokens create NAME --role operator`")

    def _cookie(self, headers: Headers) -> str | None:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._settings.cookie_name)
        except CookieError:
            return None
        return None if found is None else found.value

    async def _body(self, headers: Headers, receive: Receive) -> bytes | _Refusal:
        most = self._settings.body_bytes_max
        too_large = _Refusal(status=413, detail=f"a request has at most {most} bytes")
        told = headers.get("content-length", "")
        if told.isdigit() and int(told) > most:
            return too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    part = await receive()
                    if part["type"] == "http.disconnect":
                        return _Refusal(status=400, detail="the request ended in the middle")
                    body += part.get("body", b"")
                    if len(body) > most:
                        return too_large
                    if not part.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            return _Refusal(status=408, detail="the request took too long to come in")


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return guarded


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more; then whatever comes (the client leaving)."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _bearer(headers: Headers) -> str | None:
    given = headers.get("authorization", "")
    return given[len(_BEARER) :].strip() if given.lower().startswith(_BEARER) else None


def _host_of(given: str) -> str:
    try:
        return (urlsplit(f"//{given}").hostname or "").lower()
    except ValueError:
        return ""


def _asked(scope: Scope) -> str:
    """Where they wanted to go."""
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])
