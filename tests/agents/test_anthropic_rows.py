"""Rows of Anthropic: a chat body becomes its parameters, and whatever comes back becomes one outcome, or no row."""

import json

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.providers.anthropic_rows import call_of, parse_row, request_line, row_of
from batchmill.agents.providers.anthropic_schema import narrowed
from batchmill.agents.simulator.answering import Question
from batchmill.agents.simulator.anthropic.rows import AnthropicDialect
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.unusable import Unusable

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "number", "minimum": 0, "maximum": 1}, "label": {"enum": ["a", "b"]}},
    "required": ["score", "label"],
    "additionalProperties": False,
}


def line_of(**body):
    given = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    return request_line(custom_id="r-1", body=json.dumps(given).encode(), output_tokens_default=4_096)


def params_of(**body):
    return json.loads(line_of(**body))["params"]


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_is_one_line_and_the_same_every_time():
    body = b'{"max_completion_tokens":7,"messages":[{"content":"a\\nb","role":"user"}],"model":"m"}'
    made = request_line(custom_id="r-1", body=body, output_tokens_default=None)
    assert made == (
        b'{"custom_id":"r-1","params":{"model":"m","messages":[{"content":"a\\nb","role":"user"}],"max_tokens":7}}\n'
    )


@pytest.mark.parametrize(
    ("body", "tokens"),
    [({}, 4_096), ({"max_completion_tokens": 7}, 7), ({"max_tokens": 9}, 9), ({"max_tokens": 0}, 0)],
)
def test_a_limit_on_the_answer_is_always_sent(body, tokens):
    params = params_of(**body)
    assert params["max_tokens"] == tokens
    assert "max_completion_tokens" not in params


def test_system_messages_stand_beside_the_conversation():
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "{"}]
    system = {"role": "system", "content": "Be brief."}
    params = params_of(messages=[system, *said])
    assert (params["system"], params["messages"]) == ("Be brief.", said)
    assert params_of(messages=[system, said[0], {"role": "developer", "content": "In French."}])["system"] == (
        "Be brief.\n\nIn French."
    )
    blocks = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    assert params_of(messages=[{"role": "system", "content": blocks}, system, *said])["system"] == [
        *blocks,
        {"type": "text", "text": "Be brief."},
    ]
    assert "system" not in params_of(messages=said)


def test_what_has_the_same_meaning_under_another_name_is_renamed_and_the_rest_is_passed_on():
    params = params_of(stop="END", temperature=0.2, top_k=5, thinking={"type": "disabled"}, never_heard_of=1)
    assert params["stop_sequences"] == ["END"]
    assert params_of(stop=["A", "B"])["stop_sequences"] == ["A", "B"]
    assert {name: params[name] for name in ("temperature", "top_k", "thinking", "never_heard_of")} == {
        "temperature": 0.2,
        "top_k": 5,
        "thinking": {"type": "disabled"},
        "never_heard_of": 1,
    }


@pytest.mark.parametrize(
    "body",
    [
        {"stream": False},
        {"n": 2},
        {"store": True},
        {"speed": "fast"},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_cannot_be_said_in_a_batch_of_messages_is_refused_for_a_reason(body):
    with pytest.raises(Unusable) as refused:
        line_of(**body)
    assert refused.value.reason is Reason.REQUEST_INVALID


def test_a_wanted_schema_becomes_the_format_and_joins_what_else_is_said_of_the_output():
    wanted = {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": SCHEMA}}
    params = params_of(response_format=wanted, output_config={"effort": "low"})
    assert params["output_config"]["effort"] == "low"
    assert params["output_config"]["format"] == {"type": "json_schema", "schema": narrowed(SCHEMA)}
    assert "response_format" not in params
    assert "output_config" not in params_of(response_format={"type": "text"})


def test_a_schema_no_answer_can_be_held_to_is_not_sent():
    open_ended = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    assert "output_config" not in params_of(response_format=open_ended)


def test_a_single_call_asks_what_the_payload_line_asks():
    line = line_of(max_completion_tokens=7, messages=[{"role": "user", "content": "Grüße"}])
    assert json.loads(call_of(line)) == json.loads(line)["params"]
    assert call_of(line) in line


# -- schemas -----------------------------------------------------------------------------------------------------------


def test_bounds_are_said_in_words_and_members_keep_their_order():
    sent = narrowed({"type": "object", "properties": {"z": {"type": "integer", "minimum": 1}, "a": {"type": "null"}}})
    assert sent == {
        "type": "object",
        "properties": {"z": {"type": "integer", "description": '{"minimum":1}'}, "a": {"type": "null"}},
        "additionalProperties": False,
    }
    assert list(sent["properties"]) == ["z", "a"]
    assert narrowed({"type": "string", "description": "A name.", "maxLength": 3})["description"] == (
        'A name.\n\n{"maxLength":3}'
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        {"type": "array", "items": {"type": "object", "properties": {}}},
        {"anyOf": [True]},
    ],
)
def test_an_object_with_free_names_cannot_be_asked_for(schema):
    assert narrowed(schema) is None


scalars = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "maxLength": 5},
        {"type": "string", "pattern": "^a+$"},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "iri"},
        {"type": "integer", "minimum": 0, "exclusiveMaximum": 9},
        {"type": ["number", "null"], "multipleOf": 0.5},
        {"enum": ["a", "b"]},
        {"const": 1},
        {"type": "boolean", "description": "Yes?"},
    ]
)
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(lambda part, least: {"type": "array", "items": part, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(lambda parts: {"oneOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda parts, closed: (
                {"type": "object", "properties": parts, "required": list(parts)[:1]}
                | ({"additionalProperties": False} if closed else {})
            ),
            st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
            st.booleans(),
        ),
    ),
    max_leaves=6,
)


@given(schemas)
def test_whatever_schema_is_sent_the_service_takes_it(schema):
    sent = narrowed(schema)
    form = {"type": "json_schema", "json_schema": {"name": "o", "schema": schema}}
    request = AnthropicDialect().request(line_of(response_format=form))
    assert request.invalid is None
    assert request.question == Question(model="m", text="hi", chars=2, schema=sent, output_tokens_max=4_096)
    jsonschema_rs.validator_for(sent)


# -- outcomes ----------------------------------------------------------------------------------------------------------


def result(**result):
    return json.dumps({"custom_id": "r-1", "result": result}).encode()


def a_message(*texts, stop="end_turn", **changes):
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 2,
        "output_tokens": 3,
    }
    content = [{"type": "text", "text": text} for text in texts]
    return {"model": "m-1", "content": content, "stop_reason": stop, "usage": usage} | changes


def answered(*texts, **changes):
    return parse_row(result(type="succeeded", message=a_message(*texts, **changes)))


def errored(error):
    return parse_row(result(type="errored", error={"type": "error", "error": error, "request_id": None}))


def test_an_answer_is_told_with_its_cost_and_cached_tokens_are_input_too():
    row = answered("hel", "lo")
    assert (row.outcome, row.reason, row.output) == (Outcome.SUCCEEDED, None, "hello")
    assert (row.input_tokens, row.cached_tokens, row.cache_write_tokens, row.output_tokens) == (16, 4, 2, 3)
    assert (row.finish_reason, row.model, row.http_status) == ("stop", "m-1", None)
    assert row.usage_known
    assert row.billed


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause_turn"),
        (None, None),
    ],
)
def test_the_reason_it_stopped_is_told_in_the_words_of_the_house(stop, finish):
    assert answered("x", stop=stop).finish_reason == finish


def test_what_the_model_thought_is_no_part_of_the_answer():
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]
    assert answered(content=content).output == "yes"


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (a_message("I can't.", stop="refusal"), "I can't."),
        (a_message(stop="refusal", stop_details={"category": "bio", "explanation": "No labs."}), "No labs."),
        (a_message(stop="refusal", stop_details={"category": "bio", "explanation": None}), "bio"),
        (a_message(stop="refusal", stop_details=None), "refused"),
    ],
)
def test_a_refusal_is_an_answer_that_was_paid_for(message, refusal):
    row = parse_row(result(type="succeeded", message=message))
    assert (row.outcome, row.output, row.refusal, row.finish_reason) == (Outcome.SUCCEEDED, "", refusal, "stop")
    assert row.billed


def test_an_answer_cut_before_its_first_word_is_an_answer_that_was_paid_for():
    row = answered(stop="max_tokens")
    assert (row.outcome, row.output, row.finish_reason, row.billed) == (Outcome.SUCCEEDED, "", "length", True)


@pytest.mark.parametrize("changes", [{"content": []}, {"content": None}, {"content": [7, {"type": "tool_use"}]}])
def test_a_success_without_an_answer_is_an_error_that_was_billed(changes):
    row = answered(**changes)
    assert (row.outcome, row.reason, row.error_code) == (Outcome.ERROR, Reason.PROVIDER_ERROR, "no_answer")
    assert (row.billed, row.input_tokens) == (True, 16)


def test_an_answer_without_usage_is_unpriced_rather_than_free():
    row = answered("x", usage=None)
    assert (row.outcome, row.usage_known, row.billed) == (Outcome.SUCCEEDED, False, True)


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        ({"type": "invalid_request_error"}, Reason.REQUEST_INVALID, "invalid_request_error"),
        ({"type": "not_found_error"}, Reason.REQUEST_INVALID, "not_found_error"),
        ({"type": "request_too_large"}, Reason.REQUEST_INVALID, "request_too_large"),
        ({"type": "rate_limit_error"}, Reason.THROTTLED, "rate_limit_error"),
        ({"type": "billing_error"}, Reason.THROTTLED, "billing_error"),
        (
            {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}},
            Reason.THROTTLED,
            "enforced_spend_limit_reached",
        ),
        ({"type": "overloaded_error"}, Reason.PROVIDER_ERROR, "overloaded_error"),
        ({"type": "api_error"}, Reason.PROVIDER_ERROR, "api_error"),
        ({"type": "something_new"}, Reason.PROVIDER_ERROR, "something_new"),
        (None, Reason.PROVIDER_ERROR, "errored"),
    ],
)
def test_an_errored_row_has_a_reason_and_costs_nothing(error, reason, code):
    row = errored(error if error is None else error | {"message": "you said: PRIVATE"})
    assert (row.outcome, row.reason, row.error_code, row.http_status) == (Outcome.ERROR, reason, code, None)
    assert not row.billed
    assert "PRIVATE" not in repr(row)


@pytest.mark.parametrize(
    ("kind", "outcome", "reason"),
    [
        ("expired", Outcome.EXPIRED, Reason.EXPIRED),
        ("canceled", Outcome.CANCELLED, Reason.PROVIDER_CANCELLED),
        ("something_else", Outcome.ERROR, Reason.PROVIDER_ERROR),
    ],
)
def test_a_row_that_never_ran_costs_nothing(kind, outcome, reason):
    row = parse_row(result(type=kind))
    assert (row.outcome, row.reason, row.billed) == (outcome, reason, False)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\n", b"{", b"[]", b"null", b'"x"', b'{"result":{}}', b"\xff\xfe\x00", b'{"custom_id":""}'),
        *(b'{"custom_id":7}', result(type="succeeded", message=a_message("a long answer"))[:-9]),
    ],
)
def test_a_line_that_names_no_row_is_given_up(data):
    assert parse_row(data) is None


def test_a_line_that_is_not_utf8_keeps_its_row_and_its_cost_but_not_its_text():
    row = parse_row(result(type="succeeded", message=a_message("caf#")).replace(b"#", b"\xe9"))
    assert (row.custom_id, row.outcome, row.error_code) == ("r-1", Outcome.ERROR, "line_not_utf8")
    assert row.output is None
    assert (row.input_tokens, row.cached_tokens, row.cache_write_tokens, row.billed) == (16, 4, 2, True)


def test_the_reply_to_a_single_call_is_read_like_a_row_and_keeps_its_status():
    row = row_of("r-1", 200, json.dumps(a_message("yes")).encode())
    assert (row.custom_id, row.output, row.http_status, row.billed) == ("r-1", "yes", 200, True)
    damaged = row_of("r-1", 200, json.dumps(a_message("caf#")).encode().replace(b"#", b"\xe9"))
    assert (damaged.outcome, damaged.error_code) == (Outcome.ERROR, "line_not_utf8")
    for status, kind, reason in (
        (400, "invalid_request_error", Reason.REQUEST_INVALID),
        (404, "not_found_error", Reason.REQUEST_INVALID),
        (413, "request_too_large", Reason.REQUEST_INVALID),
        (429, "rate_limit_error", Reason.THROTTLED),
        (529, "overloaded_error", Reason.PROVIDER_ERROR),
    ):
        refused = row_of("r-1", status, json.dumps({"type": "error", "error": {"type": kind}}).encode())
        assert (refused.reason, refused.error_code, refused.http_status) == (reason, kind, status)
        assert not refused.billed
    assert row_of("r-1", 502, b"<html>").error_code == "http_502"
    assert row_of("r-1", 200, b"<html>").error_code == "no_answer"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "message", "content", "text", "usage", "error", "details", "stop_reason"]), inner
        )
    ),
    max_leaves=12,
)


@given(kind=st.sampled_from(["succeeded", "errored", "canceled"]) | json_values, body=json_values)
def test_no_shape_of_a_row_breaks_the_reader_and_reason_is_none_exactly_on_success(kind, body):
    row = parse_row(result(type=kind, message=body, error=body))
    assert row.custom_id == "r-1"
    assert (row.reason is None) == (row.outcome is Outcome.SUCCEEDED) == (row.output is not None)
    assert row.input_tokens >= row.cached_tokens + row.cache_write_tokens >= 0


@given(st.binary(max_size=200), st.integers(min_value=100, max_value=599))
def test_no_bytes_break_the_reader(data, status):
    parse_row(data)
    assert row_of("r-1", status, data).custom_id == "r-1"
