"""What operators say, and what goes on regardless."""

from tests.playbooks.playbook import play

#: where the ways of chunks and records are not the point
QUIET = ("chunk", "submitted", "result", "verdict", "normalized")


def test_a_paused_job_collects_and_holds_what_was_paid_for() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    chunk 1: filling -> sealed
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s1/A: queued -> processing
    submitted s1/A line 1 send 1 attempt 1
    chunk 1: attempting -> open
    > pause
    > event s2 B
    > seal
    > answer
    chunk 1: open -> ended
    chunk 1: ended -> downloaded
    life s1/A: processing -> succeeded_unvalidated
    result s1/A succeeded by provider
    chunk 1: downloaded -> collected
    chunk 1: collected -> done
    life s1/A: succeeded_unvalidated -> validated
    verdict s1/A validated
    > commit
    > resume
    life s2/B: queued
    > commit
    life s1/A: validated -> committed
    committed s1/A
    """,
        hide=("normalized",),
    )


def test_a_cancelled_job_ends_every_record_and_counts_what_was_billed() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    chunk 1: filling -> sealed
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s1/A: queued -> processing
    chunk 1: attempting -> open
    > event s2 B
    life s2/B: queued
    > seal
    chunk 2: filling
    life s2/B: in chunk 2
    > event s3 C
    life s3/C: queued
    > cancel
    chunk 2: filling -> ended
    life s3/C: queued -> failed_terminal (cancelled)
    excluded s3/C cancelled
    > work
    chunk 1: open -> ended
    chunk 1: ended -> downloaded
    life s1/A: processing -> succeeded_unvalidated
    result s1/A succeeded by provider
    life s1/A: succeeded_unvalidated -> failed_terminal (cancelled)
    excluded s1/A cancelled
    chunk 1: downloaded -> collected
    chunk 1: collected -> done
    life s2/B: queued -> failed_terminal (cancelled)
    excluded s2/B cancelled
    chunk 2: ended -> failed
    """,
        hide=("normalized", "submitted"),
    )


def test_a_new_event_after_a_cancellation_asks_again() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > cancel
    life s1/A: queued -> failed_terminal (cancelled)
    excluded s1/A cancelled
    > event s1 A
    life s1/A: failed_terminal -> queued
    > send
    life s1/A: in chunk 1
    life s1/A: queued -> processing
    > answer
    life s1/A: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> validated
    > commit
    life s1/A: validated -> committed
    committed s1/A
    """,
        hide=QUIET,
    )


def test_a_version_applied_twice_changes_nothing() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > apply 0
    > event s1 A
    excluded s1/A duplicate
    """,
        hide=QUIET,
    )


def test_an_answer_in_review_is_cancelled_and_a_late_decision_is_stale() -> None:
    play(
        """
    > event s1 odd
    life s1/odd: queued
    > send
    life s1/odd: in chunk 1
    life s1/odd: queued -> processing
    > answer
    life s1/odd: processing -> succeeded_unvalidated
    result s1/odd succeeded by provider
    life s1/odd: succeeded_unvalidated -> needs_review (low_confidence)
    verdict s1/odd needs_review
    > cancel
    life s1/odd: needs_review -> failed_terminal (cancelled)
    excluded s1/odd cancelled
    > review s1/odd accept
    """,
        hide=("normalized", "chunk", "submitted"),
    )
