"""A result written in a provider's form is read back as the same result: for all that the form can say."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchmill.agents.interchange.forms import Form, read_result
from batchmill.agents.interchange.results import result_line
from batchmill.agents.providers.errors import POLICY_CODES, TOO_LONG_CODES
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Result
from batchmill.schemas.status import Outcome

anthropic_types = pytest.importorskip("anthropic.types.messages", reason="the official SDK is a development dependency")
openai_chat = pytest.importorskip("openai.types.chat", reason="the official SDK is a development dependency")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
words = st.text(st.characters(categories=["Ll", "Nd"], max_codepoint=127), min_size=1, max_size=20)
tokens = st.integers(0, 10**6)


def a_result(**changes: Any) -> Result:
    told: dict[str, Any] = {
        "request_id": "a" * 32,
        "job": "triage",
        "version": "v1",
        "attempt": 1,
        "chunk_id": "c",
        "custom_id": "x",
        "outcome": Outcome.SUCCEEDED,
        "output": "yes",
        "output_sha256": "s",
        "finish_reason": "stop",
        "refusal": None,
        "http_status": 200,
        "error_code": None,
        "reason": None,
        "model": "m",
        "input_tokens": 10,
        "output_tokens": 2,
        "cached_tokens": 0,
        "cost_nanos": 5,
        "price_id": "p",
        "answered_by": "provider",
        "received_at_ms": 1_700_000_000_123,
    }
    return Result(**{**told, **changes})


@given(
    texts,
    st.none() | texts,
    st.sampled_from(["stop", "length", "content_filter"]),
    words,
    tokens,
    tokens,
    tokens,
)
def test_an_answer_is_read_back_from_openais_form(
    output: str, refusal: str | None, reason: str, model: str, read: int, cached: int, written: int
) -> None:
    result = a_result(
        output=output,
        refusal=refusal,
        finish_reason=reason,
        model=model,
        input_tokens=read + cached,
        cached_tokens=cached,
        output_tokens=written,
    )
    line = result_line(Form.OPENAI, "ticket-1", result)
    assert line is not None
    row = read_result(line, None)
    assert (row.custom_id, row.outcome, row.reason) == ("ticket-1", Outcome.SUCCEEDED, None)
    assert (row.output, row.refusal, row.finish_reason, row.model) == (output, refusal, reason, model)
    assert (row.input_tokens, row.cached_tokens, row.output_tokens) == (read + cached, cached, written)
    assert (row.usage_known, row.http_status) == (True, 200)
    openai_chat.ChatCompletion.model_validate(json.loads(line)["response"]["body"])


def test_an_answer_without_usage_stays_without() -> None:
    line = result_line(Form.OPENAI, "x", a_result(input_tokens=0, output_tokens=0, cost_nanos=None))
    assert line is not None
    assert not read_result(line, None).usage_known


@given(words, st.sampled_from([None, 400, 404, 429, 500, 503]))
def test_an_error_is_read_back_from_openais_form(code: str, status: int | None) -> None:
    assume(code not in TOO_LONG_CODES | POLICY_CODES)
    result = a_result(
        outcome=Outcome.ERROR, output=None, error_code=code, http_status=status, reason=Reason.PROVIDER_ERROR
    )
    line = result_line(Form.OPENAI, "x", result)
    assert line is not None
    row = read_result(line, None)
    assert (row.outcome, row.error_code, row.http_status) == (Outcome.ERROR, code, status)


@pytest.mark.parametrize(
    ("outcome", "reason"), [(Outcome.EXPIRED, Reason.EXPIRED), (Outcome.CANCELLED, Reason.PROVIDER_CANCELLED)]
)
@pytest.mark.parametrize("form", Form)
def test_a_row_that_never_ran_is_read_back_as_unbilled(form: Form, outcome: Outcome, reason: Reason) -> None:
    line = result_line(form, "x", a_result(outcome=outcome, output=None, http_status=None, reason=reason))
    assert line is not None
    row = read_result(line, None)
    assert (row.outcome, row.reason, row.billed) == (outcome, reason, False)


@pytest.mark.parametrize("form", Form)
def test_a_row_that_the_provider_never_gave_has_no_line(form: Form) -> None:
    assert result_line(form, "x", a_result(outcome=Outcome.MISSING, output=None, reason=Reason.MISSING)) is None


def anthropic_message(result: Result) -> Any:
    """The line as the official SDK reads it."""
    line = result_line(Form.ANTHROPIC, "ticket-1", result)
    assert line is not None
    read = anthropic_types.MessageBatchIndividualResponse.model_validate_json(line)
    assert read.custom_id == "ticket-1"
    return read.result


@given(
    texts, st.sampled_from([("stop", "end_turn"), ("length", "max_tokens"), ("end_turn", "end_turn")]), tokens, tokens
)
def test_the_official_sdk_reads_an_answer_in_anthropics_form(
    output: str, reason: tuple[str, str], read: int, cached: int
) -> None:
    result = a_result(
        output=output,
        finish_reason=reason[0],
        input_tokens=read + cached + 7,
        cached_tokens=cached,
        cache_write_tokens=7,
    )
    told = anthropic_message(result)
    assert (told.type, told.message.stop_reason) == ("succeeded", reason[1])
    assert "".join(block.text for block in told.message.content) == output
    used = told.message.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.cache_creation_input_tokens) == (read, cached, 7)


def test_the_official_sdk_reads_what_failed_in_anthropics_form() -> None:
    failed = a_result(outcome=Outcome.ERROR, error_code="invalid_request_error", reason=Reason.REQUEST_INVALID)
    assert anthropic_message(failed).error.error.type == "invalid_request_error"
    assert anthropic_message(a_result(outcome=Outcome.EXPIRED)).type == "expired"
    assert anthropic_message(a_result(outcome=Outcome.CANCELLED)).type == "canceled"
    assert anthropic_message(a_result(refusal="no", output=None)).message.stop_reason == "refusal"


FINISHED = st.sampled_from(["stop", "length", "tool_calls", "pause_turn"])


@given(texts, st.none() | texts.filter(bool), FINISHED, words, tokens, tokens, tokens, tokens)
def test_an_answer_is_read_back_from_anthropics_form(
    output: str, refusal: str | None, reason: str, model: str, read: int, cached: int, made: int, written: int
) -> None:
    result = a_result(
        output="" if refusal is not None else output,
        refusal=refusal,
        finish_reason="stop" if refusal is not None else reason,
        model=model,
        input_tokens=read + cached + made,
        cached_tokens=cached,
        cache_write_tokens=made,
        output_tokens=written,
    )
    line = result_line(Form.ANTHROPIC, "ticket-1", result)
    assert line is not None
    row = read_result(line, None)
    assert (row.custom_id, row.outcome, row.model) == ("ticket-1", Outcome.SUCCEEDED, model)
    assert (row.output, row.refusal, row.finish_reason) == (result.output, refusal, result.finish_reason)
    assert (row.input_tokens, row.cached_tokens) == (read + cached + made, cached)
    assert (row.cache_write_tokens, row.output_tokens, row.usage_known) == (made, written, True)


@pytest.mark.parametrize("code", ["invalid_request_error", "overloaded_error", "api_error", "something_new"])
def test_an_error_is_read_back_from_anthropics_form_as_unbilled(code: str) -> None:
    result = a_result(
        outcome=Outcome.ERROR, output=None, error_code=code, http_status=None, reason=Reason.PROVIDER_ERROR
    )
    line = result_line(Form.ANTHROPIC, "x", result)
    assert line is not None
    row = read_result(line, None)
    assert (row.outcome, row.error_code, row.billed) == (Outcome.ERROR, code, False)
