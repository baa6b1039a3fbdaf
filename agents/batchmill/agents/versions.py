"""What was asked for of a job's versions: read out of its commands, as the tasks obey them.

The log is asked where no read model need be (`job plan`, `job apply`, `job show`); what is in effect is the tasks' word
(`agents.projector.versions`). What must not live here: the tasks' side (`streams.versioning`, `streams.promoting`).
"""

from collections.abc import Sequence
from enum import StrEnum

from batchmill.agents.commands import AppliedVersion, applied_versions
from batchmill.schemas.records import Control

__all__ = ["Standing", "promoted_version", "standings"]


class Standing(StrEnum):
    """How a version stands in its job."""

    PROMOTED = "promoted"  #: in force: new events are normalized under it
    FORMER = "former"  #: was in force
    SHADOW = "shadow"  #: tried out: what it answers is not written
    REJECTED = "rejected"  #: was tried out, and never will be in force unless applied again


def standings(commands: Sequence[Control]) -> dict[str, Standing]:
    """How each version of the one job that `commands` are about stands, in the order of first application.

    The first one that was applied is in force until another one is promoted; any other that is applied is tried out.
    What names a version that was not applied, or rejects the one in force, is refused by the tasks.
    """
    found: dict[str, Standing] = {}
    was_promoted: list[str] = []
    for command in commands:
        version = command.version
        in_force = was_promoted[-1] if was_promoted else None
        if version is None or version == in_force or (command.command != "apply" and version not in found):
            continue
        if command.command == "promote" or (command.command == "apply" and in_force is None):
            if in_force is not None:
                found[in_force] = Standing.FORMER
            found[version] = Standing.PROMOTED
            was_promoted.append(version)
        elif command.command == "apply":
            found[version] = Standing.SHADOW
        elif command.command == "reject":
            found[version] = Standing.FORMER if version in was_promoted else Standing.REJECTED
    return found


def promoted_version(commands: Sequence[Control]) -> AppliedVersion | None:
    """The version in force of the one job that `commands` are about; None: nothing was applied."""
    in_force = [version for version, standing in standings(commands).items() if standing is Standing.PROMOTED]
    return applied_versions(commands)[in_force[0]] if in_force else None
