"""Errors of the ports say what to do by their class, and nothing of the payload."""

import pytest

from batchmill.streams.ports import (
    Action,
    MustPauseError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    RefusedError,
    TransientError,
)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (TransientError, Action.DEFER_CHUNK),
        (OutcomeUnknownError, Action.DEFER_CHUNK),
        (MustPauseError, Action.PAUSE_JOB),
        (RefusedError, Action.TERMINAL),
        (NotFoundError, Action.TERMINAL),
    ],
)
def test_the_class_of_an_error_is_what_to_do(error: type[ProviderError], action: Action) -> None:
    assert error("code").action is action


def test_an_error_tells_code_status_and_hint() -> None:
    told = TransientError("slow_down", http_status=429, retry_after_seconds=2, hint="wait")
    assert str(told) == "slow_down (HTTP 429): wait"
    assert str(TransientError("sink_not_set", hint="set it")) == "sink_not_set: set it"
    assert (told.code, told.http_status, told.retry_after_seconds) == ("slow_down", 429, 2)
