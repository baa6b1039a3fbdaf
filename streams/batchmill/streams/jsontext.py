"""JSON text from strangers: strict and bounded in, canonical out.

`decode` refuses what two readers could read differently (repeated members, non-finite numbers, lone surrogates) and
what could hurt (size, depth). `canonical` is RFC 8785; ids are made of it. Nothing here knows jobs, records or models.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import orjson
import rfc8785

from batchmill.schemas.reasons import Reason
from batchmill.streams.unusable import Unusable

__all__ = ["DEPTH_MAX", "INTEGER_MAX", "JsonObject", "canonical", "decode", "decode_object", "map_texts"]

JsonObject = dict[str, Any]

#: levels of nesting; far above what people write, far below what hurts a parser
DEPTH_MAX = 64
#: the largest integer every JSON reader agrees on; RFC 8785 refuses larger ones
INTEGER_MAX = 2**53 - 1

#: at and above this a float may have been an integer literal that the fast parser could not hold
_FLOAT_MAY_HIDE_INTEGER = float(2**63)
#: from here on ECMAScript, and so RFC 8785, writes a float with an exponent
_WRITTEN_WITH_EXPONENT = 1e21
_BOM = b"\xef\xbb\xbf"
#: a string literal, or what is left of one: every byte belongs to at most one match, so the scan is linear
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_STRING_OR_BRACKET = re.compile(_STRING.pattern + rb"|[\[\]{}]", re.DOTALL)
_OPENING = b"[{"
_CLOSING = b"]}"


def decode(data: bytes, *, bytes_max: int, depth_max: int = DEPTH_MAX) -> Any:
    """The value `data` spells, exact integers included, or `Unusable` (oversized, not_utf8, too_deep, undecodable)."""
    if len(data) > bytes_max:
        raise Unusable(Reason.OVERSIZED, f"{len(data)} bytes, at most {bytes_max} are taken")
    data = data.removeprefix(_BOM)
    if data.count(b"[") + data.count(b"{") > depth_max:
        _refuse_depth(data, depth_max)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _unreadable(data, error) from None
    survey = _Survey()
    survey.see(value)
    if data.count(b":") != survey.members and _STRING.sub(b"", data).count(b":") != survey.members:
        raise Unusable(Reason.UNDECODABLE, "an object names the same member twice; readers would disagree on its value")
    return json.loads(data) if survey.hides_integers else value


def decode_object(data: bytes, *, bytes_max: int, depth_max: int = DEPTH_MAX) -> JsonObject:
    """As `decode`, for a JSON object and nothing else."""
    value = decode(data, bytes_max=bytes_max, depth_max=depth_max)
    if not isinstance(value, dict):
        raise Unusable(Reason.UNDECODABLE, f"expected a JSON object, found {_kind(value)}")
    return value


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of `value`; whole numbers beyond 2^53 become strings of their digits first, however written.

    orjson's sorted form is the same bytes when every key is ASCII (byte order is then UTF-16 order) and no float is
    inside; the tests hold this against rfc8785. It is some 40 times faster.
    """
    survey = _Survey()
    survey.see(value)
    if survey.big_integers:
        value = _big_integers_as_text(value)
    if survey.plain:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        raise Unusable(Reason.UNDECODABLE, "a number or text in it has no canonical JSON form") from None


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with `change` applied to every string value (not to member names); containers are changed in place."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        for name, member in value.items():
            if type(member) is str:
                value[name] = change(member)
            elif type(member) is dict or type(member) is list:
                map_texts(member, change)
    elif isinstance(value, list):
        for at, item in enumerate(value):
            if type(item) is str:
                value[at] = change(item)
            elif type(item) is dict or type(item) is list:
                map_texts(item, change)
    return value


class _Survey:
    """One walk over a decoded value that answers everything the fast paths must know."""

    __slots__ = ("big_integers", "hides_integers", "members", "plain")

    def __init__(self) -> None:
        self.members = 0
        self.plain = True  #: ASCII member names and no floats
        self.big_integers = False
        self.hides_integers = False

    def see(self, value: Any) -> None:
        kind = type(value)
        if kind is dict:
            self.members += len(value)
            for name, member in value.items():
                if not name.isascii():
                    self.plain = False
                if type(member) is not str:
                    self.see(member)
        elif kind is list:
            for item in value:
                if type(item) is not str:
                    self.see(item)
        elif kind is int:
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                self.big_integers = True
        elif kind is float:
            self.plain = False
            if not -_FLOAT_MAY_HIDE_INTEGER < value < _FLOAT_MAY_HIDE_INTEGER:
                self.hides_integers = True
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                self.big_integers = True


def _big_integers_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _big_integers_as_text(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_big_integers_as_text(item) for item in value]
    if type(value) is int and not -INTEGER_MAX <= value <= INTEGER_MAX:
        return str(value)
    if type(value) is float and INTEGER_MAX < abs(value) < _WRITTEN_WITH_EXPONENT:
        return str(int(value))  # would be written without a point, as the integer it is
    return value


def _refuse_depth(data: bytes, depth_max: int) -> None:
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(data):
        byte = data[token.start()]
        if byte in _OPENING:
            depth += 1
            if depth > depth_max:
                raise Unusable(Reason.TOO_DEEP, f"nested deeper than {depth_max} levels")
        elif byte in _CLOSING:
            depth -= 1


def _unreadable(data: bytes, error: orjson.JSONDecodeError) -> Unusable:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return Unusable(Reason.NOT_UTF8, f"byte {wrong.start} is not UTF-8; publish JSON as UTF-8")
    # `msg` of the parser names what it expected, never what it found
    return Unusable(Reason.UNDECODABLE, f"not JSON at byte {error.pos}: {error.msg.split(':', maxsplit=1)[0]}")


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "an array"}
    return names.get(type(value), "a number")
