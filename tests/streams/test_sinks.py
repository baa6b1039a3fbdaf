"""What a sink takes for a name, and in which folder a row belongs: nothing a model answers leaves its folder."""

import json
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.paths import PathError
from batchmill.streams.sinks import ROW_MEMBERS, SINKS, folder_of, is_json, table_fault


@pytest.mark.parametrize(
    ("sink", "table", "right"),
    [
        ("sqlite", "triage", True),
        ("sqlite", "a" * 63, True),
        ("sqlite", "a" * 64, False),
        ("sqlite", "sqlite_x", False),
        ("sqlite", "sqlite", False),  # its history would be called sqlite__history
        ("sqlite", "x__history", False),
        ("sqlite", "mill.triage", False),
        ("sqlite", "Triage", False),
        ("postgres", "triage", True),
        ("postgres", "mill.triage", True),
        ("postgres", "a" * 54, True),
        ("postgres", "a" * 55, False),
        ("postgres", "pg_catalog.x", False),
        ("postgres", "a.b.c", False),
        ("postgres", "mill.x__history", False),
        ("postgres", 'x"; DROP', False),
        ("jsonl", "Triage-2026.v1", True),
        ("jsonl", "..", False),
        ("parquet", "a/b", False),
        ("parquet", ".parts", False),
        ("kafka", "mill.out.v1", True),
        ("kafka", "..", False),
        ("kafka", "a b", False),
        ("webhook", "any thing", True),
        ("none", "x", True),
    ],
)
def test_a_table_is_named_as_its_sink_allows(sink, table, right):
    assert (table_fault(sink, table) is None) is right


def test_what_cannot_compare_cannot_revert_and_what_is_inside_is_not_asked():
    for name, can in SINKS.items():
        assert can.compares or not can.revertible, name
        assert not (can.inside and can.revertible), name


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_a_folder_is_one_step_of_a_path_whatever_was_answered(value):
    try:
        text = json.dumps({"label": value}, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return
    if not is_json(text):
        return
    step = folder_of("$.label", text, 0).path
    assert step.isascii()
    assert len(step) <= 255
    assert not set(step) & set("/\\\0\n:")
    assert step.startswith("label=")
    unquote(step, errors="strict")


def test_a_short_value_can_be_read_back_and_long_ones_stay_apart():
    assert folder_of("$.a.b", '{"a":{"b":"x/y ö"}}', 0).path == "a_b=x%2Fy%20%C3%B6"
    long = {folder_of("$.a", json.dumps({"a": "x" * 500 + end}), 0).path for end in "abc"}
    assert len(long) == 3


@pytest.mark.parametrize("output", ["{}", '{"a":null}', '{"a":""}', "[]", "3"])
def test_what_is_not_there_has_a_folder_too(output):
    assert folder_of("$.a", output, 0).value == "__HIVE_DEFAULT_PARTITION__"


def test_a_member_that_is_called_as_one_of_ours_is_kept_apart():
    for name in (*ROW_MEMBERS, "date", "output_json"):
        assert folder_of(f"$.{name}", "{}", 0).name == f"output_{name}"


@pytest.mark.parametrize(
    ("at_ms", "day"), [(0, "1970-01-01"), (951_868_799_999, "2000-02-29"), (1_800_000_000_000, "2027-01-15")]
)
def test_a_day_is_utc(at_ms, day):
    assert folder_of("date", "{}", at_ms).path == f"date={day}"


def test_a_path_that_is_none_is_told():
    with pytest.raises(PathError):
        folder_of("$", "{}", 0)
