"""The page of one record: everything a reviewer needs to decide, and the five things they can do.

What lives here: putting a card on a page, taking forms to the desk, going on to the next record. What must not: what a
decision does (the desk, and behind it the task). A form that is sent twice is decided once.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from batchmill.agents.desk.model import Answer, Card, DeskError, ErrorKind, Role, User
from batchmill.agents.web.access import user_of
from batchmill.agents.web.pages.fields import Field, Note, noted, read
from batchmill.agents.web.pages.forms import changed, posted, shown
from batchmill.agents.web.pages.highlighting import found_in, highlighted
from batchmill.agents.web.pages.rendering import text_of
from batchmill.agents.web.pages.site import PageRoute, Pairs, Site, first, pairs_of, went_to
from batchmill.agents.web.pages.trail import Done, Trail, is_id, record_path
from batchmill.agents.web.problems import STATUS
from batchmill.schemas.records import Check, Decision
from batchmill.schemas.status import Status

__all__ = ["record_router"]

_DECIDES = frozenset({"accept", "correct", "decline"})
_DEFER_CHOICES = (
    ("3600", "for an hour"),
    ("14400", "for four hours"),
    ("86400", "until tomorrow"),
    ("259200", "for three days"),
    ("604800", "for a week"),
)
_MS = 1_000
#: a page holds its record for so long without a step of whoever opened it
_HELD_MS_MAX = 30 * 60 * _MS

Act = Callable[[User], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """How the form stands; None: as the answer is."""

    form: Field | None = None
    about_all: tuple[Note, ...] = ()
    alert: str | None = None
    status: int = 200


def record_router(site: Site) -> APIRouter:
    """Everything under /review/REQUEST, and the way from one record to the next."""
    router = APIRouter(prefix="/review", include_in_schema=False, route_class=PageRoute)
    _steps(router, site)
    _decisions(router, site)

    @router.get("/{request_id}")
    async def record(request: Request, request_id: str) -> Response:
        return await _page(site, request, request_id, _Shown())

    @router.get("/{request_id}/{action}")
    async def asked_again(request: Request, request_id: str, action: str) -> Response:  # noqa: ARG001
        """Where a browser comes back to after a form: what was posted is not repeated."""
        return went_to(record_path(request_id, Trail.of(request.query_params)))

    return router


async def _next_address(site: Site, user: User, trail: Trail) -> str:
    """The next record of the queue that is free, from the start again after the last one; else the queue."""
    found = await site.desk.next_for(user, trail.filter, trail.after)
    if found is None and trail.after is not None:
        trail = trail.but(after=None)
        found = await site.desk.next_for(user, trail.filter, None)
    return f"/review{trail.but(after=None, steps=()).query}" if found is None else record_path(found, trail)


# --- looking and stepping ---


def _steps(router: APIRouter, site: Site) -> None:
    @router.get("/next")
    async def step_on(request: Request) -> Response:
        trail, user = Trail.of(request.query_params), user_of(request)
        await _leave(site, request, trail.steps[-1:])
        return went_to(await _next_address(site, user, trail))

    @router.get("/back")
    async def step_back(request: Request) -> Response:
        """The last step is the record that is left, the one before it the one to see again."""
        trail = Trail.of(request.query_params)
        await _leave(site, request, trail.steps[-1:])
        if len(trail.steps) < 2:
            return went_to(f"/review{trail.queue.query}")
        return went_to(record_path(trail.steps[-2], trail.but(steps=trail.steps[:-2], done=None)))

    @router.post("/{request_id}/lock")
    async def hold_longer(request: Request, request_id: str) -> Response:
        try:
            _refuse_left_open(request.query_params.get("since", ""), site.now_ms())
            await site.desk.lock(_named(request_id), user_of(request))
        except DeskError as error:
            return HTMLResponse(text_of("lock_lost.html", detail=str(error)))
        return HTMLResponse("")


def _refuse_left_open(since: str, now_ms: int) -> None:
    """A page holds its record for whoever works on it; one that was left open must not hold it for ever."""
    begun_ms = int(since) if since.isascii() and since.isdigit() and len(since) < 16 else 0
    if now_ms - begun_ms > _HELD_MS_MAX:
        minutes = _HELD_MS_MAX // 60_000
        told = f"this page was open for {minutes} minutes and holds its record no longer; open it again to go on"
        raise DeskError(ErrorKind.CONFLICT, told)


async def _leave(site: Site, request: Request, left: Sequence[str]) -> None:
    """Give back the locks of records that are left; a courtesy that may fail."""
    user = user_of(request)
    if not user.role.may(Role.REVIEWER) or not _is_ours(request):
        return
    for request_id in left:
        await site.desk.release(request_id, user)


async def _hold(site: Site, request: Request, request_id: str) -> None:
    """Opening a record holds it, for who may decide it and comes from a page of ours or by themselves."""
    user = user_of(request)
    if not user.role.may(Role.REVIEWER) or not _is_ours(request):
        return
    try:
        await site.desk.lock(request_id, user)
    except DeskError as error:
        if error.kind is not ErrorKind.CONFLICT:
            raise


def _is_ours(request: Request) -> bool:
    return request.headers.get("sec-fetch-site") in {None, "none", "same-origin"}


async def _page(site: Site, request: Request, request_id: str, how: _Shown) -> Response:
    user, trail = user_of(request), Trail.of(request.query_params)
    card = await site.desk.card(_named(request_id), user=user)
    if _waits(card) and how.form is None:
        await _hold(site, request, request_id)
        card = await site.desk.card(request_id, user=user)
    whole = request.query_params.get("all") == "1"
    passages = card.passages or await asyncio.to_thread(found_in, card.input, card.output)
    texts = () if card.input is None else highlighted(card.input, passages, whole=whole)
    form = how.form or shown(card.output_schema, card.output)
    may_decide = _may_decide(card, user)
    return await site.page(
        request,
        "record.html",
        "record",
        status=how.status,
        card=card,
        trail=trail,
        form=form,
        about_all=how.about_all,
        alert=how.alert,
        is_edited=how.form is not None,
        texts=texts,
        is_cut=any(text.is_cut for text in texts),
        waits=_waits(card),
        may_decide=may_decide,
        keeps_lock=may_decide and card.item.lock is not None,
        undoable=_is_undoable(card, user),
        why_not=_why_not(card, user),
        defer_choices=_DEFER_CHOICES,
        next_address=f"/review/next{trail.behind(request_id, card.item.cursor).query}",
        back_address=_back_address(request_id, trail),
        lock_address=_also(record_path(request_id, trail.queue, "lock"), f"since={site.now_ms()}"),
        here_address=record_path(request_id, trail.but(done=None)),
        all_address=_all_address(request_id, trail),
    )


def _named(request_id: str) -> str:
    if not is_id(request_id):
        raise DeskError(ErrorKind.NOT_FOUND, "that is no name of a record")
    return request_id


def _back_address(request_id: str, trail: Trail) -> str | None:
    return f"/review/back{trail.behind(request_id, trail.after).query}" if trail.steps else None


def _all_address(request_id: str, trail: Trail) -> str:
    return _also(record_path(request_id, trail.but(done=None)), "all=1")


def _also(address: str, pair: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}{pair}"


def _waits(card: Card) -> bool:
    return card.status is Status.NEEDS_REVIEW and not card.aside


def _may_decide(card: Card, user: User) -> bool:
    return _why_not(card, user) == ""


def _why_not(card: Card, user: User) -> str:
    """Why this person cannot decide it, or nothing."""
    lock = card.item.lock
    if card.pending is not None:
        return "A decision is on its way."
    if card.aside:
        return "It stands aside: another version answers for this record."
    if not _waits(card):
        return "It does not wait for a person."
    if not user.role.may(Role.REVIEWER):
        return f"You may look; deciding needs the role {Role.REVIEWER}."
    if lock is not None and lock.holder != user.name:
        return f"{lock.holder} is looking at it."
    if card.item.needs_second and any(_is_opinion(decision, card, user) for decision in card.decisions):
        return "You have decided it; the second decision must be another person's."
    return ""


def _is_opinion(decision: Decision, card: Card, user: User) -> bool:
    seen = decision.output_sha256_seen == card.output_sha256
    return decision.actor == user.name and decision.action in _DECIDES and seen


def _is_undoable(card: Card, user: User) -> bool:
    """Whether to offer it; the desk knows whether it is still possible."""
    decision = card.pending or _in_force(card.decisions)
    if decision is None or decision.action not in _DECIDES or not user.role.may(Role.REVIEWER):
        return False
    stands = card.pending is not None or card.status in {Status.VALIDATED, Status.FAILED_TERMINAL}
    return stands and (decision.actor == user.name or user.role.may(Role.OPERATOR))


def _in_force(decisions: Sequence[Decision]) -> Decision | None:
    undone = {decision.undoes for decision in decisions if decision.action == "undo"}
    standing = [each for each in decisions if each.action in _DECIDES and each.id not in undone]
    return standing[-1] if standing else None


# --- deciding ---


def _decisions(router: APIRouter, site: Site) -> None:
    @router.post("/{request_id}/accept")
    async def accept(request: Request, request_id: str) -> Response:
        seen = first(await pairs_of(request), "seen")
        return await _decide(
            site, request, request_id, "accept", seen, lambda user: site.desk.accept(request_id, user=user, seen=seen)
        )

    @router.post("/{request_id}/decline")
    async def decline(request: Request, request_id: str) -> Response:
        pairs = await pairs_of(request)
        seen, reason = first(pairs, "seen"), first(pairs, "reason") or ""
        return await _decide(
            site,
            request,
            request_id,
            "decline",
            seen,
            lambda user: site.desk.decline(request_id, reason, user=user, seen=seen),
        )

    @router.post("/{request_id}/defer")
    async def defer(request: Request, request_id: str) -> Response:
        pairs = await pairs_of(request)
        seen, seconds = first(pairs, "seen"), first(pairs, "for")
        if seconds not in dict(_DEFER_CHOICES):
            raise DeskError(ErrorKind.REFUSED, "choose until when it is put off")
        until_ms = site.now_ms() + int(seconds) * _MS
        return await _decide(
            site,
            request,
            request_id,
            "defer",
            seen,
            lambda user: site.desk.defer(request_id, until_ms, user=user, seen=seen),
        )

    @router.post("/{request_id}/undo")
    async def undo(request: Request, request_id: str) -> Response:
        trail = Trail.of(request.query_params)
        await site.desk.undo(_named(request_id), user=user_of(request))
        done = Done(request_id=request_id, action="undo", undo_until_ms=None)
        return went_to(record_path(request_id, trail.but(done=done)))

    @router.post("/{request_id}/correct")
    async def correct(request: Request, request_id: str) -> Response:
        return await _correct(site, request, _named(request_id))


async def _decide(site: Site, request: Request, request_id: str, action: str, seen: str | None, act: Act) -> Response:
    """Do it and go on; what was refused is said on the record's own page."""
    user = user_of(request)
    _named(request_id)
    try:
        answer = await act(user)
    except DeskError as error:
        if error.kind not in {ErrorKind.CONFLICT, ErrorKind.REFUSED}:
            raise
        if not await _is_done(site, request_id, user, action, seen):
            return await _page(site, request, request_id, _Shown(alert=str(error), status=STATUS[error.kind]))
        return await _go_on(site, request, request_id, Done(request_id=request_id, action=action, undo_until_ms=None))
    done = Done(request_id=request_id, action=action, undo_until_ms=answer.undo_until_ms)
    return await _go_on(site, request, request_id, done)


async def _is_done(site: Site, request_id: str, user: User, action: str, seen: str | None) -> bool:
    """Whether this person has decided just that about this very answer: the form was sent twice."""
    card = await site.desk.card(request_id, user=user)
    done = card.pending or _in_force(card.decisions)
    told = None if done is None else (done.actor, done.action, done.output_sha256_seen)
    return seen is not None and told == (user.name, action, seen)


async def _go_on(site: Site, request: Request, request_id: str, done: Done) -> Response:
    trail = Trail.of(request.query_params)
    onward = trail.behind(request_id, trail.after).but(done=done)
    return went_to(await _next_address(site, user_of(request), onward))


async def _correct(site: Site, request: Request, request_id: str) -> Response:
    """Save the form, or let one of its buttons change it."""
    pairs = await pairs_of(request)
    card = await site.desk.card(request_id, user=user_of(request))
    order = first(pairs, "do") or "save"
    if order != "save":
        form = changed(card.output_schema, _answer(pairs), order)
        return _kept_address(await _page(site, request, request_id, _Shown(form=form)), request, request_id)
    form = posted(card.output_schema, _answer(pairs))
    reading = read(form)
    if reading.problems:
        alert = "Not saved: some fields cannot be read."
        return await _refused(site, request, request_id, form, reading.problems, alert)
    if _same(reading.value, card.output):
        told = "Nothing was changed. If the answer is right as it is, accept it."
        return await _refused(site, request, request_id, form, (), told)
    text = json.dumps(reading.value, ensure_ascii=False)
    try:
        answer = await site.desk.correct(request_id, text, user=user_of(request), seen=first(pairs, "seen"))
    except DeskError as error:
        if error.kind not in {ErrorKind.CONFLICT, ErrorKind.REFUSED}:
            raise
        if await _is_done(site, request_id, user_of(request), "correct", first(pairs, "seen")):
            done = Done(request_id=request_id, action="correct", undo_until_ms=None)
            return await _go_on(site, request, request_id, done)
        return await _refused(site, request, request_id, form, _notes(error.checks), str(error))
    done = Done(request_id=request_id, action="correct", undo_until_ms=answer.undo_until_ms)
    return await _go_on(site, request, request_id, done)


def _answer(pairs: Pairs) -> Pairs:
    return [pair for pair in pairs if pair[0] not in {"seen", "do"}]


async def _refused(
    site: Site, request: Request, request_id: str, form: Field, notes: Sequence[Note], alert: str
) -> Response:
    marked, about_all = noted(form, notes)
    how = _Shown(form=marked, about_all=about_all, alert=alert, status=422)
    return _kept_address(await _page(site, request, request_id, how), request, request_id)


def _notes(checks: Sequence[Check]) -> tuple[Note, ...]:
    return tuple(
        Note(where=_place(check.path), text=f"{check.id}: {check.note or 'does not hold'}", severity=check.severity)
        for check in checks
    )


def _place(path: str | None) -> str:
    """A path as forms write it: jobs may leave the `$.` out."""
    return "$" if path is None else path if path.startswith("$") else f"$.{path}"


def _kept_address(page: Response, request: Request, request_id: str) -> Response:
    """The address of the record stays in the bar, not the one that was posted to."""
    page.headers["HX-Replace-Url"] = record_path(request_id, replace(Trail.of(request.query_params), done=None))
    return page


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
