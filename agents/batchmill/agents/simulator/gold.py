"""Law: the gold table is what the simulator knows and the pipeline under test must not: the right answer to a text.

A label (a text) is told at the place in the answer where the schema has it as a member of an enum; an object is the
whole answer. It comes from a file of JSON lines, out of band. The key is the text itself, in NFC with runs of white
space as one space, because a pipeline may tidy a text on its way here. A prompt that wraps the text is tried paragraph
by paragraph and line by line.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from batchmill.agents.simulator.chance import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

V = TypeVar("V")

__all__ = ["GoldTable", "gold_from_pairs", "load_gold"]


@dataclass(frozen=True, slots=True)
class GoldTable:
    labels: Mapping[bytes, str] = field(default_factory=dict)
    answers: Mapping[bytes, Mapping[str, Any]] = field(default_factory=dict)

    def label_of(self, message: str) -> str | None:
        """The label of a whole message, else of its first known paragraph, else of its first known line."""
        return _found(self.labels, message)

    def answer_of(self, message: str) -> Mapping[str, Any] | None:
        """The whole answer, found as `label_of` finds a label."""
        return _found(self.answers, message)


def _found(table: Mapping[bytes, V], message: str) -> V | None:
    if not table:
        return None
    whole = table.get(_key(message))
    if whole is not None:
        return whole
    parts = [*message.split("\n\n"), *message.splitlines()]
    return next((known for part in parts if (known := table.get(_key(part))) is not None), None)


def _key(text: str) -> bytes:
    return digest_of(" ".join(unicodedata.normalize("NFC", text).split()))


def gold_from_pairs(pairs: Iterable[tuple[str, str | Mapping[str, Any]]]) -> GoldTable:
    labels: dict[bytes, str] = {}
    answers: dict[bytes, Mapping[str, Any]] = {}
    for text, known in pairs:
        if not text.strip():
            continue
        if isinstance(known, str):
            labels[_key(text)] = known
        else:
            answers[_key(text)] = known
    return GoldTable(labels, answers)


def load_gold(path: Path, *, text_field: str = "text", label_field: str = "label") -> GoldTable:
    """Lines without a text or a label are passed over: gold tables have gaps."""
    return gold_from_pairs(_pairs(path, text_field, label_field))


def _pairs(path: Path, text_field: str, label_field: str) -> Iterable[tuple[str, str | Mapping[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise ValueError(f"gold table {path}, line {number}: not JSON; give one object a line") from None
            if isinstance(row, dict) and isinstance(row.get(text_field), str) and row.get(label_field) is not None:
                known = row[label_field]
                yield row[text_field], known if isinstance(known, dict) else str(known)
