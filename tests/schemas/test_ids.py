"""Ids: the same everywhere and for ever, different where anything differs."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.ids import (
    CUSTOM_ID_CHARS_MAX,
    ask_key,
    chunk_id,
    chunk_nonce,
    commit_id,
    content_sha256,
    custom_id,
    dead_letter_id,
    log_seq,
    murmur2,
    parse_custom_id,
    partition_for,
    place_key,
    request_id,
)
from tests.schemas.strategies import texts

CONTENT = content_sha256(b'{"a":1}')
PROVIDER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: As org.apache.kafka.common.utils.UtilsTest has them.
JAVA = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize(("text", "hashed"), JAVA.items())
def test_murmur2_is_the_one_kafka_clients_use(text: str, hashed: int) -> None:
    assert murmur2(text.encode()) == hashed


@given(st.binary(max_size=100), st.integers(1, 1_000))
def test_a_partition_is_always_one_of_the_topic(key: bytes, partitions: int) -> None:
    assert 0 <= partition_for(key, partitions) < partitions
    assert partition_for(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_a_topic_without_partitions_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        partition_for(b"k", 0)


def test_every_id_is_what_it_was_when_the_first_release_made_it() -> None:
    made = request_id("triage", "ticket-1042", CONTENT, "aaaaaaaaaaaaaaaa", 0)
    assert made == "kcchke7wcj635bj4ayu6kkcfgdvawo76"
    assert (
        request_id("triage", "ticket-1042", CONTENT, "aaaaaaaaaaaaaaaa", 0, "content")
        == "nspr725hnaaamypdayu6kkcfgdvawo76"
    )
    assert ask_key("triage", "ticket-1042", CONTENT, "f") == "bwimtamclmxjs632vnsk34cvjdjwagpimikvruxpu32lyjidvq6q"
    assert chunk_id("batchmill", 3, 17) == "c0003-0000000017-sjsajdr3rf26hehv"
    assert (
        custom_id(made, 2, chunk_nonce(chunk_id("batchmill", 3, 17)))
        == "kcchke7wcj635bj4ayu6kkcfgdvawo76-2-kco6pbzd36e7cf4m"
    )
    assert commit_id(made, 5, 0, CONTENT) == "55oqs76xfj2lkrhxp5wvd3ir6ifdf4v5"
    assert (
        dead_letter_id("normalizer", "undecodable", generation=0, partition=1, offset=2)
        == "kguxjm2cmrf6hdkpt7qp7m3p6ple52m3"
    )


def test_an_id_does_not_depend_on_the_process_that_makes_it() -> None:
    program = "from batchmill.schemas.ids import request_id; print(request_id('j', 's', 'c', 'v', 0))"
    made = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert made == {request_id("j", "s", "c", "v", 0)}


@given(texts, texts, texts, texts, st.integers(0, 9), st.sampled_from(["source", "content"]))
def test_a_request_id_fits_providers_and_partitions(job, source, content, version, epoch, dedupe) -> None:
    made = request_id(job, source, content, version, epoch, dedupe)
    assert re.fullmatch(r"[a-z2-7]{32}", made)
    assert place_key(made) == made[:16].encode()


@given(texts, texts, texts, texts, texts, texts, st.integers(1, 64))
def test_all_requests_of_a_source_meet_in_one_partition(job, source, first, second, old, new, partitions) -> None:
    one, other = request_id(job, source, first, old, 0), request_id(job, source, second, new, 1)
    assert partition_for(place_key(one), partitions) == partition_for(place_key(other), partitions)


def test_placing_by_content_brings_equal_content_of_all_sources_together() -> None:
    one, other = (request_id("j", source, "c", "v", 0, "content") for source in ("a", "b"))
    assert place_key(one) == place_key(other)
    assert one != other
    assert place_key(request_id("j", "a", "c", "v", 0)) != place_key(request_id("j", "b", "c", "v", 0))


def test_placing_by_likeness_brings_together_what_shares_it_and_tells_it_apart_by_content() -> None:
    one, other = (request_id("j", "a", content, "v", 0, "near", "alike") for content in ("c", "d"))
    assert place_key(one) == place_key(other)
    assert one != other
    assert place_key(one) != place_key(request_id("j", "a", "c", "v", 0, "near", "another"))
    assert place_key(one) != place_key(request_id("j", "a", "alike", "v", 0, "content"))


def test_sources_spread_over_the_partitions() -> None:
    counts = [0] * 8
    for number in range(4_000):
        counts[partition_for(place_key(request_id("j", f"s{number}", "c", "v", 0)), 8)] += 1
    assert min(counts) > 400


@pytest.mark.parametrize("part", range(5))
def test_every_part_of_a_request_tells_it_apart(part: int) -> None:
    parts: list[list[object]] = [["j", "s", "c", "v", 0], ["j", "s", "c", "v", 0]]
    parts[1][part] = 1 if part == 4 else "other"
    one, other = (request_id(*one) for one in parts)  # type: ignore[arg-type]
    assert one[16:] != other[16:]


def test_parts_that_run_together_are_still_two_parts() -> None:
    assert request_id("ab", "c", "c", "v", 0) != request_id("a", "bc", "c", "v", 0)
    assert request_id("a", "1:b,", "c", "v", 0) != request_id("a,1:b", "", "c", "v", 0)


def test_a_shortened_request_id_places_nothing() -> None:
    with pytest.raises(ValueError, match="32 characters"):
        place_key("short")


def test_a_question_is_shared_inside_its_source_or_for_content_across_sources() -> None:
    assert ask_key("j", "a", "c", "f") == ask_key("j", "a", "c", "f")
    assert ask_key("j", "a", "c", "f") != ask_key("j", "b", "c", "f")
    assert ask_key("j", "a", "c", "f", dedupe="content") == ask_key("j", "b", "c", "f", dedupe="content")
    assert ask_key("j", "a", "c", "f", dedupe="near") == ask_key("j", "b", "c", "f", dedupe="near")
    assert len({ask_key("j", "a", "c", "f", epoch) for epoch in range(3)}) == 3
    assert len(ask_key("j", "a", "c", "f")) == 52


@given(st.integers(0, 10**9 - 1), st.integers(0, 9_999), st.integers(0, 10**10 - 1))
def test_a_custom_id_says_what_it_was_made_of_and_fits_every_provider(sends: int, partition: int, counter: int) -> None:
    request, nonce = request_id("j", "s", "c", "v", 0), chunk_nonce(chunk_id("app", partition, counter))
    made = custom_id(request, sends, nonce)
    assert len(made) <= CUSTOM_ID_CHARS_MAX
    assert PROVIDER_ID.fullmatch(made)
    assert parse_custom_id(made) == (request, sends, nonce)


@given(texts)
def test_a_custom_id_of_others_is_not_ours(text: str) -> None:
    assert parse_custom_id(text) is None


@pytest.mark.parametrize("sends", [-1, 10**9])
def test_a_send_number_out_of_range_makes_no_custom_id(sends: int) -> None:
    with pytest.raises(ValueError, match="no custom id"):
        custom_id(request_id("j", "s", "c", "v", 0), sends, chunk_nonce("c"))


def test_chunk_ids_sort_as_they_were_made_and_differ_between_apps() -> None:
    made = [chunk_id("app", 0, counter) for counter in (0, 9, 10, 99, 100)]
    assert made == sorted(made)
    assert chunk_id("one", 0, 0) != chunk_id("two", 0, 0)
    assert chunk_nonce(made[0]) != chunk_nonce(made[1])


def test_a_commit_and_a_dead_letter_repeat_with_their_cause_only() -> None:
    assert commit_id("r", 1, 0, "o") == commit_id("r", 1, 0, "o")
    assert len({commit_id("r", seq, promotion, out) for seq in (1, 2) for promotion in (0, 1) for out in "ab"}) == 8
    causes = [
        dead_letter_id("s", "r", generation=0, partition=0, offset=at, redrives=n) for at in (1, 2) for n in (0, 1)
    ]
    assert len(set(causes)) == 4
    assert causes[0] == dead_letter_id("s", "r", generation=0, partition=0, offset=1)


@given(st.integers(0, 2**19 - 2), st.integers(0, 2**44 - 1), st.integers(0, 2**44 - 1))
def test_a_later_generation_of_the_log_outranks_every_earlier_offset(generation: int, early: int, late: int) -> None:
    assert log_seq(generation, early) < log_seq(generation + 1, late) < 2**63
    assert (log_seq(generation, early) < log_seq(generation, late)) == (early < late)


@pytest.mark.parametrize(("generation", "offset"), [(-1, 0), (0, -1), (0, 2**44), (2**19, 0)])
def test_a_rank_out_of_range_is_refused(generation: int, offset: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        log_seq(generation, offset)
