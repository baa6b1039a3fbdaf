"""What a file becomes before Kafka sees it."""

import io
import sys
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from batchmill.agents.ingest import Format, IngestError, SourceRecord, format_of, open_records


def records(path: Path, kind: Format, key: str | None = "id") -> list[SourceRecord]:
    with open_records(str(path), kind, key=key) as opened:
        return list(opened.records)


def test_a_jsonl_line_travels_byte_for_byte_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"id": 7,  "a": "\xc3\xa9"}\r\n\n{"id": "k", "a": 1}')
    first, second = records(file, Format.JSONL)
    assert (first.line, first.key, first.value) == (1, b"7", b'{"id": 7,  "a": "\xc3\xa9"}')
    assert (second.line, second.key) == (3, b"k")


def test_a_malformed_line_travels_too_so_that_it_is_accounted_for(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"id": 7\n\xff\xfe\n')
    assert [(each.key, each.value, each.trouble) for each in records(file, Format.JSONL)] == [
        (None, b'{"id": 7', None),
        (None, b"\xff\xfe", None),
    ]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"id": {"a": 1}}', None),
        (b'{"id": null}', None),
        (b'{"id": true}', None),
        (b'{"other": 1}', None),
        (b'{"id": 0}', b"0"),
        (b'{"id": ""}', b""),
    ],
)
def test_only_text_and_numbers_become_keys(tmp_path: Path, line: bytes, key: bytes | None) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(line)
    assert records(file, Format.JSONL)[0].key == key


def test_a_key_may_lie_deeper(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"meta": {"ids": ["a", "b"]}}')
    assert records(file, Format.JSONL, "$.meta.ids[1]")[0].key == b"b"


def test_csv_rows_become_objects_of_text(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b'\xef\xbb\xbfid,text\n1,"a, b\nc"\n2,\xc3\xa9\n')
    first, second = records(file, Format.CSV)
    assert orjson.loads(first.value) == {"id": "1", "text": "a, b\nc"}
    assert (second.line, second.key, orjson.loads(second.value)["text"]) == (4, b"2", "é")


def test_a_csv_row_that_does_not_fit_its_header_is_named_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("id,text\n1,a,b\n2,c\n")
    bad, good = records(file, Format.CSV)
    assert (bad.line, bad.trouble) == (2, "3 cells, the header has 2")
    assert good.trouble is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"id,id\n1,2\n", "names a column twice"),
        (b"id\n\xff\n", "not UTF-8"),
        (b'id\n"a"b\n', "cannot be read at line"),
    ],
)
def test_a_csv_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(content)
    with pytest.raises(IngestError, match=says):
        records(file, Format.CSV)


def test_parquet_rows_keep_their_types(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pa.parquet.write_table(pa.table({"id": [1, 2], "text": ["a", None], "data": [b"\x00", b"\x01"]}), file)
    first, second = records(file, Format.PARQUET)
    assert (first.key, orjson.loads(first.value)) == (b"1", {"id": 1, "text": "a", "data": "AA=="})
    assert orjson.loads(second.value)["text"] is None


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1")
    with pytest.raises(IngestError, match=r"pip install 'batchmill\[parquet\]'"):
        records(file, Format.PARQUET)


def test_standard_input_is_read_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": 1}\n')))
    with open_records("-", Format.JSONL, key="id") as opened:
        assert opened.size_bytes is None
        assert [each.key for each in opened.records] == [b"1"]


def test_the_format_comes_from_the_suffix_unless_it_is_named() -> None:
    assert format_of("a.NDJSON", None) is Format.JSONL
    assert format_of("a.csv", Format.JSONL) is Format.JSONL
    assert format_of("-", None) is Format.JSONL
    with pytest.raises(IngestError, match="--format"):
        format_of("a.txt", None)


def test_a_file_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="No such file"):
        records(tmp_path / "no.jsonl", Format.JSONL)
