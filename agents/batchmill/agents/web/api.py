"""The JSON API: one thin function per wish, its role, its bounds and every answer it can give.

What lives here: shapes of requests, roles, documentation. What must not: deciding (`agents.desk`), letting people in
(`access`), numbers of errors (`problems`).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.model import (
    Agreement,
    Answer,
    Calibration,
    Card,
    Change,
    DeskError,
    ErrorKind,
    Filter,
    Gold,
    Lock,
    Page,
    Progress,
    Role,
    User,
)
from batchmill.agents.projector.letters import DeadLetterRow
from batchmill.agents.projector.queries import JobRow
from batchmill.agents.projector.runs import RunRow
from batchmill.agents.web.access import needs
from batchmill.agents.web.operating import REQUESTS_MAX, Given, Operations, Planned
from batchmill.agents.web.problems import responses
from batchmill.schemas.reasons import Reason

__all__ = ["ROLE_KEY", "api_router"]

#: in the OpenAPI document: the least role an operation needs
ROLE_KEY: Final = "x-role"
_EVERYWHERE: Final = (401, 403, 421, 422, 503)
_WITH_BODY: Final = (400, 408, 413)
_KEEP_ALIVE_SECONDS: Final = 15.0
_TIME_MAX_MS: Final = 2**53
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_ID: Final = r"^[A-Za-z0-9._:-]{1,128}$"
_SHA256: Final = r"^[0-9a-f]{64}$"

Id = Annotated[str, Field(pattern=_ID)]
Sha256 = Annotated[str, Field(pattern=_SHA256)]
RequestId = Annotated[str, Path(pattern=_ID, description="Request id.")]
Name = Annotated[str, Path(pattern=_NAME, description="The job's name.")]
Job = Annotated[str | None, Query(pattern=_NAME, description="Only of this job.")]
Why = Annotated[Reason | None, Query(description="Only what waits, or ended, for this reason.")]
Limit = Annotated[int, Query(ge=1, le=500, description="At most so many.")]
After = Annotated[str | None, Query(max_length=200, description="A place in the queue: a page's or an item's.")]

Viewer = Annotated[User, Depends(needs(Role.VIEWER))]
Reviewer = Annotated[User, Depends(needs(Role.REVIEWER))]
Operator = Annotated[User, Depends(needs(Role.OPERATOR))]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Seen(_Body):
    """About the answer that was looked at."""

    seen: str | None = Field(
        default=None, pattern=_SHA256, description="`output_sha256` of the card; a conflict when it has changed since."
    )
    reason: str | None = Field(default=None, max_length=500, description="Why, for the record.")


class Corrected(Seen):
    """The right answer."""

    output: Any = Field(description="The right answer, checked like any other.")


class Declined(_Body):
    """No answer is right."""

    seen: str | None = Field(default=None, pattern=_SHA256, description="As of `accept`.")
    reason: str = Field(max_length=64, description="One of the job's decline reasons.")


class Deferred(Seen):
    """Later."""

    until_ms: int = Field(ge=0, le=_TIME_MAX_MS, description="Not to be shown before; milliseconds since the epoch.")


class AcceptedMany(_Body):
    """Several at once."""

    request_ids: tuple[Id, ...] = Field(min_length=1, max_length=10_000, description="Request ids.")
    expect: int = Field(ge=1, le=10_000, description="The number that was confirmed: exactly that of the ids.")
    seen: dict[Id, Sha256] = Field(
        default_factory=dict, description="By request id, `output_sha256` of the card that was looked at."
    )


class ChangedCommits(_Body):
    """Which commits, by run or by request."""

    run: Id | None = Field(default=None, description="Every commit of this run.")
    requests: tuple[Id, ...] = Field(default=(), max_length=REQUESTS_MAX, description="The commits of these requests.")
    dry_run: bool = Field(default=True, description="Only count.")


class Redriven(_Body):
    """Which dead letters, by name or by what they have in common."""

    names: tuple[Id, ...] = Field(default=(), max_length=REQUESTS_MAX, description="Ids of dead letters or requests.")
    job: str | None = Field(default=None, pattern=_NAME, description="Those of this job.")
    reason: Reason | None = Field(default=None, description="Those with this reason.")
    stage: str | None = Field(default=None, pattern=_NAME, description="Those that failed in this stage.")
    dry_run: bool = Field(default=True, description="Only count.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What to look at now; None: nothing waits."""

    request_id: str | None


def api_router(desk: Desk, operations: Operations) -> APIRouter:
    """Everything under /api/v1."""
    router = APIRouter(prefix="/api/v1")
    _looking(router, desk)
    _exporting(router, desk)
    _deciding(router, desk)
    _operating(router, operations)
    return router


def _route(
    role: Role, *statuses: int, body: bool = False, kind: str | None = None, schema: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What every route declares: its least role and its answers. `kind`: the media type when it is not JSON."""
    told = responses(*_EVERYWHERE, *(_WITH_BODY if body else ()), *statuses)
    if kind is not None:
        told[200] = {"description": "A stream.", "content": {kind: {"schema": schema or {"type": "string"}}}}
    return {"responses": told, "openapi_extra": {ROLE_KEY: role.value}}


def _looking(router: APIRouter, desk: Desk) -> None:
    @router.get("/me", **_route(Role.VIEWER), tags=["access"])
    async def me(user: Viewer) -> User:
        """Who is asking, and what they may do."""
        return user

    @router.get("/queue", **_route(Role.VIEWER), tags=["review"])
    async def queue(
        user: Viewer,
        *,
        job: Job = None,
        reason: Why = None,
        sampled: Annotated[bool, Query(description="Only what was drawn as a sample.")] = False,
        deferred: Annotated[bool, Query(description="Also what was put off.")] = False,
        mine: Annotated[bool, Query(description="Only what nobody else holds.")] = False,
        limit: Limit = 50,
        after: After = None,
    ) -> Page:
        """What waits for a person, the highest risk first."""
        chosen = Filter(job=job, reason=reason, sampled=sampled, deferred=deferred, mine=mine)
        return await desk.queue(chosen, user=user, limit=limit, after=after)

    @router.get("/queue/next", **_route(Role.VIEWER), tags=["review"])
    async def next_(
        user: Viewer,
        *,
        job: Job = None,
        reason: Why = None,
        sampled: Annotated[bool, Query(description="Only what was drawn as a sample.")] = False,
        after: After = None,
    ) -> Next:
        """The first record that nobody else holds and the asker may decide."""
        chosen = Filter(job=job, reason=reason, sampled=sampled, mine=True)
        return Next(request_id=await desk.next_for(user, chosen, after))

    @router.get("/requests/{request_id}", **_route(Role.VIEWER, 404), tags=["review"])
    async def card(user: Viewer, request_id: RequestId) -> Card:
        """Everything about one record: input, answer, checks, decisions."""
        return await desk.card(request_id, user=user)

    @router.get("/progress", **_route(Role.VIEWER), tags=["review"])
    async def progress(_: Viewer, job: Job = None) -> Progress:
        """How far the queue is, and who decided how much."""
        return await desk.progress(job)

    @router.get("/agreement", **_route(Role.VIEWER), tags=["review"])
    async def agreement(_: Viewer, job: Job = None) -> Agreement:
        """How far reviewers decide alike where two decided."""
        return await desk.agreement(job)

    @router.get("/jobs/{job}/calibration", **_route(Role.VIEWER), tags=["review"])
    async def calibration(_: Viewer, job: Name) -> Calibration:
        """What told confidences were worth."""
        return await desk.calibration(job)

    @router.get("/jobs/{job}/decline-reasons", **_route(Role.VIEWER, 404), tags=["review"])
    async def decline_reasons(_: Viewer, job: Name) -> tuple[str, ...]:
        """What a decline of this job may name."""
        return await desk.decline_reasons(job)


def _exporting(router: APIRouter, desk: Desk) -> None:
    @router.get(
        "/jobs/{job}/gold",
        **_route(Role.VIEWER, kind="application/x-ndjson"),
        tags=["review"],
        response_class=Response,
    )
    async def gold(_: Viewer, job: Name) -> Response:
        """Accepted and corrected answers as examples, one JSON object per line."""
        examples = desk.export_gold(job)
        first = [example async for example in _first(examples)]  # what can fail fails before the answer begins
        return StreamingResponse(_lines(first, examples), media_type="application/x-ndjson")

    @router.get("/events", **_route(Role.VIEWER, kind="text/event-stream"), tags=["review"], response_class=Response)
    async def events(_: Viewer) -> Response:
        """Server-sent events: `change` with where the queues stand, now and whenever it is different."""
        heard = desk.changes()
        first = [change async for change in _first(heard)]
        return StreamingResponse(_events(first, heard), media_type="text/event-stream")


def _deciding(router: APIRouter, desk: Desk) -> None:
    decides = _route(Role.REVIEWER, 404, 409, body=True)

    @router.post("/requests/{request_id}/lock", **decides, tags=["review"])
    async def lock(user: Reviewer, request_id: RequestId) -> Lock:
        """Hold a record while looking at it; again: hold it longer."""
        return await desk.lock(request_id, user)

    @router.post("/requests/{request_id}/release", **decides, tags=["review"], status_code=204)
    async def release(user: Reviewer, request_id: RequestId) -> None:
        """Give one's lock back."""
        await desk.release(request_id, user)

    @router.post("/requests/{request_id}/accept", **decides, tags=["review"])
    async def accept(user: Reviewer, request_id: RequestId, body: Annotated[Seen, Body()]) -> Answer:
        """The answer is right as it is."""
        return await desk.accept(request_id, user=user, seen=body.seen, reason=body.reason)

    @router.post("/requests/{request_id}/correct", **decides, tags=["review"])
    async def correct(user: Reviewer, request_id: RequestId, body: Annotated[Corrected, Body()]) -> Answer:
        """Something else is right; refused with the failed checks when that does not pass."""
        text = _json_text(body.output)
        return await desk.correct(request_id, text, user=user, seen=body.seen, reason=body.reason)

    @router.post("/requests/{request_id}/decline", **decides, tags=["review"])
    async def decline(user: Reviewer, request_id: RequestId, body: Annotated[Declined, Body()]) -> Answer:
        """No answer is right: the record is dead-lettered."""
        return await desk.decline(request_id, body.reason, user=user, seen=body.seen)

    @router.post("/requests/{request_id}/defer", **decides, tags=["review"])
    async def defer(user: Reviewer, request_id: RequestId, body: Annotated[Deferred, Body()]) -> Answer:
        """Not to be shown before a time."""
        return await desk.defer(request_id, body.until_ms, user=user, seen=body.seen, reason=body.reason)

    @router.post("/requests/{request_id}/undo", **decides, tags=["review"])
    async def undo_newest(user: Reviewer, request_id: RequestId) -> Answer:
        """Take back the newest decision in force, as long as nothing has come of it."""
        return await desk.undo(request_id, user=user)

    @router.post("/decisions/{decision_id}/undo", **decides, tags=["review"])
    async def undo(user: Reviewer, decision_id: Annotated[str, Path(pattern=_ID)]) -> Answer:
        """Take back this very decision, as long as nothing has come of it."""
        return await desk.undo(decision_id, user=user)

    @router.post("/accept-many", **decides, tags=["review"])
    async def accept_many(user: Reviewer, body: Annotated[AcceptedMany, Body()]) -> tuple[Answer, ...]:
        """Accept all of them or none; the exact number confirms it."""
        return await desk.accept_many(body.request_ids, user=user, expect=body.expect, seen=body.seen)


def _operating(router: APIRouter, operations: Operations) -> None:
    operates = _route(Role.OPERATOR, 404, body=True)

    @router.get("/jobs", **_route(Role.VIEWER), tags=["jobs"])
    async def jobs(_: Viewer) -> tuple[JobRow, ...]:
        """Every job, what was asked of it and what is in effect."""
        return await operations.jobs()

    @router.get("/runs", **_route(Role.VIEWER), tags=["commits"])
    async def runs(_: Viewer, job: Job = None, limit: Limit = 50) -> tuple[RunRow, ...]:
        """Runs and how much of each is committed, the newest first."""
        return await operations.runs(job, limit)

    @router.post("/commits/revert", **operates, tags=["commits"])
    async def revert(user: Operator, body: Annotated[ChangedCommits, Body()]) -> Planned:
        """Take commits back: the sink holds again what was there before. A dry run by default."""
        return await operations.change("revert", run=body.run, requests=body.requests, user=user, dry_run=body.dry_run)

    @router.post("/commits/replay", **operates, tags=["commits"])
    async def replay(user: Operator, body: Annotated[ChangedCommits, Body()]) -> Planned:
        """Put reverted commits back. A dry run by default."""
        return await operations.change("replay", run=body.run, requests=body.requests, user=user, dry_run=body.dry_run)

    @router.get("/dead-letters", **_route(Role.VIEWER), tags=["dead letters"])
    async def dead_letters(
        _: Viewer,
        job: Job = None,
        reason: Why = None,
        stage: Annotated[str | None, Query(pattern=_NAME, description="Only what failed in this stage.")] = None,
        limit: Limit = 50,
    ) -> tuple[DeadLetterRow, ...]:
        """What is dead-lettered now, the newest first."""
        return await operations.dead_letters(job=job, reason=reason, stage=stage, limit=limit)

    @router.post("/dead-letters/redrive", **operates, tags=["dead letters"])
    async def redrive(user: Operator, body: Annotated[Redriven, Body()]) -> Planned:
        """Give dead letters another chance. A dry run by default."""
        return await operations.redrive(
            names=body.names, job=body.job, reason=body.reason, stage=body.stage, user=user, dry_run=body.dry_run
        )

    @router.post("/jobs/{job}/pause", **operates, tags=["jobs"])
    async def pause(user: Operator, job: Name) -> Given:
        """Stop spending and committing; answers already paid for are collected."""
        return await operations.switch("pause", job, user=user)

    @router.post("/jobs/{job}/resume", **operates, tags=["jobs"])
    async def resume(user: Operator, job: Name) -> Given:
        """Let a paused job go on."""
        return await operations.switch("resume", job, user=user)


def _json_text(value: Any) -> str:
    """Exactly what was sent, whole numbers of any size included; what JSON cannot say is refused."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError):
        told = "the correction holds what JSON cannot say: a number that is none, half a character, or too deep a nest"
        raise DeskError(ErrorKind.REFUSED, told) from None
    return text


async def _first(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The first of them, if there is one."""
    found = await anext(items, None)
    if found is not None:
        yield found


async def _lines(first: Sequence[Gold], rest: AsyncIterator[Gold]) -> AsyncIterator[bytes]:
    for example in first:
        yield _line(example)
    async for example in rest:
        yield _line(example)


def _line(example: Gold) -> bytes:
    return json.dumps(asdict(example), ensure_ascii=False).encode() + b"\n"


async def _events(first: Sequence[Change], heard: AsyncIterator[Change]) -> AsyncGenerator[bytes]:
    """Each change as an event; a comment now and then, so that nobody between us takes the line for dead."""
    for change in first:
        yield _event(change)
    while True:
        coming = asyncio.ensure_future(anext(heard, None))
        try:
            while not (await asyncio.wait({coming}, timeout=_KEEP_ALIVE_SECONDS))[0]:
                yield b": still here\n\n"
            if (told := coming.result()) is None:
                return
            yield _event(told)
        finally:
            coming.cancel()


def _event(change: Change) -> bytes:
    return b"event: change\nid: %d\ndata: %s\n\n" % (change.position, orjson.dumps(change))
