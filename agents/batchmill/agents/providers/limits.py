"""How fast one account may be called: a gate in front of every provider call.

What lives here: turns in order of asking, the share of the account's rate that this worker may use, and the pause a
429 asks for. What must not: knowing what the call does. The words: a *turn* is permission to make one call now; the
*share* is owned tasks over all tasks, so that all workers together stay under the account's rate without talking.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiolimiter import AsyncLimiter

from batchmill.agents import clock

__all__ = ["AccountGate"]

MINUTE_SECONDS = 60.0
#: A burst is about one second's worth of calls: enough for upload + create + look, too little to overrun a minute.
BURST_SECONDS = 1.0
#: When a provider asks us to slow down without saying for how long.
COOLDOWN_DEFAULT_SECONDS = 5.0


class AccountGate:
    """The gate of one account in one process and one event loop."""

    def __init__(self, *, requests_per_minute: float, concurrent_max: int, cooldown_max_seconds: float) -> None:
        self._requests_per_minute = requests_per_minute
        self._cooldown_max_seconds = cooldown_max_seconds
        self._limiter = _limiter(requests_per_minute)
        self._concurrent = asyncio.Semaphore(concurrent_max)
        # aiolimiter wakes the *cheapest* waiter first; the lock makes it the first one.
        self._queue = asyncio.Lock()
        self._closed_until_s = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a turn, say how many seconds that took, and keep a place among the concurrent calls meanwhile."""
        asked_s = clock.monotonic_s()
        async with self._concurrent:
            async with self._queue:
                await self._rest()
                await self._limiter.acquire()
                await self._rest()  # a 429 may have come in while we waited for the bucket
            yield clock.monotonic_s() - asked_s

    def set_share(self, *, owned: int, of: int) -> None:
        """Use `owned`/`of` of the account's rate from now on. A worker without tasks keeps the share of one."""
        share = max(owned, 1) / max(of, 1)
        # A limiter's drip rate is fixed when it is made, so a new rate is a new limiter.
        self._limiter = _limiter(self._requests_per_minute * share)

    def cool_down(self, seconds: float | None) -> float:
        """Close the gate for as long as the provider asks, within our own bound; returns the pause taken."""
        pause = COOLDOWN_DEFAULT_SECONDS if seconds is None else max(seconds, 0.0)
        pause = min(pause, self._cooldown_max_seconds)
        self._closed_until_s = max(self._closed_until_s, clock.monotonic_s() + pause)
        return pause

    async def _rest(self) -> None:
        while (left := self._closed_until_s - clock.monotonic_s()) > 0:  # noqa: ASYNC110 - an instant, not an event
            await asyncio.sleep(left)


def _limiter(per_minute: float) -> AsyncLimiter:
    """Make a bucket that never lets more than `per_minute` (at least one) through in any minute, burst included."""
    burst = max(1.0, min(per_minute / MINUTE_SECONDS * BURST_SECONDS, per_minute / 2))
    drip_per_minute = per_minute - burst if per_minute >= 2 else per_minute
    return AsyncLimiter(burst, burst * MINUTE_SECONDS / drip_per_minute)
