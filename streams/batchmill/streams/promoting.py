"""What becomes of lives when a version takes the place of another one, or never will.

The first version of a job is promoted when it is applied. Every later one begins as a *shadow*: its lives stand aside.
A promotion makes a version the one that new events are normalized under, and brings forward its lives of raw events
that another version has answered for until then, in cuts; what has an answer is written at the new promotion number.
To promote a former version again is a rollback: what it had written is written again.

A life comes forward only for the very raw event that its source's life in front answers for: an answer to an older
event is no answer to the newest, and a benchmark record is nobody's event. What failed under the new version stays
aside: the former version's output is better than none. A fresh answer that never was in front is a measurement, and
stays aside. Sources without a life of the new version stay as they are; they are stale, and a replay gets them asked.

A shadow that is rejected ends: what is in flight when it settles, everything else in the sweep.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from batchmill.schemas.records import Control
from batchmill.schemas.state import Job, Life, Meta, Source
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.chunking import CUT_MEMBERS
from batchmill.streams.facts import BroughtForward, NotPromoted, SetAside, Superseded
from batchmill.streams.index import PROMOTION_ROWS
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.settling import ENDED_AT_ONCE, moved, obituary
from batchmill.streams.versioning import knows, promoted, promotion_of, shadows_of, without_shadow
from batchmill.streams.view import StateView

__all__ = [
    "COMMANDS",
    "PROMOTE",
    "REJECT",
    "Sweep",
    "answers_for",
    "bring_forward",
    "carried_on",
    "come_forward",
    "fault",
    "next_cut",
    "promote",
    "reject",
    "set_aside",
    "sweeps",
]

_STAGE: Final = "controller"
PROMOTE: Final = "promote"
REJECT: Final = "reject"
COMMANDS: Final = (PROMOTE, REJECT)
#: sweeps of one task that are looked through: one per job, and one per rejected version
_SWEEPS_MAX: Final = 10_000
#: lives aside of one version that are asked in the same place: of one source, or of one content
_ALIKE_MAX: Final = 100
#: of a request id, that say where it is asked
_PLACE_CHARS: Final = 16
#: what a shadow that is rejected may be ended in; other lives end when they settle
_ENDED: Final = ENDED_AT_ONCE | {Status.VALIDATED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """How far a task has got with a promotion or a rejection."""

    kind: Literal["promote", "reject"]
    job: str
    version: str
    number: int  #: of the promotion
    cursor: str | None = None  #: index key of the last life that was looked at
    done: int = 0  #: came forward, or ended
    failed: int = 0  #: stay aside: the version has no answer
    elsewhere: int = 0  #: stay aside: not what their source's newest event asks
    finished: bool = False

    @property
    def name(self) -> str:
        """One promotion at a time: a newer one takes the older one's place."""
        return f"{PROMOTION_ROWS}{self.job}" + ("" if self.kind == PROMOTE else f"/{self.version}")

    @property
    def row(self) -> Meta:
        return Meta(name=self.name, value_json=json.dumps(asdict(self), separators=(",", ":")))


# -- the commands ------------------------------------------------------------------------------------------------------


def fault(job: Job | None, command: Control) -> str | None:
    """Why such a command cannot be obeyed, or None."""
    if job is None:
        return "no such job is applied"
    if command.version is None or not knows(job, command.version):
        return "it names a version that was not applied"
    if command.command == REJECT and command.version == job.version:
        return "the version is in force: promote another one first"
    return None


def promote(job: Job, command: Control, now_ms: int) -> list[Order]:
    """Put a version in force; once more, if it is: then its lives that are aside come forward, too."""
    assert command.version is not None, "a promotion names its version"
    row = job
    if job.version != command.version:
        row = promoted(job, command.version, at_ms=command.issued_at_ms, command_id=command.command_id)
    row = replace(row, last_command_id=command.command_id, updated_at_ms=now_ms)
    number = promotion_of(row, command.version)
    sweep = Sweep(kind="promote", job=job.job, version=command.version, number=number)
    return [Put(row), Put(sweep.row), Wake("promote"), Wake("arrivals")]


def reject(job: Job, command: Control, now_ms: int) -> list[Order]:
    """A shadow is not asked any more; what it has is ended as not promoted."""
    assert command.version is not None, "a rejection names its version"
    row = replace(without_shadow(job, command.version), last_command_id=command.command_id, updated_at_ms=now_ms)
    sweep = Sweep(kind="reject", job=job.job, version=command.version, number=-1)
    return [Put(row), Put(sweep.row), Wake("promote")]


# -- the sweep ---------------------------------------------------------------------------------------------------------


def sweeps(view: StateView) -> list[Sweep]:
    """Those that are under way."""
    rows = [row for _, row in view.scan("promotion", PROMOTION_ROWS, limit=_SWEEPS_MAX) if isinstance(row, Meta)]
    found = [Sweep(**json.loads(row.value_json)) for row in rows]
    return [each for each in found if not each.finished]


def next_cut(view: StateView, sweep: Sweep) -> tuple[list[Life], Sweep]:
    """Lives to look at, one after the other, each carried out before the next; and the sweep once that is done."""
    found = view.scan("aside", f"{sweep.job}/{sweep.version}/", after=sweep.cursor, limit=CUT_MEMBERS)
    lives = [row for _, row in found if isinstance(row, Life)]
    if len(found) < CUT_MEMBERS:
        return lives, replace(sweep, finished=True)
    return lives, replace(sweep, cursor=found[-1][0])


def carried_on(view: StateView, sweep: Sweep, outcomes: Sequence[str]) -> list[Order]:
    """The row after a cut; none if another command has taken its place meanwhile."""
    row = read.meta(view, sweep.name)
    known = None if row is None else Sweep(**json.loads(row.value_json))
    if known is None or (known.version, known.number) != (sweep.version, sweep.number):
        return []
    counted = {name: getattr(sweep, name) + outcomes.count(name) for name in ("done", "failed", "elsewhere")}
    return [Put(replace(sweep, **counted).row)]


def come_forward(view: StateView, sweep: Sweep, life: Life, now_ms: int) -> tuple[str, list[Order]]:
    """What a sweep makes of one life: an outcome to count, and orders."""
    if sweep.kind == REJECT:
        return _ended(view, sweep, life, now_ms)
    source = read.source(view, life.job, life.source_id)
    if source is None or not answers_for(view, life, source):
        return "elsewhere", []
    if life.status is Status.FAILED_TERMINAL:
        return "failed", []
    if _is_followed(view, life):
        return "elsewhere", []
    return "done", bring_forward(view, life, source, sweep.number, now_ms)


def answers_for(view: StateView, life: Life, source: Source) -> bool:
    """Whether a life aside is about the very event that another version's life answers for in front of it."""
    front = read.life(view, source.request_id)
    is_measurement = life.epoch > 0 and life.status is not Status.COMMITTED
    same_event = front is not None and front.origin == life.origin and front.version != life.version
    return same_event and not is_measurement


def _is_followed(view: StateView, life: Life) -> bool:
    """Whether its version was asked afresh about the same event, and wrote that: the latter comes back."""
    alike = f"{life.job}/{life.version}/{life.request_id[:_PLACE_CHARS]}"
    found = (row for _, row in view.scan("aside", alike, limit=_ALIKE_MAX) if isinstance(row, Life))
    return any(
        each.origin == life.origin and each.epoch > life.epoch and each.status is Status.COMMITTED for each in found
    )


def _ended(view: StateView, sweep: Sweep, life: Life, now_ms: int) -> tuple[str, list[Order]]:
    job = read.job(view, sweep.job)
    applied_again = job is not None and sweep.version in {job.version, *shadows_of(job)}
    if applied_again or life.chunk_id is not None or life.status not in _ENDED or life.commit_id is not None:
        return "elsewhere", []
    ended = moved(life, NotPromoted(), now_ms)
    return "done", [Put(ended), obituary(ended, stage=_STAGE, error="", now_ms=now_ms)]


# -- who stands in front -----------------------------------------------------------------------------------------------


def bring_forward(view: StateView, life: Life, source: Source, promotion: int, now_ms: int) -> list[Order]:
    """Let `life` answer for its source's newest event at this promotion; the life that did so until now stands aside.

    What the sink holds already is not written again.
    """
    front = read.life(view, source.request_id)
    orders: list[Order] = []
    if front is not None and front.request_id != life.request_id:
        orders += set_aside(front, by=life.request_id, now_ms=now_ms)
    if life.status is Status.COMMITTED and source.committed_request_id == life.request_id:
        ahead = evolve(life, aside=False, updated_at_ms=now_ms)
    else:
        ahead = moved(life, BroughtForward(seq=source.seq, promotion=promotion), now_ms)
    newest = replace(source, request_id=life.request_id, updated_at_ms=now_ms)
    return [*orders, Put(ahead), Put(newest), Wake("commit")]


def set_aside(front: Life, *, by: str, now_ms: int) -> list[Order]:
    """Let a life stand aside for the life `by` of the same raw event; what has nothing in flight ends at once."""
    aside = moved(front, SetAside(), now_ms)
    if aside.chunk_id is not None or aside.status not in ENDED_AT_ONCE:
        return [Put(aside)]
    ended: Any = moved(aside, Superseded(), now_ms)
    return [Put(ended), obituary(ended, stage=_STAGE, error="", now_ms=now_ms, of_request_id=by)]
