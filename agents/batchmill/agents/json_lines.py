"""Small files of one JSON document a line, for people who wrote them: what is wrong is named by its line.

What must not live here: what a line means, and files of records that may be very large (`ingest`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from batchmill.schemas.strict_json import StrictJsonError, parse_json

__all__ = ["JsonLinesError", "json_lines"]

_FILE_BYTES_MAX: Final = 64 * 2**20


class JsonLinesError(ValueError):
    """The file cannot be read; says where and why."""


def json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """(line number, decoded), blank lines left out."""
    try:
        size = file.stat().st_size
        if size > _FILE_BYTES_MAX:
            raise JsonLinesError(f"{file}: {size} bytes, at most {_FILE_BYTES_MAX} are read")
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise JsonLinesError(f"{file} is not UTF-8") from None
    except OSError as error:
        raise JsonLinesError(f"{file} cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _decoded(file, number, line)


def _decoded(file: Path, number: int, line: str) -> Any:
    try:
        return parse_json(line, "$")
    except StrictJsonError as error:
        raise JsonLinesError(f"{file}: line {number}: {error}") from None
