"""`batchmill export|import`: batch files of OpenAI and Anthropic, out of the pipeline and into it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from batchmill.agents.cli.door import JSON, Door, door, known_job
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.schemas.status import Status

if TYPE_CHECKING:
    from batchmill.agents.interchange.exporting import Bodies, ExportReport, Named
    from batchmill.agents.interchange.forms import Form
    from batchmill.agents.interchange.importing import Handed, Parts
    from batchmill.agents.interchange.joining import JoinReport
    from batchmill.agents.projector.reading import View

__all__ = ["add"]

_AUTO = "auto"
_JOB = typer.Argument(help="The job's name.")
_FORM = typer.Option("--format", metavar="openai|anthropic", help="Whose batch file it becomes.")
_ANY_FORM = typer.Option(
    "--format", metavar="auto|openai|anthropic", help="Whose batch file it is; auto: line by line."
)
_OUTPUT = typer.Option("--output", "-o", metavar="FILE|-", help="Where to; - is standard output.")
_NAMED = typer.Option(
    "--id", metavar="custom|request|source", help="What stands as custom_id: our custom id, request id or source id."
)
_FILE = typer.Argument(metavar="FILE|-", help="A batch file, one JSON object a line; - reads standard input.")
_OF_JOB = typer.Option(help="The job's name.")
_WAIT = typer.Option(min=0, help="Seconds to wait for the tasks to be done; 0 does not wait.")

_CACHE_BYTES = 64 * 2**20


def add(app: typer.Typer) -> None:
    out = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write batch files of other tools.")
    out.command("requests")(export_requests)
    out.command("results")(export_results)
    app.add_typer(out, name="export")
    into = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read batch files of other tools.")
    into.command("requests")(import_requests)
    into.command("results")(import_results)
    app.add_typer(into, name="import")


def export_requests(
    context: typer.Context,
    job: Annotated[str, _JOB],
    form: Annotated[str, _FORM] = "openai",
    output: Annotated[str, _OUTPUT] = "-",
    status: Annotated[list[Status] | None, typer.Option(help="Only in this status; may be repeated.")] = None,
    named: Annotated[str, _NAMED] = "custom",
    json: Annotated[bool, JSON] = False,
) -> None:
    """Write the requests of a job as a batch file: what was sent, and what would be.

    Our custom id names one send of one request: results that carry it can be imported again without doubt.

    \b
    Examples:
      batchmill export requests triage --status queued -o waiting.jsonl
      batchmill export requests triage --format anthropic -o requests.jsonl
    """
    from batchmill.agents.interchange import exporting

    here = door(context)

    async def work(view: "View", bodies: "Bodies", write: Callable[[bytes], object]) -> "ExportReport":
        return await exporting.export_requests(
            view,
            bodies,
            job=known_job(view, job),
            form=_form(form),
            named=_named(named),
            statuses=status or (),
            write=write,
        )

    _export(here, "export.requests", work, output, json=json)


def export_results(
    context: typer.Context,
    job: Annotated[str, _JOB],
    form: Annotated[str, _FORM] = "openai",
    output: Annotated[str, _OUTPUT] = "-",
    every_attempt: Annotated[
        bool, typer.Option("--attempts", help="The result of each attempt; else the last one of each request.")
    ] = False,
    named: Annotated[str, _NAMED] = "custom",
    json: Annotated[bool, JSON] = False,
) -> None:
    """Write what came back for a job as a result file: answers and errors, with usage.

    \b
    Examples:
      batchmill export results triage -o results.jsonl
      batchmill export results triage --format anthropic --id source -o results.jsonl
    """
    from batchmill.agents.interchange import exporting

    here = door(context)

    async def work(view: "View", bodies: "Bodies", write: Callable[[bytes], object]) -> "ExportReport":
        return await exporting.export_results(
            view,
            bodies,
            job=known_job(view, job),
            form=_form(form),
            named=_named(named),
            every_attempt=every_attempt,
            write=write,
        )

    _export(here, "export.results", work, output, json=json)


def import_requests(
    context: typer.Context,
    file: Annotated[str, _FILE],
    job: Annotated[str, _OF_JOB],
    form: Annotated[str, _ANY_FORM] = _AUTO,
    run: Annotated[str | None, typer.Option(help="Name of this run; default: a new one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, check and count; send nothing.")] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Send the requests of a batch file to the raw topic, as records of a job.

    Each line becomes a raw event: its source id is the custom_id, its members are `custom_id`, `body` or `params` as
    they are, and `text`, the last words of the user. What is asked is the job's to say. Lines that cannot be read are
    named and refused; the others are sent.

    \b
    Example:
      batchmill import requests requests.jsonl --job triage --dry-run
    """
    from batchmill.agents.cli.feed import Progress, send, source_name, tell
    from batchmill.agents.commands import new_id
    from batchmill.agents.ingest import RecordFile, ingest
    from batchmill.agents.interchange.forms import numbered_lines
    from batchmill.agents.interchange.importing import request_records

    here = door(context)
    name = run or f"import-{new_id()}"
    bytes_max = here.settings.limits.raw_bytes_max
    with _opened(file) as (opened, size_bytes):
        records = request_records(numbered_lines(opened, bytes_max=bytes_max), _any_form(form), bytes_max=bytes_max)
        position = opened.tell if size_bytes is not None else lambda: 0
        with Progress(here, RecordFile(records, size_bytes, position)) as progress:
            if dry_run:
                sent = ingest(here.settings, records, run=name, job=job, on_progress=progress.moved, dry_run=True)
            else:
                sent = send(here, records, run=name, job=job, source=source_name(file), progress=progress)
            report = asyncio.run(sent)
    tell(here, report, json=json, dry_run=dry_run)
    if dry_run:
        here.say("dry run: nothing was sent")
    if report.refused:
        raise typer.Exit(ExitCode.PARTIAL)


def import_results(
    context: typer.Context,
    file: Annotated[str, _FILE],
    job: Annotated[str, _OF_JOB],
    form: Annotated[str, _ANY_FORM] = _AUTO,
    by: Annotated[
        str, typer.Option(metavar="id|source", help="What a custom_id is: an id that we exported, or a source id.")
    ] = "id",
    execute: Annotated[bool, typer.Option("--execute", help="Do it. Without this only the counts are shown.")] = False,
    wait: Annotated[float, _WAIT] = 60.0,
    actor: Annotated[str | None, typer.Option(help="Who does this, for the record; default: user@host.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Give answers that were bought elsewhere to the requests that still wait for them. A dry run by default.

    Lines are joined by custom_id alone. A request that is in a batch on its way, or has its answer, or has ended, is
    left as it is. An answer that is taken counts as one attempt, costs what its usage says, and is judged like any
    other. Hold the job back meanwhile: `hold: submit` in its mode, or `batchmill pause`.

    \b
    Examples:
      batchmill import results batch_output.jsonl --job triage
      batchmill import results batch_output.jsonl --job triage --execute
    """
    from batchmill.agents.interchange.forms import numbered_lines
    from batchmill.agents.interchange.importing import Parts
    from batchmill.agents.interchange.joining import Joiner, LineFate

    here = door(context)
    if by not in {"id", "source"}:
        raise typer.BadParameter(f"{by!r} is neither id nor source", param_hint="--by")
    limits = here.settings.limits
    with _opened(file) as (opened, _), here.view() as view, Parts() as parts:
        joiner = Joiner(
            view,
            job=known_job(view, job),
            form=_any_form(form),
            by_source=by == "source",
            output_bytes_max=limits.output_bytes_max,
        )
        report = joiner.join(
            numbered_lines(opened, bytes_max=limits.result_line_bytes_max),
            parts.take if execute else lambda _partition, _bought: None,
        )
        answers = report.by_fate[LineFate.ANSWERS]
        handed = asyncio.run(_hand_over(here, parts, job, actor, wait)) if execute and answers else None
    _tell_join(here, report, handed, execute=execute, json=json)
    if handed is not None and handed.laggards and wait > 0:
        raise typer.Exit(ExitCode.TEMPORARY)
    if answers < report.lines or (
        handed is not None and not handed.laggards and handed.counts.get("answered", 0) < answers
    ):
        raise typer.Exit(ExitCode.PARTIAL)


async def _hand_over(here: Door, parts: "Parts", job: str, actor: str | None, wait_seconds: float) -> "Handed":
    from batchmill.agents.commands import actor_here
    from batchmill.agents.interchange.importing import hand_over

    return await hand_over(here.settings, parts, job=job, actor=actor or actor_here(), wait_seconds=wait_seconds)


def _tell_join(here: Door, report: "JoinReport", handed: "Handed | None", *, execute: bool, json: bool) -> None:
    for number, what, why in report.named:
        here.say(f"line {number}: {what}: {why}")
    if json:
        done = None if handed is None else {"counts": handed.counts, "laggards": handed.laggards}
        told = {"lines": report.lines, "by_fate": report.by_fate, "executed": handed is not None, "tasks": done}
        here.emit("import.results", told)
    else:
        here.fields([("lines", report.lines), *((str(what), n) for what, n in report.by_fate.most_common())])
        if handed is not None:
            here.fields([(f"tasks: {what}", count) for what, count in handed.counts.items()])
    if not execute:
        here.say("dry run: nothing was given to anybody; say --execute to do it")
    elif handed is not None and handed.laggards:
        here.say(f"tasks {', '.join(map(str, handed.laggards))} are not done yet; they go on by themselves")


# -- exporting ---------------------------------------------------------------------------------------------------------


def _export(
    here: Door,
    kind: str,
    work: "Callable[[View, Bodies, Callable[[bytes], object]], Awaitable[ExportReport]]",
    output: str,
    *,
    json: bool,
) -> None:
    if json and output == "-":
        raise CommandError("--json needs --output FILE: standard output has the lines", ExitCode.USAGE)
    with here.view() as view, _written(output) as file:
        report = asyncio.run(_with_bodies(here, lambda bodies: work(view, bodies, file.write)))
    if json:
        here.emit(kind, {"lines": report.lines, "bytes": report.bytes, "skipped": report.skipped})
    else:
        here.say(f"{report.lines} lines written")
    for why, count in report.skipped.most_common():
        here.say(f"{count} without a line: {_WHY[why]}")
    if report.skipped:
        raise typer.Exit(ExitCode.PARTIAL)


_WHY: Mapping[str, str] = {
    "body_gone": "retention removed the body from the log",
    "not_rendered": "the job's templates do not take the record; it would be refused before it is sent",
    "no_such_id": "the format does not take its id as a custom_id; see --id",
    "no_line": "the provider never gave a line for it, so its format has none",
}


async def _with_bodies(here: Door, work: "Callable[[Bodies], Awaitable[ExportReport]]") -> "ExportReport":
    """Run `work` with a reader of the log."""
    from batchmill.agents.runtime import BodyCache, LogReader
    from batchmill.agents.topics import kafka_client_options
    from batchmill.streams.topology import topic_name

    options = kafka_client_options(here.settings.kafka)
    servers = options.pop("bootstrap_servers")
    reader = LogReader(bootstrap_servers=servers, bodies=BodyCache(bytes_max=_CACHE_BYTES), options=options)

    async def bodies(topic: str, partition: int, offsets: Iterable[int]) -> Mapping[int, bytes]:
        found = await reader.read(topic_name(here.settings.topic_prefix, topic), partition, offsets)
        return {offset: record.value for offset, record in found.items() if record.value is not None}

    try:
        return await work(bodies)
    finally:
        await reader.close()


@contextmanager
def _written(output: str) -> Iterator[IO[bytes]]:
    """Standard output, or a file that is there as a whole or not at all."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror}", ExitCode.USAGE) from None
    finally:
        unfinished.unlink(missing_ok=True)


# -- both --------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(file: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """The file and its size; None for a pipe."""
    if file == "-":
        yield sys.stdin.buffer, None
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115  closed by the `with` below; errors inside it are not ours
        size_bytes = Path(file).stat().st_size
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", ExitCode.NOT_FOUND) from None
    with opened:
        yield opened, size_bytes


def _form(text: str) -> "Form":
    from batchmill.agents.interchange.forms import Form

    if text not in set(Form):
        raise typer.BadParameter(f"{text!r} is neither openai nor anthropic", param_hint="--format")
    return Form(text)


def _any_form(text: str) -> "Form | None":
    return None if text == _AUTO else _form(text)


def _named(text: str) -> "Named":
    from batchmill.agents.interchange.exporting import Named

    if text not in set(Named):
        raise typer.BadParameter(f"{text!r} is none of custom, request, source", param_hint="--id")
    return Named(text)
