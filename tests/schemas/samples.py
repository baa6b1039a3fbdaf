"""One filled-in value per class, fixed for ever: golden bytes are these, and other tests start from them.

`python tests/schemas/samples.py` writes the golden file of every newest version that has none yet. It never
overwrites: the bytes of a released version stay as they were written.
"""

import base64
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from batchmill.schemas.codec import encode
from batchmill.schemas.registry import CLASSES, read_registry

__all__ = ["GOLDEN", "golden_files", "plain", "sample"]

#: members of the longest closed list when the first golden bytes were written: a longer list renames no sample
_MEMBERS_AT_FIRST = 38

GOLDEN = Path(__file__).parent / "golden"


def sample(cls: Any) -> Any:
    """A value in which every field is filled, no two of one type alike, so that swapped fields show."""
    hints = get_type_hints(cls)
    return cls(**{field.name: _filled(hints[field.name], field.name, at) for at, field in enumerate(fields(cls), 1)})


def plain(value: Any) -> Any:
    """JSON data of a record, bytes as base64."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return dict(value) if isinstance(value, Mapping) else str(value) if isinstance(value, StrEnum) else value


def golden_files(schema: str, version: int) -> tuple[Path, Path]:
    """The bytes of a version, and what they said when they were written."""
    return GOLDEN / f"{schema}.v{version}.bin", GOLDEN / f"{schema}.v{version}.json"


def _filled(hint: Any, name: str, at: int) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _filled(next(member for member in inner if member is not types.NoneType), name, at)
    if origin is tuple:
        return (sample(inner[0]),)
    if origin is dict:
        return {name: f"ünï {at}"}
    if is_dataclass(hint):
        return sample(hint)
    if issubclass(hint, StrEnum):
        return list(hint)[at % min(len(hint), _MEMBERS_AT_FIRST)]
    made = {
        str: f"{name} {at} ü",
        int: 1_000_000 * at + 7,
        float: at + 0.5,
        bool: at % 2 == 0,
        bytes: bytes([0, at, 255]),
    }
    return made[hint]


def _write_missing() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for one in read_registry().newest.values():
        value = sample(CLASSES[one.schema])
        binary, told = golden_files(one.schema, one.version)
        if not binary.exists():
            binary.write_bytes(encode(value))
            told.write_text(json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    _write_missing()
