"""YAML with line numbers, read the plain way: no surprises from older YAML, no mistake without its line.

Only `true` and `false` are booleans (`on`, `yes` and `no` stay words), there are no dates and no base-60 numbers, no
anchors, no tags, no merge keys and no repeated members. The data is as JSON would have it.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from batchmill.agents.jobs.problems import JobFileError, Problem

__all__ = ["Lined", "Steps", "read_yaml"]

Steps = tuple[str | int, ...]  #: from the root to a value

_FILE_BYTES_MAX = 2**20
_DEPTH_MAX = 32


@dataclass(slots=True)
class Lined:
    """What a file says, and on which line it says each part."""

    file: Path
    data: Any
    lines: dict[Steps, int] = field(default_factory=dict)

    def line(self, steps: Steps) -> int:
        """Of the value at `steps`, or of the nearest part around it that is there."""
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return self.lines.get(steps, 1)


class _Loader(yaml.SafeLoader):
    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="anchors are not read; write the value out", problem_mark=mark)
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in {None, "!"}:
            # A tag may ask for bytes, dates and sets, or for a number that the text is none of.
            raise yaml.MarkedYAMLError(
                problem="tags are not read; write the value plainly", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


_DIGITS = [*"-0123456789"]
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("int", r"^-?(?:0|[1-9][0-9]{0,18})$", _DIGITS),
    ("float", r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$", _DIGITS),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def read_yaml(file: Path) -> Lined:
    """The one document in `file`; JobFileError when it cannot be read."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise _broken(file, 1, f"cannot be read: {error.strerror}") from None
    if len(raw) > _FILE_BYTES_MAX:
        raise _broken(file, 1, f"{len(raw)} bytes, at most {_FILE_BYTES_MAX} are read")
    try:
        return _compose(file, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _broken(file, raw[: error.start].count(b"\n") + 1, "is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _broken(file, line, f"is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise _broken(file, 1, f"is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:  # of the reader, before there is a tree to measure
        raise _broken(file, 1, f"is nested deeper than {_DEPTH_MAX} levels") from None


def _compose(file: Path, text: str) -> Lined:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lined = Lined(file, None)
        if node is not None:
            lined.data = _plain(loader, node, (), lined)
        return lined
    finally:
        loader.dispose()


def _plain(loader: _Loader, node: yaml.Node, steps: Steps, lined: Lined) -> Any:
    line = node.start_mark.line + 1
    lined.lines.setdefault(steps, line)
    if len(steps) > _DEPTH_MAX:
        raise _broken(lined.file, line, f"is nested deeper than {_DEPTH_MAX} levels")
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, steps, lined)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*steps, at), lined) for at, item in enumerate(node.value)]
    value = loader.construct_object(node)
    if isinstance(value, float) and not math.isfinite(value):
        raise _broken(lined.file, line, "is a number beyond all that are read")
    _readable(lined.file, line, value)
    return value


def _mapping(loader: _Loader, node: yaml.MappingNode, steps: Steps, lined: Lined) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            raise _broken(lined.file, line, "a member name must be plain text", "merge keys are not read")
        _readable(lined.file, line, key.value)
        if key.value in data:
            raise _broken(lined.file, line, f"{key.value!r} is said twice", "keep one of them")
        lined.lines[(*steps, key.value)] = line
        data[key.value] = _plain(loader, value, (*steps, key.value), lined)
    return data


def _readable(file: Path, line: int, value: Any) -> None:
    """Text that no file name, no record and no provider could hold is refused where it stands."""
    if isinstance(value, str) and any(each == "\0" or "\ud800" <= each <= "\udfff" for each in value):
        raise _broken(file, line, "holds the character NUL, or half a character (a lone surrogate)")


def _broken(file: Path, line: int, what: str, hint: str | None = None) -> JobFileError:
    return JobFileError([Problem(file=file, line=line, what=what, hint=hint)])
