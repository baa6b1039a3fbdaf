"""Texts are normalised as the job declares, everywhere in a payload, and cut behind that."""

import json
from copy import deepcopy
from dataclasses import replace
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.jobs import InputSpec
from batchmill.streams.cleaning import compile_cleaner
from batchmill.streams.paths import PathError


def cleaned(payload: dict[str, Any], given: InputSpec) -> dict[str, Any]:
    compile_cleaner(given).apply(payload)
    return payload


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        (InputSpec(), "ﬁé"),
        (InputSpec(normalize="NFKC"), "fié"),
        (InputSpec(normalize=None), "ﬁe\u0301"),
        (InputSpec(normalize=None, strip_control=False), "ﬁe\u0301\x07"),
    ],
)
def test_every_text_is_normalised_as_declared(given: InputSpec, clean: str) -> None:
    dirty = "ﬁe\u0301\x07"
    assert cleaned({"a": dirty, "b": [{"c": dirty}], "n": 1}, given) == {"a": clean, "b": [{"c": clean}], "n": 1}


def test_a_text_is_cut_after_it_is_normalised() -> None:
    given = InputSpec(max_chars={"a": 2, "$.b.c": 1, "absent": 1, "n": 1})
    assert cleaned({"a": "e\u0301e\u0301x", "b": {"c": "xy"}, "n": 12}, given) == {"a": "éé", "b": {"c": "x"}, "n": 12}


def test_a_path_that_cannot_be_read_is_told_when_the_job_is_compiled() -> None:
    with pytest.raises(PathError):
        compile_cleaner(InputSpec(max_chars={"$..a": 1}))


# -- leaving things out ------------------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html><html><head><title>Bill</title><style>p > a {color: red}</style>
<script>if (a < b) { document.write("<p>no</p>") }</script></head>
<body><!-- not > shown --><p class="a > b">Caf&eacute; &amp; bar</p><ul><li>one<li>two</ul>5 &lt; 6, a < b</body>"""


def test_of_html_the_text_is_kept_with_a_line_for_each_block() -> None:
    given = InputSpec(strip_markup=True, collapse_space=True)
    assert cleaned({"a": PAGE}, given) == {"a": "Bill\nCafé &amp; bar\none\ntwo\n5 &lt; 6, a < b"}


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("no markup at all", "no markup at all"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("a <b", "a <b"),
        ("<<b>i>x", "x"),
        ("a<!-- never ends", "a"),
        ("a<script>never ends", "a"),
        ("&eac<b></b>ute;", "é"),
        ("&nosuchthing; &copy;", "&nosuchthing; ©"),
        ("&lt;b&gt; &#60;i&#62;", "&lt;b&gt; &#60;i&#62;"),
        ("<a title='\">'>x</a>", "x"),
        ('<a title=">x', "x"),
    ],
)
def test_odd_markup_is_taken_for_what_it_is(dirty: str, clean: str) -> None:
    assert cleaned({"a": dirty}, InputSpec(strip_markup=True)) == {"a": clean}


def test_runs_of_white_space_become_one_space_or_one_line_end() -> None:
    given = InputSpec(collapse_space=True)
    assert cleaned({"a": " one \t two\r\n\r\n  three\u00a0\u00a0four "}, given) == {"a": "one two\nthree four"}


def test_only_the_members_that_are_named_are_kept() -> None:
    payload = {"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4, "g": 5}], "h": "x"}
    assert cleaned(payload, InputSpec(keep=("a", "b.c", "e[0].f", "gone"))) == {
        "a": 1,
        "b": {"c": 2},
        "e": [{"f": 4, "g": 5}],
    }
    assert cleaned({"b": {"c": 1, "d": 2}}, InputSpec(keep=("b.c", "b"))) == {"b": {"c": 1, "d": 2}}
    assert cleaned({"b": "no object"}, InputSpec(keep=("b.c",))) == {"b": "no object"}


MARKUP = ("<", ">", "b", "p", "/", "!--", "-->", "<script>", "</script>", "<br>", '"', "'", "x", "\uff1c", "\u0338")
REFERENCES = ("&", "amp;", "eacute;", "#60;", "lt;", "&#7;", "&#xA0;")
SPACES = (" ", "\n", "\t", "\x07", "\u00a0", "\u00e9", "e\u0301")
pieces = st.sampled_from((*MARKUP, *REFERENCES, *SPACES))
dirt = st.lists(pieces, max_size=30).map("".join)
specs = st.builds(
    InputSpec,
    normalize=st.sampled_from([None, "NFC", "NFKC"]),
    strip_control=st.booleans(),
    strip_markup=st.booleans(),
    collapse_space=st.booleans(),
    max_chars=st.sampled_from([{}, {"a": 5}]),
    keep=st.sampled_from([(), ("a",), ("b.c",)]),
)


@settings(max_examples=500, deadline=None)
@given(dirt, specs)
def test_cleaning_what_was_cleaned_changes_nothing(text: str, spec: InputSpec) -> None:
    once = cleaned({"a": text, "b": {"c": text, "d": text}}, spec)
    assert cleaned(deepcopy(once), spec) == once


@given(dirt, specs)
def test_leaving_things_out_never_makes_an_input_longer(text: str, spec: InputSpec) -> None:
    spec = replace(spec, normalize=None)
    payload = {"a": text, "b": {"c": text, "d": text}}
    before = len(json.dumps(payload, ensure_ascii=False).encode())
    assert len(json.dumps(cleaned(payload, spec), ensure_ascii=False).encode()) <= before


@pytest.mark.parametrize(
    "hostile", ["<", "<!--", "<a ", "<a '", '<a "', "<script>", "</", "<<b>", "&", "&#", "&#38;", "<?", "<a '>", "<b"]
)
def test_a_hostile_text_takes_no_longer_than_any_other(hostile: str) -> None:
    """A megabyte of it: were each part looked at once for each other part, it would take hours."""
    text = hostile * (2**20 // len(hostile))
    started = process_time()
    cleaned({"a": text}, InputSpec(strip_markup=True, collapse_space=True))
    assert process_time() - started < 5
