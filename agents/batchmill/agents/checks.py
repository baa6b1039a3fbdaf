"""Checks written in Python, as they are installed: entry points of the group `batchmill.checks`.

    [project.entry-points."batchmill.checks"]
    iban = "acme_checks.iban:check"

What lives here: which there are. What must not: how one is found and hashed (`installed`), what it is given and what
its answer means (`streams.checking`).
"""

from collections.abc import Iterator

from batchmill.agents.installed import InstalledError, load_installed, names_of
from batchmill.streams.checking import CheckFunction

__all__ = ["GROUP", "CheckLoadError", "installed_checks", "installed_names", "load_check"]

GROUP = "batchmill.checks"

CheckLoadError = InstalledError


def installed_names() -> tuple[str, ...]:
    """The names under which functions are installed, whether or not they can be imported."""
    return names_of(GROUP)


def load_check(name: str) -> CheckFunction:
    """The function of that name, or CheckLoadError."""
    found = load_installed(GROUP, name, kind="check")
    return CheckFunction(call=found.call, sha256=found.sha256)


def installed_checks() -> dict[str, CheckFunction]:
    """All that can be had, by name; jobs that name another get a failed check that says so."""
    return dict(_available())


def _available() -> Iterator[tuple[str, CheckFunction]]:
    for name in installed_names():
        try:
            yield name, load_check(name)
        except CheckLoadError:
            continue
