"""A PostgreSQL server that is asked inside read-only transactions that are always rolled back (extra `postgres`).

What lives here: connections, the transaction, its end in time, and whose fault an error is. What must not: SQL of jobs,
which arrives as text with its parameters beside it. The statement runs behind a cursor, which takes one SELECT and
nothing else, and gives only as many rows as may be had. `DSN` in, never out.
"""

import asyncio
import logging
from typing import Any, Final

import psycopg
from psycopg import conninfo
from psycopg_pool import AsyncConnectionPool

from batchmill.agents.settings import SettingsError
from batchmill.agents.tools.values import as_rows
from batchmill.streams.ports import RefusedError, TransientError
from batchmill.streams.sqltext import as_percent
from batchmill.streams.tooling import Lookup

__all__ = ["PostgresDatabase"]

#: what the pool says by itself is said by us as well, without an address
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

_BOUNDS: Final = "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)"
#: classes of errors that say nothing about the question: connection, conflict, resources, shutdown, system
_AWAY: Final = ("08", "28", "40", "53", "57P", "58", "3D")
#: the server ends what takes too long; one that does not even do that is left after this
_GRACE_SECONDS: Final = 2.0
_CANCELLED: Final = "57014"
_LOCKED: Final = "55P03"


class PostgresDatabase:
    """One database; connections are made when they are needed."""

    def __init__(self, *, name: str, dsn: str, connections_max: int, connect_timeout_seconds: float) -> None:
        self._name, self._where = name, _where(name, dsn)
        self._grace_seconds = connect_timeout_seconds + _GRACE_SECONDS
        self._opening = asyncio.Lock()
        self._opened = False
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            dsn,
            min_size=0,
            max_size=connections_max,
            open=False,
            timeout=connect_timeout_seconds,
            reconnect_timeout=connect_timeout_seconds,
            check=AsyncConnectionPool.check_connection,
            configure=_read_only,
            reset=_let_go,
            kwargs={
                "connect_timeout": max(1, round(connect_timeout_seconds)),
                "prepare_threshold": None,
                "application_name": "batchmill tools",
            },
        )

    async def ask(self, question: Lookup) -> Any:
        """The rows, as a list of objects."""
        milliseconds = str(round(question.timeout_seconds * 1_000))
        try:
            await self._open()
            async with (
                asyncio.timeout(question.timeout_seconds + self._grace_seconds),
                self._pool.connection() as connection,
            ):
                try:
                    await connection.execute(_BOUNDS, (milliseconds, milliseconds))
                    return await _rows(connection, question)
                finally:
                    await connection.rollback()
        except (psycopg.DataError, ValueError) as error:
            raise _unread(error) from None
        except psycopg.Error as error:
            raise self._told(error) from None
        except TimeoutError:
            raise TransientError("database_timeout", hint=f"{self._name} at {self._where} says nothing") from None

    async def probe(self) -> str:
        """Ask the server whether it would take a write; says where it is."""
        sql = "SELECT current_setting('transaction_read_only') AS ro, current_setting('server_version') AS version"
        rows = await self.ask(Lookup(source=self._name, sql=sql, params=(), rows_max=1, timeout_seconds=5))
        assert rows[0]["ro"] == "on", "a transaction of a look-up could write"
        return f"PostgreSQL {rows[0]['version']} at {self._where}, read only"

    async def close(self) -> None:
        """Close the connections."""
        if self._opened:
            await self._pool.close()

    async def _open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._pool.open()
                self._opened = True

    def _told(self, error: psycopg.Error) -> RefusedError | TransientError:
        state = error.sqlstate or ""
        told = f"sqlstate {state}; " if state else ""
        if state == _CANCELLED:
            return RefusedError("timeout", hint="the look-up took longer than ask.tools.lookup.timeout")
        if not state or state == _LOCKED or state.startswith(_AWAY):
            hint = f"{told}{self._name} at {self._where} gives no answer; `batchmill doctor` tries it"
            return TransientError(f"database_{type(error).__name__}", hint=hint)
        hint = f"{told}the database does not take the SELECT with these parameters"
        return RefusedError(f"database_{type(error).__name__}", hint=hint)


def _unread(error: psycopg.DataError | ValueError) -> RefusedError:
    """What is there was not taken, by the server or by what reads its rows: BC, `infinity`, 24:00, endless digits."""
    state = error.sqlstate if isinstance(error, psycopg.DataError) else None
    told = f"sqlstate {state}; " if state else ""
    hint = f"{told}a value is out of range or has no form in JSON: cast the column to text, or limit it in the SELECT"
    return RefusedError(f"database_{type(error).__name__}", hint=hint)


async def _let_go(connection: psycopg.AsyncConnection[Any]) -> None:
    """A lock of the session outlives the rollback of whoever took it: the next look-up gets a connection without."""
    await connection.execute("SELECT pg_advisory_unlock_all()")
    await connection.rollback()


async def _read_only(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.set_read_only(True)


async def _rows(connection: psycopg.AsyncConnection[Any], question: Lookup) -> list[dict[str, Any]]:
    async with connection.cursor(name="batchmill_tools") as cursor:
        await cursor.execute(as_percent(question.sql), dict(question.params))
        found = await cursor.fetchmany(question.rows_max + 1)
        columns = [column.name for column in cursor.description or ()]
        return as_rows(columns, found, rows_max=question.rows_max)


def _where(name: str, dsn: str) -> str:
    """Host and database of an address, for people; an address that is none is refused without being shown."""
    try:
        told = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        raise SettingsError(
            f"databases.{name}.postgres_dsn is not an address of PostgreSQL; write postgresql://user:password@host/db"
        ) from None
    return f"{told.get('host') or 'the local socket'}:{told.get('port') or 5432}/{told.get('dbname') or ''}"
