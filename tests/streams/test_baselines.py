"""Baselines: what each answers, and that a report says when one is as good as the model."""

import json
import random
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

from batchmill.streams.baselines import (
    BaselineError,
    Contest,
    Standing,
    contest,
    keyword,
    majority,
    rules,
    sentence,
)
from batchmill.streams.comparing import Ended, Outcome, Pair


def a_pair(at: int, said: str, truth: str) -> Pair:
    outcome = Outcome(ended=Ended.VALIDATED, output={"label": said, "why": "because"})
    return Pair(key=str(at), a=outcome, b=outcome, truth={"label": truth})


#: 60 of 100 are `pos`; the model says so of all, and so is right on them
LAZY = [a_pair(at, "pos", "pos" if at < 60 else "neg") for at in range(100)]
GOOD = [a_pair(at, truth, truth) for at in range(100) for truth in ["pos" if at < 60 else "neg"]]
BAD = [a_pair(at, "neg", "pos" if at < 70 else "neg") for at in range(100)]


def test_the_commonest_right_answer_is_the_baseline() -> None:
    assert majority(LAZY, ["label"]) == {"label": "pos"}
    nested = Pair(key="k", a=LAZY[0].a, b=LAZY[0].b, truth={"a": {"b": 2}, "c": [1]})
    assert majority([nested], ["$.a.b"]) == {"a": {"b": 2}}
    with pytest.raises(BaselineError, match="name a member"):
        majority([nested], ["c[0]"])
    with pytest.raises(BaselineError, match="no right output has nothing"):
        majority(LAZY, ["nothing"])


def test_a_tie_is_broken_the_same_way_every_time() -> None:
    tied = [a_pair(1, "x", "b"), a_pair(2, "x", "a")]
    assert majority(tied, ["label"]) == majority(tied[::-1], ["label"]) == {"label": "a"}


@pytest.mark.parametrize(
    ("model", "standing", "word"),
    [(LAZY, Standing.NO_WORSE, "NOT SURELY BETTER"), (GOOD, Standing.WORSE, "better"), (BAD, Standing.BETTER, "BEATS")],
)
def test_a_baseline_that_is_as_good_is_told(model: list[Pair], standing: Standing, word: str) -> None:
    answers = {pair.key: {"label": "pos"} for pair in model}
    found = contest("majority", model, answers, fields=(), confidence=0.95)
    assert found is not None
    assert (found.standing, found.fields) == (standing, ("label",))
    assert word in sentence(found)


def test_a_baseline_is_judged_by_what_it_answers_and_no_answer_is_wrong() -> None:
    answers: dict[str, Any] = {pair.key: {"label": "pos"} if int(pair.key) < 30 else None for pair in GOOD}
    found = contest("some", GOOD, answers, fields=("label", "why"), confidence=0.95)
    assert found is not None
    assert (found.found.a.count, found.fields) == (30, ("label",))
    assert contest("none", GOOD, dict.fromkeys(answers), fields=(), confidence=0.95) is None


POS, NEG = {"label": "pos"}, {"label": "neg"}
RULES = [
    (1, {"when": 'input.text.contains("good")', "output": {"label": "pos"}}),
    (2, {"when": "input.stars < 2", "output": {"label": "neg"}}),
    (3, {"output": {"label": "neu"}}),
]


@pytest.mark.parametrize(
    ("given", "label"),
    [({"text": "a good one"}, "pos"), ({"text": "bad", "stars": 1}, "neg"), ({"text": "bad"}, "neu"), ({}, "neu")],
)
def test_the_first_rule_that_holds_answers_and_one_that_cannot_be_told_does_not(given: Any, label: str) -> None:
    assert keyword(rules(RULES), given) == {"label": label}


def test_where_no_rule_holds_there_is_no_answer() -> None:
    assert keyword(rules(RULES[:1]), {"text": "bad"}) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"when": "input.a", "output": "pos"}, "line 4: a rule is an object"),
        ({"when": "output.a", "output": {}}, "line 4: when: unknown variable 'output'"),
        ({"when": 1, "output": {}}, "line 4: `when` must be a text"),
        ({"then": {}, "output": {}}, "line 4: a rule is an object"),
    ],
)
def test_a_rule_that_is_none_is_named_by_its_line(line: Any, why: str) -> None:
    with pytest.raises(BaselineError, match=why.replace("(", r"\(")):
        rules([(4, line)])


def test_rules_are_bounded() -> None:
    with pytest.raises(BaselineError, match="0 rules"):
        rules([])


# -- on labelled sentences ---------------------------------------------------------------------------------------------

WORDS = [
    (
        1,
        {
            "when": 'input.text.matches("(?i)(not |n.t |no |bad|worst|hate|sad|fail|lack|dull|bor(ed|ing))")',
            "output": NEG,
        },
    ),
    (2, {"output": POS}),
]


def sentences(records: int) -> list[dict[str, str]]:
    text = files("batchmill.agents.demo").joinpath("data/sentiment.jsonl").read_text("utf-8")
    return random.Random(5).sample([json.loads(line) for line in text.splitlines()], records)


def keyword_contest(said: Callable[[str], str]) -> Contest:
    known = sentences(400)
    pairs = [a_pair(at, said(row["label"]), row["label"]) for at, row in enumerate(known)]
    made = rules(WORDS)
    answers = {str(at): keyword(made, {"text": row["text"]}) for at, row in enumerate(known)}
    found = contest("keyword", pairs, answers, fields=("label",), confidence=0.95)
    assert found is not None
    return found


def test_two_rules_beat_a_model_that_has_not_understood_and_lose_to_one_that_has() -> None:
    chance = random.Random(9)
    labels = ("pos", "neg", "neu")
    lost = keyword_contest(lambda _: chance.choice(labels))
    won = keyword_contest(lambda truth: truth if chance.random() < 0.9 else chance.choice(labels))
    assert (lost.standing, won.standing) == (Standing.BETTER, Standing.WORSE)
    assert 0.45 < lost.found.a.value < 0.7
