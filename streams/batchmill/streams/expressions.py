"""CEL conditions of a job: compiled once, asked per record, true or false or a reason why not.

The library's own messages may quote values, so only the class of a failure is passed on.
"""

import re
from dataclasses import dataclass
from typing import Any

import cel

__all__ = ["Condition", "ConditionError", "compile_condition"]

#: what the library evaluates; others compile and would then fail on every record
_FUNCTIONS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches"}
    | {"int", "uint", "double", "string", "bytes", "type", "dyn", "timestamp", "duration"}
)
_TYPE_NAMES = frozenset(
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "timestamp", "duration"]
)
#: a variable bound by a macro, as `x` in `input.tags.all(x, x != "")`
_BINDING = re.compile(r"\.(?:all|exists|exists_one|map|filter)\(\s*([A-Za-z_]\w*)\s*,")

_NOTES: tuple[tuple[type[Exception], str], ...] = (
    (LookupError, "a member it names is absent; guard it with has(...)"),
    (ArithmeticError, "an overflow or a division by zero"),
    (TypeError, "a value has a type the expression does not take"),
)


class ConditionError(ValueError):
    """The condition cannot be compiled, or gave no answer for this record; free of payload."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled CEL expression over the variables in `names`."""

    source: str
    program: cel.Program

    def holds(self, variables: dict[str, Any]) -> bool:
        """Whether the condition is true; ConditionError when it is neither true nor false."""
        try:
            answer = self.program.execute(variables)
        except Exception as error:  # noqa: BLE001 - the library raises many kinds, each means: no answer
            raise ConditionError(_note(error)) from None
        if answer is True or answer is False:
            return answer
        raise ConditionError("it answered neither true nor false")


def compile_condition(source: str, *, variables: frozenset[str]) -> Condition:
    """Compile `source`, which may speak of `variables` only; ConditionError shows the place of a mistake."""
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise ConditionError(str(error)) from None
    bound = frozenset(_BINDING.findall(source))
    unknown = sorted(set(program.variables()) - variables - bound - _TYPE_NAMES)
    if unknown:
        raise ConditionError(f"unknown variable {unknown[0]!r}: it may speak of {', '.join(sorted(variables))}")
    strange = sorted(name for name in program.functions() if name[0].isalpha() and name not in _FUNCTIONS)
    if strange:
        raise ConditionError(f"unknown function {strange[0]!r}: known are {', '.join(sorted(_FUNCTIONS))}")
    return Condition(source, program)


def _note(error: Exception) -> str:
    for kind, note in _NOTES:
        if isinstance(error, kind):
            return note
    return "a value does not fit the function or operator it is used with"
