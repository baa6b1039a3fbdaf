"""When a job pauses by itself because its answers fail, instead of turning its whole queue into dead letters.

A task watches the newest outcomes of each version in two windows, since they come from two places in no common order:

    asked     the provider answered, or the request failed for good
    judged    the answer may go on, or failed its checks

An outcome is bad if the fault is the job's or the provider's: a retry after a failed check, a dead letter, an answer
that a person is shown because it is no answer at all. What was filtered, superseded, cancelled, declined, refused by
the sink or broken by us says nothing of the version. Nor does what was never asked: it fails at once, while the good
answers are still on their way. Lives aside are not watched: a version that is only tried out must not stop the one in
force.

The windows live in memory: a guard of thumb, no ledger. They start anew with the process, and whenever the job is
applied, paused or resumed. What is at the provider when a job pauses still comes back and is judged; it is paid for.
"""

from collections import Counter, deque
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import orjson

from batchmill.schemas.jobs import BreakerSpec
from batchmill.schemas.reasons import Fault, Reason, info
from batchmill.schemas.state import Job, Life
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.orders import Order
from batchmill.streams.settling import pause_by_itself
from batchmill.streams.view import StateView

__all__ = ["PREFIX", "Breaker", "Outcome", "breaker_of", "outcome_of"]

#: how the pause reason of a tripped breaker begins
PREFIX: Final = "breaker: "

#: statuses that a life has just after an outcome
_AFTER: Final = frozenset(
    {
        Status.SUCCEEDED_UNVALIDATED,
        Status.VALIDATED,
        Status.NEEDS_REVIEW,
        Status.FAILED_RETRYABLE,
        Status.FAILED_TERMINAL,
    }
)
_FAULTS: Final = frozenset({Fault.JOB, Fault.PROVIDER})
#: reasons by which an answer in review is none: a person can only write it anew
_NO_ANSWER: Final = frozenset({Reason.NOT_JSON, Reason.SCHEMA_MISMATCH, Reason.TRUNCATED, Reason.MODEL_REFUSAL})
#: what fails at each step, as people call it
_CALLED: Final = {"asked": "requests", "judged": "answers"}
#: windows of one task; the oldest leaves first
_WINDOWS_MAX: Final = 256
#: job rows whose breaker is remembered
_SPECS_MAX: Final = 256


class Outcome(NamedTuple):
    """What one step of a life says of its version."""

    step: Literal["asked", "judged"]
    failed_for: Reason | None  #: None: it went well


def outcome_of(before: Life | None, life: Life) -> Outcome | None:
    """What it says that `before` has become `life`; None: nothing."""
    if before is None:
        return None
    if before.status is Status.PROCESSING:
        return _asked(life)
    if before.status is not Status.SUCCEEDED_UNVALIDATED or before.route != life.route:
        return None  # the cascade goes on: that answer was not the version's last word
    return _judged(life)


def _asked(life: Life) -> Outcome | None:
    if life.status is Status.SUCCEEDED_UNVALIDATED:
        return Outcome("asked", None)
    return _failed("asked", life.reason) if life.status is Status.FAILED_TERMINAL else None


def _judged(life: Life) -> Outcome | None:
    match life.status:
        case Status.VALIDATED:
            return Outcome("judged", None)
        case Status.NEEDS_REVIEW:
            return Outcome("judged", life.reason if life.reason in _NO_ANSWER else None)
        case Status.FAILED_RETRYABLE | Status.FAILED_TERMINAL:
            return _failed("judged", life.reason)
        case _:
            return None


def _failed(step: Literal["asked", "judged"], reason: Reason | None) -> Outcome | None:
    if reason is None or info(reason).excluded or info(reason).fault not in _FAULTS:
        return None
    return Outcome(step, reason)


@lru_cache(maxsize=_SPECS_MAX)
def _breaker(versions_json: str, version: str) -> BreakerSpec | None:
    declared = orjson.loads(versions_json).get(version, {}).get("breaker", {})
    return None if declared is None else BreakerSpec(**declared)


def breaker_of(job: Job) -> BreakerSpec | None:
    """The breaker of the job as it is applied now: it watches every version that still runs."""
    return _breaker(job.versions_json, job.version)


class Breaker:
    """The windows of one task."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str, str], _Window | None] = {}

    def seen(self, view: StateView, life: Life) -> list[Order]:
        """To be told of each life that is about to be put, while the view still has the row before."""
        if life.aside or life.status not in _AFTER:
            return []
        found = outcome_of(read.life(view, life.request_id), life)
        window = None if found is None else self._window(view, life, found.step)
        if found is None or window is None:
            return []
        why = window.add(found.failed_for)
        if why is None:
            return []
        return pause_by_itself(view, life.job, f"{PREFIX}version {life.version}, {why}", life.updated_at_ms)

    def heard(self, view: StateView, row: Job) -> None:
        """To be told of each job row that is about to be put: a pause, a resume, an `apply` start its windows anew."""
        before = read.job(view, row.job)
        if before is not None and before.paused == row.paused and before.versions_json == row.versions_json:
            return
        for key in [key for key in self._windows if key[0] == row.job]:
            del self._windows[key]

    def _window(self, view: StateView, life: Life, step: str) -> "_Window | None":
        key = (life.job, life.version, step)
        if key not in self._windows:
            job = read.job(view, life.job)
            spec = None if job is None else breaker_of(job)
            if len(self._windows) >= _WINDOWS_MAX:
                del self._windows[next(iter(self._windows))]
            self._windows[key] = None if spec is None else _Window(spec, _CALLED[step])
        return self._windows[key]


class _Window:
    """The newest outcomes of one version at one step: why each failed, None where it did not."""

    def __init__(self, spec: BreakerSpec, called: str) -> None:
        self._spec = spec
        self._called = called
        self._newest: deque[Reason | None] = deque(maxlen=spec.window)
        self._failures = 0  #: among the newest
        self._in_a_row = 0

    def add(self, reason: Reason | None) -> str | None:
        """Take in one outcome; says why the job must stop, if it must."""
        if len(self._newest) == self._newest.maxlen and self._newest[0] is not None:
            self._failures -= 1
        self._newest.append(reason)
        if reason is None:
            self._in_a_row = 0
            return None
        self._failures += 1
        self._in_a_row += 1
        return self._broken()

    def _broken(self) -> str | None:
        spec = self._spec
        if self._in_a_row >= spec.consecutive:
            return f"{self._in_a_row} {self._called} in a row failed, most for {self._commonest()}"
        if len(self._newest) == spec.window and self._failures >= spec.ratio * spec.window:
            return f"{self._failures} of the last {spec.window} {self._called} failed, most for {self._commonest()}"
        return None

    def _commonest(self) -> Reason:
        return Counter(reason for reason in self._newest if reason is not None).most_common(1)[0][0]
