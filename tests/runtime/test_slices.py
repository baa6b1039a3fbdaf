"""How a fetch becomes slices: in order, without a gap, within the caps."""

from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.runtime.records import LogRecord, cut, size_bytes

CAPS = st.integers(1, 9)


def _records(sizes: list[int], step: int = 1) -> list[LogRecord]:
    return [LogRecord("raw", 0, 100 + number * step, 0, None, b"x" * size, ()) for number, size in enumerate(sizes)]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), CAPS, st.integers(1, 900), st.integers(0, 50))
def test_slices_cover_a_fetch_in_order_and_each_starts_where_the_last_ended(
    sizes: list[int], records_max: int, bytes_max: int, alone: int
) -> None:
    records = _records(sizes, step=3)
    slices = list(cut(records, 90, 7, records_max=records_max, bytes_max=bytes_max, alone=alone))
    assert [record for slice_ in slices for record in slice_.records] == records
    position = 90
    for slice_ in slices:
        assert slice_.start == position
        assert slice_.round == 7
        position = slice_.end
    assert position == records[-1].offset + 1


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), CAPS, st.integers(1, 900))
def test_a_slice_exceeds_a_cap_only_with_a_single_record(sizes: list[int], records_max: int, bytes_max: int) -> None:
    for slice_ in cut(_records(sizes), 100, 1, records_max=records_max, bytes_max=bytes_max):
        total = sum(size_bytes(record.key, record.value, record.headers) for record in slice_.records)
        assert len(slice_.records) == 1 or (len(slice_.records) <= records_max and total <= bytes_max)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 50))
def test_suspected_records_go_one_by_one(sizes: list[int], alone: int) -> None:
    slices = list(cut(_records(sizes), 100, 1, records_max=100, bytes_max=10**6, alone=alone))
    assert all(len(slice_.records) == 1 for slice_ in slices[: min(alone, len(sizes))])
    assert len(slices) == min(alone + 1, len(sizes))


def test_a_record_names_itself_and_finds_its_headers() -> None:
    record = LogRecord("raw", 3, 17, 0, b"k", b"v", (("src", b"old"), ("src", b"new")))
    assert record.src == "raw/3/17"
    assert record.header("src") == b"new"
    assert record.header("intent") is None
