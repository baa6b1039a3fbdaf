"""How fast and how far writes of a job may go downstream before an operator says `go`.

What lives here: a task's part of a limit, the counts behind it, and the rate. What must not: which life is written next
(`committing`), or a clock. Counts are kept for each version in one meta row of the task, and put once per cut. Nobody
coordinates the tasks: each has its equal part of a count, so all of them together never exceed it. What does not divide
evenly goes to some of the tasks, and to the next ones after each `go`: with fewer commits allowed than there are tasks,
the others hold from the start.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from batchmill.schemas.jobs import CommitSpec
from batchmill.schemas.records import Committed
from batchmill.schemas.state import Job, Meta
from batchmill.streams import view as read
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.view import StateView

__all__ = [
    "COMMAND",
    "COMMIT_ROWS",
    "Bucket",
    "Counts",
    "HeldBy",
    "Room",
    "Share",
    "allowance",
    "counted",
    "counts_of",
    "fault",
    "go",
    "marked",
    "room",
    "seconds_to_token",
]

COMMAND: Final = "go"
#: meta rows of what was committed under a version, and whether more may be
COMMIT_ROWS: Final = "commits/"


class HeldBy(StrEnum):
    """Why an operator has to say `go`."""

    COUNT = "count"  #: as many as were allowed were committed
    CHANGE = "change"  #: too many of them replaced another value


@dataclass(frozen=True, slots=True)
class Share:
    """One task among all: its part of whatever all of them share."""

    partition: int
    tasks: int

    def part(self, whole: int, turn: int = 0) -> int:
        """Whole numbers that add up to `whole`; each turn gives the odd ones to the next tasks."""
        each, odd = divmod(whole, self.tasks)
        return each + ((self.partition - turn * odd) % self.tasks < odd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What this task committed of one version since the last `go`."""

    job: str
    version: str
    commits: int = 0
    changed: int = 0  #: of these, replaced another value
    turn: int = 0  #: how often an operator said `go`
    more: int | None = None  #: commits that the last `go` allowed all tasks together; None: as the job says
    held: HeldBy | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How many writes may be begun now; None: any number. `held`: none, until an operator speaks."""

    left: int | None
    held: HeldBy | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """Writes saved up at a moment of a monotonic clock; at most a second's worth."""

    tokens: float
    at_s: float


# -- how far -----------------------------------------------------------------------------------------------------------


def counts_of(view: StateView, job: str, version: str) -> Counts:
    row = read.meta(view, _name(job, version))
    if row is None:
        return Counts(job=job, version=version)
    told = json.loads(row.value_json)
    held = None if told["held"] is None else HeldBy(told["held"])
    return Counts(job=job, version=version, **{**told, "held": held})


def room(limit: CommitSpec, counts: Counts, share: Share, doubtful: int) -> Room:
    """What is left of the task's parts. `doubtful` writes may turn out to be commits, and to change something."""
    lefts: list[int] = []
    most = limit.stop_after if counts.more is None else counts.more
    if most is not None:
        lefts.append(share.part(most, counts.turn) - counts.commits)
        if lefts[-1] <= 0:
            return Room(0, HeldBy.COUNT)
    if limit.stop_changed is not None:
        lefts.append(_until_changed(limit.stop_changed, counts, max(1, share.part(limit.changed_minimum))))
        if lefts[-1] <= 0:
            return Room(0, HeldBy.CHANGE)
    return Room(max(0, min(lefts) - doubtful)) if lefts else Room(None)


def _until_changed(most: float, counts: Counts, minimum: int) -> int:
    """Commits until the share may be exceeded, if each of them changes something; the one that does is the last."""
    if counts.commits < minimum:
        return minimum - counts.commits
    spare = most * counts.commits - counts.changed
    if spare < 0:
        return 0
    # 2**31: whatever all of it changes, the share cannot exceed the whole
    return 2**31 if most >= 1 else math.floor(spare / (1 - most)) + 1


def marked(counts: Counts, held: HeldBy | None) -> list[Order]:
    """Say that commits of the version are held, or are not any more."""
    return [] if counts.held is held else [_put(replace(counts, held=held))]


def counted(view: StateView, done: Iterable[tuple[Committed, bool]]) -> list[Order]:
    """Count the commits of a cut, each with whether it replaced another value."""
    commits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for record, changed in done:
        commits[record.job, record.version].append(changed)
    orders: list[Order] = []
    for (job, version), each in commits.items():
        before = counts_of(view, job, version)
        orders.append(_put(replace(before, commits=before.commits + len(each), changed=before.changed + sum(each))))
    return orders


# -- the command -------------------------------------------------------------------------------------------------------


def fault(body: dict[str, Any]) -> str | None:
    """What is wrong with the body of a `go`."""
    version, more = body.get("version"), body.get("more")
    if version is not None and not isinstance(version, str):
        return "`version` is expected to be a text"
    if more is not None and (type(more) is not int or more < 1):
        return "`more` is expected to be a whole number above 0"
    return None


def go(view: StateView, job: Job, body: dict[str, Any]) -> list[Order]:
    """Open the next allowance, of one version or of all that the job has: the counts begin anew."""
    known = json.loads(job.versions_json)
    named = body.get("version")
    versions = [version for version in known if named in {None, version}]
    opened = [_opened(counts_of(view, job.job, version), body.get("more")) for version in versions]
    return [*(_put(counts) for counts in opened), Wake("commit")]


def _opened(counts: Counts, more: int | None) -> Counts:
    return replace(counts, commits=0, changed=0, turn=counts.turn + 1, more=more, held=None)


def _put(counts: Counts) -> Put:
    told = {
        "commits": counts.commits,
        "changed": counts.changed,
        "turn": counts.turn,
        "more": counts.more,
        "held": counts.held,
    }
    return Put(Meta(name=_name(counts.job, counts.version), value_json=json.dumps(told, separators=(",", ":"))))


def _name(job: str, version: str) -> str:
    return f"{COMMIT_ROWS}{job}/{version}"


# -- how fast ----------------------------------------------------------------------------------------------------------


def allowance(bucket: Bucket | None, now_s: float, per_second: float) -> Bucket:
    """The bucket as it is now. It begins empty, so that a worker that keeps starting is no faster for that."""
    if bucket is None:
        return Bucket(0.0, now_s)
    grown = bucket.tokens + max(0.0, now_s - bucket.at_s) * per_second
    return Bucket(min(max(1.0, per_second), grown), now_s)


def seconds_to_token(bucket: Bucket, per_second: float) -> float:
    # A task's part of a rate may be too small to be a number.
    return math.inf if per_second == 0 else max(0.0, (1 - bucket.tokens) / per_second)
