"""A checker that cannot go red proves nothing: each promise is broken once, and must be the one that says so."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.records import Origin
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams.lifecycle import TABLE
from tests.chaos.evidence import Evidence, Seen, Txn
from tests.chaos.fabricated import FIRST, SECOND, a_batch, a_bill, a_run
from tests.chaos.invariants import INVARIANTS, LEGAL_MOVES, check, names
from tests.chaos.judging import Expect

Bend = Callable[[Evidence], Evidence]


def _red(evidence: Evidence, expect: Expect | None = None) -> set[str]:
    return {finding.name for finding in check(evidence, expect) if not finding.holds}


def _flow(evidence: Evidence, topic: str, change: Callable[[list[Seen]], list[Seen]]) -> Evidence:
    return replace(evidence, flow={**evidence.flow, topic: tuple(change(list(evidence.flow[topic])))})


def _at(evidence: Evidence, topic: str, index: int, **changes: Any) -> Evidence:
    def change(log: list[Seen]) -> list[Seen]:
        log[index] = replace(log[index], value=replace(log[index].value, **changes))
        return log

    return _flow(evidence, topic, change)


def _state(evidence: Evidence, index: int, **changes: Any) -> Evidence:
    rows = list(evidence.state)
    rows[index] = replace(rows[index], value=replace(rows[index].value, **changes))
    return replace(evidence, state=tuple(rows))


def _ledger(evidence: Evidence, **more: tuple[Any, ...]) -> Evidence:
    assert evidence.ledger is not None
    grown = {name: (*getattr(evidence.ledger, name), *entries) for name, entries in more.items()}
    return replace(evidence, ledger=replace(evidence.ledger, **grown))


def _raw_without_a_place(evidence: Evidence) -> Evidence:
    return replace(
        evidence, raw=(*evidence.raw, replace(evidence.raw[0], place=evidence.raw[0].place._replace(offset=4)))
    )


def _swapped(evidence: Evidence) -> Evidence:
    """Both committed records exchange outputs, and the sink follows."""
    first, second = (seen.value for seen in evidence.flow["committed"])
    bent = _at(evidence, "committed", 0, output_json=second.output_json, output_sha256=second.output_sha256)
    bent = _at(bent, "committed", 1, output_json=first.output_json, output_sha256=first.output_sha256)
    outputs = {seen.value.commit_id: seen.value for seen in bent.flow["committed"]}
    sink = tuple(
        replace(row, output_json=outputs[row.commit_id].output_json, output_sha256=outputs[row.commit_id].output_sha256)
        for row in evidence.sink
    )
    return replace(bent, sink=sink)


def _committed_again(evidence: Evidence) -> Evidence:
    return _flow(evidence, "committed", lambda log: [*log, replace(log[0], place=log[0].place._replace(offset=9))])


def _recommitted_in_sink_only(evidence: Evidence) -> Evidence:
    return replace(evidence, history=(*evidence.history, replace(evidence.history[0], commit_id="another")))


def _older_in_sink(evidence: Evidence) -> Evidence:
    """A newer request of the first source was committed; the sink and the topic's last word are another's."""
    newer = replace(evidence.state[4].value, request_id="newer", seq=99, origin=_origin(5))
    raw = replace(evidence.raw[0], place=evidence.raw[0].place._replace(offset=5))
    row = replace(evidence.state[4], key=b"state.lives/newer", value=newer)
    return replace(evidence, state=(*evidence.state, row), raw=(*evidence.raw, raw))


def _origin(offset: int) -> Origin:
    return Origin(generation=1, partition=0, offset=offset, at_ms=0)


BROKEN: list[tuple[str, str, Bend]] = [
    ("no_loss", "a raw record is nowhere", _raw_without_a_place),
    ("no_loss", "a dead letter was never written", lambda e: _flow(e, "dead-letter", lambda _: [])),
    ("no_loss", "a record is dead-lettered and committed", lambda e: _at(e, "dead-letter", 0, origin=_origin(0))),
    ("no_loss", "a life says committed and no record does", lambda e: _flow(e, "committed", lambda log: log[:1])),
    ("letters_once", "a letter was written twice", lambda e: _flow(e, "dead-letter", lambda log: log * 2)),
    ("all_final", "a life is left processing", lambda e: _state(e, 4, status=Status.PROCESSING)),
    ("all_final", "a chunk is left open", lambda e: _state(e, -1, state=ChunkState.OPEN)),
    ("commit_once", "a commit is on the topic twice", _committed_again),
    ("commit_once", "the sink has a commit Kafka has not", _recommitted_in_sink_only),
    ("commit_once", "the sink lost a row", lambda e: replace(e, sink=e.sink[1:])),
    ("commit_once", "the sink lost a piece of history", lambda e: replace(e, history=e.history[1:])),
    ("newest_wins", "the sink holds an older event", _older_in_sink),
    ("concurrent_reader", "a reader met a commit twice", lambda e: replace(e, live_commits=(e.live_commits or ()) * 2)),
    (
        "concurrent_reader",
        "a reader met a ghost",
        lambda e: replace(e, live_commits=("ghost", *(e.live_commits or ()))),
    ),
    ("no_cross_wiring", "two outputs are exchanged", _swapped),
    ("no_cross_wiring", "a result is another line's", lambda e: _at(e, "results", 0, output_sha256="0" * 64)),
    ("no_cross_wiring", "a result is filed under another request", lambda e: _at(e, "results", 0, request_id=SECOND)),
    ("paid_once", "a line is billed twice", lambda e: _ledger(e, bills=(a_bill(FIRST, 1, 9),))),
    (
        "paid_once",
        "a chunk is billed as two batches",
        lambda e: _ledger(e, batches_created=(a_batch("twin"),), bills=(a_bill(FIRST, 1, 9, batch_id="twin"),)),
    ),
    ("paid_once", "a bill without an intent", lambda e: _flow(e, "submitted", lambda log: log[1:])),
    ("paid_once", "another chunk's intent", lambda e: _at(e, "submitted", 0, chunk_id="c-other")),
    (
        "paid_once",
        "an intent after the call",
        lambda e: _flow(e, "submitted", lambda log: [replace(seen, at_ms=seen.at_ms + 10**6) for seen in log]),
    ),
    (
        "paid_once",
        "a second try without a failure",
        lambda e: _flow(
            _ledger(e, bills=(a_bill(FIRST, 2, 9),)),
            "submitted",
            lambda log: [
                *log,
                replace(log[0], value=replace(log[0].value, custom_id=a_bill(FIRST, 2, 9).custom_id)),
            ],
        ),
    ),
    ("batches_once", "an unbilled twin was accepted", lambda e: _ledger(e, batches_created=(a_batch("twin"),))),
    ("cost_conserved", "a result is booked at another price", lambda e: _at(e, "results", 0, cost_nanos=11)),
    ("cost_conserved", "a paid answer has no result", lambda e: _flow(e, "results", lambda log: log[1:])),
    ("cost_conserved", "a life counts its cost twice", lambda e: _state(e, 4, cost_nanos=20)),
    ("no_hanging_transaction", "a partition cannot be read", lambda e: replace(e, unreached=("raw/0",))),
    ("aborted_invisible", "killed records are visible", lambda e: replace(e, doomed=frozenset(e.visible))),
    (
        "aborted_invisible",
        "killed records never were",
        lambda e: replace(e, doomed=frozenset({Txn("worker-1", 1, 1, 1)})),
    ),
    (
        "whole_transactions",
        "half of a transaction is visible",
        lambda e: replace(e, visible=dict.fromkeys(e.visible, 1)),
    ),
    (
        "fenced_is_silent",
        "an old owner wrote after the fence",
        lambda e: replace(e, markers=tuple(replace(m, epoch=2) for m in e.markers)),
    ),
    ("prefix_exact", "an output from beyond the position", lambda e: replace(e, positions={("raw", 0): 1})),
    ("prefix_exact", "an input gave two outputs", lambda e: _flow(e, "normalized", lambda log: [*log, log[0]])),
    ("prefix_exact", "input left unread", lambda e: replace(e, positions={("raw", 0): 4, ("submitted", 0): 1})),
    ("legal_moves", "a life was committed unjudged", lambda e: _state(e, 3, status=Status.PROCESSING)),
    ("legal_moves", "a life begins in the middle", lambda e: replace(e, state=e.state[2:])),
]


def test_a_run_in_which_all_went_well_breaks_no_promise():
    assert [str(finding) for finding in check(a_run()) if not finding.holds] == []


def test_every_promise_looks_at_something_in_that_run():
    assert [finding.name for finding in check(a_run()) if finding.checked == 0] == []


@pytest.mark.parametrize(("name", "bend"), [(n, b) for n, _, b in BROKEN], ids=[f"{n}: {why}" for n, why, _ in BROKEN])
def test_a_broken_promise_is_told_by_its_name(name: str, bend: Bend):
    assert name in _red(bend(a_run()))


def test_every_promise_is_broken_at_least_once_here():
    assert {name for name, _, _ in BROKEN} == set(names())
    assert len(set(names())) == len(INVARIANTS)


def test_an_output_that_answers_another_text_is_told():
    def mine(raw: bytes, output: dict[str, Any]) -> bool:
        return output["mark"] == "m01"

    assert _red(a_run(), Expect(answers_to=mine)) == {"no_cross_wiring"}


def test_a_request_that_is_asked_again_though_it_had_an_answer_is_told():
    def again(log: list[Seen]) -> list[Seen]:
        return [*log, replace(log[0], place=log[0].place._replace(offset=9))]

    asked_again = _flow(a_run(), "results", again)
    assert "paid_once" in _red(asked_again, Expect(usable=lambda _: True))
    assert "paid_once" not in _red(asked_again, Expect(usable=lambda _: False))


def test_the_legal_moves_written_down_here_are_those_of_the_lifecycle_table():
    moves = {(before, to) for (before, _), to in TABLE.items() if isinstance(to, Status) and to is not before}
    redriven = {(Status.FAILED_TERMINAL, to) for to in (Status.QUEUED, Status.SUCCEEDED_UNVALIDATED, Status.VALIDATED)}
    assert moves | redriven == LEGAL_MOVES


def test_the_fabricated_outputs_differ_so_that_an_exchange_can_be_seen():
    outputs = [json.loads(seen.value.output_json) for seen in a_run().flow["committed"]]
    assert outputs[0] != outputs[1]
