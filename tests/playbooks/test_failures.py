"""What fails, and what follows: another attempt, a person, or the end."""

from tests.playbooks.playbook import play


def test_an_answer_that_is_no_json_is_asked_for_again() -> None:
    play(
        """
    > event s1 A(chatty)
    life s1/A(chatty): queued
    > send
    life s1/A(chatty): in chunk 1
    life s1/A(chatty): queued -> processing
    submitted s1/A(chatty) line 1 send 1 attempt 1
    > answer
    life s1/A(chatty): processing -> succeeded_unvalidated
    result s1/A(chatty) succeeded by provider
    life s1/A(chatty): succeeded_unvalidated -> failed_retryable (not_json)
    > retry
    life s1/A(chatty): failed_retryable -> queued (not_json)
    > send
    life s1/A(chatty): in chunk 2
    life s1/A(chatty): queued -> processing
    submitted s1/A(chatty) line 1 send 2 attempt 1
    > answer
    life s1/A(chatty): processing -> succeeded_unvalidated
    result s1/A(chatty) succeeded by provider
    life s1/A(chatty): succeeded_unvalidated -> needs_review (low_confidence)
    """,
        hide=("normalized", "chunk", "verdict"),
    )


def test_rows_fail_each_in_its_own_way() -> None:
    play(
        """
    > event s1 A(invalid)
    life s1/A(invalid): queued
    > event s2 B(missing)
    life s2/B(missing): queued
    > event s3 C(expired)
    life s3/C(expired): queued
    > send
    life s1/A(invalid): in chunk 1
    life s2/B(missing): in chunk 1
    life s3/C(expired): in chunk 1
    life s2/B(missing): queued -> processing
    life s3/C(expired): queued -> processing
    life s1/A(invalid): queued -> processing
    > answer
    life s2/B(missing): processing -> failed_retryable (missing)
    result s2/B(missing) missing by provider
    life s3/C(expired): processing -> failed_retryable (expired)
    result s3/C(expired) expired by provider
    life s1/A(invalid): processing -> failed_terminal (request_invalid)
    result s1/A(invalid) error by provider
    dead-letter s1/A(invalid) request_invalid
    > retry
    life s2/B(missing): failed_retryable -> queued (missing)
    life s3/C(expired): failed_retryable -> queued (expired)
    > send
    life s2/B(missing): in chunk 2
    life s3/C(expired): in chunk 2
    life s2/B(missing): queued -> processing
    life s3/C(expired): queued -> processing
    > answer
    life s2/B(missing): processing -> succeeded_unvalidated
    result s2/B(missing) succeeded by provider
    life s3/C(expired): processing -> succeeded_unvalidated
    result s3/C(expired) succeeded by provider
    life s2/B(missing): succeeded_unvalidated -> validated
    verdict s2/B(missing) validated
    life s3/C(expired): succeeded_unvalidated -> validated
    verdict s3/C(expired) validated
    > commit
    life s2/B(missing): validated -> committed
    committed s2/B(missing)
    life s3/C(expired): validated -> committed
    committed s3/C(expired)
    """,
        hide=("normalized", "chunk", "submitted"),
    )


def test_an_unsure_answer_waits_for_a_person() -> None:
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
    > commit
    > review s1/odd accept
    life s1/odd: needs_review -> validated
    > commit
    > wait 30
    > commit
    life s1/odd: validated -> committed
    committed s1/odd
    """,
        hide=("normalized", "chunk", "submitted"),
    )


def test_a_throttled_create_is_tried_again_and_costs_no_attempt() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > refuse throttled
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    chunk 1: filling -> sealed
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s1/A: queued -> processing
    submitted s1/A line 1 send 1 attempt 1
    chunk 1: attempting -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    submitted s1/A line 1 send 1 attempt 2
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


def test_a_full_queue_at_the_provider_sends_the_same_chunk_later() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > refuse full
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
    chunk 1: open -> prepared
    > send
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    submitted s1/A line 1 send 1 attempt 2
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


def test_without_money_the_job_pauses_until_a_person_resumes_it() -> None:
    play(
        """
    > event s1 A
    life s1/A: queued
    > refuse money
    > send
    chunk 1: filling
    life s1/A: in chunk 1
    chunk 1: filling -> sealed
    chunk 1: sealed -> prepared
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    life s1/A: queued -> processing
    submitted s1/A line 1 send 1 attempt 1
    chunk 1: attempting -> prepared
    > event s2 B
    > resume
    life s2/B: queued
    > send
    chunk 2: filling
    life s2/B: in chunk 2
    chunk 2: filling -> sealed
    chunk 1: prepared -> uploaded
    chunk 1: uploaded -> attempting
    submitted s1/A line 1 send 1 attempt 2
    chunk 1: attempting -> open
    chunk 2: sealed -> prepared
    chunk 2: prepared -> uploaded
    chunk 2: uploaded -> attempting
    life s2/B: queued -> processing
    submitted s2/B line 1 send 1 attempt 1
    chunk 2: attempting -> open
    > answer
    chunk 1: open -> ended
    chunk 1: ended -> downloaded
    life s1/A: processing -> succeeded_unvalidated
    result s1/A succeeded by provider
    chunk 1: downloaded -> collected
    chunk 1: collected -> done
    chunk 2: open -> ended
    chunk 2: ended -> downloaded
    life s2/B: processing -> succeeded_unvalidated
    result s2/B succeeded by provider
    chunk 2: downloaded -> collected
    chunk 2: collected -> done
    life s1/A: succeeded_unvalidated -> validated
    verdict s1/A validated
    life s2/B: succeeded_unvalidated -> validated
    verdict s2/B validated
    """,
        hide=("normalized",),
    )
