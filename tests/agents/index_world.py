"""Toy documents, a toy embedder that is installed like a real one, and a store: what the tests of indexes share."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.payloads import FilePayloadStore

__all__ = ["EMBEDDER", "Install", "install", "lines", "store", "written"]

Install = Callable[..., Path]

#: texts by how often they use the words of three subjects: near in meaning is what shares a subject
EMBEDDER = """\
SUBJECTS = [("refund", "money", "reimburse"), ("parcel", "shipping", "courier"), ("password", "login", "account")]

def embed(texts):
    return [[sum(text.lower().count(word) for word in subject) for subject in SUBJECTS] for text in texts]
"""


def lines(*documents: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in documents)


def written(folder: Path, *documents: dict[str, Any], name: str = "docs.jsonl") -> Path:
    file = folder / name
    file.write_text(lines(*documents))
    return file


@pytest.fixture
def store(tmp_path: Path) -> FilePayloadStore:
    return FilePayloadStore(directory=tmp_path / "payloads")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one embedder onto the path, as pip would."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def put(source: str = EMBEDDER, *, name: str = "toy", module: str = "toyvec") -> Path:
        about = site / "toyvec-1.0.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toyvec\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[batchmill.embedders]\n{name} = {module}:embed\n")
        file = site / f"{module}.py"
        file.write_text(source)
        sys.modules.pop(module, None)
        return file

    yield put
    sys.modules.pop("toyvec", None)
