"""Trace context in Kafka headers: in, out, and along for the ride.

What lives here: reading `traceparent` (and whatever OTEL_PROPAGATORS adds) from a record's headers and writing it into
those of the next one. A request waits hours between two stages, so its context is not remembered anywhere: the record
in the log carries it, and comes back with the body. What must not: making spans (`recording` does).
"""

from collections.abc import Iterable

from opentelemetry import context, propagate
from opentelemetry.propagators.textmap import Getter, Setter
from typing_extensions import override

__all__ = ["Headers", "context_headers", "context_of", "traceparent_of", "written"]

Headers = tuple[tuple[str, bytes], ...]
#: W3C names; other propagators bring their own, found through `fields`.
TRACEPARENT = "traceparent"
#: A longer header is not a trace context.
VALUE_BYTES_MAX = 1_024


class _Getter(Getter[Headers]):
    @override
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        values = [value for name, value in carrier if name.lower() == key]
        return [v.decode("ascii", errors="replace") for v in values if len(v) <= VALUE_BYTES_MAX] or None

    @override
    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]


class _Setter(Setter[list[tuple[str, bytes]]]):
    @override
    def set(self, carrier: list[tuple[str, bytes]], key: str, value: str) -> None:
        carrier.append((key, value.encode("ascii", errors="replace")))


_GETTER, _SETTER = _Getter(), _Setter()


def context_headers(headers: Iterable[tuple[str, bytes]]) -> Headers:
    """Pick the trace context out of a record's headers as it came, to put on what the record becomes."""
    fields = propagate.get_global_textmap().fields
    return tuple((name, value) for name, value in headers if name.lower() in fields and len(value) <= VALUE_BYTES_MAX)


def context_of(headers: Iterable[tuple[str, bytes]]) -> context.Context:
    """Read the trace context a record carries; an empty one when it carries none."""
    return propagate.extract(tuple(headers), context=context.Context(), getter=_GETTER)


def written(current: context.Context) -> Headers:
    """Write a trace context as headers; none when there is nothing to write."""
    carrier: list[tuple[str, bytes]] = []
    propagate.inject(carrier, context=current, setter=_SETTER)
    return tuple(carrier)


def traceparent_of(headers: Iterable[tuple[str, bytes]]) -> str | None:
    """Find the `traceparent` of a record, for a log line or a page."""
    found = _GETTER.get(tuple(headers), TRACEPARENT)
    return found[0] if found else None
