"""`batchmill init|doctor|config|healthcheck`: from nothing to something that works, and why it does not."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from batchmill.agents.cli.door import JSON, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(doctor)
    config = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The settings in force.")
    config.command("show")(config_show)
    app.add_typer(config, name="config")
    app.command()(healthcheck)


def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The new job's folder.")] = Path("jobs/first"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of the same name.")] = False,
) -> None:
    """Make a job folder to start from: job.yaml, prompts, schemas and sample events. It validates as it is.

    \b
    Example:
      batchmill init jobs/triage
    """
    from batchmill.agents.cli.scaffold import files_of

    here = door(context)
    files = files_of(folder.resolve().name)
    there = [name for name in files if (folder / name).exists()]
    if there and not force:
        raise CommandError(f"{folder} has {', '.join(there)} already; say --force to overwrite", ExitCode.CONFLICT)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    here.say(f"made {folder} with {', '.join(files)}")
    here.say(f"next: batchmill job plan {folder}, then batchmill job apply {folder}")


def doctor(context: typer.Context, json: Annotated[bool, JSON] = False) -> None:
    """Check everything a worker needs, and say how to mend what is wrong. Costs nothing and changes nothing.

    \b
    Example:
      batchmill doctor
    """
    from batchmill.agents.cli.examining import Level, examine

    here = door(context)
    findings = asyncio.run(examine(here.settings))
    if json:
        here.emit("doctor", {"ok": all(each.level is not Level.FAIL for each in findings), "checks": findings})
    else:
        for each in findings:
            typer.echo(f"{each.level:<4}  {each.what}: {each.found}")
            if each.mend:
                typer.echo(f"      {each.mend}")
    if any(each.level is Level.FAIL for each in findings):
        raise typer.Exit(ExitCode.PARTIAL)


def config_show(
    context: typer.Context,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also who said so: flag, variable, file or default.")
    ] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show every setting in force; secrets are masked.

    \b
    Example:
      batchmill config show --sources | grep kafka
    """
    from batchmill.agents.settings_pages import shown_settings

    here = door(context)
    shown = shown_settings(here.settings, dict(here.flags))
    if json:
        here.emit("config", shown)
        return
    columns = ("name", "value", "source") if sources else ("name", "value")
    here.table(columns, [[getattr(each, column) for column in columns] for each in shown])


def healthcheck(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="Of the process; default from the health settings.")] = None,
) -> None:
    """Ask a process on this machine whether it is ready; for containers without curl.

    \b
    Example:
      batchmill healthcheck --url http://127.0.0.1:8081
    """
    import httpx

    here = door(context)
    health = here.settings.health
    if url is None and health.port == 0:
        raise CommandError("say --url, or set BATCHMILL_HEALTH__PORT to the process's fixed port", ExitCode.USAGE)
    address = url or f"http://{'127.0.0.1' if health.host == '0.0.0.0' else health.host}:{health.port}"  # noqa: S104
    try:
        answer = httpx.get(f"{address}/readyz", timeout=_HEALTH_SECONDS)
    except httpx.HTTPError as error:
        raise CommandError(f"{address} does not answer: {type(error).__name__}", ExitCode.PARTIAL) from None
    here.say(answer.text)
    if answer.status_code != httpx.codes.OK:
        raise typer.Exit(ExitCode.PARTIAL)


_HEALTH_SECONDS = 3.0
