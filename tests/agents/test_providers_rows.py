"""Rows: whatever a service writes into its files becomes one outcome in our words, or no row at all."""

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.providers.openai_batch import headers, online_path
from batchmill.agents.providers.openai_rows import call_of, parse_row, request_line, row_of
from batchmill.agents.settings import AccountSettings
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome


def line(response=None, error=None, custom_id="r.1"):
    return json.dumps({"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": error}).encode()


def answered(message=None, *, status=200, finish="stop", **body):
    choices = [] if message is None else [{"index": 0, "message": message, "finish_reason": finish}]
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    return {
        "status_code": status,
        "request_id": "x",
        "body": {"model": "m-1", "choices": choices, "usage": usage} | body,
    }


def test_an_answer_is_told_with_its_cost():
    row = parse_row(line(answered({"content": "hello", "refusal": None})))
    assert (row.outcome, row.reason, row.output) == (Outcome.SUCCEEDED, None, "hello")
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == (10, 3, 4)
    assert (row.finish_reason, row.model, row.http_status) == ("stop", "m-1", 200)
    assert row.usage_known
    assert row.billed


def test_a_refusal_and_a_truncation_are_answers_that_were_paid_for():
    refused = parse_row(line(answered({"content": None, "refusal": "I cannot"})))
    assert (refused.outcome, refused.output, refused.refusal) == (Outcome.SUCCEEDED, "", "I cannot")
    cut = parse_row(line(answered({"content": ""}, finish="length")))
    assert (cut.outcome, cut.output, cut.finish_reason) == (Outcome.SUCCEEDED, "", "length")
    assert cut.billed


def test_an_answer_without_usage_is_unpriced_rather_than_free():
    row = parse_row(line(answered({"content": "x"}, usage=None)))
    assert row.outcome is Outcome.SUCCEEDED
    assert not row.usage_known
    assert row.billed


@pytest.mark.parametrize(
    ("status", "error", "reason", "code"),
    [
        (400, {"code": "invalid_request"}, Reason.REQUEST_INVALID, "invalid_request"),
        (400, {"code": None, "type": "invalid_request_error"}, Reason.REQUEST_INVALID, "invalid_request_error"),
        (400, {"code": "context_length_exceeded"}, Reason.TOO_LARGE_FOR_PROVIDER, "context_length_exceeded"),
        (400, {"code": "content_policy_violation"}, Reason.REFUSED_BY_PROVIDER, "content_policy_violation"),
        (404, {"code": "model_not_found"}, Reason.REQUEST_INVALID, "model_not_found"),
        (429, {"code": "rate_limit_exceeded"}, Reason.THROTTLED, "rate_limit_exceeded"),
        (429, {"type": "insufficient_quota"}, Reason.THROTTLED, "insufficient_quota"),
        (500, {"code": None}, Reason.PROVIDER_ERROR, "http_500"),
        (503, None, Reason.PROVIDER_ERROR, "http_503"),
        (0, None, Reason.PROVIDER_ERROR, "http_0"),
    ],
)
def test_an_http_failure_is_an_unbilled_error_with_a_reason(status, error, reason, code):
    body = {} if error is None else {"error": error | {"message": "you said: PRIVATE"}}
    row = parse_row(line({"status_code": status, "request_id": "", "body": body}))
    assert (row.outcome, row.reason, row.error_code, row.http_status) == (Outcome.ERROR, reason, code, status)
    assert not row.billed
    assert "PRIVATE" not in repr(row)


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        ("batch_expired", Outcome.EXPIRED, Reason.EXPIRED),
        ("batch_cancelled", Outcome.CANCELLED, Reason.PROVIDER_CANCELLED),
        ("something_else", Outcome.ERROR, Reason.PROVIDER_ERROR),
    ],
)
def test_a_row_that_never_ran_costs_nothing(code, outcome, reason):
    row = parse_row(line(None, {"code": code, "message": "m"}))
    assert (row.outcome, row.reason, row.error_code, row.billed) == (outcome, reason, code, False)


@pytest.mark.parametrize(
    "response",
    [
        answered(None),
        answered({"content": None}),
        {"status_code": 200, "body": {}},
        {"status_code": 200, "body": None},
        {"status_code": 200, "body": {"choices": ["x"]}},
        {"status_code": 200, "body": {"choices": {}, "usage": 7}},
    ],
)
def test_a_success_without_an_answer_is_an_error_that_may_have_been_billed(response):
    row = parse_row(line(response))
    assert (row.outcome, row.reason, row.error_code) == (Outcome.ERROR, Reason.PROVIDER_ERROR, "no_answer")
    assert row.billed


def test_a_row_with_neither_response_nor_error_is_an_error():
    row = parse_row(line())
    assert (row.outcome, row.error_code) == (Outcome.ERROR, "empty_row")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\n", b"{", b"[]", b"null", b'"x"', b'{"id":1}', b"\xff\xfe\x00"),
        *(line(custom_id=None), line(custom_id=""), line(custom_id=7)),
        line(answered({"content": "a long answer"}))[:-9],
    ],
)
def test_a_line_that_names_no_row_is_given_up(data):
    assert parse_row(data) is None


def test_a_line_that_is_not_utf8_keeps_its_row_and_its_cost_but_not_its_text():
    data = line(answered({"content": "caf#"})).replace(b"#", b"\xe9")
    row = parse_row(data)
    assert (row.custom_id, row.outcome, row.error_code) == ("r.1", Outcome.ERROR, "line_not_utf8")
    assert row.output is None
    assert (row.input_tokens, row.usage_known, row.billed) == (10, True, True)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["body", "choices", "message", "usage", "error", "code", "status_code"]), inner
        )
    ),
    max_leaves=12,
)


@given(response=json_values, error=json_values)
def test_no_shape_of_a_row_breaks_the_reader_and_reason_is_none_exactly_on_success(response, error):
    row = parse_row(line(response, error))
    assert row.custom_id == "r.1"
    assert (row.reason is None) == (row.outcome is Outcome.SUCCEEDED) == (row.output is not None)
    assert row.input_tokens >= 0


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data):
    parse_row(data)


def test_an_input_line_is_one_line_and_the_same_every_time():
    body = b'{"messages":[{"content":"a\\nb","role":"user"}],"model":"m"}'
    made = request_line(custom_id="r.1", endpoint="/v1/chat/completions", body=body)
    assert made == (
        b'{"custom_id":"r.1","method":"POST","url":"/v1/chat/completions",'
        b'"body":{"messages":[{"content":"a\\nb","role":"user"}],"model":"m"}}\n'
    )


# Other endpoints ---------------------------------------------------------------------------------------------------

CHAT = {
    "max_completion_tokens": 200,
    "messages": [{"content": "Sort.", "role": "system"}, {"content": "on fire", "role": "user"}],
    "model": "m",
    "reasoning_effort": "low",
    "response_format": {
        "json_schema": {"name": "o", "schema": {"type": "object", "properties": {"z": {}, "a": {}}}, "strict": True},
        "type": "json_schema",
    },
    "temperature": 0.5,
}


def body_of(endpoint, body):
    made = json.loads(request_line(custom_id="r.1", endpoint=endpoint, body=json.dumps(body).encode()))
    assert made["url"] == endpoint
    return made["body"]


def test_a_question_is_put_to_responses_in_its_own_words_and_the_schema_keeps_its_order():
    body = body_of("/v1/responses", CHAT)
    assert body == {
        "input": [{"content": "on fire", "role": "user"}],
        "instructions": "Sort.",
        "max_output_tokens": 200,
        "model": "m",
        "reasoning": {"effort": "low"},
        "temperature": 0.5,
        "text": {
            "format": {
                "type": "json_schema",
                "name": "o",
                "schema": {"type": "object", "properties": {"z": {}, "a": {}}},
                "strict": True,
            }
        },
    }
    assert list(body["text"]["format"]["schema"]["properties"]) == ["z", "a"]


def test_a_question_without_a_system_text_or_a_schema_says_nothing_of_them_to_responses():
    body = body_of("/v1/responses", {"messages": [{"content": "on fire", "role": "user"}], "model": "m"})
    assert body == {"input": [{"content": "on fire", "role": "user"}], "model": "m"}


def test_an_embedding_is_asked_for_one_text():
    asked = {"messages": [{"content": "on fire", "role": "user"}], "model": "m", "dimensions": 8}
    assert body_of("/v1/embeddings", asked) == {"input": "on fire", "model": "m", "dimensions": 8}


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"])
def test_a_single_call_asks_what_the_line_asks(endpoint):
    made = request_line(custom_id="r.1", endpoint=endpoint, body=json.dumps(CHAT).encode())
    assert json.loads(call_of(made)) == json.loads(made)["body"]
    assert online_path(endpoint) == endpoint.removeprefix("/v1/")


def responded(*items, status="completed", **body):
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 13,
    }
    return {
        "object": "response",
        "model": "m-1",
        "status": status,
        "output": list(items),
        "usage": usage,
        "error": None,
    } | body


def message(*parts):
    return {"type": "message", "role": "assistant", "content": list(parts)}


def output_text(text):
    return {"type": "output_text", "text": text, "annotations": []}


def test_a_response_is_told_with_all_its_texts_and_its_cost():
    body = responded({"type": "reasoning", "summary": []}, message(output_text("hel"), output_text("lo")))
    row = parse_row(line({"status_code": 200, "body": body}))
    assert (row.outcome, row.output, row.refusal, row.finish_reason) == (Outcome.SUCCEEDED, "hello", None, "stop")
    assert (row.input_tokens, row.output_tokens, row.cached_tokens, row.cache_write_tokens) == (10, 3, 4, 2)
    assert row.model == "m-1"


def test_a_response_that_refuses_was_cut_off_or_failed_is_told_as_such():
    refused = row_of("r.1", 200, json.dumps(responded(message({"type": "refusal", "refusal": "I cannot"}))).encode())
    assert (refused.outcome, refused.output, refused.refusal) == (Outcome.SUCCEEDED, "", "I cannot")
    why = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    cut = row_of("r.1", 200, json.dumps(responded(message(output_text("hel")), **why)).encode())
    assert (cut.output, cut.finish_reason) == ("hel", "length")
    thought = row_of("r.1", 200, json.dumps(responded({"type": "reasoning"}, **why)).encode())
    assert (thought.outcome, thought.output, thought.finish_reason) == (Outcome.SUCCEEDED, "", "length")
    failed = responded(status="failed", error={"code": "server_error", "message": "PRIVATE"})
    row = row_of("r.1", 200, json.dumps(failed).encode())
    assert (row.outcome, row.error_code, row.billed) == (Outcome.ERROR, "server_error", True)
    assert "PRIVATE" not in repr(row)


@pytest.mark.parametrize("vector", [[0.5, -0.25], base64.b64encode(struct.pack("<2f", 0.5, -0.25)).decode()])
def test_an_embedding_is_told_as_the_json_text_of_its_vector_and_has_no_output_tokens(vector):
    body = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": vector}], "model": "e-1"}
    row = row_of("r.1", 200, json.dumps(body | {"usage": {"prompt_tokens": 7, "total_tokens": 7}}).encode())
    assert (row.outcome, json.loads(row.output), row.finish_reason) == (Outcome.SUCCEEDED, [0.5, -0.25], "stop")
    assert (row.input_tokens, row.output_tokens, row.usage_known) == (7, 0, True)


@pytest.mark.parametrize(
    "data", [[], [{}], [{"embedding": "not base64"}], [{"embedding": "AAA="}], [{"embedding": []}]]
)
def test_an_embedding_without_a_vector_is_no_answer(data):
    row = row_of("r.1", 200, json.dumps({"object": "list", "data": data}).encode())
    assert (row.outcome, row.error_code) == (Outcome.ERROR, "no_answer")


@pytest.mark.parametrize(
    ("status", "body", "reason", "code", "billed"),
    [
        (
            400,
            b'{"error":{"code":"context_length_exceeded"}}',
            Reason.TOO_LARGE_FOR_PROVIDER,
            "context_length_exceeded",
            False,
        ),
        (502, b"<html>bad gateway</html>", Reason.PROVIDER_ERROR, "http_502", False),
        (200, b"not json", Reason.PROVIDER_ERROR, "no_answer", True),
        (200, b"[]", Reason.PROVIDER_ERROR, "no_answer", True),
    ],
)
def test_a_single_call_that_brought_no_answer_is_told_like_a_row(status, body, reason, code, billed):
    row = row_of("r.1", status, body)
    assert (row.custom_id, row.reason, row.error_code, row.http_status) == ("r.1", reason, code, status)
    assert row.billed is billed


@given(
    status=st.integers(0, 599), body=st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode())
)
def test_no_answer_to_a_single_call_breaks_the_reader(status, body):
    row = row_of("r.1", status, body)
    assert (row.reason is None) == (row.outcome is Outcome.SUCCEEDED)


# Azure -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base_url", ["https://r.example", "https://r.example/openai/", "https://r.example/openai/v1/"])
def test_azure_is_called_at_its_v1_address_with_its_own_header(base_url):
    azure = AccountSettings(kind="azure", base_url=base_url, api_key="k")
    assert azure.url == "https://r.example/openai/v1"
    assert (headers(azure)["api-key"], "authorization" in headers(azure)) == ("k", False)
    plain = AccountSettings(kind="compatible", base_url="https://r.example/x", api_key="k")
    assert (plain.url, headers(plain)["authorization"]) == ("https://r.example/x", "Bearer k")


@pytest.mark.parametrize(
    ("logprobs", "mean"),
    [
        ({"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}], "refusal": None}, -1.0),
        ({"content": [{"token": "a", "logprob": 0}]}, 0.0),
        ({"content": [{"token": "a", "logprob": -9999.0}]}, -9999.0),
        ({"content": [{"token": "a", "logprob": -0.5}, {"token": "b"}]}, None),
        ({"content": [{"logprob": "-0.5"}]}, None),
        ({"content": [{"logprob": True}]}, None),
        ({"content": [{"logprob": 1e300}]}, None),
        ({"content": [5]}, None),
        ({"content": []}, None),
        ({"content": None}, None),
        (None, None),
    ],
)
def test_how_sure_the_tokens_were_is_told_only_when_each_of_them_says_it(logprobs, mean):
    response = answered({"content": "x"})
    response["body"]["choices"][0]["logprobs"] = logprobs
    assert parse_row(line(response)).logprob_mean == mean


def test_a_response_tells_the_tokens_of_all_its_texts():
    parts = [output_text("a") | {"logprobs": [{"logprob": -1.0}]}, output_text("b") | {"logprobs": [{"logprob": -3.0}]}]
    told, silent = responded(message(*parts)), responded(message(output_text("a")))
    assert parse_row(line({"status_code": 200, "body": told})).logprob_mean == -2.0
    assert parse_row(line({"status_code": 200, "body": silent})).logprob_mean is None


def test_a_damaged_line_says_nothing_of_its_tokens():
    response = answered({"content": "x"})
    response["body"]["choices"][0]["logprobs"] = {"content": [{"logprob": -0.5}]}
    damaged = line(response).replace(b'"x"', b'"\xff"')
    assert parse_row(damaged).logprob_mean is None
