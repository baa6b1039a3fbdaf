"""What became of right and of wrong answers: the confusion table, and which mistakes got through.

What lives here: comparing an answer with the gold one, counting, printing. What must not: running anything.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Told", "kind_of", "table_text", "tally"]

RIGHT = "right"
#: kinds of answers, and whether the rules of the job can tell that they are wrong
KINDS: Mapping[str, str] = {
    RIGHT: "as the labellers have it",
    "invented": "a word that is not in the text",
    "left out": "a word of the text without a component",
    "other label": "another class than the labellers'",
    "other name": "the right words, one under another component's name",
    "exchanged": "the right words, two of them under each other's name",
    "no answer": "no JSON of the schema in any attempt",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One record at rest: what the model told last, and where the record is."""

    source_id: str
    gold: Mapping[str, Any]
    output: Mapping[str, Any] | None
    place: str  #: sink | review: REASON | dead letter: REASON


def kind_of(gold: Mapping[str, Any], output: Mapping[str, Any] | None) -> str:
    """Which of KINDS an answer is, from the gold one alone: the job's rules are not asked."""
    if output is None:
        return "no answer"
    if _text(gold) == _text(output):
        return RIGHT
    if gold["label"] != output["label"]:
        return "other label"
    right, told = (Counter(part["value"] for part in each["components"]) for each in (gold, output))
    if told - right:
        return "invented"
    if right - told:
        return "left out"
    names = [Counter(part["name"] for part in each["components"]) for each in (gold, output)]
    return "exchanged" if names[0] == names[1] else "other name"


def tally(told: Iterable[Told]) -> Counter[tuple[str, str]]:
    """(kind, place) -> records."""
    return Counter((kind_of(each.gold, each.output), each.place) for each in told)


def table_text(counts: Counter[tuple[str, str]]) -> str:
    """Markdown: kinds down, places across, the sink first."""
    places = sorted({place for _, place in counts}, key=lambda place: (place != "sink", place))
    lines = ["| answer | " + " | ".join(places) + " | all |", "|---|" + "---:|" * (len(places) + 1)]
    for kind in KINDS:
        row = [counts[kind, place] for place in places]
        if any(row):
            lines.append(f"| {kind} | " + " | ".join(str(n or "") for n in (*row, sum(row))) + " |")
    sums = [sum(n for (_, at), n in counts.items() if at == place) for place in places]
    return "\n".join([*lines, "| all | " + " | ".join(map(str, (*sums, sum(sums)))) + " |"]) + "\n"


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
