"""How far the tasks are with a promotion or a rejection, and what one would come to, as the read model has it.

What must not live here: whether a version may be promoted (`streams.gating`), and doing it (`streams.promoting`).
"""

import json
from dataclasses import dataclass
from typing import Final

from batchmill.agents.projector.reading import View
from batchmill.schemas.status import Status
from batchmill.streams.index import PROMOTION_ROWS

__all__ = ["Stakes", "Swept", "promotion_stakes", "swept"]

#: statuses of a life aside that is on its way
_UNDER_WAY: Final = (Status.QUEUED, Status.PROCESSING, Status.SUCCEEDED_UNVALIDATED, Status.FAILED_RETRYABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """What a promotion would bring forward; answers of older events and benchmark records among them stay aside."""

    validated: int  #: held: written at once
    committed: int  #: of a former version: written again
    in_review: int  #: come forward, and wait for a person
    under_way: int  #: come forward, and are written when they are answered
    failed: int  #: stay aside
    other_in_front: int  #: records of the job that another version answers for now


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What the tasks have done of it."""

    done: int  #: lives that came forward, or ended
    failed: int  #: stay aside: the version has no answer
    elsewhere: int  #: stay aside: not what their source's newest event asks
    finished: int  #: tasks that are through
    tasks: int


def promotion_stakes(view: View, job: str, version: str) -> Stakes:
    """Counted over the lives of `version` that stand aside."""
    rows = view.rows(
        "SELECT status, COUNT(*) AS n FROM lives WHERE job = ? AND version = ? AND aside GROUP BY 1", (job, version)
    )
    counts = {Status(row["status"]): int(row["n"]) for row in rows}
    others = view.number(
        "SELECT COUNT(*) FROM lives WHERE job = ? AND version <> ? AND NOT aside AND status = ?",
        (job, version, Status.COMMITTED),
    )
    return Stakes(
        validated=counts.get(Status.VALIDATED, 0),
        committed=counts.get(Status.COMMITTED, 0),
        in_review=counts.get(Status.NEEDS_REVIEW, 0),
        under_way=sum(counts.get(status, 0) for status in _UNDER_WAY),
        failed=counts.get(Status.FAILED_TERMINAL, 0),
        other_in_front=others,
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
