"""Sources are only asked: nothing is written, nothing leaves its place, nothing takes longer or more than it may.

Databases are real ones, the API is a web server on loopback.
"""

import asyncio
import datetime as dt
import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest
from aiohttp import web

from batchmill.agents.clock import monotonic_s
from batchmill.agents.settings import SettingsError
from batchmill.agents.settings_pages import MASK, settings_reference, shown_settings
from batchmill.agents.tools import SourceAwayError, ToolSources, ask_all
from batchmill.agents.tools.api import WebApi
from batchmill.agents.tools.cache import AnswerCache
from batchmill.agents.tools.postgres import PostgresDatabase
from batchmill.agents.tools.sqlite import SqliteDatabase
from batchmill.agents.tools.values import as_rows
from batchmill.streams.ports import RefusedError, TransientError
from batchmill.streams.tooling import ANSWER_BYTES_MAX, Found
from tests.agents.tool_worlds import ITEMS, a_fetch, a_lookup, fill_postgres, fill_sqlite, serving, set_up

SECRET = "hunter2"


@pytest.fixture
def shelf():
    with serving() as found:
        yield found


@pytest.fixture
def file(tmp_path):
    return fill_sqlite(tmp_path / "it's a shop?.sqlite")


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request, tmp_path):
    """Either kind, filled alike; how much it holds can be asked beside it."""
    if request.param == "sqlite":
        path = fill_sqlite(tmp_path / "shop.sqlite")
        made = SqliteDatabase(name="shop", path=path)
    else:
        dsn = request.getfixturevalue("postgres").make_database()
        fill_postgres(dsn)
        made = PostgresDatabase(name="shop", dsn=dsn, connections_max=2, connect_timeout_seconds=5)
    yield made
    await made.close()


# -- databases ---------------------------------------------------------------------------------------------------------


async def test_rows_come_as_objects_and_parameters_go_beside_the_statement(database):
    assert await database.ask(a_lookup()) == [{"name": "lamp", "price": 2.5}]
    assert await database.ask(a_lookup(params=(("sku", "nothing"),))) == []
    hostile, name, price = ITEMS[2]
    assert await database.ask(a_lookup(params=(("sku", hostile),))) == [{"name": name, "price": price}]
    assert await database.ask(a_lookup(params=(("sku", "A1' OR '1'='1"),))) == []
    count = await database.ask(a_lookup("SELECT count(*) AS n FROM items", params=()))
    assert count == [{"n": len(ITEMS)}], "the table is still there"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO items VALUES ('X', 'x', 1)",
        "UPDATE items SET price = 0",
        "DELETE FROM items",
        "DROP TABLE items",
        "CREATE TABLE other (a TEXT)",
        "SELECT 1 AS one; DELETE FROM items",
        "WITH gone AS (DELETE FROM items RETURNING sku) SELECT sku FROM gone",
        "PRAGMA query_only = OFF",
        "ATTACH DATABASE 'other.sqlite' AS other",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "COPY items TO '/tmp/items'",
        "VACUUM",
        "SELECT nextval('numbers')",
    ],
)
async def test_a_statement_that_would_write_is_refused_by_the_connection_itself(database, sql):
    """None of these passes `job validate`; the connection is the second wall."""
    with pytest.raises(RefusedError):
        await database.ask(a_lookup(sql, params=()))
    assert await database.ask(a_lookup("SELECT count(*) AS n FROM items", params=())) == [{"n": len(ITEMS)}]
    with pytest.raises(RefusedError):
        await database.ask(a_lookup("UPDATE items SET price = 0", params=()))


async def test_more_rows_than_allowed_are_a_refusal_not_a_part_of_the_truth(database):
    sql = "SELECT name FROM items ORDER BY name"
    assert len(await database.ask(a_lookup(sql, params=(), rows_max=3))) == 3
    with pytest.raises(RefusedError, match="more than 2 rows"):
        await database.ask(a_lookup(sql, params=(), rows_max=2))


async def test_two_columns_of_one_name_are_a_refusal(database):
    with pytest.raises(RefusedError, match="one name"):
        await database.ask(a_lookup("SELECT name, name FROM items WHERE sku = :sku"))


async def test_what_goes_on_and_on_is_ended_in_time(database):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n WHERE i < 0"
    began_s = monotonic_s()
    with pytest.raises(RefusedError, match="timeout"):
        await database.ask(a_lookup(endless, params=(), timeout_seconds=0.3))
    assert monotonic_s() - began_s < 20
    assert await database.ask(a_lookup()), "the next question is answered"


async def test_what_is_wrong_is_told_by_its_code_and_never_by_its_text(database):
    with pytest.raises(RefusedError) as error:
        await database.ask(a_lookup("SELECT nothing FROM nowhere WHERE a = :sku", params=(("sku", SECRET),)))
    assert SECRET not in str(error.value)
    assert "database_" in str(error.value)


async def test_a_probe_says_where_it_is_and_that_it_only_reads(database):
    assert "read only" in await database.probe()


async def test_a_file_that_is_not_there_is_away_and_is_not_made(tmp_path):
    database = SqliteDatabase(name="shop", path=tmp_path / "none.sqlite")
    with pytest.raises(TransientError, match="CANTOPEN"):
        await database.ask(a_lookup())
    assert not (tmp_path / "none.sqlite").exists()


async def test_a_file_that_somebody_writes_to_is_read_all_the_same_or_waited_for(file):
    database = SqliteDatabase(name="shop", path=file)
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises((TransientError, RefusedError)):
            await database.ask(a_lookup(timeout_seconds=0.1))
        writer.execute("ROLLBACK")
    assert await database.ask(a_lookup())


async def test_a_server_that_dies_is_away_and_answers_again_when_it_is_back(own_postgres):
    dsn = own_postgres.make_database()
    fill_postgres(dsn)
    database = PostgresDatabase(name="shop", dsn=dsn, connections_max=1, connect_timeout_seconds=1)
    assert await database.ask(a_lookup())
    await asyncio.to_thread(own_postgres.kill)
    with pytest.raises(TransientError) as error:
        await database.ask(a_lookup())
    assert "postgresql://" not in str(error.value)
    await asyncio.to_thread(own_postgres.start)
    assert await database.ask(a_lookup())
    await database.close()


async def test_a_server_that_takes_the_connection_and_says_nothing_is_away():
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    dsn = f"postgresql://u@127.0.0.1:{port}/d"
    database = PostgresDatabase(name="shop", dsn=dsn, connections_max=1, connect_timeout_seconds=1)
    began_s = monotonic_s()
    with pytest.raises(TransientError):
        await database.ask(a_lookup(timeout_seconds=0.2))
    assert monotonic_s() - began_s < 20
    await database.close()
    silent.close()


async def test_values_of_postgres_come_as_json_or_not_at_all(postgres):
    dsn = postgres.make_database()
    database = PostgresDatabase(name="shop", dsn=dsn, connections_max=1, connect_timeout_seconds=5)
    sql = """SELECT 1.50::numeric AS price, 10::numeric AS whole, '{"a": [1]}'::jsonb AS doc, ARRAY['x'] AS list,
      '2026-01-02'::date AS day, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS id, NULL AS nothing, true AS yes"""
    assert await database.ask(a_lookup(sql, params=())) == [
        {
            "price": 1.5,
            "whole": 10,
            "doc": {"a": [1]},
            "list": ["x"],
            "day": "2026-01-02",
            "id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "nothing": None,
            "yes": True,
        }
    ]
    for strange in ("'\\x00'::bytea", "'NaN'::float8", "interval '1 day'"):
        with pytest.raises(RefusedError, match="column odd"):
            await database.ask(a_lookup(f"SELECT {strange} AS odd", params=()))
    await database.close()


async def test_a_lock_that_a_look_up_took_is_gone_before_the_next_one(postgres):
    dsn = postgres.make_database()
    source = PostgresDatabase(name="shop", dsn=dsn, connections_max=1, connect_timeout_seconds=5)
    count = "SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory'"
    try:
        await source.ask(a_lookup("SELECT pg_advisory_lock(7) IS NULL AS taken", params=()))
        assert await source.ask(a_lookup(count, params=())) == [{"locks": 0}]
    finally:
        await source.close()


@pytest.mark.parametrize(
    "strange",
    [
        "'infinity'::date",
        "'infinity'::timestamptz",
        "'0044-03-15 BC'::date",
        "'24:00:00'::time",
        "('{\"n\": ' || repeat('9', 5000) || '}')::json",
        """'{"a": "\\ud800"}'::json""",
        """'{"\\udc00": 1}'::json""",
        "1 / (SELECT 0)",
    ],
)
async def test_a_value_that_cannot_be_read_is_that_records_matter_and_the_server_is_not_away(postgres, strange):
    dsn = postgres.make_database()
    database = PostgresDatabase(name="shop", dsn=dsn, connections_max=1, connect_timeout_seconds=5)
    try:
        with pytest.raises(RefusedError) as refused:
            await database.ask(a_lookup(f"SELECT {strange} AS odd", params=()))
        assert "99" not in str(refused.value)
        assert await database.ask(a_lookup("SELECT 1 AS n", params=())) == [{"n": 1}]
    finally:
        await database.close()


async def test_a_refusal_holds_for_all_that_asked_the_same_at_once_and_for_nobody_later(shelf):
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(status=404)

    shelf.answer = answer
    sources = ToolSources(set_up(apis__stock__base_url=shelf.url))
    question = a_fetch()
    try:
        told = await asyncio.gather(*(sources.ask(question) for _ in range(20)), return_exceptions=True)
        assert {str(each) for each in told} == {str(told[0])}
        assert all(isinstance(each, RefusedError) for each in told)
        assert shelf.asked == {"/items/A1": 1}
        with pytest.raises(RefusedError):
            await sources.ask(question)
        assert shelf.asked == {"/items/A1": 2}
    finally:
        await sources.close()


async def test_an_api_does_not_recognize_one_record_by_what_it_set_for_another(shelf):
    async def answer(request: web.Request) -> web.Response:
        told = web.json_response({"seen": request.cookies.get("seen")})
        told.set_cookie("seen", "A1")
        return told

    shelf.answer = answer
    sources = ToolSources(set_up(apis__stock__base_url=shelf.url))
    questions = [a_fetch(), a_fetch("/items/A2")]
    try:
        found = [(await ask_all(sources, [question], Found())).found.answers for question in questions]
    finally:
        await sources.close()
    assert found == [{question.key: {"seen": None}} for question in questions]


@pytest.mark.parametrize("digits", ["99999999999999999999", "12345678901234567890", "-9223372036854775809"])
async def test_a_number_of_more_than_64_bits_is_taken_as_its_digits_at_first_and_from_the_cache(shelf, digits):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=f'{{"n": {digits}}}', content_type="application/json")

    shelf.answer = answer
    sources = ToolSources(set_up(apis__stock__base_url=shelf.url))
    question = a_fetch()
    try:
        found = [(await ask_all(sources, [question], Found())).found for _ in range(2)]
    finally:
        await sources.close()
    assert [Found.from_json(each.to_json()).answers for each in found] == [{question.key: {"n": digits}}] * 2
    assert shelf.asked == {"/items/A1": 1}


def test_a_number_keeps_its_digits():
    (row,) = as_rows(["a", "b", "c"], [(Decimal("0.1"), Decimal("1e3"), Decimal("0.12345678901234567890"))], rows_max=1)
    assert row == {"a": 0.1, "b": 1000, "c": "0.12345678901234567890"}
    (day,) = as_rows(["at"], [(dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),)], rows_max=1)
    assert day == {"at": "2026-01-02T03:04:00+00:00"}


def test_an_address_of_postgres_that_is_none_is_refused_without_being_shown():
    with pytest.raises(SettingsError) as error:
        PostgresDatabase(name="shop", dsn=f"{SECRET} {SECRET}", connections_max=1, connect_timeout_seconds=1)
    assert SECRET not in str(error.value)


# -- an API ------------------------------------------------------------------------------------------------------------


def an_api(url, **changes):
    given = {"headers": {"x-key": SECRET}, "connections_max": 4, "connect_timeout_seconds": 2, "loopback_only": True}
    return WebApi(name="stock", base_url=url, **(given | changes))


@pytest.fixture
async def api(shelf):
    made = an_api(f"{shelf.url}/v1")
    yield made
    await made.close()


async def test_an_answer_is_the_json_that_is_there(api, shelf):
    assert await api.ask(a_fetch("/items/A1")) == {"sku": "A1", "left": 2}
    assert shelf.asked == {"/v1/items/A1": 1}
    assert shelf.headers[0]["x-key"] == SECRET
    assert await api.ask(a_fetch("/items/a%2Fb%3Fc")) == {"sku": "b?c", "left": 3}
    assert shelf.asked["/v1/items/a%2Fb%3Fc"] == 1, "it is sent as it was encoded"


@pytest.mark.parametrize("status", [400, 404, 405, 406, 409, 410, 418, 422])
async def test_a_no_to_one_path_is_a_refusal_of_that_record(api, shelf, status):
    shelf.answer = lambda _: answer(web.Response(status=status, text=SECRET))
    with pytest.raises(RefusedError, match=f"HTTP {status}") as error:
        await api.ask(a_fetch())
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("status", [401, 403, 408, 425, 429, 500, 502, 503, 504])
async def test_a_no_that_would_meet_every_record_means_that_it_is_away(api, shelf, status):
    shelf.answer = lambda _: answer(web.Response(status=status, headers={"retry-after": "7"}))
    with pytest.raises(TransientError, match=f"HTTP {status}") as error:
        await api.ask(a_fetch())
    assert error.value.retry_after_seconds == 7


async def test_a_redirect_is_not_followed(api, shelf):
    with serving() as other:
        shelf.answer = lambda _: answer(web.Response(status=302, headers={"location": f"{other.url}/items/A1"}))
        with pytest.raises(TransientError, match="redirects"):
            await api.ask(a_fetch())
        assert not other.asked


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"a":1,"a":2}', b"\xff", b"[" * 1_000, b"NaN", b'"' + b"x" * 8 * ANSWER_BYTES_MAX]
)
async def test_what_is_no_json_or_too_large_is_a_refusal(api, shelf, body):
    shelf.answer = lambda _: answer(web.Response(body=body, content_type="application/json"))
    with pytest.raises(RefusedError):
        await api.ask(a_fetch())


async def test_an_answer_that_takes_too_long_means_that_it_is_away(api, shelf):
    async def slowly(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    shelf.answer = slowly
    began_s = monotonic_s()
    with pytest.raises(TransientError, match="timeout"):
        await api.ask(a_fetch(timeout_seconds=0.3))
    assert monotonic_s() - began_s < 4


async def test_nobody_there_means_that_it_is_away(shelf):
    api = an_api("http://127.0.0.1:9")
    with pytest.raises(TransientError):
        await api.ask(a_fetch())
    with pytest.raises(TransientError):
        await api.probe()
    await api.close()


def test_what_is_not_on_this_machine_is_refused_where_nothing_may_leave_it():
    with pytest.raises(SettingsError, match="loopback_only"):
        an_api("https://api.example.org")


async def answer(response):
    return response


# -- all of them, by name ----------------------------------------------------------------------------------------------


def sources_of(shelf, file, **changes):
    seen = []
    settings = set_up(
        databases__shop__sqlite_path=file, apis__stock__base_url=shelf.url, tools__wait_max_seconds=0.5, **changes
    )
    return ToolSources(settings, on_asked=seen.append), seen


async def test_the_same_question_is_asked_once_for_a_while(shelf, file):
    sources, seen = sources_of(shelf, file)
    answers = await asyncio.gather(*(sources.ask(a_fetch()) for _ in range(20)))
    answers[0]["left"] = "changed by whoever got it"
    assert answers[1:] == [{"sku": "A1", "left": 2}] * 19
    assert shelf.asked.total() == 1
    assert sorted(each.outcome for each in seen) == ["cached"] * 19 + ["ok"]
    await sources.close()


async def test_a_refusal_is_asked_again_and_is_told_as_one(shelf, file):
    sources, seen = sources_of(shelf, file)
    shelf.answer = lambda _: answer(web.Response(status=404))
    for _ in range(2):
        with pytest.raises(RefusedError):
            await sources.ask(a_fetch())
    assert shelf.asked.total() == 2
    assert [each.outcome for each in seen] == ["refused", "refused"]
    await sources.close()


async def test_a_stumble_is_tried_again_and_a_fall_is_waited_out(shelf, file):
    sources, seen = sources_of(shelf, file)
    times = iter([503, 503])

    async def stumbling(_):
        status = next(times, 200)
        return web.json_response({"ok": 1}) if status == 200 else web.Response(status=status)

    shelf.answer = stumbling
    assert await sources.ask(a_fetch()) == {"ok": 1}
    assert (shelf.asked.total(), seen[-1].tries) == (3, 3)
    shelf.away = True
    with pytest.raises(TransientError):
        await sources.ask(a_fetch("/items/B"))
    asked = shelf.asked.total()
    with pytest.raises(SourceAwayError):
        await sources.ask(a_fetch("/items/C"))
    assert shelf.asked.total() == asked, "a source that is away is left alone"
    shelf.away = False
    await asyncio.sleep(0.55)
    assert await sources.ask(a_fetch("/items/C")) == {"ok": 1}
    await sources.close()


async def test_no_more_questions_run_at_once_than_are_set(shelf, file):
    sources, _ = sources_of(shelf, file, apis__stock__concurrent_max=2)
    running = most = 0

    async def counting(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return web.json_response({})

    shelf.answer = counting
    await asyncio.gather(*(sources.ask(a_fetch(f"/items/{n}")) for n in range(20)))
    assert most == 2
    await sources.close()


async def test_several_questions_of_one_record_end_each_in_its_own_way(shelf, file):
    sources, _ = sources_of(shelf, file)
    shelf.away = True
    lookup, fetch = a_lookup(), a_fetch()
    findings = await ask_all(sources, (lookup, fetch), Found())
    assert findings.found.answers == {lookup.key: [{"name": "lamp", "price": 2.5}]}
    assert list(findings.away) == [fetch.key]
    wrong = a_lookup("SELECT nothing FROM nowhere", params=())
    assert wrong.key in (await ask_all(sources, (wrong,), Found())).found.failed
    await sources.close()


async def test_what_nobody_has_set_waits_and_says_what_to_set(shelf, file):
    sources, _ = sources_of(shelf, file)
    assert set(sources.probes()) == {"database shop", "api stock"}
    for probe in sources.probes().values():
        assert await probe()
    with pytest.raises(TransientError, match="BATCHMILL_DATABASES__OTHER__SQLITE_PATH"):
        await sources.ask(a_lookup(source="other"))
    await sources.close()


def test_the_cache_is_bounded_by_count_bytes_and_age(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr("batchmill.agents.tools.cache.clock.monotonic_s", lambda: now_s)
    cache = AnswerCache(seconds=10, entries_max=2, bytes_max=100)
    for key in ("a", "b", "c"):
        cache.put(key, key)
    assert (cache.get("a"), cache.get("c")) == (None, ("c",))
    cache.put("d", "x" * 90)
    assert cache.size_bytes <= 100
    assert cache.get("b") is None
    cache.put("null", None)
    assert cache.get("null") == (None,)
    now_s = 11.0
    assert (cache.get("null"), cache.get("d")) == (None, None)
    assert cache.size_bytes == 0


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"databases.a.concurrent_max": 1}, "either a file"),
        ({"databases.a.sqlite_path": "x", "databases.a.postgres_dsn": SECRET}, "either a file"),
        ({"apis.a.base_url": "ftp://x"}, "http"),
        ({"apis.a.base_url": f"http://u:{SECRET}@x"}, "without password"),
        ({"apis.a.base_url": "http://x?key=1"}, "without password"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_no_secret_is_told(flags, told):
    with pytest.raises(SettingsError, match=told) as error:
        set_up(**flags)
    assert SECRET not in str(error.value)


def test_the_reference_has_a_table_of_each_kind_of_source():
    page = settings_reference()
    for name in ("databases.shop.sqlite_path", "apis.stock.headers", "apis.stock.cache_seconds", "tools.turn_rows"):
        assert f"`{name}`" in page


def test_secrets_come_from_variables_and_files_and_are_not_shown(monkeypatch, tmp_path):
    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setenv("BATCHMILL_APIS__STOCK__BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BATCHMILL_APIS__STOCK__TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("BATCHMILL_APIS__STOCK__HEADERS", f'{{"X-Key": "{SECRET}"}}')
    monkeypatch.setenv("BATCHMILL_DATABASES__SHOP__POSTGRES_DSN", f"postgresql://u:{SECRET}@h/d")
    settings = set_up()
    assert settings.apis["stock"].sent_headers() == {"X-Key": SECRET, "authorization": f"Bearer {SECRET}"}
    assert SECRET in (settings.databases["shop"].address() or "")
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump(mode="json"))
    shown = {each.name: each.value for each in shown_settings(settings)}
    assert SECRET not in str(shown)
    assert {shown["apis.stock.headers.X-Key"], shown["databases.shop.postgres_dsn"]} == {MASK}
