"""Where in a JSON object a value lies: `$.a.b[0]`, compiled once, read many times.

A deliberately small part of JSONPath: member names and array positions, so that a path names at most one value.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["ABSENT", "Path", "PathError", "compile_path"]

_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d{1,6})\]|\['([^']{1,256})'\]")


class PathError(ValueError):
    """The path cannot be read; the message shows where."""


class _Absent(Enum):
    ABSENT = "absent"


#: what `Path.find` answers when nothing lies there (None is JSON null)
ABSENT = _Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Path:
    """A compiled path; `text` is how it was written."""

    text: str
    steps: tuple[str | int, ...]

    def find(self, value: Any) -> Any:
        """The value at this path, or ABSENT."""
        for step in self.steps:
            if isinstance(step, str):
                if not isinstance(value, dict) or step not in value:
                    return ABSENT
            elif not isinstance(value, list) or step >= len(value):
                return ABSENT
            value = value[step]
        return value

    def replace(self, value: Any, new: Any) -> None:
        """Put `new` at this path inside `value`; the path must lead somewhere already."""
        parent = Path(self.text, self.steps[:-1]).find(value)
        parent[self.steps[-1]] = new


def compile_path(text: str) -> Path:
    """Read `$.a.b[0]`; `a.b` without the leading `$.` is taken as the same."""
    rest = text.strip()
    rest = rest[1:] if rest.startswith("$") else f".{rest}"
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        found = _STEP.match(rest, at)
        if found is None:
            raise PathError(f"cannot read the path {text!r} from {rest[at:]!r} on: write it as $.a.b[0]")
        name, position, quoted = found.groups()
        steps.append(int(position) if position is not None else name or quoted)
        at = found.end()
    if not steps:
        raise PathError(f"the path {text!r} names nothing: write it as $.a.b[0]")
    return Path(text, tuple(steps))
