"""Records whose right output is known: {id, input, output}, each line one, and which lives answer them.

A life answers a gold record if it is of the same source and was asked the same input: its content hash is that of the
gold's input after the version's own normalization, or its run is the one that published this very set. A record without
an input is known by its source id alone. What must not live here: files, topics (`agents.benchmarking`).
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from batchmill.schemas.ids import content_sha256
from batchmill.schemas.strict_json import StrictJsonError, canonical_json
from batchmill.streams.cleaning import Cleaner
from batchmill.streams.jsontext import canonical
from batchmill.streams.unusable import Unusable

__all__ = ["GOLD_MAX", "RUN_PREFIX", "Gold", "GoldError", "answers", "asked_sha256", "gold_of", "run_of_gold"]

#: records of one set
GOLD_MAX: Final = 20_000
#: how the run of a set's records begins
RUN_PREFIX: Final = "benchmark:"
_MEMBERS: Final = frozenset({"id", "input", "output"})
_HASH_CHARS: Final = 12


class GoldError(ValueError):
    """The set cannot be read; says which record, and what belongs there."""

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """One record. `input` is None where only its source id is known."""

    id: str
    input: Mapping[str, Any] | None
    output: Mapping[str, Any]


def gold_of(lines: Iterable[tuple[int, Any]]) -> dict[str, Gold]:
    """From (line number, decoded JSON), by id."""
    found: dict[str, Gold] = {}
    for number, told in lines:
        gold = _gold(number, told)
        if gold.id in found:
            raise GoldError("the id of an earlier line; each record has its own", line=number)
        found[gold.id] = gold
        if len(found) > GOLD_MAX:
            raise GoldError(f"at most {GOLD_MAX} records are taken", line=number)
    return found


def run_of_gold(golden: Mapping[str, Gold]) -> str:
    """Named by ids and inputs, in any order: a right output that is mended asks nobody anew."""
    asked = sorted([gold.id, canonical_json(gold.input)] for gold in golden.values())
    return RUN_PREFIX + content_sha256(canonical_json(asked).encode())[:_HASH_CHARS]


def answers(gold: Gold, *, run: str, run_id: str, input_sha256: str | None, cleaner: Cleaner) -> bool:
    """Whether a life of the gold's source, of this run and input, was asked this record; `run` is the set's own."""
    if gold.input is None or run_id == run:
        return True
    return input_sha256 is not None and input_sha256 == asked_sha256(gold.input, cleaner)


def asked_sha256(given: Mapping[str, Any], cleaner: Cleaner) -> str | None:
    """Of an input as a version asks it; None where it has none."""
    payload = copy.deepcopy(dict(given))
    try:
        cleaner.apply(payload)
        return content_sha256(canonical(payload))
    except Unusable:
        return None


def _gold(number: int, told: Any) -> Gold:
    if not isinstance(told, dict) or told.keys() - _MEMBERS:
        raise GoldError("a record is an object with id, input and output", line=number)
    name, given, output = told.get("id"), told.get("input"), told.get("output")
    name = str(name) if type(name) is int else name
    if not isinstance(name, str) or not name:
        raise GoldError("`id` must be a text or a whole number", line=number)
    if not isinstance(output, dict) or not output:
        raise GoldError("`output` must be an object with the members that are known", line=number)
    if given is not None and not isinstance(given, dict):
        raise GoldError("`input` must be an object", line=number)
    try:
        canonical_json(told)
    except StrictJsonError as error:
        raise GoldError(str(error), line=number) from None
    return Gold(id=name, input=given, output=output)
