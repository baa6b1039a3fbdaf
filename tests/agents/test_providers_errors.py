"""Errors: a status and a code decide, a message never does; and how long a provider asks us to wait."""

from datetime import UTC, datetime

import pytest

from batchmill.agents.providers.errors import Complaint, complaint_in, error_for, retry_after_seconds
from batchmill.streams.ports import (
    Action,
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
        ({"type": "error", "error": {"type": "b", "details": {"error_code": "a"}}}, "a"),
        ({"type": "error", "error": {"type": "b", "details": {"error_code": 7.5}}}, "b"),
        ({"type": "error", "error": {"type": "b", "details": None}}, "b"),
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


def test_results_that_were_removed_are_not_there_and_a_create_that_meets_the_same_word_is_refused():
    removed = error_for(410, Complaint(code="x"), spends=False, headers={}, now=NOW)
    assert type(removed) is NotFoundError
    assert type(error_for(410, Complaint(code="x"), spends=True, headers={}, now=NOW)) is RefusedError


@pytest.mark.parametrize("status", [400, 405, 413, 418, 422, 301])
def test_what_was_understood_and_declined_is_refused(status):
    assert type(error_for(status, Complaint(code="x"), spends=True, headers={}, now=NOW)) is RefusedError


@pytest.mark.parametrize(
    ("status", "kind", "code", "error"),
    [
        (400, "invalid_request_error", "", RefusedError),
        (400, "invalid_request_error", "organization_on_hold", MustPauseError),
        (401, "authentication_error", "", MustPauseError),
        (402, "billing_error", "", MustPauseError),
        (402, "billing_error", "linked_organization_spend_limit_reached", MustPauseError),
        (403, "permission_error", "", MustPauseError),
        (404, "not_found_error", "", NotFoundError),
        (409, "conflict_error", "", OutcomeUnknownError),
        (413, "request_too_large", "", RefusedError),
        (429, "rate_limit_error", "", TransientError),
        (429, "rate_limit_error", "ramp_limit_exceeded", TransientError),
        (429, "rate_limit_error", "enforced_spend_limit_reached", MustPauseError),
        (429, "rate_limit_error", "contract_spend_limit_reached", MustPauseError),
        (500, "api_error", "", OutcomeUnknownError),
        (504, "timeout_error", "", OutcomeUnknownError),
        (529, "overloaded_error", "", OutcomeUnknownError),
    ],
)
def test_anthropics_words_are_told_by_type_and_code(status, kind, code, error):
    said = {"type": "error", "error": {"type": kind, "message": "m", "details": {"error_code": code}}}
    complaint = complaint_in(said, "x")
    assert complaint.code == (code or kind)
    assert type(error_for(status, complaint, spends=True, headers={}, now=NOW)) is error
    looking = error_for(status, complaint, spends=False, headers={}, now=NOW)
    assert type(looking) is (TransientError if error is OutcomeUnknownError else error)


def test_a_key_that_is_refused_without_a_code_is_told_by_its_status():
    said = {"error": {"message": "m", "type": "invalid_request_error", "param": None, "code": None}}
    refused = error_for(401, complaint_in(said, "x"), spends=False, headers={}, now=NOW)
    assert (type(refused), refused.code) == (MustPauseError, "http_401")


def test_a_create_that_is_too_large_as_a_whole_may_pass_in_halves_and_a_look_up_may_not():
    for status, code in ((413, "request_too_large"), (400, "file_too_large"), (400, "duplicate_custom_id")):
        refused = error_for(status, Complaint(code=code), spends=True, headers={}, now=NOW)
        assert (type(refused), refused.action) == (RefusedError, Action.RETRY_ROW)
    assert error_for(413, Complaint(code="x"), spends=False, headers={}, now=NOW).action is Action.TERMINAL
    assert error_for(400, Complaint(code="x"), spends=True, headers={}, now=NOW).action is Action.TERMINAL


RPC = "type.googleapis.com/google.rpc."


def google(status, word, *details):
    return {"error": {"code": status, "status": word, "message": "PRIVATE", "details": list(details)}}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (google(429, "RESOURCE_EXHAUSTED"), Complaint(code="RESOURCE_EXHAUSTED", kind="RESOURCE_EXHAUSTED")),
        ([google(400, "INVALID_ARGUMENT")], Complaint(code="INVALID_ARGUMENT", kind="INVALID_ARGUMENT")),
        (
            google(403, "PERMISSION_DENIED", {"@type": f"{RPC}ErrorInfo", "reason": "BILLING_DISABLED"}),
            Complaint(code="BILLING_DISABLED", kind="PERMISSION_DENIED"),
        ),
        (
            google(429, "RESOURCE_EXHAUSTED", {"@type": f"{RPC}RetryInfo", "retryDelay": "34.5s"}, "?"),
            Complaint(code="RESOURCE_EXHAUSTED", kind="RESOURCE_EXHAUSTED", wait_seconds=34.5),
        ),
        (
            google(429, "RESOURCE_EXHAUSTED", {"retryDelay": "soon"}),
            Complaint(code="RESOURCE_EXHAUSTED", kind="RESOURCE_EXHAUSTED"),
        ),
        (
            {"detail": [{"type": "missing", "loc": ["body", "input_files", 0], "msg": "PRIVATE"}]},
            Complaint(code="missing", param="input_files"),
        ),
        ({"detail": []}, Complaint(code="fallback")),
        ({"detail": [7]}, Complaint(code="fallback")),
        ({"detail": "Unauthorized"}, Complaint(code="fallback")),
        (
            {"object": "error", "type": "rate_limited", "code": "1300", "param": None, "message": "PRIVATE"},
            Complaint(code="1300", kind="rate_limited"),
        ),
    ],
)
def test_google_s_and_mistral_s_refusals_are_read_by_their_words_and_never_by_their_messages(document, complaint):
    assert complaint_in(document, "fallback") == complaint


@pytest.mark.parametrize("code", ["API_KEY_INVALID", "SERVICE_DISABLED", "CONSUMER_SUSPENDED", "BILLING_DISABLED"])
@pytest.mark.parametrize("spends", [True, False])
def test_a_key_or_project_that_may_not_pauses_whatever_the_status(code, spends):
    assert type(error_for(400, Complaint(code=code), spends=spends, headers={}, now=NOW)) is MustPauseError


def test_a_precondition_is_the_account_s_when_money_is_spent_and_the_batch_s_when_it_is_not():
    complaint = Complaint(code="FAILED_PRECONDITION")
    assert type(error_for(400, complaint, spends=True, headers={}, now=NOW)) is MustPauseError
    assert type(error_for(400, complaint, spends=False, headers={}, now=NOW)) is RefusedError


def test_a_wait_in_the_document_outranks_one_in_the_headers():
    complaint = Complaint(code="x", wait_seconds=3.0)
    assert error_for(429, complaint, spends=True, headers={"retry-after": "9"}, now=NOW).retry_after_seconds == 3.0
