"""The compatibility check: green as checked in, red on a change that would break somebody's reading."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from batchmill.schemas import codec, compat
from batchmill.schemas.compat import HOME
from batchmill.schemas.registry import RegistryError, history_file, read_lock, read_registry, schema_file
from batchmill.schemas.state import Meta

NEWEST = read_registry().newest["normalized"].version
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of the schemas to do harm to."""
    shutil.copytree(HOME / "avro", tmp_path / "avro")
    shutil.copy(HOME / "registry.lock", tmp_path)
    return tmp_path


def alter(home: Path, schema: str, change: Change) -> None:
    path = home / schema_file(schema)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def field(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in document["fields"] if one["name"] == name)
    return found


def add_optional(document: dict[str, Any]) -> None:
    document["fields"].append({"name": "tenant", "type": ["null", "string"], "default": None, "doc": "Who it is for."})


def add_without_default(document: dict[str, Any]) -> None:
    document["fields"].append({"name": "tenant", "type": "string", "doc": "Who it is for."})


def remove_required(document: dict[str, Any]) -> None:
    document["fields"].remove(field(document, "lane"))


def retype(document: dict[str, Any]) -> None:
    field(document, "seq")["type"] = "string"


def rename(document: dict[str, Any]) -> None:
    field(document, "lane")["name"] = "track"


def require(document: dict[str, Any]) -> None:
    field(document, "origin")["type"]["fields"].append({"name": "cluster", "type": "string", "doc": "Where."})


def test_the_schemas_are_what_the_lock_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert compat.main([]) == 0
    assert capsys.readouterr().out.count(" ok\n") == len(read_registry().newest)


@pytest.mark.parametrize("change", [add_without_default, remove_required, retype, rename, require])
def test_a_change_that_breaks_a_reader_is_red_and_cannot_be_registered(
    home: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = (home / "registry.lock").read_text()
    alter(home, "normalized", change)
    assert compat.main([], home) == 1
    assert compat.main(["--write"], home) == 1
    told = capsys.readouterr().out
    assert "INCOMPATIBLE" in told
    assert "default" in told
    assert (home / "registry.lock").read_text() == lock
    assert not (home / history_file("normalized", NEWEST + 1)).exists()


def test_a_compatible_change_is_red_until_it_is_registered(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alter(home, "normalized", add_optional)
    assert compat.main([], home) == 1
    assert "--write" in capsys.readouterr().out
    assert compat.main(["--write"], home) == 0
    added = read_lock(home)[-1]
    assert (added.schema, added.version, added.id) == ("normalized", NEWEST + 1, read_lock()[-1].id + 1)
    assert read_registry(home).documents[added.id]["fields"][-1]["name"] == "tenant"
    assert read_lock(home)[:-1] == read_lock()


def test_a_version_must_read_all_earlier_ones_not_just_the_last(home: Path) -> None:
    """Add a field with a default, register; then take it away: only the new one reads on."""
    alter(home, "normalized", add_optional)
    assert compat.main(["--write"], home) == 0

    def drop_default(document: dict[str, Any]) -> None:
        del field(document, "tenant")["default"]

    alter(home, "normalized", drop_default)
    (finding,) = (one for one in compat.look(home) if one.wrong)
    assert any(wrong.startswith(f"now cannot read v{NEWEST}") for wrong in finding.wrong)
    assert not any(wrong.startswith(f"now cannot read v{NEWEST + 1}") for wrong in finding.wrong)


def test_a_changed_default_is_a_change(home: Path) -> None:
    def default_one(document: dict[str, Any]) -> None:
        field(document, "epoch")["default"] = 1

    alter(home, "normalized", default_one)
    assert [finding.schema for finding in compat.look(home) if finding.drifted] == ["normalized"]


def test_better_prose_is_no_change(home: Path) -> None:
    def say_more(document: dict[str, Any]) -> None:
        field(document, "lane")["doc"] = "Said better."

    alter(home, "normalized", say_more)
    assert compat.main([], home) == 0


def test_a_new_schema_is_registered_with_the_next_id(home: Path) -> None:
    (home / schema_file("state.moods")).write_text(
        json.dumps({"type": "record", "name": "Mood", "fields": [{"name": "a", "type": "long"}]})
    )
    assert compat.main([], home) == 1
    assert compat.main(["--write"], home) == 0
    assert (read_lock(home)[-1].schema, read_lock(home)[-1].version) == ("state.moods", 1)


def test_a_schema_that_is_gone_is_missed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / schema_file("excluded")).unlink()
    assert compat.main([], home) == 1
    assert "excluded.avsc is gone" in capsys.readouterr().out


def test_history_that_was_edited_is_noticed_by_tool_and_program(home: Path) -> None:
    path = home / history_file("normalized", 1)
    document = json.loads(path.read_text())
    retype(document)
    path.write_text(json.dumps(document))
    assert [finding.schema for finding in compat.look(home) if finding.wrong] == ["normalized"]
    with pytest.raises(RegistryError, match="compat --write"):
        read_registry(home)


def test_the_program_does_not_start_on_a_schema_that_is_not_registered(home: Path) -> None:
    alter(home, "normalized", add_optional)
    with pytest.raises(RegistryError, match=r"normalized\.avsc"):
        read_registry(home)


def test_without_a_lock_everything_is_registered_from_the_first_id(home: Path) -> None:
    (home / "registry.lock").unlink()
    assert compat.main(["--write"], home) == 0
    made = read_lock(home)
    assert {one.schema for one in made} == {one.schema for one in read_lock()}
    assert [one.id for one in made] == list(range(made[0].id, made[0].id + len(made)))


def test_bytes_of_an_older_version_are_read_as_the_newest_class(home: Path) -> None:
    """v2 of `state.meta` has a field that v3, which is v1 again, does not know."""
    original = (home / schema_file("state.meta")).read_text()
    alter(home, "state.meta", add_optional)
    assert compat.main(["--write"], home) == 0
    second = read_lock(home)[-1]
    (home / schema_file("state.meta")).write_text(original)
    assert compat.main(["--write"], home) == 0

    registry = read_registry(home)
    readers = codec._readers(registry, codec._writers(registry))
    body = BytesIO()
    written = {"name": "clean_stop", "value_json": "true", "tenant": "acme"}
    schemaless_writer(body, parse_schema(registry.documents[second.id]), written)
    data = b"\x00" + second.id.to_bytes(4, "big") + body.getvalue()
    assert codec._read(readers[second.id], data) == Meta(name="clean_stop", value_json="true")
