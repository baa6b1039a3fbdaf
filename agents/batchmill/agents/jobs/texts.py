"""The files a job names, read once, and units (durations, dollars) in those of the spec.

What must not live here: which member of the job is which (`resolving`, `resolving_ask`).
"""

import json
import re
from decimal import Decimal
from pathlib import Path

from batchmill.agents.jobs.lines import Lined, Steps
from batchmill.agents.jobs.problems import Problem

__all__ = ["Texts", "nanos_of", "seconds_of"]

_TEXT_BYTES_MAX = 2**20
NANO_DOLLARS = 10**9
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
#: what Python's reader raises at JSON that is well-formed, besides being more than it takes
_UNREADABLE = (ValueError, RecursionError)
_TOO_DEEP_OR_LONG = "is nested too deeply, or holds a number with too many digits"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def nanos_of(dollars: float | None) -> int | None:
    return None if dollars is None else round(Decimal(str(dollars)) * NANO_DOLLARS)


def seconds_of(duration: float | str) -> float:
    """`6h` -> 21600.0; a bare number is seconds already."""
    if not isinstance(duration, str):
        return float(duration)
    match = _DURATION.fullmatch(duration)
    assert match is not None, "the grammar lets only durations through"
    return float(match[1]) * _UNIT_SECONDS[match[2]]


class Texts:
    """The files a job names, read once; what cannot be read is a problem at the line that names it."""

    def __init__(self, lined: Lined) -> None:
        self._lined = lined
        self._folder = lined.file.parent
        self.problems: list[Problem] = []
        self.read: dict[Steps, Path] = {}
        self.numbers: dict[Steps, tuple[int, ...]] = {}  #: of a file of documents: the line of each

    def text(self, steps: Steps, name: str | None) -> str | None:
        if name is None:
            return None
        file = self._folder / name
        self.read[steps] = file
        try:
            if not file.resolve().is_relative_to(self._folder.resolve()):
                return self.wrong(steps, f"{name} lies outside the job's folder", "copy it beside job.yaml")
            if file.stat().st_size > _TEXT_BYTES_MAX:
                return self.wrong(steps, f"{name} is larger than {_TEXT_BYTES_MAX} bytes", None)
            return file.read_text("utf-8")
        except UnicodeDecodeError:
            return self.wrong(steps, f"{name} is not UTF-8", None)
        except OSError as error:
            return self.wrong(steps, f"{name} cannot be read: {error.strerror}", f"it should be at {file}")

    def document(self, steps: Steps, name: str | None) -> str | None:
        """A file that holds a JSON document."""
        text = self.text(steps, name)
        if not text:
            return None
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            self.problems.append(Problem(file=self.read[steps], line=error.lineno, what=f"is not JSON: {error.msg}"))
            return None
        except _UNREADABLE:
            self.problems.append(Problem(file=self.read[steps], line=1, what=_TOO_DEEP_OR_LONG))
            return None
        return text

    def lines(self, steps: Steps, name: str | None) -> str | None:
        """A file of one JSON document a line, as one list."""
        text = self.text(steps, name)
        if not text:
            return None
        found = []
        full = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        self.numbers[steps] = tuple(number for number, _ in full)
        for number, line in full:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                what = f"is not JSON: {error.msg}"
                self.problems.append(Problem(file=self.read[steps], line=number, what=what))
                return None
            except _UNREADABLE:
                self.problems.append(Problem(file=self.read[steps], line=number, what=_TOO_DEEP_OR_LONG))
                return None
        return json.dumps(found)

    def wrong(self, steps: Steps, what: str, hint: str | None) -> str:
        self.problems.append(Problem(file=self._lined.file, line=self._lined.line(steps), what=what, hint=hint))
        return ""
