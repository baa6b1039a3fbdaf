"""Bytes <-> record: Confluent framing (0x00, four bytes of schema id, Avro), strict in both directions.

What comes in may be anybody's: the size cap comes first, no schema here nests without end, bytes left over are refused,
and whatever is wrong becomes one CodecError that says where and what to do, never what the bytes said. What goes out is
ours: a field of the wrong type is an EncodeError, a bug to mend, and nothing is coerced.
"""

from io import BytesIO
from typing import Any, Final, NoReturn, TypeVar

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from batchmill.schemas.forms import EncodeError, Form, UnknownMemberError
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Record
from batchmill.schemas.registry import CLASSES, Registered, Registry, read_registry
from batchmill.schemas.state import Row

__all__ = ["BYTES_MAX", "CodecError", "EncodeError", "decode", "decode_any", "encode", "schema_id_of"]

BYTES_MAX: Final = 16 * 2**20  #: of one value, unless the caller says otherwise

_MAGIC: Final = 0
_PREFIX_BYTES: Final = 5

T = TypeVar("T", bound=Record | Row)


class CodecError(ValueError):
    """Bytes that are no record. `reason` sorts it, `where` finds it, `hint` says what to do; the payload is in none."""

    def __init__(self, reason: Reason, where: str, hint: str) -> None:
        super().__init__(f"{reason}: {where}. {hint}")
        self.reason = reason
        self.where = where
        self.hint = hint


class _Writer:
    """How one class is written: its frame and the newest schema."""

    __slots__ = ("form", "frame", "id", "schema")

    def __init__(self, registered: Registered, document: Any, form: Form) -> None:
        self.id = registered.id
        self.frame = bytes([_MAGIC]) + registered.id.to_bytes(_PREFIX_BYTES - 1, "big")
        self.schema = parse_schema(document)
        self.form = form


class _Reader:
    """How one registered version is read; an older one is resolved to the newest while reading."""

    __slots__ = ("cls", "lift", "resolve_to", "told", "wrote")

    def __init__(self, registered: Registered, document: Any, writer: _Writer) -> None:
        self.told = f"{registered.schema} v{registered.version}"
        self.wrote = parse_schema(document)
        self.resolve_to = None if registered.id == writer.id else writer.schema
        self.cls = writer.form.cls
        self.lift = writer.form.lift


def encode(record: Record | Row) -> bytes:
    """Frame and bytes of `record` under the newest schema of its class."""
    writer = _WRITERS[type(record)]
    datum = writer.form.lower(record)
    out = BytesIO()
    out.write(writer.frame)
    try:
        schemaless_writer(out, writer.schema, datum)
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise writer.form.blame(record) from None
    return out.getvalue()


def decode(data: bytes, expect: type[T], *, bytes_max: int = BYTES_MAX) -> T:
    """Read one `expect`, written under any registered version of its schema."""
    reader = _reader_of(data, bytes_max)
    if reader.cls is not expect:
        _refuse(f"holds {reader.told}, expected {expect.schema}", "Publish each kind of record to its own topic")
    record: T = _read(reader, data)
    return record


def decode_any(data: bytes, *, bytes_max: int = BYTES_MAX) -> Record | Row:
    """Read whatever its schema id says it is."""
    record: Record | Row = _read(_reader_of(data, bytes_max), data)
    return record


def schema_id_of(data: bytes) -> int:
    """Read the id from the frame, known or not."""
    if len(data) < _PREFIX_BYTES or data[0] != _MAGIC:
        _refuse(
            f"{len(data)} bytes without the prefix 0x00 + schema id",
            "Write Avro with the Confluent prefix, under an id of registry.lock",
        )
    return int.from_bytes(data[1:_PREFIX_BYTES], "big", signed=True)


def _reader_of(data: bytes, bytes_max: int) -> _Reader:
    if len(data) > bytes_max:
        hint = "Publish a smaller record, or raise the size cap"
        raise CodecError(Reason.OVERSIZED, f"{len(data)} bytes, at most {bytes_max} are read", hint)
    schema_id = schema_id_of(data)
    reader = _READERS.get(schema_id)
    if reader is None:
        hint = "Its writer uses another registry or a newer release; upgrade this side first"
        _refuse(f"schema id {schema_id} is not in registry.lock", hint)
    return reader


def _read(reader: _Reader, data: bytes) -> Any:
    source = BytesIO(data)
    source.seek(_PREFIX_BYTES)
    try:
        datum = schemaless_reader(source, reader.wrote, reader.resolve_to)
        record = reader.lift(datum)
    except UnicodeDecodeError:
        hint = "Its writer must encode text as UTF-8"
        raise CodecError(Reason.NOT_UTF8, _place(reader, source, data), hint) from None
    except UnknownMemberError as error:
        _refuse(
            f"{reader.told}, field {error.field}", "Its writer knows a newer list of values; upgrade this side first"
        )
    except Exception:  # noqa: BLE001 (hostile bytes fail in as many ways as the reader has lines)
        _refuse(_place(reader, source, data), "The bytes are damaged or were written under another schema")
    if source.tell() != len(data):
        left = len(data) - source.tell()
        _refuse(f"{_place(reader, source, data)}: {left} bytes are left over", "Write one record per value")
    return record


def _place(reader: _Reader, source: BytesIO, data: bytes) -> str:
    return f"{reader.told}, near byte {min(source.tell(), len(data))} of {len(data)}"


def _refuse(where: str, hint: str) -> NoReturn:
    raise CodecError(Reason.UNDECODABLE, where, hint) from None


def _writers(registry: Registry) -> dict[type, _Writer]:
    return {
        cls: _Writer(registered, registry.documents[registered.id], Form(cls))
        for schema, cls in CLASSES.items()
        for registered in (registry.newest[schema],)
    }


def _readers(registry: Registry, writers: dict[type, _Writer]) -> dict[int, _Reader]:
    return {
        one.id: _Reader(one, registry.documents[one.id], writers[CLASSES[one.schema]])
        for one in registry.by_id.values()
        if one.schema in CLASSES
    }


_REGISTRY: Final = read_registry()
_WRITERS: Final = _writers(_REGISTRY)
_READERS: Final = _readers(_REGISTRY, _WRITERS)
