"""Bytes written by every version ever registered are still read, and still say what they said."""

import json

import pytest

from batchmill.schemas.codec import decode, encode, schema_id_of
from batchmill.schemas.registry import CLASSES, Registered, read_lock, read_registry
from tests.schemas.samples import GOLDEN, golden_files, plain, sample

EVERY = [pytest.param(one, id=f"{one.schema}-v{one.version}") for one in read_lock()]


@pytest.mark.parametrize("one", EVERY)
def test_golden_bytes_of_a_version_are_read_for_ever(one: Registered) -> None:
    binary, told = golden_files(one.schema, one.version)
    assert binary.exists(), "write it once: python tests/schemas/samples.py"
    data = binary.read_bytes()
    assert schema_id_of(data) == one.id
    said = json.loads(told.read_text())
    now = plain(decode(data, CLASSES[one.schema]))
    assert {name: now[name] for name in said.keys() & now.keys()} == {
        name: said[name] for name in said.keys() & now.keys()
    }
    assert said.keys() & now.keys()


@pytest.mark.parametrize("schema", CLASSES)
def test_the_newest_version_still_writes_its_golden_bytes(schema: str) -> None:
    newest = read_registry().newest[schema]
    binary, _ = golden_files(schema, newest.version)
    assert encode(sample(CLASSES[schema])) == binary.read_bytes()


def test_there_are_no_golden_files_of_versions_nobody_registered() -> None:
    known = {path for one in read_lock() for path in golden_files(one.schema, one.version)}
    assert set(GOLDEN.iterdir()) == known
