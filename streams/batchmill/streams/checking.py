"""Checks written in Python: what such a function is given, what it may answer, and what each answer means.

    def check(output, input, params) -> bool | str | None | list

`output` and `input` are decoded JSON, a copy of its own for each call; `params` is what the job declares. True, None or
an empty list: it holds. False: it does not. A text: it does not, and this is what was expected. A list: one failed
check for each item, a text or a pair (path, text). Texts are stored and shown: they must say what was expected, never
what was there. A function that fails is a failed check; one that this worker does not have, or has in another form than
the job was frozen with, is one too, and a person decides. It must be quick and must not wait for anything: nothing else
runs on the worker meanwhile.

How functions are found and hashed is the business of `agents`; here they are handed in.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.schemas.jobs import FunctionSpec, Severity
from batchmill.schemas.records import Check

__all__ = ["NOTE_CHARS_MAX", "NO_FUNCTIONS", "CheckFunction", "FunctionError", "called", "checked"]

#: of what a function says
NOTE_CHARS_MAX = 200
_FAULTS_MAX = 16


@dataclass(frozen=True, slots=True)
class CheckFunction:
    """A function that is installed, and the hash of the source it came from."""

    call: Callable[[Any, Any, Any], Any]
    sha256: str


NO_FUNCTIONS: Mapping[str, CheckFunction] = {}


class FunctionError(Exception):
    """There is no answer of the function; the message says why, free of payload. `absent`: it could not be asked."""

    def __init__(self, message: str, *, absent: bool) -> None:
        super().__init__(message)
        self.absent = absent


def called(spec: FunctionSpec, functions: Mapping[str, CheckFunction], output: Any, item_input: Any) -> Any:
    """What the function answers, or FunctionError."""
    function = functions.get(spec.name)
    if function is None:
        raise FunctionError(f"the function {spec.name} is not installed on this worker", absent=True)
    if function.sha256 != spec.sha256:
        what = f"the function {spec.name} on this worker is not the one the job was frozen with"
        raise FunctionError(what, absent=True)
    if item_input is None:
        raise FunctionError("the input cannot be read any more", absent=True)
    try:
        return function.call(deepcopy(output), deepcopy(item_input), orjson.loads(spec.params_json))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - somebody else's code: its messages may quote, its CancelledError is not ours
        raise FunctionError(f"the function {spec.name} failed with {type(error).__name__}", absent=False) from None


def checked(
    spec: FunctionSpec, functions: Mapping[str, CheckFunction], output: Any, item_input: Any
) -> tuple[Check, ...]:
    """The function's answer as checks: one that passed, or those that did not."""
    try:
        faults = tuple(_faults(called(spec, functions, output, item_input)))
    except FunctionError as wrong:
        severity = Severity.REVIEW if wrong.absent else spec.severity
        return (Check(id=spec.id, severity=severity.value, passed=False, path=None, note=str(wrong)),)
    if not faults:
        return (Check(id=spec.id, severity=spec.severity.value, passed=True, path=None, note=None),)
    return tuple(
        Check(id=spec.id, severity=spec.severity.value, passed=False, path=path, note=note)
        for path, note in faults[:_FAULTS_MAX]
    )


def _faults(answer: Any) -> Iterator[tuple[str | None, str]]:
    if answer is None or answer is True:
        return
    if answer is False:
        yield None, "expected the function to agree"
    elif isinstance(answer, str):
        yield None, _note(answer)
    elif isinstance(answer, list | tuple):
        for each in answer[: _FAULTS_MAX + 1]:
            yield _fault(each)
    else:
        yield None, _OTHERWISE


_OTHERWISE = "the function answered neither true nor false nor with notes"


def _fault(each: Any) -> tuple[str | None, str]:
    match each:
        case str():
            return None, _note(each)
        case [str() as path, str() as note]:
            return _note(path), _note(note)
        case _:
            return None, _OTHERWISE


def _note(text: str) -> str:
    return text[:NOTE_CHARS_MAX].encode("utf-8", "replace").decode()
