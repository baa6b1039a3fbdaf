"""What the PostgreSQL sink says to the server: each part of a batch as a few statements over arrays.

What lives here: SQL, and turning decisions (`streams.holding`) into it. What must not: connections, transactions, time.
A part never names a target twice, so that a statement over all its rows means the same as its rows one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from psycopg import sql

from batchmill.agents.sinks.rows import COLUMNS, HISTORY_COLUMNS, beneath_of, history_of, row_of, sha256_of
from batchmill.streams.holding import Changed, Past, Target, change, write
from batchmill.streams.ports import SinkChange, SinkResult, SinkWrite
from batchmill.streams.sinks import HISTORY

__all__ = ["Names", "Part", "Statement", "filled", "parts", "plan_changes", "plan_writes", "targets_from", "unholdable"]

A = TypeVar("A", SinkWrite, SinkChange)

_INTEGERS = frozenset({"seq", "promotion", "committed_at_ms", "change_order"})
_FLAGS = frozenset({"changed", "reverted"})
_BIGINT_MAX = 2**63 - 1
_COLUMNS = ", ".join(COLUMNS)
_SET = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[1:])


def _type_of(column: str) -> str:
    return "bigint" if column in _INTEGERS else "boolean" if column in _FLAGS else "text"


def _declared(columns: Sequence[str]) -> str:
    # Keys are compared byte by byte: no library's idea of an alphabet may damage the index.
    nullable = {"previous_commit_id"}
    forms = {"target_key": 'text COLLATE "C"', "commit_id": 'text COLLATE "C"'}
    return ", ".join(
        f"{each} {forms.get(each, _type_of(each))}{'' if each in nullable else ' NOT NULL'}" for each in columns
    )


def _arrays(columns: Sequence[str]) -> str:
    return ", ".join(f"%s::{_type_of(column)}[]" for column in columns)


_ONTO = f"ON CONFLICT (target_key) DO UPDATE SET {_SET}"
_OF_PAIRS = "unnest(%s::text[], %s::text[]) AS a(key, commit)"
_JOINED = "h.target_key = a.key AND h.commit_id = a.commit"
_CREATE = f"CREATE TABLE IF NOT EXISTS {{table}} ({_declared(COLUMNS)}, PRIMARY KEY (target_key))"
_CREATE_HISTORY = (
    f"CREATE TABLE IF NOT EXISTS {{history}} ({_declared(HISTORY_COLUMNS)},"
    " PRIMARY KEY (target_key, seq, promotion), UNIQUE (target_key, commit_id))"
)
_SHAPE = (
    "SELECT c.relkind IN ('r', 'p'), array(SELECT attname::text FROM pg_attribute"
    " WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) FROM pg_class c WHERE c.oid = to_regclass(%s)"
)
_FACTS = (
    "SELECT a.key, t.commit_id, encode(sha256(convert_to(t.output_json, 'UTF8')), 'hex'), n.seq, n.promotion"
    " FROM unnest(%s::text[]) AS a(key) LEFT JOIN {table} t ON t.target_key = a.key"
    " LEFT JOIN LATERAL (SELECT seq, promotion FROM {history} h WHERE h.target_key = a.key"
    " ORDER BY seq DESC, promotion DESC LIMIT 1) n ON true"
)
_PAST = (
    "SELECT h.target_key, h.commit_id, h.previous_commit_id, h.changed, h.reverted, h.change_order,"
    f" b.request_id, b.run_id, b.seq FROM {_OF_PAIRS} JOIN {{history}} h ON {_JOINED}"
    " LEFT JOIN {history} b ON b.target_key = h.target_key AND b.commit_id = h.previous_commit_id"
)
_UPSERT = f"INSERT INTO {{table}} ({_COLUMNS}) SELECT * FROM unnest({_arrays(COLUMNS)}) {_ONTO}"
_REMEMBER = f"INSERT INTO {{history}} ({', '.join(HISTORY_COLUMNS)}) SELECT * FROM unnest({_arrays(HISTORY_COLUMNS)})"
_RESTORE = (
    f"INSERT INTO {{table}} ({_COLUMNS}) SELECT {', '.join(f'h.{column}' for column in COLUMNS)}"
    f" FROM {_OF_PAIRS} JOIN {{history}} h ON {_JOINED} {_ONTO}"
)
_REMOVE = "DELETE FROM {table} WHERE target_key = ANY(%s::text[])"
_MARK = (
    "UPDATE {history} h SET reverted = a.reverted, change_order = a.ordered"
    " FROM unnest(%s::text[], %s::text[], %s::boolean[], %s::bigint[]) AS a(key, commit, reverted, ordered)"
    f" WHERE {_JOINED}"
)
_HELD = "SELECT target_key, output_json FROM {table} WHERE target_key = ANY(%s::text[])"


@dataclass(frozen=True, slots=True)
class Names:
    """A table and its history, quoted."""

    text: str

    def of(self, statement: str) -> sql.Composed:
        schema, _, table = self.text.rpartition(".")
        path = (schema,) if schema else ()
        return sql.SQL(statement).format(  # made of the constants above
            table=sql.Identifier(*path, table), history=sql.Identifier(*path, table + HISTORY)
        )

    @property
    def creating(self) -> tuple[sql.Composed, sql.Composed]:
        return self.of(_CREATE), self.of(_CREATE_HISTORY)

    @property
    def shapes(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """For each of the two: how to ask for its shape, and the columns it must have."""
        return (_SHAPE, self.text, COLUMNS), (_SHAPE, self.text + HISTORY, HISTORY_COLUMNS)

    def facts(self, asked: Sequence[SinkWrite | SinkChange]) -> tuple["Statement", "Statement"]:
        """Ask for the facts of all targets, and for the history of all commits."""
        keys = sorted({each.target_key for each in asked})
        pairs = sorted({(each.target_key, each.commit_id) for each in asked})
        return Statement(self.of(_FACTS), (keys,)), Statement(self.of(_PAST), _columns(pairs))


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `rows`: how many it must touch, lest a trigger left some out."""

    text: sql.Composed
    values: Sequence[Any]
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Part(Generic[A]):
    """Some of what was asked of one table, decided: the answers, the facts afterwards, and what is to be said."""

    asked: Sequence[A]
    results: Sequence[SinkResult]
    targets: Mapping[str, Target]
    statements: Sequence[Statement] = field(default=())
    held: Statement | None = None  #: of changes: asks what the targets hold in the end


def unholdable(asked: SinkWrite | SinkChange) -> str | None:
    """Why PostgreSQL could never take these values, without showing them."""
    for name in asked.__dataclass_fields__:
        value = getattr(asked, name)
        if isinstance(value, str) and "\0" in value:
            return f"{name} holds the character NUL, which PostgreSQL cannot"
        if isinstance(value, str) and _is_broken(value):
            return f"{name} holds half a character (a lone surrogate)"
        if isinstance(value, int) and not -_BIGINT_MAX <= value <= _BIGINT_MAX:
            return f"{name} is beyond 64 bits"
    return None


def parts(asked: Sequence[A]) -> Iterator[Sequence[A]]:
    """Cut where a target comes again."""
    start, seen = 0, set[str]()
    for at, each in enumerate(asked):
        if each.target_key in seen:
            yield asked[start:at]
            start, seen = at, set()
        seen.add(each.target_key)
    yield asked[start:]


def targets_from(facts: Sequence[Sequence[Any]], past: Sequence[Sequence[Any]]) -> dict[str, Target]:
    """The answers to `Names.facts` as facts of targets."""
    known: dict[str, dict[str, Past]] = {}
    for key, commit_id, previous, changed, reverted, order, *whose in past:
        known.setdefault(key, {})[commit_id] = Past(
            commit_id=commit_id,
            previous_commit_id=previous,
            changed=changed,
            reverted=reverted,
            change_order=order,
            beneath=beneath_of(previous, whose),
        )
    return {
        key: Target(
            held_commit_id=held,
            held_sha256=sha256,
            newest=None if seq is None else (seq, promotion),
            past=known.get(key, {}),
        )
        for key, held, sha256, seq, promotion in facts
    }


def plan_writes(
    names: Names, asked: Sequence[SinkWrite], targets: Mapping[str, Target], now_ms: int
) -> Part[SinkWrite]:
    """Decide the writes of one part."""
    decided = [(each, write(targets[each.target_key], each, sha256_of(each.output_json))) for each in asked]
    rows, history = [], []
    for each, answer in decided:
        if answer.past is not None:
            rows.append(row_of(each, now_ms))
            history.append(history_of(rows[-1], answer.past))
    said = (
        Statement(names.of(_UPSERT), _columns(rows), len(rows)),
        Statement(names.of(_REMEMBER), _columns(history), len(rows)),
    )
    return Part(
        asked=asked,
        results=[answer.result for _, answer in decided],
        targets={**targets, **{each.target_key: answer.target for each, answer in decided}},
        statements=said if rows else (),
    )


def plan_changes(
    names: Names, asked: Sequence[SinkChange], targets: Mapping[str, Target], _now_ms: int
) -> Part[SinkChange]:
    """Decide the changes of one part."""
    decided = [(each, change(targets[each.target_key], each)) for each in asked]
    return Part(
        asked=asked,
        results=[answer.result for _, answer in decided],
        targets={**targets, **{each.target_key: answer.target for each, answer in decided}},
        statements=tuple(_changing(names, decided)),
        held=Statement(names.of(_HELD), ([each.target_key for each in asked],)),
    )


def _changing(names: Names, decided: Sequence[tuple[SinkChange, Changed]]) -> Iterator[Statement]:
    moving = [(each.target_key, answer.target.held_commit_id) for each, answer in decided if answer.moves]
    back = [(key, commit_id) for key, commit_id in moving if commit_id is not None]
    gone = [key for key, commit_id in moving if commit_id is None]
    marks = [
        (each.target_key, answer.past.commit_id, answer.past.reverted, answer.past.change_order)
        for each, answer in decided
        if answer.past is not None
    ]
    if back:
        yield Statement(names.of(_RESTORE), _columns(back), len(back))
    if gone:
        yield Statement(names.of(_REMOVE), (gone,), len(gone))
    if marks:
        yield Statement(names.of(_MARK), _columns(marks), len(marks))


def filled(results: Sequence[SinkResult], asked: Sequence[SinkChange], held: Mapping[str, str]) -> list[SinkResult]:
    """The answers to changes, with what their targets hold now."""
    return [replace(result, output_json=held.get(each.target_key)) for result, each in zip(results, asked, strict=True)]


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
