"""The secondary indexes of task state: which rows an effect or a decision finds without reading them all.

One function, total over the row types. An index key is text that sorts the way its reader walks; times are
zero-padded milliseconds. Stores keep what this says and nothing else.
"""

import json

from batchmill.schemas.state import Arrival, Chunk, Job, Life, Meta, Row
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams.likeness import bands

__all__ = [
    "ASKING",
    "CHANGE_ROWS",
    "CORRECTION_ROWS",
    "DOWN_ROWS",
    "IMPORTED_ROWS",
    "IMPORT_ROWS",
    "PARTS_ROWS",
    "PROMOTION_ROWS",
    "REDRIVE_ROWS",
    "RERUN_ROWS",
    "TOOL_ROWS",
    "entries",
    "padded",
]

#: meta rows that name a dead letter to be read back
REDRIVE_ROWS = "redrive/"
#: meta rows of imports that are under way, and of those that are over
IMPORT_ROWS = "import/"
IMPORTED_ROWS = "imported/"
#: meta rows of reverts and replays that are under way
CHANGE_ROWS = "change/"
#: meta rows that name a correction to be judged beside its input
CORRECTION_ROWS = "correction/"
#: meta rows of promotions that this task is carrying out
PROMOTION_ROWS = "promotion/"
#: meta rows of replays: raw events that are read again
RERUN_ROWS = "rerun/"
#: meta rows of wholes whose parts wait for each other
PARTS_ROWS = "parts/"
#: meta rows of what was looked up for raw events, kept for replays
TOOL_ROWS = "tools/"
#: meta rows of sinks that this task cannot write to just now
DOWN_ROWS = "sink_down/"

_FINISHED = frozenset({Status.COMMITTED, Status.FAILED_TERMINAL})
#: on the way to an answer: others who have the same question wait for it
ASKING = frozenset({Status.QUEUED, Status.PROCESSING, Status.SUCCEEDED_UNVALIDATED, Status.FAILED_RETRYABLE})
_CLOSED = frozenset({ChunkState.DONE, ChunkState.FAILED})


def padded(milliseconds: int | None) -> str:
    """Sorts as a number sorts, up to the year 33658."""
    return f"{milliseconds or 0:015d}"


def entries(row: Row) -> tuple[tuple[str, str], ...]:
    """(index name, index key) pairs under which `row` is found."""
    match row:
        case Life():
            return _of_life(row)
        case Chunk():
            return _of_chunk(row)
        case Arrival():
            return (("arrival", f"{row.waiting_for}/{row.job or ''}/{row.key}"),)
        case Job():
            return (("job", row.job),)
        case Meta() if row.name.startswith(REDRIVE_ROWS):
            return (("redrive", row.name),)
        case Meta() if row.name.startswith((IMPORT_ROWS, IMPORTED_ROWS)):
            return (("import", row.name),)
        case Meta() if row.name.startswith(CHANGE_ROWS):
            return (("change", row.name),)
        case Meta() if row.name.startswith(CORRECTION_ROWS):
            return (("correction", row.name),)
        case Meta() if row.name.startswith(PROMOTION_ROWS):
            return (("promotion", row.name),)
        case Meta() if row.name.startswith(RERUN_ROWS):
            return (("rerun", row.name),)
        case Meta() if row.name.startswith(TOOL_ROWS):
            return (("tools", row.name),)
        case Meta() if row.name.startswith(PARTS_ROWS):
            return (("parts", _of_parts(row)),)
        case Meta() if row.name.startswith(DOWN_ROWS):
            return (("down", row.name),)
        case _:
            return ()


def _of_parts(row: Meta) -> str:
    """By job, and by when it is taken up."""
    job, whole = row.name.removeprefix(PARTS_ROWS).split("/")
    return f"{job}/{padded(json.loads(row.value_json)['due_at_ms'])}/{whole}"


def _of_life(row: Life) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    if row.status not in _FINISHED:
        found.append(("open", f"{row.job}/{row.request_id}"))
    if row.chunk_id is not None:
        found.append(("member", f"{row.chunk_id}/{row.request_id}"))
    elif row.status is Status.QUEUED and row.result_offset is not None:
        # its question was answered before: the answer lies there and is read again instead of being paid for
        found.append(("stored", row.request_id))
    elif row.status is Status.QUEUED and row.follows is not None:
        # another life asks its question: it is not sent, whatever its lane
        found.append(("follow", f"{row.follows}/{row.request_id}"))
    elif row.status is Status.QUEUED:
        found.append(("queue", f"{row.lane}/{row.job}/{row.version}/{padded(row.queued_at_ms)}/{row.request_id}"))
    if row.status is Status.FAILED_RETRYABLE:
        found.append(("retry", f"{padded(row.due_at_ms)}/{row.request_id}"))
    elif row.status is Status.VALIDATED and not row.reverted and (row.commit_id is not None or not row.aside):
        found.append(("commit", f"{padded(row.updated_at_ms)}/{row.request_id}"))
        if row.commit_id is not None:
            # the sink was asked, and what it did is not known
            found.append(("doubt", f"{row.job}/{row.source_id}|{row.request_id}"))
    elif row.status is Status.SUCCEEDED_UNVALIDATED and row.result_offset is not None:
        # its answer is judged beside its input, which has to be read first
        found.append(("judge", row.request_id))
    elif row.status is Status.NEEDS_REVIEW and not row.aside:
        found.append(("review", f"{row.job}/{row.request_id}"))
    if row.follows is None:
        found += _of_asker(row)
    if row.aside:
        found.append(("aside", f"{row.job}/{row.version}/{row.request_id}"))
    if row.fires and not row.reverted:
        # what was taken back before it started anything starts it once it is put back, if ever
        found.append(("then", row.request_id))
    if row.status is Status.COMMITTED or row.reverted:
        found.append(("run", f"{row.run_id}|{row.request_id}"))
    return tuple(found)


def _of_asker(row: Life) -> list[tuple[str, str]]:
    """Under what others with the same question find the life that asks it; those with one that is nearly the same."""
    found: list[tuple[str, str]] = []
    if row.status in ASKING:
        is_waiting = row.status is Status.FAILED_RETRYABLE  # they come last: there may be many
        found.append(("asking", f"{row.ask_key}/{is_waiting:d}/{row.request_id}"))
    if row.near_key is not None and row.status is not Status.FAILED_TERMINAL:
        found += [("near", f"{row.job}/{row.version}/{band}/{row.request_id}") for band in bands(row.near_key)]
    return found


def _of_chunk(row: Chunk) -> tuple[tuple[str, str], ...]:
    if row.state in _CLOSED:
        return ()
    found = [
        ("chunk", f"{row.state}/{padded(row.due_at_ms)}/{row.chunk_id}"),
        ("chunk_job", f"{row.job}/{row.chunk_id}"),
    ]
    if row.waits_for is not None:
        found.append(("waiting", f"{row.waits_for}|{padded(row.created_at_ms)}/{row.chunk_id}"))
    if row.state is ChunkState.FILLING:
        found.append(("filling", f"{row.lane}/{row.job}/{row.version}/{row.chunk_id}"))
    return tuple(found)
