"""Functions that users install beside batchmill: entry points of a group, each with the hash of its source.

A job is frozen with what was there when it was read, so what has no source that can be read counts as not installed.
What lives here: finding, importing and hashing. What must not: what a function is given and what its answer means.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

__all__ = ["Installed", "InstalledError", "load_installed", "names_of"]

_SOURCE_BYTES_MAX = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A function, and the hash of the file that it is defined in."""

    call: Callable[..., Any]
    sha256: str


class InstalledError(Exception):
    """The function cannot be had; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def names_of(group: str) -> tuple[str, ...]:
    """The names under which functions of `group` are installed, whether or not they can be imported."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def load_installed(group: str, name: str, *, kind: str) -> Installed:
    """The function of that name, or InstalledError; `kind` is what people call it."""
    found = tuple(entry_points(group=group, name=name))
    if not found:
        known = ", ".join(names_of(group)) or "none is installed"
        raise InstalledError(f"there is no {kind} {name!r} among the entry points of {group}", f"installed: {known}")
    if len({point.value for point in found}) > 1:
        packages = ", ".join(sorted(point.dist.name for point in found if point.dist is not None))
        raise InstalledError(f"the {kind} {name!r} is installed twice", f"remove one of: {packages}")
    return _loaded(found[0], kind)


def _loaded(point: EntryPoint, kind: str) -> Installed:
    try:
        function = point.load()
        source = _source(point.module)
    except (Exception, SystemExit) as error:
        why = f"the {kind} {point.name!r} cannot be loaded from {point.value}: {type(error).__name__}"
        raise InstalledError(why, "import it by hand to see what is wrong") from error
    if not callable(function):
        raise InstalledError(
            f"the {kind} {point.name!r} is no function: {point.value}", "name a function as module:name"
        )
    return Installed(call=function, sha256=hashlib.sha256(source).hexdigest())


def _source(module: str) -> bytes:
    """Of the module's own file: what it imports is hashed by nobody."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise FileNotFoundError(module)
    file = Path(spec.origin)
    if file.stat().st_size > _SOURCE_BYTES_MAX:
        raise OSError(module)
    return file.read_bytes()
