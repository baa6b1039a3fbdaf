"""Paths name at most one value."""

from typing import Any

import pytest

from batchmill.streams.paths import ABSENT, PathError, compile_path

VALUE = {"a": {"b": [10, {"c": None}]}, "with space": 1, "x-y": 2, "n": 0}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.a.b[0]", 10),
        ("a.b[0]", 10),
        ("$.a.b[1].c", None),
        ("$['with space']", 1),
        ("$.x-y", 2),
        ("n", 0),
        ("$.a.b[2]", ABSENT),
        ("$.a.c", ABSENT),
        ("$.n.x", ABSENT),
        ("$.a[0]", ABSENT),
        ("$.a.b.c", ABSENT),
    ],
)
def test_a_path_finds_its_value_or_says_that_it_is_absent(path: str, found: Any) -> None:
    assert compile_path(path).find(VALUE) is found or compile_path(path).find(VALUE) == found


@pytest.mark.parametrize(
    "path", ["", "$", "$.", "$..a", "$.a[*]", "$.a[-1]", "$.a[?(@.x)]", "$.a b", "a.", "$.a[1", "$['']"]
)
def test_a_path_that_names_nothing_or_many_is_refused(path: str) -> None:
    with pytest.raises(PathError):
        compile_path(path)


def test_a_value_can_be_put_where_a_path_leads() -> None:
    value = {"a": [{"b": 1}]}
    compile_path("$.a[0].b").replace(value, 2)
    assert value == {"a": [{"b": 2}]}
