"""Answers that need no model: the commonest one, the first keyword rule that holds, somebody's function.

A baseline answers the same inputs as a version, without fail and at no cost, and is judged as a version is: by the
truth, over the same records. Where it is as good, that is told plainly. What must not live here: finding functions and
reading files (`agents.contenders`), and counting (`comparing`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from batchmill.schemas.strict_json import canonical_json
from batchmill.streams.comparing import Contended, Ended, Outcome, Pair, compare, truth_fields
from batchmill.streams.expressions import Condition, ConditionError, compile_condition
from batchmill.streams.paths import ABSENT, Path, compile_path

__all__ = [
    "RULES_MAX",
    "BaselineError",
    "Contest",
    "KeywordRule",
    "Standing",
    "contest",
    "keyword",
    "majority",
    "rules",
    "sentence",
]

RULES_MAX: Final = 1_000
_VARIABLES: Final = frozenset({"input"})
_MEMBERS: Final = frozenset({"when", "output"})


class BaselineError(ValueError):
    """The baseline cannot be made; says where and why."""


class Standing(StrEnum):
    """How a baseline stands against the model."""

    BETTER = "better"  #: surely
    NO_WORSE = "not surely worse"
    WORSE = "worse"  #: surely


@dataclass(frozen=True, slots=True, kw_only=True)
class KeywordRule:
    """`output` is the answer where `when` holds; None: always."""

    when: Condition | None
    output: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One baseline (a) against the model (b), by the fields that the baseline ever answers."""

    name: str
    fields: tuple[str, ...]
    standing: Standing
    found: Contended


def majority(pairs: Iterable[Pair], fields: Sequence[str]) -> dict[str, Any]:
    """The value each field has most often in the truth; on a tie the one that is spelled first."""
    counts: dict[str, Counter[str]] = {}
    values: dict[str, Any] = {}
    readers = {name: compile_path(name) for name in fields}
    for pair in pairs:
        for name, path in readers.items():
            found = path.find(pair.truth)
            if found is not ABSENT:
                counts.setdefault(name, Counter())[canonical_json(found)] += 1
                values[canonical_json(found)] = found
    if not counts:
        raise BaselineError(f"majority: no right output has {' or '.join(fields) or 'a member'}")
    output: dict[str, Any] = {}
    for name, found in counts.items():
        _put(output, readers[name], values[_commonest(found)])
    return output


def rules(lines: Iterable[tuple[int, Any]]) -> tuple[KeywordRule, ...]:
    """From (line number, decoded {when, output}), in the order in which they are tried."""
    made = tuple(_rule(number, told) for number, told in lines)
    if not 0 < len(made) <= RULES_MAX:
        raise BaselineError(f"{len(made)} rules: from 1 to {RULES_MAX} are taken")
    return made


def keyword(made: Iterable[KeywordRule], item_input: Any) -> Mapping[str, Any] | None:
    """The answer of the first rule that holds; one of which that cannot be told does not."""
    return next((rule.output for rule in made if rule.when is None or _holds(rule.when, item_input)), None)


def contest(
    name: str, pairs: Sequence[Pair], answers: Mapping[str, Any], *, fields: Sequence[str], confidence: float
) -> Contest | None:
    """`answers`: the baseline's outputs by the key of the pair; None where there is nothing both can be judged by."""
    said = [each for each in answers.values() if each is not None]
    known = [path for field in fields or truth_fields(pairs) if _is_said(path := compile_path(field), said)]
    if not known:
        return None
    against = [Pair(key=pair.key, a=_outcome(answers.get(pair.key)), b=pair.b, truth=pair.truth) for pair in pairs]
    accuracy = compare(against, fields=[path.text for path in known], confidence=confidence).accuracy
    if accuracy is None:
        return None
    standing = _standing(accuracy.whole, confidence)
    return Contest(name=name, fields=accuracy.fields, standing=standing, found=accuracy.whole)


def sentence(each: Contest) -> str:
    """What a person should know of it."""
    a, b = each.found.a, each.found.b
    told = f"{each.name} is right on {a.value:.1%} of {a.of} records, the model on {b.value:.1%} (p {each.found.p:.2g})"
    match each.standing:
        case Standing.BETTER:
            return f"{told}: the baseline BEATS the model, at no cost"
        case Standing.NO_WORSE:
            return f"{told}: the model is NOT SURELY BETTER than a baseline that costs nothing"
        case Standing.WORSE:
            return f"{told}: the model is better"


def _standing(found: Contended, confidence: float) -> Standing:
    if found.p > 1 - confidence:
        return Standing.NO_WORSE
    return Standing.BETTER if found.lost > found.won else Standing.WORSE


def _outcome(output: Any) -> Outcome:
    return Outcome(ended=Ended.DEAD if output is None else Ended.VALIDATED, output=output)


def _is_said(path: Path, said: Iterable[Any]) -> bool:
    return any(path.find(output) is not ABSENT for output in said)


def _commonest(counts: Mapping[str, int]) -> str:
    return min(counts, key=lambda text: (-counts[text], text))


def _put(output: dict[str, Any], path: Path, value: Any) -> None:
    names = [step for step in path.steps if isinstance(step, str)]
    if len(names) < len(path.steps):
        raise BaselineError(f"majority: {path.text} is an item of a list; name a member")
    inside = output
    for name in names[:-1]:
        inside = inside.setdefault(name, {})
    inside[names[-1]] = value


def _rule(number: int, told: Any) -> KeywordRule:
    where = f"line {number}"
    if not isinstance(told, dict) or not isinstance(told.get("output"), dict) or told.keys() - _MEMBERS:
        raise BaselineError(f"{where}: a rule is an object with `when` (CEL over input) and `output` (an object)")
    when = told.get("when")
    if when is None:
        return KeywordRule(when=None, output=told["output"])
    if not isinstance(when, str):
        raise BaselineError(f"{where}: `when` must be a text: CEL over input")
    try:
        return KeywordRule(when=compile_condition(when, variables=_VARIABLES), output=told["output"])
    except ConditionError as error:
        raise BaselineError(f"{where}: when: {error}") from None


def _holds(when: Condition, item_input: Any) -> bool:
    try:
        return when.holds({"input": item_input})
    except ConditionError:
        return False
