"""Baselines as people name them on the command line, and what they answer.

    majority            the commonest right value of each field
    majority:FIELD      of this one
    keyword:FILE        JSONL of {when, output}: CEL over `input`; the first that holds answers
    function:NAME       an entry point of the group `batchmill.baselines`: is given the input, answers an object or None

What must not live here: how answers are judged (`streams.baselines`).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from batchmill.agents.installed import Installed, InstalledError, load_installed
from batchmill.agents.json_lines import json_lines
from batchmill.streams.baselines import BaselineError, Contest, contest, keyword, majority, rules
from batchmill.streams.comparing import Pair, truth_fields

__all__ = ["GROUP", "Baseline", "baseline", "rival"]

GROUP: Final = "batchmill.baselines"
_HASH_CHARS: Final = 8

Kind = Literal["majority", "keyword", "function"]
Asked = Sequence[tuple[Pair, Any]]  #: each pair with the input that was asked
Answers = dict[str, Mapping[str, Any] | None]  #: by the key of the pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One that is wanted."""

    kind: Kind
    argument: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


def baseline(text: str) -> Baseline:
    """As it is named, or BaselineError."""
    kind, _, argument = text.partition(":")
    for known in get_args(Kind):
        if kind == known and (argument or known == "majority"):
            return Baseline(kind=known, argument=argument)
    raise BaselineError(f"{text!r} is no baseline: write majority[:FIELD], keyword:FILE or function:NAME")


def rival(
    wanted: Baseline, asked: Asked, *, fields: Sequence[str], confidence: float
) -> tuple[Contest | None, list[str]]:
    """How it stands against the model, and what a person should know besides."""
    pairs = [pair for pair, _ in asked]
    if not pairs:
        return None, [f"{wanted.name}: no record has an output that is known to be right"]
    name, said, notes = _answered(wanted, asked, fields)
    found = contest(name, pairs, said, fields=fields, confidence=confidence)
    return found, notes if found is not None else [*notes, f"{name}: it answers no member that is known of any record"]


def _answered(wanted: Baseline, asked: Asked, fields: Sequence[str]) -> tuple[str, Answers, list[str]]:
    match wanted.kind:
        case "majority":
            return wanted.name, _majority(wanted, [pair for pair, _ in asked], fields), []
        case "keyword":
            made = rules(json_lines(Path(wanted.argument)))
            return wanted.name, {pair.key: keyword(made, given) for pair, given in asked}, []
        case "function":
            plugin = _installed(wanted.argument)
            name = f"{wanted.name}@{plugin.sha256[:_HASH_CHARS]}"
            return name, *_called(plugin, asked, name)


def _installed(name: str) -> Installed:
    try:
        return load_installed(GROUP, name, kind="baseline")
    except InstalledError as error:
        raise BaselineError(f"{error}; {error.hint}") from None


def _majority(wanted: Baseline, pairs: Sequence[Pair], fields: Sequence[str]) -> Answers:
    output = majority(pairs, [wanted.argument] if wanted.argument else fields or truth_fields(pairs))
    return {pair.key: output for pair in pairs}


def _called(plugin: Installed, asked: Asked, name: str) -> tuple[Answers, list[str]]:
    said: Answers = {}
    failed = 0
    for pair, given in asked:
        try:
            answer = plugin.call(copy.deepcopy(given))
        except Exception:  # noqa: BLE001 - somebody else's code: a record it fails at is one it has no answer to
            answer = None
            failed += 1
        said[pair.key] = answer if isinstance(answer, dict) else None
    return said, [f"{name} failed on {failed} of {len(said)} records"] if failed else []
