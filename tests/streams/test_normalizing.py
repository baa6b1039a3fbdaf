"""A raw record becomes exactly one thing, and a stranger's bytes are never repeated in what we say about them."""

import unicodedata
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas import codec
from batchmill.schemas.asking import NearSpec
from batchmill.schemas.ids import content_sha256, log_seq, place_key
from batchmill.schemas.jobs import ChunkSpec, InputSpec, ModeSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, RawEvent, WorkItem
from batchmill.schemas.state import Arrival
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.likeness import alike
from batchmill.streams.normalizing import JOB_KNOWN, JOB_RESUMED, RawLimits, give_up, live_run, normalize, revisit
from batchmill.streams.orders import Delete, Emit, Put
from tests.streams.making import NOW_MS, decide, make_raw, make_row, make_spec, make_view

SECRET = "hunter2-secret"
SCHEMA = '{"type":"object","properties":{"body":{"type":"string"},"n":{"type":"integer"}},"required":["body"]}'


def item_of(spec: Any, raw: Any, **flags: Any) -> WorkItem:
    record = decide(spec, raw, **flags)
    assert isinstance(record, WorkItem), record
    return record


def reason_of(spec: Any, raw: Any, **flags: Any) -> Reason:
    record = decide(spec, raw, **flags)
    assert isinstance(record, DeadLetter | Excluded), record
    return record.reason


def test_an_ordinary_record_becomes_a_work_item_with_everything_that_follows_it() -> None:
    spec = make_spec()
    raw = make_raw({"body": "on fire", "n": 1})
    item = item_of(spec, raw)
    assert item.input_json == '{"body":"on fire","n":1}'
    assert item.input_sha256 == content_sha256(item.input_json.encode())
    assert (item.source_id, item.target_key, item.job, item.epoch) == ("ticket-1", "ticket-1", "triage", 0)
    assert item.seq == log_seq(1, 7)
    assert item.lane == "default|gpt-5-mini|/v1/chat/completions|batch"
    assert item.run_id == live_run("triage", item.version)
    assert item.origin == raw.origin
    assert 4 * item.tokens_estimate <= item.bytes_estimate <= 4 * item.tokens_estimate + 200


def test_the_same_record_gives_the_same_item_and_other_content_another() -> None:
    spec = make_spec()
    first = item_of(spec, make_raw({"body": "a", "n": 1}))
    assert item_of(spec, make_raw(b' {"n": 1.0, "body":"a"}')) == first
    other = item_of(spec, make_raw({"body": "b", "n": 1}))
    assert other.request_id != first.request_id
    assert other.ask_key != first.ask_key
    assert other.request_id[:16] == first.request_id[:16], "all content of one source meets in one task"


# -- which job ---------------------------------------------------------------------------------------------------------


def test_the_job_comes_from_the_header_else_the_member_else_the_default() -> None:
    spec = make_spec()
    member = make_raw({"body": "x", "job": "triage"}, headers=())
    assert item_of(spec, member).input_json == '{"body":"x"}', "the member that named the job is no input"
    header = make_raw({"body": "x", "job": "other"})
    assert item_of(spec, header).input_json == '{"body":"x","job":"other"}'
    view = make_view(make_row(spec))
    bare = make_raw({"body": "x"}, headers=())
    (order,) = normalize(view, bare, jobs=CompiledJobs(), now_ms=NOW_MS, limits=RawLimits(), default_job="triage")
    assert isinstance(order, Emit)
    assert isinstance(order.record, WorkItem)
    assert reason_of(spec, bare) is Reason.NO_JOB


@pytest.mark.parametrize("name", [b"", b"a/b", b"\xff\xfe", b"x" * 65, b"-x", b"tri age\n"])
def test_a_header_that_is_no_job_name_is_refused(name: bytes) -> None:
    assert reason_of(make_spec(), make_raw(headers=(("batchmill-job", name),))) is Reason.NO_JOB


def test_a_member_that_is_no_job_name_is_refused() -> None:
    for job in (7, "", "a/b", {"x": 1}):
        assert reason_of(make_spec(), make_raw({"job": job}, headers=())) is Reason.NO_JOB


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.TOMBSTONE),
        (b"", Reason.TOMBSTONE),
        (b"{" + b" " * 2**20 + b"}", Reason.OVERSIZED),
        (b'{"a":' * 100 + b"1" + b"}" * 100, Reason.TOO_DEEP),
        (b"[" * 100_000, Reason.TOO_DEEP),
        (b'{"body":"\xff"}', Reason.NOT_UTF8),
        (b"body=x", Reason.UNDECODABLE),
        (b'["body"]', Reason.UNDECODABLE),
        (b'{"body":"\\ud83d"}', Reason.UNDECODABLE),
        (b'{"body":"a","body":"b"}', Reason.UNDECODABLE),
        (b"\x00\x00\x00\x00\x63abc", Reason.UNDECODABLE),
        (b"\x00", Reason.UNDECODABLE),
        (b"\x01garbage", Reason.UNDECODABLE),
    ],
)
def test_hostile_bytes_are_put_down_with_a_reason(value: bytes | None, reason: Reason) -> None:
    raw = replace(make_raw(), value=value)
    record = decide(make_spec(), raw)
    assert record.reason is reason
    assert record.stage == "normalizer"
    assert record.job == "triage", "the header says whose it is, whatever the bytes"
    assert record.origin == raw.origin


def test_a_dead_letter_carries_the_bytes_or_says_where_they_lie() -> None:
    small = decide(make_spec(), replace(make_raw(), value=b"\xff"))
    assert (small.original, small.original_uri, small.original_bytes) == (b"\xff", None, 1)
    large = decide(make_spec(), replace(make_raw(), value=b"\xff" * 300_000))
    assert (large.original, large.original_uri, large.original_bytes) == (None, "log:raw/1/3/7", 300_000)
    assert large.original_sha256 == content_sha256(b"\xff" * 300_000)


def test_what_never_became_a_request_stays_in_its_raw_partition() -> None:
    for raw in (replace(make_raw(), value=b"\xff"), replace(make_raw(), value=None)):
        (order,) = normalize(
            make_view(make_row(make_spec())), raw, jobs=CompiledJobs(), now_ms=NOW_MS, limits=RawLimits()
        )
        assert isinstance(order, Emit)
        assert (order.key, order.partition) == (b"ticket-1", 3)


def test_an_avro_event_says_the_same_as_the_json_one() -> None:
    spec = make_spec()
    event = RawEvent(job="triage", source_id="s-9", seq=12, payload_json='{"body": "on fire"}')
    item = item_of(spec, make_raw(codec.encode(event), headers=()))
    assert (item.source_id, item.seq, item.input_json) == ("s-9", 12, '{"body":"on fire"}')
    deleted = replace(event, op="delete")
    assert reason_of(spec, make_raw(codec.encode(deleted), headers=())) is Reason.TOMBSTONE
    broken = replace(event, payload_json="{")
    assert reason_of(spec, make_raw(codec.encode(broken), headers=())) is Reason.UNDECODABLE


# -- identity and rank -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "source_id"),
    [
        (b"ticket-1", "ticket-1"),
        ("żółw".encode(), "żółw"),
        (b"\xff\x00", "hex:ff00"),
        (b"hex:ff00", "hex:6865783a66663030"),
    ],
)
def test_any_key_is_a_source_id_and_no_two_keys_share_one(key: bytes, source_id: str) -> None:
    assert item_of(make_spec(), make_raw(key=key)).source_id == source_id


def test_a_declared_path_names_the_source_whatever_the_key() -> None:
    spec = make_spec(id_path="$.t.id")
    assert item_of(spec, make_raw({"body": "x", "t": {"id": "T-1"}})).source_id == "T-1"
    assert item_of(spec, make_raw({"body": "x", "t": {"id": 12}})).source_id == "12"
    for wrong in ({}, {"id": None}, {"id": ""}, {"id": 1.5}, {"id": True}, {"id": ["x"]}, {"id": "x" * 513}):
        assert reason_of(spec, make_raw({"body": "x", "t": wrong})) is Reason.NO_SOURCE
    for key in (None, b"", b"k" * 513):
        assert reason_of(make_spec(), make_raw(key=key)) is Reason.NO_SOURCE


@pytest.mark.parametrize(
    ("value", "seq"),
    [
        (0, 0),
        (5, 5),
        (2**62 - 1, 2**62 - 1),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("2026-11-24T12:00:00+02:00", 1_795_514_400_000_000),
        ("2026-11-24t10:00:00z", 1_795_514_400_000_000),
        ("2026-11-24T10:00:00.123456789Z", 1_795_514_400_123_456),
    ],
)
def test_a_declared_rank_is_a_number_or_a_time_in_microseconds(value: Any, seq: int) -> None:
    assert item_of(make_spec(seq="$.at"), make_raw({"body": "x", "at": value})).seq == seq


@pytest.mark.parametrize(
    "value",
    [
        *(-1, 2**62, 2**80, 1.5, True, None, [], "5", "", "yesterday", "2026-11-24", "2026-11-24T10:00:00"),
        *("2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-99-99T99:99:99Z"),
    ],
)
def test_a_rank_that_cannot_be_compared_is_refused(value: Any) -> None:
    assert reason_of(make_spec(seq="$.at"), make_raw({"body": "x", "at": value})) is Reason.BAD_SEQ


def test_the_targets_key_may_be_a_member_of_the_input() -> None:
    spec = make_spec()
    spec = replace(spec, place=replace(spec.place, key="$.order"))
    assert item_of(spec, make_raw({"body": "x", "order": 7})).target_key == "7"
    assert reason_of(spec, make_raw({"body": "x"})) is Reason.INVALID_INPUT


# -- input -------------------------------------------------------------------------------------------------------------


def test_text_is_normalised_and_cut_before_anything_looks_at_it() -> None:
    given_input = InputSpec(max_chars={"body": 4}, required=("body",))
    item = item_of(make_spec(given=given_input), make_raw({"body": "e\u0301\x00\x1btwo\n", "t": "a\tb\r\n\x85"}))
    assert orjson.loads(item.input_json) == {"body": "étwo", "t": "a\tb\r\n"}
    as_it_is = InputSpec(normalize=None, strip_control=False)
    item = item_of(make_spec(given=as_it_is), make_raw({"body": "e\u0301\x00"}))
    assert orjson.loads(item.input_json) == {"body": "e\u0301\x00"}
    assert item_of(make_spec(given=InputSpec(normalize="NFKC")), make_raw({"body": "ﬁ"})).input_json == '{"body":"fi"}'


def test_equal_text_in_another_normal_form_is_the_same_request() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Crème brûlée") for form in ("NFC", "NFD"))
    assert item_of(make_spec(), make_raw({"body": composed})) == item_of(make_spec(), make_raw({"body": decomposed}))


def test_what_is_nearly_the_same_is_placed_together_and_carries_what_it_is_compared_by() -> None:
    spec = make_spec(dedupe="near", near=NearSpec(threshold=0.8, shingle=1))
    text = " ".join(f"word{number}" for number in range(50))
    one, other = (decide(spec, make_raw({"body": body})) for body in (text, f"{text} please"))
    assert place_key(one.request_id) == place_key(other.request_id)
    assert one.ask_key != other.ask_key
    assert alike(one.near_key, other.near_key) is not None
    empty = decide(spec, make_raw({"body": " "}))
    assert empty.near_key is None
    assert decide(make_spec(), make_raw({"body": text})).near_key is None


def test_members_that_are_not_kept_are_no_part_of_the_question() -> None:
    spec = make_spec(given=InputSpec(keep=("body",)))
    one, other = (decide(spec, make_raw({"body": "same", "seen_at": at})) for at in (1, 2))
    assert one.input_json == '{"body":"same"}'
    assert (one.request_id, one.ask_key) == (other.request_id, other.ask_key)


@pytest.mark.parametrize("body", [None, "", " \n", 0])
def test_a_required_member_is_there_and_not_blank(body: Any) -> None:
    spec = make_spec(given=InputSpec(required=("body",)), user="x")
    expected = WorkItem if body == 0 else DeadLetter
    assert isinstance(decide(spec, make_raw({"body": body})), expected)


def test_an_input_that_does_not_fit_its_schema_is_told_every_mistake_and_no_value() -> None:
    spec = make_spec(given=InputSpec(schema_json=SCHEMA))
    letter = decide(spec, make_raw({"body": 5, "n": SECRET}))
    assert letter.reason is Reason.INVALID_INPUT
    assert letter.error == "$.body: expected the type string; $.n: expected the type integer"
    assert item_of(spec, make_raw({"body": "x", "n": 2**60})).input_json == '{"body":"x","n":"1152921504606846976"}'


def test_the_filter_excludes_passes_or_fails() -> None:
    spec = make_spec(given=InputSpec(filter="size(input.body) > 3"))
    assert isinstance(decide(spec, make_raw({"body": "long"})), WorkItem)
    filtered = decide(spec, make_raw({"body": "no"}))
    assert isinstance(filtered, Excluded)
    assert (filtered.reason, filtered.cost_nanos) == (Reason.FILTERED, 0)
    assert reason_of(spec, make_raw({"other": "x"})) is Reason.FILTER_ERROR
    assert reason_of(make_spec(given=InputSpec(filter="input.body")), make_raw({"body": SECRET})) is Reason.FILTER_ERROR


def test_a_record_that_the_template_cannot_take_is_put_down_before_it_costs_anything() -> None:
    assert reason_of(make_spec(), make_raw({"subject": "x"})) is Reason.RENDER_ERROR


def test_a_record_that_no_chunk_could_hold_is_put_down() -> None:
    spec = make_spec(mode=ModeSpec(chunk=ChunkSpec(max_bytes=1_000)))
    assert reason_of(spec, make_raw({"body": "x" * 900})) is Reason.TOO_LARGE_FOR_PROVIDER
    spec = make_spec(mode=ModeSpec(chunk=ChunkSpec(max_tokens=100)))
    assert reason_of(spec, make_raw({"body": "x" * 900})) is Reason.TOO_LARGE_FOR_PROVIDER


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_a_record_of_a_paused_or_unknown_job_waits() -> None:
    paused = decide(make_spec(), make_raw(), paused=True)
    assert isinstance(paused, Arrival)
    assert (paused.job, paused.waiting_for) == ("triage", JOB_RESUMED)
    unknown = decide(make_spec(), make_raw(headers=(("batchmill-job", b"unheard-of"),)))
    assert isinstance(unknown, Arrival)
    assert (unknown.job, unknown.waiting_for) == ("unheard-of", JOB_KNOWN)


def test_a_waiting_record_goes_on_when_its_job_does() -> None:
    spec, raw = make_spec(), make_raw()
    arrival = decide(spec, raw, paused=True)
    kept: dict[str, Any] = {"jobs": CompiledJobs(), "now_ms": NOW_MS, "limits": RawLimits()}
    assert revisit(make_view(arrival, make_row(spec, paused=True)), arrival, raw, **kept) == []
    gone = revisit(make_view(arrival), arrival, raw, **kept)
    assert [type(order) for order in gone] == [Put], "now the job is not known any more"
    orders = revisit(make_view(arrival, make_row(spec)), arrival, raw, **kept)
    assert orders[-1] == Delete("state.arrivals", arrival.key)
    assert isinstance(orders[0], Emit)
    assert isinstance(orders[0].record, WorkItem)


def test_a_record_whose_job_nobody_knows_is_put_down_in_the_end() -> None:
    raw = make_raw(headers=(("batchmill-job", b"unheard-of"),))
    arrival = decide(make_spec(), raw)
    letter, forgotten = give_up(arrival, raw, now_ms=NOW_MS)
    assert isinstance(letter, Emit)
    assert isinstance(letter.record, DeadLetter)
    assert (letter.record.reason, letter.record.job) == (Reason.UNKNOWN_JOB, "unheard-of")
    assert forgotten == Delete("state.arrivals", arrival.key)


def test_an_event_older_than_the_cancellation_of_its_job_is_excluded_unless_someone_redrives_it() -> None:
    old = make_raw(at_ms=NOW_MS)
    assert reason_of(make_spec(), old, cancelled_before_ms=NOW_MS) is Reason.CANCELLED
    assert isinstance(decide(make_spec(), make_raw(at_ms=NOW_MS + 1), cancelled_before_ms=NOW_MS), WorkItem)
    assert isinstance(decide(make_spec(), replace(old, redrives=1), cancelled_before_ms=NOW_MS), WorkItem)


# -- whatever comes ----------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    value=st.binary(max_size=80)
    | json_values.map(lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) if not _huge(value) else b"{}"),
    key=st.none() | st.binary(max_size=12),
    header=st.binary(max_size=8) | st.just(b"triage"),
)
def test_any_record_becomes_exactly_one_thing(value: bytes, key: bytes | None, header: bytes) -> None:
    raw = make_raw(value, key=key, headers=(("batchmill-job", header),))
    spec = make_spec(given=InputSpec(schema_json=SCHEMA, filter="size(input.body) > 1"))
    record = decide(spec, raw)
    assert isinstance(record, WorkItem | DeadLetter | Excluded | Arrival)
    assert record.origin == raw.origin
    if not isinstance(record, Arrival):
        assert codec.decode(codec.encode(record), type(record)) == record


def _huge(value: Any) -> bool:
    if isinstance(value, int):
        return not -(2**63) <= value < 2**64
    if isinstance(value, dict):
        return any(map(_huge, value.values()))
    return isinstance(value, list) and any(map(_huge, value))


@settings(max_examples=200)
@given(
    shape=json_values.filter(lambda value: not _huge(value)),
    member=st.sampled_from(["body", "n", "at", "id", SECRET]),
    wrap=st.sampled_from(["value", "list", "key", "cut"]),
)
def test_nothing_we_say_repeats_what_the_record_said(shape: Any, member: str, wrap: str) -> None:
    told = {"value": SECRET, "list": [SECRET], "key": {SECRET: SECRET}, "cut": SECRET}[wrap]
    body = orjson.dumps({"x": shape, member: told}, option=orjson.OPT_NON_STR_KEYS)
    raw = make_raw(body[:-3] if wrap == "cut" else body)
    strict = SCHEMA.replace('"required"', '"additionalProperties":{"type":"integer"},"required"')
    for spec in (
        make_spec(given=InputSpec(schema_json=strict)),
        make_spec(given=InputSpec(filter="int(input.body) > 1"), seq="$.at", id_path="$.id"),
        make_spec(given=InputSpec(filter="input[input.body] == 1")),
        make_spec(user="{{ input[input.body] }}"),
        make_spec(seq="$.body"),
    ):
        record = decide(spec, raw)
        if isinstance(record, DeadLetter):
            assert SECRET not in record.error
        elif isinstance(record, Excluded):
            assert SECRET not in record.detail
