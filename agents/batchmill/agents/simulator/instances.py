"""Law: from a JSON Schema and a seed to one value the schema allows. Pure; the same seed gives the same value.

Covers what strict structured output allows: objects, arrays, strings, numbers, integers, booleans, null, enum, const,
anyOf, lists of types, $ref into the same document, bounds and common formats. A `pattern` is not solved: the string is
then plain words. Depth is bounded, so a recursive schema ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from batchmill.agents.simulator.chance import pick, unit

__all__ = ["CONFIDENCE", "Hints", "confidence_share", "instance_of"]

CONFIDENCE: Final = "confidence"
DEPTH_MAX: Final = 16
_ITEMS_DEFAULT_MAX: Final = 3
_NUMBER_SPAN: Final = 100
_WORDS: Final = (
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "field",
    "grove",
    "haven",
    "inlet",
    "jetty",
    "kiln",
    "ledge",
)
_FORMATS: Final = {
    "date": "20{0:02d}-0{1}-1{2}",
    "date-time": "20{0:02d}-0{1}-1{2}T08:0{2}:00Z",
    "time": "08:{0:02d}:0{1}Z",
    "email": "reader{0}{1}{2}@example.org",
    "uri": "https://example.org/{0}/{1}{2}",
    "hostname": "h{0}{1}{2}.example.org",
    "ipv4": "192.0.2.{0}",
    "uuid": "00000000-0000-4000-8000-0000000{0:02d}{1}{2}0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the answer should mean: the label to tell (or to miss), how sure to sound, words to quote from."""

    seed: str
    label: str | None
    right: bool
    words: tuple[str, ...]


def instance_of(schema: Any, hints: Hints) -> Any:
    return _value(schema, schema, hints, "$", 0)


def confidence_share(seed: str, *, right: bool) -> float:
    """Right: 1 - u²/2, mean 0.83, never below 0.5. Wrong: uniform over 0.2..0.9, mean 0.55."""
    u = unit(seed, CONFIDENCE)
    return 1.0 - u * u / 2.0 if right else 0.2 + 0.7 * u


def _value(schema: Any, root: Any, hints: Hints, path: str, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return None
    if "$ref" in schema:
        return _value(_resolved(root, schema["$ref"]), root, hints, path, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return _member(schema["enum"], hints, path)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return _value(_first_fitting(choices, hints, path, depth), root, hints, path, depth + 1)
    match _type_of(schema, hints, path, depth):
        case "object":
            return _object(schema, root, hints, path, depth)
        case "array":
            return _array(schema, root, hints, path, depth)
        case "string":
            return _string(schema, hints, path)
        case "integer":
            return _integer(schema, hints, path)
        case "number":
            return _number(schema, hints, path)
        case "boolean":
            return pick(2, hints.seed, path) == 1
        case _:
            return None


def _resolved(root: Any, reference: str) -> Any:
    found = root
    for step in reference.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _member(members: list[Any], hints: Hints, path: str) -> Any:
    if hints.label is None or hints.label not in members:
        return members[pick(len(members), hints.seed, path)]
    if hints.right:
        return hints.label
    others = [member for member in members if member != hints.label] or members
    return others[pick(len(others), hints.seed, path)]


def _first_fitting(choices: list[Any], hints: Hints, path: str, depth: int) -> Any:
    nulls = [choice for choice in choices if isinstance(choice, dict) and choice.get("type") == "null"]
    if depth > DEPTH_MAX // 2 and nulls:
        return nulls[0]
    solid = [choice for choice in choices if choice not in nulls] or choices
    return solid[pick(len(solid), hints.seed, path, "choice")]


def _type_of(schema: dict[str, Any], hints: Hints, path: str, depth: int) -> str:
    declared = schema.get("type")
    if isinstance(declared, list):
        if depth > DEPTH_MAX // 2 and "null" in declared:
            return "null"
        solid = [name for name in declared if name != "null"] or ["null"]
        return str(solid[pick(len(solid), hints.seed, path, "type")])
    if isinstance(declared, str):
        return declared
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _object(schema: dict[str, Any], root: Any, hints: Hints, path: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    return {name: _value(part, root, hints, f"{path}.{name}", depth + 1) for name, part in properties.items()}


def _array(schema: dict[str, Any], root: Any, hints: Hints, path: str, depth: int) -> list[Any]:
    deep = depth > DEPTH_MAX // 2  # then the shortest that is allowed, so that a recursive schema ends
    most = int(schema.get("maxItems", max(_ITEMS_DEFAULT_MAX, int(schema.get("minItems", 0)))))
    least = int(schema.get("minItems", 0 if deep else min(1, most)))
    spare = 0 if deep else min(most - least, _ITEMS_DEFAULT_MAX)
    count = least + pick(spare + 1, hints.seed, path, "length")
    items = schema.get("items", {"type": "string"})
    return [_value(items, root, hints, f"{path}[{index}]", depth + 1) for index in range(count)]


def _string(schema: dict[str, Any], hints: Hints, path: str) -> str:
    form = _FORMATS.get(schema.get("format", ""))
    if form is not None:
        digits = [1 + pick(9, hints.seed, path, place) for place in range(3)]
        return form.format(10 + pick(50, hints.seed, path, "wide"), digits[0], digits[1] % 9)
    words = hints.words or _WORDS
    start = pick(len(words), hints.seed, path)
    text = " ".join(words[start : start + 3 + pick(4, hints.seed, path, "count")])
    while len(text) < int(schema.get("minLength", 0)):
        text += " " + _WORDS[pick(len(_WORDS), hints.seed, path, len(text))]
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _bounds(schema: dict[str, Any], span: float) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = 0 if high is None else min(0, high)
    return low, low + span if high is None else high


def _share(hints: Hints, path: str) -> float:
    if path.rpartition(".")[2] == CONFIDENCE:
        return confidence_share(hints.seed, right=hints.right)
    return unit(hints.seed, path)


def _integer(schema: dict[str, Any], hints: Hints, path: str) -> int:
    low, high = _bounds(schema, _NUMBER_SPAN)
    least = int(low) + (1 if "exclusiveMinimum" in schema else 0)
    most = int(high) - (1 if "exclusiveMaximum" in schema else 0)
    step = max(int(schema.get("multipleOf", 1)), 1)
    value = least + int(_share(hints, path) * (most - least + 1))
    return min(-(-value // step) * step, most // step * step)


def _number(schema: dict[str, Any], hints: Hints, path: str) -> float:
    span = 1.0 if path.rpartition(".")[2] == CONFIDENCE else float(_NUMBER_SPAN)
    low, high = _bounds(schema, span)
    value = round(low + _share(hints, path) * (high - low), 2)
    if value <= low and "exclusiveMinimum" in schema:
        return (low + high) / 2
    return (low + high) / 2 if value >= high and "exclusiveMaximum" in schema else float(value)
