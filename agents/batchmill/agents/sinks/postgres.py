"""The PostgreSQL sink: the promises of the SQLite sink, for many writers on a server.

What lives here: connections, the transaction, and who is refused. What must not: SQL of rows (`postgres_plan`), or what
a write or a change means (`streams.holding`).

A batch is one transaction of three round trips: settings, locks and facts; the rows; the commit. Targets are locked by
advisory locks, at most `_BUCKETS` of them per table and taken in one order, before their facts are read: so a target
that has no row yet is guarded too, batches of ours cannot deadlock with each other, and the server's lock table cannot
overflow. When a constraint or trigger refuses a row, everything is rolled back and done again in halves behind
savepoints, until the refused rows stand alone.

`DSN` in, never out: what an error tells is its class and code, never its text, which may quote rows.
"""

import asyncio
import logging
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import psycopg
from psycopg import conninfo, errors
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from batchmill.agents import clock
from batchmill.agents.settings import SettingsError
from batchmill.agents.sinks.postgres_plan import (
    Names,
    Part,
    Statement,
    filled,
    parts,
    plan_changes,
    plan_writes,
    targets_from,
    unholdable,
)
from batchmill.agents.sinks.rows import foreign
from batchmill.streams.holding import Target
from batchmill.streams.ports import (
    OutcomeUnknownError,
    ProviderError,
    SinkChange,
    SinkOutcome,
    SinkResult,
    SinkWrite,
    TransientError,
)
from batchmill.streams.sinks import SINKS, table_fault

__all__ = ["PostgresSink"]

A = TypeVar("A", SinkWrite, SinkChange)
Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]
Planner: TypeAlias = Callable[[Names, Sequence[A], Mapping[str, Target], int], Part[A]]

#: what the pool says by itself is said by us as well, without an address
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

#: locks of one table; more let more small batches of different targets run side by side
_BUCKETS = 64
#: a transaction of a frozen process is ended by the server after this many statement timeouts without a word
_IDLE_TIMES = 2
_SETTINGS = """
SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),
  set_config('idle_in_transaction_session_timeout', %s, true),
  set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
    ELSE current_setting('synchronous_commit') END, true)
"""
#: A deferred constraint would refuse at the commit, when nobody can tell any more whom it refuses.
_NOW = "SET CONSTRAINTS ALL IMMEDIATE"
_LOCK = f"""
SELECT pg_advisory_xact_lock(key) FROM (
  SELECT to_regclass(name)::oid::bigint * {_BUCKETS} + bucket AS key
  FROM unnest(%s::text[], %s::int[]) AS a(name, bucket) ORDER BY 1
) AS ordered
"""
_LOCK_SCHEMA = "SELECT pg_advisory_xact_lock(hashtext('batchmill sink'))"
#: classes of errors that are about a row: data, integrity, a view's check, a size; and what a function of the user's
#: runs into because of it (no CASE, several rows for one, an assertion, its own or another language's exception)
_REFUSING = ("20", "21", "22", "23", "38", "39", "44", "54", "P0")
_RAISED = "P0001"
#: where the server says no to one row under whatever code: RAISE may name any, a row policy has that of a permission
_RAISING, _CHECKING = "exec_stmt_raise", "ExecWithCheckOptions"
#: rolled back by the server, or not let in: known to have taken nothing
_ROLLED_BACK = ("40", "55")


class PostgresSink:
    """One database; connections are made when they are needed."""

    name = "postgres"
    capabilities = SINKS["postgres"]

    def __init__(
        self,
        *,
        dsn: str,
        connections_max: int,
        connect_timeout_seconds: float,
        lock_timeout_ms: int,
        statement_timeout_ms: int,
    ) -> None:
        self._where = _where(dsn)
        self._timeouts = [str(each) for each in (lock_timeout_ms, statement_timeout_ms)]
        self._timeouts.append(str(_IDLE_TIMES * statement_timeout_ms))
        self._tables: set[str] = set()
        self._opening = asyncio.Lock()
        self._opened = False
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=0,
            max_size=connections_max,
            open=False,
            timeout=connect_timeout_seconds,
            reconnect_timeout=connect_timeout_seconds,
            check=AsyncConnectionPool.check_connection,
            # Prepared statements do not live behind a pooler that shares connections.
            kwargs={
                "connect_timeout": max(1, round(connect_timeout_seconds)),
                "prepare_threshold": None,
                "application_name": "batchmill",
                "tcp_user_timeout": statement_timeout_ms,
            },
        )

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        """Write all of them in one transaction; an exception means that none is known to be written."""
        return await self._carry_out(writes, plan_writes)

    async def change(self, changes: Sequence[SinkChange]) -> Sequence[SinkResult]:
        """Revert or replay all of them in one transaction."""
        return await self._carry_out(changes, plan_changes)

    async def probe(self) -> str:
        """Ask the server for its version; says where it is."""
        async with self._connected() as connection:
            cursor = await connection.execute("SHOW server_version")
            row = await cursor.fetchone()
        return f"PostgreSQL {row[0] if row else '?'} at {self._where}"

    async def close(self) -> None:
        """Close the connections."""
        if self._opened:
            await self._pool.close()

    async def _carry_out(self, asked: Sequence[A], planner: Planner[A]) -> Sequence[SinkResult]:
        batch = _Batch(asked, planner)
        if not batch.open:
            return batch.results()
        async with self._connected() as connection:
            for table in sorted({each.table for each in batch.open}):
                lacking = await self._ensure_table(connection, table)
                if lacking:
                    batch.refuse(table, foreign(table, lacking))
            try:
                await self._attempt(connection, batch, careful=False)
            except _RefusedError:
                await connection.rollback()
                await self._attempt(connection, batch, careful=True)
        return batch.results()

    async def _attempt(self, connection: Connection, batch: "_Batch[A]", *, careful: bool) -> None:
        """The transaction. Careful: behind savepoints, in halves where it is refused."""
        targets = await self._begin(connection, batch.open)
        for table, asked in batch.tables().items():
            known: Mapping[str, Target] = targets[table]
            for part in parts(asked):
                known = await _do(connection, batch, Names(table), part, known, careful=careful)
        await connection.commit()

    async def _begin(
        self, connection: Connection, asked: Sequence[SinkWrite | SinkChange]
    ) -> dict[str, dict[str, Target]]:
        """Lock all targets and read their facts, in one round trip."""
        places = sorted({(each.table, zlib.crc32(each.target_key.encode()) % _BUCKETS) for each in asked})
        found = {}
        async with connection.pipeline():
            await connection.execute(_SETTINGS, self._timeouts)
            await connection.execute(_NOW)
            await connection.execute(_LOCK, [[name for name, _ in places], [bucket for _, bucket in places]])
            for table in sorted({each.table for each in asked}):
                facts, past = Names(table).facts([each for each in asked if each.table == table])
                found[table] = (
                    await connection.execute(facts.text, facts.values),
                    await connection.execute(past.text, past.values),
                )
        return {
            table: targets_from(await facts.fetchall(), await past.fetchall()) for table, (facts, past) in found.items()
        }

    async def _ensure_table(self, connection: Connection, table: str) -> list[str]:
        """Make both tables if they are not there; the columns that tables of these names lack."""
        if table in self._tables:
            return []
        names = Names(table)
        await connection.execute(_SETTINGS, self._timeouts)
        lacking = await _lacking(connection, names)
        if not lacking:
            await connection.execute(_LOCK_SCHEMA)  # two that create one table at once would fail
            for statement in names.creating:
                await connection.execute(statement)
            self._tables.add(table)
        await connection.commit()
        return lacking

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A connection; whatever the database says against us leaves as an error of the port, without its text."""
        try:
            await self._open()
            async with self._pool.connection() as connection:
                yield connection
        except psycopg.Error as error:
            self._tables.clear()  # perhaps somebody dropped one
            raise _told(error) from None

    async def _open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._pool.open()
                self._opened = True


class _RefusedError(Exception):
    """Somebody's constraint or trigger refuses a row of this part; the text is what may be told."""


@dataclass(slots=True)
class _Slot(Generic[A]):
    asked: A
    result: SinkResult | None = None


class _Batch(Generic[A]):
    """What was asked, in order, and the answers so far."""

    def __init__(self, asked: Sequence[A], planner: Planner[A]) -> None:
        self.planner: Planner[A] = planner
        self._slots: list[_Slot[A]] = [_Slot(each, _beyond(each)) for each in asked]
        self._refused = {id(slot.asked) for slot in self._slots if slot.result is not None}

    @property
    def open(self) -> list[A]:
        """What may be asked of the server."""
        return [slot.asked for slot in self._slots if id(slot.asked) not in self._refused]

    def tables(self) -> dict[str, list[A]]:
        found: dict[str, list[A]] = defaultdict(list)
        for each in self.open:
            found[each.table].append(each)
        return dict(sorted(found.items()))

    def refuse(self, table: str, error: str) -> None:
        for slot in self._slots:
            if slot.asked.table == table and slot.result is None:
                slot.result = _refused(slot.asked, error)
                self._refused.add(id(slot.asked))

    def answer(self, asked: Sequence[A], results: Sequence[SinkResult]) -> None:
        by_id = {id(each): result for each, result in zip(asked, results, strict=True)}
        for slot in self._slots:
            slot.result = by_id.get(id(slot.asked), slot.result)

    def results(self) -> list[SinkResult]:
        found = [slot.result for slot in self._slots if slot.result is not None]
        assert len(found) == len(self._slots), "a write was left without an answer"
        return found


async def _do(
    connection: Connection,
    batch: "_Batch[A]",
    names: Names,
    asked: Sequence[A],
    targets: Mapping[str, Target],
    *,
    careful: bool,
) -> Mapping[str, Target]:
    """Carry out one part; what its targets hold then."""
    part = batch.planner(names, asked, targets, clock.wall_ms())
    try:
        results = await _say(connection, part, savepoint=careful)
    except _RefusedError as refused:
        if not careful:
            raise
        await connection.execute("ROLLBACK TO SAVEPOINT part")
        if len(asked) == 1:
            batch.answer(asked, [_refused(asked[0], str(refused))])
            return targets
        middle = len(asked) // 2
        for half in (asked[:middle], asked[middle:]):
            targets = await _do(connection, batch, names, half, targets, careful=True)
        return targets
    batch.answer(asked, results)
    return part.targets


async def _say(connection: Connection, part: Part[Any], *, savepoint: bool) -> Sequence[SinkResult]:
    """Say a part's statements in one round trip; _RefusedError when one of them is refused, or left a row out."""
    said: list[tuple[Statement, psycopg.AsyncCursor[TupleRow]]] = []
    held: psycopg.AsyncCursor[TupleRow] | None = None
    try:
        async with connection.pipeline():
            if savepoint:
                await connection.execute("SAVEPOINT part")
            said = [(each, await connection.execute(each.text, each.values)) for each in part.statements]
            if part.held is not None:
                held = await connection.execute(part.held.text, part.held.values)
    except psycopg.Error as error:
        if not _refuses(error):
            raise
        raise _RefusedError(_reason(error)) from None
    if any(each.rows not in {None, cursor.rowcount} for each, cursor in said):
        raise _RefusedError("a trigger left the row as it was, or its history is gone")
    if savepoint:
        await connection.execute("RELEASE SAVEPOINT part")
    return part.results if held is None else filled(part.results, part.asked, dict(await held.fetchall()))


async def _lacking(connection: Connection, names: Names) -> list[str]:
    lacking: list[str] = []
    for question, table, columns in names.shapes:
        cursor = await connection.execute(question, (table,))
        shape = await cursor.fetchone()
        if shape is not None and not shape[0]:
            lacking.append(f"being a table ({table})")
        elif shape is not None:
            lacking += [f"{table}.{column}" for column in columns if column not in shape[1]]
    return lacking


def _beyond(asked: SinkWrite | SinkChange) -> SinkResult | None:
    """The answer to what need not be asked."""
    fault = table_fault(PostgresSink.name, asked.table)
    if fault:
        return _refused(asked, f"table name {asked.table!r} {fault}")
    wrong = unholdable(asked)
    return None if wrong is None else _refused(asked, wrong)


def _refused(asked: SinkWrite | SinkChange, error: str) -> SinkResult:
    return SinkResult(commit_id=asked.commit_id, outcome=SinkOutcome.REFUSED, error=error)


def _refuses(error: psycopg.Error) -> bool:
    code = error.sqlstate or ""
    if code.startswith(_ROLLED_BACK):
        return False
    at_a_row = error.diag.source_function in {_RAISING, _CHECKING}
    return at_a_row or code.startswith(_REFUSING) or isinstance(error, errors.DataError)


def _reason(error: psycopg.Error) -> str:
    """What a refusal may tell: a trigger's own words, or the name of what refused; other texts quote the value."""
    found, diag = f"{type(error).__name__} ({error.sqlstate})", error.diag
    if error.sqlstate == _RAISED or diag.source_function == _RAISING:
        return diag.message_primary or found
    names = [name for name in (diag.constraint_name, diag.column_name) if name]
    return f"{found}: {', '.join(names)}" if names else found


def _told(error: psycopg.Error) -> ProviderError:
    state = error.sqlstate or ""
    nothing = state.startswith(_ROLLED_BACK) or isinstance(error, PoolTimeout)
    kind = TransientError if nothing else OutcomeUnknownError
    hint = f"{f'sqlstate {state}; ' if state else ''}`batchmill doctor` tries the sink"
    return kind(f"postgres_{type(error).__name__}", hint=hint)


def _where(dsn: str) -> str:
    """Host and database of an address, for people; an address that is none is refused without being shown."""
    try:
        told = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        raise SettingsError(
            "sink.postgres_dsn is not an address of PostgreSQL; write postgresql://user:password@host/database"
        ) from None
    return f"{told.get('host') or 'the local socket'}:{told.get('port') or 5432}/{told.get('dbname') or ''}"
