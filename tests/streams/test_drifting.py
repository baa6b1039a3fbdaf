"""When a window has moved: on real sentences, over seeds; and the laws of counting.

Tweets and then news must alarm soon, tweets split in two must not: all windows, all signals that sentences have. The
data are those of the demo (945 tweets and 1,167 sentences of news with their labels).
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import ConfidenceSpec, JobSpec, JudgeSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check, DeadLetter, Decision, Origin, Record, Result, Verdict, WorkItem
from batchmill.schemas.status import Outcome, VerdictStatus
from batchmill.schemas.strict_json import from_json, to_json
from batchmill.streams import drifting
from batchmill.streams.drifting import ALPHA, Moved, Timed, Watch, begun, resumed, sentence, take, threshold
from batchmill.streams.signalling import OTHER, Heard, heard, watched
from tests.streams.making import make_spec

SPLITS = 100
#: the most records after the switch that an alarm may take
SOON = 500
SIGNALS = (DriftSignal.CLASSES, DriftSignal.OUTPUT_LENGTH, DriftSignal.INPUT_LENGTH, DriftSignal.INPUT_MEMBERS)
ORIGIN = Origin(generation=1, partition=0, offset=0, at_ms=0)


def a_spec(**drift: Any) -> JobSpec:
    return make_spec(drift=DriftSpec(**{"field": "label", **drift}))


@cache
def sentences(domain: str) -> tuple[dict[str, str], ...]:
    text = files("batchmill.agents.demo").joinpath("data/sentiment.jsonl").read_text("utf-8")
    return tuple(row for row in map(json.loads, text.splitlines()) if row["domain"] == domain)


def shuffled(domain: str, seed: int) -> list[dict[str, str]]:
    made = list(sentences(domain))
    random.Random(seed).shuffle(made)
    return made


def item(text: str) -> WorkItem:
    return WorkItem(
        request_id="r",
        job="triage",
        version="v",
        ask_key="k",
        source_id="s",
        seq=0,
        run_id="run",
        epoch=0,
        lane="lane",
        input_json=json.dumps({"body": text}),
        input_sha256="",
        target_key="t",
        tokens_estimate=1,
        bytes_estimate=1,
        origin=ORIGIN,
    )


def verdict(label: Any, **changes: Any) -> Verdict:
    made = Verdict(
        request_id="r",
        job="triage",
        version="v",
        source_id="s",
        seq=0,
        promotion=0,
        attempt=1,
        status=VerdictStatus.VALIDATED,
        output_json=json.dumps({"label": label}),
        output_sha256="",
        checks=(),
        confidence=None,
        target_key="t",
        decided_by="rules",
        judged_at_ms=0,
    )
    return replace(made, **changes)


def told(rows: Iterable[dict[str, str]], spec: JobSpec) -> Iterator[Timed]:
    """What the records of these sentences tell, if every answer is the gold label; the time is the row's number."""
    assert spec.drift is not None
    for number, row in enumerate(rows):
        for record in (item(row["text"]), verdict(row["label"])):
            yield from (Timed(each, number) for each in heard(record, spec.drift))


def counted(names: Iterable[str], spec: JobSpec, signal: DriftSignal = DriftSignal.CLASSES) -> Any:
    return take(begun(spec), spec, (Timed(Heard(signal, name), at) for at, name in enumerate(names)))


def alarms(rows: Iterable[dict[str, str]], spec: JobSpec) -> tuple[Moved, ...]:
    return take(begun(spec), spec, told(rows, spec))[1]


# -- on real sentences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_tweets_and_then_news_alarm_soon_after_the_switch(seed: int) -> None:
    switch = 700 + 19 * seed  # somewhere in a window
    rows = shuffled("tweets", seed)[:switch] + shuffled("nytEditorialSnippets", seed)
    found = alarms(rows, a_spec())
    assert found, "no alarm at all"
    assert all(moved.at_ms >= switch for moved in found), "an alarm before anything had changed"
    classes = [moved for moved in found if moved.signal is DriftSignal.CLASSES]
    assert min(moved.at_ms for moved in classes) < switch + SOON
    shares = {each.name: (each.before, each.after) for each in classes[-1].shares}
    assert shares["pos"][0] > 0.5 > 0.3 > shares["pos"][1]
    assert shares["neu"][0] < 0.3 < shares["neu"][1]


def test_tweets_split_in_two_never_alarm() -> None:
    spec = a_spec()
    found = {seed: moved for seed in range(SPLITS) if (moved := alarms(shuffled("tweets", seed), spec))}
    assert found == {}


def test_a_long_life_of_tweets_never_alarms() -> None:
    """Looks without end must not add up to an alarm: five lives of 100 windows, drawn again and again."""
    spec = a_spec()
    for seed in range(5):
        drawn = random.Random(seed).choices(sentences("tweets"), k=500 + 100 * 200)
        watch, found = take(begun(spec), spec, told(drawn, spec))
        assert found == ()
        assert {signal: track.looks for signal, track in watch.tracks.items() if signal in SIGNALS} == dict.fromkeys(
            [*SIGNALS], 100
        )


def test_a_test_without_care_would_cry_wolf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The splits above can fail: they do without care for the number of looks, and without care for chance."""
    monkeypatch.setattr(drifting, "threshold", lambda _signals, _number: 0.05)
    spec = a_spec(psi_above=0.01)
    assert sum(bool(alarms(shuffled("tweets", seed), spec)) for seed in range(SPLITS)) > SPLITS // 20
    monkeypatch.setattr(drifting, "threshold", lambda _signals, _number: 1.0)
    loose = a_spec(reference=100, window=50, psi_above=0.1)
    assert sum(bool(alarms(shuffled("tweets", seed), loose)) for seed in range(SPLITS)) > SPLITS // 20


def test_an_effect_that_is_sure_and_small_is_none() -> None:
    names = ["a", "b"] * 10_000 + ["a"] * 5_400 + ["b"] * 4_600
    spec = a_spec(reference=20_000, window=10_000)
    watch, found = counted(names, spec)
    assert found == ()
    assert watch.tracks[DriftSignal.CLASSES].scores[0].p < 1e-9


# -- laws of counting --------------------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from("abc"), max_size=700)


@given(NAMES, st.lists(st.integers(0, 700), max_size=5), st.sampled_from(["warn", "pause"]))
def test_counting_in_any_portions_and_from_its_text_is_the_same(names: list[str], cuts: list[int], policy: str) -> None:
    """Whoever restores a watch counts on as if nobody had ever stopped."""
    spec = a_spec(reference=100, window=50, policy=policy)
    timed = [Timed(Heard(DriftSignal.CLASSES, name), at) for at, name in enumerate(names)]
    at_once, expected = take(begun(spec), spec, timed)
    watch, found = begun(spec), []
    edges = sorted({0, len(timed), *(cut for cut in cuts if cut < len(timed))})
    for start, end in pairwise(edges):
        watch, moved = take(from_json(Watch, to_json(watch)), spec, timed[start:end])
        found += moved
    assert watch == at_once
    assert tuple(found) == expected


@given(NAMES)
def test_every_record_is_in_the_reference_in_a_window_or_was_looked_at(names: list[str]) -> None:
    spec = a_spec(reference=100, window=50)
    track = counted(names, spec)[0].tracks.get(DriftSignal.CLASSES)
    if track is not None:
        counts = sum(track.reference.values()) + 50 * track.looks + sum(track.window.values())
        assert counts == len(names)
        assert sum(track.last.values()) in ({0} if track.looks == 0 else {50})


def test_all_looks_together_cost_no_more_than_alpha() -> None:
    spent = sum(threshold(7, number) * 7 for number in range(1, 20_000))
    assert ALPHA * 0.99 < spent < ALPHA


def test_an_alarm_that_pauses_ends_the_counting_until_it_is_resumed() -> None:
    spec = a_spec(reference=100, window=50, policy="pause")
    watch, found = counted(["a", "b"] * 50 + ["a"] * 500, spec)
    (only,) = found
    assert watch.pausing == f"drift: {sentence(only)}"
    assert "a 50% -> 100%" in watch.pausing
    after = resumed(watch)
    assert (after.pausing, after.held, after.moved) == (None, False, ())
    assert after.tracks[DriftSignal.CLASSES].reference == {"a": 50, "b": 50}
    assert after.tracks[DriftSignal.CLASSES].window == {}


def test_a_warning_stands_until_a_window_is_calm_again() -> None:
    spec = a_spec(reference=100, window=50)
    watch, _ = counted(["a", "b"] * 50 + ["a"] * 50, spec)
    assert [each.signal for each in watch.moved] == [DriftSignal.CLASSES]
    calm, found = take(watch, spec, [Timed(Heard(DriftSignal.CLASSES, name), 0) for name in ["a", "b"] * 25])
    assert (calm.moved, found) == ((), ())
    assert [score.moved for score in calm.tracks[DriftSignal.CLASSES].scores] == [True, False]


def test_against_current_the_former_version_is_the_reference() -> None:
    spec = a_spec(reference=100, window=50, against="current")
    former, _ = counted(["a", "b"] * 50 + ["b"] * 20, spec)
    watch, found = take(begun(spec, former), spec, [Timed(Heard(DriftSignal.CLASSES, "b"), 0)] * 50)
    assert [moved.signal for moved in found] == [DriftSignal.CLASSES]
    assert watch.tracks[DriftSignal.CLASSES].reference == {"a": 50, "b": 50}
    other = a_spec(field="summary", reference=100, window=50, against="current")
    assert DriftSignal.CLASSES not in begun(other, former).tracks


def test_classes_without_end_are_counted_as_others() -> None:
    spec = a_spec(reference=1_000)
    reference = counted((f"n{n}" for n in range(1_000)), spec)[0].tracks[DriftSignal.CLASSES].reference
    assert len(reference) == 65
    assert reference[OTHER] == 1_000 - 64


# -- what records tell -------------------------------------------------------------------------------------------------


def blank(kind: Any) -> dict[str, Any]:
    """Members of a record of which only few are looked at."""
    return {member.name: None for member in fields(kind)}


def names(record: Record, **drift: Any) -> dict[str, str]:
    return {str(each.signal): each.name for each in heard(record, DriftSpec(**drift))}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("pos", "pos"),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.5, "(number)"),
        ([1], "(list)"),
        ("x" * 99, "x" * 64),
        ("\x1b[2J", "\\u001b[2J"),
    ],
)
def test_a_class_is_a_short_name_of_the_value(label: Any, name: str) -> None:
    assert names(verdict(label), field="label")["classes"] == name


def test_a_judged_answer_tells_its_verdict_length_confidence_and_score() -> None:
    score = Check(id="score", severity="review", passed=False, path=None, note=None)
    found = names(verdict("pos", confidence=0.73, checks=(score,)), field="nothing")
    assert found == {
        "verdicts": "validated",
        "output_length": "16-31",
        "confidence": "0.7-0.8",
        "scores": "disagreed",
        "classes": "(absent)",
    }


def test_what_a_person_corrects_is_not_judged_twice() -> None:
    assert names(verdict("pos", decided_by="ann"), field="label") == {}


def test_inputs_tell_their_length_and_which_members_they_have() -> None:
    assert names(replace(item(""), input_json='{"b": 1, "a": "x", "gone": null}')) == {
        "input_length": "32-63",
        "input_members": "a,b",
    }


def test_calls_tell_why_they_failed_and_stored_answers_tell_nothing_of_calls() -> None:
    made = blank(Result) | {"job": "triage", "version": "v"}
    good = Result(**made | {"outcome": Outcome.SUCCEEDED, "answered_by": "provider"})
    assert names(good) == {"failures": "succeeded"}
    assert names(replace(good, outcome=Outcome.ERROR, reason=Reason.THROTTLED)) == {"failures": "throttled"}
    assert names(replace(good, answered_by="store")) == {}


def test_rejections_and_decisions_of_people_are_told() -> None:
    letter = blank(DeadLetter) | {"reason": Reason.SCHEMA_MISMATCH}
    assert names(DeadLetter(**letter)) == {"verdicts": "rejected"}
    assert names(DeadLetter(**letter | {"reason": Reason.OVERSIZED})) == {}
    decision = blank(Decision) | {"action": "decline"}
    assert names(Decision(**decision)) == {"reviews": "decline"}
    assert names(Decision(**decision | {"action": "defer"})) == {}


def test_only_what_can_be_told_is_tested() -> None:
    bare = make_spec(drift=DriftSpec())
    assert not {DriftSignal.CLASSES, DriftSignal.CONFIDENCE, DriftSignal.SCORES} & set(watched(bare))
    sure = replace(bare, judge=JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.5)))
    assert DriftSignal.CONFIDENCE in watched(sure)
    few = a_spec(signals=(DriftSignal.CLASSES,))
    assert watched(few) == (DriftSignal.CLASSES,)
    assert watched(make_spec()) == ()
