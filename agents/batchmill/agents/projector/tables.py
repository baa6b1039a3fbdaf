"""What the read model keeps: one table per record class, its columns those of the class, without bodies.

A column that is an `Origin` becomes four. Texts that can be long (inputs, outputs, originals) are left in the log,
where the row's partition and offset find them. Changing anything here needs a new VIEW_VERSION: the file is rebuilt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, get_args, get_type_hints

import orjson

from batchmill.schemas.records import (
    Committed,
    Control,
    DeadLetter,
    Decision,
    Excluded,
    Origin,
    Result,
    Submitted,
    Verdict,
    WorkItem,
)
from batchmill.schemas.state import Arrival, Chunk, Grant, Job, Life, Meta, Source

__all__ = ["LOG_TABLES", "STATE_TABLES", "VIEW_VERSION", "Table", "create_statements"]

VIEW_VERSION = 4

_BODIES = frozenset({"input_json", "output", "output_json", "refusal", "checks", "original"})
_SQL_TYPES: dict[Any, str] = {int: "INTEGER", bool: "INTEGER", float: "REAL", str: "TEXT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table; `values` takes a record's columns out of it, in order, behind the `lead` ones."""

    name: str
    lead: tuple[str, ...]  #: columns the log gives: partition, offset, at_ms
    columns: tuple[tuple[str, str], ...]  #: (name, SQL type) of the class's own
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()
    values: Callable[[Any], tuple[Any, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.lead, *(name for name, _ in self.columns))

    def create(self) -> list[str]:
        lead = [f"{name} INTEGER NOT NULL" for name in self.lead]
        own = [f'"{name}" {kind}' for name, kind in self.columns]
        body = ", ".join([*lead, *own, f"PRIMARY KEY ({', '.join(self.key)})"])
        made = [f"CREATE TABLE {self.name} ({body}) WITHOUT ROWID"]
        for number, index in enumerate(self.indexes):
            made.append(f"CREATE INDEX {self.name}_{number} ON {self.name} ({', '.join(index)})")
        return made

    def upsert(self) -> str:
        """Insert a row, or replace the one with the same key."""
        names = ", ".join(f'"{name}"' for name in self.names)
        marks = ", ".join("?" * len(self.names))
        return f"INSERT OR REPLACE INTO {self.name} ({names}) VALUES ({marks})"  # noqa: S608  names are our own


def _columns(cls: type) -> tuple[tuple[tuple[str, str], ...], Callable[[Any], tuple[Any, ...]]]:
    columns: list[tuple[str, str]] = []
    getters: list[str] = []
    hints = get_type_hints(cls)
    for field in fields(cls):
        kind = hints[field.name]
        if field.name in _BODIES:
            continue
        if kind is Origin:
            columns += [(f"origin_{part.name}", "INTEGER") for part in fields(Origin)]
            getters += [f"{field.name}.{part.name}" for part in fields(Origin)]
            continue
        columns.append((field.name, _sql_type(kind)))
        getters.append(field.name)
    return tuple(columns), attrgetter(*getters)


def _sql_type(kind: Any) -> str:
    options = [option for option in get_args(kind) if option is not type(None)] or [kind]
    for known, sql in _SQL_TYPES.items():
        if isinstance(options[0], type) and issubclass(options[0], known):
            return sql
    raise AssertionError(f"no column type for {kind}")


def _log(name: str, cls: type, *indexes: tuple[str, ...]) -> Table:
    """A table of everything ever written to one topic."""
    columns, values = _columns(cls)
    return Table(
        name=name,
        lead=("partition", "offset", "at_ms"),
        columns=columns,
        key=("partition", "offset"),
        indexes=indexes,
        values=values,
    )


def _with_checks(table: Table) -> Table:
    """The table with what a record's checks came to, as JSON; what they note stays in the log."""

    def values(record: Any) -> tuple[Any, ...]:
        told = [
            {"id": check.id, "path": check.path or "", "severity": check.severity, "passed": check.passed}
            for check in record.checks
        ]
        return (*table.values(record), orjson.dumps(told).decode())

    return replace(table, columns=(*table.columns, ("checks_json", "TEXT")), values=values)


def _state(name: str, cls: type, key: tuple[str, ...], *indexes: tuple[str, ...]) -> Table:
    """A table that mirrors a table of task state: rows are replaced and deleted."""
    columns, values = _columns(cls)
    return Table(name=name, lead=("partition",), columns=columns, key=key, indexes=indexes, values=values)


_BY_REQUEST = ("request_id",)

#: topic -> table
LOG_TABLES: Mapping[str, Table] = {
    "normalized": _log("work_items", WorkItem),
    "submitted": _log("submissions", Submitted, _BY_REQUEST),
    "results": _log("results", Result, _BY_REQUEST),
    "validated": _log("verdicts", Verdict, _BY_REQUEST),
    "committed": _log("commits", Committed, _BY_REQUEST, ("target_key",), ("run_id",)),
    "dead-letter": _with_checks(_log("dead_letters", DeadLetter, _BY_REQUEST, ("id",), ("reason",))),
    "excluded": _log("excluded", Excluded, _BY_REQUEST),
    "decisions": _log("decisions", Decision, _BY_REQUEST, ("id",)),
    "control": _log("commands", Control, ("command_id",)),
}

#: state table -> table
STATE_TABLES: Mapping[str, Table] = {
    Life.schema: _state(
        "lives",
        Life,
        _BY_REQUEST,
        ("job", "status"),
        ("chunk_id",),
        ("source_id",),
        ("status", "reason"),
        ("run_id", "job"),
        ("parent",),
    ),
    Source.schema: _state("sources", Source, ("job", "source_id")),
    Arrival.schema: _state("arrivals", Arrival, ("partition", "origin_generation", "origin_offset")),
    Chunk.schema: _state("chunks", Chunk, ("chunk_id",), ("batch_id",), ("job", "state")),
    Grant.schema: _state("grants", Grant, ("partition", "pool")),
    Job.schema: _state("jobs", Job, ("partition", "job")),
    Meta.schema: _state("meta", Meta, ("partition", "name")),
}

#: One row per raw event. `request_id` once it has one; `alive` = a life in front counts it as its own, and `request_id`
#: names that life; `letter` = where it went without a life (a Place), as of `letter_at_ms`. `at_ms` is NULL while only
#: its consequences have been read. What stands aside leaves no trace here.
_RAW = """CREATE TABLE raw (
  generation INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
  at_ms INTEGER, bytes INTEGER, key TEXT, job TEXT, run_id TEXT,
  request_id TEXT, alive INTEGER NOT NULL DEFAULT 0, letter TEXT, letter_at_ms INTEGER,
  PRIMARY KEY (generation, partition, offset)) WITHOUT ROWID"""

_REST = (
    _RAW,
    "CREATE INDEX raw_0 ON raw (request_id) WHERE request_id IS NOT NULL",
    "CREATE INDEX raw_1 ON raw (run_id) WHERE run_id IS NOT NULL",
    "CREATE INDEX lives_aside ON lives (request_id) WHERE aside",
    # counts of every check, and the failed ones one by one
    """CREATE TABLE check_counts (job TEXT NOT NULL, version TEXT NOT NULL, id TEXT NOT NULL, severity TEXT NOT NULL,
  passed INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (job, version, id, severity, passed)) WITHOUT ROWID""",
    """CREATE TABLE failed_checks (partition INTEGER NOT NULL, offset INTEGER NOT NULL, id TEXT NOT NULL,
  request_id TEXT NOT NULL, severity TEXT NOT NULL, path TEXT, note TEXT,
  PRIMARY KEY (partition, offset, id)) WITHOUT ROWID""",
    "CREATE INDEX failed_checks_0 ON failed_checks (request_id)",
    """CREATE TABLE positions (topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
  at_ms INTEGER NOT NULL, records INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID""",
    # records that were gone from the log before they were read
    """CREATE TABLE gaps (topic TEXT NOT NULL, partition INTEGER NOT NULL, from_offset INTEGER NOT NULL,
  to_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition, from_offset)) WITHOUT ROWID""",
    # values that could not be decoded: a bug or a foreign writer
    """CREATE TABLE unreadable (topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
  why TEXT NOT NULL, PRIMARY KEY (topic, partition, offset)) WITHOUT ROWID""",
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


def create_statements() -> list[str]:
    """The whole schema of an empty read model."""
    tables = [*LOG_TABLES.values(), *STATE_TABLES.values()]
    return [*(statement for table in tables for statement in table.create()), *_REST]
