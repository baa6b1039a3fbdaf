"""Pages for operators: what was committed by which run, what is dead-lettered; a change is counted before it is made.

What lives here: two lists, and two steps (count, then do) for each command. What must not: what a command does. Who may
look may count; who may change is asked again by the second step.
"""

from collections import Counter
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchmill.agents.desk.model import DeskError, ErrorKind, Role, User
from batchmill.agents.web.access import user_of
from batchmill.agents.web.operating import Change, Planned
from batchmill.agents.web.pages.site import PageRoute, Pairs, Site, first, pairs_of, went_to
from batchmill.agents.web.pages.trail import Trail, is_id
from batchmill.schemas.reasons import Reason

__all__ = ["operating_router"]

_ROWS = 200


def operating_router(site: Site) -> APIRouter:
    """/runs and /dead-letters."""
    router = APIRouter(include_in_schema=False, route_class=PageRoute)
    _runs(router, site)
    _letters(router, site)
    return router


def _operator(request: Request) -> User:
    user = user_of(request)
    if not user.role.may(Role.OPERATOR):
        raise DeskError(ErrorKind.FORBIDDEN, f"{user.name} is {user.role}; this needs {Role.OPERATOR}")
    return user


# --- commits ---


def _runs(router: APIRouter, site: Site) -> None:
    @router.get("/runs")
    async def runs(request: Request) -> Response:
        trail = Trail.of(request.query_params)
        told = _told(request)
        found = await site.operations.runs(trail.job, _ROWS)
        return await site.page(request, "runs.html", "runs", trail=trail, runs=found, told=told)

    @router.post("/runs/plan")
    async def plan(request: Request) -> Response:
        """Count what a revert or a replay would be about."""
        user = _operator(request)
        what = _change(await pairs_of(request))
        planned = await site.operations.change(what["command"], **_of(what), user=user, dry_run=True)
        return await site.page(request, "runs_plan.html", "runs", planned=planned, what=what)

    @router.post("/runs/do")
    async def do(request: Request) -> Response:
        user = _operator(request)
        what = _change(await pairs_of(request))
        planned = await site.operations.change(what["command"], **_of(what), user=user, dry_run=False)
        return went_to(f"/runs?told={_done(planned)}")

    @router.get("/runs/{step}")
    async def asked_again(step: str) -> Response:  # noqa: ARG001
        return went_to("/runs")


def _change(pairs: Pairs) -> dict[str, Any]:
    """The command and what it is about: one run or one record."""
    command: Change = "replay" if first(pairs, "command") == "replay" else "revert"
    run, request_id = (first(pairs, name) or "" for name in ("run", "request"))
    if not is_id(run or request_id):
        raise DeskError(ErrorKind.REFUSED, "name a run, or the request of one record")
    return {"command": command, "run": run, "request": "" if run else request_id}


def _of(what: dict[str, Any]) -> dict[str, Any]:
    return {"run": what["run"] or None, "requests": (what["request"],) if what["request"] else ()}


# --- dead letters ---


def _letters(router: APIRouter, site: Site) -> None:
    @router.get("/dead-letters")
    async def letters(request: Request) -> Response:
        chosen = _chosen(list(request.query_params.items()))
        found = await site.operations.dead_letters(**chosen, limit=_ROWS)
        return await site.page(
            request,
            "letters.html",
            "letters",
            letters=found,
            chosen=chosen,
            by_reason=Counter(letter.reason.value for letter in found).most_common(),
            is_full=len(found) == _ROWS,
            told=_told(request),
        )

    @router.post("/dead-letters/plan")
    async def plan(request: Request) -> Response:
        """Count what a redrive would be about."""
        user, pairs = _operator(request), await pairs_of(request)
        names, chosen = _names(pairs), _chosen(pairs)
        planned = await site.operations.redrive(names=names, **chosen, user=user, dry_run=True)
        return await site.page(request, "letters_plan.html", "letters", planned=planned, names=names, chosen=chosen)

    @router.post("/dead-letters/do")
    async def do(request: Request) -> Response:
        user, pairs = _operator(request), await pairs_of(request)
        planned = await site.operations.redrive(names=_names(pairs), **_chosen(pairs), user=user, dry_run=False)
        return went_to(f"/dead-letters?told={_done(planned)}")

    @router.get("/dead-letters/{step}")
    async def asked_again(step: str) -> Response:  # noqa: ARG001
        return went_to("/dead-letters")


def _chosen(pairs: Pairs) -> dict[str, Any]:
    reason = first(pairs, "reason") or ""
    job, stage = (first(pairs, name) or "" for name in ("job", "stage"))
    return {
        "job": job if is_id(job.replace(".", "_")) else None,
        "reason": Reason(reason) if reason in set(Reason) else None,
        "stage": stage if is_id(stage) else None,
    }


def _names(pairs: Pairs) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for name, value in pairs if name == "name" and is_id(value)))


# --- what was done, told by the address of the next page ---


def _done(planned: Planned) -> str:
    return f"{planned.command}.{planned.records}"


def _told(request: Request) -> tuple[str, int] | None:
    command, _, records = request.query_params.get("told", "").partition(".")
    known = command in {"revert", "replay", "redrive"} and records.isascii() and records.isdigit()
    return (command, int(records[:9])) if known else None
