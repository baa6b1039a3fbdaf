"""Conditions over dead letters: what they may look at, and that doubt chooses nothing."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from batchmill.streams.expressions import ConditionError
from batchmill.streams.selecting import NAMES, Letter, LetterCheck, compile_where

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"

LETTER = Letter(
    id="dl-1",
    request_id="r",
    job="triage",
    version="v1",
    source_id="s-1",
    stage="validator",
    reason="rule_failed",
    fault="job",
    error="refund-has-amount $.amount: must hold",
    retryable=False,
    attempt=2,
    redrives=1,
    cost_usd=0.02,
    original_bytes=10,
    age_seconds=7_200,
    checks=[
        LetterCheck(id="schema", path="", severity="reject", passed=True),
        LetterCheck(id="refund-has-amount", path="$.amount", severity="reject", passed=False),
    ],
)


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ('reason == "rule_failed"', True),
        ('reason in ["not_json", "truncated"]', False),
        ('checks.exists(c, c.id == "refund-has-amount" && !c.passed)', True),
        ("checks.all(c, c.passed)", False),
        ('checks.filter(c, !c.passed).map(c, c.path) == ["$.amount"]', True),
        ("cost_usd != null && cost_usd > 0.01", True),
        ("age_seconds >= 3600 && attempt == 2 && redrives < 2", True),
        ('source_id.startsWith("s-") && error.contains("must hold")', True),
        ('stage == "validator" && fault == "job" && !retryable', True),
    ],
)
def test_a_condition_speaks_of_what_the_letter_says(source: str, *, holds: bool) -> None:
    assert compile_where(source)(LETTER) is holds


def test_every_name_there_is_may_be_asked_for_and_is_on_the_page() -> None:
    assert {field.name for field in fields(Letter)} == NAMES
    page = PAGE.read_text("utf-8")
    assert [name for name in NAMES if f"`{name}`" not in page] == []


@pytest.mark.parametrize("source", ["reason ==", "raeson == 'x'", "input.body == 'x'", "reason.nonsense() == 'X'"])
def test_a_condition_that_cannot_be_asked_is_refused_before_anything_is_read(source: str) -> None:
    with pytest.raises(ConditionError):
        compile_where(source)


def test_a_condition_without_an_answer_is_an_error_that_names_the_letter_and_no_payload() -> None:
    unpriced = replace(LETTER, cost_usd=None, error="secret")
    with pytest.raises(ConditionError, match="no answer for letter dl-1") as raised:
        compile_where("cost_usd > 0.01")(unpriced)
    assert "secret" not in str(raised.value)


def test_absent_texts_are_empty_so_that_they_can_be_compared() -> None:
    assert compile_where('job == "" && version == ""')(replace(LETTER, job="", version=""))
