"""What the demo publishes: sentences without labels, repeats behind their first, hostile events of every kind."""

import json
from collections import Counter

from batchmill.agents.demo.events import HOSTILE, gold_lines, hostile_events, sentences, write_script

LIMIT = 1_000


def test_no_published_event_holds_a_label() -> None:
    script = write_script(5_200, seed=1, value_bytes_max=LIMIT)
    ids = {sentence.id.encode() for sentence in script.sentences}
    published = [json.loads(event.value) for event in script.events if event.key in ids]
    assert {name for event in published for name in event} == {"text", "domain"}


def test_every_sentence_is_published_and_repeats_come_behind_their_first() -> None:
    script = write_script(300, seed=1, value_bytes_max=LIMIT)
    places: dict[bytes | None, list[int]] = {}
    for place, event in enumerate(script.events):
        places.setdefault(event.key, []).append(place)
    assert Counter(len(found) for found in places.values())[2] == script.repeated > 0
    assert {sentence.id.encode() for sentence in script.sentences} | {
        event.key.encode() for event in script.hostile
    } == set(places)
    values = {event.key: event.value for event in script.events}
    assert all(event.value == values[event.key] for event in script.events)


def test_the_same_seed_publishes_the_same_and_another_one_does_not() -> None:
    first, again, other = (write_script(300, seed=seed, value_bytes_max=LIMIT).events for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_beyond_the_sentences_that_exist_they_come_again_and_differ() -> None:
    many = sentences(12_000)
    assert len({sentence.text for sentence in many}) == len({sentence.id for sentence in many}) == 12_000
    assert many[5_200].label == many[0].label


def test_there_are_hostile_events_of_every_kind_and_no_two_alike() -> None:
    events = hostile_events(value_bytes_max=LIMIT)
    assert {event.kind for event in events} == set(HOSTILE)
    assert len({event.key for event in events}) == len(events)
    assert all(event.reason is HOSTILE[event.kind] for event in events)
    assert all(len(event.value) > LIMIT for event in events if event.kind == "larger than allowed")


def test_the_gold_table_has_every_text_with_its_label() -> None:
    known = sentences(50)
    rows = [json.loads(line) for line in gold_lines(known)]
    assert rows == [{"text": each.text, "label": each.label} for each in known]
