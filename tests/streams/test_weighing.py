"""The parts of a question add up to it, and a record that is lost in its prompt is told."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import RetrievalSpec
from batchmill.streams.costing import BYTES_PER_TOKEN
from batchmill.streams.finding import Lint
from batchmill.streams.jsontext import canonical
from batchmill.streams.rendering import request_form
from batchmill.streams.weighing import Scales, Weight, heavy, mean
from tests.streams.making import make_spec

USER = "Subject: {{ input.subject }}\n{% for line in input.lines %}- {{ line }}\n{% endfor %}"
EXAMPLES = json.dumps([{"input": {"subject": "s", "lines": ["é"]}, "output": {"label": "a"}}])


def scales(examples: str | None = EXAMPLES) -> Scales:
    spec = make_spec(system="Sort.", user=USER)
    spec = replace(spec, ask=replace(spec.ask, examples_json=examples, missing="Answer null."))
    return Scales(spec, request_form(spec.ask))


@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=4))
def test_the_parts_add_up_to_the_body(subject: str, lines: list[str]) -> None:
    spec = make_spec(system="For {{ input.subject }}.", user=USER)
    form = request_form(spec.ask)
    item = canonical({"subject": subject, "lines": lines})
    weight = Scales(spec, form).weigh(item)
    assert weight.asked * BYTES_PER_TOKEN == pytest.approx(len(form.body(item)))
    assert weight.fixed + weight.record == weight.asked


def test_only_what_the_record_brings_grows_with_it() -> None:
    made = scales()
    small, large = (made.weigh(canonical({"subject": text, "lines": [text]})) for text in ("a", "a" * 401))
    assert large.record - small.record == 2 * 400 / BYTES_PER_TOKEN
    assert replace(large, record=0) == replace(small, record=0)
    assert small.examples > 0
    assert small.answer == 200


def test_a_template_counts_as_often_as_its_loop_turns() -> None:
    made = scales()
    one, three = (made.weigh(canonical({"subject": "", "lines": ["x"] * n})) for n in (1, 3))
    assert (three.template - one.template) * BYTES_PER_TOKEN == 2 * len(r"- \n")


def retrieving(user: str) -> Scales:
    retrieval = RetrievalSpec(index="pages", sha256="0" * 64, query="$.subject")
    spec = make_spec(system="Sort.", user=user)
    spec = replace(spec, ask=replace(spec.ask, retrieval=retrieval))
    return Scales(spec, request_form(spec.ask))


def test_passages_are_not_weighed_as_the_record_they_were_found_for() -> None:
    made = retrieving("{% for each in input.context %}[{{ each.text }}] {% endfor %}{{ input.subject }}")
    passages = [{"id": "a", "document": "a", "text": "x" * 400}, {"id": "b", "document": "b", "text": "y" * 400}]
    weight = made.weigh(canonical({"subject": "s" * 40, "context": passages}))
    assert (weight.record, weight.found, weight.template) == (40 / BYTES_PER_TOKEN, 800 / BYTES_PER_TOKEN, 6 / 4)
    assert mean([weight, weight]) == weight


def test_a_template_that_cannot_do_without_passages_has_them_weighed_as_the_record() -> None:
    made = retrieving("{{ input.context[0].text }}{{ input.subject }}")
    weight = made.weigh(canonical({"subject": "s" * 40, "context": [{"id": "a", "document": "a", "text": "x" * 400}]}))
    assert (weight.record, weight.found) == (440 / BYTES_PER_TOKEN, 0)


def test_without_examples_they_weigh_nothing() -> None:
    made = scales(examples=None)
    assert made.weigh('{"subject":"a","lines":[]}').examples == 0


LIGHT = Weight(system=100, examples=0, template=0, record=1, form=100, answer=None)


def test_a_long_prompt_over_small_records_is_told() -> None:
    long = replace(LIGHT, system=900)
    told = heavy([long, long])
    assert told is not None
    assert (told.lint, told.error) == (Lint.HEAVY_PROMPT, False)
    assert "some 1001 tokens a sample's question has, 1 are the record's own" in told.message
    for fine in ([], [LIGHT], [replace(long, record=100)]):
        assert heavy(fine) is None


def test_a_mean_is_over_all_parts() -> None:
    assert mean([LIGHT, replace(LIGHT, record=3)]) == replace(LIGHT, record=2)
