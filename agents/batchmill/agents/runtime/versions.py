"""Which versions of Faust, aiokafka and mode this driver is proven on; start-up refuses others.

The driver overrides private methods of all three. What lives here: the table and the check. What must not: a guess
whether another version might do.
"""

from collections.abc import Mapping
from importlib.metadata import version

from batchmill.agents.runtime.errors import VersionError

__all__ = ["PROVEN", "check_versions", "installed_versions"]

PROVEN: Mapping[str, str] = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}


def installed_versions() -> dict[str, str]:
    return {name: version(name) for name in PROVEN}


def check_versions(installed: Mapping[str, str], *, allow_untested: bool) -> tuple[str, ...]:
    """The differences, in words; raises when there are any and they were not allowed."""
    differences = tuple(
        f"{name} {installed[name]} is installed, {wanted} is proven"
        for name, wanted in PROVEN.items()
        if installed[name] != wanted
    )
    if differences and not allow_untested:
        raise VersionError(
            f"{'; '.join(differences)}. Install the pinned versions, or set runtime.allow_untested_versions "
            "and run the exactness suite yourself"
        )
    return differences
