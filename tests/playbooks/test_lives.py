"""Whole conversations of one record or two: how they come in, and what becomes of them."""

from tests.playbooks.playbook import play

#: where the ways of chunks and records are not the point
QUIET = ("chunk", "submitted", "result", "verdict", "normalized")


def test_a_smooth_life() -> None:
    play("""
    > event s1 A
    normalized s1/A
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
    life s1/A: validated -> committed
    committed s1/A
    """)


def test_the_same_event_twice_is_asked_once() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > event s1 A
    excluded s1/A duplicate
    > send
    life s1/A: in chunk 1
    life s1/A: queued -> processing
    > answer
    life s1/A: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> validated
    > commit
    life s1/A: validated -> committed
    committed s1/A
    > event s1 A
    excluded s1/A duplicate
    > work
    """,
        hide=QUIET,
    )


def test_content_a_b_a_leaves_a_and_is_paid_twice() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > send
    life s1/A: in chunk 1
    life s1/A: queued -> processing
    > event s1 B
    life s1/B: queued
    > send
    life s1/B: in chunk 2
    life s1/B: queued -> processing
    > answer
    life s1/A: processing -> succeeded_unvalidated
    life s1/B: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> failed_terminal (superseded)
    excluded s1/A superseded
    life s1/B: succeeded_unvalidated -> validated
    > commit
    life s1/B: validated -> committed
    committed s1/B
    > event s1 A
    life s1/A: failed_terminal -> queued
    > stored
    life s1/A: queued -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> validated
    > commit
    life s1/A: validated -> committed
    committed s1/A
    """,
        hide=QUIET,
    )


def test_content_a_b_a_over_finished_commits_recalls_a() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > send
    life s1/A: in chunk 1
    life s1/A: queued -> processing
    > answer
    life s1/A: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> validated
    > commit
    life s1/A: validated -> committed
    committed s1/A
    > event s1 B
    life s1/B: queued
    > send
    life s1/B: in chunk 2
    life s1/B: queued -> processing
    > answer
    life s1/B: processing -> succeeded_unvalidated
    life s1/B: succeeded_unvalidated -> validated
    > commit
    life s1/B: validated -> committed
    committed s1/B
    > event s1 A
    life s1/A: committed -> validated
    excluded s1/A duplicate
    > commit
    life s1/A: validated -> committed
    committed s1/A
    """,
        hide=QUIET,
    )


def test_a_source_that_changes_its_mind_in_time_is_paid_once() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > send
    life s1/A: in chunk 1
    life s1/A: queued -> processing
    > event s1 B
    life s1/B: queued
    > event s1 A
    excluded s1/A duplicate
    life s1/B: queued -> failed_terminal (superseded)
    excluded s1/B superseded
    > send
    > answer
    life s1/A: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> validated
    > commit
    life s1/A: validated -> committed
    committed s1/A
    """,
        hide=QUIET,
    )


def test_answers_in_the_wrong_order_leave_the_newest() -> None:
    play(
        """
    > event s1 A 1
    life s1/A: queued
    > send
    life s1/A: in chunk 1
    life s1/A: queued -> processing
    > event s1 B 2
    life s1/B: queued
    > send
    life s1/B: in chunk 2
    life s1/B: queued -> processing
    > event s1 C 0
    excluded s1/C superseded
    > answer
    life s1/A: processing -> succeeded_unvalidated
    life s1/B: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> failed_terminal (superseded)
    excluded s1/A superseded
    life s1/B: succeeded_unvalidated -> validated
    > commit
    life s1/B: validated -> committed
    committed s1/B
    """,
        hide=QUIET,
        seq="$.n",
    )


def test_an_event_overtaken_before_it_was_sent_costs_nothing() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > seal
    life s1/A: in chunk 1
    > event s1 B
    life s1/B: queued
    > send
    life s1/B: in chunk 1
    life s1/A: queued -> failed_terminal (superseded)
    excluded s1/A superseded
    life s1/B: queued -> processing
    submitted s1/B line 1 send 1 attempt 1
    """,
        hide=("normalized", "chunk"),
    )


def test_a_new_version_asks_again() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > send
    life s1/A: in chunk 1
    life s1/A: queued -> processing
    > answer
    life s1/A: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> validated
    > commit
    life s1/A: validated -> committed
    committed s1/A
    > apply 1
    > promote 1
    > event s1 A
    life s1/A': queued
    > send
    life s1/A': in chunk 2
    life s1/A': queued -> processing
    > answer
    life s1/A': processing -> succeeded_unvalidated
    life s1/A': succeeded_unvalidated -> validated
    > commit
    life s1/A': validated -> committed
    committed s1/A'
    """,
        hide=QUIET,
    )


def test_nonsense_is_dead_lettered() -> None:
    play("""
    > junk
    dead-letter raw not_utf8
    """)
