"""What is the same up to the record is told, and what is the same behind it where no provider reuses it."""

from dataclasses import replace

import pytest

from batchmill.streams.finding import Lint
from batchmill.streams.prefixing import Prefix, late_constant, prefix_of
from batchmill.streams.proofreading import remarks
from batchmill.streams.rendering import request_form
from batchmill.streams.weighing import Scales
from tests.streams.making import make_spec

RULES = "Say which of the labels fits, and nothing else but the label. " * 80


@pytest.mark.parametrize(
    ("system", "user", "found"),
    [
        ("Sort.", "Text: {{ input.body }}", Prefix(5 + 6, 0)),
        ("Sort.", "{{ input.body }}, that is all", Prefix(5, 13)),
        ("Sort for {{ input.who }} now.", "Text: {{ input.body }}", Prefix(9, 5 + 6)),
        (None, "a{% if input.b %}b{% endif %}c", Prefix(1, 1)),
        (None, "nothing of the record", Prefix(21, 0)),
    ],
)
def test_constant_text_counts_as_before_up_to_the_first_that_may_differ(system, user, found) -> None:
    assert prefix_of(make_spec(system=system, user=user).ask, 0) == found


def test_examples_and_closing_rules_stand_between_the_system_message_and_the_user() -> None:
    ask = replace(make_spec(system="Sort.", user="{{ input.body }}").ask, missing="Answer null.")
    assert prefix_of(ask, 100).before > 105
    assert prefix_of(replace(ask, system="For {{ input.who }}"), 100).behind > 100


def test_rules_behind_a_record_are_told_and_before_it_they_are_not() -> None:
    late, early = make_spec(user="{{ input.body }}\n" + RULES), make_spec(user=RULES + "{{ input.body }}")
    (told,) = [each for each in remarks(late) if each.lint is Lint.LATE_CONSTANT]
    assert not told.error
    assert "stand behind what the record brings" in told.message
    assert [each for each in remarks(early) if each.lint is Lint.LATE_CONSTANT] == []


def test_a_few_words_behind_a_record_are_nobodys_concern() -> None:
    assert late_constant(make_spec(user=RULES + "{{ input.body }}\nAnswer now.").ask, 0) is None
    assert late_constant(make_spec(user="{{ input.body }}" + RULES[:1_000]).ask, 0) is None, "too short for any cache"


def test_a_question_weighs_what_is_the_same_up_to_the_record() -> None:
    early, late = (
        make_spec(system=None, user=user) for user in (RULES + "{{ input.body }}", "{{ input.body }}" + RULES)
    )
    weights = [Scales(spec, request_form(spec.ask)).weigh('{"body":"x"}') for spec in (early, late)]
    assert [round(weight.prefix) for weight in weights] == [len(RULES) // 4, 0]
