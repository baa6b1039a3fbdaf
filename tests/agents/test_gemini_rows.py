"""Gemini's rows: whatever a service writes into its file becomes one outcome in our words, or no row at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.providers.gemini_rows import parse_row, request_line
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["pos", "neg"]}, "age": {"type": ["integer", "null"]}},
    "required": ["label", "age"],
    "additionalProperties": False,
}


def line(response=None, **members):
    return json.dumps({"key": "r-1"} | ({} if response is None else {"response": response}) | members).encode()


def answered(*texts, finish="STOP", **response):
    parts = [each if isinstance(each, dict) else {"text": each} for each in texts]
    usage = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 20,
        "cachedContentTokenCount": 4,
        "totalTokenCount": 33,
    }
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m-1"} | response


def test_an_answer_is_told_with_its_cost_and_thoughts_are_output():
    row = parse_row(line(answered({"text": "hm", "thought": True}, "hel", "lo")))
    assert (row.outcome, row.reason, row.output) == (Outcome.SUCCEEDED, None, "hello")
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == (10, 23, 4)
    assert (row.finish_reason, row.model, row.http_status) == ("stop", "m-1", 200)
    assert row.usage_known
    assert row.billed


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "RECITATION", "SPII", "LANGUAGE"])
def test_an_answer_that_was_withheld_is_a_refusal_that_was_paid_for(reason):
    row = parse_row(line(answered(finish=reason)))
    assert (row.outcome, row.output, row.refusal, row.finish_reason) == (
        Outcome.SUCCEEDED,
        "",
        reason,
        "content_filter",
    )
    assert (row.input_tokens, row.billed, row.usage_known) == (10, True, True)


def test_a_question_that_was_blocked_is_a_refusal_too():
    blocked = {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 10}}
    row = parse_row(line(blocked))
    assert (row.outcome, row.refusal, row.finish_reason) == (Outcome.SUCCEEDED, "OTHER", "content_filter")
    assert (row.input_tokens, row.output_tokens) == (10, 0)


def test_an_answer_that_was_cut_is_told_even_when_thoughts_left_no_room_for_it():
    assert parse_row(line(answered("ha", finish="MAX_TOKENS"))).output == "ha"
    empty = parse_row(line(answered(finish="MAX_TOKENS")))
    assert (empty.outcome, empty.output, empty.finish_reason) == (Outcome.SUCCEEDED, "", "length")


@pytest.mark.parametrize("reason", ["OTHER", "MALFORMED_RESPONSE", "CONTINUATION", "A_WORD_OF_TOMORROW"])
def test_an_answer_that_stopped_for_no_good_reason_is_never_taken_for_a_whole_one(reason):
    row = parse_row(line(answered("half an ans", finish=reason)))
    assert (row.outcome, row.reason, row.error_code) == (Outcome.ERROR, Reason.PROVIDER_ERROR, reason)
    assert (row.output, row.billed, row.output_tokens) == (None, True, 23)


@pytest.mark.parametrize("response", [answered(), {}, {"candidates": []}, {"candidates": ["x"]}, {"candidates": {}}])
def test_an_answer_without_anything_in_it_is_an_error_that_may_have_been_billed(response):
    row = parse_row(line(response))
    assert (row.outcome, row.error_code, row.billed) == (Outcome.ERROR, "no_answer", True)


def test_an_answer_without_usage_is_unpriced_rather_than_free():
    row = parse_row(line(answered("x", usageMetadata=None)))
    assert (row.outcome, row.usage_known, row.billed) == (Outcome.SUCCEEDED, False, True)


@pytest.mark.parametrize(
    ("error", "reason", "code", "status"),
    [
        ({"code": 3}, Reason.REQUEST_INVALID, "INVALID_ARGUMENT", 400),
        ({"code": 5}, Reason.REQUEST_INVALID, "NOT_FOUND", 404),
        ({"code": 8}, Reason.THROTTLED, "RESOURCE_EXHAUSTED", 429),
        ({"code": 13}, Reason.PROVIDER_ERROR, "INTERNAL", 500),
        ({"code": 14}, Reason.PROVIDER_ERROR, "UNAVAILABLE", 503),
        ({"code": 429}, Reason.THROTTLED, "http_429", 429),
        ({"code": 400}, Reason.REQUEST_INVALID, "http_400", 400),
        ({}, Reason.PROVIDER_ERROR, "empty_row", None),
    ],
)
@pytest.mark.parametrize("member", ["error", "status"])
def test_a_failed_row_is_an_unbilled_error_with_a_reason(error, reason, code, status, member):
    row = parse_row(line(**{member: error | {"message": "you said: PRIVATE"}}))
    assert (row.outcome, row.reason, row.error_code, row.http_status) == (Outcome.ERROR, reason, code, status)
    assert not row.billed
    assert "PRIVATE" not in repr(row)


def test_a_row_that_a_cancelled_batch_did_not_come_to_costs_nothing():
    row = parse_row(line(error={"code": 1}))
    assert (row.outcome, row.reason, row.billed) == (Outcome.CANCELLED, Reason.PROVIDER_CANCELLED, False)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\n", b"{", b"[]", b"null", b'"x"', b'{"response":{}}', b"\xff\xfe\x00", b'{"key":7}', b'{"key":""}'),
        line(answered("a long answer"))[:-9],
    ],
)
def test_a_line_that_names_no_row_is_given_up(data):
    assert parse_row(data) is None


def test_a_line_that_is_not_utf8_keeps_its_row_and_its_cost_but_not_its_text():
    row = parse_row(line(answered("caf#")).replace(b"#", b"\xe9"))
    assert (row.custom_id, row.outcome, row.error_code) == ("r-1", Outcome.ERROR, "line_not_utf8")
    assert (row.output, row.input_tokens, row.usage_known, row.billed) == (None, 10, True, True)


words = ["candidates", "content", "parts", "text", "finishReason", "usageMetadata", "promptFeedback", "code", "thought"]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 500)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["STOP", "SAFETY", "MAX_TOKENS", "OTHER", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(words), inner),
    max_leaves=12,
)


@given(response=json_values, error=json_values)
def test_no_shape_of_a_row_breaks_the_reader_and_reason_is_none_exactly_on_success(response, error):
    row = parse_row(json.dumps({"key": "r-1", "response": response, "error": error}).encode())
    assert row.custom_id == "r-1"
    assert (row.reason is None) == (row.outcome is Outcome.SUCCEEDED) == (row.output is not None)
    assert min(row.input_tokens, row.output_tokens, row.cached_tokens) >= 0


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data):
    parse_row(data)


# -- the question ------------------------------------------------------------------------------------------------------


def body(**changes):
    messages = [{"role": "system", "content": "Classify."}, {"role": "user", "content": "a\nb"}]
    form = {"type": "json_schema", "json_schema": {"name": "o", "schema": SCHEMA, "strict": True}}
    chat = {"model": "gemini-2.5-flash", "messages": messages, "response_format": form}
    return json.dumps({name: value for name, value in (chat | changes).items() if value is not None}).encode()


def request(**changes):
    made = request_line(custom_id="r-1", body=body(**changes))
    assert made.count(b"\n") == 1
    assert made.endswith(b"\n")
    row = json.loads(made)
    assert row.keys() == {"key", "request"}
    return row["request"]


def test_a_chat_becomes_contents_with_the_system_beside_them():
    made = request()
    assert made["contents"] == [{"role": "user", "parts": [{"text": "a\nb"}]}]
    assert made["systemInstruction"] == {"parts": [{"text": "Classify."}]}
    assert made["generationConfig"]["responseMimeType"] == "application/json"
    assert made["generationConfig"]["responseSchema"]["properties"]["age"] == {"type": "INTEGER", "nullable": True}
    assert "responseJsonSchema" not in made["generationConfig"]
    assert "model" not in made


def test_turns_of_a_conversation_keep_their_order_and_their_roles():
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    made = request(messages=messages, response_format=None)
    assert [(turn["role"], turn["parts"][0]["text"]) for turn in made["contents"]] == [
        ("user", "ab"),
        ("model", "c"),
        ("user", "d"),
    ]
    assert made.keys() == {"contents"}


def test_parameters_are_renamed_and_the_api_s_own_go_as_they_are():
    made = request(
        max_completion_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop="END",
        seed=7,
        thinkingConfig={"thinkingBudget": 0},
        safetySettings=[{"category": "X", "threshold": "OFF"}],
        response_format={"type": "json_object"},
    )
    assert made["generationConfig"] == {
        "maxOutputTokens": 5,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["END"],
        "seed": 7,
        "thinkingConfig": {"thinkingBudget": 0},
        "responseMimeType": "application/json",
    }
    assert made["safetySettings"] == [{"category": "X", "threshold": "OFF"}]


def test_equal_bodies_give_equal_bytes_whatever_the_order_of_their_members():
    backwards = json.dumps(dict(reversed(json.loads(body(temperature=1, seed=2)).items()))).encode()
    assert request_line(custom_id="r-1", body=backwards) == request_line(
        custom_id="r-1", body=body(temperature=1, seed=2)
    )


def test_the_sdk_reads_the_request_as_its_own():
    types = pytest.importorskip("google.genai.types")
    made = request(max_completion_tokens=5, stop=["END"])
    types.GenerationConfig.model_validate(made["generationConfig"])
    types.Content.model_validate(made["systemInstruction"])
    assert [types.Content.model_validate(turn).role for turn in made["contents"]] == ["user"]


@pytest.mark.parametrize(("told", "mean"), [(-0.25, -0.25), (0, 0.0), ("-1", None), (None, None), (1e300, None)])
def test_how_sure_the_tokens_were_is_the_mean_that_the_candidate_tells(told, mean):
    response = answered("hello")
    response["candidates"][0]["avgLogprobs"] = told
    assert parse_row(line(response)).logprob_mean == mean
