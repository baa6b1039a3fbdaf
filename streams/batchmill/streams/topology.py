"""The flow as one table: which topics there are, who writes and reads them, and the stages in flow order.

Provisioning, start-up checks, the picture in the README and the reference page are generated from here; nothing else
names a topic. A topic's full name is `<prefix>.<name>.v1`; all of them have the same number of partitions, because a
partition number is a task.
"""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["STAGES", "TOPICS", "Cleanup", "KeyKind", "Stage", "Topic", "mermaid", "stage", "topic", "topic_name"]

Cleanup = Literal["delete", "compact"]
KeyKind = Literal["source id", "request id", "request id or source key", "partition", "entity"]

_DAY_MS: Final = 86_400_000
_FOR_EVER_MS: Final = -1
_RAW_MS: Final = 30 * _DAY_MS  #: the replay horizon
_WAIT_MS: Final = 38 * _DAY_MS  #: the longest wait a life may have, and a quarter more
_ANSWER_MS: Final = 90 * _DAY_MS
_LETTER_MS: Final = 90 * _DAY_MS

#: a version of the wire format that old readers cannot read gets a new suffix
_SUFFIX: Final = "v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic, as it must be on the broker."""

    name: str
    key: KeyKind
    says: str  #: what one record means
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    agent: str | None  #: the stage whose Faust agent consumes it
    retention_ms: int  #: -1 = for ever
    cleanup: Cleanup = "delete"
    timestamp_type: Literal["LogAppendTime"] = "LogAppendTime"
    #: every flow topic has one partition per task
    partitions: Literal["tasks"] = "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One agent: it takes from `takes` and gives to `gives`."""

    name: str
    takes: str
    gives: str | None  #: None: it only changes task state
    says: str


STAGES: tuple[Stage, ...] = (
    Stage(name="normalizer", takes="raw", gives="normalized", says="reads an event strictly, names the request"),
    Stage(name="submitter", takes="normalized", gives="submitted", says="queues, seals and sends batches"),
    Stage(name="collector", takes="submitted", gives="results", says="polls, downloads, gives each member one outcome"),
    Stage(name="validator", takes="results", gives="validated", says="judges each answer"),
    Stage(name="reviewer", takes="decisions", gives="validated", says="carries out what a person decided"),
    Stage(name="committer", takes="validated", gives="committed", says="writes downstream if the rank is newer"),
    Stage(name="controller", takes="control", gives=None, says="applies, pauses, resumes, cancels, approves, redrives"),
)

_ANY_STAGE: Final = ("normalizer", "submitter", "collector", "validator", "reviewer", "committer", "controller")

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="raw",
        key="source id",
        says="an upstream event for a job",
        written_by=("upstream", "ingest", "validator", "committer"),
        read_by=("normalizer", "projector"),
        agent="normalizer",
        retention_ms=_RAW_MS,
    ),
    Topic(
        name="normalized",
        key="request id",
        says="a work item: input, frozen version, rank, write target",
        written_by=("normalizer",),
        read_by=("submitter", "projector"),
        agent="submitter",
        retention_ms=_WAIT_MS,
    ),
    Topic(
        name="submitted",
        key="request id",
        says="sent as line k of chunk c, attempt n",
        written_by=("submitter",),
        read_by=("collector", "projector"),
        agent="collector",
        retention_ms=_WAIT_MS,
    ),
    Topic(
        name="results",
        key="request id",
        says="what came back for one attempt",
        written_by=("collector", "submitter"),
        read_by=("validator", "projector"),
        agent="validator",
        retention_ms=_ANSWER_MS,
    ),
    Topic(
        name="validated",
        key="request id",
        says="the judgement on one answer",
        written_by=("validator", "reviewer"),
        read_by=("committer", "projector"),
        agent="committer",
        retention_ms=_ANSWER_MS,
    ),
    Topic(
        name="committed",
        key="request id",
        says="written downstream, or taken back",
        written_by=("committer",),
        read_by=("downstream", "projector"),
        agent=None,
        retention_ms=_FOR_EVER_MS,
    ),
    Topic(
        name="dead-letter",
        key="request id or source key",
        says="who failed, where, why, what it cost, the original",
        written_by=_ANY_STAGE,
        read_by=("controller", "projector"),
        agent=None,
        retention_ms=_LETTER_MS,
    ),
    Topic(
        name="excluded",
        key="request id or source key",
        says="accounted for, not processed: filtered, duplicate, superseded, cancelled",
        written_by=_ANY_STAGE,
        read_by=("projector",),
        agent=None,
        retention_ms=_LETTER_MS,
    ),
    Topic(
        name="decisions",
        key="request id",
        says="what a person decided about one answer",
        written_by=("command line", "api"),
        read_by=("reviewer", "projector"),
        agent="reviewer",
        retention_ms=_FOR_EVER_MS,
    ),
    Topic(
        name="control",
        key="partition",
        says="an operator's command, one copy per partition; what the overseer hands to one task",
        written_by=("command line", "api", "overseer"),
        read_by=("controller", "projector"),
        agent="controller",
        retention_ms=_FOR_EVER_MS,
    ),
    Topic(
        name="state",
        key="entity",
        says="one row of one task's state",
        written_by=("task", "overseer"),
        read_by=("task", "overseer", "projector"),
        agent=None,
        retention_ms=_FOR_EVER_MS,
        cleanup="compact",
    ),
)

_BY_NAME: Final = {each.name: each for each in TOPICS}
_STAGE_BY_NAME: Final = {each.name: each for each in STAGES}


def topic(name: str) -> Topic:
    """The declaration of a topic by its short name; KeyError for a name that is none."""
    return _BY_NAME[name]


def stage(name: str) -> Stage:
    return _STAGE_BY_NAME[name]


def topic_name(prefix: str, name: str) -> str:
    """What the broker calls topic `name`."""
    return f"{prefix}.{_BY_NAME[name].name}.{_SUFFIX}"


def mermaid() -> str:
    """The flow as a Mermaid picture: topics are rounded, stages are boxes, the straight way is thick."""
    lines = ["flowchart LR"]
    lines += [f'    {_node(each.name)}(["{each.name}"])' for each in TOPICS]
    lines += [f'    {each.name}["{each.name}"]' for each in STAGES]
    for each in STAGES:
        lines.append(f"    {_node(each.takes)} ==> {each.name}")
        if each.gives is not None:
            lines.append(f"    {each.name} ==> {_node(each.gives)}")
    lines += [f"    {name} -.-> {_node('dead-letter')} & excluded" for name in _ANY_STAGE if name != "controller"]
    lines.append("    controller -.-> state")
    return "\n".join(lines) + "\n"


def _node(name: str) -> str:
    """A topic's node is not called as a stage is; Mermaid takes no hyphen in an id."""
    return name.replace("-", "_")
