"""The bench's figures from what was read, and their table. Pure.

What must not: running anything, or asserting a time: figures are for people to compare.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Bench", "Ratio", "Span", "Stage", "aligned", "bench_lines", "stages_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What one topic holds: how many records, and the broker's time of the first and the last."""

    topic: str
    records: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One topic: how fast it was written, and how long after the first raw event that began and ended."""

    topic: str
    records: int
    per_raw: float
    begins_s: float
    ends_s: float
    per_second: float | None  #: None for fewer than two moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Two ways of doing one thing, measured in the same run."""

    what: str
    ours: str
    ours_us: float  #: microseconds each
    other: str
    other_us: float

    @property
    def times(self) -> float:
        """How many times faster ours is."""
        return self.other_us / self.ours_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything one run measured."""

    records: int
    workers: int
    end_to_end_s: float
    end_to_end_per_second: float
    written_per_raw: float  #: records written to Kafka for each raw one, state included
    stages: tuple[Stage, ...]
    peak_memory_mib: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    ratios: tuple[Ratio, ...]


def stages_of(spans: Iterable[Span]) -> tuple[Stage, ...]:
    """In the order given; `raw` must be among them."""
    found = [span for span in spans if span.records]
    raw = next(span for span in found if span.topic == "raw")
    return tuple(_stage(span, raw) for span in found)


def _stage(span: Span, raw: Span) -> Stage:
    took_ms = span.last_ms - span.first_ms
    return Stage(
        topic=span.topic,
        records=span.records,
        per_raw=span.records / raw.records,
        begins_s=(span.first_ms - raw.first_ms) / 1_000,
        ends_s=(span.last_ms - raw.first_ms) / 1_000,
        per_second=span.records * 1_000 / took_ms if took_ms > 0 else None,
    )


def bench_lines(bench: Bench) -> Iterator[str]:
    """The page, line by line."""
    yield (
        f"{bench.records:,} records end to end with {bench.workers} workers: {bench.end_to_end_s:.1f} s,"
        f" {bench.end_to_end_per_second:,.0f} records/s, {bench.written_per_raw:.1f} Kafka records written per raw one"
    )
    yield ""
    yield from aligned(
        ("topic", "records", "per raw", "begins s", "ends s", "records/s"),
        [
            (
                each.topic,
                f"{each.records:,}",
                f"{each.per_raw:.2f}",
                f"{each.begins_s:.1f}",
                f"{each.ends_s:.1f}",
                "-" if each.per_second is None else f"{each.per_second:,.0f}",
            )
            for each in bench.stages
        ],
    )
    yield ""
    yield from aligned(
        ("process", "peak MiB", "CPU s"),
        [(name, f"{peak:,.0f}", f"{bench.cpu_seconds[name]:.1f}") for name, peak in bench.peak_memory_mib.items()],
    )
    yield ""
    yield from aligned(
        ("side by side", "", "us each", "against", "us each", "times faster"),
        [
            (each.what, each.ours, f"{each.ours_us:.2f}", each.other, f"{each.other_us:.2f}", f"{each.times:.1f}")
            for each in bench.ratios
        ],
    )


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they must be: names to the left, numbers to the right."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    for row in (head, *rows):
        cells = [
            f"{cell:>{width}}" if _is_number(rows, place) else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _is_number(rows: Sequence[Sequence[str]], place: int) -> bool:
    return all(row[place][:1].isdigit() or row[place] in {"-", ""} for row in rows) and bool(rows)
