"""What a job's row says of its versions: which is in force, which were, which are tried out beside it.

Reading and rewriting the row, nothing else. What must not live here: what becomes of lives (`promoting`).

`Job.versions_json` lists the frozen versions in the order in which they were first applied. `Job.promotions_json` lists
what was promoted, the newest last; the number of a promotion is the second half of the rank of what is normalized under
it, so numbers only grow, also when a former version is promoted again. `Job.shadows_json` names the versions that may
not commit yet, with the share of live events each is asked about, too. A row of a release that knew no shadows lists no
promotions: there every version was promoted when it was applied, and its place in the list was its number.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Final

from batchmill.schemas.state import Job

__all__ = [
    "Promotion",
    "former_of",
    "is_rejected",
    "knows",
    "left_at_ms",
    "listed",
    "promoted",
    "promotion_of",
    "promotions_of",
    "shadow_run",
    "shadows_of",
    "tried_out",
    "was_promoted",
    "without_shadow",
]

#: rows whose lists are remembered
_ROWS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Promotion:
    """One version came into force."""

    version: str
    number: int
    at_ms: int
    command_id: str


def promotions_of(job: Job) -> tuple[Promotion, ...]:
    """What was promoted, the newest last."""
    return _promotions(job.promotions_json, job.versions_json)


def promotion_of(job: Job, version: str) -> int:
    """The number of the newest promotion of a version; KeyError for one that never was."""
    return _numbers(job.promotions_json, job.versions_json)[version]


def was_promoted(job: Job, version: str) -> bool:
    return version in _numbers(job.promotions_json, job.versions_json)


def left_at_ms(job: Job, version: str) -> int | None:
    """When another version took the place of one that was promoted; None where it is in force, or never was."""
    after: int | None = None
    for each in reversed(promotions_of(job)):
        if each.version == version:
            return after
        after = each.at_ms
    return None


def is_rejected(job: Job, version: str) -> bool:
    """Neither in force, now or once, nor tried out."""
    return version not in shadows_of(job) and not was_promoted(job, version)


def former_of(job: Job) -> str | None:
    """The version that was in force before the one that is."""
    others = [each.version for each in promotions_of(job) if each.version != job.version]
    return others[-1] if others else None


def shadows_of(job: Job) -> Mapping[str, float]:
    """Versions that are tried out, and the share of live events each is asked about."""
    return _shadows(job.shadows_json)


def knows(job: Job, version: str) -> bool:
    return version in _names(job.versions_json)


def shadow_run(job: str, version: str) -> str:
    """The run of live events that a version is tried out on."""
    return f"shadow:{job}:{version}"


def promoted(job: Job, version: str, *, at_ms: int, command_id: str) -> Job:
    """The row once `version` is in force, at a new number."""
    before = promotions_of(job)
    number = max((each.number for each in before), default=-1) + 1
    after = (*before, Promotion(version, number, at_ms, command_id))
    return replace(without_shadow(job, version), version=version, promotions_json=_json([asdict(p) for p in after]))


def listed(job: Job) -> Job:
    """The row with its promotions written down, also where a release that knew no shadows wrote it."""
    return replace(job, promotions_json=_json([asdict(each) for each in promotions_of(job)]))


def tried_out(job: Job, version: str, share: float) -> Job:
    """The row once `version` is a shadow."""
    return replace(job, shadows_json=_json({**shadows_of(job), version: share}))


def without_shadow(job: Job, version: str) -> Job:
    """The row once `version` is no shadow any more."""
    left = {name: share for name, share in shadows_of(job).items() if name != version}
    return replace(job, shadows_json=_json(left))


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@lru_cache(maxsize=_ROWS_MAX)
def _promotions(text: str, versions_json: str) -> tuple[Promotion, ...]:
    listed = tuple(Promotion(**each) for each in json.loads(text))
    return listed or tuple(Promotion(name, number, 0, "") for number, name in enumerate(json.loads(versions_json)))


@lru_cache(maxsize=_ROWS_MAX)
def _numbers(text: str, versions_json: str) -> Mapping[str, int]:
    return {each.version: each.number for each in _promotions(text, versions_json)}


@lru_cache(maxsize=_ROWS_MAX)
def _shadows(text: str) -> Mapping[str, float]:
    found: dict[str, float] = json.loads(text)
    return found


@lru_cache(maxsize=_ROWS_MAX)
def _names(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))
