"""`batchmill records` and `batchmill explain`: single requests and their whole story."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Status

if TYPE_CHECKING:
    from batchmill.agents.cli.bodies import At
    from batchmill.agents.projector.queries import LifeRow
    from batchmill.agents.projector.reading import View
    from batchmill.agents.projector.story import Found, Story

__all__ = ["add"]

_SOURCE_STORIES_MAX = 20
_NAME_HELP = "Request id, source id, custom id, chunk, provider's batch id, dead letter id, or raw/PARTITION/OFFSET."


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at single requests.")
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="records")
    app.command()(explain)


def list_(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    status: Annotated[list[Status] | None, typer.Option(help="Only in this status; may be repeated.")] = None,
    reason: Annotated[Reason | None, typer.Option(metavar="REASON", help="Only with this reason, as shown.")] = None,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    version: Annotated[str | None, typer.Option(help="Only under this frozen version.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List requests, the most recently moved first.

    \b
    Example:
      batchmill records list --job triage --status needs_review --status failed_terminal
    """
    from batchmill.agents.projector import queries

    here = door(context)
    with here.view() as view:
        found = queries.lives(
            view,
            job=job,
            status=status or (),
            reason=reason,
            source=source,
            run=run,
            version=version,
            limit=limit,
        )
    if json:
        here.emit("records.list", found)
        return
    columns = ("request", "source", "job", "version", "status", "reason", "attempt", "batch", "cost $", "moved")
    here.table(columns, [_row(each) for each in found], empty="no records")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help=_NAME_HELP)],
    job: Annotated[str | None, typer.Option(help="When sources of several jobs share the id.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show where a request (or each of a source) stands now.

    \b
    Example:
      batchmill records show ticket-1042
    """
    from dataclasses import asdict

    from batchmill.agents.projector import queries

    here = door(context)
    with here.view() as view:
        found = _found(view, name, job)
        rows = [row for each in found.request_ids if (row := queries.life(view, each)) is not None]
    if not rows:
        raise CommandError(f"{name} never became a request; `batchmill explain {name}` tells why", ExitCode.NOT_FOUND)
    if json:
        here.emit("records.show", rows)
        return
    for row in rows:
        told = asdict(row).items()
        here.fields((field, utc(value) if field.endswith("_at_ms") else value) for field, value in told)
        typer.echo("")


def explain(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help=_NAME_HELP)],
    log: Annotated[bool, typer.Option("--log", help="Read the bodies from the log and the payload store.")] = False,
    job: Annotated[str | None, typer.Option(help="When sources of several jobs share the id.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Tell a record's whole story: every hop with its place in the log, checks, cost, and what it waits for.

    \b
    Examples:
      batchmill explain ticket-1042
      batchmill explain raw/3/1207 --log
    """
    from batchmill.agents.projector.story import raw_story, story

    here = door(context)
    with here.view() as view:
        found = _found(view, name, job)
        if found.kind == "batch" and not json:
            here.say(f"{name} is a batch of {len(found.request_ids)} requests; `batchmill batches show {name}`")
        chosen = found.request_ids[:_SOURCE_STORIES_MAX]
        stories = [story(view, each) for each in chosen] or ([raw_story(view, found.raw)] if found.raw else [])
    bodies = asyncio.run(_bodies(here, stories)) if log else {}
    if json:
        here.emit("explain", {"name": name, "kind": found.kind, "stories": [_plain(each, bodies) for each in stories]})
        return
    for each in stories:
        _tell(each, bodies)
    if len(found.request_ids) > len(chosen):
        here.say(f"{len(found.request_ids) - len(chosen)} more; name one of them")


def _found(view: "View", name: str, job: str | None) -> "Found":
    from batchmill.agents.projector.story import find

    found = find(view, name, job=job)
    if found is None:
        raise CommandError(f"the read model knows nothing by the name {name}", ExitCode.NOT_FOUND)
    return found


def _row(each: "LifeRow") -> list[Any]:
    return [
        each.request_id,
        each.source_id,
        each.job,
        each.version,
        f"{each.status}, aside" if each.aside else each.status,
        each.reason,
        each.attempt,
        each.chunk_id,
        f"{each.cost_nanos / 10**9:.6f}",
        utc(each.updated_at_ms),
    ]


async def _bodies(here: Door, stories: "list[Story]") -> "dict[At, dict[str, Any]]":
    """The bodies of all hops, and for those sent in a batch whose payload file is at hand, the very line."""
    from batchmill.agents.cli.bodies import read_bodies, sent_line

    hops = [(hop.topic, hop.partition, hop.offset) for each in stories for hop in each.hops]
    bodies = await read_bodies(here.settings, hops)
    uris = _payload_uris(here, stories)
    for each in stories:
        for hop in each.hops:
            uri = uris.get(hop.detail.get("chunk_id", "")) if hop.topic == "submitted" else None
            if uri is not None:
                line = await sent_line(here.settings, uri, hop.detail["custom_id"])
                bodies.setdefault((hop.topic, hop.partition, hop.offset), {})["line_sent"] = line
    _point_at_lookups(here, bodies)
    return bodies


def _point_at_lookups(here: Door, bodies: "dict[At, dict[str, Any]]") -> None:
    """What was looked up is a part of the input; here it is told apart, with what was asked."""
    from batchmill.agents.cli.looked_up import looked_up

    with here.view() as view:
        for (topic, _, _), body in bodies.items():
            if topic == "normalized" and "input_json" in body:
                found = looked_up(view, body["job"], body["version"], body["input_json"])
                body.update({} if found is None else {"looked_up": found})


def _payload_uris(here: Door, stories: "list[Story]") -> dict[str, str]:
    from batchmill.agents.projector import queries

    names = {hop.detail["chunk_id"] for each in stories for hop in each.hops if hop.topic == "submitted"}
    with here.view() as view:
        rows = [row for name in names if (row := queries.batch(view, name)) is not None]
    return {row.chunk_id: row.payload_uri for row in rows if row.payload_uri is not None}


def _plain(each: "Story", bodies: "dict[At, dict[str, Any]]") -> dict[str, Any]:
    from dataclasses import asdict

    hops = [asdict(hop) | {"body": bodies.get((hop.topic, hop.partition, hop.offset))} for hop in each.hops]
    return {
        "request_id": each.request_id,
        "life": each.life,
        "batch": each.batch,
        "waits_for": each.waits_for,
        "aside": each.aside,
        "beside": each.beside,
        "failed_checks": each.failed_checks,
        "stems_from": each.stems_from,
        "started": each.started,
        "hops": hops,
    }


def _tell(each: "Story", bodies: "dict[At, dict[str, Any]]") -> None:
    life = each.life
    if life is not None:
        reason = f" ({life.reason})" if life.reason else ""
        typer.echo(f"{life.request_id}  {life.job}/{life.source_id}  version {life.version}")
        typer.echo(f"  {life.status}{reason}, attempt {life.attempt}, rank ({life.seq}, {life.promotion}),", nl=False)
        typer.echo(f" cost ${life.cost_nanos / 10**9:.6f}, {life.input_tokens}+{life.output_tokens} tokens")
        for line in _descent(life):
            typer.echo(f"  {line}")
    if each.aside is not None:
        typer.echo(f"  stands aside: {each.aside}")
    for other in each.beside:
        where = "aside" if other.aside else "in front"
        typer.echo(f"  beside it: version {other.version}, {other.status}, {where} (request {other.request_id})")
    if each.waits_for:
        typer.echo(f"  waits for {each.waits_for}")
    for what, relatives in (("stems from", each.stems_from), ("started", each.started)):
        for one in relatives:
            typer.echo(f"  {what} {one.job}/{one.source_id}  {one.request_id}  {one.status}  {_usd(one.cost_nanos)}")
    for hop in each.hops:
        detail = " ".join(f"{name}={value}" for name, value in hop.detail.items())
        typer.echo(f"  {utc(hop.at_ms)}  {hop.topic}/{hop.partition}/{hop.offset}  {hop.what}  {detail}")
        for name, value in (bodies.get((hop.topic, hop.partition, hop.offset)) or {}).items():
            if name in _TOLD_BODIES and value is not None:
                typer.echo(f"      {name}: {value}")
    for check in each.failed_checks:
        typer.echo(
            f"  failed check {check['id']} ({check['severity']}) at {check['path'] or '$'}: {check['note'] or ''}"
        )
    typer.echo("")


def _descent(life: "LifeRow") -> list[str]:
    """What a record stems from, and by which way it is asked, where that is out of the ordinary."""
    told = []
    if life.parent is not None:
        part = "" if life.part is None else f", part {life.part}"
        told.append(f"stems from request {life.parent}{part}")
    if life.route:
        told.append(f"asked by route {life.route}")
    if life.epoch:
        told.append(f"asked afresh, epoch {life.epoch}")
    return told


def _usd(nanos: int) -> str:
    return f"${nanos / 10**9:.6f}"


#: of a body, what a story is read for; the rest is told by the hop itself
_TOLD_BODIES = frozenset(
    {
        "value",
        "payload_json",
        "input_json",
        "looked_up",
        "line_sent",
        "output",
        "refusal",
        "output_json",
        "original",
        "unreadable",
    }
)
