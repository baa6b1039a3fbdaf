"""The pointer file: which snapshot an index is at, small enough to be committed beside the job that names it.

What lives here: its members, and reading and writing it. What must not: the snapshot.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["Pointer", "PointerError", "pointer_file", "read_pointer", "write_pointer"]

_BYTES_MAX = 2**16
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class PointerError(Exception):
    """The file is no pointer; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """An index as it was built. Times are RFC 3339, for people."""

    name: str
    sha256: str  #: of the snapshot
    documents: int
    pieces: int
    built_from: str  #: SHA-256 of the file of documents
    documents_file: str  #: where it was, seen from the pointer
    built_at: str
    newest_document: str | None  #: the latest `updated_at`


def pointer_file(folder: Path, name: str) -> Path:
    if not _NAME.match(name):
        raise PointerError("an index is called by 1 to 64 letters, digits, '.', '_' or '-'")
    return folder / f"{name}.index.json"


def read_pointer(file: Path) -> Pointer:
    """What the file says, or PointerError."""
    try:
        if file.stat().st_size > _BYTES_MAX:
            raise PointerError(f"{file} is larger than any pointer to an index")
        told = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise PointerError(f"{file} cannot be read: {error.strerror}; `batchmill index build` writes one") from None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or told.keys() != {each.name for each in fields(Pointer)} or not _typed(told):
        raise PointerError(f"{file} is no pointer to an index; `batchmill index build` writes one")
    return Pointer(**told)


def write_pointer(file: Path, pointer: Pointer) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(pointer), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _typed(told: dict[str, Any]) -> bool:
    counts = all(type(told[name]) is int for name in ("documents", "pieces"))
    texts = all(isinstance(told[name], str) for name in ("name", "sha256", "built_from", "documents_file", "built_at"))
    newest = told["newest_document"] is None or isinstance(told["newest_document"], str)
    return counts and texts and newest and bool(_SHA256.match(told["sha256"]) and _NAME.match(told["name"]))
