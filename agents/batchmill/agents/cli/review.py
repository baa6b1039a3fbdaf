"""`batchmill review`: answers that wait for a person."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector.queries import LifeRow
    from batchmill.schemas.records import Decision

__all__ = ["add"]

REQUESTS = typer.Argument(metavar="REQUEST...", help="Request ids, from `review list`.")
REASON = typer.Option(help="Why, for the record.")
ACTOR = typer.Option(help="Who decides, for the record; default: user@host.")


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Decide on answers that wait for a person.")
    group.command("list")(list_)
    for command in (show, accept, correct, decline):
        group.command()(command)
    app.add_typer(group, name="review")


def list_(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List what waits, the longest first.

    \b
    Example:
      batchmill review list --job triage
    """
    from batchmill.agents.projector import queries

    here = door(context)
    with here.view() as view:
        found = queries.reviews(view, job=job, limit=limit)
    if json:
        here.emit("review.list", found)
        return
    columns = ("request", "source", "job", "reason", "confidence", "waiting since")
    rows = [
        [each.request_id, each.source_id, each.job, each.reason, each.confidence, utc(each.waiting_since_ms)]
        for each in found
    ]
    here.table(columns, rows, empty="nothing waits for review")


def show(
    context: typer.Context,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Request id.")],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show the input, the answer and the failed checks of one request, from the log.

    \b
    Example:
      batchmill review show abcdefghijklmnopqrstuvwxyz234567
    """
    from batchmill.agents.projector.story import story

    here = door(context)
    life = _waiting(here, request)
    with here.view() as view:
        checks = story(view, request).failed_checks
    told = asyncio.run(_bodies(here, life)) | {
        "request_id": life.request_id,
        "job": life.job,
        "reason": life.reason,
        "confidence": life.confidence,
        "output_sha256": life.output_sha256,
        "failed_checks": checks,
    }
    if json:
        here.emit("review.show", told)
        return
    here.fields((name, told[name]) for name in ("request_id", "job", "reason", "confidence", "input", "output"))
    for check in checks:
        typer.echo(f"failed: {check['id']} at {check['path'] or '$'}: {check['note'] or ''}")


def accept(
    context: typer.Context,
    requests: Annotated[list[str], REQUESTS],
    reason: Annotated[str | None, REASON] = None,
    actor: Annotated[str | None, ACTOR] = None,
) -> None:
    """Accept answers as they are; they go on to be committed.

    \b
    Example:
      batchmill review accept abcdefghijklmnopqrstuvwxyz234567
    """
    here = door(context)
    _decide(here, [_decision(_waiting(here, each), "accept", reason, actor) for each in requests])


def decline(
    context: typer.Context,
    requests: Annotated[list[str], REQUESTS],
    reason: Annotated[str, typer.Option(help="Why, for the record; required.")],
    actor: Annotated[str | None, ACTOR] = None,
) -> None:
    """Decline answers; their records are dead-lettered as declined.

    \b
    Example:
      batchmill review decline abcdefghijklmnopqrstuvwxyz234567 --reason "not our customer"
    """
    here = door(context)
    _decide(here, [_decision(_waiting(here, each), "decline", reason, actor) for each in requests])


def correct(
    context: typer.Context,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Request id.")],
    output: Annotated[str, typer.Option(metavar="FILE|-", help="The right answer, a JSON document.")],
    reason: Annotated[str | None, REASON] = None,
    actor: Annotated[str | None, ACTOR] = None,
) -> None:
    """Replace an answer by the right one; it is checked like any other before it counts.

    \b
    Example:
      echo '{"label": "pos", "confidence": 1}' | batchmill review correct abcdefghijklmnopqrstuvwxyz234567 --output -
    """
    from dataclasses import replace

    here = door(context)
    life = _waiting(here, request)
    text = typer.get_text_stream("stdin").read() if output == "-" else _text_of(Path(output))
    decision = replace(_decision(life, "correct", reason, actor), output_json=text)
    _check_correction(here, life, decision)
    _decide(here, [decision])


def _waiting(here: Door, request: str) -> "LifeRow":
    from batchmill.agents.projector import queries

    with here.view() as view:
        life = queries.life(view, request)
    if life is None:
        raise CommandError(f"no request {request}; see `batchmill review list`", ExitCode.NOT_FOUND)
    if life.status.value != "needs_review" or life.output_sha256 is None:
        raise CommandError(f"request {request} is {life.status}, it does not wait for review", ExitCode.CONFLICT)
    return life


def _decision(life: "LifeRow", action: str, reason: str | None, actor: str | None) -> "Decision":
    from batchmill.agents import clock
    from batchmill.agents.commands import actor_here, new_id
    from batchmill.schemas.records import Decision

    return Decision(
        id=new_id(),
        request_id=life.request_id,
        job=life.job,
        action=action,
        output_sha256_seen=life.output_sha256 or "",
        output_json=None,
        reason=reason,
        actor=actor or actor_here(),
        decided_at_ms=clock.wall_ms(),
    )


def _check_correction(here: Door, life: "LifeRow", decision: "Decision") -> None:
    """Refuse here what the reviewer agent would refuse, so that nobody waits for a decision that changes nothing."""
    from batchmill.agents.commands import applied_versions, read_commands
    from batchmill.streams.compiling import compile_job
    from batchmill.streams.reviewing import correction
    from batchmill.streams.unusable import Unusable

    applied = applied_versions(asyncio.run(read_commands(here.settings, life.job))).get(life.version)
    if applied is None:
        raise CommandError(f"version {life.version} of {life.job} is not in the control log", ExitCode.NOT_FOUND)
    job = compile_job(applied.spec, applied.version)
    try:
        judgement = correction(job, decision, _input_of(here, life) if job.judge.reads_input else None)
    except Unusable as wrong:
        raise CommandError(f"the correction is refused: {wrong.note}", ExitCode.GATE) from None
    if judgement.reason is not None:
        failed = "; ".join(f"{check.path or '$'}: {check.note}" for check in judgement.checks if not check.passed)
        raise CommandError(f"the correction is refused: {judgement.reason}: {failed}", ExitCode.GATE)


def _input_of(here: Door, life: "LifeRow") -> Any:
    from json import loads

    text = asyncio.run(_bodies(here, life))["input"]
    if text is None:
        what = f"the correction cannot be checked: retention removed the input of {life.request_id}; accept or decline"
        raise CommandError(what, ExitCode.NOT_FOUND)
    return loads(text)


def _decide(here: Door, decisions: "list[Decision]") -> None:
    from batchmill.agents.commands import decide

    asyncio.run(decide(here.settings, decisions))
    here.say(f"{len(decisions)} decisions written; `batchmill explain` shows what comes of them")


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}", ExitCode.NOT_FOUND) from None


async def _bodies(here: Door, life: "LifeRow") -> dict[str, Any]:
    from batchmill.agents.cli.bodies import At, read_bodies

    asked: At = ("normalized", life.partition, life.input_offset)
    judged: At = ("validated", life.partition, life.verdict_offset or 0)
    answered: At = ("results", life.partition, life.result_offset or 0)
    found = await read_bodies(here.settings, [asked, judged, answered])
    output = found.get(judged) if life.verdict_offset is not None else None
    return {
        "input": (found.get(asked) or {}).get("input_json"),
        "output": (output or {}).get("output_json") or (found.get(answered) or {}).get("output"),
    }
