"""What the words of a prompt leave open is told at its line; ordinary prompts are left alone."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.jobs import ConfidenceSpec, JobSpec, JudgeSpec
from batchmill.streams.finding import Finding, Lint
from batchmill.streams.wording import VAGUE_WORDS, loose_words
from tests.streams.making import make_spec

LABELS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["label"],
    "properties": {"label": {"enum": ["billing", "out_of_stock"]}},
}
OPEN = {"type": "object", "properties": {"label": {"type": ["string", "null"]}}}


def found(system: str, **changes: Any) -> list[Finding]:
    ask = {name: changes.pop(name) for name in ("missing", "uncertain", "examples_json") if name in changes}
    provider = changes.pop("provider", "openai")
    spec: JobSpec = make_spec(**({"system": system, "output_schema": None} | changes))
    model = replace(spec.ask.model, provider=provider)
    return list(loose_words(replace(spec, ask=replace(spec.ask, model=model, **ask))))


def lints(system: str, **changes: Any) -> list[Lint | None]:
    return [each.lint for each in found(system, **changes)]


@pytest.mark.parametrize("word", VAGUE_WORDS)
def test_every_vague_word_is_told_however_it_is_written(word: str) -> None:
    for text in (f"Sort it, {word}.", f"SORT IT {word.upper()}"):
        assert Lint.VAGUE_WORDING in lints(text)


def test_a_vague_word_is_told_at_its_line_with_what_to_do() -> None:
    (told,) = found("Sort tickets.\nUse an appropriate label.")
    assert (told.where, told.line, told.lint, told.error) == ("$.ask.prompt.system", 2, Lint.VAGUE_WORDING, False)
    assert told.message.startswith("`appropriate`")
    (told,) = found("Sort tickets.", uncertain="Try to guess.")
    assert (told.where, told.line) == ("$.ask.uncertain", None)


@pytest.mark.parametrize(
    "text",
    [
        "Answer `good` or `bad`.",
        'Write "n/a, etc." as it stands.',
        "The goods were fetched; the niceties and the property stay.",
        "{# as appropriate #}Sort tickets.",
        "Inappropriate words are reported.",
    ],
)
def test_names_quotes_comments_and_parts_of_words_are_no_vague_words(text: str) -> None:
    assert Lint.VAGUE_WORDING not in lints(text)


def test_a_value_that_the_job_declares_is_a_name() -> None:
    judge = JudgeSpec(categories={"label": ("good", "bad")})
    assert lints("Say good or bad.", judge=judge) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"output_schema": OPEN}, "the output schema lets `label` be absent"),
        ({"output_schema": OPEN | {"required": ["label"]}}, "the output schema allows null at $.properties.label"),
        ({"output_schema": LABELS, "judge": JudgeSpec(required=("label",))}, "judge requires `label`"),
    ],
)
def test_what_may_be_missing_needs_a_rule(changes: dict[str, Any], why: str) -> None:
    prompt = "Say billing or out of stock."
    (told,) = found(prompt, **changes)
    assert (told.lint, told.line) == (Lint.NO_MISSING_RULE, 1)
    assert why in told.message
    assert found(prompt, missing="Answer null.", **changes) == []
    for rule in (
        "If it is missing, answer null.",
        "Leave out what is not stated.",
        "When the text doesn't say, omit it.",
    ):
        assert found(f"{prompt} {rule}", **changes) == []


def test_a_schema_that_leaves_nothing_open_needs_no_rule() -> None:
    assert found("Say billing or out of stock.", output_schema=LABELS) == []


def test_confidence_needs_a_rule_for_doubt() -> None:
    judge = JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.5))
    assert lints("Sort, with a confidence.", judge=judge) == [Lint.NO_UNCERTAIN_RULE]
    for system, rule in (("When you are unsure, say 0.", None), ("Sort.", "Answer below 0.5.")):
        assert lints(system, judge=judge, uncertain=rule) == []


@pytest.mark.parametrize(
    "text",
    [
        "1. Classify the ticket.\n2. Translate it into French.",
        "- Summarise the text\n- then extract all names",
        "Classify the ticket, and then summarize it.",
        "Label it. In addition, translate it.",
        "What is the topic? Who wrote it?",
    ],
)
def test_more_than_one_task_is_told(text: str) -> None:
    assert Lint.SEVERAL_TASKS in lints(text)


@pytest.mark.parametrize(
    "text",
    [
        "1. Choose one label.\n2. Pick the likelier one when two fit.",
        "- billing: an invoice\n- bug: it does not work",
        "Classify the ticket and give a confidence.",
        "What is the topic? Answer in one word.",
        "Extract the names, then sort nothing.",
    ],
)
def test_one_task_in_several_sentences_is_one_task(text: str) -> None:
    assert Lint.SEVERAL_TASKS not in lints(text)


def test_a_form_that_the_provider_is_not_sent_must_be_named_in_the_prompt() -> None:
    free = LABELS | {"properties": LABELS["properties"] | {"facts": {"type": "object"}}}
    text = "Say billing or out of stock."
    (told,) = found(text, output_schema=free, provider="anthropic", missing="Answer {}.")
    assert told.lint is Lint.SCHEMA_NOT_SHOWN
    assert "`label`, `facts`" in told.message
    assert (
        found(f"{text} Answer JSON with label and facts.", output_schema=free, provider="anthropic", missing="x") == []
    )
    assert found(text, output_schema=free, missing="x") == []


def test_a_value_that_is_never_explained_is_told() -> None:
    (told,) = found("Sort by billing.", output_schema=LABELS)
    assert (told.lint, told.message) == (
        Lint.UNMENTIONED_CATEGORY,
        "the prompt never says when `label` is `out_of_stock`",
    )
    assert found("Billing, or out of stock.", output_schema=LABELS) == []
    described = {"label": {"enum": ["billing", "x"], "description": "billing: money; x: all else"}}
    assert found("Sort.", output_schema=LABELS | {"properties": described}) == []
    shown = json.dumps([{"input": {}, "output": {"label": name}} for name in ("billing", "out_of_stock")])
    assert found("Sort.", output_schema=LABELS, examples_json=shown) == []


def test_long_lists_of_values_are_not_asked_to_be_explained() -> None:
    many = LABELS | {"properties": {"label": {"enum": [f"c{n}" for n in range(21)]}}}
    assert found("Sort.", output_schema=many) == []


def test_what_system_and_user_both_say_is_told_once() -> None:
    sentence = "Answer in one word, lower case."
    (told,) = found(f"Sort. {sentence}", user=f"{{{{ input.body }}}}\n{sentence} {sentence}")[:1]
    assert (told.lint, told.where, told.line) == (Lint.REPEATED_INSTRUCTION, "$.ask.prompt.user", 2)
    assert found("Sort it now.", user="{{ input.body }} Sort it now.") == []
