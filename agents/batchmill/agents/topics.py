"""The topics a cluster has, against the topics the one table in `streams.topology` declares: plan, apply, verify.

`desired` and `diff` are pure; `TopicAdmin` talks to the cluster. A partition count is for life, so a wrong one is never
mended here: more partitions would move keys to other tasks. Settings of a topic that the table does not name are the
operator's own and are kept.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError, for_code
from aiokafka.helpers import create_ssl_context
from typing_extensions import override

from batchmill.agents.clock import monotonic_s
from batchmill.agents.settings import KafkaSettings, Settings
from batchmill.streams.topology import TOPICS, topic_name

__all__ = [
    "ActualTopic",
    "Change",
    "ChangeKind",
    "DesiredTopic",
    "KafkaUnreachableError",
    "TopicAdmin",
    "TopicsMismatchError",
    "desired",
    "diff",
    "kafka_client_options",
    "missing",
    "verify",
]

#: How much a broker may add to a record: batch header, headers, keys.
_RECORD_OVERHEAD_BYTES = 96 * 2**10
#: A compacted row may be looked at for this long after its tombstone: a restore must finish within half of it.
_TOMBSTONE_KEPT_MS = 24 * 3_600_000
#: A changelog segment is closed, and so becomes compactable, at least this often.
_STATE_SEGMENT_MS = 3_600_000
#: Rows younger than this are not compacted, so that a slow reader sees every version of a fresh row.
_STATE_COMPACTION_LAG_MS = 60_000
_CREATED_WAIT_SECONDS = 20.0
_CREATED_LOOK_SECONDS = 0.1


class KafkaUnreachableError(Exception):
    """No broker answered at the configured address."""


class TopicsMismatchError(Exception):
    """The cluster's topics are not the declared ones; the message lists every difference and how to mend it."""

    def __init__(self, changes: Sequence["Change"]) -> None:
        self.changes = tuple(changes)
        lines = [f"  {change}" for change in self.changes]
        mend = "run `batchmill topics apply`" if all(change.mendable for change in self.changes) else _FOR_LIFE
        super().__init__("the topics of this cluster are not the declared ones:\n" + "\n".join(lines) + f"\n{mend}")


_FOR_LIFE = (
    "a partition count is for life: set BATCHMILL_PARTITIONS to what the cluster has, or choose a fresh"
    " BATCHMILL_TOPIC_PREFIX; `batchmill topics apply` mends the rest"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredTopic:
    """One topic as the table declares it, with this installation's prefix and counts."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualTopic:
    """One topic as the cluster has it."""

    name: str
    partitions: int
    configs: Mapping[str, str] = field(hash=False)  #: in force, whoever set them
    own_configs: Mapping[str, str] = field(hash=False)  #: set on this topic itself


class ChangeKind(StrEnum):
    """What has to happen for the cluster to be as declared."""

    CREATE = "create"
    CONFIG = "config"
    PARTITIONS = "partitions"  #: nothing mends it


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a plan."""

    topic: str
    kind: ChangeKind
    what: str
    have: str | None
    want: str

    @property
    def mendable(self) -> bool:
        return self.kind is not ChangeKind.PARTITIONS

    @override
    def __str__(self) -> str:
        if self.kind is ChangeKind.CREATE:
            return f"+ {self.topic} ({self.want})"
        sign = "~" if self.mendable else "!"
        return f"{sign} {self.topic} {self.what}: {self.have or 'unset'} -> {self.want}"


def desired(settings: Settings) -> tuple[DesiredTopic, ...]:
    """Every topic of this installation, in flow order."""
    return tuple(
        DesiredTopic(
            name=topic_name(settings.topic_prefix, spec.name),
            partitions=settings.partitions,
            replication_factor=settings.replication_factor,
            configs=_configs(spec.cleanup, spec.retention_ms, settings),
        )
        for spec in TOPICS
    )


def _configs(cleanup: str, retention_ms: int, settings: Settings) -> dict[str, str]:
    configs = {
        "cleanup.policy": cleanup,
        "retention.bytes": "-1",
        # Rank and accounting lean on when the broker saw a record, not on a client's clock.
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(settings.runtime.record_bytes_max + _RECORD_OVERHEAD_BYTES),
        # One replica of three may be down without a write being refused, none may be lost unnoticed.
        "min.insync.replicas": str(max(1, settings.replication_factor - 1)),
        "unclean.leader.election.enable": "false",
    }
    if cleanup == "compact":
        return configs | {
            "delete.retention.ms": str(_TOMBSTONE_KEPT_MS),
            "segment.ms": str(_STATE_SEGMENT_MS),
            "min.compaction.lag.ms": str(_STATE_COMPACTION_LAG_MS),
        }
    return configs | {"retention.ms": str(retention_ms)}


def diff(wanted: Iterable[DesiredTopic], actual: Mapping[str, ActualTopic]) -> list[Change]:
    """What is different, in the order of `wanted`; empty when nothing is."""
    return [change for topic in wanted for change in _differences(topic, actual.get(topic.name))]


def missing(settings: Settings, names: Iterable[str], there: Collection[str]) -> list[Change]:
    """Those of the topics `names` that are not among `there`, the names that a cluster has."""
    wanted = {topic_name(settings.topic_prefix, name) for name in names} - set(there)
    return diff([topic for topic in desired(settings) if topic.name in wanted], {})


def _differences(wanted: DesiredTopic, have: ActualTopic | None) -> list[Change]:
    if have is None:
        brief = f"{wanted.partitions} partitions, {_brief(wanted.configs)}"
        return [Change(topic=wanted.name, kind=ChangeKind.CREATE, what="topic", have=None, want=brief)]
    changes = [
        Change(topic=wanted.name, kind=ChangeKind.CONFIG, what=name, have=have.configs.get(name), want=value)
        for name, value in wanted.configs.items()
        if have.configs.get(name) != value
    ]
    if have.partitions != wanted.partitions:
        changes.append(
            Change(
                topic=wanted.name,
                kind=ChangeKind.PARTITIONS,
                what="partitions",
                have=str(have.partitions),
                want=str(wanted.partitions),
            )
        )
    return changes


def _brief(configs: Mapping[str, str]) -> str:
    kept = "compacted" if configs["cleanup.policy"] == "compact" else f"kept {_days(int(configs['retention.ms']))}"
    return f"{kept}, LogAppendTime"


def _days(milliseconds: int) -> str:
    return "for ever" if milliseconds < 0 else f"{milliseconds / 86_400_000:g} days"


class TopicAdmin:
    """The cluster's own word about its topics; an async context."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = AIOKafkaAdminClient(**kafka_client_options(settings.kafka))

    async def __aenter__(self) -> Self:
        try:
            await self._client.start()
        except (KafkaConnectionError, OSError) as error:
            await self._client.close()
            raise KafkaUnreachableError(
                f"no Kafka broker answers at {self._settings.kafka.bootstrap_servers} ({type(error).__name__});"
                " start one (`make kafka`) or set KAFKA_BOOTSTRAP_SERVERS"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def read(self, names: Iterable[str]) -> dict[str, ActualTopic]:
        """The topics among `names` that exist."""
        described = await self._client.describe_topics(sorted(names))
        partitions = {topic["topic"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}
        if not partitions:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in partitions]
        responses = await self._client.describe_configs(resources)
        return {
            name: ActualTopic(name=name, partitions=partitions[name], configs=every, own_configs=own)
            for name, every, own in _described_configs(responses)
        }

    async def brokers(self) -> int:
        """How many brokers the cluster has just now."""
        described = await self._client.describe_cluster()
        return len(described["brokers"])

    async def plan(self) -> list[Change]:
        """What `apply` would do, and what it could not."""
        wanted = desired(self._settings)
        return diff(wanted, await self.read(topic.name for topic in wanted))

    async def apply(self) -> list[Change]:
        """Create what is missing and set what differs; the changes made. Refuses first when a count is wrong."""
        wanted = {topic.name: topic for topic in desired(self._settings)}
        have = await self.read(wanted)
        changes = diff(wanted.values(), have)
        if not all(change.mendable for change in changes):
            raise TopicsMismatchError([change for change in changes if not change.mendable])
        await self._create([wanted[change.topic] for change in changes if change.kind is ChangeKind.CREATE])
        altered = {change.topic for change in changes if change.kind is ChangeKind.CONFIG}
        # AlterConfigs replaces everything set on a topic, so the operator's own settings are sent along.
        await self._alter({name: {**have[name].own_configs, **wanted[name].configs} for name in sorted(altered)})
        await self._until_as_declared()
        return changes

    async def verify(self) -> None:
        """What start-up calls: refuse to run on topics that are not as declared."""
        if changes := await self.plan():
            raise TopicsMismatchError(changes)

    async def delete(self, names: Iterable[str]) -> None:
        """Remove topics with all they hold; only tests and the demo's clean-up do so."""
        await self._client.delete_topics(sorted(names))

    async def _create(self, topics: Sequence[DesiredTopic]) -> None:
        if not topics:
            return
        response = await self._client.create_topics(
            [
                NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=dict(topic.configs))
                for topic in topics
            ]
        )
        for name, code, *note in response.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise for_code(code)(f"could not create topic {name}: {note[0] if note else ''}")

    async def _alter(self, configs: Mapping[str, Mapping[str, str]]) -> None:
        if not configs:
            return
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict(values)) for name, values in configs.items()]
        for response in await self._client.alter_configs(resources):
            for code, note, _kind, name in response.resources:
                if code:
                    raise for_code(code)(f"could not configure topic {name}: {note}")

    async def _until_as_declared(self) -> None:
        """A broker answers before every broker knows; wait, bounded, until the cluster says what we asked for."""
        deadline = monotonic_s() + _CREATED_WAIT_SECONDS
        while changes := await self.plan():
            if monotonic_s() > deadline:
                raise TopicsMismatchError(changes)
            await asyncio.sleep(_CREATED_LOOK_SECONDS)


def _described_configs(responses: Iterable[Any]) -> Iterable[tuple[str, dict[str, str], dict[str, str]]]:
    for response in responses:
        for code, note, _kind, name, entries in response.resources:
            if code:
                raise for_code(code)(f"could not read the settings of topic {name}: {note}")
            yield name, {entry[0]: entry[1] for entry in entries}, {e[0]: e[1] for e in entries if _is_own(e)}


#: DescribeConfigs: this value was set on the topic itself.
_SOURCE_TOPIC = 1


def _is_own(entry: Sequence[Any]) -> bool:
    # (name, value, read only, source, sensitive, synonyms); version 0 says `is default` instead of a source.
    return entry[3] is False if isinstance(entry[3], bool) else entry[3] == _SOURCE_TOPIC


async def verify(settings: Settings) -> None:
    """Start-up's question in one call: reachable, and every topic as declared?"""
    async with TopicAdmin(settings) as admin:
        await admin.verify()


def kafka_client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """The connection options every aiokafka client takes."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "request_timeout_ms": kafka.request_timeout_ms,
        "security_protocol": kafka.security_protocol,
    }
    if "SSL" in kafka.security_protocol.split("_"):
        options["ssl_context"] = create_ssl_context(
            cafile=_text(kafka.ssl_cafile), certfile=_text(kafka.ssl_certfile), keyfile=_text(kafka.ssl_keyfile)
        )
    if kafka.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.password(),
        }
    return options


def _text(path: object) -> str | None:
    return None if path is None else str(path)
