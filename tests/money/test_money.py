"""The money table of one provider, and that a planted bug turns it red: a check that cannot fail shows nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.money.__main__ import of_account
from tests.money.accounts import ACCOUNTS
from tests.money.playing import Row
from tests.money.scenarios import SCENARIOS, Scenario

pytestmark = pytest.mark.kafka


def scenarios(*names: str) -> list[Scenario]:
    found = [each for each in SCENARIOS if each.name in names]
    assert len(found) == len(names)
    return found


def played(bootstrap: str, directory: Path, names: list[str], **more: Any) -> tuple[list[Row], list[str]]:
    return asyncio.run(of_account(ACCOUNTS["openai"], bootstrap, directory, scenarios(*names), **more))


def test_a_lost_answer_and_a_kill_after_acceptance_cost_nothing_twice(bootstrap_servers: str, tmp_path: Path) -> None:
    rows, faults = played(bootstrap_servers, tmp_path, ["accept, then 500", "kill -9 after acceptance"])
    assert faults == []
    assert [row.twins for row in rows] == [0, 0]
    assert all(row.batches_paid >= 4 for row in rows)


@pytest.mark.parametrize(
    ("plant", "scenario", "red"),
    [
        ("blind-create", "accept, then 500", "paid twice"),
        ("no-intent", "kill -9 after acceptance", "paid twice"),
        ("rows-only", "rows go missing", "are booked"),
    ],
)
def test_a_planted_bug_turns_the_table_red(
    plant: str, scenario: str, red: str, bootstrap_servers: str, tmp_path: Path
) -> None:
    _, faults = played(bootstrap_servers, tmp_path, [scenario], plant=plant, rest_seconds=20)
    assert any(red in fault for fault in faults), faults
