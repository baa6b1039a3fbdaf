"""Strangers' JSON: what is refused and why, and that our canonical form is RFC 8785 to the byte."""

import json
import tracemalloc

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from batchmill.schemas.reasons import Reason
from batchmill.streams.jsontext import DEPTH_MAX, INTEGER_MAX, canonical, decode, decode_object, map_texts
from batchmill.streams.unusable import Unusable

BYTES_MAX = 2**20

keys = st.text(max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not INTEGER_MAX < abs(x) < 1e21)
    | st.text(max_size=12)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def refused(data: bytes, *, bytes_max: int = BYTES_MAX) -> Unusable:
    with pytest.raises(Unusable) as caught:
        decode(data, bytes_max=bytes_max)
    return caught.value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x" * (BYTES_MAX + 1), Reason.OVERSIZED),
        (b"[" * 100_000, Reason.TOO_DEEP),
        (b"[" * 65 + b"]" * 65, Reason.TOO_DEEP),
        (b'{"a":' * 65 + b"1" + b"}" * 65, Reason.TOO_DEEP),
        (b'{"a":' * 500_000, Reason.OVERSIZED),
        (b'{"a":"\xff"}', Reason.NOT_UTF8),
        ('{"a":"ü"}'.encode("latin-1"), Reason.NOT_UTF8),
        ('{"a":1}'.encode("utf-16"), Reason.NOT_UTF8),
        (b'{"a":"\xed\xa0\x80"}', Reason.NOT_UTF8),
        (b'{"a":"\\ud800"}', Reason.UNDECODABLE),
        (b"", Reason.UNDECODABLE),
        (b"{", Reason.UNDECODABLE),
        (b"NaN", Reason.UNDECODABLE),
        (b"-Infinity", Reason.UNDECODABLE),
        (b"1e400", Reason.UNDECODABLE),
        (b"1" * 5_000, Reason.UNDECODABLE),
        (b"{'a':1}", Reason.UNDECODABLE),
        (b'{"a":1,}', Reason.UNDECODABLE),
        (b'{"a":1}{"b":2}', Reason.UNDECODABLE),
        (b'{"a":"x\x00y"}', Reason.UNDECODABLE),
        (b'{"a":1,"a":1}', Reason.UNDECODABLE),
        (b'{"a":1,"\\u0061":2}', Reason.UNDECODABLE),
        (b'{"t":"12:30:00","a":{"b":1,"b":2}}', Reason.UNDECODABLE),
        (b'{"' + b"k" * (BYTES_MAX - 20) + b'":1', Reason.UNDECODABLE),
    ],
)
def test_a_hostile_text_is_refused_with_its_reason(data: bytes, reason: Reason) -> None:
    assert refused(data).reason is reason


def test_64_levels_are_taken_and_brackets_inside_texts_do_not_count() -> None:
    deep = b"[" * DEPTH_MAX + b"]" * DEPTH_MAX
    assert decode(deep, bytes_max=BYTES_MAX) == json.loads(deep)
    assert decode(b'{"a":"' + b"[" * 500 + b'\\""}', bytes_max=BYTES_MAX) == {"a": "[" * 500 + '"'}


def test_many_flat_brackets_are_not_depth() -> None:
    flat = b"[" + b",".join([b"{}"] * 500) + b"]"
    assert len(decode(flat, bytes_max=BYTES_MAX)) == 500


@pytest.mark.parametrize("data", [b'"\\' * 300_000, b'"' * 600_000, b"[" * 70 + b'"\\"' * 200_000])
def test_a_text_made_of_quotes_and_backslashes_is_scanned_once(data: bytes) -> None:
    """A scan that began again at each quote would take minutes here, and the suite's time limit would end it."""
    assert refused(data).reason in {Reason.UNDECODABLE, Reason.TOO_DEEP}


def test_decoding_a_hostile_text_stays_within_a_few_times_its_size() -> None:
    data = b'{"a":' * 200_000
    tracemalloc.start()
    refused(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(data)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode(b'\xef\xbb\xbf{"a":1}', bytes_max=BYTES_MAX) == {"a": 1}


@pytest.mark.parametrize(("data", "kind"), [(b"[]", "array"), (b"null", "null"), (b'"x"', "string"), (b"3", "number")])
def test_an_object_is_expected(data: bytes, kind: str) -> None:
    with pytest.raises(Unusable, match=kind):
        decode_object(data, bytes_max=BYTES_MAX)


@pytest.mark.parametrize("number", [2**53, 2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**40 + 7, 10**300 + 1])
def test_an_integer_of_any_size_keeps_all_its_digits(number: int) -> None:
    value = decode(b'{"n":%d}' % number, bytes_max=BYTES_MAX)
    assert value == {"n": number}
    assert canonical(value) == b'{"n":"%d"}' % number


def test_a_whole_number_beyond_2_to_the_53_is_the_same_however_it_is_written() -> None:
    spellings = [b"[9007199254740992]", b"[9007199254740992.0]", b"[9.007199254740992e15]"]
    assert {canonical(decode(spelled, bytes_max=BYTES_MAX)) for spelled in spellings} == {b'["9007199254740992"]'}
    assert canonical([1e21, -1.5e300]) == b"[1e+21,-1.5e+300]"


def test_two_neighbours_beyond_2_to_the_53_do_not_become_one() -> None:
    spelled = {canonical(decode(b"[%d]" % (2**60 + near), bytes_max=BYTES_MAX)) for near in range(4)}
    assert len(spelled) == 4


@given(values)
@example({"\U00010000": 1, "\uffff": 2})
@example([1.0, 1e21, 5e-324, -0.0, 1e-7])
@example({"a\x7f": '\x00\x1f\u2028"\\/'})
def test_the_canonical_form_is_that_of_rfc8785(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(values | st.floats(allow_nan=False, allow_infinity=False))
def test_canonical_text_reads_back_as_itself(value: object) -> None:
    once = canonical(value)
    assert canonical(decode(once, bytes_max=BYTES_MAX)) == once


@given(st.dictionaries(st.text(alphabet="ab\u00e9", max_size=3), st.integers(0, 9), max_size=5), st.randoms())
def test_the_order_of_members_does_not_matter(value: dict[str, int], chance: object) -> None:
    pairs = list(value.items())
    chance.shuffle(pairs)  # type: ignore[attr-defined]
    assert canonical(dict(pairs)) == canonical(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_as_another_reader_would_or_refused(data: bytes) -> None:
    reason, value = None, None
    try:
        value = decode(data, bytes_max=BYTES_MAX)
    except Unusable as wrong:
        reason = wrong.reason
    if reason is None:
        assert json.loads(data.removeprefix(b"\xef\xbb\xbf")) == value
    else:
        assert reason in {Reason.UNDECODABLE, Reason.NOT_UTF8, Reason.TOO_DEEP}


def test_texts_are_changed_wherever_they_are_and_names_are_not() -> None:
    value = {"a": "x", "x": [1, "x", {"y": ["x"]}], "n": None}
    assert map_texts(value, str.upper) == {"a": "X", "x": [1, "X", {"y": ["X"]}], "n": None}
    assert map_texts("x", str.upper) == "X"
