"""What an operator does beside reviewing: take commits back, put them back, redrive letters, pause and resume jobs.

What lives here: counting what a command would be about, and giving it. What must not: what it does (`streams`). Every
command that changes many records is a dry run unless it is said otherwise.
"""

import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from aiokafka.errors import KafkaError

from batchmill.agents import clock
from batchmill.agents.commands import Issued
from batchmill.agents.desk.asking import Views
from batchmill.agents.desk.model import DeskError, ErrorKind, User
from batchmill.agents.projector import letters, queries
from batchmill.agents.projector.letters import DeadLetterRow, Wanted
from batchmill.agents.projector.queries import JobRow
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.runs import RunRow, run_rows
from batchmill.agents.topics import KafkaUnreachableError, TopicsMismatchError
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Status
from batchmill.streams.redriving import COMMAND as REDRIVE
from batchmill.streams.redriving import command_body

__all__ = ["REQUESTS_MAX", "Change", "Given", "Issue", "Operations", "Planned", "Switch"]

Change = Literal["revert", "replay"]
Switch = Literal["pause", "resume"]
#: records named one by one in one command; its body must stay far below the size of a record
REQUESTS_MAX: Final = 5_000
#: and of one that takes commits back, whose row has to fit a record, too
_CHANGED_AT_ONCE: Final = 1_000
_REDRIVE_MAX: Final = 100_000


class Issue(Protocol):
    """Writes a command to every task and waits for its effect; `agents.commands.issue` with the settings bound."""

    def __call__(
        self, command: str, job: str, *, actor: str, body_json: str, wait_seconds: float
    ) -> Awaitable[Issued]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a command is about; `command_ids` is empty after a dry run."""

    command: str
    executed: bool
    records: int
    by_job: Mapping[str, int]
    by_reason: Mapping[str, int]
    command_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A command that is in the log; `laggards`: tasks in which it was not in effect when we stopped waiting."""

    command: str
    job: str
    command_id: str
    effective: bool
    laggards: tuple[int, ...]


class Operations:
    """Made once per server."""

    def __init__(self, *, view_path: Path, issue: Issue, wait_seconds: float) -> None:
        self._views = Views(view_path)
        self._issue = issue
        self._wait_seconds = wait_seconds

    async def jobs(self) -> tuple[JobRow, ...]:
        return tuple(await self._views.ask(queries.jobs))

    async def runs(self, job: str | None, limit: int) -> tuple[RunRow, ...]:
        """The newest first."""
        return tuple(await self._views.ask(lambda view: run_rows(view, job=job, limit=limit)))

    async def dead_letters(
        self, *, job: str | None, reason: Reason | None, stage: str | None, limit: int
    ) -> tuple[DeadLetterRow, ...]:
        """Those that still stand, the newest first."""

        def look(view: View) -> list[DeadLetterRow]:
            return list(letters.letters(view, _wanted(job, reason, stage), now_ms=clock.wall_ms(), limit=limit))

        return tuple(await self._views.ask(look))

    async def change(
        self, command: Change, *, run: str | None, requests: Sequence[str], user: User, dry_run: bool
    ) -> Planned:
        """Revert what is committed of a run or of requests, or put back what was reverted."""
        if (run is None) == (not requests):
            raise DeskError(ErrorKind.REFUSED, "name either a run or requests")
        found = await self._views.ask(lambda view: _changeable(view, command, run, requests))
        ids: list[str] = []
        for job, names in {} if dry_run else found.items():
            bodies = [{"run": run}] if run is not None else [{"requests": cut} for cut in _cuts(names)]
            ids += [await self._give(command, job, body, user) for body in bodies]
        return _planned(command, {job: len(names) for job, names in found.items()}, {}, tuple(ids))

    async def redrive(
        self,
        *,
        names: Sequence[str],
        job: str | None,
        reason: Reason | None,
        stage: str | None,
        user: User,
        dry_run: bool,
    ) -> Planned:
        """Give dead letters another chance: those named, or all that stand by job, reason and stage."""
        if not names and job is None and reason is None and stage is None:
            raise DeskError(ErrorKind.REFUSED, "name dead letters, or a job, a reason or a stage")
        chosen = await self._views.ask(lambda view: _letters(view, names, job, reason, stage))
        by_job, by_reason = _counted(each.job or "" for each in chosen), _counted(each.reason.value for each in chosen)
        ids: list[str] = []
        for start in range(0, 0 if dry_run else len(chosen), REQUESTS_MAX):
            cut = chosen[start : start + REQUESTS_MAX]
            body = command_body(
                requests=[each.request_id for each in cut if each.request_id is not None],
                letters=[(each.partition, each.offset) for each in cut if each.request_id is None],
            )
            of = {each.job or "" for each in cut}
            ids.append(await self._give(REDRIVE, of.pop() if len(of) == 1 else "", json.loads(body), user))
        return _planned(REDRIVE, by_job, by_reason, tuple(ids))

    async def switch(self, command: Switch, job: str, *, user: User) -> Given:
        """Pause or resume a job, and watch whether every task has taken it."""
        if not await self._views.ask(lambda view: queries.jobs(view, job)):
            raise DeskError(ErrorKind.NOT_FOUND, f"the read model knows no job {job}; see `batchmill job list`")
        issued = await self._issued(command, job, {}, user, self._wait_seconds)
        return Given(
            command=command,
            job=job,
            command_id=issued.command_id,
            effective=issued.effective,
            laggards=issued.laggards,
        )

    async def _give(self, command: str, job: str, body: Mapping[str, Any], user: User) -> str:
        return (await self._issued(command, job, body, user, 0)).command_id

    async def _issued(self, command: str, job: str, body: Mapping[str, Any], user: User, wait_seconds: float) -> Issued:
        told = json.dumps(body, separators=(",", ":"))
        try:
            return await self._issue(command, job, actor=user.name, body_json=told, wait_seconds=wait_seconds)
        except (KafkaUnreachableError, TopicsMismatchError) as error:
            raise DeskError(ErrorKind.UNAVAILABLE, f"not given: {error}") from None
        except (KafkaError, TimeoutError, OSError):
            told = "the broker did not confirm the command; `batchmill explain` and the list of commands tell"
            raise DeskError(ErrorKind.UNAVAILABLE, told) from None


def _changeable(view: View, command: Change, run: str | None, requests: Sequence[str]) -> dict[str, list[str]]:
    """By job, the records that the command would touch, as far as the view knows."""
    held = f"status = '{Status.COMMITTED}'" if command == "revert" else "reverted"
    chosen = "run_id = ?" if run is not None else "request_id IN (SELECT value FROM json_each(?))"
    value = run if run is not None else json.dumps(list(requests))
    sql = f"SELECT job, request_id FROM lives WHERE {held} AND {chosen} ORDER BY 1, 2"  # noqa: S608  our own text
    found: dict[str, list[str]] = {}
    for row in view.rows(sql, (value,)):
        found.setdefault(row["job"], []).append(row["request_id"])
    return found


def _cuts(names: Sequence[str]) -> list[list[str]]:
    """As many as one command may name."""
    return [list(names[start : start + _CHANGED_AT_ONCE]) for start in range(0, len(names), _CHANGED_AT_ONCE)]


def _letters(
    view: View, names: Sequence[str], job: str | None, reason: Reason | None, stage: str | None
) -> list[DeadLetterRow]:
    if not names:
        wanted = _wanted(job, reason, stage)
        return list(letters.letters(view, wanted, now_ms=clock.wall_ms(), limit=_REDRIVE_MAX, oldest_first=True))
    found = [letters.letter(view, name) for name in dict.fromkeys(names)]
    if any(row is None for row in found):
        raise DeskError(ErrorKind.NOT_FOUND, "one of these dead letters is not known; see `batchmill dlq list`")
    return [row for row in found if row is not None]


def _wanted(job: str | None, reason: Reason | None, stage: str | None) -> Wanted:
    return Wanted(job=job, reasons=() if reason is None else (reason,), stage=stage)


def _planned(command: str, by_job: Mapping[str, int], by_reason: Mapping[str, int], ids: tuple[str, ...]) -> Planned:
    return Planned(
        command=command,
        executed=bool(ids),
        records=sum(by_job.values()),
        by_job=by_job,
        by_reason=by_reason,
        command_ids=ids,
    )


def _counted(names: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))
