"""Who asks a question, and who waits for the answer: a question is paid for once, however many records have it.

What lives here: whom a queued life waits for, and what becomes of it when that one has its answer, or ends without.
What must not: how a stored answer becomes a life's own (`queueing.from_store`).

Of all lives of a task that have the same question (their full ask keys are equal) one *asks*; the others *follow* it:
they are queued, `Life.follows` names it, and nothing seals them. An asker never waits for anybody, and a follower is
never followed, so there is no circle. A follower is a life like any other: it is cancelled, overtaken and redriven as
every queued one is, and is judged under its own version.

    the question has a stored answer                     it is read again, at no cost
    the one it follows is still on its way, or retried   it waits
    that one ended without an answer worth keeping       the first follower asks, the others follow it

An answer that its own version refused is no answer for others of that version as long as its life asks again; whoever
has had an answer refused does not take the same one twice.

A *near* follower has another question, about an input that is as good as the same. It is answered by a copy of the
other one's answer, which is marked; it goes on naming that one (`follows`), so nobody ever follows it or takes its
answer. If the other ends without an answer it is like a life that has just come.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from batchmill.schemas.reasons import info
from batchmill.schemas.state import Answer, Life
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.index import ASKING
from batchmill.streams.lifecycle import evolve
from batchmill.streams.likeness import alike, bands, similarity
from batchmill.streams.orders import Delete, Effect, Order, Put, Wake
from batchmill.streams.view import StateView

__all__ = [
    "FOLLOWERS_MAX",
    "LEADERS_MAX",
    "Askers",
    "Walk",
    "answer_for",
    "asked_after_all",
    "effect_of",
    "likeness_to",
    "walk",
]

#: lives that are followed and looked at in one step of the walk
LEADERS_MAX: Final = 250
#: followers that one step sets going
FOLLOWERS_MAX: Final = 1_000
#: lives of one band that a new one is compared with
_COMPARED_MAX: Final = 8
_LAST: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Walk:
    """One step through the lives that are followed."""

    orders: list[Order]
    after: str | None  #: where the next step begins; None: it has come round


class Askers:
    """Who asks what in one decision: what the task's rows say, and what the decision has said since."""

    def __init__(self, view: StateView, *, but: Iterable[Order] = ()) -> None:
        """`but`: orders that go with the decision; a life that ends by one of them asks nothing any more."""
        self._view = view
        self._said: dict[str, str] = {}
        lives = [order.row for order in but if isinstance(order, Put) and isinstance(order.row, Life)]
        self._ended = {life.request_id for life in lives if not _asks(life)}

    def come(self, life: Life) -> Life:
        """A life that nobody was asked about yet: as `joined`, or on the way of one that is nearly the same."""
        joined = self.joined(life)
        near = self._nearest(life) if _asks(joined) and joined.result_offset is None else None
        if near is None:
            return joined
        del self._said[life.ask_key]
        answer = None if _asks(near) else read.stored_answer(self._view, near.ask_key)
        return evolve(life, result_offset=None if answer is None else answer.result_offset, follows=near.request_id)

    def joined(self, life: Life, *, failed_too: bool = True) -> Life:
        """A queued life, on the cheapest way to its answer: a stored one, that of another life, or its own.

        `failed_too`: it waits also for one whose next attempt is not due yet.
        """
        answer = self._taken(life)
        if answer is not None:
            return evolve(life, result_offset=answer.result_offset, follows=None)
        asker = self.asker_beside(life, failed_too=failed_too)
        if asker is None:
            self._said[life.ask_key] = life.request_id
        return evolve(life, result_offset=None, follows=asker)

    def asker_beside(self, life: Life, *, failed_too: bool) -> str | None:
        """The life that asks the same question."""
        said = self._said.get(life.ask_key)
        if said is not None and said != life.request_id:
            return said
        prefix = f"{life.ask_key}/" if failed_too else f"{life.ask_key}/0/"
        # at most one asks beside those that wait for another attempt; the life itself and one that ends may be first
        for _, row in self._view.scan("asking", prefix, limit=2 + len(self._ended)):
            assert isinstance(row, Life)
            if row.request_id != life.request_id and row.request_id not in self._ended:
                return row.request_id
        return None

    def _taken(self, life: Life) -> Answer | None:
        """The stored answer to the question of `life`, if it is worth reading again for it."""
        answer = read.stored_answer(self._view, life.ask_key)
        if answer is None or answer.output_sha256 == life.output_sha256:
            return None
        owner = read.life(self._view, answer.request_id)
        is_refused = owner is not None and owner.version == life.version and _asks(owner)
        return None if is_refused else answer

    def _nearest(self, life: Life) -> Life | None:
        """Of the lives it was compared with, the most alike that has an answer or is about to."""
        if life.near_key is None:
            return None
        best: tuple[float, str, Life] | None = None
        for other in self._compared(life, life.near_key):
            found = alike(life.near_key, other.near_key or life.near_key)
            fits = other.epoch == life.epoch and other.request_id not in self._ended
            if found is None or not fits or not self._is_answered(other):
                continue
            # of two that are as alike the same one is taken whatever the order in which they are met
            if best is None or (found, other.request_id) > best[:2]:
                best = (found, other.request_id, other)
        return None if best is None else best[2]

    def _is_answered(self, life: Life) -> bool:
        """Or is about to be."""
        return _asks(life) or read.stored_answer(self._view, life.ask_key) is not None

    def _compared(self, life: Life, near_key: str) -> Iterator[Life]:
        seen = {life.request_id}
        for band in bands(near_key):
            prefix = f"{life.job}/{life.version}/{band}/"
            for _, row in self._view.scan("near", prefix, limit=_COMPARED_MAX):
                assert isinstance(row, Life)
                if row.request_id not in seen:
                    seen.add(row.request_id)
                    yield row


def effect_of(life: Life) -> Effect:
    """Who has to know of a life that was queued."""
    return "sealing" if life.result_offset is None and life.follows is None else "stored"


def answer_for(view: StateView, life: Life) -> Answer | None:
    """The stored answer that a life with a result offset is about to take: to its own question, or to one like it."""
    leader = None if life.follows is None else read.life(view, life.follows)
    return read.stored_answer(view, life.ask_key if leader is None else leader.ask_key)


def likeness_to(view: StateView, life: Life) -> float | None:
    """How alike its input is to the one whose answer it takes; None: its question is the same."""
    leader = None if life.follows is None else read.life(view, life.follows)
    if leader is None or leader.near_key is None or life.near_key is None:
        return None
    return similarity(life.near_key, leader.near_key)


def asked_after_all(view: StateView, life: Life, answer: Answer | None, now_ms: int) -> list[Order]:
    """The answer at the life's result offset is gone, or another one is stored by now.

    Gone, it is forgotten, so that nobody comes for it again.
    """
    fresh = evolve(life, result_offset=None, follows=None, updated_at_ms=now_ms)
    if answer is not None and answer.result_offset != life.result_offset:
        return [Put(evolve(life, result_offset=answer.result_offset, updated_at_ms=now_ms))]
    forgotten = [] if answer is None else [Delete(Answer.schema, answer.key)]
    asker = Askers(view).asker_beside(fresh, failed_too=True)
    return [*forgotten, Put(evolve(fresh, follows=asker))]


def walk(view: StateView, after: str | None, now_ms: int) -> Walk:
    """Set the followers going whose leader is not on its way any more: in cuts, by bounded steps."""
    orders: list[Order] = []
    askers = Askers(view)
    for _ in range(LEADERS_MAX):
        found = view.scan("follow", "", after=after, limit=1)
        if not found:
            return Walk(_woken(orders), None)
        leader_id = found[0][0].partition("/")[0]
        leader = read.life(view, leader_id)
        if leader is None or not _asks(leader):
            cut = view.scan("follow", f"{leader_id}/", limit=FOLLOWERS_MAX - len(orders))
            orders += [Put(_going(view, row, leader, askers, now_ms)) for _, row in cut if isinstance(row, Life)]
            if len(orders) == FOLLOWERS_MAX:
                return Walk(_woken(orders), after)  # more of the same may follow
        after = f"{leader_id}/{_LAST}"
    return Walk(_woken(orders), after)


def _going(view: StateView, life: Life, leader: Life | None, askers: Askers, now_ms: int) -> Life:
    """What becomes of a follower whose leader is not on its way any more."""
    if leader is not None and leader.ask_key != life.ask_key and not _is_refused(leader):
        answer = read.stored_answer(view, leader.ask_key)
        if answer is not None:
            return evolve(life, result_offset=answer.result_offset, updated_at_ms=now_ms)
    return evolve(askers.come(life), updated_at_ms=now_ms)


def _asks(life: Life) -> bool:
    return life.follows is None and life.status in ASKING


def _is_refused(life: Life) -> bool:
    """It ended by its own fault: not by being overtaken or cancelled, which says nothing about its answer."""
    return life.status is Status.FAILED_TERMINAL and life.reason is not None and not info(life.reason).excluded


def _woken(orders: list[Order]) -> list[Order]:
    return [*orders, Wake("sealing")] if orders else []
