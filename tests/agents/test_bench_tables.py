"""The bench's arithmetic and layout; what it measures is never asserted."""

from tests.bench.tables import Bench, Ratio, Span, aligned, bench_lines, stages_of

SPANS = (
    Span(topic="raw", records=100, first_ms=1_000, last_ms=2_000),
    Span(topic="state", records=900, first_ms=1_500, last_ms=6_000),
    Span(topic="decisions", records=0, first_ms=0, last_ms=0),
    Span(topic="committed", records=1, first_ms=6_000, last_ms=6_000),
)


def test_a_stage_is_timed_from_its_first_record_to_its_last_on_the_clock_of_raw() -> None:
    raw, state, committed = stages_of(SPANS)
    assert (raw.begins_s, raw.ends_s, raw.per_second) == (0.0, 1.0, 100.0)
    assert (state.begins_s, state.ends_s, state.per_second, state.per_raw) == (0.5, 5.0, 200.0, 9.0)
    assert (committed.begins_s, committed.per_second) == (5.0, None)


def test_a_ratio_says_how_many_times_faster_ours_is() -> None:
    assert Ratio(what="w", ours="a", ours_us=2.0, other="b", other_us=5.0).times == 2.5


def test_columns_line_up() -> None:
    assert list(aligned(("name", "n"), [("a", "1"), ("long one", "200")])) == [
        "name        n",
        "a           1",
        "long one  200",
    ]


def test_the_page_names_every_topic_process_and_ratio() -> None:
    bench = Bench(
        records=100,
        workers=2,
        end_to_end_s=5.0,
        end_to_end_per_second=20.0,
        written_per_raw=9.0,
        stages=stages_of(SPANS),
        peak_memory_mib={"worker-1": 200.0},
        cpu_seconds={"worker-1": 3.5},
        ratios=(Ratio(what="encode", ours="a", ours_us=2.0, other="b", other_us=5.0),),
    )
    page = "\n".join(bench_lines(bench))
    assert all(word in page for word in ("raw", "state", "committed", "worker-1", "encode", "20 records/s"))
