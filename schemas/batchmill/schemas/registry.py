"""Which schema is which id: the checked-in lock, the schemas as they are now, and every version ever registered.

`registry.lock` names them as a Confluent registry would: subject -> versions, each with its global id and the SHA-256
of its meaning. `avro/` holds the newest texts, `avro/history/<schema>/v<n>.avsc` all registered ones, so that bytes of
any age can be read. Reading fails closed: a text that is not what the lock says would be written under a wrong id. Only
`compat --write` changes the lock.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, get_args

from batchmill.schemas.records import Record
from batchmill.schemas.state import Row

__all__ = [
    "CLASSES",
    "FIRST_ID",
    "HOME",
    "Registered",
    "Registry",
    "RegistryError",
    "history_file",
    "meaning",
    "read_lock",
    "read_registry",
    "schema_file",
    "subject_of",
]

#: Where the package keeps lock and schemas; other homes are for tests and tools.
HOME: Final = files("batchmill.schemas")
#: High enough to be free in a registry server that already holds the schemas of others.
FIRST_ID: Final = 71_001
#: Every class with a schema of its own, by schema name.
CLASSES: Final[dict[str, type[Record] | type[Row]]] = {cls.schema: cls for cls in (*get_args(Record), *get_args(Row))}


class RegistryError(ValueError):
    """Lock and schema files disagree; the message says which and what to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One version of one schema, as the lock has it."""

    schema: str
    version: int
    id: int
    sha256: str


class Registry:
    """The lock with the schema documents it names."""

    def __init__(self, registered: Iterable[Registered], documents: dict[int, Any]) -> None:
        self.by_id = {one.id: one for one in registered}
        self.documents = documents  #: id -> parsed `.avsc`
        self.newest: dict[str, Registered] = {}
        for one in sorted(self.by_id.values(), key=lambda one: one.version):
            self.newest[one.schema] = one


def subject_of(schema: str) -> str:
    """Name the subject under which a registry server would hold `schema`."""
    return f"batchmill.{schema}-value"


def schema_file(schema: str) -> str:
    """`state.lives` is `avro/state/lives.avsc`, below the home."""
    return f"avro/{schema.replace('.', '/')}.avsc"


def history_file(schema: str, version: int) -> str:
    """Where the text of a registered version stays for ever, below the home."""
    return f"avro/history/{schema}/v{version}.avsc"


def meaning(document: Any) -> str:
    """Sha256 of a schema without its prose: docs may be bettered freely, defaults and types may not."""
    text = json.dumps(_without_docs(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_lock(home: Traversable = HOME) -> list[Registered]:
    """Read every registered version, in the order in which ids were given."""
    subjects = json.loads((home / "registry.lock").read_text(encoding="utf-8"))["subjects"]
    listed = [
        Registered(schema=subject.removeprefix("batchmill.").removesuffix("-value"), **version)
        for subject, versions in subjects.items()
        for version in versions
    ]
    return sorted(listed, key=lambda one: one.id)


def read_registry(home: Traversable = HOME) -> Registry:
    """Read lock and documents, and hold each against the other."""
    registered = read_lock(home)
    documents = {one.id: _document(one, home / history_file(one.schema, one.version)) for one in registered}
    registry = Registry(registered, documents)
    for one in registry.newest.values():
        _document(one, home / schema_file(one.schema))
    return registry


def _document(one: Registered, path: Traversable) -> Any:
    document = json.loads(path.read_text(encoding="utf-8"))
    if meaning(document) != one.sha256:
        told = f"{path}: is not version {one.version} of {subject_of(one.schema)} that registry.lock knows."
        raise RegistryError(f"{told} Undo the change, or run: python -m batchmill.schemas.compat --write")
    return document


def _without_docs(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_docs(member) for name, member in value.items() if name != "doc"}
    return [_without_docs(member) for member in value] if isinstance(value, list) else value
