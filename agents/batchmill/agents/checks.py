"""Checks written in Python, as they are installed: entry points of the group `batchmill.checks`.

    [project.entry-points."batchmill.checks"]
    iban = "acme_checks.iban:check"

Each is hashed with the source file of the module it is defined in, so that a job is frozen with what was there when it
was read. What has no source that can be read has no hash, and counts as not installed. What lives here: finding,
importing and hashing. What must not: what a function is given and what its answer means (`streams.checking`).
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from batchmill.streams.checking import CheckFunction

__all__ = ["GROUP", "CheckLoadError", "installed_checks", "installed_names", "load_check"]

GROUP = "batchmill.checks"
_SOURCE_BYTES_MAX = 4 * 2**20


class CheckLoadError(Exception):
    """The function cannot be had; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def installed_names() -> tuple[str, ...]:
    """The names under which functions are installed, whether or not they can be imported."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def load_check(name: str) -> CheckFunction:
    """The function of that name, or CheckLoadError."""
    found = tuple(entry_points(group=GROUP, name=name))
    if not found:
        known = ", ".join(installed_names()) or "none is installed"
        raise CheckLoadError(f"there is no check {name!r} among the entry points of {GROUP}", f"installed: {known}")
    if len({point.value for point in found}) > 1:
        packages = ", ".join(sorted(point.dist.name for point in found if point.dist is not None))
        raise CheckLoadError(f"the check {name!r} is installed twice", f"remove one of: {packages}")
    return _loaded(found[0])


def installed_checks() -> dict[str, CheckFunction]:
    """All that can be had, by name; jobs that name another get a failed check that says so."""
    return dict(_available())


def _available() -> Iterator[tuple[str, CheckFunction]]:
    for name in installed_names():
        try:
            yield name, load_check(name)
        except CheckLoadError:
            continue


def _loaded(point: EntryPoint) -> CheckFunction:
    try:
        function = point.load()
        source = _source(point.module)
    except (Exception, SystemExit) as error:
        why = f"the check {point.name!r} cannot be loaded from {point.value}: {type(error).__name__}"
        raise CheckLoadError(why, "import it by hand to see what is wrong") from error
    if not callable(function):
        raise CheckLoadError(
            f"the check {point.name!r} is no function: {point.value}", "name a function as module:name"
        )
    return CheckFunction(call=function, sha256=hashlib.sha256(source).hexdigest())


def _source(module: str) -> bytes:
    """Of the module's own file: what it imports is hashed by nobody."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise FileNotFoundError(module)
    file = Path(spec.origin)
    if file.stat().st_size > _SOURCE_BYTES_MAX:
        raise OSError(module)
    return file.read_bytes()
