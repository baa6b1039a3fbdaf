"""A look-up's SQL is one SELECT with the parameters that are given for it; whatever stands in quotes stays text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.sqltext import SQL_CHARS_MAX, as_percent, fault, parameters


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "select name from items where sku = :sku",
        "  -- the newest\n SELECT a FROM t ORDER BY b LIMIT 1",
        "/* which */ WITH x AS (SELECT 1 AS one) SELECT one FROM x",
        "SELECT 'it''s; DROP TABLE t' AS text, \"update\" FROM t WHERE sku = :sku",
        "SELECT E'\\'; delete' FROM t",
        "SELECT $tag$ ; insert :nobody $tag$ FROM t",
        "SELECT a::text FROM t WHERE a = :sku::int",
    ],
)
def test_one_select_is_taken(sql):
    assert fault(sql, ["sku"] if ":sku" in sql else []) is None


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("", "begin with SELECT"),
        ("-- SELECT 1", "begin with SELECT"),
        ("UPDATE t SET a = 1", "begin with SELECT"),
        ("PRAGMA writable_schema = 1", "begin with SELECT"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT 1;", "without ';'"),
        ("WITH gone AS (DELETE FROM t RETURNING a) SELECT a FROM gone", "DELETE"),
        ("SELECT a INTO b FROM t", "INTO"),
        ("SELECT a FROM t FOR UPDATE", "UPDATE"),
        ("SELECT 'open FROM t", "not closed"),
        ("SELECT " + "1" * SQL_CHARS_MAX, "characters"),
    ],
)
def test_anything_else_is_refused_with_its_reason(sql, told):
    assert told in (fault(sql, []) or "")


def test_parameters_and_paths_must_be_the_same_names():
    sql = "SELECT a FROM t WHERE b = :b AND c = :c AND again = :b"
    assert parameters(sql) == ("b", "c")
    assert fault(sql, ["b", "c"]) is None
    assert "names :c" in (fault(sql, ["b"]) or "")
    assert "does not use the parameter 'd'" in (fault(sql, ["b", "c", "d"]) or "")


def test_what_stands_in_quotes_or_remarks_names_no_parameter():
    sql = "SELECT ':a', \":b\", $x$ :c $x$, E'\\':d' /* :e */ -- :f\nFROM t WHERE g = :g"
    assert parameters(sql) == ("g",)


def test_percent_signs_are_doubled_and_parameters_rewritten():
    assert as_percent("SELECT a FROM t WHERE a LIKE '5%' AND b = :b") == (
        "SELECT a FROM t WHERE a LIKE '5%%' AND b = %(b)s"
    )
    assert as_percent("SELECT ':a' || b::text FROM t") == "SELECT ':a' || b::text FROM t"


@given(st.text(max_size=200))
def test_no_text_is_too_strange_to_be_judged(text):
    fault(text, [])
    assert set(parameters(text)) == set(re.findall(r"%\((\w+)\)s", as_percent(text).replace("%%", "")))
