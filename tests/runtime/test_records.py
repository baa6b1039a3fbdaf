"""A record of the log as stages see it, whatever a stranger put around it."""

from types import SimpleNamespace

from batchmill.agents.runtime.records import LogRecord, size_bytes


def consumed(**given):
    plain = {"topic": "t", "partition": 3, "offset": 7, "timestamp": 5, "key": b"k", "value": b"v", "headers": ()}
    return SimpleNamespace(**(plain | given))


def test_a_header_without_a_value_is_an_empty_one_and_has_a_size():
    record = LogRecord.of(consumed(headers=[("batchmill-job", None), ("trace", b"x")]))
    assert record.header("batchmill-job") == b""
    assert size_bytes(record.key, record.value, record.headers) > 0


def test_the_last_header_of_a_name_counts_and_an_absent_one_is_none():
    record = LogRecord.of(consumed(headers=[("a", b"1"), ("a", b"2")]))
    assert (record.header("a"), record.header("b")) == (b"2", None)


def test_no_headers_at_all_are_no_headers():
    assert LogRecord.of(consumed(headers=None)).headers == ()
