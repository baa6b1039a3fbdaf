"""What is wrong with the judge part of a frozen job: what cannot be checked is refused before any record meets it.

Besides compiling each part, every rule is tried on samples made from the declared schemas, once with whole numbers and
once with fractions: what gives no answer there would fail on records as well. A sample's values are made here, so that
what the trial says may be told.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.schemas.jobs import JobSpec, JudgeSpec
from batchmill.streams.citing import compile_citation
from batchmill.streams.declaring import known_input
from batchmill.streams.expressions import Condition, ConditionError, compile_condition
from batchmill.streams.judging import AGREE_VARIABLES, RULE_VARIABLES, SCORE, reads_members
from batchmill.streams.members import type_schema
from batchmill.streams.paths import PathError, compile_path
from batchmill.streams.shapes import ShapeError, compile_shape

__all__ = ["Told", "attempts", "member_paths", "mistakes"]

#: (where, what, is it an error)
Told = tuple[str, str, bool]
#: ids that checks of our own have
_TAKEN = frozenset({"json", "repair", "finish_reason", "refusal", "confidence", "derived", SCORE})
#: parameters that ask for the tokens' probabilities; responses ask by `include`
_LOGPROB_PARAMS = ("logprobs", "top_logprobs", "responseLogprobs")
_WITHOUT_LOGPROBS = frozenset({"anthropic", "mistral"})
_DEPTH_MAX = 8
_MEMBER_STEPS_MAX = 8


@dataclass(frozen=True, slots=True)
class _Expression:
    where: str
    source: str
    variables: frozenset[str]


def member_paths(judge: JudgeSpec) -> Iterator[tuple[str, str]]:
    """(where, path into the output) of each part that names a member."""
    for part in ("required", "categories", "lengths", "patterns", "types"):
        for name in getattr(judge, part):
            yield f"$.judge.{part}", name
    for at, citation in enumerate(judge.citations):
        yield f"$.judge.citations[{at}].field", citation.field
    if judge.confidence is not None and judge.confidence.field is not None:
        yield "$.judge.confidence.field", judge.confidence.field
    if judge.review_by is not None:
        yield "$.judge.review.by.field", judge.review_by.field


def attempts(judge: JudgeSpec) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each part that has to compile, and where it stands; paths into the output are those of `member_paths`."""
    for name, pattern in judge.patterns.items():
        yield "$.judge.patterns", lambda name=name, pattern=pattern: _pattern(name, pattern)  # type: ignore[misc]
    for kind in judge.types.values():
        yield "$.judge.types", lambda kind=kind: type_schema(kind)  # type: ignore[misc]
    for at, citation in enumerate(judge.citations):
        yield f"$.judge.citations[{at}].within", lambda citation=citation: compile_path(citation.within)  # type: ignore[misc]
    for each in _expressions(judge):
        yield each.where, lambda each=each: compile_condition(each.source, variables=each.variables)  # type: ignore[misc]


def mistakes(spec: JobSpec) -> Iterator[Told]:
    """What compiles and still cannot be meant."""
    judge = spec.judge
    yield from _names(spec)
    output, given = _schema(spec.ask.output_schema_json), known_input(spec)
    if output is None and judge.repairs:
        yield "$.judge.repairs", "repairs make JSON of an answer, but `ask.output` declares none: add a schema", True
    if output is None and reads_members(judge):
        yield "$.judge", "looks into the members of an answer, but `ask.output` declares none", True
    yield from _citations(judge, output, given)
    yield from _logprobs(spec)
    for each in _expressions(judge):
        yield from _expression(each, {"output": output, "input": given})


def _pattern(name: str, pattern: str) -> None:
    try:
        compile_shape({"pattern": pattern})
    except ShapeError:
        what = "no regular expression, or one with look-around or back-references, which take no bounded time"
        raise ShapeError(f"the pattern of {name!r} is {what}") from None


def _expressions(judge: JudgeSpec) -> Iterator[_Expression]:
    for at, rule in enumerate(judge.rules):
        if rule.when is not None:
            yield _Expression(f"$.judge.rules[{at}].when", rule.when, RULE_VARIABLES)
        yield _Expression(f"$.judge.rules[{at}].require", rule.require, RULE_VARIABLES)
    if judge.scoring is not None:
        yield _Expression("$.judge.scoring.agree", judge.scoring.agree, AGREE_VARIABLES)


def _names(spec: JobSpec) -> Iterator[Told]:
    judge = spec.judge
    for part in ("rules", "citations", "functions"):
        for at, each in enumerate(getattr(judge, part)):
            if each.id in _TAKEN:
                yield f"$.judge.{part}[{at}].id", f"{each.id!r} is the id of a check of our own: choose another", True
    if judge.scoring is not None and judge.scoring.job == spec.job:
        yield "$.judge.scoring.job", "a job cannot give the second opinion on itself: name another job", True


def _logprobs(spec: JobSpec) -> Iterator[Told]:
    confidence = spec.judge.confidence
    if confidence is None or confidence.field is not None:
        return
    params, provider = orjson.loads(spec.ask.model.params_json), spec.ask.model.provider
    if provider in _WITHOUT_LOGPROBS:
        yield "$.judge.confidence", f"{provider} tells no probabilities of tokens: let the model say a `field`", True
    elif not any(params.get(name) for name in _LOGPROB_PARAMS) and "logprobs" not in str(params.get("include")):
        what = "needs the tokens' probabilities, which are not asked for: add `logprobs: true` to ask.model.params"
        yield "$.judge.confidence", what, True


def _citations(judge: JudgeSpec, output: Any, given: Any) -> Iterator[Told]:
    for at, spec in enumerate(judge.citations):
        try:
            citation = compile_citation(spec)
        except PathError:
            continue  # told already
        if spec.source is not None and spec.quote is None:
            what = "`source` names a member beside `quote`: say in which member the passage stands"
            yield f"$.judge.citations[{at}].source", what, True
        found = _lacking(given, citation.within.steps)
        if found is not None:
            what = f"the input schema declares no member {found[0]!r}"
            yield f"$.judge.citations[{at}].within", what, found[1]
        inside = _items(_at(output, citation.field.steps))
        for name, member in (("quote", spec.quote), ("source", spec.source)):
            lacks = None if member is None else _lacking(inside, (member,))
            if lacks is not None:
                what = f"the output schema declares no member {member!r} there"
                yield f"$.judge.citations[{at}].{name}", what, lacks[1]


def _expression(each: _Expression, schemas: dict[str, Any]) -> Iterator[Told]:
    try:
        condition = compile_condition(each.source, variables=each.variables)
    except ConditionError:
        return  # told already
    told = False
    for steps in condition.paths:
        variable, *members = steps
        found = _lacking(schemas.get(variable), tuple(members))
        if found is not None:
            told = True
            what = f"names {'.'.join(steps)}, but the {variable} schema declares no member {found[0]!r}"
            yield each.where, f"{what}{_known(found[2])}", found[1] and variable == "output"
    if not told and schemas["output"] is not None:
        yield from _tried(each, condition, schemas)


def _tried(each: _Expression, condition: Condition, schemas: dict[str, Any]) -> Iterator[Told]:
    """Only where all it reads is declared: of the rest nobody knows what it is."""
    read = condition.variables
    if any(not _is_closed(schemas.get(variable)) for variable in read):
        return
    for number, numbers in ((1, "whole numbers"), (1.5, "fractions")):
        try:
            condition.holds({name: _sample(schemas[name], number) for name in read})
        except ConditionError as wrong:
            yield each.where, f"has no answer for a sample of the schema with {numbers}: {wrong}", False
            return


def _schema(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _at(schema: Any, steps: tuple[str | int, ...]) -> Any:
    for step in steps:
        schema = _part(schema, step)
    return schema


def _part(schema: Any, step: str | int) -> Any:
    """What a schema says of a member or an item, as far as it says it plainly; None: it does not."""
    if not isinstance(schema, dict):
        return None
    if isinstance(step, int):
        return schema.get("items")
    properties = schema.get("properties")
    return properties.get(step) if isinstance(properties, dict) else None


def _items(schema: Any) -> Any:
    return schema.get("items") if isinstance(schema, dict) and "items" in schema else schema


def _lacking(schema: Any, steps: tuple[str | int, ...]) -> tuple[str, bool, list[str]] | None:
    """(the first member that is not declared, can it never be there, those that are); None: none is lacking."""
    for step in steps[:_MEMBER_STEPS_MAX]:
        properties = _plain_properties(schema)
        if properties is not None and isinstance(step, str) and step not in properties:
            return step, schema.get("additionalProperties") is False, sorted(properties)
        schema = _part(schema, step)
    return None


def _plain_properties(schema: Any) -> dict[str, Any] | None:
    """The members of an object whose schema says nothing else about which there are."""
    if not isinstance(schema, dict) or "$ref" in schema or _combines(schema):
        return None
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else None


def _combines(schema: dict[str, Any]) -> bool:
    return any(name in schema for name in ("anyOf", "oneOf", "allOf", "patternProperties", "if"))


def _known(names: list[str]) -> str:
    return f"; it has {', '.join(names)}" if names else ""


def _is_closed(schema: Any) -> bool:
    """Whether a sample of it is what records are like: plain objects, lists and values, all through."""
    if not isinstance(schema, dict) or "$ref" in schema or _combines(schema):
        return False
    parts = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return ("type" in schema or "enum" in schema) and all(_is_closed(part) for part in parts)


def _sample(schema: Any, number: float, depth: int = 0) -> Any:
    """A value that a plain schema allows, more or less: texts and bounds do not matter here, kinds do."""
    if depth > _DEPTH_MAX or not isinstance(schema, dict):
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            return {name: _sample(part, number, depth + 1) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [_sample(schema["items"], number, depth + 1)] if "items" in schema else []
        case "string":
            return _TEXTS.get(schema.get("format", ""), "text")
        case "integer":
            return 1
        case "number":
            return number
        case "boolean":
            return True
        case _:
            return None


_TEXTS = {"date": "2020-01-31", "date-time": "2020-01-31T12:00:00Z", "time": "12:00:00Z"}
