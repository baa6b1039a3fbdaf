"""The flow is one table, and it hangs together."""

from batchmill.schemas.records import Record
from batchmill.streams.topology import STAGES, TOPICS, mermaid, stage, topic, topic_name


def test_every_record_has_its_topic_and_state_has_one_too() -> None:
    schemas = {kind.schema for kind in Record.__args__}
    assert {each.name for each in TOPICS} == schemas | {"state"}


def test_a_stage_reads_the_topic_whose_agent_it_is_and_writes_what_it_says() -> None:
    for each in STAGES:
        assert topic(each.takes).agent == each.name
        assert each.name in topic(each.takes).read_by
        if each.gives is not None:
            assert each.name in topic(each.gives).written_by


def test_every_agent_of_a_topic_is_a_stage() -> None:
    assert {each.agent for each in TOPICS if each.agent is not None} == {each.name for each in STAGES}


def test_the_straight_way_leads_from_raw_to_committed() -> None:
    at, passed = "raw", []
    while at != "committed":
        (here,) = [each for each in STAGES if each.takes == at]
        passed.append(here.name)
        assert here.gives is not None
        at = here.gives
    assert passed == ["normalizer", "submitter", "collector", "validator", "committer"]


def test_only_state_is_compacted_and_nothing_waits_longer_than_its_topic_keeps_it() -> None:
    assert [each.name for each in TOPICS if each.cleanup == "compact"] == ["state"]
    assert topic("normalized").retention_ms > topic("raw").retention_ms > 0
    assert topic("committed").retention_ms == topic("control").retention_ms == -1


def test_a_topic_is_called_after_prefix_and_format() -> None:
    assert topic_name("bm", "dead-letter") == "bm.dead-letter.v1"


def test_the_picture_shows_every_topic_and_stage() -> None:
    picture = mermaid()
    for each in TOPICS:
        assert f'"{each.name}"' in picture
    for each in STAGES:
        assert f'{each.name}["{stage(each.name).name}"]' in picture
