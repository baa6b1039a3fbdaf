"""Examples: shown as turns before the question, made like the question, the same bytes for every record."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import RetrievalSpec, ToolsSpec
from batchmill.schemas.jobs import InputSpec, JobSpec
from batchmill.schemas.records import WorkItem
from batchmill.streams.compiling import compile_job
from batchmill.streams.exemplifying import EXAMPLES_MAX, ExampleError, examples_of
from batchmill.streams.rendering import TemplateError, request_form
from tests.streams.making import decide, make_raw, make_spec

SCHEMA = {
    "type": "object",
    "properties": {
        "z": {"type": "string"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "a": {"anyOf": [{"type": "object", "properties": {"y": {}, "x": {}}}, {"type": "null"}]},
    },
    "$defs": {"line": {"type": "object", "properties": {"qty": {}, "name": {}}}},
}


def with_examples(*examples: Any, **changes: Any) -> JobSpec:
    spec = make_spec(**changes)
    return replace(spec, ask=replace(spec.ask, examples_json=orjson.dumps(list(examples)).decode()))


def messages(spec: JobSpec, input_json: str = '{"body":"q"}') -> list[dict[str, str]]:
    form = request_form(spec.ask, spec.input)
    found: list[dict[str, str]] = orjson.loads(form.body(input_json))["messages"]
    return found


def test_examples_are_turns_between_the_system_message_and_the_question() -> None:
    spec = with_examples(
        {"input": {"body": "one"}, "output": {"label": "a"}}, {"input": {"body": "two"}, "output": {"label": "b"}}
    )
    assert [(each["role"], each["content"]) for each in messages(spec)] == [
        ("system", "You sort tickets."),
        ("user", "one"), ("assistant", '{"label":"a"}'),
        ("user", "two"), ("assistant", '{"label":"b"}'),
        ("user", "q"),
    ]  # fmt: skip


def test_an_answer_is_written_in_the_order_of_the_schema_at_every_depth() -> None:
    output = {"a": {"x": 1, "y": 2}, "new": 0, "lines": [{"name": "n", "qty": 2.0}], "z": "é"}
    (example,) = examples_of(
        with_examples({"input": {"body": "x"}, "output": output}, output_schema=SCHEMA).ask, InputSpec()
    )
    assert example.answer == '{"z":"é","lines":[{"qty":2,"name":"n"}],"a":{"y":2,"x":1},"new":0}'


def test_free_text_is_shown_as_it_is() -> None:
    spec = with_examples({"input": {"body": "x"}, "output": 'Say "hi".'}, output_schema=None)
    assert messages(spec)[-2]["content"] == 'Say "hi".'


def test_a_form_that_is_a_text_is_shown_as_json() -> None:
    spec = with_examples({"input": {"body": "x"}, "output": "hi"}, output_schema={"type": "string"})
    assert messages(spec)[-2]["content"] == '"hi"'


@given(st.text(max_size=30), st.sampled_from([None, "NFC", "NFKC"]), st.booleans())
def test_an_example_is_asked_as_the_event_of_the_same_text_would_be(text: str, form: Any, strip: bool) -> None:
    given_ = InputSpec(normalize=form, strip_control=strip, max_chars={"body": 7})
    spec = with_examples({"input": {"body": text, "n": 1.0}, "output": {}}, given=given_, user="{{ input }}")
    item = decide(spec, make_raw({"body": text, "n": 1.0}))
    assert isinstance(item, WorkItem)
    said = messages(spec, item.input_json)
    assert said[1]["content"] == said[-1]["content"]


@given(st.lists(st.text(max_size=9), max_size=4))
def test_all_before_the_question_is_the_same_for_every_record(bodies: list[str]) -> None:
    spec = with_examples({"input": {"body": "one"}, "output": {"label": "a"}})
    openings = [messages(spec, orjson.dumps({"body": body}).decode())[:-1] for body in bodies]
    assert all(opening == openings[0] for opening in openings)


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ({"input": {"body": "x"}}, "two members"),
        ({"input": "x", "output": {}}, "two members"),
        ({"input": {"body": "x"}, "output": {}, "note": ""}, "two members"),
        ("x", "two members"),
        ({"input": {}, "output": {}}, "user template, line 1: a member it uses is absent"),
    ],
)
def test_an_example_that_cannot_be_shown_is_told_by_its_number(example: Any, says: str) -> None:
    spec = with_examples({"input": {"body": "x"}, "output": {}}, example)
    with pytest.raises(ExampleError, match=f"example 2: .*{says}"):
        request_form(spec.ask)
    with pytest.raises(ExampleError):
        compile_job(spec, "v")


def test_a_whole_number_of_any_size_is_shown_as_the_record_would_have_it() -> None:
    spec = make_spec(user="{{ input }}")
    ask = replace(spec.ask, examples_json='[{"input":{"n":123456789012345678901234567890},"output":{}}]')
    assert (
        orjson.loads(request_form(ask).body("{}"))["messages"][1]["content"] == '{"n":"123456789012345678901234567890"}'
    )


def test_there_are_so_many_examples_and_no_more() -> None:
    example = {"input": {"body": "x"}, "output": {}}
    assert len(request_form(with_examples(*[example] * EXAMPLES_MAX).ask).turns) == 2 * EXAMPLES_MAX
    with pytest.raises(ExampleError, match=f"at most {EXAMPLES_MAX}"):
        request_form(with_examples(*[example] * (EXAMPLES_MAX + 1)).ask)


def test_the_rules_close_the_system_message() -> None:
    spec = make_spec()
    ask = replace(spec.ask, missing=" Answer null. ", uncertain="Answer `other`.")
    missing = "When the input does not say what is asked for: Answer null."
    rules = f"{missing}\nWhen the input leaves the answer open: Answer `other`."
    said = orjson.loads(request_form(ask).body('{"body":"q"}'))["messages"]
    assert said[0]["content"] == f"You sort tickets.\n\n{rules}"
    alone = orjson.loads(request_form(replace(ask, system=None)).body('{"body":"q"}'))["messages"]
    assert alone == [{"content": rules, "role": "system"}, {"content": "q", "role": "user"}]


def test_a_system_template_may_still_speak_of_the_record() -> None:
    spec = make_spec(system="Sort for {{ input.body }}.")
    ask = replace(spec.ask, missing="Answer null.")
    said = orjson.loads(request_form(ask).body('{"body":"me"}'))["messages"][0]["content"]
    assert said.startswith("Sort for me.\n\nWhen the input does not say")


def test_an_embedding_has_no_use_for_examples_and_rules() -> None:
    whole = make_spec(system=None, output_schema=None, params="{}").ask
    bare = replace(whole, model=replace(whole.model, endpoint="/v1/embeddings"))
    assert request_form(bare)
    for changes in ({"examples_json": "[]"}, {"missing": "x"}, {"uncertain": "x"}):
        with pytest.raises(TemplateError, match="leave it out"):
            request_form(replace(bare, **changes))


def test_what_an_example_brings_as_looked_up_is_shown_as_it_is_whatever_cleaning_does_to_a_record() -> None:
    looked_up = {"context": [{"id": "a#1", "document": "a", "text": "x  <b>y</b>"}], "tools": {"n": " 1 "}}
    user = "{{ input.body }}|{{ input.context[0].text }}|{{ input.tools.n }}|{{ input.extra is defined }}"
    spec = with_examples(
        {"input": {"body": "<i>one</i>", "extra": 1, **looked_up}, "output": {"label": "a"}}, user=user
    )
    retrieval = RetrievalSpec(index="docs", sha256="0" * 64, query="$.body")
    tools = ToolsSpec(calculate={"n": "string(size(input.body))"})
    spec = replace(spec, ask=replace(spec.ask, retrieval=retrieval, tools=tools))
    spec = replace(spec, input=InputSpec(keep=("$.body",), strip_markup=True, collapse_space=True))
    (shown,) = examples_of(spec.ask, spec.input)
    assert shown.input == {"body": "one", **looked_up}
    (turn,) = (each["content"] for each in messages(spec, orjson.dumps(shown.input).decode())[1:2])
    assert turn == "one|x  <b>y</b>| 1 |false"
