"""What must hold of the confusion table, whatever its numbers are.

What must not: running anything, counting (`table`).
"""

from collections.abc import Mapping

from tests.trust.running import CHECKED, RULES_ONLY, Outcome
from tests.trust.table import RIGHT, kind_of

__all__ = ["faults_of"]

#: mistakes that a rule of the jobs names
TOLD_BY_RULES = frozenset({"invented", "left out", "no answer"})


def faults_of(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Each promise that was broken, as a sentence; empty when all hold."""
    faults = []
    for job, outcome in outcomes.items():
        in_sink = [each for each in outcome.told if each.place == "sink"]
        kinds = [kind_of(each.gold, each.output) for each in in_sink]
        wrong = [kind for kind in kinds if kind in (TOLD_BY_RULES if job == RULES_ONLY else set(kinds) - {RIGHT})]
        faults += [f"{job}: {len(wrong)} wrong answers are in the sink: {sorted(set(wrong))}"] if wrong else []
        faults += [f"{job}: no right answer is in the sink"] if RIGHT not in kinds else []
        unread = [each for each in outcome.told if each.gold["label"] == "unparseable" and each.place == "sink"]
        faults += [f"{job}: {len(unread)} unparseable addresses are in the sink"] if unread else []
        lost = [
            each.source_id
            for each in outcome.told
            if kind_of(each.gold, each.output) == RIGHT
            and each.gold["label"] == "unparseable"
            and not each.place.startswith("review")
        ]
        faults += [f"{job}: {len(lost)} unparseable addresses told as such are not in review"] if lost else []
        faults += [f"{job}: {outcome.sink_rows} rows in the sink, {len(in_sink)} committed"] * (
            outcome.sink_rows != len(in_sink)
        )
    assert set(outcomes) == {RULES_ONLY, CHECKED}
    return faults
