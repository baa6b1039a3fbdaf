"""All that can be told of a prompt before it is paid for: what it reads, shows, says, and is answered in.

What lives here: asking each reader, in the order in which an author would want to know, and the two limits that a
prompt can break before any record is known. What must not: what makes a job unusable at run time (`linting`). A warning
has a name by which it can be allowed.
"""

from collections.abc import Iterator, Mapping

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.streams.checking import NO_FUNCTIONS, CheckFunction
from batchmill.streams.compiling import FAULTS
from batchmill.streams.costing import BYTES_PER_TOKEN, estimate_tokens
from batchmill.streams.declaring import undeclared
from batchmill.streams.dialects import Loss, losses
from batchmill.streams.exemplifying import examples_of
from batchmill.streams.finding import Finding, Lint
from batchmill.streams.judging import compile_judge
from batchmill.streams.linting_routes import on_all_routes
from batchmill.streams.prefixing import late_constant
from batchmill.streams.rendering import RequestForm, bare_prompt, request_form
from batchmill.streams.shapes import compile_shape
from batchmill.streams.subschemas import members_of, target_of
from batchmill.streams.trying import unfit_examples
from batchmill.streams.unusable import Unusable
from batchmill.streams.wording import loose_words

__all__ = ["remarks"]


#: a batch of fewer is a batch in name only
_CHUNK_RECORDS_MIN = 10
_PATHS_TOLD_MAX = 5
#: levels of a schema that are looked into for the shortest answer
_DEPTH_MAX = 8


def remarks(spec: JobSpec, functions: Mapping[str, CheckFunction] = NO_FUNCTIONS) -> tuple[Finding, ...]:
    """Everything that is odd about the prompt of `spec`; what does not compile is told by `linting`.

    `functions`: the checks that are installed, which examples are held to as well.
    """
    return tuple(on_all_routes(spec, lambda asked: (*_dialect(asked), *_of_the_prompt(asked, functions))))


def _of_the_prompt(spec: JobSpec, functions: Mapping[str, CheckFunction]) -> Iterator[Finding]:
    try:
        form = request_form(spec.ask, spec.input)
        compile_judge(spec)
        if spec.input.schema_json is not None:
            compile_shape(orjson.loads(spec.input.schema_json))
    except FAULTS:
        return
    yield from undeclared(spec)
    yield from unfit_examples(spec, functions)
    yield from loose_words(spec)
    late = late_constant(spec.ask, sum(len(orjson.dumps(turn)) for turn in form.turns))
    yield from () if late is None else (late,)
    yield from _crowded(spec, form)
    yield from _cramped(spec, form)


def _dialect(spec: JobSpec) -> Iterator[Finding]:
    """One finding for each thing that is sent instead, with the places it is sent in."""
    if spec.ask.output_schema_json is None:
        return
    told: dict[tuple[bool, str], list[str]] = {}
    for loss in losses(orjson.loads(spec.ask.output_schema_json), spec.ask.model.provider):
        told.setdefault((loss.refused, loss.sent), []).append(_place(loss))
    for (refused, sent), places in told.items():
        few = ", ".join(dict.fromkeys(places[:_PATHS_TOLD_MAX]))
        more = f" and {len(places) - _PATHS_TOLD_MAX} more" if len(places) > _PATHS_TOLD_MAX else ""
        yield Finding(
            where="$.ask.output", lint=Lint.OUTPUT_DIALECT, message=f"{few}{more}: {sent}", error=refused,
            hint=None if refused else "the validator holds answers to it all the same",
        )  # fmt: skip


def _place(loss: Loss) -> str:
    return f"{loss.path} `{loss.word}`"


def _crowded(spec: JobSpec, form: RequestForm) -> Iterator[Finding]:
    """What is the same for each record, against the limits of a chunk."""
    try:
        bare = bare_prompt(spec.ask)
        texts = [bare.system_text({}) or "", bare.user_text({})]
    except Unusable:
        return  # it loops over what only a record has
    size = len(orjson.dumps([form.fixed, [*form.turns], texts]))
    tokens, chunk = estimate_tokens(size), spec.mode.chunk
    fit = min(chunk.max_tokens // max(tokens, 1), chunk.max_bytes // max(size, 1))
    if fit < min(_CHUNK_RECORDS_MIN, chunk.max_count):
        none = "no record fits: each would be dead-lettered" if fit == 0 else f"at most {fit} records fit"
        message = f"what is fixed in the prompt has some {tokens} tokens, and {none}"
        yield Finding(
            where="$.mode.chunk", lint=Lint.CHUNK_TOO_SMALL, message=message, error=fit == 0,
            hint="raise mode.chunk's limits, or shorten prompt and examples",
        )  # fmt: skip


def _cramped(spec: JobSpec, form: RequestForm) -> Iterator[Finding]:
    """The room for an answer, against the shortest one that would count, and those that the examples show."""
    room = form.output_tokens_max()
    if room is None:
        return
    for example in examples_of(spec.ask, spec.input):
        needs = estimate_tokens(len(example.answer.encode()))
        if needs > room:
            message = f"the output has some {needs} tokens, and max_output_tokens is {room}"
            yield Finding(
                where="$.ask.examples", line=example.number, lint=Lint.SMALL_ANSWER_ROOM, message=message, error=False,
                hint="an answer that is cut off is paid for and asked again",
            )  # fmt: skip
    if spec.ask.output_schema_json is None:
        return
    schema = orjson.loads(spec.ask.output_schema_json)
    needs = -(-_shortest(schema, schema, 0) // BYTES_PER_TOKEN)
    if needs > room:
        message = f"max_output_tokens is {room}, and the shortest answer that fits the output schema has some {needs}"
        yield Finding(
            where="$.ask.model.params", lint=Lint.SMALL_ANSWER_ROOM, message=message, error=False,
            hint="an answer that is cut off is paid for and asked again",
        )  # fmt: skip


def _shortest(part: object, root: object, depth: int) -> int:
    """Bytes of the shortest JSON text that fits, about."""
    whole = target_of(part, root)
    if depth > _DEPTH_MAX:
        return 1
    if isinstance(whole.get("enum"), list) and whole["enum"]:
        return min(len(orjson.dumps(each)) for each in whole["enum"])
    alternatives = [each for word in ("anyOf", "oneOf") for each in _listed(whole.get(word))]
    if alternatives:
        return min(_shortest(each, root, depth + 1) for each in alternatives)
    required = [name for name in _listed(whole.get("required")) if isinstance(name, str)]
    members = members_of(whole, root)
    if required:
        return 2 + sum(len(name) + 4 + _shortest(members.get(name), root, depth + 1) for name in required)
    items = _count(whole.get("minItems"))
    if items:
        return 1 + items * (1 + _shortest(whole.get("items"), root, depth + 1))
    return 2 + _count(whole.get("minLength")) if whole.get("type") == "string" else 1


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
