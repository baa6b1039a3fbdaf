"""How fast single calls go out: one gate per account and process, first come, first served.

What lives here: a turn for each call, given in the order of asking, when there is a place among the running calls, when
the account's requests and tokens a minute allow it, and when no refusal has closed the gate. What must not: knowing
what the call asks, or calling. Time is that of the event loop.

The buckets are aiolimiter's, and what it does otherwise than one may think is handled here: it serves the smallest
waiter first (so only one waits at a time, behind a lock), refuses more than a bucketful (so large amounts are taken in
pieces), drips at the rate it was made with (so a new rate is a new bucket), and gives nothing back (so what a call used
beyond its estimate is taken from the next ones). A bucket holds one second of the rate: what passes in any minute stays
within the limit, the burst included.

A provider tells, model by model, its limits and what is left of them; it is believed, since others may be using them
too, and what it does not tell is what the settings say. A refusal for load closes the gate for all, once, for as long
as it asks; answers to calls that were sent before that are part of the same refusal.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from aiolimiter import AsyncLimiter

from batchmill.agents.providers.congestion import Breaker, Concurrency
from batchmill.agents.providers.rate_headers import Allowance, Rates
from batchmill.streams.ports import NotStartedError

__all__ = ["Ended", "Pacer", "Turn"]

MINUTE_SECONDS = 60.0
#: how much of the rate may pass at once
BURST_SECONDS = 1.0
#: longest wait at a closed gate; for one that stays closed longer the call is not started
GATE_SECONDS_MAX = 10.0
#: first pause after a refusal that says nothing of its length; each further one in a row doubles it
COOLDOWN_SECONDS = 1.0
#: models whose rates are remembered; the one heard of first is forgotten first
MODELS_MAX = 64
#: how many estimated prompt tokens the learned correction remembers, and within what it may lie
CORRECTION_TOKENS = 200_000.0
CORRECTION_MIN, CORRECTION_MAX = 0.25, 4.0


class Ended(Enum):
    """How a call ended, as far as the pace is concerned."""

    ANSWERED = auto()  #: whatever was said of the question
    THROTTLED = auto()  #: too fast
    UNABLE = auto()  #: the service could not, or was not heard
    UNTOLD = auto()  #: nothing was sent, or nobody waited for the answer


@dataclass(slots=True)
class Turn:
    """Permission for one call, to be given back with how it ended. Each call makes one: frozen would be slow."""

    model: str
    prompt_tokens: int  #: as estimated from its bytes
    tokens: float  #: as it was expected to use, prompt and answer
    asked_s: float
    sent_s: float
    trial: bool
    requests_taken: float  #: what the model's turns had taken in all, this one included
    tokens_taken: float

    @property
    def waited_seconds(self) -> float:
        return self.sent_s - self.asked_s


class Pacer:
    """The gate of one account in one process and one event loop."""

    def __init__(
        self,
        *,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        concurrent_max: int,
        cooldown_max_seconds: float,
    ) -> None:
        self._cooldown_max_seconds = cooldown_max_seconds
        self._requests = _Bucket(requests_per_minute)
        self._tokens = _Bucket(tokens_per_minute)
        self._told: dict[str, _Told] = {}
        self._share = 1.0
        self._correction = _Correction()
        self._owed_tokens = 0.0
        self._concurrency = Concurrency(concurrent_max)
        self._breaker = Breaker()
        self._line: deque[asyncio.Future[None]] = deque()  #: who waits for a place
        self._placed = 0  #: who has one, sent or still waiting for the rate
        self._running = 0
        self._first_in_line = asyncio.Lock()
        self._trial_over = asyncio.Event()
        self._closed_until_s = 0.0
        self._refusals_in_a_row = 0

    @property
    def running(self) -> int:
        return self._running

    @property
    def calls_max(self) -> int:
        """How many may run at once just now."""
        return self._concurrency.calls_max

    def closed_seconds(self) -> float:
        """How long no call will be let through."""
        now_s = _now_s()
        return max(self._closed_until_s - now_s, self._breaker.wait_seconds(now_s) or 0.0)

    def set_share(self, *, owned: int, of: int) -> None:
        """Use `owned`/`of` of the account's rates from now on. A worker without tasks keeps the share of one."""
        self._share = max(owned, 1) / max(of, 1)
        self._requests.set_share(self._share)
        self._tokens.set_share(self._share)

    async def admit(self, *, model: str, prompt_tokens: int, answer_tokens: int) -> Turn:
        """Wait for a turn, or hear that there is none for a while. Whoever gets one gives it back with `done`."""
        asked_s = _now_s()
        await self._place()
        try:
            async with self._first_in_line:
                told = self._told_of(model)
                tokens = self._correction.of(prompt_tokens) + answer_tokens
                await self._rates(told, tokens)
                await self._calm()  # last: a refusal may have come in while the buckets filled
                told.requests.taken += 1
                told.tokens.taken += tokens
                trial = self._breaker.start()
        except BaseException:
            self._leave()
            raise
        self._running += 1
        return Turn(model, prompt_tokens, tokens, asked_s, _now_s(), trial, told.requests.taken, told.tokens.taken)

    def heard(self, turn: Turn, rates: Rates) -> None:
        """An answer came, and this is what it says of the model's rates."""
        told = self._told_of(turn.model)
        if rates.requests is not None:
            told.requests.hear(rates.requests, sent_s=turn.sent_s, taken=turn.requests_taken)
        if rates.tokens is not None:
            told.tokens.hear(rates.tokens, sent_s=turn.sent_s, taken=turn.tokens_taken)

    def used(self, turn: Turn, *, input_tokens: int, output_tokens: int) -> None:
        """What the call came to by the provider's own count."""
        self._correction.learn(estimated=turn.prompt_tokens, counted=input_tokens)
        self._owed_tokens += max(0.0, input_tokens + output_tokens - turn.tokens)

    def done(self, turn: Turn, ended: Ended, *, retry_after_seconds: float | None = None) -> None:
        """Give the turn back."""
        self._running -= 1
        match ended:
            case Ended.ANSWERED:
                self._refusals_in_a_row = 0
                self._concurrency.passed(placed=self._placed)
                self._breaker.passed(trial=turn.trial)
            case Ended.THROTTLED:
                self._hurt(turn, retry_after_seconds, pause=True)
                self._breaker.passed(trial=turn.trial)
            case Ended.UNABLE:
                self._hurt(turn, retry_after_seconds, pause=False)
                self._breaker.failed(trial=turn.trial, now_s=_now_s())
            case Ended.UNTOLD:
                self._breaker.untold(trial=turn.trial)
        if turn.trial:
            self._trial_over.set()
        self._leave()

    def _hurt(self, turn: Turn, asked_seconds: float | None, *, pause: bool) -> None:
        """Give way, and close the gate for as long as is asked, within our own bound; else, if `pause`, by ourselves.

        A crowd that is refused together closes it once.
        """
        now_s = _now_s()
        news = self._concurrency.hurt(sent_s=turn.sent_s, now_s=now_s)
        self._refusals_in_a_row += news and pause
        pause_s = asked_seconds or 0.0
        if asked_seconds is None and news and pause:
            pause_s = COOLDOWN_SECONDS * 2 ** min(self._refusals_in_a_row - 1, 16)
        self._closed_until_s = max(self._closed_until_s, now_s + min(pause_s, self._cooldown_max_seconds))

    def _told_of(self, model: str) -> "_Told":
        told = self._told.get(model)
        if told is None:
            told = self._told[model] = _Told()
            if len(self._told) > MODELS_MAX:
                del self._told[next(iter(self._told))]
        return told

    async def _place(self) -> None:
        """Wait for a place among the calls; whoever leaves hands theirs to the first in line."""
        if not self._line and self._placed < self.calls_max:
            self._placed += 1
            return
        handed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(handed)
        try:
            await handed
        except asyncio.CancelledError:
            if handed.done() and not handed.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._placed -= 1
        while self._line and self._placed < self.calls_max:
            handed = self._line.popleft()
            if not handed.done():
                self._placed += 1
                handed.set_result(None)

    async def _rates(self, told: "_Told", tokens: float) -> None:
        """Wait for what the provider says is lacking, then for our own buckets."""
        lacking_s = max(told.requests.lacking_s(1, self._share), told.tokens.lacking_s(tokens, self._share))
        await _short(lacking_s)
        owed, self._owed_tokens = self._owed_tokens, 0.0
        await self._requests.take(1)
        await self._tokens.take(tokens + owed)

    async def _calm(self) -> None:
        """Until neither a refusal nor the breaker keeps the gate closed; a trial is waited for, it ends by itself."""
        while self._closed_until_s or not self._breaker.closed:
            if (closed_s := self.closed_seconds()) > 0:
                await _short(closed_s)
            elif self._breaker.wait_seconds(_now_s()) is None:
                self._trial_over.clear()
                await self._trial_over.wait()
            else:
                self._closed_until_s = 0.0
                return


class _Bucket:
    """What the settings allow a minute; None: anything."""

    def __init__(self, per_minute: float | None) -> None:
        self._per_minute, self._share = per_minute, 1.0
        self._limiter = _limiter(per_minute, 1.0)

    def set_share(self, share: float) -> None:
        if share != self._share:
            self._share = share
            self._limiter = _limiter(self._per_minute, share)

    async def take(self, amount: float) -> None:
        """Wait until `amount` is there, and take it. More than a bucketful: in pieces, nobody else waits meanwhile."""
        left = amount
        while (limiter := self._limiter) is not None and left > 0:
            piece = min(left, limiter.max_rate)
            await limiter.acquire(piece)
            left -= piece


class _Rate:
    """What the provider says is left of one rate, carried on: it fills evenly, and our later calls take from it."""

    def __init__(self) -> None:
        self.taken = 0.0  #: by our calls, in all
        self._said: Allowance | None = None
        self._said_s = float("-inf")
        self._said_taken = 0.0

    def hear(self, said: Allowance, *, sent_s: float, taken: float) -> None:
        """Take the provider's count as of the call sent at `sent_s`; older news than we have is none."""
        if sent_s > self._said_s:
            self._said, self._said_s, self._said_taken = said, sent_s, taken

    def lacking_s(self, amount: float, share: float) -> float:
        """How long until `amount` is there, at the rate at which our share of it fills."""
        if self._said is None:
            return 0.0
        per_second = self._said.per_minute / MINUTE_SECONDS * share
        filled = (_now_s() - self._said_s) * per_second
        left = self._said.remaining + filled - (self.taken - self._said_taken)
        return max(0.0, min(amount, self._said.per_minute) - left) / per_second


class _Told:
    """The rates of one model."""

    def __init__(self) -> None:
        self.requests, self.tokens = _Rate(), _Rate()


class _Correction:
    """Prompt tokens as the provider counts them over our estimates of them: a quotient of sums, the recent ones."""

    def __init__(self) -> None:
        self._estimated = self._counted = 0.0

    def of(self, estimated: int) -> float:
        if not self._estimated:
            return float(estimated)
        return estimated * min(max(self._counted / self._estimated, CORRECTION_MIN), CORRECTION_MAX)

    def learn(self, *, estimated: int, counted: int) -> None:
        if not counted:
            return  # it did not say
        self._estimated += estimated
        self._counted += counted
        if self._estimated > CORRECTION_TOKENS:
            self._estimated /= 2
            self._counted /= 2


def _limiter(per_minute: float | None, share: float) -> AsyncLimiter | None:
    """Make a bucket that never lets more than the share of `per_minute` through in any minute, burst included."""
    if per_minute is None:
        return None
    rate = per_minute * share
    burst = max(1.0, min(rate / MINUTE_SECONDS * BURST_SECONDS, rate / 2))
    drip_per_minute = rate - burst if rate >= 2 else rate
    return AsyncLimiter(burst, burst * MINUTE_SECONDS / drip_per_minute)


async def _short(seconds: float) -> None:
    """Wait, if that is not for long; those who wait longer do so where a pause or a crash finds nothing under way."""
    if seconds > GATE_SECONDS_MAX:
        raise NotStartedError("gate_closed", retry_after_seconds=seconds, hint="the provider asks for a pause")
    if seconds > 0:
        await asyncio.sleep(seconds)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
