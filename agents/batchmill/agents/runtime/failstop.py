"""Fail-stop: the one way out when nobody knows what is true. The supervisor starts the worker again.

What lives here: the exit codes and the function that logs and leaves. What must not: cleaning up. Nothing may be
flushed, committed or handed over by a process that no longer knows whether it owns anything.
"""

import os
import sys
from enum import IntEnum
from typing import NoReturn

import structlog

__all__ = ["Exit", "fail_stop"]

_LOG = structlog.get_logger(__name__)


class Exit(IntEnum):
    """Exit codes of a worker that stopped itself; documented, because supervisors and tests read them."""

    COMMIT_UNKNOWN = 70  #: a transaction ended in any other way than known committed
    FENCED = 71  #: another owner of the task has started: this process was frozen or cut off
    GAP = 72  #: a slice does not start where the last finished one ended
    REVOKE_TIMEOUT = 73  #: the last commit before a hand-over did not end in time
    NOT_COLOCATED = 74  #: the group assigned a task in pieces
    AGENT_RAISED = 76  #: a decision raised; after the restart the poison rule finds the record
    EFFECT_RAISED = 77  #: an effect loop raised something it does not know
    STORE_BROKEN = 78  #: the local state file does not follow on from what was committed
    LOOP_DIED = 79  #: a loop of the runtime itself ended
    RESTORE_FAILED = 80  #: state could not be read back


def fail_stop(code: Exit, why: str, *, error: BaseException | None = None, **where: object) -> NoReturn:
    """Say why, then leave without any tidying up."""
    try:
        _LOG.critical("fail_stop", exit=code.name, exit_code=int(code), why=why, error=repr(error), **where)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(int(code))
