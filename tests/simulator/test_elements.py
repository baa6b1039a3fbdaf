"""The reader of long JSON lists: any list, cut anywhere, gives its objects; anything else is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.simulator import elements
from batchmill.agents.simulator.elements import ElementReader, ElementsError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=4)


def read(body, sizes=()):
    found = []
    reader = ElementReader(field="requests", sink=found.append)
    start = 0
    for size in sizes:
        reader.feed(body[start : start + size])
        start += size
    reader.feed(body[start:])
    reader.close()
    assert reader.count == len(found)
    return found


@given(
    listed=st.lists(objects, max_size=5),
    indent=st.none() | st.just(1),
    ascii_only=st.booleans(),
    sizes=st.lists(st.integers(min_value=1, max_value=20), max_size=40),
)
def test_any_list_cut_anywhere_gives_its_objects_in_order(listed, indent, ascii_only, sizes):
    body = json.dumps({"requests": listed}, indent=indent, ensure_ascii=ascii_only).encode()
    assert [json.loads(part) for part in read(body, sizes)] == listed


def test_an_object_is_handed_on_byte_for_byte():
    parts = [b'{"a": "\\\\\\"}]", "b":[{}]}', b"{}", b'{"\xc3\xa4":1e9}']
    assert read(b' { "requests" : [ ' + b" ,\n".join(parts) + b"\t]} \r\n", [1] * 60) == parts


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b'{"requests":', b'{"requests":[', b'{"requests":[{}', b'{"requests":[{}]'),
        *(b'{"requests":[{},]}', b'{"requests":[,{}]}', b'{"requests":[{}{}]}', b'{"requests":[1]}'),
        *(b'{"requests":[{}],"more":1}', b'{"requests":[{}]}x', b'{"requests":{}}', b'{"more":1,"requests":[]}'),
        b'{"requests":[{"a":"\\"}]}',
    ],
)
def test_anything_else_is_refused(body):
    with pytest.raises(ElementsError):
        read(body)


def test_a_body_that_never_comes_to_its_list_is_given_up_early():
    reader = ElementReader(field="requests", sink=lambda _: None)
    with pytest.raises(ElementsError):
        reader.feed(b'{"other":"' + b"x" * elements.HEAD_BYTES_MAX)


def test_an_object_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(elements, "ELEMENT_BYTES_MAX", 1_000)
    reader = ElementReader(field="requests", sink=lambda _: None)
    reader.feed(b'{"requests":[{"a":"')
    with pytest.raises(ElementsError, match=r"requests\.0: larger"):
        reader.feed(b"x" * 1_000)
