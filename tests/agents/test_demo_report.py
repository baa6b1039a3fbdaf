"""The demo's arithmetic, and that every promise it makes can be seen to be broken."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.agents.demo.events import sentences
from batchmill.agents.demo.measures import score, wilson
from batchmill.agents.demo.page import report_lines
from batchmill.agents.demo.playing import JOB_FOLDER
from batchmill.agents.demo.report import Hostiles, Kill, Ledgers, Log, Money, Published, Report, checks, to_json
from batchmill.agents.projector.metrics import Failure, Funnel, RunMetrics
from batchmill.agents.simulator.answering import Question, answer
from batchmill.agents.simulator.gold import gold_from_pairs
from batchmill.schemas.reasons import Reason

METRICS = RunMetrics(
    requests=90,
    submitted=90,
    completed=90,
    success_rate=1.0,
    validation_pass_rate=0.9,
    retry_rate=0.1,
    terminal_failure_rate=0.0,
    mean_tokens=80.0,
    cost_per_record_usd=0.00001,
    cost_per_success_usd=0.00002,
    manual_review_rate=0.1,
    commit_rate=0.9,
    quality_score=None,
    records_per_dollar=50_000.0,
    committed=80,
    cost_usd=0.001,
    wasted_usd=0.0,
    unpriced_calls=0,
    input_tokens=7_000,
    output_tokens=900,
    answered_from_store=0,
)
GOOD = Report(
    accuracy_setting=0.9,
    seed=1,
    workers=2,
    seconds={"altogether": 40.0},
    published=Published(events=100, sentences=90, repeated=5, hostile=5),
    funnel=Funnel(raw=100, normalized=90, submitted=90, answered=90, validated=80, committed=80),
    ledgers=Ledgers(
        raw=100,
        committed=80,
        in_review=10,
        held=0,
        in_flight=0,
        dead_lettered=5,
        excluded=5,
        lost=0,
        doubled=0,
        unreadable=0,
    ),
    metrics=METRICS,
    money=Money(
        ours=1_000_000,
        wasted=0,
        ledger=1_000_007,
        undelivered=7,
        batches=4,
        batches_paid_twice=0,
        billed_answers=95,
    ),
    log=Log(committed=80, different=80, sink_rows=80, sink_unlike=0, compared=95, swapped=0),
    accuracy=score({f"s{n}": "pos" for n in range(90)}, {f"s{n}": "pos" if n < 81 else "neg" for n in range(90)}),
    put_down=(Failure(reason=Reason.NOT_UTF8, place="dead_lettered", stage="normalizer", count=5),),
    hostiles=(Hostiles(kind="not UTF-8", reason="not_utf8", published=5, put_down=5),),
    faults={"accept_then_500": 1},
    kill=Kill(worker="worker-1", pid=4711, committed=20, open_chunks=3, ready_again_seconds=2.5),
    kill_wanted=True,
    problems=(),
    commands=(("everything at a glance", "batchmill status"),),
)


# Newcombe (1998), method 3, and the rule of the empty sample.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_wilsons(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson(successes, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.holds(low + 1e-4)
    assert not found.holds(low - 1e-3)


def test_answers_are_joined_to_gold_by_id_and_strangers_are_not_counted() -> None:
    found = score({"a": "pos", "b": "neg", "unknown": "pos"}, {"b": "neg", "a": "neg", "unanswered": "pos"})
    assert (found.answered, found.right, found.share) == (2, 1, 0.5)


def test_without_answers_there_is_no_accuracy() -> None:
    assert score({}, {"a": "pos"}).share is None


@pytest.mark.parametrize("setting", [0.70, 0.90, 0.95])
def test_the_accuracy_that_the_simulator_was_set_to_lies_within_the_interval(setting: float) -> None:
    known = sentences(5_200)
    gold = gold_from_pairs([(each.text, each.label) for each in known])
    schema = json.loads((JOB_FOLDER / "output.schema.json").read_text(encoding="utf-8"))
    labels = {}
    for each in known:
        asked = Question(model="gpt-5-mini", text=each.text, chars=400, schema=schema)
        labels[each.id] = json.loads(answer(asked, seed=5, accuracy=setting, gold=gold).content)["label"]
    assert score(labels, {each.id: each.label for each in known}).interval.holds(setting)


def test_a_run_that_kept_every_promise_passes() -> None:
    assert [check for check in checks(GOOD) if not check.passed] == []
    assert json.loads(to_json(GOOD))["passed"] is True
    assert list(report_lines(GOOD))[-1].startswith("PASS")


@pytest.mark.parametrize(
    ("part", "changes", "promise"),
    [
        ("ledgers", {"raw": 99, "committed": 79}, "every raw event is in exactly one place"),
        ("ledgers", {"committed": 79}, "every raw event is in exactly one place"),
        ("ledgers", {"doubled": 1}, "every raw event is in exactly one place"),
        ("ledgers", {"unreadable": 1}, "every raw event is in exactly one place"),
        ("ledgers", {"lost": 1}, "nothing is lost or unfinished"),
        ("ledgers", {"in_flight": 5, "excluded": 0}, "nothing is lost or unfinished"),
        ("ledgers", {"held": 5, "excluded": 0}, "nothing is lost or unfinished"),
        ("log", {"committed": 81}, "nothing is committed twice"),
        ("log", {"different": 79}, "nothing is committed twice"),
        ("log", {"sink_rows": 79}, "nothing is committed twice"),
        ("log", {"sink_unlike": 1}, "nothing is committed twice"),
        ("log", {"swapped": 1}, "no answer is another request's"),
        ("money", {"batches_paid_twice": 1}, "no batch is paid twice"),
        ("money", {"ours": 1_000_001}, "our cost is the provider's bill"),
        ("ledgers", {"in_review": 0, "committed": 90}, "someone is asked"),
        ("kill", {"ready_again_seconds": None}, "a worker was killed in the middle and came back"),
    ],
)
def test_a_broken_promise_is_named_and_fails_the_run(part: str, changes: dict[str, Any], promise: str) -> None:
    report = replace(GOOD, **{part: replace(getattr(GOOD, part), **changes)})
    assert promise in {check.name for check in checks(report) if not check.passed}
    assert json.loads(to_json(report))["passed"] is False
    assert any(line.startswith(f"  FAIL  {promise}") for line in report_lines(report))


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"accuracy_setting": 0.99}, "accuracy is what the simulator was set to"),
        (
            {"hostiles": (Hostiles(kind="empty", reason="tombstone", published=5, put_down=4),)},
            "hostile events are put down for the right reason",
        ),
        ({"kill": None}, "a worker was killed in the middle and came back"),
        ({"problems": ("it took too long",)}, "nothing else went wrong"),
    ],
)
def test_so_is_one_about_the_whole(changes: dict[str, Any], promise: str) -> None:
    failed = [check.name for check in checks(replace(GOOD, **changes)) if not check.passed]
    assert failed == [promise]


def test_a_run_without_a_kill_promises_nothing_about_one() -> None:
    report = replace(GOOD, kill=None, kill_wanted=False)
    assert all(check.passed for check in checks(report))
