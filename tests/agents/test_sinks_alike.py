"""The promises of sinks, held to every one of them that makes it: one suite, five sinks."""

import asyncio
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from batchmill.agents.sinks.rows import COLUMNS
from batchmill.streams.ports import Beneath, ChangeKind, SinkChange, SinkOutcome
from batchmill.streams.sinks import SINKS
from tests.agents.sink_worlds import KINDS, TABLE, World, a_write, receiving

APPLIED, ALREADY, STALE, REFUSED = SinkOutcome.APPLIED, SinkOutcome.ALREADY, SinkOutcome.STALE, SinkOutcome.REFUSED
CONFLICT = SinkOutcome.CONFLICT
COMPARING = [kind for kind in KINDS if SINKS[kind].compares]
REVERTIBLE = [kind for kind in KINDS if SINKS[kind].revertible]
HOSTILE = ["", " ", "'; DROP TABLE triage; --", '"quoted"', "../../etc/passwd", "a\nb\r\nc", "%s %(x)s ?", "\\"]
HOSTILE += ["é😀\u2028", "k" * 500]


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


@pytest.fixture
def world(request, tmp_path):
    kind = request.param
    match kind:
        case "postgres":
            yield World(kind, request.getfixturevalue("postgres").make_database())
        case "webhook":
            found = request.getfixturevalue("receiver")
            yield World(kind, found.url, found)
        case _:
            yield World(kind, str(tmp_path))


@pytest.fixture
async def sink(world):
    made = world.sink()
    yield made
    await made.close()


def every(kinds):
    return pytest.mark.parametrize("world", kinds, indirect=True)


async def outcomes(sink, *writes):
    return [result.outcome for result in await sink.apply(writes)]


def a_change(kind, commit, key="t1", order=1):
    return SinkChange(kind=kind, commit_id=commit, table=TABLE, target_key=key, order=order)


def revert(commit, key="t1", order=1):
    return a_change(ChangeKind.REVERT, commit, key, order)


def replay(commit, key="t1", order=2):
    return a_change(ChangeKind.REPLAY, commit, key, order)


# -- what all of them promise ------------------------------------------------------------------------------------------


@every(KINDS)
async def test_what_it_says_it_can_do_is_what_the_table_says(sink, world):
    assert sink.name == world.kind
    assert sink.capabilities == SINKS[world.kind]
    assert hasattr(sink, "change") is sink.capabilities.revertible


@every(KINDS)
async def test_a_first_write_is_applied_and_replaces_nothing(sink, world):
    (result,) = await sink.apply([a_write()])
    assert (result.outcome, result.commit_id) == (APPLIED, "c-t1-1-1")
    assert (result.previous_commit_id, result.changed) == (None, False)
    (row,) = world.rows().values()
    assert (row["target_key"], row["seq"], row["promotion"], row["commit_id"]) == ("t1", 1, 1, "c-t1-1-1")
    assert (row["job"], row["version"], row["run_id"], row["request_id"]) == ("triage", "v1", "run-1", "r-t1-1")
    assert _output(row) == {"label": "a"}


@every(KINDS)
async def test_no_writes_do_nothing(sink):
    assert list(await sink.apply([])) == []


@every(KINDS)
async def test_the_same_writes_again_in_other_groupings_leave_each_row_once(sink, world):
    writes = [a_write(f"k{n}") for n in range(20)]
    await sink.apply(writes)
    before = world.history()
    for cut in (1, 3, 7):
        for part in itertools.batched(writes, cut) if hasattr(itertools, "batched") else _batched(writes, cut):
            assert set(await outcomes(sink, *part)) == {ALREADY}
    assert world.history() == before
    assert len(before) == 20


@every(KINDS)
async def test_results_come_in_the_order_of_the_writes(sink):
    writes = [a_write(f"k{n}", seq=n + 1) for n in (7, 3, 9, 1)]
    assert [result.commit_id for result in await sink.apply(writes)] == [write.commit_id for write in writes]


@every(KINDS)
@pytest.mark.parametrize("key", HOSTILE)
async def test_a_hostile_key_is_just_a_key(sink, world, key):
    assert await outcomes(sink, a_write(key, commit="c1"), a_write("other")) == [APPLIED, APPLIED]
    assert set(world.rows()) == {key, "other"}


@every(KINDS)
@pytest.mark.parametrize(
    "value", [*HOSTILE, "\0", "x" * 2**20, {"a": [1, None, True, 1e300, 12345678901234567890]}, "<script>", 0]
)
async def test_any_output_comes_back_as_it_was(sink, world, value):
    text = json.dumps(value, ensure_ascii=False)
    await sink.apply([a_write(output=text)])
    (row,) = world.rows().values()
    assert _output(row) == value
    if "output_json" in row:
        assert row["output_json"] == text


@every(KINDS)
async def test_half_a_character_is_refused_alone_and_not_shown(sink):
    results = await sink.apply([a_write("a", output='"private \ud800"'), a_write("b"), a_write("c", seq=2)])
    assert [result.outcome for result in results] == [REFUSED, APPLIED, APPLIED]
    assert "private" not in results[0].error


@every(KINDS)
async def test_a_kill_between_the_write_and_its_answer_changes_nothing_on_the_second_try(sink, world):
    child = _child(world, kill=True, keys=5, name="x")
    assert child.communicate(timeout=60)[0] == ""  # nobody was told
    assert child.returncode == -signal.SIGKILL
    before = world.history()
    assert len(before) == 5
    again = await sink.apply([replace(a_write(f"k{n}"), commit_id=f"x-{n}") for n in range(5)])
    # A webhook cannot know; its receiver does, by the key.
    assert {result.outcome for result in again} == ({APPLIED} if world.kind == "webhook" else {ALREADY})
    assert world.history() == before


# -- comparing ---------------------------------------------------------------------------------------------------------


@every(COMPARING)
async def test_an_older_or_equal_rank_is_stale_and_changes_nothing(sink, world):
    await sink.apply([a_write(seq=5, promotion=2)])
    before = world.history()
    late = [a_write(seq=4, promotion=9), a_write(seq=5, promotion=1), a_write(seq=5, promotion=2, commit="other")]
    for result in await sink.apply(late):
        assert (result.outcome, result.held_commit_id) == (STALE, "c-t1-5-2")
    assert world.history() == before


@every(COMPARING)
async def test_writes_of_one_batch_see_each_other(sink):
    writes = [a_write(seq=2), a_write(seq=1), a_write("t2"), a_write(seq=2), a_write(seq=2, promotion=2)]
    results = await sink.apply(writes)
    assert [result.outcome for result in results] == [APPLIED, STALE, APPLIED, ALREADY, APPLIED]
    assert results[-1].previous_commit_id == "c-t1-2-1"


@every(COMPARING)
async def test_whether_a_write_changed_anything_is_told_then_and_later(sink):
    writes = [a_write(seq=1), a_write(seq=2), a_write(seq=3, output='{"label":"b"}')]
    for _ in range(2):
        assert [result.changed for result in await sink.apply(writes)] == [False, False, True]


@every(COMPARING)
def test_whatever_the_order_of_arrival_the_newest_is_held(world):
    tables = itertools.count()

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.permutations([(seq, promotion) for seq in (1, 2, 3) for promotion in (1, 2)]), st.integers(1, 6))
    def holds(ranks, cut):
        table = f"t{next(tables)}"
        asyncio.run(_apply_in_cuts(world, [a_write(seq=s, promotion=p, table=table) for s, p in ranks], cut))
        (row,) = world.rows(table).values()
        assert (row["seq"], row["promotion"]) == (3, 2)
        applied = list(dict.fromkeys(itertools.accumulate(ranks, max)))
        assert [(row["seq"], row["promotion"]) for row in world.history(table)] == applied
        _assert_chained(world.history(table))

    holds()


@every(COMPARING)
async def test_processes_that_write_the_same_targets_lose_nothing_and_double_nothing(sink, world):
    children = [_child(world, kill=False, keys=12, name=name, ranks=6) for name in ("a", "b", "c")]
    told = [json.loads(line) for child in children for line in child.communicate(timeout=120)[0].splitlines()]
    assert [child.returncode for child in children] == [0, 0, 0]
    history = world.history()
    _assert_chained(history)
    assert {commit for commit, outcome in told if outcome == "applied"} == {row["commit_id"] for row in history}
    ranks = {key: (row["seq"], row["promotion"]) for key, row in world.rows().items()}
    assert ranks == {f"k{n}": (6, 1) for n in range(12)}


# -- revert and replay -------------------------------------------------------------------------------------------------


@every(REVERTIBLE)
async def test_a_revert_gives_the_row_back_byte_for_byte_and_a_replay_too(sink, world):
    await sink.apply([a_write(f"k{n}") for n in range(3)])
    old = world.rows()
    await sink.apply([a_write(f"k{n}", seq=2, output='{"label":"b"}', run_id="run-2") for n in range(4)])
    new = world.rows()
    changes = [revert(f"c-k{n}-2-1", f"k{n}") for n in range(4)]
    results = await sink.change(changes)
    assert [result.outcome for result in results] == [APPLIED] * 4
    assert world.rows() == old
    assert [result.output_json for result in results] == ['{"label":"a"}'] * 3 + [None]
    assert [result.previous_commit_id for result in results] == [f"c-k{n}-1-1" for n in range(3)] + [None]
    results = await sink.change([replay(f"c-k{n}-2-1", f"k{n}") for n in range(4)])
    assert [(r.outcome, r.output_json) for r in results] == [(APPLIED, '{"label":"b"}')] * 4
    assert world.rows() == new


@every(REVERTIBLE)
async def test_a_change_tells_whose_commit_lies_beneath_whether_it_was_made_or_not(sink):
    await sink.apply([a_write(seq=1, run_id="run-1"), a_write(seq=2, run_id="run-2"), a_write(seq=3, run_id="run-2")])
    (made,) = await sink.change([revert("c-t1-3-1")])
    second = a_write(seq=2)
    beneath = Beneath(commit_id=second.commit_id, request_id=second.request_id, run_id="run-2", seq=2)
    assert (made.outcome, made.beneath) == (APPLIED, beneath)
    (again,) = await sink.change([revert("c-t1-3-1")])
    assert (again.outcome, again.beneath) == (ALREADY, beneath)
    await sink.change([revert("c-t1-2-1")])
    (in_the_way,) = await sink.change([replay("c-t1-3-1")])
    assert (in_the_way.outcome, in_the_way.beneath) == (CONFLICT, beneath)
    (last,) = await sink.change([revert("c-t1-1-1")])
    assert (last.outcome, last.beneath) == (APPLIED, None)


@every(REVERTIBLE)
async def test_after_a_revert_an_older_event_cannot_sneak_in(sink, world):
    await sink.apply([a_write(seq=1), a_write(seq=5)])
    await sink.change([revert("c-t1-5-1")])
    before = world.rows()
    (result,) = await sink.apply([a_write(seq=3)])
    assert (result.outcome, result.held_commit_id) == (STALE, "c-t1-1-1")
    assert world.rows() == before
    (result,) = await sink.apply([a_write(seq=6)])
    assert (result.outcome, result.previous_commit_id) == (APPLIED, "c-t1-1-1")


@every(REVERTIBLE)
async def test_a_commit_that_was_overwritten_is_a_conflict_until_what_came_after_is_reverted(sink, world):
    await sink.apply([a_write(seq=1), a_write(seq=2), a_write(seq=3)])
    before = world.rows()
    (result,) = await sink.change([revert("c-t1-2-1")])
    assert (result.outcome, result.held_commit_id, result.output_json) == (CONFLICT, "c-t1-3-1", '{"label":"a"}')
    assert world.rows() == before
    results = await sink.change([revert("c-t1-3-1"), revert("c-t1-2-1")])  # the rest of it, the newest first
    assert [result.outcome for result in results] == [APPLIED, APPLIED]
    assert world.rows()["t1"]["commit_id"] == "c-t1-1-1"


@every(REVERTIBLE)
async def test_a_frozen_worker_that_wakes_late_does_not_undo_a_newer_command(sink, world):
    await sink.apply([a_write(seq=1), a_write(seq=2)])
    await sink.change([revert("c-t1-2-1", order=5)])
    await sink.change([replay("c-t1-2-1", order=7)])
    held = world.rows()
    assert [r.outcome for r in await sink.change([revert("c-t1-2-1", order=5)])] == [CONFLICT]
    assert world.rows() == held
    await sink.change([revert("c-t1-2-1", order=9)])
    held = world.rows()
    assert [r.outcome for r in await sink.change([replay("c-t1-2-1", order=7)])] == [CONFLICT]
    assert world.rows() == held


@every(REVERTIBLE)
async def test_a_replay_that_was_carried_out_is_already_even_when_it_was_replaced_since(sink):
    await sink.apply([a_write(seq=1)])
    await sink.change([revert("c-t1-1-1", order=1)])
    await sink.change([replay("c-t1-1-1", order=2)])
    await sink.apply([a_write(seq=2)])
    (result,) = await sink.change([replay("c-t1-1-1", order=2)])
    assert result.outcome is ALREADY


@every(REVERTIBLE)
async def test_an_unknown_commit_is_a_conflict(sink):
    await sink.apply([a_write()])
    results = await sink.change([revert("never"), replay("never"), revert("never", "nowhere")])
    assert [(r.outcome, r.held_commit_id) for r in results] == [(CONFLICT, "c-t1-1-1")] * 2 + [(CONFLICT, None)]


@every(REVERTIBLE)
async def test_a_history_that_was_cut_refuses_the_revert_and_leaves_the_row(sink, world):
    await sink.apply([a_write(seq=1), a_write(seq=2), a_write("t2"), a_write("t2", seq=2)])
    world.execute(f"DELETE FROM {TABLE}__history WHERE commit_id = 'c-t1-1-1'")
    before = world.rows()["t1"]
    results = await sink.change([revert("c-t1-2-1"), revert("c-t2-2-1", "t2")])
    assert [result.outcome for result in results] == [REFUSED, APPLIED]
    assert "history" in results[0].error
    assert world.rows()["t1"] == before


@every(REVERTIBLE)
async def test_columns_of_the_user_are_left_alone(sink, world):
    await sink.apply([a_write(seq=1)])
    world.execute(f"ALTER TABLE {TABLE} ADD COLUMN mine TEXT")
    world.execute(f"UPDATE {TABLE} SET mine = 'kept'")
    await sink.apply([a_write(seq=2)])
    await sink.change([revert("c-t1-2-1")])
    assert world.rows()["t1"]["mine"] == "kept"


@every(REVERTIBLE)
async def test_a_table_of_an_older_form_is_refused_and_told(sink, world):
    await sink.apply([a_write(table="seed")])
    world.execute("CREATE TABLE orders (target_key TEXT PRIMARY KEY, output_json TEXT)")
    world.execute("CREATE TABLE fresh__history (commit_id TEXT)")
    results = await sink.apply([a_write(table="orders"), a_write("t2"), a_write(table="fresh")])
    assert [result.outcome for result in results] == [REFUSED, APPLIED, REFUSED]
    assert "orders.run_id" in results[0].error
    assert "fresh__history.target_key" in results[2].error
    with pytest.raises(Exception, match="orders__history"):
        world.query("SELECT * FROM orders__history")  # nothing was made beside it


class Laws(RuleBasedStateMachine):
    """Any sequence of applies, reverts and replays, by any number of processes, equals this small model."""

    kind, address = "", ""
    keys = st.sampled_from(["a", "b"])
    writes = st.builds(
        lambda key, seq, promotion, label: a_write(
            key, seq, promotion, commit=f"{key}-{seq}-{promotion}-{label}", output=json.dumps(label)
        ),
        keys, st.integers(1, 5), st.integers(1, 2), st.sampled_from("xy"),
    )  # fmt: skip

    @initialize()
    def begin(self):
        self.runner = asyncio.Runner()
        self.table = f"t{secrets.token_hex(6)}"
        self.world = World(self.kind, self.address)
        self.sink = self.world.sink()
        self.held = {}  # key -> commit id
        self.past = {}  # (key, commit id) -> [write, previous commit id, reverted, order of the last command]
        self.bytes = {}  # (key, commit id) -> the row as it was first seen
        self.order = 0

    @rule(writes=st.lists(writes, min_size=1, max_size=5))
    def apply(self, writes):
        asked = [replace(write, table=self.table) for write in writes]
        expected = [self._written(write) for write in asked]
        results = self.runner.run(self.sink.apply(asked))
        assert [(r.outcome, r.previous_commit_id, r.held_commit_id, r.changed) for r in results] == expected
        self._remember()

    def _written(self, write):
        key, held = write.target_key, self.held.get(write.target_key)
        if (key, write.commit_id) in self.past:
            previous = self.past[key, write.commit_id][1]
            return (ALREADY, previous, None, self._differs(write, previous))
        ranks = [(w.seq, w.promotion) for (k, _), (w, *_) in self.past.items() if k == key]
        if any(rank >= (write.seq, write.promotion) for rank in ranks):
            return (STALE, None, held, False)
        self.past[key, write.commit_id] = [write, held, False, -1]
        self.held[key] = write.commit_id
        return (APPLIED, held, None, self._differs(write, held))

    def _differs(self, write, previous):
        return previous is not None and self.past[write.target_key, previous][0].output_json != write.output_json

    @rule(data=st.data(), kind=st.sampled_from(ChangeKind), late=st.integers(0, 3))
    def change(self, data, kind, late):
        if not self.past:
            return
        key, commit = data.draw(st.sampled_from(sorted(self.past)))
        self.order += 1
        order = max(0, self.order - late)
        outcome = self._changed(key, commit, kind, order)
        asked = SinkChange(kind=kind, commit_id=commit, table=self.table, target_key=key, order=order)
        (result,) = self.runner.run(self.sink.change([asked]))
        held = self.held.get(key)
        assert result.outcome is outcome
        assert result.output_json == (None if held is None else self.past[key, held][0].output_json)
        assert result.held_commit_id == (held if outcome is CONFLICT else None)

    def _changed(self, key, commit, kind, order):
        entry, held = self.past[key, commit], self.held.get(key)
        _, previous, reverted, last = entry
        wanted = kind is ChangeKind.REVERT
        done = reverted if wanted else (held == commit or (not reverted and order <= last))
        if done:
            entry[3] = max(last, order)
            return ALREADY
        if order < last or held != (commit if wanted else previous):
            return CONFLICT
        entry[2:] = [wanted, order]
        self.held[key] = previous if wanted else commit
        if self.held[key] is None:
            del self.held[key]
        return APPLIED

    @rule()
    def start_anew(self):
        self.runner.run(self.sink.close())
        self.sink = self.world.sink()

    @invariant()
    def the_table_holds_what_the_model_holds(self):
        if not self.past:
            return
        rows = self.world.rows(self.table)
        assert {key: row["commit_id"] for key, row in rows.items()} == self.held
        for key, row in rows.items():
            assert row == self.bytes[key, row["commit_id"]], "a restored row differs from what it was"
        assert {(r["target_key"], r["commit_id"], bool(r["reverted"])) for r in self.world.history(self.table)} == {
            (key, commit, entry[2]) for (key, commit), entry in self.past.items()
        }

    def _remember(self):
        for key, row in self.world.rows(self.table).items():
            self.bytes.setdefault((key, row["commit_id"]), row)
        for row in self.world.history(self.table):  # replaced within the batch that wrote it
            shown = {name: row[name] for name in COLUMNS}
            self.bytes.setdefault((row["target_key"], row["commit_id"]), shown)

    def teardown(self):
        if hasattr(self, "runner"):
            self.runner.run(self.sink.close())
            self.runner.close()


@every(REVERTIBLE)
def test_any_sequence_of_writes_reverts_and_replays_equals_the_model(world):
    machine = type("LawsOf" + world.kind, (Laws,), {"kind": world.kind, "address": world.address})
    config = settings(
        max_examples=15,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each step is a transaction: shrinking takes minutes
    )
    run_state_machine_as_test(machine, settings=config)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _output(row):
    return row["output"] if "output" in row else json.loads(row["output_json"])


def _batched(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def _assert_chained(history):
    """Each row replaced the one before it: nobody's write went by unseen."""
    for key, rows in itertools.groupby(history, key=lambda row: row["target_key"]):
        commits = [row["commit_id"] for row in rows]
        previous = [row["previous_commit_id"] for row in history if row["target_key"] == key]
        assert previous == [None, *commits[:-1]]


async def _apply_in_cuts(world, writes, cut):
    sink = world.sink()
    try:
        for part in _batched(writes, cut):
            await sink.apply(part)
    finally:
        await sink.close()


CHILD = """
import asyncio, json, os, signal, sys
from tests.agents.sink_worlds import a_write, make_sink

kind, address, kill, keys, name, ranks = sys.argv[1:]

async def main():
    sink = make_sink(kind, address)
    told = []
    for rank in range(1, int(ranks) + 1):
        writes = [a_write(f"k{n}", seq=rank, commit=f"{name}-{n}" + ("" if rank == 1 else f"-{rank}"))
                  for n in range(int(keys))]
        told += await sink.apply(writes)
        if kill == "True":
            os.kill(os.getpid(), signal.SIGKILL)
    for result in told:
        print(json.dumps([result.commit_id, result.outcome]))
    await sink.close()

asyncio.run(main())
"""


def _child(world, *, kill, keys, name, ranks=1):
    arguments = [world.kind, world.address, str(kill), str(keys), name, str(ranks)]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *(p for p in sys.path if p)])}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
