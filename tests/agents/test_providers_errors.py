"""Errors: a status and a code decide, a message never does; and how long a provider asks us to wait."""

from datetime import UTC, datetime

import pytest

from batchmill.agents.providers.errors import Complaint, complaint_in, error_for, retry_after_seconds
from batchmill.streams.ports import (
    MustPauseError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    TransientError,
)

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_the_wait_is_read_in_every_form_and_nonsense_is_no_wait(headers, seconds):
    assert retry_after_seconds(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"error": {"code": "a", "type": "b"}}, "a"),
        ({"error": {"code": None, "type": "b"}}, "b"),
        ({"error": {"code": 418}}, "418"),
        ({"error": {}}, "fallback"),
        ({"error": "text"}, "fallback"),
        ({"code": "a", "message": "m"}, "a"),
        ([], "fallback"),
        (None, "fallback"),
    ],
)
def test_the_code_is_found_in_whatever_stands_for_an_error(document, code):
    assert complaint_in(document, "fallback").code == code


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599, 408, 409, 425])
def test_the_same_answer_is_unknown_when_it_spends_and_transient_when_it_only_looks(status):
    def named(*, spends):
        return type(error_for(status, Complaint(code="x"), spends=spends, headers={}, now=NOW))

    assert named(spends=True) is OutcomeUnknownError
    assert named(spends=False) is TransientError


@pytest.mark.parametrize("status", [400, 404])
def test_a_create_whose_file_is_gone_may_be_prepared_again(status):
    complaint = complaint_in({"error": {"code": "invalid_input_file_id", "param": "input_file_id"}}, "x")
    assert type(error_for(status, complaint, spends=True, headers={}, now=NOW)) is NotFoundError


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429])
def test_money_outranks_every_status_that_says_no(status):
    complaint = Complaint(code="insufficient_quota")
    assert type(error_for(status, complaint, spends=True, headers={}, now=NOW)) is MustPauseError


def test_a_server_error_that_speaks_of_money_may_still_have_made_the_batch():
    complaint = Complaint(code="insufficient_quota")
    assert type(error_for(500, complaint, spends=True, headers={}, now=NOW)) is OutcomeUnknownError
    assert type(error_for(500, complaint, spends=False, headers={}, now=NOW)) is MustPauseError


@pytest.mark.parametrize("status", [400, 405, 413, 418, 422, 301])
def test_what_was_understood_and_declined_is_refused(status):
    assert type(error_for(status, Complaint(code="x"), spends=True, headers={}, now=NOW)) is RefusedError
