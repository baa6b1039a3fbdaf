"""The Avro files say what the classes say."""

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from batchmill.schemas.compat import HOME
from batchmill.schemas.reasons import REASONS, Reason
from batchmill.schemas.registry import CLASSES, read_registry, schema_file

PRIMITIVES = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes"}


def document(schema: str) -> Any:
    return json.loads((HOME / schema_file(schema)).read_text())


def expected(hint: Any) -> Any:
    """The Avro type a Python type is written as, nested records reduced to (name, fields)."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (some,) = (member for member in inner if member is not types.NoneType)
        return ["null", expected(some)]
    if origin is tuple:
        return {"array": expected(inner[0])}
    if origin is dict:
        return {"map": "string"}
    if is_dataclass(hint):
        return (hint.__name__, shape_of_class(hint))
    return "string" if issubclass(hint, StrEnum) else PRIMITIVES[hint]


def shape_of_class(cls: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(cls)
    return [(field.name, expected(hints[field.name])) for field in fields(cls)]


def shape_of_avro(kind: Any) -> Any:
    match kind:
        case list():
            return [shape_of_avro(member) for member in kind]
        case {"type": "array", "items": items}:
            return {"array": shape_of_avro(items)}
        case {"type": "map", "values": values}:
            return {"map": values}
        case {"type": "record", "name": name, "fields": members}:
            return (name, [(member["name"], shape_of_avro(member["type"])) for member in members])
    return kind


def records_in(kind: Any) -> list[Any]:
    found = [kind] if isinstance(kind, dict) and kind.get("type") == "record" else []
    inner = kind.values() if isinstance(kind, dict) else kind if isinstance(kind, list) else ()
    return found + [record for member in inner for record in records_in(member)]


@pytest.mark.parametrize("schema", CLASSES)
def test_a_class_and_its_avro_file_agree_on_names_order_and_types(schema: str) -> None:
    cls = CLASSES[schema]
    assert shape_of_avro(document(schema)) == (cls.__name__, shape_of_class(cls))


@pytest.mark.parametrize("schema", CLASSES)
def test_every_record_and_field_is_explained(schema: str) -> None:
    for record in records_in(document(schema)):
        assert record["doc"], record["name"]
        assert [field["name"] for field in record["fields"] if not field.get("doc", "").strip()] == []


@pytest.mark.parametrize("schema", CLASSES)
def test_what_may_be_null_defaults_to_null_so_that_it_can_be_removed_one_day(schema: str) -> None:
    for record in records_in(document(schema)):
        for field in record["fields"]:
            if isinstance(field["type"], list):
                assert field["type"][0] == "null"
                assert field["default"] is None


@pytest.mark.parametrize("schema", CLASSES)
def test_a_default_of_a_class_is_the_default_of_its_avro_file(schema: str) -> None:
    written = {field["name"]: field for field in document(schema)["fields"]}
    for field in fields(CLASSES[schema]):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if default is not MISSING:
            told = list(default) if isinstance(default, tuple) else default
            assert written[field.name]["default"] == told, field.name


def test_every_avro_file_belongs_to_a_class() -> None:
    files = {path for path in (HOME / "avro").rglob("*.avsc") if "history" not in path.parts}
    assert files == {(HOME / schema_file(schema)) for schema in CLASSES}


def test_every_class_is_registered_under_an_id_of_its_own() -> None:
    registry = read_registry()
    assert registry.newest.keys() == CLASSES.keys()
    assert len(registry.by_id) == sum(one.version for one in registry.newest.values())


def test_every_reason_answers_its_three_questions() -> None:
    assert REASONS.keys() == set(Reason)
