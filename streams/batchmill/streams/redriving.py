"""The `redrive` command: dead letters get another chance.

Its body names lives (`requests`: request ids; each task takes its own) and letters of events that never had a life
(`letters`: [partition, offset] on dead-letter; the task of that partition takes them). A life starts again at once; a
letter is noted as a row, because its event must first be read back from the log (`Waiting`), and is normalized again
under what the job says now.
"""

import json
from typing import Any, Final, NamedTuple

from batchmill.schemas.records import Control, DeadLetter
from batchmill.schemas.state import Meta
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import RawRecord, raw_of, redrive
from batchmill.streams.events import RawLimits
from batchmill.streams.following import Askers
from batchmill.streams.index import REDRIVE_ROWS
from batchmill.streams.normalizing import normalize
from batchmill.streams.orders import Delete, Order, Put, Wake
from batchmill.streams.staging import again
from batchmill.streams.view import StateView

__all__ = ["COMMAND", "Waiting", "command_body", "redrive_command", "redriven", "waiting"]

COMMAND: Final = "redrive"


class Waiting(NamedTuple):
    """A letter that was asked back: its offset on dead-letter, in this task's partition."""

    row: Meta
    offset: int


def command_body(*, requests: list[str], letters: list[tuple[int, int]]) -> str:
    """The body of a redrive command."""
    return json.dumps({"requests": requests, "letters": letters}, separators=(",", ":"))


def redrive_command(view: StateView, command: Control, partition: int, now_ms: int) -> list[Order]:
    """What this task does about a redrive command: its own lives and letters, nothing else."""
    body: dict[str, Any] = json.loads(command.body_json)
    orders: list[Order] = []
    askers = Askers(view)
    for request_id in body.get("requests", ()):
        orders += redrive(view, request_id, now_ms=now_ms, askers=askers)
    offsets = [offset for at, offset in body.get("letters", ()) if at == partition]
    orders += [Put(Meta(name=f"{REDRIVE_ROWS}{offset:016d}", value_json=str(offset))) for offset in offsets]
    return [*orders, Wake("redrive")] if offsets else orders


def waiting(view: StateView, limit: int) -> list[Waiting]:
    """Letters asked back that were not read yet, oldest first."""
    rows = [row for _, row in view.scan("redrive", "", limit=limit)]
    return [Waiting(row, int(row.value_json)) for row in rows if isinstance(row, Meta)]


def redriven(
    view: StateView,
    asked: Waiting,
    letter: DeadLetter | None,
    event: RawRecord | None,
    *,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None,
) -> list[Order]:
    """Normalize the event of a letter again; `event` is what raw still holds of it. All gone: only the row goes.

    What a commit was to start and could not is tried again by firing the commit.
    """
    done: list[Order] = [Delete(Meta.schema, asked.row.key)]
    raw = None if letter is None else raw_of(letter, event)
    if raw is None:
        return done if letter is None else [*again(view, letter), *done]
    return [*normalize(view, raw, jobs=jobs, now_ms=now_ms, limits=limits, default_job=default_job), *done]
