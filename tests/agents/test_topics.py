"""The plan: what differs between the declared topics and a cluster's, and what may be mended."""

from dataclasses import replace

import pytest

from batchmill.agents.settings import Settings, load_settings
from batchmill.agents.topics import (
    ActualTopic,
    Change,
    ChangeKind,
    DesiredTopic,
    TopicsMismatchError,
    desired,
    diff,
    missing,
)
from batchmill.streams.topology import TOPICS


@pytest.fixture
def settings() -> Settings:
    return load_settings({"topic_prefix": "t", "partitions": 4, "replication_factor": 3})


def as_declared(topic: DesiredTopic) -> ActualTopic:
    return ActualTopic(
        name=topic.name, partitions=topic.partitions, configs=dict(topic.configs), own_configs=dict(topic.configs)
    )


def test_every_declared_topic_is_wanted_once_under_the_prefix(settings: Settings) -> None:
    wanted = desired(settings)
    assert [topic.name for topic in wanted] == [f"t.{each.name}.v1" for each in TOPICS]
    assert {topic.partitions for topic in wanted} == {4}


def test_broker_time_no_size_limit_and_one_spare_replica_hold_for_every_topic(settings: Settings) -> None:
    for topic in desired(settings):
        assert topic.configs["message.timestamp.type"] == "LogAppendTime"
        assert topic.configs["retention.bytes"] == "-1"
        assert topic.configs["min.insync.replicas"] == "2"


def test_only_state_is_compacted_and_its_tombstones_outlive_a_restore(settings: Settings) -> None:
    compacted = [topic for topic in desired(settings) if topic.configs["cleanup.policy"] == "compact"]
    assert [topic.name for topic in compacted] == ["t.state.v1"]
    assert int(compacted[0].configs["delete.retention.ms"]) >= 2 * settings.runtime.store_discard_hours * 3_600_000


def test_a_record_of_the_largest_size_fits_its_topic(settings: Settings) -> None:
    for topic in desired(settings):
        assert int(topic.configs["max.message.bytes"]) > settings.runtime.record_bytes_max


def test_a_cluster_as_declared_has_an_empty_plan(settings: Settings) -> None:
    wanted = desired(settings)
    assert diff(wanted, {topic.name: as_declared(topic) for topic in wanted}) == []


def test_an_empty_cluster_gets_every_topic(settings: Settings) -> None:
    wanted = desired(settings)
    assert [change.kind for change in diff(wanted, {})] == [ChangeKind.CREATE] * len(wanted)


def test_only_the_topics_that_are_asked_for_can_be_missing(settings: Settings) -> None:
    absent = missing(settings, ("control", "state"), {"t.control.v1", "other"})
    assert [(change.topic, change.kind) for change in absent] == [("t.state.v1", ChangeKind.CREATE)]
    assert missing(settings, ("raw",), {"t.raw.v1"}) == []


def test_a_differing_setting_is_one_line_of_the_plan_with_both_values(settings: Settings) -> None:
    raw = desired(settings)[0]
    actual = as_declared(raw)
    changed = replace(actual, configs={**actual.configs, "retention.ms": "1000"})
    (change,) = diff([raw], {raw.name: changed})
    assert (change.kind, change.what, change.have, change.mendable) == (
        ChangeKind.CONFIG,
        "retention.ms",
        "1000",
        True,
    )
    assert str(change) == "~ t.raw.v1 retention.ms: 1000 -> 2592000000"


def test_settings_the_table_does_not_name_are_the_operators_own(settings: Settings) -> None:
    raw = desired(settings)[0]
    actual = as_declared(raw)
    assert diff([raw], {raw.name: replace(actual, configs={**actual.configs, "segment.bytes": "1048576"})}) == []


def test_a_wrong_partition_count_cannot_be_mended_and_the_refusal_says_so(settings: Settings) -> None:
    raw = desired(settings)[0]
    (change,) = diff([raw], {raw.name: replace(as_declared(raw), partitions=6)})
    assert not change.mendable
    assert "BATCHMILL_PARTITIONS" in str(TopicsMismatchError([change]))


def test_a_mendable_refusal_names_the_command_that_mends_it() -> None:
    change = Change(topic="t", kind=ChangeKind.CONFIG, what="retention.ms", have="1", want="2")
    assert "`batchmill topics apply`" in str(TopicsMismatchError([change]))
