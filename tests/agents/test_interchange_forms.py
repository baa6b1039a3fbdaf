"""What a line of a batch file says, whoever wrote it; and nothing is guessed about one that is damaged."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.ingest import SourceRecord
from batchmill.agents.interchange.forms import (
    Asked,
    Form,
    LineError,
    event_value,
    numbered_lines,
    read_request,
    read_result,
    request_text,
)
from batchmill.agents.interchange.importing import request_records

BYTES_MAX = 10_000
OPENAI = {
    "custom_id": "ticket-1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {
        "model": "gpt-5-mini",
        "messages": [{"role": "user", "content": "first"}, {"role": "user", "content": "x"}],
    },
}
ANTHROPIC = {
    "custom_id": "ticket-1",
    "params": {
        "model": "claude",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}],
    },
}


def line(told: Any) -> bytes:
    return json.dumps(told).encode()


def asked(told: Any, form: Form | None = None) -> Asked:
    return read_request(line(told), form, bytes_max=BYTES_MAX)


@pytest.mark.parametrize("form", [None, Form.OPENAI])
def test_an_openai_request_is_read(form: Form | None) -> None:
    found = asked(OPENAI, form)
    assert (found.form, found.custom_id, found.url) == (Form.OPENAI, "ticket-1", "/v1/chat/completions")
    assert found.asks == OPENAI["body"]
    event = json.loads(event_value(found))
    assert event == {"custom_id": "ticket-1", "url": found.url, "body": OPENAI["body"], "text": "x"}


@pytest.mark.parametrize("form", [None, Form.ANTHROPIC])
def test_an_anthropic_request_is_read(form: Form | None) -> None:
    found = asked(ANTHROPIC, form)
    assert (found.form, found.url) == (Form.ANTHROPIC, None)
    assert json.loads(event_value(found)) == {**ANTHROPIC, "text": "a\nb"}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner),
    max_leaves=8,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)


@given(st.sampled_from(Form), texts.filter(bool), json_objects)
def test_what_is_asked_comes_through_whole(form: Form, custom_id: str, asks: dict[str, Any]) -> None:
    member = "body" if form is Form.OPENAI else "params"
    event = json.loads(event_value(asked({"custom_id": custom_id, member: asks})))
    assert (event["custom_id"], event[member]) == (custom_id, asks)


@pytest.mark.parametrize(
    ("asks", "text"),
    [
        ({"input": "a"}, "a"),
        ({"input": ["a", "b"]}, "b"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}, "a"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "system", "content": "a"}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, None),
        ({"messages": [{"role": "user", "content": 7}]}, None),
        ({"messages": "a"}, "a"),
        ({"messages": [7, None]}, None),
        ({"input": []}, None),
        ({}, None),
    ],
)
def test_the_text_is_the_last_that_the_user_says(asks: dict[str, Any], text: str | None) -> None:
    assert request_text(Asked(form=Form.OPENAI, custom_id="x", asks=asks)) == text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "object"),
        (b'{"custom_id": "\xff"}', "UTF-8"),
        (b'{"custom_id": "a", "custom_id": "b", "body": {}}', "twice"),
        (b'{"body": {}}', "custom_id"),
        (b'{"custom_id": 7, "body": {}}', "custom_id"),
        (b'{"custom_id": "", "body": {}}', "custom_id"),
        (line({"custom_id": "x" * 600, "body": {}}), "custom_id"),
        (b'{"custom_id": "a"}', "one of them"),
        (b'{"custom_id": "a", "body": {}, "params": {}}', "one of them"),
        (b'{"custom_id": "a", "body": []}', "object `body`"),
        (line({"custom_id": "a", "body": {"x": "y" * BYTES_MAX}}), "at most"),
    ],
)
def test_a_request_line_that_cannot_be_used_says_why(content: bytes, says: str) -> None:
    with pytest.raises(LineError, match=says):
        read_request(content, None, bytes_max=BYTES_MAX)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(content: bytes) -> None:
    assert _said(lambda: read_request(content, None, bytes_max=BYTES_MAX))
    assert _said(lambda: read_result(content, Form.OPENAI))


def _said(read: Callable[[], Any]) -> str:
    try:
        return str(read())
    except LineError as wrong:
        return str(wrong)


def test_a_form_that_is_named_holds_for_every_line() -> None:
    with pytest.raises(LineError, match="object `params`"):
        asked(OPENAI, Form.ANTHROPIC)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b'{"custom_id": "a"}', b'{"response": {}}', line(OPENAI)]
)
def test_a_line_that_is_no_result_is_refused(content: bytes) -> None:
    with pytest.raises(LineError, match="result line"):
        read_result(content, None)


def test_a_result_with_a_broken_character_still_names_its_request() -> None:
    told = {"custom_id": "a", "response": {"status_code": 200, "body": {"choices": [{"message": {"content": "?"}}]}}}
    row = read_result(line(told).replace(b"?", b"\xff"), None)
    assert (row.custom_id, row.error_code) == ("a", "line_not_utf8")


# -- lines -------------------------------------------------------------------------------------------------------------


def test_lines_keep_their_numbers_and_blank_ones_are_passed_over() -> None:
    file = io.BytesIO(b'{"a": 1}\r\n\n  \n{"b": 2}')
    assert list(numbered_lines(file, bytes_max=100)) == [(1, b'{"a": 1}'), (4, b'{"b": 2}')]


def test_an_endless_line_costs_itself_only() -> None:
    file = io.BytesIO(b"a" * 1_000 + b"\n" + b"b" * 10 + b"\n" + b"c" * 11)
    assert list(numbered_lines(file, bytes_max=10)) == [(1, None), (2, b"b" * 10), (3, None)]


@given(st.lists(st.binary(max_size=30).filter(lambda text: b"\n" not in text)), st.integers(1, 20))
def test_every_line_is_told_once_under_its_number(lines: list[bytes], bytes_max: int) -> None:
    found = dict(numbered_lines(io.BytesIO(b"\n".join(lines)), bytes_max=bytes_max))
    for number, text in enumerate(lines, start=1):
        if len(text) > bytes_max:
            assert number in found
            assert found[number] in {None, text.rstrip(b"\r")}
        elif text.strip():
            assert found[number] == text.rstrip(b"\r\n")


def test_request_lines_become_raw_events_and_the_others_are_named() -> None:
    lines = [(1, line(OPENAI)), (2, b"{"), (3, None), (5, line({**ANTHROPIC, "custom_id": "ä"}))]
    first, second, third, last = request_records(lines, None, bytes_max=BYTES_MAX)
    assert (first.line, first.key, first.trouble) == (1, b"ticket-1", None)
    assert (second.line, second.value, "JSON" in (second.trouble or "")) == (2, b"", True)
    assert third == SourceRecord(line=3, trouble="longer than 10000 bytes")
    assert (last.key, json.loads(last.value)["custom_id"]) == ("ä".encode(), "ä")
