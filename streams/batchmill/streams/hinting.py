"""The `look` command: somebody says that batches have moved. It makes the next poll of each earlier, nothing else.

A hint is never believed: what a batch is, only a poll of the provider can say. So a forged, late or repeated hint costs
one look at most. A batch whose polls are being counted (the provider does not know it, its files are not named yet, the
account is throttled) keeps its own pace: hints must not use those counts up.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from batchmill.schemas.records import Control
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.view import StateView

__all__ = ["COMMAND", "HINTS_MAX", "JOB", "Hint", "command_body", "fault", "look_command"]

COMMAND: Final = "look"
#: stands where a command names its job: a hint is about batches, and only their tasks know whose they are
JOB: Final = "any"
#: batches that one command names
HINTS_MAX: Final = 500
#: open chunks of a task that are looked through
_CHUNKS_SEEN_MAX: Final = 10_000


class Hint(NamedTuple):
    """A batch that is said to have moved, and the account whose provider said so."""

    account: str
    batch_id: str


def command_body(hints: Iterable[Hint]) -> str:
    """The body of a look command."""
    return json.dumps({"batches": [hint._asdict() for hint in hints]}, separators=(",", ":"))


def fault(body: dict[str, Any]) -> str | None:
    """What is wrong with the body of a look command, or None."""
    batches = body.get("batches")
    if not isinstance(batches, list) or len(batches) > HINTS_MAX or not all(_is_hint(each) for each in batches):
        return f"`batches` is expected to be a list of at most {HINTS_MAX} {{account, batch_id}}"
    return None


def look_command(view: StateView, command: Control, now_ms: int) -> list[Order]:
    """Let the open batches that are named here be polled now."""
    named = {each["batch_id"] for each in json.loads(command.body_json)["batches"]}
    found = view.scan("chunk", f"{ChunkState.OPEN}/", limit=_CHUNKS_SEEN_MAX)
    chunks = [row for _, row in found if isinstance(row, Chunk) and row.batch_id in named]
    sooner = [Put(replace(chunk, due_at_ms=now_ms)) for chunk in chunks if _may_be_sooner(chunk, now_ms)]
    return [*sooner, Wake("poll")] if sooner else []


def _may_be_sooner(chunk: Chunk, now_ms: int) -> bool:
    counted = chunk.failures > 0 or chunk.looks > 0
    return not counted and chunk.due_at_ms is not None and chunk.due_at_ms > now_ms


def _is_hint(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("batch_id"), str) and isinstance(value.get("account"), str)
