"""What differs between two frozen specs of a job, member by member and text by text, and what follows from it.

One place for `job plan`, `job apply`, `job diff` and `job versions`. A member belongs to the part whose fingerprint it
shapes; which members those are is `schemas.versions`' to say, and a test holds the two together. What must not live
here: how it is told to people (`agents.cli.planned`).
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.strict_json import plain
from batchmill.schemas.versions import ask_fingerprint, judge_fingerprint, place_fingerprint, version_of

__all__ = ["Comparison", "Difference", "Part", "TextDifference", "compare", "part_of"]

_CONTEXT_LINES: Final = 3


class Part(StrEnum):
    """What a member of the spec shapes."""

    ASK = "ask"  #: the question: other events are asked again, and paid
    JUDGE = "judge"  #: the judgement: stored answers are judged again, at no cost
    PLACE = "place"  #: where output goes
    IDENTITY = "identity"  #: which record an event is
    SELECTION = "selection"  #: which events are taken
    OPERATION = "operation"  #: how questions travel, what they may cost, what is watched, what follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One member of the spec that is not as in the active version."""

    member: str
    active: Any
    planned: Any

    @property
    def part(self) -> Part:
        return part_of(self.member)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDifference:
    """A text of the question, line by line, against the active version's."""

    member: str
    lines: tuple[str, ...]  #: as a unified diff has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two specs of one job; `asks_again` and its like hold for events that come again."""

    active_version: str
    version: str
    asks_again: bool  #: every source would be asked (and paid) again
    judges_again: bool
    places_again: bool  #: what is committed from now on goes elsewhere
    differences: tuple[Difference, ...]
    texts: tuple[TextDifference, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is not the same, in the order of `Part`."""
        found = {each.part for each in self.differences}
        return tuple(part for part in Part if part in found)


def compare(active: JobSpec, planned: JobSpec) -> Comparison:
    """How `planned` differs from `active`."""
    return Comparison(
        active_version=version_of(active),
        version=version_of(planned),
        asks_again=ask_fingerprint(active) != ask_fingerprint(planned),
        judges_again=judge_fingerprint(active) != judge_fingerprint(planned),
        places_again=place_fingerprint(active) != place_fingerprint(planned),
        differences=tuple(_differences(active, planned)),
        texts=tuple(_text_differences(active, planned)),
    )


_IDENTITY: Final = frozenset({"dedupe", "id_path", "seq"})
_SELECTION: Final = frozenset({"schema_json", "required", "filter"})


def part_of(member: str) -> Part:
    """What a member of the spec, by its dotted name, shapes. The form of the answer is judged by, too."""
    first, _, rest = member.partition(".")
    if first == "input":
        return Part.SELECTION if rest.partition(".")[0] in _SELECTION else Part.ASK
    if first in _IDENTITY:
        return Part.IDENTITY
    if first == "ask":
        return Part.OPERATION if member.endswith("model.account") else Part.ASK
    return {"near": Part.ASK, "judge": Part.JUDGE, "place": Part.PLACE}.get(first, Part.OPERATION)


def _differences(active: JobSpec, planned: JobSpec) -> Iterator[Difference]:
    # Prices are no part of what a job says: the day and the list decide them.
    before, after = (_flat(plain(replace(spec, prices_json=None))) for spec in (active, planned))
    for member in sorted(before.keys() | after.keys()):
        if before.get(member) != after.get(member):
            yield Difference(member=member, active=before.get(member), planned=after.get(member))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every member by its dotted name; of a list of named things each by its name, so that one more moves none, and
    the names in their order. What is empty has no members.
    """
    if isinstance(value, dict):
        parts = [_flat(member, f"{path}.{name}" if path else name) for name, member in value.items()]
    elif isinstance(value, str) and path.endswith(".params_json"):
        parts = [_flat(json.loads(value), path.removesuffix("_json"))]
    elif isinstance(value, list) and (names := _names_of(value)) is not None:
        named = zip(names, value, strict=True)
        parts = [{path: names}, *(_flat(each, f"{path}[{name}]") for name, each in named)] if names else []
    else:
        parts = [{path: value}]
    return {name: member for part in parts for name, member in part.items()}


def _names_of(values: list[Any]) -> list[str] | None:
    """What each of them is called; None: not all have a name of their own."""
    names = [_name_of(each) for each in values if isinstance(each, dict)]
    known = [name for name in names if name is not None]
    return known if len(set(known)) == len(values) else None


def _name_of(thing: Mapping[str, Any]) -> str | None:
    return next((thing[name] for name in ("id", "name", "job", "cron", "reason") if name in thing), None)


# -- texts -------------------------------------------------------------------------------------------------------------


def _text_differences(active: JobSpec, planned: JobSpec) -> Iterator[TextDifference]:
    before, after = _texts(active), _texts(planned)
    for member in [*before, *(each for each in after if each not in before)]:
        lines = difflib.unified_diff(
            before.get(member, "").splitlines(),
            after.get(member, "").splitlines(),
            "active",
            "planned",
            lineterm="",
            n=_CONTEXT_LINES,
        )
        told = tuple(lines)
        if told:
            yield TextDifference(member=member, lines=told)


def _texts(spec: JobSpec) -> dict[str, str]:
    """All that a model reads of a job, in the order in which it reads it; then the texts of its other routes."""
    ask = spec.ask
    examples = json.loads(ask.examples_json) if ask.examples_json is not None else []
    schema = json.loads(ask.output_schema_json) if ask.output_schema_json is not None else None
    told = {
        "ask.system": ask.system or "",
        "ask.missing": ask.missing or "",
        "ask.uncertain": ask.uncertain or "",
        "ask.examples_json": "\n".join(json.dumps(each, ensure_ascii=False) for each in examples),
        "ask.user": ask.user,
        "ask.output_schema_json": "" if schema is None else json.dumps(schema, ensure_ascii=False, indent=2),
    }
    for route in ask.routes:
        told |= {f"ask.routes[{route.name}].{name}": getattr(route, name) or "" for name in ("system", "user")}
    return told
