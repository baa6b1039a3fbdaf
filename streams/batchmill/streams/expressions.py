"""CEL conditions of a job: compiled once, asked per record, true or false or a reason why not.

The library's own messages may quote values, so only the class of a failure is passed on. It counts no steps either, and
its `map` and `filter` copy what they have at each item; so what an expression would cost at worst is reckoned from how
deep its loops are nested and how long the lists and texts are that it reads, and too much is no answer.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cel

from batchmill.streams.cel_functions import FUNCTION_NAMES, WORDS_MAX, Work

__all__ = ["SOURCE_CHARS_MAX", "STEPS_MAX", "Condition", "ConditionError", "Scope", "compile_condition"]

SOURCE_CHARS_MAX = 4_000
#: at 0.1 to 0.5 microseconds each
STEPS_MAX = 1_000_000
#: characters that are searched in the time of one step
_STEP_CHARS = 4_096
#: of one search for a pattern that a record brings along: it may be large (10 ms to make it), and then cost as much as
#: a millisecond for each character
_SEEK_STEPS = 100_000
_SEEK_STEPS_PER_CHAR = 1_000

#: what the library evaluates; others compile and would then fail on every record
_FUNCTIONS = FUNCTION_NAMES | frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches"}
    | {"int", "uint", "double", "string", "bytes", "type", "dyn", "timestamp", "duration"}
)
_TYPE_NAMES = frozenset(
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "timestamp", "duration"]
)
#: loops, and the power of the list's length that each costs
_LOOPS = {"all": 1, "exists": 1, "exists_one": 1, "map": 2, "filter": 2}
#: a variable bound by a macro, as `x` in `input.tags.all(x, x != "")`
_BINDING = re.compile(r"\.(?:all|exists|exists_one|map|filter)\(\s*([A-Za-z_]\w*)\s*,")
#: a membership test goes through its list, unless that is written out
_OPENING = re.compile(r"(?:\.\s*([A-Za-z_]\w*)\s*)?\(|\)|(?<![\w.])in(?!\w)(?!\s*[\[{])")
#: a pattern that is no text written in the expression; of those blanks are left
_SEEKING = re.compile(r"(?<!\w)matches\s*\((?!\s*\))")
_QUIET = re.compile(
    r"""[rR]"[^"\n]*"|[rR]'[^'\n]*'|\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|//[^\n]*"""
)

_NOTES: tuple[tuple[type[Exception], str], ...] = (
    (LookupError, "a member it names is absent; guard it with has(...)"),
    (ArithmeticError, "an overflow or a division by zero"),
    (TypeError, "a value has a type the expression does not take; wrap numbers that may be fractions in double(...)"),
)


class ConditionError(ValueError):
    """The condition cannot be compiled, or gave no answer for this record; free of payload."""


class Scope:
    """Values that conditions are asked about: handed to the library once, for as many conditions as there are."""

    __slots__ = ("_context", "_extents", "_variables", "_work")

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables
        self._work = Work()
        self._context: Any = None
        self._extents: dict[tuple[str, str | None], tuple[int, int]] = {}

    def execute(self, program: cel.Program) -> Any:
        if self._context is None:
            self._context = cel.Context(variables=dict(self._variables), functions=self._work.functions())
        self._work.begin()
        try:
            return program.execute(self._context)
        finally:
            if self._work.fault is not None:  # told before what it led to
                raise ConditionError(self._work.fault)

    def extent(self, read: tuple[str, str | None]) -> tuple[int, int]:
        """(items of the longest list or object, characters of the longest text) of what is read."""
        if read not in self._extents:
            value = self._variables.get(read[0])
            if read[1] is not None:
                value = value.get(read[1]) if isinstance(value, dict) else None
            self._extents[read] = _extent(value)
        return self._extents[read]


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled CEL expression."""

    source: str
    program: cel.Program
    reads: frozenset[tuple[str, str | None]]  #: (variable, member of it); member None: the variable as a whole
    power: int  #: of the length of the longest list, in what its loops cost
    splits: bool  #: it makes lists of texts
    seeks: bool  #: it searches for patterns that records bring along

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The variables and members it names, as `("output", "total")` of `output.total`."""
        names = "|".join(re.escape(name) for name in sorted(self.variables))
        if not names:
            return ()
        found = re.findall(rf"(?<![\w.])(?:{names})(?:\s*\.\s*[A-Za-z_]\w*(?!\w|\s*\())*", _code(self.source))
        return tuple(dict.fromkeys(tuple(re.split(r"\s*\.\s*", path)) for path in found))

    @property
    def variables(self) -> frozenset[str]:
        """The variables it speaks of."""
        return frozenset(variable for variable, _ in self.reads)

    def holds(self, given: Scope | Mapping[str, Any]) -> bool:
        """Whether the condition is true; ConditionError when it is neither true nor false."""
        answer = self.value(given)
        if answer is True or answer is False:
            return answer
        raise ConditionError("it answered neither true nor false")

    def value(self, given: Scope | Mapping[str, Any]) -> Any:
        """What the expression comes to, of whatever kind; ConditionError when it comes to nothing."""
        scope = given if isinstance(given, Scope) else Scope(given)
        if (self.power or self.seeks) and self._steps(scope) > STEPS_MAX:
            raise ConditionError("the lists or texts it goes through are too long for it")
        try:
            return scope.execute(self.program)
        except (ConditionError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - many kinds, a panic of the library too: each means no answer
            raise ConditionError(_note(error)) from None

    def _steps(self, scope: Scope) -> int:
        extents = [scope.extent(read) for read in self.reads]
        items, chars = (max((extent[at] for extent in extents), default=0) for at in (0, 1))
        if self.splits:
            items = max(items, min(WORDS_MAX, chars // 2 + 1))
        each = max(_SEEK_STEPS, chars * _SEEK_STEPS_PER_CHAR) if self.seeks else 1 + chars // _STEP_CHARS
        return int(items**self.power) * each


def compile_condition(source: str, *, variables: frozenset[str]) -> Condition:
    """Compile `source`, which may speak of `variables` only; ConditionError shows the place of a mistake."""
    if len(source) > SOURCE_CHARS_MAX:
        raise ConditionError(f"it is {len(source)} characters long, at most {SOURCE_CHARS_MAX} are read")
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise ConditionError(str(error)) from None
    code = _code(source)
    bound = frozenset(_BINDING.findall(code))
    unknown = sorted(set(program.variables()) - variables - bound - _TYPE_NAMES)
    if unknown:
        raise ConditionError(
            f"unknown variable {_shown(unknown[0], code, variables)}: it may speak of {_all(variables)}"
        )
    strange = sorted(name for name in program.functions() if name[0].isalpha() and name not in _FUNCTIONS)
    if strange:
        raise ConditionError(f"unknown function {_shown(strange[0], code, _FUNCTIONS)}: known are {_all(_FUNCTIONS)}")
    return Condition(
        source,
        program,
        reads=frozenset(_reads(code, variables)),
        power=_power(code),
        splits="words" in program.functions(),
        seeks=_SEEKING.search(code) is not None,
    )


def _code(source: str) -> str:
    """The source with blanks for its texts and remarks, each character at its place."""
    return _QUIET.sub(lambda found: " " * len(found[0]), source)


def _shown(name: str, code: str, known: frozenset[str]) -> str:
    """The name, where it stands, and what may have been meant."""
    found = re.search(rf"\b{re.escape(name)}\b", code)
    near = difflib.get_close_matches(name, sorted(known), n=1)
    place = "" if found is None else f" at character {found.start() + 1}"
    return f"{name!r}{place}" + (f", did you mean {near[0]!r}?" if near else "")


def _all(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _reads(code: str, variables: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    """What the expression can reach: members where it names one, else the variable; a call is no member."""
    names = "|".join(re.escape(name) for name in sorted(variables))
    for found in re.finditer(rf"(?<![\w.])({names})\b(?:\s*\.\s*([A-Za-z_]\w*)(?!\w|\s*\())?", code):
        yield found[1], found[2]


def _power(code: str) -> int:
    """How deep loops are nested, each counted by what it costs; a membership test inside of one is one more."""
    stack: list[int] = []
    highest = 0
    for found in _OPENING.finditer(code):
        if found[0] == "in":
            highest = max(highest, sum(stack) + 1)
        elif found[0] != ")":
            stack.append(_LOOPS.get(found[1] or "", 0))
            highest = max(highest, sum(stack))
        elif stack:
            stack.pop()
    return highest


def _extent(value: Any) -> tuple[int, int]:
    items = chars = 0
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            chars = max(chars, len(each))
        elif isinstance(each, dict | list):
            items = max(items, len(each))
            todo.extend(each.values() if isinstance(each, dict) else each)
    return items, chars


def _note(error: BaseException) -> str:
    for kind, note in _NOTES:
        if isinstance(error, kind):
            return note
    return "a value does not fit the function or operator it is used with"
