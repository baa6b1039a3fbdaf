"""Three versions of a job in small, as `make story` has them in large; and what the verdict tells of a worse run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.kafka import RunningCluster
from batchmill.schemas.ids import parse_custom_id
from tests.story.running import Outcome, run
from tests.story.script import script_of
from tests.story.telling import table_text
from tests.story.verdict import faults_of, sources_of

pytestmark = [pytest.mark.timeout(400)]

RECORDS = 400


async def test_a_worse_version_is_stopped_a_better_one_promoted_and_taken_back_and_every_total_is_exact(
    broker: RunningCluster, tmp_path: Path
) -> None:
    told = await run(tmp_path, broker, script_of(RECORDS), say=lambda _: None)
    assert faults_of(told) == [], table_text(told)
    for spoiled, said in SPOILED:
        assert said in "\n".join(faults_of(spoiled(told))), f"nobody would have told: {said}"


# -- what would be told, of the same run ------------------------------------------------------------------------------


def moment(told: Outcome, name: str, **changes: Any) -> Outcome:
    return replace(told, moments={**told.moments, name: replace(told.moments[name], **changes)})


def lost_row(told: Outcome) -> Outcome:
    sink = dict(told.moments["at the end"].sink)
    sink.popitem()
    return moment(told, "at the end", sink=sink)


def billed_twice(told: Outcome) -> Outcome:
    return replace(told, bills=(*told.bills, told.bills[0]))


def never_billed(told: Outcome) -> Outcome:
    return replace(told, bills=told.bills[1:])


def asked_again(told: Outcome) -> Outcome:
    """One request of a record that was there before v3, billed once more after the rollback."""
    source = min(sources_of(told).both)
    names = {each.request_id for each in told.lives if each.source_id == source}
    bill = next(each for each in told.bills if (sent := parse_custom_id(each.custom_id)) and sent.request_id in names)
    return replace(told, bills=(*told.bills, bill))


def not_as_before(told: Outcome) -> Outcome:
    sink = dict(told.moments["rolled back"].sink)
    source = told.script.records[0].id
    sink[source] = replace(sink[source], output='{"label":"odd"}')
    return moment(told, "rolled back", sink=sink)


def passed_over(told: Outcome) -> Outcome:
    """A stale record that was asked by something else than the replay."""
    first = next(each for each in told.lives if each.run_id == "replay:stale")
    return replace(told, lives=tuple(replace(each, run_id="x") if each is first else each for each in told.lives))


def unknown(told: Outcome) -> Outcome:
    """A request that the provider has answered, and nobody has asked."""
    return replace(told, lives=told.lives[1:])


def lost(told: Outcome) -> Outcome:
    return replace(told, account=replace(told.account, lost=1))


def written_again(told: Outcome) -> Outcome:
    again = told.moments["replayed again"]
    source = told.script.records[0].id
    return moment(told, "replayed again", commits={**again.commits, source: again.commits[source] + 1})


def let_through(told: Outcome) -> Outcome:
    sink = dict(told.moments["stopped"].sink)
    source = told.script.records[0].id
    sink[source] = replace(sink[source], version=told.versions["v2"])
    return moment(told, "stopped", sink=sink)


def no_live_record(told: Outcome) -> Outcome:
    return moment(told, "promoted", live=told.moments["tried out"].live)


SPOILED: list[tuple[Callable[[Outcome], Outcome], str]] = [
    (lost, "the account does not hold"),
    (unknown, "1 requests are billed and not known, or known and not billed"),
    (lost_row, "is not what stands in front"),
    (lost_row, "live records were published and not written, or the other way round"),
    (billed_twice, "1 requests were billed more than once"),
    (never_billed, "1 requests are billed and not known, or known and not billed"),
    (asked_again, "1 requests were billed more than once"),
    (not_as_before, "1 records are not in the sink as they were before v3"),
    (passed_over, "1 records are stale and were not asked again, or the other way round"),
    (written_again, "a replay under the same version has written something"),
    (let_through, "something of v2 is in the sink"),
    (no_live_record, "no live record came between two moments"),
]
