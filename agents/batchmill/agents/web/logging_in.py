"""Trading a token for a cookie, and giving it back. The cookie is the token, out of reach of scripts and other sites.

Wrong tokens are counted per address, a small number in a time; the memory for it is bounded.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from batchmill.agents.settings import WebSettings
from batchmill.agents.web.problems import LOGIN, refusal
from batchmill.agents.web.tokens import TokenError, TokenFile

__all__ = ["Failures", "login_router"]

_ADDRESSES_MAX: Final = 10_000
_TOKEN_CHARS_MAX: Final = 200
_PATH_CHARS_MAX: Final = 2_000
_SECONDS_PER_HOUR: Final = 3_600


class Failures:
    """Wrong tokens of the last while, by address."""

    def __init__(self, *, most: int, seconds: float, now_s: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._now_s = now_s
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def must_wait(self, address: str) -> bool:
        times = self._seen.get(address)
        while times and self._now_s() - times[0] >= self._seconds:
            times.popleft()
        return times is not None and len(times) >= self._most

    def count(self, address: str) -> None:
        self._seen.setdefault(address, deque(maxlen=self._most)).append(self._now_s())
        self._seen.move_to_end(address)
        if len(self._seen) > _ADDRESSES_MAX:
            self._seen.popitem(last=False)


def login_router(settings: WebSettings, tokens: TokenFile, failures: Failures) -> APIRouter:
    """`POST /login` (form: token, next) and `POST /logout`. The page with the form is the pages' own."""
    router = APIRouter(include_in_schema=False)

    @router.post(LOGIN)
    def login(
        request: Request,
        token: Annotated[str, Form(max_length=_TOKEN_CHARS_MAX)],
        wanted: Annotated[str, Form(alias="next", max_length=_PATH_CHARS_MAX)] = "/",
    ) -> Response:
        address = request.client.host if request.client else "unknown"
        if failures.must_wait(address):
            seconds = settings.failed_logins_seconds
            told = f"too many wrong tokens from this address; wait {seconds:g} s"
            return refusal(LOGIN, request.headers, 429, told, headers={"retry-after": f"{seconds:.0f}"})
        try:
            user = tokens.user(token.strip())
        except TokenError as error:
            return refusal(LOGIN, request.headers, 503, str(error))
        if user is None:
            failures.count(address)
            return RedirectResponse(f"{LOGIN}?failed=1", status_code=303)
        answer = RedirectResponse(_local_path(wanted), status_code=303)
        answer.set_cookie(
            settings.cookie_name,
            token.strip(),
            max_age=settings.cookie_hours * _SECONDS_PER_HOUR,
            httponly=True,
            samesite="strict",
            secure=settings.tls_proxy or request.url.scheme == "https",
        )
        return answer

    @router.post("/logout")
    def logout() -> Response:
        answer = RedirectResponse(LOGIN, status_code=303)
        answer.delete_cookie(settings.cookie_name, httponly=True, samesite="strict")
        return answer

    return router


def _local_path(wanted: str) -> str:
    """A path on this very server; anything that a browser could read as another one becomes the start page."""
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable()
    return wanted if plain and "\\" not in wanted else "/"
