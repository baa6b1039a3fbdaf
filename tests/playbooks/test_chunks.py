"""A chunk between us and the provider: what is lost on the way is found, and never paid for twice."""

from tests.playbooks.playbook import play


def test_a_batch_whose_acceptance_was_lost_is_found_and_adopted() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > lose answer
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    chunk 1: filling -> sealed
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s1/A: queued -> processing
    submitted s1/A line 1 send 1 attempt 1
    > crash
    > wait 60
    > dispatch
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
    """,
        hide=("normalized",),
    )


def test_a_create_that_never_arrived_is_sent_again_after_its_file_is_gone() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > lose create
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    chunk 1: filling -> sealed
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s1/A: queued -> processing
    submitted s1/A line 1 send 1 attempt 1
    > look
    chunk 1: not found, 1 looks
    > look
    chunk 1: not found, 2 looks
    > look
    chunk 1: not found, 3 looks
    > look
    chunk 1: not found, 4 looks
    > look
    chunk 1: not found, 5 looks
    > dispatch
    > look
    chunk 1: not found, 1 looks
    > look
    chunk 1: not found, 2 looks
    > look
    chunk 1: not found, 3 looks
    > look
    chunk 1: not found, 4 looks
    > look
    chunk 1: attempting -> prepared
    > send
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    submitted s1/A line 1 send 1 attempt 2
    chunk 1: attempting -> open
    > answer
    chunk 1: open -> ended
    chunk 1: ended -> downloaded
    life s1/A: processing -> succeeded_unvalidated
    chunk 1: downloaded -> collected
    chunk 1: collected -> done
    life s1/A: succeeded_unvalidated -> validated
    """,
        hide=("normalized", "result", "verdict"),
    )


def test_one_unreadable_line_is_found_by_halving() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > event s2 unreadable
    life s2/unreadable: queued
    > event s3 C
    life s3/C: queued
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    life s2/unreadable: in chunk 1
    life s3/C: in chunk 1
    chunk 1: filling -> sealed
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s2/unreadable: queued -> processing
    life s3/C: queued -> processing
    life s1/A: queued -> processing
    chunk 1: attempting -> open
    > answer
    chunk 1: open -> ended
    chunk 2: sealed
    life s2/unreadable: processing -> queued (provider_cancelled)
    life s3/C: processing -> queued (provider_cancelled)
    chunk 3: sealed
    life s1/A: processing -> queued (provider_cancelled)
    chunk 1: ended -> failed
    > work
    chunk 2: sealed -> prepared
    chunk 2: prepared -> uploaded
    chunk 2: uploaded -> attempting
    life s2/unreadable: queued -> processing
    life s3/C: queued -> processing
    chunk 2: attempting -> open
    chunk 3: sealed -> prepared
    chunk 2: open -> ended
    chunk 3: prepared -> uploaded
    chunk 3: uploaded -> attempting
    life s1/A: queued -> processing
    chunk 3: attempting -> open
    chunk 4: sealed
    life s2/unreadable: processing -> queued (provider_cancelled)
    chunk 4: sealed -> prepared
    chunk 5: sealed
    life s3/C: processing -> queued (provider_cancelled)
    chunk 4: prepared -> uploaded
    chunk 2: ended -> failed
    chunk 4: uploaded -> attempting
    life s2/unreadable: queued -> processing
    chunk 4: attempting -> open
    chunk 5: sealed -> prepared
    chunk 5: prepared -> uploaded
    chunk 5: uploaded -> attempting
    life s3/C: queued -> processing
    chunk 5: attempting -> open
    chunk 3: open -> ended
    chunk 3: ended -> downloaded
    life s1/A: processing -> succeeded_unvalidated
    life s1/A: succeeded_unvalidated -> validated
    chunk 3: downloaded -> collected
    life s1/A: validated -> committed
    committed s1/A
    chunk 3: collected -> done
    chunk 4: open -> ended
    life s2/unreadable: processing -> failed_terminal (request_invalid)
    dead-letter s2/unreadable request_invalid
    chunk 4: ended -> failed
    chunk 5: open -> ended
    chunk 5: ended -> downloaded
    life s3/C: processing -> succeeded_unvalidated
    life s3/C: succeeded_unvalidated -> validated
    chunk 5: downloaded -> collected
    life s3/C: validated -> committed
    committed s3/C
    chunk 5: collected -> done
    """,
        hide=("normalized", "submitted", "result", "verdict"),
    )


def test_a_held_chunk_waits_for_its_approval() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    chunk 1: filling -> held
    > approve
    chunk 1: held -> sealed
    > send
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s1/A: queued -> processing
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
    """,
        hide=("normalized", "submitted"),
        hold=True,
    )
