"""The desk itself: the one way to look at what waits for people and to decide it, for pages, API and command line.

What lives here: asking the view, the log and the desk's file, refusing at the door, writing decisions. What must not:
what a decision does (`streams.reviewing`), SQL (`projector.reviewing`), HTTP, HTML, terminals. The view may lag: a
decision names the answer its author saw, and the task has the last word.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from aiokafka.errors import KafkaError

from batchmill.agents import clock
from batchmill.agents.commands import new_id
from batchmill.agents.desk import cards, undoing
from batchmill.agents.desk.agreeing import agreement
from batchmill.agents.desk.asking import Bodies, Library, Views
from batchmill.agents.desk.calibrating import Curve, calibration
from batchmill.agents.desk.holding import Claim, Holding
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
    QueueItem,
    Role,
    User,
)
from batchmill.agents.desk.risk import risk
from batchmill.agents.desk.watching import Watch
from batchmill.agents.projector import reviewing as asked
from batchmill.agents.projector.reading import View
from batchmill.agents.settings import ReviewSettings
from batchmill.agents.topics import KafkaUnreachableError, TopicsMismatchError
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Decision
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.reviewing import correction
from batchmill.streams.unusable import Unusable

__all__ = ["Desk", "Write"]

T = TypeVar("T")

#: puts decisions into the log, acknowledged
Write = Callable[[Sequence[Decision]], Awaitable[None]]

_DECISIONS_SHOWN_MAX: Final = 50
_GOLD_CUT: Final = 100
_MS: Final = 1_000
#: nobody says which answers they looked at: whatever is there now
_NOT_TOLD: Final[Mapping[str, str]] = {}
_REASONS: Final[dict[str | None, Reason | None]] = {None: None, **{reason.value: reason for reason in Reason}}


class Desk:
    """Made once per process (`desk.opening`). Every method refuses with a `DeskError`; none shows payload in it."""

    def __init__(
        self,
        *,
        view_path: Path,
        holding: Holding,
        bodies: Bodies,
        write: Write,
        settings: ReviewSettings,
        jobs: CompiledJobs,
        now_ms: Callable[[], int] = clock.wall_ms,
    ) -> None:
        self._views = Views(view_path)
        self._holding = holding
        self._library = Library(bodies)
        self._write = write
        self._settings = settings
        self._now_ms = now_ms
        self._jobs = jobs
        self._watch = Watch(look=self._change, seconds=settings.look_seconds, listeners_max=settings.listeners_max)

    # -- looking -------------------------------------------------------------------------------------------------------

    async def queue(self, chosen: Filter, *, user: User, limit: int | None = None, after: str | None = None) -> Page:
        """A part of the queue, the highest risk first; `after`: a `Page.after` or a `QueueItem.cursor`."""
        rows = min(limit or self._settings.page_rows, self._settings.page_rows_max)
        begin = cards.position_of(after)
        now_ms = self._now_ms()

        def look(view: View) -> tuple[list[asked.WaitingRow], int]:
            wanted = self._wanted(view, chosen, user, now_ms)
            return asked.waiting(view, _risk, wanted, begin, rows + 1), asked.waiting_total(view, wanted)

        found, total = await self._views.ask(look)
        items = await self._items(found[:rows], now_ms)
        return Page(items=items, total=total, after=items[-1].cursor if len(found) > rows else None)

    async def next_for(self, user: User, chosen: Filter, after: str | None = None) -> str | None:
        """The first request behind `after` that nobody else holds and this person may decide; None: there is none."""
        begin = cards.position_of(after)
        now_ms = self._now_ms()

        def look(view: View) -> str | None:
            wanted = self._wanted(view, replace(chosen, mine=True), user, now_ms)
            at: asked.Position | None = begin
            while found := asked.waiting(view, _risk, wanted, at, self._settings.page_rows):
                free = (row for row in found if user.name not in cards.actors(row))
                first = next(free, None)
                if first is not None:
                    return first.request_id
                at = cards.position(found[-1])
            return None

        return await self._views.ask(look)

    async def card(self, request_id: str, *, user: User) -> Card:
        """Everything about one record: also of one that is decided already (`status` says so)."""
        _may(user, Role.VIEWER)
        row, job = await self._row(request_id)
        now_ms = self._now_ms()
        decided = await self._views.ask(lambda view: asked.decisions(view, request_id, limit=_DECISIONS_SHOWN_MAX))
        claim = (await self._claims(now_ms)).get(request_id)
        places = cards.places(row, decided)
        bodies = await self._library.read(places.all)
        (item,) = await self._items([row], now_ms)
        pending = None if claim is None else cards.veiled(row, job, claim.decision, user)
        # finding what is cited takes its time
        return await asyncio.to_thread(cards.card, row, item, job, places, bodies, decided, pending)

    async def progress(self, job: str | None = None) -> Progress:
        """How far the queue of a job (of all jobs) is."""
        now_ms = self._now_ms()

        def look(view: View) -> asked.Counts:
            return asked.counts(view, job=job, now_ms=now_ms, hidden=self._hidden(view, now_ms))

        found = await self._views.ask(look)
        return Progress(
            job=job,
            waiting=found.waiting,
            deferred=found.deferred,
            awaiting_score=found.awaiting_score,
            oldest_waiting_since_ms=found.oldest_ms,
            by_reason=found.by_reason,
            by_job=found.by_job,
            accepted=found.by_action.get("accept", 0),
            corrected=found.by_action.get("correct", 0),
            declined=found.by_action.get("decline", 0),
            by_actor=found.by_actor,
        )

    async def agreement(self, job: str | None = None) -> Agreement:
        """How far those agree who decided the same answers independently."""
        return agreement(job, await self._views.ask(lambda view: asked.opinions_in_force(view, job)))

    async def calibration(self, job: str) -> Calibration:
        """What told confidences were worth, and the curve to declare."""
        rows, curves = await self._views.ask(lambda view: (asked.rated(view, job), self._curves(view, job)))
        return calibration(job, rows, curves)

    async def decline_reasons(self, job: str) -> tuple[str, ...]:
        """What a decline may name, by the job's promoted version."""

        def look(view: View) -> tuple[str, ...] | None:
            row = asked.job_row(view, 0, job)
            compiled = None if row is None else self._jobs.of(row)
            return None if compiled is None else compiled.spec.review.decline_reasons

        found = await self._views.ask(look)
        if found is None:
            raise DeskError(ErrorKind.NOT_FOUND, f"the read model knows no job {job}; see `batchmill job list`")
        return found

    async def export_gold(self, job: str) -> AsyncIterator[Gold]:
        """Accepted and corrected answers in force, by request id; read from the log in cuts."""
        last = ""
        while rows := await self._views.ask(
            lambda view, last=last: asked.gold_rows(view, job, after=last, limit=_GOLD_CUT)  # type: ignore[misc]
        ):
            bodies = await self._library.read(place for row in rows for place in cards.gold_places(row))
            for row in rows:
                if (example := cards.gold(row, bodies)) is not None:
                    yield example
            last = rows[-1].request_id

    async def changes(self) -> AsyncIterator[Change]:
        """Where the queues stand, now and whenever it is different; one look a second is shared by all listeners."""
        async with aclosing(self._watch.listen()) as heard:
            async for change in heard:
                yield change

    # -- locks ---------------------------------------------------------------------------------------------------------

    async def lock(self, request_id: str, user: User) -> Lock:
        """Hold a record while looking at it, or hold it longer; CONFLICT where somebody else does."""
        _may(user, Role.REVIEWER)
        await self._row(request_id)
        now_ms = self._now_ms()
        until_ms = now_ms + int(self._settings.lock_seconds * _MS)
        return await self._hold(lambda: self._holding.lock(request_id, user.name, now_ms=now_ms, until_ms=until_ms))

    async def release(self, request_id: str, user: User) -> None:
        """Give one's lock back."""
        _may(user, Role.REVIEWER)
        await self._hold(lambda: self._holding.release(request_id, user.name))

    # -- deciding ------------------------------------------------------------------------------------------------------

    async def accept(
        self, request_id: str, *, user: User, seen: str | None = None, reason: str | None = None
    ) -> Answer:
        """The answer is right as it is. `seen`: `Card.output_sha256`; None: whatever is there now."""
        row, job = await self._decidable(request_id, user, seen)
        decision = self._decision(row, "accept", user, reason=reason)
        return await self._decide(row, job, decision, left=decision.output_sha256_seen)

    async def correct(
        self, request_id: str, output_json: str, *, user: User, seen: str | None = None, reason: str | None = None
    ) -> Answer:
        """Something else is right; REFUSED with the failed checks when that does not pass what the job declares."""
        row, job = await self._decidable(request_id, user, seen)
        decision = self._decision(row, "correct", user, reason=reason, output_json=output_json)
        judged = await self._judged(row, job, decision)
        return await self._decide(row, job, replace(decision, output_json=judged), left=_sha256(judged))

    async def decline(self, request_id: str, reason: str, *, user: User, seen: str | None = None) -> Answer:
        """The answer is no good and none is known: the record is dead-lettered. `reason`: one of the job's list."""
        row, job = await self._decidable(request_id, user, seen)
        known = job.spec.review.decline_reasons
        if reason not in known:
            raise DeskError(ErrorKind.REFUSED, f"the reason to decline must be one of: {', '.join(known)}")
        decision = self._decision(row, "decline", user, reason=reason)
        return await self._decide(row, job, decision, left=decision.output_sha256_seen)

    async def defer(
        self, request_id: str, until_ms: int, *, user: User, seen: str | None = None, reason: str | None = None
    ) -> Answer:
        """Not to be shown before `until_ms`."""
        row, job = await self._decidable(request_id, user, seen)
        now_ms = self._now_ms()
        latest_ms = now_ms + int(self._settings.defer_days_max * 86_400 * _MS)
        if not now_ms < until_ms <= latest_ms:
            days = self._settings.defer_days_max
            raise DeskError(ErrorKind.REFUSED, f"a record is deferred to a time that is to come, at most {days} days")
        decision = replace(self._decision(row, "defer", user, reason=reason), until_ms=until_ms)
        return await self._decide(row, job, decision, left=decision.output_sha256_seen)

    async def accept_many(
        self, request_ids: Sequence[str], *, user: User, expect: int, seen: Mapping[str, str] = _NOT_TOLD
    ) -> tuple[Answer, ...]:
        """Accept all of them or none. `expect` is the number that was confirmed; it must be the number of ids.

        `seen`: by request id, `Card.output_sha256` of the answer that was looked at.
        """
        names = list(dict.fromkeys(request_ids))
        if len(names) != expect:
            raise DeskError(ErrorKind.REFUSED, f"{expect} were confirmed, {len(names)} are named; confirm again")
        if len(names) > self._settings.bulk_max:
            told = f"at most {self._settings.bulk_max} are accepted at once (desk.bulk_max), {len(names)} are named"
            raise DeskError(ErrorKind.REFUSED, told)
        chosen = [await self._decidable(name, user, seen.get(name)) for name in names]
        made = [(row, job, self._decision(row, "accept", user)) for row, job in chosen]
        claims = {row.request_id: self._claim(row, each, each.output_sha256_seen) for row, _, each in made}
        await self._put(claims)
        return tuple(_answer(decision, job) for _, job, decision in made)

    async def undo(self, name: str, *, user: User) -> Answer:
        """Take back a decision by its id, or the newest one of a request, before anything came of it downstream.

        One's own; an operator may take back anybody's.
        """
        _may(user, Role.REVIEWER)
        now_ms = self._now_ms()
        claims = await self._claims(now_ms)
        undone = await self._undoable(name, claims)
        if undone.actor != user.name and not user.role.may(Role.OPERATOR):
            raise DeskError(ErrorKind.FORBIDDEN, f"{undone.actor} has decided that; only an operator may undo it")
        row, job = await self._row(undone.request_id)
        pending = claims.get(undone.request_id)
        left = pending.sha256_left if pending is not None else row.output_sha256 or ""
        undo_seconds = job.spec.review.undo_seconds
        undoing.refuse_late(row, undone, undo_seconds=undo_seconds, pending=pending is not None, now_ms=now_ms)
        decision = replace(self._decision(row, "undo", user), job=undone.job, output_sha256_seen=left, undoes=undone.id)
        await self._put({row.request_id: self._claim(row, decision, left)}, replaces=undone.id)
        return Answer(decision=decision, undo_until_ms=None)

    # -- how ----------------------------------------------------------------------------------------------------------

    async def _decidable(self, request_id: str, user: User, seen: str | None) -> tuple[asked.WaitingRow, CompiledJob]:
        """The record and its job, or why this person cannot decide it now."""
        _may(user, Role.REVIEWER)
        row, job = await self._row(request_id)
        if row.status is not Status.NEEDS_REVIEW or row.output_sha256 is None:
            raise DeskError(ErrorKind.CONFLICT, f"request {request_id} is {row.status}, it does not wait for review")
        if row.aside:
            told = f"request {request_id} stands aside: it waits for review once version {row.version} is promoted"
            raise DeskError(ErrorKind.CONFLICT, told)
        if seen is not None and seen != row.output_sha256:
            raise DeskError(ErrorKind.CONFLICT, f"the answer of request {request_id} is another one now; look again")
        if user.name in cards.actors(row):
            told = f"{user.name} has decided request {request_id} already; the second decision must be another person's"
            raise DeskError(ErrorKind.CONFLICT, told)
        return row, job

    def _decision(
        self,
        row: asked.WaitingRow,
        action: str,
        user: User,
        *,
        reason: str | None = None,
        output_json: str | None = None,
    ) -> Decision:
        if reason is not None and len(reason) > self._settings.reason_chars_max:
            told = f"a reason has at most {self._settings.reason_chars_max} characters"
            raise DeskError(ErrorKind.REFUSED, told)
        return Decision(
            id=new_id(),
            request_id=row.request_id,
            job=row.job,
            action=action,
            output_sha256_seen=row.output_sha256 or "",
            output_json=output_json,
            reason=reason,
            actor=user.name,
            decided_at_ms=self._now_ms(),
        )

    async def _judged(self, row: asked.WaitingRow, job: CompiledJob, decision: Decision) -> str:
        """The correction in canonical form: what the reviewer agent would refuse is refused here, at once."""
        item_input = await self._item_input(row) if job.judge.reads_input else None
        try:
            judgement = correction(job, decision, item_input)
        except Unusable as wrong:
            raise DeskError(ErrorKind.REFUSED, f"the correction is no usable JSON: {wrong.note}") from None
        if judgement.reason is not None or judgement.output_json is None:
            failed = tuple(check for check in judgement.checks if not check.passed)
            raise DeskError(ErrorKind.REFUSED, f"the correction does not pass: {judgement.reason}", failed)
        return judgement.output_json

    async def _item_input(self, row: asked.WaitingRow) -> Any:
        place = ("normalized", row.partition, row.input_offset)
        found = cards.input_of(row, (await self._library.read([place])).get(place))
        if found is None:
            told = "the correction cannot be checked: retention removed the record's input; accept or decline"
            raise DeskError(ErrorKind.REFUSED, told)
        return found

    async def _decide(self, row: asked.WaitingRow, job: CompiledJob, decision: Decision, *, left: str) -> Answer:
        await self._put({row.request_id: self._claim(row, decision, left)})
        return _answer(decision, job)

    def _claim(self, row: asked.WaitingRow, decision: Decision, left: str) -> Claim:
        until_ms = self._now_ms() + int(self._settings.claim_seconds * _MS)
        return Claim(decision=decision, sha256_left=left, mark=row.mark, until_ms=until_ms)

    async def _put(self, claims: Mapping[str, Claim], *, replaces: str | None = None) -> None:
        """Claim, then write. What certainly was not written is not claimed any longer; in doubt the claim runs out."""
        now_ms = self._now_ms()
        await self._settle(now_ms)
        await self._hold(lambda: self._holding.claim(claims, now_ms=now_ms, replaces=replaces))
        try:
            await self._write([claim.decision for claim in claims.values()])
        except (KafkaUnreachableError, TopicsMismatchError) as error:
            await self._hold(lambda: self._holding.forget([claim.decision.id for claim in claims.values()]))
            raise DeskError(ErrorKind.UNAVAILABLE, f"not written: {error}") from None
        except (KafkaError, TimeoutError, OSError):
            told = f"the broker did not confirm it; look again in {self._settings.claim_seconds:g} s"
            raise DeskError(ErrorKind.UNAVAILABLE, told) from None

    async def _undoable(self, name: str, claims: Mapping[str, Claim]) -> Decision:
        """The decision that `name` names, or the newest one in force of the request it names."""
        for request_id, claim in claims.items():
            if name in {request_id, claim.decision.id} and claim.decision.action != "undo":
                return claim.decision

        def look(view: View) -> asked.DecisionRow | None:
            row = asked.decision(view, name)
            return row or cards.newest_in_force(asked.decisions(view, name, limit=_DECISIONS_SHOWN_MAX))

        found = await self._views.ask(look)
        if found is None:
            raise DeskError(ErrorKind.NOT_FOUND, f"no decision is in force by the name {name[:64]}")
        return cards.decision_of(found, None)

    async def _row(self, request_id: str) -> tuple[asked.WaitingRow, CompiledJob]:
        """A record that a person was or is asked about, and its job as its own task has it."""

        def look(view: View) -> tuple[asked.WaitingRow, CompiledJob] | None:
            row = asked.reviewed(view, _risk, [request_id]).get(request_id)
            known = None if row is None else asked.job_row(view, row.partition, row.job)
            compiled = None if row is None or known is None else self._jobs.of(known, row.version)
            return None if row is None or compiled is None else (row, compiled)

        found = await self._views.ask(look)
        if found is None:
            raise DeskError(ErrorKind.NOT_FOUND, f"no request {request_id[:64]}; see `batchmill review list`")
        return found

    def _wanted(self, view: View, chosen: Filter, user: User, now_ms: int) -> dict[str, Any]:
        hidden = self._hidden(view, now_ms)
        if chosen.mine:
            others = self._holding.locks(now_ms=now_ms).items()
            hidden = hidden | {name for name, lock in others if lock.holder != user.name}
        return {
            "job": chosen.job,
            "reason": chosen.reason,
            "sampled": chosen.sampled,
            "deferred": chosen.deferred,
            "now_ms": now_ms,
            "hidden": hidden,
        }

    def _hidden(self, view: View, now_ms: int) -> frozenset[str]:
        """What was decided a moment ago and still looks as if it waited."""
        claims = self._holding.claims(now_ms=now_ms)
        seen = asked.marks(view, claims) if claims else {}
        return frozenset(name for name, claim in claims.items() if seen.get(name) == claim.mark)

    async def _settle(self, now_ms: int) -> None:
        """Drop the claims whose decision is in the view and whose record has moved."""

        def look(view: View) -> list[str]:
            claims = self._holding.claims(now_ms=now_ms)
            seen = asked.marks(view, claims) if claims else {}
            moved = [claim.decision.id for name, claim in claims.items() if seen.get(name) != claim.mark]
            return [name for name in moved if asked.decision(view, name) is not None]

        settled = await self._views.ask(look)
        await self._hold(lambda: self._holding.forget(settled))

    async def _claims(self, now_ms: int) -> dict[str, Claim]:
        await self._settle(now_ms)
        return await self._hold(lambda: self._holding.claims(now_ms=now_ms))

    async def _items(self, rows: Sequence[asked.WaitingRow], now_ms: int) -> tuple[QueueItem, ...]:
        locks = await self._hold(lambda: self._holding.locks([row.request_id for row in rows], now_ms=now_ms))
        return tuple(cards.item(row, locks.get(row.request_id), now_ms) for row in rows)

    def _change(self) -> Change:
        """One look for all listeners; runs in a thread."""
        now_ms = self._now_ms()
        with self._views.open() as view:
            at, newest_ms = asked.position(view)
            by_job = asked.waiting_by_job(view, now_ms=now_ms, hidden=self._hidden(view, now_ms))
        age_seconds = (now_ms - newest_ms) / _MS
        return Change(
            position=at,
            waiting=sum(by_job.values()),
            by_job=by_job,
            locked=len(self._holding.locks(now_ms=now_ms)),
            stale_seconds=age_seconds if age_seconds > self._settings.stale_seconds else None,
        )

    async def freshness(self) -> Change:
        """One look, now: also tells whether the view is stale."""
        return await self._views.run(self._change)

    def _curves(self, view: View, job: str) -> dict[str, Curve]:
        """By version, the calibration that made the recorded confidences of the told ones."""
        row = asked.job_row(view, 0, job)
        versions = [] if row is None else list(orjson.loads(row.versions_json))
        compiled = {version: self._jobs.of(row, version) for version in versions if row is not None}
        specs = {version: made.spec.judge.confidence for version, made in compiled.items() if made is not None}
        return {version: spec.calibration for version, spec in specs.items() if spec is not None and spec.calibration}

    async def _hold(self, act: Callable[[], T]) -> T:
        return await asyncio.to_thread(act)


def _may(user: User, needed: Role) -> None:
    if not user.role.may(needed):
        raise DeskError(ErrorKind.FORBIDDEN, f"{user.name} is {user.role}; this needs {needed}")


def _risk(reason: str | None, confidence: float | None, rejected: int, doubted: int) -> float:
    return risk(_REASONS[reason], confidence, rejected=rejected, doubted=doubted)


def _sha256(output_json: str) -> str:
    return content_sha256(output_json.encode())


def _answer(decision: Decision, job: CompiledJob) -> Answer:
    return Answer(decision=decision, undo_until_ms=undoing.until_ms(decision, job.spec.review.undo_seconds))
