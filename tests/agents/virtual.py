"""An event loop whose clock is not the world's: when nothing can run, it is at once as late as the next timer.

An hour of pacing takes a moment, and comes out the same each time. Only for code that waits for nothing but time.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["in_virtual_time"]

T = TypeVar("T")
#: what a turn of the loop takes at least: code that trusts a clock to move on would spin on one that stands still
TICK_SECONDS = 1e-9


class _Selector(selectors.SelectSelector):
    """Sleeps by telling the loop that the time is over."""

    loop: "_Loop"

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everything waits for something that will not come")
        self.loop.now_s += max(timeout, TICK_SECONDS)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.now_s = 1_000.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self):
        return self.now_s


def in_virtual_time(doing: Coroutine[Any, Any, T]) -> T:
    """Run it to its end."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(doing)
