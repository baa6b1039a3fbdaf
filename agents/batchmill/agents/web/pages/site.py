"""What every page has around it, and what becomes of errors on the way to one.

What lives here: the site (whom pages ask), the frame, error pages, reading posted forms. What must not: what a page
shows of records.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from typing_extensions import override

from batchmill.agents import clock
from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.model import Change, DeskError, ErrorKind, User
from batchmill.agents.settings import ReviewSettings, WebSettings
from batchmill.agents.web.access import user_of
from batchmill.agents.web.operating import Operations
from batchmill.agents.web.pages.rendering import rendered
from batchmill.agents.web.problems import STATUS

__all__ = ["PageRoute", "Pairs", "Site", "first", "pairs_of", "went_to"]

#: of one form; a form of `forms.CONTROLS_MAX` controls posts at most three each
_PAIRS_MAX = 5_000
_TITLES = {
    ErrorKind.NOT_FOUND: "There is no such record",
    ErrorKind.CONFLICT: "Somebody was faster",
    ErrorKind.REFUSED: "That was refused",
    ErrorKind.FORBIDDEN: "Your role does not allow that",
    ErrorKind.UNAVAILABLE: "Not just now",
}

Pairs = list[tuple[str, str]]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Whom the pages ask."""

    desk: Desk
    operations: Operations
    review: ReviewSettings
    web: WebSettings
    now_ms: Callable[[], int] = clock.wall_ms

    async def page(self, request: Request, template: str, here: str, *, status: int = 200, **values: Any) -> Response:
        """A template inside the frame."""
        frame = {
            "user": user_of(request),
            "signed_in": self.web.cookie_name in request.cookies,
            "here": here,
            "change": await self.change(),
            "now_ms": self.now_ms(),
        }
        return rendered(template, status=status, **frame, **values)

    async def change(self) -> Change | None:
        """The counts in the head; a page is no worse without them."""
        try:
            return await self.desk.freshness()
        except DeskError:
            return None


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    @override
    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except DeskError as error:
                return _error_page(request, error)

        return guarded


def _error_page(request: Request, error: DeskError) -> Response:
    user: User | None = getattr(request.state, "user", None)
    return rendered(
        "error.html",
        status=STATUS[error.kind],
        user=user,
        signed_in=False,
        here="",
        change=None,
        title=_TITLES[error.kind],
        detail=str(error),
        back="/review",
        back_name="To the queue",
    )


async def pairs_of(request: Request) -> Pairs:
    """The posted form, in order; REFUSED for what is none."""
    try:
        text = (await request.body()).decode("ascii")
        return parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=_PAIRS_MAX
        )
    except ValueError:
        told = f"this is no form, or one with more than {_PAIRS_MAX} fields; open the page again"
        raise DeskError(ErrorKind.REFUSED, told) from None


def first(pairs: Pairs, name: str) -> str | None:
    """The first value posted under `name`."""
    return next((value for key, value in pairs if key == name), None)


def went_to(address: str) -> Response:
    """The answer to every form that did something: look there, and a reload repeats nothing."""
    return RedirectResponse(address, status_code=303)
