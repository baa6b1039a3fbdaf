"""Every dependency is pinned, by number and not by place."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in LINES)}


def declared() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    groups = PROJECT["dependency-groups"].values()
    texts = [*PROJECT["project"]["dependencies"], *(text for each in (*extras, *groups) for text in each)]
    return [Requirement(text) for text in texts]


def test_each_line_is_one_exact_version_and_nothing_else() -> None:
    assert not [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]
    assert len(PINS) == len(LINES)


def test_every_declared_dependency_is_pinned_within_its_declared_range() -> None:
    wrong = [
        str(requirement)
        for requirement in declared()
        if not requirement.specifier.contains(PINS.get(canonicalize_name(requirement.name), Version("0")))
    ]
    assert not wrong, "run `make constraints`"
