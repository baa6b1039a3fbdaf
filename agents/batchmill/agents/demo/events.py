"""What the demo publishes: real labelled sentences without their labels, some of them twice, and some hostile events.

The labels stay behind in `Sentence`; they reach the provider simulator in a file of their own and the report, never
Kafka. What must not: sending anything.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from batchmill.agents.ingest import SourceRecord
from batchmill.schemas.reasons import Reason

__all__ = [
    "HOSTILE",
    "Hostile",
    "Script",
    "Sentence",
    "gold_lines",
    "hostile_events",
    "sentences",
    "write_script",
]

_FILE = Path(__file__).with_name("data") / "sentiment.jsonl"
_REPEATED_SHARE = 26  #: one sentence in so many is published a second time
_HOSTILE_OF_EACH = 3
_DEEP_LEVELS = 100


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and what a person said it expresses."""

    id: str
    text: str
    domain: str
    label: str

    def event(self) -> bytes:
        """The raw event: everything but the label."""
        return json.dumps({"text": self.text, "domain": self.domain}, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Hostile:
    """An event that no pipeline wants, and the reason it must be put down for."""

    key: str
    kind: str
    value: bytes
    reason: Reason


@dataclass(frozen=True, slots=True)
class Script:
    """Everything one run publishes, in order."""

    sentences: tuple[Sentence, ...]
    hostile: tuple[Hostile, ...]
    repeated: int
    events: tuple[SourceRecord, ...]


#: kind -> why it must be put down
HOSTILE = {
    "not UTF-8": Reason.NOT_UTF8,
    "cut off in the middle": Reason.UNDECODABLE,
    f"nested {_DEEP_LEVELS} deep": Reason.TOO_DEEP,
    "larger than allowed": Reason.OVERSIZED,
    "without its text": Reason.INVALID_INPUT,
    "a number as its text": Reason.INVALID_INPUT,
    "an empty value": Reason.TOMBSTONE,
}


def sentences(count: int) -> list[Sentence]:
    """The first `count` sentences; beyond those that exist they come again, each round with its number behind."""
    known = _all()
    return [_again(known[i % len(known)], i // len(known)) for i in range(count)]


def gold_lines(known: Sequence[Sentence]) -> Iterator[str]:
    """The gold table of the simulator, line by line."""
    return (json.dumps({"text": each.text, "label": each.label}, ensure_ascii=False) + "\n" for each in known)


def hostile_events(*, value_bytes_max: int) -> list[Hostile]:
    """Some of each kind; no two are alike."""
    made = []
    for number in range(_HOSTILE_OF_EACH):
        values = _hostile_values(number, value_bytes_max)
        for place, (kind, reason) in enumerate(HOSTILE.items()):
            made.append(Hostile(key=f"hostile-{place}-{number}", kind=kind, value=values[kind], reason=reason))
    return made


def write_script(count: int, *, seed: int, value_bytes_max: int) -> Script:
    """Mix hostile events in, and publish some sentences again, each some way behind its first time."""
    known, hostile = sentences(count), hostile_events(value_bytes_max=value_bytes_max)
    chance = random.Random(seed)  # noqa: S311  no secret: a run must repeat
    # The first three quarters: so that the second time comes later, and never in another cut than it must.
    repeated = chance.sample(known[: max(1, count * 3 // 4)], k=max(1, count // _REPEATED_SHARE))
    placed = [(float(place), each.id, each.event()) for place, each in enumerate(known)]
    place_of = {each.id: place for place, each in enumerate(known)}
    placed += [(chance.uniform(place_of[each.id], count), each.id, each.event()) for each in repeated]
    placed += [(chance.uniform(0, count), each.key, each.value) for each in hostile]
    placed.sort(key=lambda entry: entry[0])
    events = (SourceRecord(line=line, key=key.encode(), value=value) for line, (_, key, value) in enumerate(placed, 1))
    return Script(tuple(known), tuple(hostile), len(repeated), tuple(events))


@cache
def _all() -> tuple[Sentence, ...]:
    with _FILE.open(encoding="utf-8") as lines:
        return tuple(Sentence(**json.loads(line)) for line in lines)


def _again(sentence: Sentence, times: int) -> Sentence:
    if times == 0:
        return sentence
    return Sentence(f"{sentence.id}-{times}", f"{sentence.text} ({times})", sentence.domain, sentence.label)


def _hostile_values(number: int, value_bytes_max: int) -> dict[str, bytes]:
    kinds = iter(HOSTILE)
    deep = b"[" * _DEEP_LEVELS + b"]" * _DEEP_LEVELS
    values = (
        b'{"text": "a caf\xe9 in Latin-1, number %d"}' % number,
        b'{"text": "a connection broke after number %d' % number,
        b'{"text": "number %d is more than it seems", "more": %s}' % (number, deep),
        b'{"text": "%s"}' % (b"%d " % number * value_bytes_max)[:value_bytes_max],
        b'{"domain": "tweets", "number": %d}' % number,
        b'{"text": %d}' % number,
        b"",
    )
    return dict(zip(kinds, values, strict=True))
