"""What only a server can show: who is refused and how, other people's locks, restarts, and lost answers."""

import asyncio
import contextlib
import random
import socket
import threading

import psycopg
import pytest

from batchmill.agents.settings import SettingsError
from batchmill.agents.sinks.postgres import PostgresSink
from batchmill.streams.ports import ChangeKind, OutcomeUnknownError, ProviderError, SinkChange, SinkOutcome
from tests.agents.sink_worlds import TABLE, World, a_write

APPLIED, ALREADY, STALE, REFUSED = SinkOutcome.APPLIED, SinkOutcome.ALREADY, SinkOutcome.STALE, SinkOutcome.REFUSED


@pytest.fixture
def world(postgres):
    return World("postgres", postgres.make_database())


@pytest.fixture
async def sink(world):
    made = a_sink(world.address)
    yield made
    await made.close()


def a_sink(dsn, **changes):
    given = {
        "connections_max": 4,
        "connect_timeout_seconds": 3,
        "lock_timeout_ms": 2_000,
        "statement_timeout_ms": 5_000,
    }
    return PostgresSink(dsn=dsn, **(given | changes))


async def outcomes(sink, *writes):
    return [result.outcome for result in await sink.apply(writes)]


async def until_applied(sink, writes, *, tries=60):
    """As the committer does: an exception means that it is asked again."""
    for _ in range(tries):
        try:
            return await sink.apply(writes)
        except ProviderError:
            await asyncio.sleep(0.1)
    pytest.fail("the sink never took them")


REFUSING = {
    "check": f"ALTER TABLE {TABLE} ADD CHECK (output_json NOT LIKE '%secret%')",
    "unique": f"CREATE UNIQUE INDEX ON {TABLE} ((CASE WHEN output_json LIKE '%secret%' THEN job END))",
    "deferred": f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.output_json LIKE '%secret%' THEN RAISE 'not allowed here'; END IF; RETURN NEW; END $$;
        CREATE CONSTRAINT TRIGGER no AFTER INSERT OR UPDATE ON {TABLE} DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION no()""",
    "raising": f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.output_json LIKE '%secret%' THEN RAISE 'not allowed here'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION no()""",
    "asserting": f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN ASSERT NEW.output_json NOT LIKE '%secret%'; RETURN NEW; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION no()""",
    "raising a code of its own": f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.output_json LIKE '%secret%' THEN RAISE 'not allowed' USING ERRCODE = 'XY001'; END IF;
        RETURN NEW; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION no()""",
    "without a case": f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN CASE WHEN NEW.output_json NOT LIKE '%secret%' THEN RETURN NEW; END CASE; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION no()""",
    "meeting several rows": f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.output_json LIKE '%secret%' THEN NEW.job := (SELECT g FROM generate_series(1, 2) g); END IF;
        RETURN NEW; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION no()""",
    "swallowing": f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.output_json LIKE '%secret%' THEN RETURN NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION no()""",
    "casting": f"ALTER TABLE {TABLE} ADD COLUMN n int GENERATED ALWAYS AS ((output_json::jsonb ->> 'n')::int) STORED",
}


@pytest.mark.parametrize("how", REFUSING)
async def test_what_a_constraint_refuses_is_refused_alone_and_not_shown(sink, world, how):
    await sink.apply([a_write("seed")])
    if how == "unique":
        await sink.apply([a_write("first", output='{"n":"secret"}')])
    world.execute(REFUSING[how])
    writes = [a_write(f"k{n}", output='{"n":"secret"}' if n in {3, 17} else '{"n":"1"}') for n in range(25)]
    results = await sink.apply(writes)
    refused = {result.commit_id for result in results if result.outcome is REFUSED}
    assert refused == {"c-k3-1-1", "c-k17-1-1"}
    assert {result.outcome for result in results if result.commit_id not in refused} == {APPLIED}
    assert set(world.rows()) - {"seed", "first"} == {f"k{n}" for n in range(25)} - {"k3", "k17"}
    assert {row["target_key"] for row in world.history()} == set(world.rows())
    for result in results:
        assert "secret" not in (result.error or "")


async def test_a_row_policy_refuses_its_row_alone_and_a_trigger_that_asks_for_another_try_gets_it(sink, world):
    await sink.apply([a_write("seed")])
    world.execute(
        f"""CREATE ROLE mill LOGIN; ALTER TABLE {TABLE} OWNER TO mill; ALTER TABLE {TABLE}__history OWNER TO mill;
        GRANT CREATE, USAGE ON SCHEMA public TO mill;
        ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY; ALTER TABLE {TABLE} FORCE ROW LEVEL SECURITY;
        CREATE POLICY mine ON {TABLE} USING (true) WITH CHECK (output_json NOT LIKE '%secret%')"""
    )
    limited = a_sink(psycopg.conninfo.make_conninfo(world.address, user="mill"))
    try:
        assert await outcomes(limited, a_write("a", output='"secret"'), a_write("b")) == [REFUSED, APPLIED]
    finally:
        await limited.close()
        world.execute("REASSIGN OWNED BY mill TO CURRENT_USER; DROP OWNED BY mill; DROP ROLE mill")
    world.execute(
        f"""CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'busy' USING ERRCODE = 'serialization_failure'; END $$;
        CREATE TRIGGER later BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION later()"""
    )
    with pytest.raises(ProviderError):
        await sink.apply([a_write("c")])


async def test_what_follows_a_refused_write_of_the_same_target_is_decided_anew(sink, world):
    await sink.apply([a_write("a", seq=1)])
    world.execute(REFUSING["check"])
    writes = [a_write("b"), a_write("a", seq=2, output='"secret"'), a_write("a", seq=3)]
    results = await sink.apply(writes)
    assert [result.outcome for result in results] == [APPLIED, REFUSED, APPLIED]
    assert results[2].previous_commit_id == "c-a-1-1"


async def test_a_trigger_that_forbids_deletes_refuses_that_revert_alone(sink, world):
    await sink.apply([a_write("a"), a_write("b"), a_write("b", seq=2)])
    world.execute(
        f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept for ever'; END $$;
        CREATE TRIGGER no BEFORE DELETE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION no()"""
    )
    changes = [
        SinkChange(kind=ChangeKind.REVERT, commit_id=commit, table=TABLE, target_key=key, order=1)
        for key, commit in (("a", "c-a-1-1"), ("b", "c-b-2-1"))
    ]
    refused, applied = await sink.change(changes)
    assert (refused.outcome, refused.error, applied.outcome) == (REFUSED, "kept for ever", APPLIED)


@pytest.mark.parametrize(
    ("key", "seq", "word"), [("a\0b", 1, "NUL"), ("a\ud800", 1, "surrogate"), ("a", 2**63, "64 bits")]
)
async def test_what_postgres_cannot_hold_is_refused_without_asking(sink, key, seq, word):
    results = await sink.apply([a_write(key, seq, commit="c1"), a_write("b")])
    assert [result.outcome for result in results] == [REFUSED, APPLIED]
    assert word in results[0].error


async def test_a_key_too_long_for_an_index_is_refused_alone(sink):
    key = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=6_000))
    assert await outcomes(sink, a_write(key, commit="c1"), a_write("b")) == [REFUSED, APPLIED]


async def test_a_column_for_queries_can_be_added(sink, world):
    await sink.apply([a_write("a")])
    world.execute(f"ALTER TABLE {TABLE} ADD COLUMN output jsonb GENERATED ALWAYS AS (output_json::jsonb) STORED")
    await sink.apply([a_write("b", output='{"label": "b"}')])
    assert {key: row["output"]["label"] for key, row in world.rows().items()} == {"a": "a", "b": "b"}


async def test_a_table_may_lie_in_a_schema_and_one_that_is_not_there_holds_the_writes(sink, world):
    world.execute("CREATE SCHEMA mill")
    assert await outcomes(sink, a_write(table="mill.triage")) == [APPLIED]
    assert world.query("SELECT count(*) AS n FROM mill.triage__history") == [{"n": 1}]
    with pytest.raises(ProviderError, match="InvalidSchemaName"):
        await sink.apply([a_write(table="nowhere.triage")])


async def test_a_dropped_table_is_made_again(sink, world):
    await sink.apply([a_write()])
    world.execute(f"DROP TABLE {TABLE}, {TABLE}__history")
    assert [r.outcome for r in await until_applied(sink, [a_write()])] == [APPLIED]


async def test_somebody_elses_lock_is_waited_for_only_so_long(world):
    sink = a_sink(world.address, lock_timeout_ms=200)
    await sink.apply([a_write("a")])
    async with await psycopg.AsyncConnection.connect(world.address) as other:
        await other.execute(f"SELECT * FROM {TABLE} FOR UPDATE")
        with pytest.raises(ProviderError, match="LockNotAvailable"):
            await sink.apply([a_write("a", seq=2)])
    assert await outcomes(sink, a_write("a", seq=2)) == [APPLIED]
    await sink.close()


async def test_a_deadlock_with_somebody_else_is_asked_again_and_nothing_is_lost(world):
    sink = a_sink(world.address, lock_timeout_ms=5_000)
    await sink.apply([a_write("a"), a_write("b")])
    async with await psycopg.AsyncConnection.connect(world.address) as other:
        # We lock a, then b; they hold b and want a.
        world.execute(
            f"""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
            CREATE TRIGGER slow AFTER UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION slow()"""
        )
        await other.execute(f"SELECT * FROM {TABLE} WHERE target_key = 'b' FOR UPDATE")
        ours = asyncio.create_task(until_applied(sink, [a_write("a", seq=2), a_write("b", seq=2)]))
        await asyncio.sleep(0.15)
        with contextlib.suppress(psycopg.errors.DeadlockDetected):
            await other.execute(f"SELECT * FROM {TABLE} WHERE target_key = 'a' FOR UPDATE")
        await other.rollback()
        assert {result.outcome for result in await ours} <= {APPLIED, ALREADY}
    assert {key: row["seq"] for key, row in world.rows().items()} == {"a": 2, "b": 2}
    assert len(world.history()) == 4
    await sink.close()


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_server_that_goes_away_and_comes_back_holds_each_row_once(own_postgres, how):
    world = World("postgres", own_postgres.make_database())
    sink = a_sink(world.address)
    writes = [[a_write(f"k{n}", seq=seq) for n in range(50)] for seq in range(1, 16)]

    def trouble():
        if how == "restart":
            own_postgres.restart()
        else:
            own_postgres.kill()
            own_postgres.start()

    async def write_all():
        for batch in writes:
            results = await until_applied(sink, batch)
            assert {result.outcome for result in results} <= {APPLIED, ALREADY}

    await asyncio.gather(write_all(), asyncio.to_thread(trouble))
    assert len(world.history()) == 15 * 50
    assert {row["seq"] for row in world.rows().values()} == {15}
    await sink.close()


async def test_five_hundred_writes_are_a_few_round_trips(world):
    with a_wire(world.address) as wire:
        sink = a_sink(wire.dsn)
        await sink.apply([a_write("warm")])
        before = wire.turns
        results = await sink.apply([a_write(f"k{n}") for n in range(500)])
        assert {result.outcome for result in results} == {APPLIED}
        assert wire.turns - before <= 8
        await sink.close()


async def test_a_commit_whose_answer_is_lost_is_already_there_when_asked_again(world):
    with a_wire(world.address) as wire:
        sink = a_sink(wire.dsn)
        await sink.apply([a_write("warm")])
        wire.cut_at = b"COMMIT"
        with pytest.raises(OutcomeUnknownError):
            await sink.apply([a_write("a"), a_write("b")])
        wire.cut_at = None
        results = await until_applied(sink, [a_write("a"), a_write("b")])
        assert {result.outcome for result in results} == {ALREADY}
        await sink.close()
    assert len(world.history()) == 3


async def test_a_server_that_is_not_there_is_told_without_its_password():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sink = a_sink(f"postgresql://mill:hunter2@127.0.0.1:{closed.getsockname()[1]}/x", connect_timeout_seconds=1)
        with pytest.raises(ProviderError) as caught:
            await sink.apply([a_write()])
        assert "hunter2" not in str(caught.value)
        await sink.close()


@pytest.mark.parametrize("dsn", ["hunter2", "postgresql://u:hunter2@h/x?nonsense=1", "password=hunter2 nonsense=1"])
def test_an_address_that_is_none_is_refused_without_being_shown(dsn):
    with pytest.raises(SettingsError) as caught:
        a_sink(dsn)
    assert "hunter2" not in str(caught.value)


# -- a wire between the sink and the server ----------------------------------------------------------------------------


class Wire:
    """A relay on loopback. `turns`: how often the client spoke after the server had; `cut_at`: hang up behind it."""

    def __init__(self, port, database):
        self.turns, self.cut_at = 0, None
        self._port, self._database = port, database
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def dsn(self):
        return f"postgresql://postgres@127.0.0.1:{self._listener.getsockname()[1]}/{self._database}"

    def close(self):
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                said = {"last": "server"}
                threading.Thread(target=self._up, args=(client, server, said), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server, said), daemon=True).start()

    def _up(self, client, server, said):
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                self.turns += said["last"] == "server"
                said["last"] = "client"
                cut = self.cut_at is not None and self.cut_at in data
                said["cut"] = cut or said.get("cut", False)
                server.sendall(data)

    def _down(self, client, server, said):
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if said.get("cut"):
                    client.shutdown(socket.SHUT_RDWR)
                    return
                said["last"] = "server"
                client.sendall(data)


@contextlib.contextmanager
def a_wire(dsn):
    told = psycopg.conninfo.conninfo_to_dict(dsn)
    wire = Wire(int(told["port"]), told["dbname"])
    try:
        yield wire
    finally:
        wire.close()
