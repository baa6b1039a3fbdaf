"""The desk's numbers: risk, agreement, calibration, passages. Pure, so held by laws."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.desk.agreeing import agreement, kappa
from batchmill.agents.desk.calibrating import GROUP_MIN, calibration, isotonic, untold
from batchmill.agents.desk.passages import passages
from batchmill.agents.desk.risk import REASON_RISK, risk
from batchmill.agents.projector.reviewing import RatedRow, ReviewedRow
from batchmill.schemas.jobs import CitationSpec, ConfidenceSpec, JudgeSpec
from batchmill.schemas.reasons import Reason
from batchmill.streams.calibrating import calibrated
from batchmill.streams.judging import compile_judge
from tests.streams.making import make_spec

PLAIN = compile_judge(make_spec())
reasons = st.none() | st.sampled_from(Reason)
shares = st.floats(0, 1)
few = st.integers(0, 20)


@given(reasons, st.none() | st.floats(-1, 2), few, few)
def test_a_risk_is_a_share(reason: Reason | None, confidence: float | None, rejected: int, doubted: int) -> None:
    assert 0 <= risk(reason, confidence, rejected=rejected, doubted=doubted) <= 1


@given(reasons, shares, shares, few, few)
def test_no_doubt_lowers_the_risk(reason: Reason | None, one: float, other: float, rejected: int, doubted: int) -> None:
    sure, unsure = max(one, other), min(one, other)
    base = risk(reason, sure, rejected=rejected, doubted=doubted)
    assert base <= risk(reason, unsure, rejected=rejected, doubted=doubted)
    assert base <= risk(reason, sure, rejected=rejected + 1, doubted=doubted)
    assert base <= risk(reason, sure, rejected=rejected, doubted=doubted + 1)


def test_the_order_of_reasons_is_the_documented_one() -> None:
    order = [
        Reason.DISAGREEMENT,
        Reason.RULE_FAILED,
        Reason.UNCITED,
        Reason.SCHEMA_MISMATCH,
        Reason.NOT_JSON,
        Reason.LOW_CONFIDENCE,
        None,
    ]
    risks = [risk(reason, 0.5, rejected=0, doubted=0) for reason in order]
    assert risks == sorted(risks, reverse=True)
    assert len(set(risks)) == len(risks)
    assert all(0 < value < 1 for value in REASON_RISK.values())


# -- agreement ---------------------------------------------------------------------------------------------------------


def said(*units: str) -> list[ReviewedRow]:
    """Each unit: what a, b, c, ... said, a letter each (`-`: nothing)."""
    words = {"a": "accept", "c": "correct", "d": "decline"}
    return [
        ReviewedRow(request_id=f"r{at}", output_sha256_seen="s", actor=f"p{who}", action=words[letter])
        for at, unit in enumerate(units)
        for who, letter in enumerate(unit)
        if letter != "-"
    ]


def test_kappa_is_that_of_the_textbook() -> None:
    """Two readers, 50 proposals: 20 both yes, 15 both no, 5 and 10 differing: kappa 0.4."""
    both = [("accept", "accept")] * 20 + [("decline", "decline")] * 15
    both += [("accept", "decline")] * 5 + [("decline", "accept")] * 10
    assert kappa(both) == pytest.approx(0.4)


def test_agreement_is_over_pairs_and_over_all() -> None:
    told = agreement("triage", said("aa-", "ad-", "d-d", "-aa", "a--"))
    assert told.records == 4
    pairs = {(each.first, each.second): (each.records, each.agreed) for each in told.pairs}
    assert pairs == {("p0", "p1"): (2, 1), ("p0", "p2"): (1, 1), ("p1", "p2"): (1, 1)}
    assert told.alpha is not None
    assert 0 < told.alpha < 1


def test_a_third_opinion_is_none_of_the_independent_ones() -> None:
    told = agreement(None, said("add"))
    assert [(each.first, each.second) for each in told.pairs] == [("p0", "p1")]


def test_without_any_difference_there_is_nothing_to_tell_apart() -> None:
    told = agreement(None, said("aa", "aa"))
    assert (told.alpha, told.pairs[0].kappa, told.pairs[0].agreed) == (None, None, 2)
    assert agreement(None, []).alpha is None


@given(st.lists(st.tuples(st.sampled_from("acd"), st.sampled_from("acd")), min_size=1, max_size=40))
def test_agreement_is_at_most_one_and_one_only_without_a_difference(units: list[tuple[str, str]]) -> None:
    told = agreement(None, said(*("".join(unit) for unit in units)))
    (pair,) = told.pairs
    differs = any(one != other for one, other in units)
    if pair.kappa is not None:
        assert pair.kappa <= 1
        assert (pair.kappa == 1) == (not differs)
    if told.alpha is not None:
        assert told.alpha <= 1
        assert (told.alpha == 1) == (not differs)


# -- calibration -------------------------------------------------------------------------------------------------------


def rated(confidence: float | None, right: int, wrong: int, *, faults: int = 0) -> list[RatedRow]:
    kept = RatedRow(action="accept", version="v1", confidence=confidence, faults=faults)
    return [kept] * right + [replace(kept, action="decline")] * wrong


def test_bins_say_what_was_told_and_what_was_right() -> None:
    told = calibration(
        "triage", [*rated(0.95, 9, 1), *rated(0.55, 2, 2), *rated(None, 3, 0), *rated(0.5, 9, 0, faults=1)], {}
    )
    assert (told.records, told.left_out) == (14, 12)
    assert [(each.low, each.records, each.right_share) for each in told.bins] == [(0.5, 4, 0.5), (0.9, 10, 0.9)]
    assert told.expected_error == pytest.approx(0.05)
    assert told.proposed == ()  # too few decisions for a curve


def test_enough_decisions_propose_a_curve_that_a_job_may_declare() -> None:
    told = calibration(
        "triage", [*rated(0.6, 10, 30), *rated(0.8, 20, 20), *rated(0.9, 15, 25), *rated(0.99, 39, 1)], {}
    )
    assert told.proposed == ((0.6, 0.25), (0.85, 0.4375), (0.99, 0.975))  # 0.8 and 0.9 were the wrong way round
    assert ConfidenceSpec(field="confidence", review_below=0.5, calibration=told.proposed).calibration == told.proposed


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]) | shares, st.booleans()), max_size=300))
def test_whatever_was_decided_the_curve_is_one_or_there_is_none(told: list[tuple[float, bool]]) -> None:
    pairs = isotonic(told)
    if len(told) < GROUP_MIN:
        assert pairs == ()
    if pairs:
        ConfidenceSpec(field="confidence", review_below=0.5, calibration=pairs)
        assert all(0 <= share <= 1 for pair in pairs for share in pair)


@given(st.floats(0, 1))
def test_a_curve_in_force_is_taken_back_first(told: float) -> None:
    curve = ((0.0, 0.1), (0.5, 0.3), (0.8, 0.3), (1.0, 0.9))
    recorded = calibrated(curve, told)
    back = untold(curve, recorded)
    assert back is not None
    if not 0.5 <= told <= 0.8:  # on a level stretch nobody knows
        assert back == pytest.approx(told, abs=1e-6)
    assert untold((), told) == told
    assert untold(curve, 0.95) is None


def test_decisions_under_a_curve_count_by_what_was_told() -> None:
    told = calibration("triage", rated(0.5, 3, 1), {"v1": ((0.0, 0.0), (1.0, 0.5))})
    assert [(each.low, each.told_mean) for each in told.bins] == [(0.9, 1.0)]
    assert calibration("triage", rated(0.7, 3, 1), {"v1": ((0.0, 0.0), (1.0, 0.5))}).left_out == 4


# -- passages ----------------------------------------------------------------------------------------------------------


def test_texts_of_the_answer_are_found_where_they_stand() -> None:
    given_ = {"docs": [{"text": "Paris is in France. Paris!"}], "title": "France"}
    found = passages(PLAIN, given_, {"city": "Paris", "countries": ["France", "Spain"]})
    assert [(each.path, each.start, each.cited_by) for each in found] == [
        ("$.docs[0].text", 0, "$.city"),
        ("$.docs[0].text", 20, "$.city"),
        ("$.docs[0].text", 12, "$.countries[0]"),
        ("$.title", 0, "$.countries[0]"),
    ]


def test_what_a_job_declares_to_be_cited_is_looked_for_there_and_nowhere_else() -> None:
    citation = CitationSpec(id="city", field="$.city", within="$.body")
    judge = compile_judge(make_spec(judge=JudgeSpec(citations=(citation,))))
    found = passages(judge, {"body": "in  PARIS today", "title": "paris"}, {"city": "paris", "day": "today"})
    assert [(each.path, each.start, each.end, each.cited_by) for each in found] == [("$.body", 4, 9, "$.city")]


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=30,
)


@given(json_values, json_values)
def test_passages_lie_inside_a_text_and_are_few(one: Any, other: Any) -> None:
    found = passages(PLAIN, one, other)
    assert len(found) <= 200
    assert all(0 <= each.start < each.end for each in found)
