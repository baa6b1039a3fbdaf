"""No value leaves its place in a path: not its segment, not into the query, not up the tree, not to another host."""

from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.pathtext import PATH_CHARS_MAX, PathTextError, fault, fill, parameters

TEMPLATE = "/v1/items/{sku}/prices?in={currency}&all=1"
HOSTILE = [
    "..",
    ".",
    "../admin",
    "a/../../admin",
    "..%2f..%2fadmin",
    "%2e%2e",
    "%252e%252e%252fadmin",
    "..\\admin",
    "..;/admin",
    "",
    "a\nHost: evil",
    "a\x00b",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_that_would_walk_or_break_a_line_is_refused_and_never_repeated(value):
    with pytest.raises(PathTextError) as error:
        fill("/v1/items/{sku}", {"sku": value})
    assert not value.strip(".") or value not in str(error.value)


@pytest.mark.parametrize(
    "value", ["a/b", "a?b=c", "a#b", "a&b=c", "a b", "ä", "100%", "//evil.example/x", "@evil", "10.1000/182"]
)
def test_other_strange_values_arrive_whole(value):
    url = httpx.URL("http://127.0.0.1:9").copy_with(raw_path=fill("/v1/items/{sku}", {"sku": value}).encode())
    assert (url.host, url.query, url.fragment) == ("127.0.0.1", b"", "")
    *before, last = url.raw_path.decode().split("/")
    assert before == ["", "v1", "items"]
    assert unquote(last) == value


@given(st.text(max_size=80), st.text(max_size=80))
def test_whatever_the_values_are_the_path_keeps_its_form(sku, currency):
    try:
        path = fill(TEMPLATE, {"sku": sku, "currency": currency})
    except PathTextError:
        return
    except UnicodeEncodeError:
        assert any("\ud800" <= char <= "\udfff" for char in sku + currency), "only half a character has no bytes"
        return
    parts = urlsplit(path)
    segments = parts.path.split("/")
    assert (parts.netloc, parts.fragment, len(segments)) == ("", "", 5)
    assert [segments[0], segments[1], segments[2], segments[4]] == ["", "v1", "items", "prices"]
    assert unquote(segments[3]) == sku
    assert parse_qsl(parts.query, strict_parsing=True) == [("in", currency), ("all", "1")]


def test_a_path_has_a_length():
    with pytest.raises(PathTextError, match="characters"):
        fill("/{a}", {"a": "x" * PATH_CHARS_MAX})


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("items/{sku}", "one '/'"),
        ("//evil.example/{sku}", "one '/'"),
        ("/a/../{sku}", "segment"),
        ("/a/%2e%2e/{sku}", "segment"),
        ("/a b/{sku}", "percent-encoded"),
        ("/a#{sku}", "percent-encoded"),
        ("/a/{sku", "percent-encoded"),
        ("/a/{}", "percent-encoded"),
        ("/a/{sku}/{other}", "names {other}"),
        ("/a", "does not use the parameter 'sku'"),
    ],
)
def test_a_template_that_cannot_work_is_told_why(template, told):
    assert told in (fault(template, ["sku"]) or "")


def test_a_template_that_works_names_its_parameters():
    assert fault(TEMPLATE, ["sku", "currency"]) is None
    assert parameters(TEMPLATE) == ("sku", "currency")
