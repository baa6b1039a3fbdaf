"""All databases and APIs of one process, by name: a turn at the source, a bounded number of tries, the cache.

What lives here: building them from settings, and the way of one question. What must not: SQL, HTTP, a record. Whoever
asks hears one of three things: the answer, RefusedError (not for this record), TransientError (the source is away).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from batchmill.agents import clock
from batchmill.agents.settings import ApiSettings, DatabaseSettings, Settings, env_name
from batchmill.agents.tools.api import WebApi
from batchmill.agents.tools.cache import AnswerCache
from batchmill.agents.tools.sqlite import SqliteDatabase
from batchmill.streams.ports import RefusedError, TransientError
from batchmill.streams.tooling import Question

__all__ = ["Asked", "SourceAwayError", "ToolSources"]

#: between two tries of one question, doubled each time; what a server asks for beyond the longest is no longer a try
_PAUSE_SECONDS: Final = 0.2
_PAUSE_SECONDS_MAX: Final = 5.0

_FAILURES_COUNTED_MAX: Final = 20

Outcome = Literal["ok", "cached", "refused", "away"]


class SourceAwayError(TransientError):
    """The source did not answer anybody a moment ago, and was not asked this time."""

    def __init__(self, source: str) -> None:
        super().__init__("source_away", hint=f"{source} did not answer a moment ago")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question that has come to an end, for telemetry: no parameters, no answer."""

    source: str
    tool: str
    outcome: Outcome
    tries: int
    seconds: float


class _Source(Protocol):
    async def ask(self, question: Any) -> Any: ...
    async def probe(self) -> str: ...
    async def close(self) -> None: ...


class _Missing:
    """Holds the place of a source that this process does not have; what needs it waits."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def ask(self, question: Question) -> Any:
        raise TransientError("source_not_set", hint=f"{question.source}: {self._why}")

    async def probe(self) -> str:
        raise TransientError("source_not_set", hint=self._why)

    async def close(self) -> None:
        """Nothing is open."""


class _Desk:
    """The queue in front of one source."""

    def __init__(
        self, source: _Source, *, concurrent_max: int, tries: int, wait_max_s: float, cache: AnswerCache
    ) -> None:
        self.source, self._tries, self._wait_max_s, self._cache = source, tries, wait_max_s, cache
        self._turns = asyncio.Semaphore(concurrent_max)
        self._asking: dict[str, asyncio.Future[RefusedError | None]] = {}
        self._answers = 0  #: refusals too: whoever refuses is there
        self._failures = 0
        self._away_until_s = 0.0

    async def ask(self, question: Question, seen: "_Seen") -> Any:
        """From the cache, or from the source; of several that ask the same at once one goes there for all of them.

        A refusal holds for them as well: what takes its whole time to be refused would else take it once for each.
        """
        while (before := self._asking.get(question.key)) is not None:
            await asyncio.wait([before])
            if (refused := before.result()) is not None:
                raise refused
        kept = self._cache.get(question.key)
        if kept is not None:
            seen.outcome = "cached"
            return kept[0]
        if clock.monotonic_s() < self._away_until_s:
            raise SourceAwayError(question.source)
        mine = self._asking[question.key] = asyncio.get_running_loop().create_future()
        told: RefusedError | None = None
        try:
            async with self._turns:
                answer = await self._patiently(question, seen)
        except RefusedError as error:
            told = error
            raise
        else:
            self._cache.put(question.key, answer)
            return answer
        finally:
            del self._asking[question.key]
            mine.set_result(told)

    async def _patiently(self, question: Question, seen: "_Seen") -> Any:
        before = self._answers
        while True:
            seen.tries += 1
            try:
                answer = await self.source.ask(question)
            except RefusedError:
                self._answered()
                raise
            except TransientError as error:
                pause_s = max(_PAUSE_SECONDS * 2 ** (seen.tries - 1), error.retry_after_seconds or 0)
                if seen.tries >= self._tries or pause_s > _PAUSE_SECONDS_MAX:
                    self._failed(pause_s, alone=self._answers == before)
                    raise
            else:
                self._answered()
                return answer
            await asyncio.sleep(pause_s)

    def _answered(self) -> None:
        self._answers += 1
        self._failures, self._away_until_s = 0, 0.0

    def _failed(self, pause_s: float, *, alone: bool) -> None:
        """Nobody is let through for a while, unless others were answered meanwhile: then it is this question."""
        if alone:
            wait_s = min(self._wait_max_s, max(pause_s, _PAUSE_SECONDS * 2**self._failures))
            self._failures = min(self._failures + 1, _FAILURES_COUNTED_MAX)
            self._away_until_s = clock.monotonic_s() + wait_s


class _Seen:
    """What is known of a running question."""

    outcome: Outcome = "ok"
    tries = 0


class ToolSources:
    """Every database and API of the settings. Nothing is connected before the first question."""

    def __init__(self, settings: Settings, *, on_asked: Callable[[Asked], None] = lambda _: None) -> None:
        self._on_asked, self._settings = on_asked, settings
        self._desks: dict[tuple[str, str], _Desk] = {}
        for name, database in settings.databases.items():
            self._desks["lookup", name] = self._desk(_database(name, database), database)
        for name, api in settings.apis.items():
            self._desks["fetch", name] = self._desk(_api(name, api, loopback_only=settings.loopback_only), api)

    async def ask(self, question: Question) -> Any:
        """The answer; RefusedError: there is none for this record; TransientError: the source is away."""
        seen, started_s = _Seen(), clock.monotonic_s()
        try:
            return await self._desk_of(question).ask(question, seen)
        except RefusedError:
            seen.outcome = "refused"
            raise
        except TransientError:
            seen.outcome = "away"
            raise
        finally:
            self._on_asked(
                Asked(
                    source=question.source,
                    tool=question.tool,
                    outcome=seen.outcome,
                    tries=seen.tries,
                    seconds=clock.monotonic_s() - started_s,
                )
            )

    def probes(self) -> Mapping[str, Callable[[], Awaitable[str]]]:
        """How each source is tried out, by what people call it."""
        words = {"lookup": "database", "fetch": "api"}
        return {f"{words[tool]} {name}": desk.source.probe for (tool, name), desk in self._desks.items()}

    async def close(self) -> None:
        """Close all connections."""
        for desk in self._desks.values():
            await desk.source.close()

    def _desk_of(self, question: Question) -> _Desk:
        place = (question.tool, question.source)
        if place not in self._desks:
            group = "databases" if question.tool == "lookup" else "apis"
            field = "sqlite_path" if question.tool == "lookup" else "base_url"
            missing = _Missing(f"set {env_name(f'{group}.{question.source}.{field}')}")
            none = AnswerCache(seconds=0, entries_max=1, bytes_max=1)
            wait_s = self._settings.tools.wait_max_seconds
            self._desks[place] = _Desk(missing, concurrent_max=1, tries=1, wait_max_s=wait_s, cache=none)
        return self._desks[place]

    def _desk(self, source: _Source, given: DatabaseSettings | ApiSettings) -> _Desk:
        said = self._settings.tools
        cache = AnswerCache(
            seconds=given.cache_seconds, entries_max=said.cache_entries_max, bytes_max=said.cache_bytes_max
        )
        return _Desk(
            source,
            concurrent_max=given.concurrent_max,
            tries=given.tries,
            wait_max_s=said.wait_max_seconds,
            cache=cache,
        )


def _database(name: str, given: DatabaseSettings) -> _Source:
    if given.sqlite_path is not None:
        return SqliteDatabase(name=name, path=given.sqlite_path)
    try:
        from batchmill.agents.tools.postgres import PostgresDatabase  # noqa: PLC0415 - the extra `postgres`
    except ImportError:
        return _Missing("its library is missing: pip install 'batchmill[postgres]'")
    dsn = given.address()
    assert dsn is not None, "checked when the settings were read"
    return PostgresDatabase(
        name=name,
        dsn=dsn,
        connections_max=given.concurrent_max,
        connect_timeout_seconds=given.connect_timeout_seconds,
    )


def _api(name: str, given: ApiSettings, *, loopback_only: bool) -> _Source:
    return WebApi(
        name=name,
        base_url=given.base_url,
        headers=given.sent_headers(),
        connections_max=given.concurrent_max,
        connect_timeout_seconds=given.connect_timeout_seconds,
        loopback_only=loopback_only,
    )
