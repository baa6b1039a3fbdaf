"""Errors people can meet -> exit code and one message on standard error. Anything else is a bug: with traceback."""

import sys
from collections.abc import Callable, Iterator

from batchmill.agents.cli.exit_codes import ExitCode

__all__ = ["CommandError", "known"]


class CommandError(Exception):
    """A command cannot do what was asked: says why and what next."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def known(error: Exception) -> ExitCode | None:
    """The exit code of an error that has one."""
    if isinstance(error, CommandError):
        return error.code
    for kinds, code in _table():
        if isinstance(error, kinds()):
            return code
    return _desk(error)


Kinds = Callable[[], tuple[type[Exception], ...]]


def _table() -> Iterator[tuple[Kinds, ExitCode]]:
    """Looked at only after something went wrong, so importing them is not in the way of a command that works."""
    yield _usage, ExitCode.USAGE
    yield _gate, ExitCode.GATE
    yield _missing, ExitCode.NOT_FOUND
    yield _conflict, ExitCode.CONFLICT
    yield _refused_by_runtime, ExitCode.CONFLICT
    yield _temporary, ExitCode.TEMPORARY


def _desk(error: Exception) -> ExitCode | None:
    """The desk has one error of several kinds."""
    from batchmill.agents.desk.model import DeskError, ErrorKind

    if not isinstance(error, DeskError):
        return None
    return {
        ErrorKind.NOT_FOUND: ExitCode.NOT_FOUND,
        ErrorKind.CONFLICT: ExitCode.CONFLICT,
        ErrorKind.REFUSED: ExitCode.GATE,
        ErrorKind.FORBIDDEN: ExitCode.CONFLICT,
        ErrorKind.UNAVAILABLE: ExitCode.TEMPORARY,
    }[error.kind]


def _usage() -> tuple[type[Exception], ...]:
    from batchmill.agents.ingest import IngestError
    from batchmill.agents.json_lines import JsonLinesError
    from batchmill.agents.settings import SettingsError
    from batchmill.agents.web.tokens import TokenError
    from batchmill.streams.baselines import BaselineError
    from batchmill.streams.golden import GoldError
    from batchmill.streams.paths import PathError

    named = (BaselineError, GoldError, JsonLinesError)
    return (SettingsError, IngestError, PathError, TokenError, *named)


def _gate() -> tuple[type[Exception], ...]:
    from batchmill.agents.interchange.exporting import ExportError
    from batchmill.agents.jobs import JobFileError

    return (JobFileError, ExportError)


def _missing() -> tuple[type[Exception], ...]:
    from batchmill.agents.projector.comparing import ContenderError
    from batchmill.agents.projector.reading import ViewMissingError

    return (ViewMissingError, ContenderError)


def _conflict() -> tuple[type[Exception], ...]:
    from batchmill.agents.health import PortTakenError
    from batchmill.agents.projector import ViewBusyError
    from batchmill.agents.projector.projector import PositionLostError
    from batchmill.agents.topics import TopicsMismatchError

    return (TopicsMismatchError, ViewBusyError, PositionLostError, PortTakenError)


def _refused_by_runtime() -> tuple[type[Exception], ...]:
    """What a worker will never start on, so that trying again is no use. Only a worker has the runtime loaded."""
    errors = sys.modules.get("batchmill.agents.runtime.errors")
    return () if errors is None else (errors.VersionError,)


def _temporary() -> tuple[type[Exception], ...]:
    from aiokafka.errors import KafkaError

    from batchmill.agents.topics import KafkaUnreachableError

    return (KafkaUnreachableError, KafkaError, TimeoutError)
