"""Pages about many records: the queue, accepting many, progress, what changes while one looks.

What lives here: asking the desk and filling templates. What must not: one record's page (`records`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from batchmill.agents.desk.model import Card, Change, DeskError, ErrorKind, Progress, QueueItem, Role, User
from batchmill.agents.web.access import user_of
from batchmill.agents.web.pages.rendering import text_of
from batchmill.agents.web.pages.site import PageRoute, Pairs, Site, first, pairs_of, went_to
from batchmill.agents.web.pages.trail import Trail, is_id

__all__ = ["queue_router"]

#: lines of the page that shows an answer in each
_BULK_ROWS = 25
#: cards asked for at once
_AT_ONCE = 6
#: an open line without a word for so long is taken for dead by what lies between
_KEEP_ALIVE_SECONDS = 15.0


def queue_router(site: Site) -> APIRouter:
    """/review and what is about all of it. Goes before the routes of single records."""
    router = APIRouter(prefix="/review", include_in_schema=False, route_class=PageRoute)

    @router.get("")
    async def queue(request: Request) -> Response:
        trail, user = Trail.of(request.query_params), user_of(request)
        page = await site.desk.queue(trail.filter, user=user, after=trail.after)
        return await site.page(request, "queue.html", "queue", trail=trail, page=page, **await _counts(site, trail))

    @router.get("/help")
    async def help_page(request: Request) -> Response:
        return await site.page(request, "help.html", "help")

    @router.get("/progress")
    async def progress(request: Request) -> Response:
        trail = Trail.of(request.query_params)
        return await site.page(
            request,
            "progress.html",
            "progress",
            trail=trail,
            agreement=await site.desk.agreement(trail.job),
            calibration=None if trail.job is None else await site.desk.calibration(trail.job),
            **await _counts(site, trail),
        )

    @router.get("/events")
    async def events(request: Request) -> Response:  # noqa: ARG001
        heard = site.desk.changes()
        return StreamingResponse(_told(heard), media_type="text/event-stream")

    _bulk(router, site)
    return router


async def _counts(site: Site, trail: Trail) -> dict[str, Any]:
    """Of the chosen job; the lists to choose from are of all."""
    of_all = await site.desk.progress()
    progress = of_all if trail.job is None else await site.desk.progress(trail.job)
    return {
        "progress": progress,
        "decided": _decided(progress),
        "jobs": _with(sorted(of_all.by_job.items()), trail.job),
        "reasons": _with(sorted(progress.by_reason.items()), trail.reason_text),
    }


def _decided(progress: Progress) -> int:
    return progress.accepted + progress.corrected + progress.declined


def _with(counts: list[tuple[str, int]], chosen: str | None) -> list[tuple[str, int]]:
    """The list, with what is chosen in it even when nothing of it waits any more."""
    return counts if not chosen or chosen in dict(counts) else [*counts, (chosen, 0)]


async def _told(heard: AsyncIterator[Change]) -> AsyncGenerator[bytes]:
    """The counts in the head, now and whenever they change; a comment now and then keeps the line open."""
    while True:
        coming = asyncio.ensure_future(anext(heard, None))
        try:
            while not (await asyncio.wait({coming}, timeout=_KEEP_ALIVE_SECONDS))[0]:
                yield b": still here\n\n"
            if (change := coming.result()) is None:
                return
            text = text_of("live.html", change=change)
        finally:
            coming.cancel()
        yield b"".join(b"data: %s\n" % line.encode() for line in text.splitlines()) + b"\n"


# --- many at once ---


def _bulk(router: APIRouter, site: Site) -> None:
    @router.get("/bulk")
    async def choose(request: Request) -> Response:
        return await _choose(site, request)

    @router.post("/bulk")
    async def look_again(request: Request) -> Response:
        trail, user = Trail.of(request.query_params), _reviewer(request)
        pairs = await pairs_of(request)
        ids = _ids(pairs)
        seen = _seen(pairs, ids)
        if not ids or len(ids) > site.review.bulk_max:
            told = f"Choose at least one and at most {site.review.bulk_max}."
            return await _choose(site, request, alert=told, status=422)
        page = await site.desk.queue(trail.filter, user=user, limit=site.review.page_rows_max)
        names = {item.request_id: item.source_id for item in page.items}
        rows = [(name, names.get(name, ""), seen[name]) for name in ids]
        return await site.page(request, "bulk_confirm.html", "bulk", trail=trail, ids=ids, rows=rows)

    @router.post("/bulk/accept")
    async def accept(request: Request) -> Response:
        trail, user = Trail.of(request.query_params), _reviewer(request)
        pairs = await pairs_of(request)
        ids, expect = _ids(pairs), first(pairs, "expect") or ""
        seen = _seen(pairs, ids)
        if not expect.isascii() or not expect.isdigit() or len(expect) > 6:
            raise DeskError(ErrorKind.REFUSED, "the number that was confirmed is missing; confirm again")
        try:
            await site.desk.accept_many(ids, user=user, expect=int(expect), seen=seen)
        except DeskError as error:
            if error.kind is not ErrorKind.CONFLICT or not await _all_mine(site, seen, user):
                raise
        return went_to(f"/review/bulk/done/{len(ids)}{trail.queue.query}")

    @router.get("/bulk/done/{count}")
    async def done(request: Request, count: str) -> Response:
        told = count if count.isascii() and count.isdigit() and len(count) < 7 else "?"
        return await site.page(request, "bulk_done.html", "bulk", trail=Trail.of(request.query_params), count=told)

    @router.get("/bulk/accept")
    async def asked_again(request: Request) -> Response:
        return went_to(f"/review/bulk{Trail.of(request.query_params).query}")


def _reviewer(request: Request) -> User:
    user = user_of(request)
    if not user.role.may(Role.REVIEWER):
        raise DeskError(ErrorKind.FORBIDDEN, f"{user.name} is {user.role}; this needs {Role.REVIEWER}")
    return user


def _ids(pairs: Pairs) -> list[str]:
    """What was chosen, each once."""
    return list(dict.fromkeys(value for name, value in pairs if name == "id" and is_id(value)))


def _seen(pairs: Pairs, ids: Sequence[str]) -> dict[str, str]:
    """The answers that were looked at, by request."""
    seen = {name: first(pairs, f"seen.{name}") for name in ids}
    told = {name: sha256 for name, sha256 in seen.items() if sha256 is not None}
    if len(told) < len(seen):
        raise DeskError(ErrorKind.REFUSED, "the form does not say which answers were looked at; open the page again")
    return told


async def _choose(site: Site, request: Request, *, alert: str | None = None, status: int = 200) -> Response:
    trail, user = Trail.of(request.query_params), _reviewer(request)
    free = trail.but(mine=True)
    page = await site.desk.queue(free.filter, user=user, limit=_BULK_ROWS, after=trail.after)
    cards = await _cards(site, page.items, user)
    return await site.page(
        request,
        "bulk.html",
        "bulk",
        status=status,
        trail=trail,
        alert=alert,
        rows=list(zip(page.items, cards, strict=True)),
        after=page.after,
        bulk_max=site.review.bulk_max,
        **await _counts(site, trail),
    )


async def _cards(site: Site, items: Sequence[QueueItem], user: User) -> list[Card]:
    """A bounded number asked for at once."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(item: QueueItem) -> Card:
        async with places:
            return await site.desk.card(item.request_id, user=user)

    return list(await asyncio.gather(*map(ask, items)))


async def _all_mine(site: Site, seen: Mapping[str, str], user: User) -> bool:
    """Whether this very form was sent before: this person has accepted all of these answers already."""
    for name, sha256 in seen.items():
        card = await site.desk.card(name, user=user)
        newest = card.pending or (card.decisions[-1] if card.decisions else None)
        told = None if newest is None else (newest.actor, newest.action, newest.output_sha256_seen)
        if told != (user.name, "accept", sha256):
            return False
    return True
