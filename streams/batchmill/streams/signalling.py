"""What a record tells of the quality of its version: for each signal it speaks of, the name of one class.

    normalized   input_length, input_members
    results      failures
    validated    verdicts, output_length, confidence, classes, scores
    dead-letter  verdicts
    decisions    reviews

Every signal is told by answers of one kind, so each has its own count and no record is joined to another. What people
decide names no version; it is counted for the one in force. What stands aside tells of nothing: other records meet a
version that is tried out, or came before, than meet the one in force. What must not live here: what is made of it
(`drifting`).
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Decision, Record, Result, Verdict, WorkItem
from batchmill.schemas.status import Outcome
from batchmill.streams.paths import ABSENT, Path, compile_path
from batchmill.streams.scoring import SCORE

__all__ = ["OTHER", "TOPICS_HEARD", "Heard", "heard", "is_ordered", "place_of", "told_by", "watched"]

#: topics whose records tell anything
TOPICS_HEARD: Final = ("normalized", "results", "validated", "dead-letter", "decisions")
OTHER: Final = "(other)"

_NAME_CHARS_MAX: Final = 64
_MEMBERS_MAX: Final = 12
_CONFIDENCE_BINS: Final = 10
_ORDERED: Final = frozenset({DriftSignal.CONFIDENCE, DriftSignal.OUTPUT_LENGTH, DriftSignal.INPUT_LENGTH})
#: reasons for which a judged answer is no good
_REJECTED: Final = frozenset({Reason.NOT_JSON, Reason.SCHEMA_MISMATCH, Reason.RULE_FAILED, Reason.UNCITED})
_REVIEWS: Final = frozenset({"accept", "correct", "decline"})
_PATHS_MAX: Final = 256


class Heard(NamedTuple):
    """One record counts as `name` in `signal`."""

    signal: DriftSignal
    name: str


def watched(spec: JobSpec) -> tuple[DriftSignal, ...]:
    """The signals of a job that can be told at all; so many are tested at each look."""
    drift = spec.drift
    if drift is None:
        return ()
    there = {
        DriftSignal.CLASSES: drift.field is not None,
        DriftSignal.CONFIDENCE: spec.judge.confidence is not None,
        DriftSignal.SCORES: spec.judge.scoring is not None,
    }
    return tuple(each for each in drift.signals or DriftSignal if there.get(each, True))


def place_of(signal: DriftSignal, name: str) -> float:
    """Where a bin of a measured signal stands: where it begins."""
    assert signal in _ORDERED, f"the classes of {signal} have no order"
    return float(name.partition("-")[0])


def is_ordered(signal: DriftSignal) -> bool:
    """Whether the classes are bins of a measure."""
    return signal in _ORDERED


def heard(record: Record, drift: DriftSpec) -> Iterator[Heard]:
    """Everything that `record`, of a version watched as `drift` says, tells."""
    match record:
        case WorkItem():
            yield Heard(DriftSignal.INPUT_LENGTH, _length(record.input_json))
            yield Heard(DriftSignal.INPUT_MEMBERS, _members(record.input_json))
        case Result(answered_by="provider"):
            yield Heard(DriftSignal.FAILURES, _outcome(record))
        case Verdict():
            yield from _judged(record, drift)
        case DeadLetter() if record.reason in _REJECTED:
            yield Heard(DriftSignal.VERDICTS, "rejected")
        case Decision() if record.action in _REVIEWS:
            yield Heard(DriftSignal.REVIEWS, record.action)
        case _:
            return


def told_by(record: Record) -> tuple[str, str | None] | None:
    """(job, version) that `record` speaks of; version None: the one in force. None: of no version."""
    match record:
        case WorkItem(aside=True) | Verdict(aside=True) | DeadLetter(aside=True):
            return None
        case WorkItem() | Result() | Verdict():
            return record.job, record.version
        case DeadLetter(job=str(job), version=str(version)):
            return job, version
        case Decision():
            return record.job, None
        case _:
            return None


def _judged(verdict: Verdict, drift: DriftSpec) -> Iterator[Heard]:
    for check in verdict.checks:
        if check.id == SCORE:
            yield Heard(DriftSignal.SCORES, "agreed" if check.passed else "disagreed")
    if verdict.decided_by != "rules":
        return  # a correction, or the end of a wait: the answer was counted when it was judged
    yield Heard(DriftSignal.VERDICTS, str(verdict.status))
    yield Heard(DriftSignal.OUTPUT_LENGTH, _length(verdict.output_json))
    if verdict.confidence is not None:
        yield Heard(DriftSignal.CONFIDENCE, _tenth(verdict.confidence))
    if drift.field is not None:
        yield Heard(DriftSignal.CLASSES, _class(verdict.output_json, _path(drift.field)))


def _outcome(result: Result) -> str:
    if result.outcome is Outcome.SUCCEEDED:
        return str(result.outcome)
    return str(result.outcome if result.reason is None else result.reason)


def _length(text: str) -> str:
    """Bins that double: a text twice as long is one bin on, whatever it was."""
    bits = len(text).bit_length()
    return "0" if bits == 0 else f"{1 << (bits - 1)}-{(1 << bits) - 1}"


def _tenth(confidence: float) -> str:
    bin_ = min(_CONFIDENCE_BINS - 1, max(0, int(confidence * _CONFIDENCE_BINS)))
    return f"{bin_ / _CONFIDENCE_BINS:.1f}-{(bin_ + 1) / _CONFIDENCE_BINS:.1f}"


def _members(input_json: str) -> str:
    """Which members there are, those that are null left out: a source that stops filling one has changed."""
    given = orjson.loads(input_json)
    if not isinstance(given, Mapping):
        return f"({_kind(given)})"
    names = sorted(name for name, value in given.items() if value is not None)
    more = "" if len(names) <= _MEMBERS_MAX else f" and {len(names) - _MEMBERS_MAX} more"
    return (_name(",".join(names[:_MEMBERS_MAX])) + more) or "(none)"


def _class(output_json: str, path: Path) -> str:
    value = path.find(orjson.loads(output_json))
    if isinstance(value, str):
        return _name(value)
    if value is None or isinstance(value, bool | int):
        return orjson.dumps(value).decode()
    return "(absent)" if value is ABSENT else f"({_kind(value)})"


def _name(text: str) -> str:
    """Short, and nothing that a terminal would obey: it is told in logs, alarms and reasons."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:_NAME_CHARS_MAX])


def _kind(value: Any) -> str:
    return {list: "list", dict: "object", float: "number"}.get(type(value), "text")


@lru_cache(maxsize=_PATHS_MAX)
def _path(field: str) -> Path:
    return compile_path(field)
