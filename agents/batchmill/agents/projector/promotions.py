"""How far the tasks are with a promotion or a rejection, and what one would come to, as the read model has it.

What must not live here: whether a version may be promoted (`streams.gating`), and doing it (`streams.promoting`).
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

import json
from dataclasses import dataclass
from typing import Final

from batchmill.agents.projector.reading import View
from batchmill.schemas.status import Status
from batchmill.streams.index import PROMOTION_ROWS

__all__ = ["Stakes", "Swept", "promotion_stakes", "swept"]

#: statuses of a life aside that is on its way
_UNDER_WAY: Final = (Status.QUEUED, Status.PROCESSING, Status.SUCCEEDED_UNVALIDATED, Status.FAILED_RETRYABLE)


#: a life aside and the one in front of it, as `streams.promoting.answers_for` has it: of the newest event of the source
_BOTH: Final = """lives f JOIN sources s ON s.job = f.job AND s.source_id = f.source_id AND s.request_id = f.request_id
  {join} JOIN lives l ON l.job = f.job AND l.source_id = f.source_id AND l.version = :version AND l.aside
    AND l.origin_generation = f.origin_generation AND l.origin_partition = f.origin_partition
    AND l.origin_offset = f.origin_offset AND (l.epoch = 0 OR l.status = :committed)
  WHERE f.job = :job AND f.version <> :version"""
_COMING = f"SELECT l.status, COUNT(*) AS n FROM {_BOTH.format(join='')} GROUP BY 1"
_STALE = f"""SELECT COUNT(*) FROM {_BOTH.format(join="LEFT")}
  AND f.status = :committed AND (l.request_id IS NULL OR l.status = :failed)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """What a promotion would bring forward, of the newest events of their sources; never benchmark records."""

    validated: int  #: held: written at once
    committed: int  #: of a former version: written again
    in_review: int  #: come forward, and wait for a person
    under_way: int  #: come forward, and are written when they are answered
    failed: int  #: stay aside
    stale: int  #: committed records that another version goes on answering for, until a replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What the tasks have done of it."""

    done: int  #: lives that came forward, or ended
    failed: int  #: stay aside: the version has no answer
    elsewhere: int  #: stay aside: not what their source's newest event asks
    finished: int  #: tasks that are through
    tasks: int


def promotion_stakes(view: View, job: str, version: str) -> Stakes:
    """Counted over the newest event of each source, and what `version` has for it."""
    values = {
        "job": job,
        "version": version,
        "committed": Status.COMMITTED.value,
        "failed": Status.FAILED_TERMINAL.value,
    }
    counts = {Status(row["status"]): int(row["n"]) for row in view.rows(_COMING, values)}
    return Stakes(
        validated=counts.get(Status.VALIDATED, 0),
        committed=counts.get(Status.COMMITTED, 0),
        in_review=counts.get(Status.NEEDS_REVIEW, 0),
        under_way=sum(counts.get(status, 0) for status in _UNDER_WAY),
        failed=counts.get(Status.FAILED_TERMINAL, 0),
        stale=view.number(_STALE, values),
    )


def swept(view: View, job: str, version: str, *, rejected: bool = False) -> Swept:
    """The newest promotion of the job, or the rejection of `version`, over all tasks that know of it."""
    name = f"{PROMOTION_ROWS}{job}" + (f"/{version}" if rejected else "")
    rows = [json.loads(row["value_json"]) for row in view.rows("SELECT value_json FROM meta WHERE name = ?", (name,))]
    ours = [row for row in rows if row["version"] == version]
    return Swept(
        done=sum(row["done"] for row in ours),
        failed=sum(row["failed"] for row in ours),
        elsewhere=sum(row["elsewhere"] for row in ours),
        finished=sum(row["finished"] for row in ours),
        tasks=len(ours),
    )
