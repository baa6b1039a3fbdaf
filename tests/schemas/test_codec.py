"""Bytes and records: the way there and back, and everything that is neither."""

import dataclasses
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchmill.schemas.codec import CodecError, EncodeError, decode, decode_any, encode, schema_id_of
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check, DeadLetter, Origin, RawEvent, Result, Verdict, WorkItem
from batchmill.schemas.registry import CLASSES, read_registry
from batchmill.schemas.row_codec import RowCodec
from batchmill.schemas.state import Chunk, Life, Meta, Row
from batchmill.schemas.status import Status
from tests.schemas.samples import sample
from tests.schemas.strategies import anything

SECRET = "the payload nobody may log"


def refused(data: bytes, expect: Any = WorkItem) -> CodecError:
    with pytest.raises(CodecError) as caught:
        decode(data, expect)
    return caught.value


@given(anything())
def test_what_is_written_is_read_back_equal_and_with_the_same_types(record: Any) -> None:
    data = encode(record)
    for back in (decode(data, type(record)), decode_any(data)):
        assert back == record
        kinds = [type(getattr(back, field.name)) for field in dataclasses.fields(back)]
        assert kinds == [type(getattr(record, field.name)) for field in dataclasses.fields(record)]


@given(anything())
def test_the_same_record_is_always_the_same_bytes(record: Any) -> None:
    assert encode(record) == encode(dataclasses.replace(record))


@pytest.mark.parametrize("schema", CLASSES)
def test_the_frame_carries_the_id_of_the_newest_version(schema: str) -> None:
    data = encode(sample(CLASSES[schema]))
    assert data[0] == 0
    assert schema_id_of(data) == read_registry().newest[schema].id


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_as_codec_errors_only(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_any(data)


@given(st.sampled_from(sorted(CLASSES)), st.binary(max_size=300))
def test_random_bytes_behind_a_true_frame_end_as_a_record_or_a_codec_error(schema: str, body: bytes) -> None:
    cls = CLASSES[schema]
    frame = encode(sample(cls))[:5]
    try:
        decoded = decode(frame + body, cls)
    except CodecError:
        return
    assert type(decoded) is cls


@given(anything(), st.data())
def test_truncated_bytes_are_refused(record: Any, draw: st.DataObject) -> None:
    data = encode(record)
    with pytest.raises(CodecError):
        decode_any(data[: draw.draw(st.integers(0, len(data) - 1))])


@given(anything(), st.data())
def test_flipped_bits_end_as_a_record_or_a_codec_error(record: Any, draw: st.DataObject) -> None:
    data = bytearray(encode(record))
    for at in draw.draw(st.lists(st.integers(0, len(data) * 8 - 1), min_size=1, max_size=4)):
        data[at // 8] ^= 1 << at % 8
    try:
        decoded = decode_any(bytes(data))
    except CodecError:
        return
    assert type(decoded) in CLASSES.values()


@given(anything(), st.binary(min_size=1, max_size=20))
def test_bytes_left_over_are_refused(record: Any, more: bytes) -> None:
    with pytest.raises(CodecError) as caught:
        decode_any(encode(record) + more)
    assert "left over" in caught.value.where


@given(anything(), anything())
def test_a_record_of_another_kind_is_refused_and_both_kinds_are_named(record: Any, other: Any) -> None:
    assume(type(record) is not type(other))
    error = refused(encode(record), type(other))
    assert record.schema in error.where
    assert other.schema in error.where


def test_the_size_cap_comes_before_anything_is_read() -> None:
    data = encode(sample(WorkItem))
    with pytest.raises(CodecError) as caught:
        decode(b"\xff" + data, WorkItem, bytes_max=len(data))
    assert caught.value.reason is Reason.OVERSIZED
    assert decode(data, WorkItem, bytes_max=len(data)) == sample(WorkItem)


def test_an_unknown_schema_id_is_named_and_nothing_else_of_the_bytes() -> None:
    error = refused(b"\x00\x00\x00\x00\x01" + SECRET.encode())
    assert error.reason is Reason.UNDECODABLE
    assert "schema id 1 " in str(error)
    assert SECRET not in str(error)


def test_an_empty_value_is_refused() -> None:
    assert "0 bytes" in refused(b"").where


def test_plain_json_is_refused_for_lack_of_the_prefix() -> None:
    assert "prefix" in refused(b'{"a": 1, "b": 2}').where


def test_a_value_outside_a_closed_list_names_its_field_only() -> None:
    data = encode(sample(Life)).replace(str(sample(Life).status).encode(), b"x" * len(sample(Life).status))
    error = refused(data, Life)
    assert error.where == f"state.lives v{read_registry().newest['state.lives'].version}, field status"
    assert "xxx" not in str(error)


def test_text_that_is_not_utf8_has_its_own_reason_and_no_cause_that_quotes_it() -> None:
    data = encode(dataclasses.replace(sample(RawEvent), payload_json=SECRET)).replace(b"nobody", b"nob\xffdy")
    error = refused(data, RawEvent)
    assert error.reason is Reason.NOT_UTF8
    assert SECRET[:10] not in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize("count", [b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x01", b"\xff" * 40])
def test_a_lie_about_the_number_of_items_is_refused(count: bytes) -> None:
    verdict = dataclasses.replace(sample(Verdict), checks=())
    honest = encode(verdict)
    after = str(verdict.output_sha256).encode()
    at = honest.index(after) + len(after)
    assert honest[at] == 0
    refused(honest[:at] + count + honest[at + 1 :], Verdict)


WRONG: list[tuple[Any, dict[str, Any]]] = [
    (Life, {"attempt": "1"}),
    (Life, {"attempt": 1.0}),
    (Life, {"attempt": True}),
    (Life, {"job": None}),
    (Life, {"status": "queued"}),
    (Life, {"confidence": 1}),
    (Life, {"origin": None}),
    (Life, {"attempt": 2**63}),
    (Life, {"job": "\ud800"}),
    (Chunk, {"cancel_requested": 1}),
    (DeadLetter, {"original": "text"}),
    (Result, {"reason": Status.QUEUED}),
    (RawEvent, {"metadata": {"a": 1}}),
    (Verdict, {"checks": [sample(Check)]}),
    (Verdict, {"checks": (sample(Origin),)}),
]


@pytest.mark.parametrize(("cls", "change"), WRONG)
def test_a_field_of_the_wrong_type_is_a_bug_named_by_class_and_field(cls: Any, change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(EncodeError, match=name):
        encode(dataclasses.replace(sample(cls), **change))


def test_a_wrong_type_is_found_after_right_ones_were_seen() -> None:
    encode(sample(Life))
    with pytest.raises(EncodeError, match=r"Life\.seq must be int, not str"):
        encode(dataclasses.replace(sample(Life), seq="7"))


def test_an_encode_error_does_not_repeat_the_value() -> None:
    with pytest.raises(EncodeError) as caught:
        encode(dataclasses.replace(sample(WorkItem), input_json=SECRET + "\ud800"))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("cls", [cls for cls in CLASSES.values() if issubclass(cls, Row)])
def test_the_row_codec_knows_bytes_table_and_key_of_every_row(cls: Any) -> None:
    row, codec = sample(cls), RowCodec()
    assert codec.decode(codec.encode(row)) == row
    assert codec.table_of(row) == cls.schema
    assert codec.key_of(row) == row.key


def test_the_row_codec_refuses_a_record_that_is_no_row() -> None:
    with pytest.raises(CodecError, match="holds normalized"):
        RowCodec().decode(encode(sample(WorkItem)))
    assert RowCodec().decode(encode(sample(Meta))) == sample(Meta)
