"""Mistral's rows: what differs from OpenAI's, in whose words its result lines come."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.providers.mistral_rows import parse_row, request_line
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


def line(content="hello", *, finish="stop", status=200, body=None):
    message = {"role": "assistant", "content": content, "tool_calls": None}
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    answer = {"model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}
    response = {"status_code": status, "body": answer if body is None else body}
    return json.dumps({"id": "batch-1", "custom_id": "r-1", "response": response, "error": None}).encode()


def test_an_answer_is_told_with_its_cost():
    row = parse_row(line())
    assert (row.custom_id, row.outcome, row.output, row.finish_reason) == ("r-1", Outcome.SUCCEEDED, "hello", "stop")
    assert (row.input_tokens, row.output_tokens, row.model, row.usage_known) == (10, 3, "m-1", True)


def test_an_answer_in_parts_is_its_texts_without_the_thoughts():
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    row = parse_row(line([thinking, {"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}, 7]))
    assert (row.outcome, row.output) == (Outcome.SUCCEEDED, "hello")


def test_a_cut_by_the_model_s_own_limit_is_a_cut():
    assert parse_row(line("ha", finish="model_length")).finish_reason == "length"
    assert parse_row(line("ha", finish="length")).finish_reason == "length"


def test_an_answer_that_broke_off_is_never_taken_for_a_whole_one_and_was_paid_for():
    row = parse_row(line("half an ans", finish="error"))
    assert (row.outcome, row.reason, row.output) == (Outcome.ERROR, Reason.PROVIDER_ERROR, None)
    assert (row.input_tokens, row.billed) == (10, True)


@pytest.mark.parametrize(
    ("status", "body", "reason", "code"),
    [
        (429, {"object": "error", "type": "rate_limited", "code": "1300"}, Reason.THROTTLED, "1300"),
        (400, {"object": "error", "type": "invalid_request_error", "code": None}, Reason.REQUEST_INVALID, None),
        (422, {"detail": [{"type": "missing", "loc": ["body", "messages"]}]}, Reason.REQUEST_INVALID, "missing"),
        (500, {}, Reason.PROVIDER_ERROR, "http_500"),
        (0, {}, Reason.PROVIDER_ERROR, "http_0"),
    ],
)
def test_a_failed_row_is_an_unbilled_error_with_a_reason(status, body, reason, code):
    row = parse_row(line(status=status, body=body))
    assert (row.outcome, row.reason, row.error_code) == (Outcome.ERROR, reason, code or "invalid_request_error")
    assert not row.billed


def test_a_line_that_is_not_utf8_keeps_its_row_and_its_cost_but_not_its_text():
    row = parse_row(line("caf#").replace(b"#", b"\xe9"))
    assert (row.custom_id, row.outcome, row.error_code) == ("r-1", Outcome.ERROR, "line_not_utf8")
    assert (row.output, row.input_tokens, row.billed) == (None, 10, True)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", line()[:-9], b'{"response":{}}'])
def test_a_line_that_names_no_row_is_given_up(data):
    assert parse_row(data) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["text", "error", "model_length", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "type", "text", "finish_reason"]), inner)
    ),
    max_leaves=12,
)


@given(body=json_values)
def test_no_shape_of_a_row_breaks_the_reader_and_reason_is_none_exactly_on_success(body):
    row = parse_row(line(body=body or {}))
    assert (row.reason is None) == (row.outcome is Outcome.SUCCEEDED) == (row.output is not None)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data):
    parse_row(data)


def test_an_input_line_is_one_line_in_mistral_s_words_and_the_model_is_the_job_s():
    form = {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": {"z": 1, "a": 2}}}
    body = {
        "model": "mistral-small-latest",
        "seed": 7,
        "response_format": form,
        "messages": [{"role": "user", "content": "a\nb"}],
        "max_completion_tokens": 5,
    }
    made = request_line(custom_id="r-1", endpoint=CHAT, body=json.dumps(body).encode())
    assert made == (
        b'{"custom_id":"r-1","body":{"max_tokens":5,"messages":[{"role":"user","content":"a\\nb"}],'
        b'"random_seed":7,"response_format":{"type":"json_schema","json_schema":{"name":"o","strict":true,'
        b'"schema":{"z":1,"a":2}}}}}\n'
    )


def test_the_sdk_reads_the_body_as_its_own():
    models = pytest.importorskip("mistralai.client.models")
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 5, "seed": 1}
    row = json.loads(request_line(custom_id="r-1", endpoint=CHAT, body=json.dumps(body).encode()))
    read = models.ChatCompletionRequest.model_validate(row["body"] | {"model": "m"})
    assert (read.max_tokens, read.random_seed) == (5, 1)


def test_an_embedding_is_asked_with_the_text_alone_and_answered_with_its_vector():
    models = pytest.importorskip("mistralai.client.models")
    body = {"model": "mistral-embed", "messages": [{"role": "user", "content": "a"}], "dimensions": 8}
    row = json.loads(request_line(custom_id="r-1", endpoint=EMBEDDINGS, body=json.dumps(body).encode()))
    assert row["body"] == {"input": "a", "output_dimension": 8}
    models.EmbeddingRequest.model_validate(row["body"] | {"model": "m"})
    answer = {"object": "list", "data": [{"index": 0, "embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 1}}
    told = parse_row(line(body=answer))
    assert (json.loads(told.output), told.input_tokens, told.output_tokens) == ([0.5, 0.25], 1, 0)
