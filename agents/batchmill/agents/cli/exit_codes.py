"""What the command's exit code says. One table: the code, the help text and the tests read it."""

from enum import IntEnum

__all__ = ["MEANINGS", "ExitCode", "table"]


class ExitCode(IntEnum):
    """Documented, tested, and for scripts to rely on."""

    OK = 0
    PARTIAL = 1
    USAGE = 2
    GATE = 3
    NOT_FOUND = 4
    CONFLICT = 5
    TEMPORARY = 75
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.PARTIAL: "done, but with failed records or a failed check",
    ExitCode.USAGE: "wrong usage or settings; nothing was done",
    ExitCode.GATE: "refused: the job, the answer or the budget does not pass its checks",
    ExitCode.NOT_FOUND: "no such record, job, batch, file or read model",
    ExitCode.CONFLICT: "wrong state: topics differ, something exists already, another process owns it",
    ExitCode.TEMPORARY: "not now: broker unreachable, or not in effect in time; try again",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
}


def table() -> str:
    """The exit codes as `--help` prints them."""
    return "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
