"""Sinks: where committed values go, each behind the port `streams.ports.Sink`.

What lives here: writing by compare-and-set on rank, and telling what was there before. What must not: deciding whether
a value may be written at all.
"""

__all__: list[str] = []
