"""The right answers of the labelled addresses, as the jobs here ask for them: one component per word of the text.

What lives here: reading the data, and the answer each text has. What must not: Kafka, the simulator, judgements.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DATA", "Address", "addresses", "gold_lines"]

DATA = Path(__file__).with_name("data") / "addresses.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One record and what is known of it."""

    id: str
    text: str
    answer: dict[str, Any]


def addresses(limit: int | None = None) -> list[Address]:
    """The first `limit` of the file, each text once: a text that two records share has one answer only."""
    found: dict[str, Address] = {}
    with DATA.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = " ".join(row["text"].split())
            if text:
                found.setdefault(text, Address(id=row["id"], text=text, answer=_answer(row, text)))
    return list(found.values())[:limit]


def gold_lines(known: Iterable[Address]) -> Iterator[str]:
    """What the simulator reads."""
    return (json.dumps({"text": each.text, "label": each.answer}) + "\n" for each in known)


def _answer(row: dict[str, Any], text: str) -> dict[str, Any]:
    parts = {name: value.split() for name, value in (row["meta"]["gold"] or {}).items()}
    components = []
    for word in text.split():
        name = next((name for name, words in parts.items() if word in words), None)
        if name is not None:
            parts[name].remove(word)
            components.append({"name": name, "value": word})
    # the labellers left a comma out here and there: such a word is told as they wrote it
    components += [{"name": name, "value": word} for name, words in parts.items() for word in words]
    return {"label": row["label"], "components": components}
