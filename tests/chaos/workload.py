"""What is fed in, and which answer belongs to what: unique texts, updates, duplicates, and what strangers send.

What lives here: raw events by a seeded recipe, and the gold table that only the simulator sees. Every text ends in its
own number, so no two ask for the same answer; the mark is a hash of the text, so that exchanged answers do not fit.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from batchmill.schemas.reasons import Reason

__all__ = [
    "JOB",
    "JOB_DIR",
    "TABLE",
    "Event",
    "Kind",
    "answers_to",
    "event_of",
    "events",
    "mark_of",
    "stranger",
    "usable",
    "write_gold",
]

JOB = "marks"
TABLE = "marks"
JOB_DIR = Path(__file__).with_name("job")
MARKS = 64
_DEEP = 200
_BIG_BYTES = 950_000


class Kind(StrEnum):
    FRESH = "fresh"
    UPDATE = "update"  #: another text for a source that has one
    REPEAT = "repeat"  #: the very same event again
    SHORT = "short"  #: refused by the job's filter
    BROKEN = "broken"  #: not JSON
    NOT_UTF8 = "not utf-8"
    DEEP = "deep"
    WRONG_SHAPE = "wrong shape"
    OVERSIZED = "oversized"


#: kind -> share of all events; what is left is fresh
SHARES: dict[Kind, float] = {
    Kind.UPDATE: 0.02,
    Kind.REPEAT: 0.02,
    Kind.SHORT: 0.01,
    Kind.BROKEN: 0.004,
    Kind.NOT_UTF8: 0.002,
    Kind.DEEP: 0.002,
    Kind.WRONG_SHAPE: 0.002,
}

#: where the strangers among them must end
REASON_OF: dict[Kind, Reason] = {
    Kind.SHORT: Reason.FILTERED,
    Kind.BROKEN: Reason.UNDECODABLE,
    Kind.NOT_UTF8: Reason.NOT_UTF8,
    Kind.DEEP: Reason.TOO_DEEP,
    Kind.WRONG_SHAPE: Reason.INVALID_INPUT,
    Kind.OVERSIZED: Reason.OVERSIZED,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One raw event."""

    kind: Kind
    key: bytes
    value: bytes

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        return [("batchmill-job", JOB.encode()), ("batchmill-run", b"chaos")]


def events(count: int, seed: int) -> list[Event]:
    """`count` events, the same for the same seed."""
    chance, made = Random(seed), []
    good: list[Event] = []
    for number in range(count):
        kind = _drawn(chance) if good else Kind.FRESH
        event = _repeat(good, chance) if kind is Kind.REPEAT else _made(kind, number, good, chance)
        made.append(event)
        if kind in {Kind.FRESH, Kind.UPDATE}:
            good.append(event)
    return made


def event_of(source: str, text: str) -> Event:
    """A fresh event with this very text."""
    return Event(Kind.FRESH, source.encode(), json.dumps({"text": text}, ensure_ascii=False).encode())


def stranger(kind: Kind, source: str = "stranger") -> Event:
    """One of those that must be put down."""
    values = {
        Kind.SHORT: b'{"text": "too short"}',
        Kind.BROKEN: b'{"text": "cut in the mid',
        Kind.NOT_UTF8: b'{"text": "\xff\xfe is not UTF-8, whatever it is"}',
        Kind.DEEP: b'{"text": ' + b"[" * _DEEP + b"]" * _DEEP + b"}",
        Kind.WRONG_SHAPE: b'{"words": "a text by another name"}',
        Kind.OVERSIZED: b'{"text": "' + b"x" * _BIG_BYTES + b'"}',
    }
    return Event(kind, source.encode(), values[kind])


def mark_of(text: str) -> str:
    return f"m{hashlib.sha256(text.encode()).digest()[0] % MARKS:02x}"


def answers_to(raw: bytes, output: dict[str, Any]) -> bool:
    """Does this output belong to that raw value? The mark is the text's, and the echo quotes it."""
    text = " ".join(json.loads(raw)["text"].split())
    return output["mark"] == mark_of(json.loads(raw)["text"]) and output["echo"] in text


def usable(text: str) -> bool:
    """Would the job take this for an answer? Written down anew, in place of its schema."""
    try:
        output = json.loads(text)
    except json.JSONDecodeError:
        return False
    return isinstance(output, dict) and output.keys() == {"mark", "echo", "confidence"}


def write_gold(path: Path, made: Sequence[Event]) -> None:
    """The marks, for the simulator alone."""
    with path.open("w", encoding="utf-8") as out:
        for text in _texts(made):
            out.write(json.dumps({"text": text, "label": mark_of(text)}) + "\n")


def _texts(made: Sequence[Event]) -> Iterator[str]:
    for event in made:
        if event.kind in {Kind.FRESH, Kind.UPDATE}:
            yield json.loads(event.value)["text"]


def _drawn(chance: Random) -> Kind:
    point = chance.random()
    for kind, share in SHARES.items():
        if point < share:
            return kind
        point -= share
    return Kind.FRESH


def _made(kind: Kind, number: int, good: Sequence[Event], chance: Random) -> Event:
    if kind is Kind.FRESH:
        return event_of(f"s-{number:06d}", _text(number))
    if kind is Kind.UPDATE:
        made = event_of(chance.choice(good).key.decode(), _text(number))
        return Event(Kind.UPDATE, made.key, made.value)
    return stranger(kind, f"x-{number:06d}")


def _repeat(good: Sequence[Event], chance: Random) -> Event:
    event = chance.choice(good)
    return Event(Kind.REPEAT, event.key, event.value)


def _text(number: int) -> str:
    sentences = _sentences()
    return f"{sentences[number % len(sentences)]} (no. {number:06d})"


@cache
def _sentences() -> tuple[str, ...]:
    lines = files("batchmill.agents.demo").joinpath("data/sentiment.jsonl").read_text("utf-8").splitlines()
    return tuple(" ".join(json.loads(line)["text"].split()) for line in lines)
