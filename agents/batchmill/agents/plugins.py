"""Functions of other packages, as they are installed: entry points of a group of ours, hashed by their source.

Each is hashed with the source file of the module it is defined in, so that what was there once can be told from what is
there now. What has no source that can be read has no hash, and counts as not installed. What lives here: finding,
importing and hashing. What must not: what a function is for (`checks`, `rivals`).
"""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

__all__ = ["Plugin", "PluginError", "load", "names"]

_SOURCE_BYTES_MAX: Final = 4 * 2**20


class PluginError(Exception):
    """The function cannot be had; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """An installed function, and the hash of the source it came from."""

    call: Callable[..., Any]
    sha256: str


def names(group: str) -> tuple[str, ...]:
    """Under which functions are installed, whether or not they can be imported."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def load(group: str, name: str, *, what: str) -> Plugin:
    """The function of that name, or PluginError; `what` it is, in a word."""
    found = tuple(entry_points(group=group, name=name))
    if not found:
        known = ", ".join(names(group)) or "none is installed"
        raise PluginError(f"there is no {what} {name!r} among the entry points of {group}", f"installed: {known}")
    if len({point.value for point in found}) > 1:
        packages = ", ".join(sorted(point.dist.name for point in found if point.dist is not None))
        raise PluginError(f"the {what} {name!r} is installed twice", f"remove one of: {packages}")
    return _loaded(found[0], what)


def _loaded(point: EntryPoint, what: str) -> Plugin:
    try:
        function = point.load()
        source = _source(point.module)
    except (Exception, SystemExit) as error:
        why = f"the {what} {point.name!r} cannot be loaded from {point.value}: {type(error).__name__}"
        raise PluginError(why, "import it by hand to see what is wrong") from error
    if not callable(function):
        raise PluginError(f"the {what} {point.name!r} is no function: {point.value}", "name a function as module:name")
    return Plugin(call=function, sha256=hashlib.sha256(source).hexdigest())


def _source(module: str) -> bytes:
    """Of the module's own file: what it imports is hashed by nobody."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise FileNotFoundError(module)
    file = Path(spec.origin)
    if file.stat().st_size > _SOURCE_BYTES_MAX:
        raise OSError(module)
    return file.read_bytes()
