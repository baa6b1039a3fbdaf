"""The commands, put together; what went wrong, turned into an exit code."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from batchmill.agents.cli import (
    batches,
    benchmark,
    commits,
    compare,
    control,
    costs,
    dlq,
    drift,
    feed,
    index,
    interchange,
    jobs,
    prices,
    records,
    replay,
    review,
    running,
    runs,
    savings,
    schedules,
    start,
    status,
    tokens,
    topics,
)
from batchmill.agents.cli.door import Door
from batchmill.agents.cli.errors import CommandError, known
from batchmill.agents.cli.exit_codes import ExitCode, table

__all__ = ["program", "run"]


#: Typer carries its own copy of click, or uses the installed one, by version; either way this is its mother of errors.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def program() -> typer.Typer:
    """The whole command tree, in the order people meet it."""
    app = typer.Typer(
        name="batchmill",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="\b\nExit codes:\n" + table(),
    )
    app.callback()(_global)
    about_jobs = (start, topics, jobs, index, prices, feed, running)
    about_money = (status, costs, savings)
    about_records = (drift, records, runs, batches, control)
    about_versions = (compare, benchmark, replay, schedules)
    about_answers = (review, commits, tokens, dlq, interchange)
    for module in (*about_jobs, *about_money, *about_records, *about_versions, *about_answers):
        module.add(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    try:
        code = program()(args=list(arguments), prog_name="batchmill", standalone_mode=False)
    except _UsageError as error:
        error.show()
        return int(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone (`| head`); nothing more can be said
        return ExitCode.OK
    except Exception as error:
        found = known(error)
        if found is None:
            raise
        print(f"batchmill: {error}", file=sys.stderr)
        return found
    return code if isinstance(code, int) else ExitCode.OK


def _global(
    context: typer.Context,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting for this command, by its dotted name; wins over all else."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on standard error but errors.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=lambda said: _show_version(said=said), is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Turn a Kafka topic of raw records into validated, committed LLM output.

    \b
    A first run:
      batchmill init jobs/triage
      batchmill doctor
      batchmill topics apply
      batchmill up --workers 2              # runs until Ctrl-C; go on in another terminal
      batchmill job apply jobs/triage
      batchmill ingest tickets.jsonl --job triage --key ticket_id
      batchmill status --watch
    """
    context.obj = Door(flags=dict(_assignment(text) for text in set_ or ()), quiet=quiet)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CommandError(
            f"--set {text}: write NAME=VALUE, such as kafka.bootstrap_servers=127.0.0.1:9092", ExitCode.USAGE
        )
    return name.strip(), value


def _show_version(*, said: bool) -> None:
    if said:
        typer.echo(version("batchmill"))
        raise typer.Exit
