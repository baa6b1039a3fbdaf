"""The examples of a job: what was given and what should be answered, as the model sees both.

What lives here: reading them. Their inputs are made like those of events (same text normalisation, same canonical
form), their outputs are written in the order of the output schema, which is the order that models answer in. What must
not: templates (`rendering`), and whether an example is right (`trying`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.schemas.asking import AskSpec
from batchmill.schemas.jobs import InputSpec
from batchmill.streams.cleaning import Cleaner, compile_cleaner
from batchmill.streams.jsontext import JsonObject, canonical
from batchmill.streams.subschemas import in_order

__all__ = ["EXAMPLES_MAX", "Example", "ExampleError", "examples_of"]

#: each of them is sent with every question
EXAMPLES_MAX = 64
_MEMBERS = {"input", "output"}


class ExampleError(ValueError):
    """An example that cannot be shown; the message says which."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"example {number}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One turn of the conversation before the question."""

    number: int  #: from 1
    input: JsonObject
    output: Any
    answer: str  #: the output as the model is to write it


def examples_of(ask: AskSpec, given: InputSpec) -> tuple[Example, ...]:
    """Read, or ExampleError / PathError."""
    if ask.examples_json is None:
        return ()
    listed = json.loads(ask.examples_json)  # of any size, unlike orjson
    if not isinstance(listed, list):
        raise ExampleError(1, "examples are a list of objects with `input` and `output`")
    if len(listed) > EXAMPLES_MAX:
        raise ExampleError(EXAMPLES_MAX + 1, f"at most {EXAMPLES_MAX} are shown: each is sent with every question")
    cleaner = compile_cleaner(given)
    schema = None if ask.output_schema_json is None else orjson.loads(ask.output_schema_json)
    beside = tuple(each.into for each in (ask.retrieval, ask.tools) if each is not None)
    return tuple(_example(number, each, cleaner, beside, schema) for number, each in enumerate(listed, start=1))


def _example(number: int, told: Any, cleaner: Cleaner, beside: Sequence[str], schema: Any) -> Example:
    """`beside`: members that are put beside a record once it is cleaned; an example brings its own."""
    if not isinstance(told, dict) or told.keys() != _MEMBERS or not isinstance(told["input"], dict):
        raise ExampleError(number, "expected an object with two members, `input` (an object) and `output`")
    looked_up = {name: told["input"].pop(name) for name in beside if name in told["input"]}
    cleaner.apply(told["input"])
    told["input"] |= looked_up
    seen, output = (orjson.loads(canonical(told[name])) for name in ("input", "output"))
    return Example(number=number, input=seen, output=output, answer=_answer(output, schema))


def _answer(output: Any, schema: Any) -> str:
    if schema is None and isinstance(output, str):
        return output
    return orjson.dumps(in_order(output, schema, schema)).decode()
