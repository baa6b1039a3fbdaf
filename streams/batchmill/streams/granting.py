"""How a task uses what all tasks share: it asks for an amount, is granted one, holds it for a chunk, and settles up.

A pool is an amount with a limit (`money/JOB`, `queue/ACCOUNT/MODEL`, `creates/ACCOUNT`). The overseer hands out of it
(`overseeing`); here is what one task does with what it was handed. All numbers of a pool's row are sums since the pool
began, so that a grant that comes twice changes nothing:

    used      = reserved + posted + returned     only ever grows
    available = granted - used                   what a chunk may reserve now

A chunk reserves the most it can cost before it leaves (`reserve`), in the transaction that writes the chunk's own row.
From then on the reservation follows the chunk's state, whatever decision moved it (`follow`): posted when it was used
up, returned when it was not. Chunks that wait for a pool stand in a line, oldest first; only the first asks, and for
exactly what it lacks, so a grant always lets one chunk go and nothing lies idle in a task. A chunk that wants more than
there can ever be is split; a single record that does is put back for a while, so that others may pass. Pools are
reserved in one order (money, queue, creates), so no two chunks wait for each other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import orjson

from batchmill.schemas.asking import ModelSpec
from batchmill.schemas.jobs import BudgetSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Grant, Job, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJob
from batchmill.streams.costing import PriceList, worst_case_nanos
from batchmill.streams.facts import Refused
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.rendering import RequestForm
from batchmill.streams.settling import moved, obituary
from batchmill.streams.view import StateView

__all__ = [
    "PUT_BACK_MS",
    "Need",
    "Reserved",
    "Share",
    "Worst",
    "available",
    "budget_of",
    "creates_pool",
    "follow",
    "granted",
    "heard_anew",
    "is_over_budget",
    "money_pool",
    "needs_of",
    "output_limit",
    "queue_pool",
    "refuse_over_budget",
    "reserve",
    "unpriced",
    "used",
    "waits",
    "worst_case",
]

_STAGE: Final = "submitter"
_MONEY: Final = "money"
_QUEUE: Final = "queue"
_CREATES: Final = "creates"
#: what holds the reservation of each kind of pool, in a chunk's row
_HELD: Final = {_MONEY: "reserved_nanos", _QUEUE: "reserved_tokens", _CREATES: "reserved_creates"}
#: chunks in one line that are looked at; a task has far fewer on the way
_LINE_MAX: Final = 1_000
#: job rows whose budget is remembered
_BUDGETS_MAX: Final = 256
#: how long one record that cannot fit stands aside
PUT_BACK_MS: Final = 15_000

#: states in which a chunk may wait: its payload is there, nothing of it can be billed
_WAITING: Final = frozenset({ChunkState.PREPARED, ChunkState.UPLOADED})
#: states of a batch that is, or may be, at the provider
_AWAY: Final = frozenset({ChunkState.ATTEMPTING, ChunkState.OPEN})
#: states of a chunk that has nothing at the provider and will not have before it begins anew
_AT_HOME: Final = frozenset({ChunkState.FILLING, ChunkState.SEALED, ChunkState.HELD, ChunkState.FAILED})


# -- pools -------------------------------------------------------------------------------------------------------------


def money_pool(job: str) -> str:
    return f"{_MONEY}/{job}"


def queue_pool(account: str, model: str) -> str:
    """Of a model, or of all (`*`) where the provider counts an account's requests whatever they ask."""
    return f"{_QUEUE}/{account}/{model}"


def creates_pool(account: str) -> str:
    return f"{_CREATES}/{account}"


def used(grant: Grant) -> int:
    return grant.reserved + grant.posted + grant.returned


def available(grant: Grant) -> int:
    """What may be reserved now; below 0 when something cost more than its worst case."""
    return grant.granted - used(grant)


@lru_cache(maxsize=_BUDGETS_MAX)
def _budget(versions_json: str, version: str) -> BudgetSpec | None:
    declared = orjson.loads(versions_json).get(version, {}).get("budget")
    if not declared:
        return None
    return BudgetSpec(job_nanos=declared.get("job_nanos"), record_nanos=declared.get("record_nanos"))


def budget_of(job: Job) -> BudgetSpec | None:
    """The budget of the job as it is applied now: raising it concerns chunks of every version."""
    return _budget(job.versions_json, job.version)


# -- what a chunk can cost ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The most a request of one lane of a job version can cost: nothing cached, all of the answer's room used."""

    prices: PriceList
    model: str
    mode: str
    output_tokens_max: Callable[[Life], int]  #: of its next answer

    def of(self, life: Life) -> int:
        """Nano-dollars of the life's next attempt.

        No tokenizer makes more than one token of a byte, so the bytes of the rendered line bound the prompt's tokens;
        the estimate (a quarter of it) does not: scripts, code and numbers come to more.
        """
        output = self.output_tokens_max(life)
        found = worst_case_nanos(
            self.prices, self.model, self.mode, input_tokens=life.bytes_estimate, output_tokens_max=output
        )
        assert found is not None, f"{self.model} lost its price"
        return found


def worst_case(job: CompiledJob, prices: PriceList, lane: str, *, output_default: int | None = None) -> Worst | None:
    """How to bound the requests in a lane; None when there is no bound: no price, or a route without a limit.

    `output_default` is the limit that is sent where the job sets none.
    """
    _, model, _, mode = lane.split("|")
    limits = {route.name: output_limit(route.model, route.form, output_default) for route in job.routes.on(lane)}
    if None in limits.values() or worst_case_nanos(prices, model, mode, input_tokens=0, output_tokens_max=0) is None:
        return None

    def output_tokens_max(life: Life) -> int:
        return job.routes.of(life.route).form.output_tokens_max(life.room) or limits[life.route] or 0

    return Worst(prices=prices, model=model, mode=mode, output_tokens_max=output_tokens_max)


def output_limit(model: ModelSpec, form: RequestForm, default: int | None = None) -> int | None:
    """The most tokens a first answer may have; an embedding has none."""
    if model.endpoint.endswith("/embeddings"):
        return 0
    return form.output_tokens_max() or default


@dataclass(frozen=True, slots=True)
class Need:
    """What a chunk must hold of a pool before it leaves."""

    pool: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The limits of an account that its tasks share; None: no limit, no pool."""

    queue_max: int | None = None
    queue_counts: str | None = None  #: "tokens" (of a model) or "requests" (of the account)
    creates_max: int | None = None  #: in any hour


def needs_of(chunk: Chunk, *, nanos: int | None, share: Share) -> tuple[Need, ...]:
    """What `chunk` needs, in the order in which it is reserved. `nanos`: its worst case, where its job has a budget.

    A record larger than the whole queue goes when the queue is empty: the provider then says what it thinks of it.
    """
    found = [] if nanos is None else [Need(money_pool(chunk.job), nanos)]
    if chunk.mode == "online":
        return tuple(found)
    if share.queue_max is not None:
        by_request = share.queue_counts == "requests"
        pool = queue_pool(chunk.account, "*" if by_request else chunk.model)
        found.append(Need(pool, min(share.queue_max, chunk.members if by_request else chunk.tokens)))
    if share.creates_max is not None:
        found.append(Need(creates_pool(chunk.account), 1))
    return tuple(found)


def unpriced(chunk: Chunk, now_ms: int) -> list[Order]:
    """A chunk of a job with a budget whose cost has no bound: a person has to give it one."""
    if chunk.state not in _WAITING:
        return []
    note = (
        f"job {chunk.job} has a budget, and {chunk.model} has no price or no max_output_tokens: apply it with"
        " both, then approve this batch"
    )
    return [Put(replace(chunk, state=ChunkState.HELD, note=note, cursor=None, due_at_ms=None, updated_at_ms=now_ms))]


# -- the budget of one record ------------------------------------------------------------------------------------------


def is_over_budget(life: Life, worst: Worst, record_nanos: int) -> bool:
    """Whether another attempt might take the record above its budget. A call without a price counts as the dearest."""
    next_nanos = worst.of(life)
    return life.cost_nanos + (life.unpriced_calls + 1) * next_nanos > record_nanos


def refuse_over_budget(lives: Iterable[Life], now_ms: int) -> list[Order]:
    """Dead letters of queued lives that may not be sent; raise the record's budget and redrive them."""
    orders: list[Order] = []
    for life in lives:
        ended = moved(life, Refused(reason=Reason.OVER_BUDGET), now_ms)
        error = f"it has cost {life.cost_nanos} nano-dollars, and its next attempt may exceed budget.record_usd"
        orders += [Put(ended), obituary(ended, stage=_STAGE, error=error, now_ms=now_ms)]
    return orders


# -- reserving ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserved:
    """Rows to write, and whether the chunk now holds all it needs. If not, it waits."""

    orders: tuple[Order, ...]
    held: bool


def reserve(view: StateView, chunk: Chunk, needs: Sequence[Need], now_ms: int) -> Reserved:
    """Take what `chunk` lacks of each pool, as far as this task was granted it and it is the chunk's turn.

    If its need has grown (its job's prices have) it may hold a part. It keeps none of what it waits for, nor of what is
    reserved after that: it would wait for itself, or for others that wait for it.
    """
    orders: list[Order] = []
    row = chunk
    for at, need in enumerate(needs):
        lacks = need.amount - _held(row, need.pool)
        if lacks <= 0:
            continue
        grant = _grant(view, need.pool, now_ms)
        line = [other for other in _line(view, need.pool) if other.chunk_id != chunk.chunk_id]
        first = not line or _age(row) < _age(line[0])
        if not first or available(grant) < lacks:
            back: dict[str, Grant] = {}
            row = _give_back(view, row, [each.pool for each in needs[at:]], back, now_ms)
            orders += [Put(each) for each in back.values()]
            if first:
                orders += _asked(back.get(need.pool, grant), need.amount, now_ms)
            row = replace(row, waits_for=need.pool, due_at_ms=None)
            return Reserved((*_changed(chunk, row, now_ms), *orders), held=False)
        taken = replace(grant, reserved=grant.reserved + lacks, updated_at_ms=now_ms)
        orders += [Put(_tidied(taken)), Wake("dispatch")]
        row = _holding(row, need.pool, need.amount)
    row = row if row.waits_for is None else replace(row, waits_for=None, due_at_ms=None, note=None)
    return Reserved((*_changed(chunk, row, now_ms), *orders), held=True)


def _give_back(view: StateView, chunk: Chunk, pools: Iterable[str], grants: dict[str, Grant], now_ms: int) -> Chunk:
    """The chunk without what it holds of these pools; it goes back in `grants`, rows that are about to be put."""
    row = chunk
    for pool in pools:
        if held := _held(row, pool):
            grant = grants.get(pool) or _grant(view, pool, now_ms)
            sums = grant.reserved - held, grant.returned + held
            grants[pool] = replace(grant, reserved=sums[0], returned=sums[1], updated_at_ms=now_ms)
            row = _holding(row, pool, 0)
    return row


def _asked(grant: Grant, lacks: int, now_ms: int) -> list[Order]:
    """Ask for all of it, and for no more: what was granted to another chunk and does not suffice goes back first.

    Tasks that kept a part and waited for the rest could wait for each other.
    """
    idle = _tidied(grant)
    wanted = replace(idle, asked=used(idle) + lacks, updated_at_ms=now_ms)
    return [] if wanted == replace(grant, updated_at_ms=now_ms) else [Put(wanted)]


def waits(view: StateView, chunk: Chunk) -> bool:
    """Whether it is not `chunk`'s turn: others stand before it, or what it asked for is not granted yet.

    One that was put back tries again at its due time.
    """
    if chunk.waits_for is None or chunk.due_at_ms is not None:
        return False
    line, grant = _line(view, chunk.waits_for), read.grant(view, chunk.waits_for)
    if not line or line[0].chunk_id != chunk.chunk_id:
        return True
    return grant is not None and grant.asked > grant.granted


def granted(view: StateView, totals: Mapping[str, int], most: Mapping[str, int], now_ms: int) -> list[Order]:
    """The overseer's word arrives: pool -> all it has handed to this task, and pool -> the most it can ever hand out.

    What nobody waits for any more is returned at once. The first in line that asks for more than there can ever be is
    split, so that a part of it may fit; a single record is put back, and tries again now and then.
    """
    orders: list[Order] = []
    for pool, total in totals.items():
        grant = _grant(view, pool, now_ms)
        if total > grant.granted:
            grown = replace(grant, granted=total, updated_at_ms=now_ms)
            orders += [Put(grown if _line(view, pool) else _tidied(grown)), Wake("dispatch")]
    for pool, amount in most.items():
        line, grant = _line(view, pool), _grant(view, pool, now_ms)
        if not line or grant.asked - used(grant) <= amount:
            continue
        if line[0].members > 1:
            orders += [Put(_split(line[0], pool, now_ms)), Wake("poll")]
        else:
            orders.append(Put(_put_back(line[0], pool, now_ms)))
            orders += _withdrawn(view, pool, now_ms, besides=line[0].chunk_id)
    return orders


def heard_anew(view: StateView, job: Job, now_ms: int) -> list[Order]:
    """The job was applied, perhaps with a larger budget: those that were put back try again now."""
    found = view.scan("waiting", f"{money_pool(job.job)}|", limit=_LINE_MAX)
    back = [row for _, row in found if isinstance(row, Chunk) and row.due_at_ms is not None]
    return [*(Put(replace(row, due_at_ms=now_ms, updated_at_ms=now_ms)) for row in back), Wake("dispatch")]


def _put_back(chunk: Chunk, pool: str, now_ms: int) -> Chunk:
    """Out of the line, still waiting."""
    due, note = now_ms + PUT_BACK_MS, f"{pool} is used up: what is left is less than this record may take"
    return replace(chunk, due_at_ms=due, note=note, updated_at_ms=now_ms)


def _split(chunk: Chunk, pool: str, now_ms: int) -> Chunk:
    return replace(
        chunk,
        state=ChunkState.ENDED,
        reason=Reason.PROVIDER_CANCELLED,
        note=f"larger than what {pool} has left: split",
        cursor=None,
        due_at_ms=None,
        failures=0,
        updated_at_ms=now_ms,
    )


# -- settling up -------------------------------------------------------------------------------------------------------


def follow(view: StateView, row: Chunk | Job) -> list[Order]:
    """Put `row`, and with it what its new state means for the pools: the one way a reservation ends.

    To be asked of every chunk and job row that is about to be put, while the view still has the one before.
    """
    if isinstance(row, Job):
        return [Put(row), *_left_the_line(view, row)]
    before = read.chunk(view, row.chunk_id)
    kept = row
    orders: list[Order] = []
    for kind, amount, posts in _ends(before, row):
        pool = _pool_of(view, row, kind)
        grant = _grant(view, pool, row.updated_at_ms)
        settled = replace(
            grant,
            reserved=grant.reserved - amount,
            posted=grant.posted + posts,
            returned=grant.returned + max(0, amount - posts),
            updated_at_ms=row.updated_at_ms,
        )
        orders.append(Put(settled))
        kept = _holding(kept, pool, 0)
    if row.waits_for is None or row.state in _WAITING:
        return [Put(kept), *orders]
    orders += _withdrawn(view, row.waits_for, row.updated_at_ms, besides=row.chunk_id)
    return [Put(replace(kept, waits_for=None)), *orders]


def _ends(before: Chunk | None, row: Chunk) -> Iterable[tuple[str, int, int]]:
    """(kind of pool, what was reserved, how much of it is used up for good) of each reservation that ends here."""
    over = _is_over(before, row)
    if row.reserved_nanos and (over or row.state is ChunkState.DONE):
        cost = row.cost_nanos + row.wasted_nanos + max(row.untold_nanos, row.doubtful_nanos)
        yield _MONEY, row.reserved_nanos, cost  # 0 of an attempt without effect; not of one that was given up
    if row.reserved_tokens and (over or row.state not in _WAITING | _AWAY):
        yield _QUEUE, row.reserved_tokens, 0
    if row.reserved_creates and (over or row.state in _AWAY):
        yield _CREATES, row.reserved_creates, 0 if over else row.reserved_creates


def _is_over(before: Chunk | None, row: Chunk) -> bool:
    """An attempt that certainly had no effect is over, or none will be made."""
    undone = row.state is ChunkState.PREPARED and before is not None and before.state in _AWAY
    never_ran = row.state is ChunkState.ENDED and row.reason is not None
    return undone or never_ran or row.state in _AT_HOME


def _left_the_line(view: StateView, job: Job) -> list[Order]:
    """A job that is paused asks for nothing: whoever stands behind it is first, and unused grants go back.

    So does what its waiting chunks hold of other pools: nobody knows for how long it is paused.
    """
    before, now_ms = read.job(view, job.job), job.updated_at_ms
    if not job.paused or (before is not None and before.paused):
        return []
    found = view.scan("waiting", "", limit=_LINE_MAX)
    grants: dict[str, Grant] = {}
    pools: set[str] = set()
    orders: list[Order] = []
    for row in (row for _, row in found if isinstance(row, Chunk) and row.job == job.job):
        kept = _give_back(view, row, [_pool_of(view, row, kind) for kind in _HELD], grants, now_ms)
        orders += _changed(row, kept, now_ms)
        pools |= {row.waits_for} if row.waits_for is not None else set()
    for pool in sorted(pools | grants.keys()):
        orders += _withdrawn(view, pool, now_ms, besides_job=job.job, grant=grants.get(pool))
    return orders


def _withdrawn(
    view: StateView,
    pool: str,
    now_ms: int,
    *,
    besides: str | None = None,
    besides_job: str | None = None,
    grant: Grant | None = None,
) -> list[Order]:
    line = [row for row in _line(view, pool) if row.chunk_id != besides and row.job != besides_job]
    grant = grant or _grant(view, pool, now_ms)
    kept = grant if line else _tidied(grant)
    return [Put(replace(kept, asked=min(kept.asked, kept.granted), updated_at_ms=now_ms)), Wake("dispatch")]


def _tidied(grant: Grant) -> Grant:
    """Give back what lies idle."""
    return replace(grant, returned=grant.returned + max(0, available(grant)))


# -- rows --------------------------------------------------------------------------------------------------------------


def _grant(view: StateView, pool: str, now_ms: int) -> Grant:
    found = read.grant(view, pool)
    if found is not None:
        return found
    return Grant(pool=pool, asked=0, granted=0, reserved=0, posted=0, returned=0, updated_at_ms=now_ms)


def _line(view: StateView, pool: str) -> list[Chunk]:
    """Who waits for `pool`, oldest first; those of paused jobs do not, nor those that were put back."""
    found = view.scan("waiting", f"{pool}|", limit=_LINE_MAX)
    waiting = [row for _, row in found if isinstance(row, Chunk) and row.due_at_ms is None]
    jobs = {name: read.job(view, name) for name in {row.job for row in waiting}}
    return [row for row in waiting if (job := jobs[row.job]) is not None and not job.paused]


def _age(chunk: Chunk) -> tuple[int, str]:
    """As `index` sorts the line."""
    return chunk.created_at_ms, chunk.chunk_id


def _pool_of(view: StateView, chunk: Chunk, kind: str) -> str:
    match kind:
        case "money":
            return money_pool(chunk.job)
        case "creates":
            return creates_pool(chunk.account)
        case _:
            together = queue_pool(chunk.account, "*")
            row = read.grant(view, together)
            return together if row is not None and row.reserved else queue_pool(chunk.account, chunk.model)


def _held(chunk: Chunk, pool: str) -> int:
    held: int = getattr(chunk, _HELD[pool.partition("/")[0]])
    return held


def _holding(chunk: Chunk, pool: str, amount: int) -> Chunk:
    changes: dict[str, int] = {_HELD[pool.partition("/")[0]]: amount}
    return replace(chunk, **changes)  # type: ignore[arg-type]  # the names are those of the table above


def _changed(before: Chunk, after: Chunk, now_ms: int) -> tuple[Order, ...]:
    return () if after == before else (Put(replace(after, updated_at_ms=now_ms)),)
