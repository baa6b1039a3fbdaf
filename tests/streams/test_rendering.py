"""Questions: equal items give equal bytes, templates stay in their sandbox, a failure names the line, not the value."""

import subprocess
import sys
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.reasons import Reason
from batchmill.streams.jsontext import canonical
from batchmill.streams.rendering import TemplateError, compile_prompt, is_strict, request_form
from batchmill.streams.unusable import Unusable
from tests.streams.making import OUTPUT_SCHEMA, make_spec

inputs = st.dictionaries(st.text(max_size=6), st.text(max_size=20) | st.integers(-9, 9) | st.none(), max_size=4)


def rendered(user: str, item_input: object, system: str | None = None) -> str:
    body = orjson.loads(request_form(make_spec(user=user, system=system).ask).body(canonical(item_input)))
    content: str = body["messages"][-1]["content"]
    return content


def test_a_body_is_one_canonical_line_with_all_that_the_job_asks_for() -> None:
    body = request_form(make_spec().ask).body('{"body":"on fire"}')
    assert body == (
        b'{"max_completion_tokens":200,"messages":[{"content":"You sort tickets.","role":"system"},'
        b'{"content":"on fire","role":"user"}],"model":"gpt-5-mini","response_format":{"json_schema":{"name":"output",'
        b'"schema":{"type":"object","properties":{"label":{"type":"string"},"confidence":{"type":"number"},'
        b'"summary":{"type":"string"}},"required":["label","confidence"],"additionalProperties":false},'
        b'"strict":false},"type":"json_schema"}}'
    )


def test_the_schema_keeps_the_order_of_its_members_because_models_answer_in_it() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    assert b'"properties":{"z":{"type":"string"},"a"' in request_form(make_spec(output_schema=schema).ask).body(
        '{"body":""}'
    )


@given(inputs)
def test_the_same_item_gives_the_same_bytes(item_input: dict[str, object]) -> None:
    spec = make_spec(user="{% for name in input %}{{ name }}={{ input[name] }};{% endfor %}{{ input }}")
    text = canonical(item_input)
    assert request_form(spec.ask).body(text) == request_form(spec.ask).body(text)


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "from batchmill.streams.rendering import request_form; from batchmill.schemas.asking import AskSpec, ModelSpec;"
        "ask = AskSpec(user='{{ input }}{% for k, v in input.items() %}{{ k }}{% endfor %}',"
        " model=ModelSpec(provider='p', name='m'));"
        'print(request_form(ask).body(\'{"b":[1,2.5,null],"a":{"x":true}}\').hex())'
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ input.items }}", "a field"),
        ("{{ input.none }}|{{ input.yes }}|{{ input.list }}", 'null|true|[1,"é"]'),
        ("{{ input.n }} {{ input.f }}", "3 2.5"),
        ("{{ input.list | json }} {{ input.html | tojson }}", '[1,"é"] "<b>&\'"'),
        ("{{ input.html }}", "<b>&'"),
        ("{{ input.body | upper | truncate(3, true, '', 0) }}", "ON "),
        ("{% if input.absent is defined %}x{% endif %}", ""),
        ("{% for k, v in (input.map | dictsort) %}{{ k }}{{ v }}{% endfor %}", "k1"),
    ],
)
def test_templates_print_json_values(template: str, text: str) -> None:
    item_input = {
        "items": "a field", "none": None, "yes": True, "list": [1, "é"], "n": 3, "f": 2.5, "html": "<b>&'",
        "body": "on fire", "map": {"k": 1},
    }  # fmt: skip
    assert rendered(template, item_input) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ input.absent }}",
        "{{ input.body.x.y }}",
        "{{ input['SECRET'] }}",
        "{{ input[input.key] }}",
        "{{ input.__class__ }}",
        "{{ input.body.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ input.keys }}",
        "{{ input.clear() }}",
        "{{ input.list.append(1) }}",
        "{{ range(10 ** 9) }}",
        "{{ 1 // input.zero }}",
        "{{ input.body + 1 }}",
        "{{ input.list | map('upper') }}",
        "{{ input.body | int(default=input.absent) }}{{ input.absent }}",
    ],
)
def test_a_template_that_fails_on_a_record_is_that_records_render_error(template: str) -> None:
    secret = "hunter2-secret"
    form = request_form(make_spec(user="line one\n" + template, system=None).ask)
    with pytest.raises(Unusable) as caught:
        form.body(canonical({"body": secret, "key": secret, "list": [secret], "zero": 0}))
    assert caught.value.reason is Reason.RENDER_ERROR
    assert secret not in str(caught.value)
    assert "user template, line 2" in caught.value.note


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ input.body", "line 1"),
        ("a\n{% if %}", "line 2"),
        ("{{ subject }}", "'subject' is unknown"),
        ("{% include 'x' %}", "includes another"),
        ("{% import input.x as y %}", "includes another"),
        ("{{ lipsum() }}", "'lipsum' is unknown"),
        ("{{ input.list | random }}", "random"),
        ("{{ input.body | nosuch }}", "nosuch"),
        ("{{ " + "(" * 3_000 + "input.body" + ")" * 3_000 + " }}", "nested too deeply"),
        ("{{ " + "-" * 3_000 + "input.body }}", "nested too deeply"),
        ("{% if input.body %}" * 300 + "{% endif %}" * 300, "nested too deeply"),
    ],
    ids=lambda each: each[:24],
)
def test_a_template_that_is_wrong_for_every_record_is_refused_at_once(template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        compile_prompt(system=None, user=template)


@pytest.mark.parametrize("name", ["stream", "messages", "n", "response_format"])
def test_parameters_that_change_the_protocol_are_refused(name: str) -> None:
    with pytest.raises(TemplateError, match=name):
        request_form(make_spec(params=orjson.dumps({name: 1}).decode()).ask)


STRICT = OUTPUT_SCHEMA | {"required": ["label", "confidence", "summary"]}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (STRICT, True),
        (OUTPUT_SCHEMA, False),
        ({**STRICT, "additionalProperties": True}, False),
        ({**STRICT, "allOf": []}, False),
        ({"type": "array", "items": STRICT}, True),
        ({"type": "array", "items": OUTPUT_SCHEMA}, False),
        ({"anyOf": [STRICT, {"type": "null"}]}, True),
        ({"$ref": "#/$defs/x", "$defs": {"x": OUTPUT_SCHEMA}}, False),
        ({"type": "string", "enum": ["not", "allOf"]}, True),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, False),
        ({"type": "string", "default": ""}, False),
    ],
)
def test_strictness_is_told_from_the_whole_schema(schema: object, strict: bool) -> None:
    assert is_strict(schema) is strict


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/messages", "generateContent", "/v1/chat/completions"])
def test_the_body_is_a_chat_completions_whatever_the_endpoint(endpoint: str) -> None:
    spec = make_spec().ask
    other = replace(spec, model=replace(spec.model, endpoint=endpoint))
    assert request_form(other).body('{"body":"x"}') == request_form(spec).body('{"body":"x"}')


def test_an_endpoint_that_no_provider_has_is_refused() -> None:
    spec = make_spec().ask
    with pytest.raises(TemplateError, match=r"'/v1/images' is not known; known are .*/v1/embeddings"):
        request_form(replace(spec, model=replace(spec.model, endpoint="/v1/images")))


def test_an_embedding_takes_a_text_and_nothing_that_would_be_dropped() -> None:
    whole = make_spec().ask
    model = replace(whole.model, endpoint="/v1/embeddings", params_json="{}")
    bare = replace(whole, system=None, output_schema_json=None, model=model)
    assert orjson.loads(request_form(bare).body('{"body":"x"}')).keys() == {"model", "messages"}
    limited = replace(model, params_json='{"max_output_tokens":5}')
    for ask in (replace(bare, system="Sort."), replace(whole, system=None, model=model), replace(bare, model=limited)):
        with pytest.raises(TemplateError, match="leave it out"):
            request_form(ask)
