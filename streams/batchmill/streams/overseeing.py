"""Who is handed how much of what all tasks share: the decisions of the one overseer, over the rows of all tasks.

`Books` holds the facts: each task's rows of pools and jobs, and what was handed out and not yet seen in a row. `decide`
says what to hand out next. A task's exposure in a pool is what it was handed and has not returned, whether or not it
has taken the grant yet; the exposures of all tasks never exceed the pool's limit. Nothing is ever taken away, so a
limit that is lowered below them only stops further grants.

Wishes are served whole, oldest first. One that does not fit yet but will once running batches have settled up makes the
younger ones wait, so large wishes do not starve. One that can never fit does not stand in the way: its task is told how
much there can be at most, and makes its batch smaller.

A hand-out carries the sum of everything handed to that task, so it may be read twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from batchmill.schemas.state import Grant, Job
from batchmill.streams.granting import budget_of, used

__all__ = ["HOUR_MS", "Books", "HandOut", "Limits", "Posts", "Spread"]

HOUR_MS: Final = 3_600_000
#: creations are remembered this coarsely; they count a little longer for it, never shorter
_POSTS_STEP_MS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the settings say of accounts; a job's budget is in its own row. An account not named has no limit."""

    queue_max: Mapping[str, int] = field(default_factory=dict)  #: of each model's queue, or of the account's one
    creates_max: Mapping[str, int] = field(default_factory=dict)
    #: how long after the attempt became durable its create call may still be sent and answered, in milliseconds
    create_ms_max: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOut:
    """To one task: pool -> all it was handed so far, and pool -> the most that can ever be had of it."""

    partition: int
    granted: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """To one task: pause `job` too, as another task did by itself, unless a command newer than `after` was heard."""

    partition: int
    job: str
    reason: str
    after: str


class Posts:
    """How many creations had been made by when, of one pool: enough to bound those of the last hour from above."""

    def __init__(self, seen: Iterable[tuple[int, int]] = ()) -> None:
        self.seen = [(at_ms, total) for at_ms, total in seen]

    def note(self, total: int, now_ms: int, window_ms: int) -> None:
        """`total` creations had been made by now."""
        if not self.seen or total > self.seen[-1][1]:
            if len(self.seen) > 1 and self.seen[-1][0] - self.seen[-2][0] < _POSTS_STEP_MS:
                self.seen.pop()
            self.seen.append((now_ms, total))
        while len(self.seen) > 1 and self.seen[1][0] <= now_ms - window_ms:
            self.seen.pop(0)

    def within(self, total: int, now_ms: int, window_ms: int) -> int:
        """At most so many were made in the window that ends now; all of them, as long as nobody watched."""
        before = [made for at_ms, made in self.seen if at_ms <= now_ms - window_ms]
        return total - (before[-1] if before else 0)


class Books:
    """The facts, folded row by row."""

    def __init__(self, limits: Limits, *, posts: Mapping[str, Sequence[tuple[int, int]]] | None = None) -> None:
        self._limits = limits
        self._grants: dict[str, dict[int, Grant]] = {}
        self._handed: dict[tuple[str, int], int] = {}
        self._since: dict[tuple[str, int], int] = {}
        self._told: dict[tuple[str, int], tuple[Grant, int]] = {}
        self._jobs: dict[str, dict[int, Job]] = {}
        self._spread: dict[tuple[str, int], str] = {}
        self.posts = {pool: Posts(seen) for pool, seen in (posts or {}).items()}

    # -- facts ---------------------------------------------------------------------------------------------------------

    def row(self, partition: int, row: Grant | Job) -> None:
        """A task's row as it stands."""
        if isinstance(row, Job):
            self._jobs.setdefault(row.job, {})[partition] = row
            return
        self._grants.setdefault(row.pool, {})[partition] = row
        place = row.pool, partition
        if self._wish(row.pool, partition) > 0:
            self._since.setdefault(place, row.updated_at_ms)
        else:
            self._since.pop(place, None)

    def handed(self, partition: int, granted: Mapping[str, int]) -> None:
        """A hand-out is in the log, whether or not its task has taken it."""
        for pool, total in granted.items():
            place = pool, partition
            self._handed[place] = max(total, self._handed.get(place, 0))
            if self._wish(pool, partition) <= 0:
                self._since.pop(place, None)

    def note_posts(self, now_ms: int) -> None:
        """Remember how many batches were created by now. To be asked after each fold, before `decide`."""
        for pool in self._grants:
            if pool.startswith("creates/"):
                self.posts.setdefault(pool, Posts()).note(self._posted(pool), now_ms, self._window_ms(pool))

    # -- decisions -----------------------------------------------------------------------------------------------------

    def decide(self, now_ms: int) -> list[HandOut]:
        """What to hand out now. Asked again without a new fact it says the same, until told that it is in the log."""
        granted: dict[int, dict[str, int]] = {}
        most: dict[int, dict[str, int]] = {}
        for pool in sorted(self._grants):
            for partition, total, at_most in self._of_pool(pool, now_ms):
                if at_most is None:
                    granted.setdefault(partition, {})[pool] = total
                else:
                    most.setdefault(partition, {})[pool] = at_most
        return [
            HandOut(partition=each, granted=granted.get(each, {}), most=most.get(each, {}))
            for each in sorted(granted.keys() | most.keys())
        ]

    def told(self, hand_out: HandOut) -> None:
        """What a task was told of the most there can be is not told again while nothing has changed."""
        for pool, most in hand_out.most.items():
            self._told[pool, hand_out.partition] = (self._grants[pool][hand_out.partition], most)

    def spreads(self) -> list[Spread]:
        """Where a job that paused by itself in one task still has to pause in another."""
        found: list[Spread] = []
        for job, rows in sorted(self._jobs.items()):
            paused = {row.last_command_id: row.pause_reason for row in rows.values() if row.paused and row.pause_reason}
            for partition, row in sorted(rows.items()):
                reason = paused.get(row.last_command_id)
                if reason is None or row.paused or self._spread.get((job, partition)) == row.last_command_id:
                    continue
                found.append(Spread(partition=partition, job=job, reason=reason, after=row.last_command_id))
        return found

    def spread(self, told: Spread) -> None:
        """It is in the log; it is said once."""
        self._spread[told.job, told.partition] = told.after

    def exposure(self, pool: str) -> int:
        """What all tasks together were handed and have not returned, or have used all the same."""
        return sum(self._exposed(pool, partition) for partition in self._partitions(pool))

    def limit(self, pool: str) -> int | None:
        """The pool's limit now; None: there is none (any more). While tasks disagree on a budget the lowest counts."""
        kind, _, name = pool.partition("/")
        account = name.partition("/")[0]
        match kind:
            case "queue":
                return self._limits.queue_max.get(account)
            case "creates":
                return self._limits.creates_max.get(account)
            case _:
                budgets = [budget_of(row) for row in self._jobs.get(name, {}).values()]
                nanos = [each.job_nanos for each in budgets if each is not None and each.job_nanos is not None]
                return min(nanos, default=None) if budgets else 0

    def _of_pool(self, pool: str, now_ms: int) -> Iterable[tuple[int, int, int | None]]:
        """(partition, sum handed, the most there can be) of each wish that is answered now."""
        limit = self.limit(pool)
        headroom = 0 if limit is None else limit - self._taken(pool, now_ms)
        for _, partition in sorted((since, place[1]) for place, since in self._since.items() if place[0] == pool):
            wish = self._wish(pool, partition)
            grows = self._exposed(pool, partition, more=wish) - self._exposed(pool, partition)
            if limit is None or grows <= headroom:
                headroom -= grows
                yield partition, self._granted(pool, partition) + wish, None
                continue
            row, most = self._grants[pool][partition], limit - self._gone(pool)
            if row.asked - used(row) <= most:
                return
            if self._told.get((pool, partition)) != (row, most):
                yield partition, 0, most

    # -- sums ----------------------------------------------------------------------------------------------------------

    def _partitions(self, pool: str) -> set[int]:
        handed = {partition for name, partition in self._handed if name == pool}
        return handed | self._grants.get(pool, {}).keys()

    def _granted(self, pool: str, partition: int) -> int:
        row = self._grants.get(pool, {}).get(partition)
        return max(0 if row is None else row.granted, self._handed.get((pool, partition), 0))

    def _wish(self, pool: str, partition: int) -> int:
        row = self._grants.get(pool, {}).get(partition)
        return 0 if row is None else row.asked - self._granted(pool, partition)

    def _exposed(self, pool: str, partition: int, *, more: int = 0) -> int:
        """Of one task. Where creations are counted, those made are counted by the hour, not here."""
        granted = self._granted(pool, partition) + more
        row = self._grants.get(pool, {}).get(partition)
        if row is None:
            return granted
        if pool.startswith("creates/"):
            return max(0, granted - row.returned - row.posted)
        return max(granted, used(row)) - row.returned

    def _taken(self, pool: str, now_ms: int) -> int:
        """What of the limit is not free just now."""
        if not pool.startswith("creates/"):
            return self.exposure(pool)
        watched = self.posts.get(pool, Posts())
        return self.exposure(pool) + watched.within(self._posted(pool), now_ms, self._window_ms(pool))

    def _gone(self, pool: str) -> int:
        """What of the limit never comes back."""
        return self._posted(pool) if pool.startswith("money/") else 0

    def _posted(self, pool: str) -> int:
        return sum(row.posted for row in self._grants.get(pool, {}).values())

    def _window_ms(self, pool: str) -> int:
        return HOUR_MS + self._limits.create_ms_max.get(pool.partition("/")[2], 0)
