"""What each kind of sink can promise and what it takes for a name: one table of facts, and the rules of `place`.

The writer, `job validate`, `doctor` and the guide read it. Adding a sink is a row here and a module in `agents/sinks/`.
What must not live here: writing anything.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import orjson

from batchmill.streams.paths import ABSENT, compile_path
from batchmill.streams.ports import SinkCapabilities

__all__ = ["BY_DATE", "FILE_SINKS", "HISTORY", "ROW_MEMBERS", "SINKS", "Folder", "folder_of", "is_json", "table_fault"]

SINKS: Final[Mapping[str, SinkCapabilities]] = MappingProxyType(
    {
        "sqlite": SinkCapabilities(compares=True, revertible=True),
        "postgres": SinkCapabilities(compares=True, revertible=True),
        "jsonl": SinkCapabilities(compares=True, revertible=False),
        "parquet": SinkCapabilities(compares=True, revertible=False),
        "webhook": SinkCapabilities(compares=False, revertible=False),
        "kafka": SinkCapabilities(compares=False, revertible=False, inside=True),
        "decisions": SinkCapabilities(compares=False, revertible=False, inside=True),
        "none": SinkCapabilities(compares=False, revertible=False, inside=True),
    }
)
FILE_SINKS: Final = frozenset({"jsonl", "parquet"})
HISTORY: Final = "__history"
#: `PlaceSpec.partition`: one folder for each day of commits, UTC
BY_DATE: Final = "date"
#: what a row of a file holds besides its output
ROW_MEMBERS: Final = (
    "target_key", "seq", "promotion", "commit_id", "previous_commit_id", "source_id", "request_id", "job", "version",
    "run_id", "committed_at_ms",
)  # fmt: skip

_SQLITE_TABLE: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: PostgreSQL cuts names after 63 bytes, and the name of the history is 9 longer than that of its table
_POSTGRES_TABLE: Final = re.compile(r"([a-z][a-z0-9_]{0,62}\.)?[a-z][a-z0-9_]{0,53}")
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9_]+")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
#: what other tools read as null in a path of this form
_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
_VALUE_CHARS_MAX: Final = 150
_VALUE_CHARS_KEPT: Final = 16  #: of four bytes at most, each three letters long in a path
_NAME_CHARS_MAX: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Where in a table's folder a row belongs: `name=value`, both safe in a path whatever a model has answered."""

    name: str
    value: str

    @property
    def path(self) -> str:
        return f"{self.name}={self.value}"


def table_fault(sink: str, table: str) -> str | None:
    """What is wrong with `table` as the place of a sink, or None."""
    match sink:
        case "sqlite":
            return _unlike(table, _SQLITE_TABLE, "lower-case letters, digits and '_', a letter first, at most 63")
        case "postgres":
            rule = "`table` or `schema.table`: lower-case letters, digits and '_', a letter first, at most 54"
            return _unlike(table, _POSTGRES_TABLE, rule)
        case "jsonl" | "parquet":
            rule = "a folder's name: letters, digits, '.', '_' and '-', a letter or digit first, at most 64"
            return None if _FOLDER.fullmatch(table) else f"must be {rule}"
        case "kafka":
            fits = _TOPIC.fullmatch(table) and table not in {".", ".."}
            return None if fits else "must be a topic's name: letters, digits, '.', '_' and '-', at most 249"
        case _:
            return None


def folder_of(partition: str, output_json: str, committed_at_ms: int) -> Folder:
    """The folder of a row, by what the job says (`PlaceSpec.partition`): its day, or a member of its output."""
    if partition == BY_DATE:
        return Folder(name=BY_DATE, value=_day(committed_at_ms))
    path = compile_path(partition)
    name = _NOT_IN_NAMES.sub("_", path.text.lower()).strip("_")[:_NAME_CHARS_MAX] or "value"
    # A member that is called as one of ours would give readers two columns of one name.
    name = f"output_{name}" if name in {*ROW_MEMBERS, BY_DATE, "output", "output_json"} else name
    return Folder(name=name, value=_value(path.find(orjson.loads(output_json))))


def is_json(text: str) -> bool:
    """Can `text` be read again as JSON, as files need it?"""
    try:
        orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeError):
        return False
    return True


def _unlike(table: str, pattern: re.Pattern[str], rule: str) -> str | None:
    if not pattern.fullmatch(table):
        return f"must be {rule}"
    if table.endswith(HISTORY):
        return f"must not end in {HISTORY}: the history of a table is called so"
    if (table + HISTORY).startswith("sqlite_") or table.startswith("pg_"):
        return "must not be `sqlite` nor begin with sqlite_ or pg_: such names are the database's own"
    return None


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, tz=UTC).date().isoformat()


def _value(found: Any) -> str:
    if found is None or found is ABSENT or found == "":
        return _NULL
    text = found if isinstance(found, str) else orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()
    safe = _safe(text)
    if len(safe) <= _VALUE_CHARS_MAX:
        return safe
    # Cut between characters: half an escaped one could not be read back.
    return f"{_safe(text[:_VALUE_CHARS_KEPT])}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _safe(text: str) -> str:
    return quote(text, safe="").replace("~", "%7E")
