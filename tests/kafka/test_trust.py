"""Answers that are valid and wrong, through the whole pipeline: what the jobs of `tests/trust` promise, in small."""

from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.kafka import RunningCluster
from tests.trust.gold import addresses
from tests.trust.running import CHECKED, RULES_ONLY, Outcome, run
from tests.trust.table import RIGHT, Told, kind_of, table_text, tally
from tests.trust.verdict import faults_of

pytestmark = [pytest.mark.timeout(240)]

RECORDS = 120
RIGHT_ANSWER = {"label": "street", "components": [{"name": "AddressNumber", "value": "12"}]}
INVENTED = {"label": "street", "components": [{"name": "AddressNumber", "value": "89"}]}
RENAMED = {"label": "street", "components": [{"name": "ZipCode", "value": "12"}]}


async def test_what_rules_can_tell_to_be_wrong_is_in_no_sink_and_with_a_second_opinion_nothing_wrong_is(
    broker: RunningCluster, tmp_path: Path
) -> None:
    outcomes = await run(tmp_path, broker, addresses(RECORDS), seed=5, say=lambda _: None)
    assert faults_of(outcomes) == [], {job: table_text(tally(each.told)) for job, each in outcomes.items()}
    made = {kind_of(each.gold, each.output) for each in outcomes[RULES_ONLY].told}
    assert {RIGHT, "invented", "left out", "other name"} <= made, "the model was not wrong enough to show anything"


def outcome(job: str, *told: tuple[dict[str, Any], dict[str, Any] | None, str]) -> Outcome:
    rows = [Told(source_id=str(n), gold=gold, output=output, place=at) for n, (gold, output, at) in enumerate(told)]
    return Outcome(job=job, told=tuple(rows), sink_rows=sum(each.place == "sink" for each in rows))


@pytest.mark.parametrize(
    ("job", "wrong", "at", "said"),
    [
        (RULES_ONLY, INVENTED, "sink", "1 wrong answers are in the sink: ['invented']"),
        (CHECKED, RENAMED, "sink", "1 wrong answers are in the sink: ['other name']"),
        (RULES_ONLY, None, "sink", "1 wrong answers are in the sink: ['no answer']"),
    ],
)
def test_a_wrong_answer_in_a_sink_is_told(job: str, wrong: dict[str, Any] | None, at: str, said: str) -> None:
    good = (RIGHT_ANSWER, RIGHT_ANSWER, "sink")
    outcomes = {each: outcome(each, good) for each in (RULES_ONLY, CHECKED)}
    assert faults_of(outcomes) == []
    outcomes[job] = outcome(job, good, (RIGHT_ANSWER, wrong, at))
    assert faults_of(outcomes) == [f"{job}: {said}"]
