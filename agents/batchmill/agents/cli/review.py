"""`batchmill review`: answers that wait for a person. The same desk as the pages and the API, at a terminal."""

import asyncio
import json as jsonlib
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from batchmill.agents.cli.door import JSON, YES, Door, door, inert, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.schemas.reasons import Reason

if TYPE_CHECKING:
    from batchmill.agents.desk.desk import Desk
    from batchmill.agents.desk.model import Answer, Card, User

__all__ = ["add"]

T = TypeVar("T")

REQUEST = typer.Argument(metavar="REQUEST", help="Request id, from `review list`.")
REASON = typer.Option(help="Why, for the record.")
WAITS_FOR = typer.Option(metavar="REASON", help="Only what waits for this reason, as `list` shows it.")
ACTOR = typer.Option(help="Who decides, for the record; default: user@host.")
JOB = typer.Option(help="Only of this job.")
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Decide on answers that wait for a person.")
    group.command("list")(list_)
    group.command("next")(next_)
    for command in (show, accept, correct, decline, defer, undo, progress, agreement, calibration, export):
        group.command()(command)
    app.add_typer(group, name="review")


def list_(
    context: typer.Context,
    job: Annotated[str | None, JOB] = None,
    reason: Annotated[Reason | None, WAITS_FOR] = None,
    sampled: Annotated[bool, typer.Option("--sampled", help="Only what was drawn as a sample.")] = False,
    deferred: Annotated[bool, typer.Option("--deferred", help="Also what was put off.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List what waits, the highest risk first.

    \b
    Example:
      batchmill review list --job triage --reason low_confidence
    """
    from batchmill.agents.desk.model import Filter

    here = door(context)
    chosen = Filter(job=job, reason=reason, sampled=sampled, deferred=deferred)
    page = _at_desk(here, lambda desk: desk.queue(chosen, user=_user(None), limit=limit))
    if json:
        here.emit("review.list", {"items": page.items, "total": page.total})
        return
    columns = ("request", "source", "job", "reason", "risk", "confidence", "waiting since", "held by")
    rows = [
        [
            each.request_id,
            each.source_id,
            each.job,
            each.reason or "sampled",
            each.risk,
            each.confidence,
            utc(each.waiting_since_ms),
            None if each.lock is None else each.lock.holder,
        ]
        for each in page.items
    ]
    here.table(columns, rows, empty="nothing waits for review")
    if page.total > len(page.items):
        here.say(f"{len(page.items)} of {page.total}")


def next_(
    context: typer.Context,
    job: Annotated[str | None, JOB] = None,
    reason: Annotated[Reason | None, WAITS_FOR] = None,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what should be looked at now, and hold it so that nobody else does the same.

    \b
    Example:
      batchmill review next --job triage
    """
    from batchmill.agents.desk.model import Filter

    here, user = door(context), _user(actor)

    async def take(desk: "Desk") -> "Card | None":
        name = await desk.next_for(user, Filter(job=job, reason=reason))
        if name is None:
            return None
        await desk.lock(name, user)
        return await desk.card(name, user=user)

    card = _at_desk(here, take)
    if card is None:
        raise CommandError("nothing waits that is not held by somebody else", ExitCode.NOT_FOUND)
    _tell(here, card, "review.next", json=json)


def show(
    context: typer.Context,
    request: Annotated[str, REQUEST],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show the input, the answer, the failed checks and the decisions of one request, from the log.

    \b
    Example:
      batchmill review show abcdefghijklmnopqrstuvwxyz234567
    """
    here = door(context)
    card = _at_desk(here, lambda desk: desk.card(request, user=_user(None)))
    _tell(here, card, "review.show", json=json)


def accept(
    context: typer.Context,
    requests: Annotated[list[str], typer.Argument(metavar="REQUEST...", help="Request ids, from `review list`.")],
    reason: Annotated[str | None, REASON] = None,
    actor: Annotated[str | None, ACTOR] = None,
    yes: Annotated[bool, YES] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Accept answers as they are; they go on to be committed. Several at once have to be confirmed.

    \b
    Example:
      batchmill review accept abcdefghijklmnopqrstuvwxyz234567
    """
    here, user = door(context), _user(actor)
    if len(requests) == 1:
        answer = _at_desk(here, lambda desk: desk.accept(requests[0], user=user, reason=reason))
        _answered(here, [answer], json=json)
        return
    if reason is not None:
        raise CommandError("--reason belongs to one answer; accept them one by one", ExitCode.USAGE)
    names = list(dict.fromkeys(requests))
    here.confirm(f"Accept {len(names)} answers?", yes=yes)
    answers = _at_desk(here, lambda desk: desk.accept_many(names, user=user, expect=len(names)))
    _answered(here, list(answers), json=json)


def correct(
    context: typer.Context,
    request: Annotated[str, REQUEST],
    output: Annotated[str, typer.Option(metavar="FILE|-", help="The right answer, a JSON document.")],
    reason: Annotated[str | None, REASON] = None,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Replace an answer by the right one; it is checked like any other before it counts.

    \b
    Example:
      echo '{"label": "pos", "confidence": 1}' | batchmill review correct abcdefghijklmnopqrstuvwxyz234567 --output -
    """
    here, user = door(context), _user(actor)
    text = typer.get_text_stream("stdin").read() if output == "-" else _text_of(Path(output))
    answer = _at_desk(here, lambda desk: desk.correct(request, text, user=user, reason=reason))
    _answered(here, [answer], json=json)


def decline(
    context: typer.Context,
    requests: Annotated[list[str], typer.Argument(metavar="REQUEST...", help="Request ids, from `review list`.")],
    reason: Annotated[str, typer.Option(help="One of the job's decline reasons (`review.decline_reasons`).")],
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Decline answers; their records are dead-lettered as declined.

    \b
    Example:
      batchmill review decline abcdefghijklmnopqrstuvwxyz234567 --reason wrong
    """
    here, user = door(context), _user(actor)

    async def each(desk: "Desk") -> "list[Answer]":
        return [await desk.decline(name, reason, user=user) for name in dict.fromkeys(requests)]

    _answered(here, _at_desk(here, each), json=json)


def defer(
    context: typer.Context,
    request: Annotated[str, REQUEST],
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 30m, 4h, 2d.")],
    reason: Annotated[str | None, REASON] = None,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Put a record off: it is not shown before its time.

    \b
    Example:
      batchmill review defer abcdefghijklmnopqrstuvwxyz234567 --for 2d
    """
    from batchmill.agents import clock

    here, user = door(context), _user(actor)
    until_ms = clock.wall_ms() + _milliseconds(for_)
    answer = _at_desk(here, lambda desk: desk.defer(request, until_ms, user=user, reason=reason))
    _answered(here, [answer], json=json)


def undo(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="REQUEST|DECISION", help="Request id, or the id of a decision.")],
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Take back a decision, as long as nothing has come of it downstream.

    \b
    Example:
      batchmill review undo abcdefghijklmnopqrstuvwxyz234567
    """
    here, user = door(context), _user(actor)
    _answered(here, [_at_desk(here, lambda desk: desk.undo(name, user=user))], json=json)


def progress(
    context: typer.Context,
    job: Annotated[str | None, JOB] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show how much waits, for what, and who decided how much.

    \b
    Example:
      batchmill review progress --job triage
    """
    here = door(context)
    found = _at_desk(here, lambda desk: desk.progress(job))
    if json:
        here.emit("review.progress", _members(found))
        return
    plain = ("waiting", "deferred", "awaiting_score", "accepted", "corrected", "declined")
    here.fields((name, getattr(found, name)) for name in plain)
    here.fields([("oldest since", utc(found.oldest_waiting_since_ms))])
    for what, counts in (("reason", found.by_reason), ("job", found.by_job), ("by", found.by_actor)):
        here.fields((f"{what} {name}", count) for name, count in counts.items())


def agreement(
    context: typer.Context,
    job: Annotated[str | None, JOB] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show how far reviewers decide alike, where two decided the same answer on their own.

    \b
    Example:
      batchmill review agreement --job triage
    """
    here = door(context)
    found = _at_desk(here, lambda desk: desk.agreement(job))
    if json:
        here.emit("review.agreement", _members(found))
        return
    here.say(f"{found.records} answers decided by two or more; Krippendorff's alpha {_told(found.alpha)}")
    rows = [[each.first, each.second, each.records, each.agreed, _told(each.kappa)] for each in found.pairs]
    here.table(
        ("first", "second", "answers", "agreed", "kappa"), rows, empty="no two reviewers decided the same answer"
    )


def calibration(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what told confidences were worth: how often answers that told them were accepted as they were.

    \b
    Example:
      batchmill review calibration triage
    """
    here = door(context)
    found = _at_desk(here, lambda desk: desk.calibration(job))
    if json:
        here.emit("review.calibration", _members(found))
        return
    rows = [[f"{each.low:.1f}-{each.high:.1f}", each.records, each.told_mean, each.right_share] for each in found.bins]
    here.table(("confidence", "answers", "told", "right"), rows, empty="nothing was decided that told a confidence")
    here.say(f"{found.records} answers, {found.left_out} left out; Brier {_told(found.brier)}")
    here.say(f"expected calibration error {_told(found.expected_error)}")
    if found.proposed:
        here.say(f"judge.confidence.calibration: {jsonlib.dumps(found.proposed)}")


def export(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    output: Annotated[str, typer.Option(metavar="FILE|-", help="Where the lines go.")] = "-",
) -> None:
    """Write accepted and corrected answers as a gold set, one JSON object per line: input, output, original.

    \b
    Example:
      batchmill review export triage --output gold.jsonl
    """
    from dataclasses import asdict

    here = door(context)

    async def write(desk: "Desk") -> int:
        count = 0
        with _lines_to(output) as lines:
            async for example in desk.export_gold(job):
                lines.write(jsonlib.dumps(asdict(example), ensure_ascii=False) + "\n")
                count += 1
        return count

    here.say(f"examples written: {_at_desk(here, write):,}")


def _at_desk(here: Door, act: "Callable[[Desk], Awaitable[T]]") -> T:
    from batchmill.agents.desk.model import DeskError
    from batchmill.agents.desk.opening import open_desk

    with here.view():
        pass  # nothing can be done without one, and a missing one is said in its own words

    async def run() -> T:
        async with open_desk(here.settings) as desk:
            return await act(desk)

    try:
        return asyncio.run(run())
    except DeskError as error:
        if not error.checks:
            raise
        failed = "; ".join(f"{check.id} at {check.path or '$'}: {check.note or 'failed'}" for check in error.checks)
        raise CommandError(f"{error}: {inert(failed)}", ExitCode.GATE) from None


def _user(actor: str | None) -> "User":
    """Whoever sits here may do what the machine's own files let them."""
    from batchmill.agents.commands import actor_here
    from batchmill.agents.desk.model import Role, User

    return User(name=actor or actor_here(), role=Role.OPERATOR)


def _answered(here: Door, answers: "list[Answer]", *, json: bool) -> None:
    if json:
        here.emit("review.decided", answers)
        return
    for each in answers:
        until = "" if each.undo_until_ms is None else f"; undo until {utc(each.undo_until_ms)}"
        here.say(f"{each.decision.action} of {each.decision.request_id} is written{until}")


def _tell(here: Door, card: "Card", kind: str, *, json: bool) -> None:
    if json:
        here.emit(kind, _members(card))
        return
    here.fields(
        [
            ("request", card.item.request_id),
            ("job", card.item.job),
            ("status", card.status),
            ("reason", card.item.reason),
            ("confidence", card.item.confidence),
            ("risk", card.item.risk),
            ("input", inert(jsonlib.dumps(card.input, ensure_ascii=False))),
            ("output", inert(jsonlib.dumps(card.output, ensure_ascii=False))),
        ]
    )
    for check in card.checks:
        if not check.passed:
            typer.echo(inert(f"failed: {check.id} at {check.path or '$'}: {check.note or ''}"))
    for each in card.decisions:
        typer.echo(f"{each.action} by {each.actor} at {utc(each.decided_at_ms)} ({each.id}){_because(each.reason)}")


def _because(reason: str | None) -> str:
    return "" if reason is None else f": {inert(reason)}"


def _members(value: Any) -> dict[str, Any]:
    from dataclasses import fields

    return {each.name: getattr(value, each.name) for each in fields(value)}


def _told(number: float | None) -> str:
    return "not known" if number is None else f"{number:.3f}"


def _milliseconds(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not number.isdigit():
        raise CommandError(f"--for {text}: write a number and m, h or d, such as 4h", ExitCode.USAGE)
    return int(number) * _SECONDS[unit] * 1_000


def _lines_to(output: str) -> "AbstractContextManager[TextIO]":
    if output == "-":
        return nullcontext(sys.stdout)
    try:
        return Path(output).open("w", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}", ExitCode.NOT_FOUND) from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}", ExitCode.NOT_FOUND) from None
