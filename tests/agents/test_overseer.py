"""The overseer's process without a broker: what it takes from the settings, and when it believes to be alone."""

from typing import Any

import pytest

from batchmill.agents import clock
from batchmill.agents.overseer import limits_of
from batchmill.agents.overseer.overseer import _is_over
from batchmill.agents.settings import load_settings


def test_only_accounts_with_a_limit_have_a_pool() -> None:
    told: dict[str, Any] = {
        "accounts.openai.queued_max": 5_000,
        "accounts.openai.lease_seconds": 4,
        "accounts.openai.total_timeout_seconds": 6,
        "accounts.mistral.batches_per_hour_max": 7,
    }
    limits = limits_of(load_settings(told))
    assert limits.queue_max == {"openai": 5_000}
    assert limits.creates_max == {"mistral": 7}
    assert limits.create_ms_max["openai"] == 10_000


@pytest.mark.parametrize(
    ("beat", "over"),
    [
        (None, True),
        ({"instance": "a", "at_ms": 0}, True),
        ({"instance": "a", "at_ms": 10**15}, False),
        ({"instance": "a", "at_ms": 10**15, "left": True}, True),
    ],
)
def test_one_who_was_never_there_has_left_or_is_long_silent_is_not_waited_for(
    beat: dict[str, Any] | None, over: bool
) -> None:
    assert _is_over(beat) is over


def test_a_fresh_heartbeat_is_respected() -> None:
    assert not _is_over({"instance": "a", "at_ms": clock.wall_ms()})
