"""The view in memory answers as a store does."""

from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.lifecycle import evolve
from tests.streams.rows import make_job, make_life, make_source, put_rows


def test_rows_are_read_by_kind_and_key() -> None:
    life, job = make_life(), make_job()
    view = put_rows(life, job, make_source(life))
    assert read.life(view, life.request_id) == life
    assert read.job(view, "triage") == job
    assert read.source(view, "triage", life.source_id) == make_source(life)
    assert read.life(view, "nobody") is read.chunk(view, "none") is read.meta(view, "none") is None
    assert read.stored_answer(view, "unasked") is None


@given(st.lists(st.integers(0, 30)), st.integers(0, 40), st.one_of(st.none(), st.integers(0, 40)))
def test_a_scan_is_the_sorted_rows_past_a_key_up_to_a_limit(numbers: list[int], limit: int, after: int | None) -> None:
    lives = {number: make_life(number, status=Status.NEEDS_REVIEW) for number in numbers}
    view = put_rows(*lives.values(), make_life(99, status=Status.NEEDS_REVIEW, job="other"))
    past = None if after is None else f"triage/{make_life(after).request_id}"
    found = [key for key, _ in view.scan("review", "triage/", after=past, limit=limit)]
    wanted = sorted(f"triage/{life.request_id}" for life in lives.values())
    assert found == [key for key in wanted if past is None or key > past][:limit]


def test_a_row_that_moves_leaves_its_old_place() -> None:
    life = make_life()
    view = put_rows(life)
    view.put(evolve(life, status=Status.VALIDATED))
    assert view.scan("queue", "", limit=9) == []
    assert len(view.scan("commit", "", limit=9)) == 1
    view.delete(life.schema, life.key)
    assert view.scan("commit", "", limit=9) == []
    view.delete(life.schema, life.key)
