"""Whether the schemas still are what the lock says, and whether every version can read every other.

    python -m batchmill.schemas.compat           look; exit 1 on drift or incompatibility
    python -m batchmill.schemas.compat --write   register what changed as the next version, if it is compatible

FULL_TRANSITIVE: each pair of versions of a schema, both ways, by the rules of package `avro` (a port of Java's). A
development tool: nothing that runs imports it, and `avro` is imported only here.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from batchmill.schemas.registry import (
    FIRST_ID,
    Registered,
    history_file,
    meaning,
    read_lock,
    schema_file,
    subject_of,
)

__all__ = ["HOME", "Finding", "look", "main", "write"]

HOME: Final = Path(__file__).parent  #: a directory on disk: this tool writes to it
_WRITE: Final = "python -m batchmill.schemas.compat --write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one schema stands: `wrong` is empty when all is well, `drifted` when it only needs registering."""

    schema: str
    version: int  #: newest registered; 0 when there is none
    id: int
    drifted: bool
    wrong: tuple[str, ...]


def look(home: Path = HOME) -> list[Finding]:
    """Compare every schema file with the lock, and all versions with each other."""
    versions = _versions(home)
    return [_find(name, versions.get(name, []), home) for name in sorted({*_names(home), *versions})]


def write(findings: Sequence[Finding], home: Path = HOME) -> list[Registered]:
    """Register the drifted ones: next version, next id, their text kept in the history."""
    registered = read_lock(home) if (home / "registry.lock").exists() else []
    added: list[Registered] = []
    next_id = max((one.id for one in registered), default=FIRST_ID - 1) + 1
    for finding in findings:
        if finding.drifted:
            text = (home / schema_file(finding.schema)).read_text(encoding="utf-8")
            one = Registered(
                schema=finding.schema,
                version=finding.version + 1,
                id=next_id + len(added),
                sha256=meaning(json.loads(text)),
            )
            kept = home / history_file(one.schema, one.version)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text, encoding="utf-8")
            added.append(one)
    (home / "registry.lock").write_text(_lock_text([*registered, *added]), encoding="utf-8")
    return added


def main(arguments: Sequence[str] | None = None, home: Path = HOME) -> int:
    """Print one line per schema; 0 when all agree."""
    parser = ArgumentParser(prog="python -m batchmill.schemas.compat", description="Check schemas against their lock.")
    parser.add_argument("--write", action="store_true", help="register changed schemas as new versions")
    wanted = parser.parse_args(arguments)
    findings = look(home)
    if wanted.write and not any(finding.wrong for finding in findings):
        for one in write(findings, home):
            sys.stdout.write(f"registered {subject_of(one.schema)} version {one.version} as id {one.id}\n")
        findings = look(home)
    sys.stdout.write(_table(findings))
    return int(any(finding.wrong or finding.drifted for finding in findings))


def _names(home: Path) -> list[str]:
    found = [(path.stem, path) for path in (home / "avro").glob("*.avsc")]
    found += [(f"state.{path.stem}", path) for path in (home / "avro" / "state").glob("*.avsc")]
    return [name for name, _ in found]


def _versions(home: Path) -> dict[str, list[Registered]]:
    versions: dict[str, list[Registered]] = {}
    for one in read_lock(home) if (home / "registry.lock").exists() else []:
        versions.setdefault(one.schema, []).append(one)
    return versions


def _find(name: str, versions: list[Registered], home: Path) -> Finding:
    current = home / schema_file(name)
    newest = versions[-1] if versions else None
    if not current.exists():
        wrong: tuple[str, ...] = (
            f"is in registry.lock but {current.name} is gone; its bytes may still lie in a topic",
        )
        drifted = False
    else:
        drifted = newest is None or meaning(json.loads(current.read_text(encoding="utf-8"))) != newest.sha256
        wrong = (*_broken_history(versions, home), *_incompatible(name, versions, home))
    return Finding(
        schema=name,
        version=newest.version if newest else 0,
        id=newest.id if newest else 0,
        drifted=drifted,
        wrong=wrong,
    )


def _broken_history(versions: list[Registered], home: Path) -> list[str]:
    broken = []
    for one in versions:
        path = home / history_file(one.schema, one.version)
        if not path.exists() or meaning(json.loads(path.read_text(encoding="utf-8"))) != one.sha256:
            broken.append(f"history/{one.schema}/{path.name} is not what was registered; restore it from git")
    return broken


def _incompatible(name: str, versions: list[Registered], home: Path) -> list[str]:
    paths = {f"v{one.version}": home / history_file(one.schema, one.version) for one in versions}
    texts = {label: path.read_text(encoding="utf-8") for label, path in paths.items() if path.exists()}
    texts["now"] = (home / schema_file(name)).read_text(encoding="utf-8")
    return [
        f"{reader} cannot read {writer}: {why}"
        for (reader, reads), (writer, wrote) in permutations(texts.items(), 2)
        for why in _why_not(reads, wrote)
    ]


def _why_not(reader: str, writer: str) -> list[str]:
    from avro.compatibility import (  # noqa: PLC0415 (a development dependency: only this tool may need it)
        ReaderWriterCompatibilityChecker,
        SchemaCompatibilityType,
    )
    from avro.schema import parse  # noqa: PLC0415

    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    result = checker.get_compatibility(parse(reader), parse(writer))
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    return [f"{', '.join(sorted(result.messages))} at {', '.join(sorted(result.locations))}"]


def _table(findings: Sequence[Finding]) -> str:
    lines = [f"{'schema':<18} {'version':>7} {'id':>6}  state"]
    for finding in findings:
        state = "INCOMPATIBLE" if finding.wrong else "CHANGED" if finding.drifted else "ok"
        lines.append(f"{finding.schema:<18} {finding.version:>7} {finding.id:>6}  {state}")
        lines += [f"    {wrong}" for wrong in finding.wrong]
    if any(finding.wrong for finding in findings):
        lines.append(
            "Every version must read every other: give new fields a default, remove only fields that have one,"
        )
        lines.append("never rename or retype; what cannot be said so is a new field, or a new topic version.")
    elif any(finding.drifted for finding in findings):
        lines.append(f"Changed schemas are not registered. Undo the change, or run: {_WRITE}")
    return "\n".join(lines) + "\n"


def _lock_text(registered: Sequence[Registered]) -> str:
    subjects: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(registered, key=lambda one: one.id):
        told = asdict(one)
        subjects.setdefault(subject_of(told.pop("schema")), []).append(told)
    return json.dumps({"subjects": subjects}, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
