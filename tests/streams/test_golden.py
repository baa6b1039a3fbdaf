"""Gold records: what is one, what their run is called, and which lives were asked them."""

from typing import Any

import pytest

from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import InputSpec
from batchmill.streams.cleaning import compile_cleaner
from batchmill.streams.golden import GoldError, answers, asked_sha256, gold_of, run_of_gold
from batchmill.streams.jsontext import canonical

AS_IT_IS = compile_cleaner(InputSpec())
COMPOSED = compile_cleaner(InputSpec(normalize="NFKC"))


def line(name: Any = "a", **changes: Any) -> Any:
    return {"id": name, "input": {"body": "x"}, "output": {"label": "pos"}} | changes


def test_gold_is_read_by_id_in_the_order_of_the_file() -> None:
    found = gold_of([(1, line("b")), (3, line(7, input=None))])
    assert list(found) == ["b", "7"]
    assert found["7"].input is None


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (["a"], "an object with id, input and output"),
        (line(label="pos"), "an object with id, input and output"),
        (line(None), "`id` must be a text or a whole number"),
        (line(True), "`id` must be a text or a whole number"),
        (line(""), "`id` must be a text or a whole number"),
        (line(output={}), "`output` must be an object"),
        (line(input="x"), "`input` must be an object"),
        (line(input={"body": "\ud800"}), "half a character"),
    ],
)
def test_what_is_no_gold_record_is_named_by_its_line(told: Any, why: str) -> None:
    with pytest.raises(GoldError, match=f"line 4: .*{why}"):
        gold_of([(4, told)])


def test_an_id_is_given_once() -> None:
    with pytest.raises(GoldError, match="line 2: the id of an earlier line"):
        gold_of([(1, line()), (2, line())])


def test_a_run_is_named_by_what_is_asked_not_by_what_is_right() -> None:
    run = run_of_gold(gold_of([(1, line("a")), (2, line("b"))]))
    assert run.startswith("benchmark:")
    assert run_of_gold(gold_of([(1, line("b", output={"label": "neg"})), (2, line("a"))])) == run
    assert run_of_gold(gold_of([(1, line("a"))])) != run
    assert run_of_gold(gold_of([(1, line("a", input={"body": "y"})), (2, line("b"))])) != run


def sha256(given: Any) -> str:
    return content_sha256(canonical(given))


def test_a_life_answers_what_it_was_asked_after_its_own_normalization() -> None:
    (gold,) = gold_of([(1, line(input={"body": "ﬁne"}))]).values()
    as_it_is, composed = sha256({"body": "ﬁne"}), sha256({"body": "fine"})
    for cleaner, right, wrong in [(AS_IT_IS, as_it_is, composed), (COMPOSED, composed, as_it_is)]:
        about: dict[str, Any] = {"run": "benchmark:x", "run_id": "live", "cleaner": cleaner}
        assert answers(gold, input_sha256=right, **about)
        assert not answers(gold, input_sha256=wrong, **about)
        assert not answers(gold, input_sha256=None, **about)
    assert gold.input == {"body": "ﬁne"}  # it was not cleaned where it stands


def test_a_life_of_the_sets_own_run_answers_whatever_was_put_beside_its_input() -> None:
    (gold,) = gold_of([(1, line())]).values()
    about: dict[str, Any] = {"input_sha256": "another", "cleaner": AS_IT_IS, "run": "benchmark:x"}
    assert answers(gold, run_id="benchmark:x", **about)
    assert not answers(gold, run_id="benchmark:y", **about)


def test_an_input_that_cannot_be_asked_has_no_hash() -> None:
    assert asked_sha256({"body": "x"}, AS_IT_IS) == sha256({"body": "x"})
    assert asked_sha256({"body": float("nan")}, AS_IT_IS) is None
