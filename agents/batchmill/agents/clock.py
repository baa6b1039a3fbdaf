"""The time: the only module that asks what it is.

What lives here: three clocks, each for one purpose. What must not: deciding anything from them. Decisions take `now_ms`
as an argument, so that a test can hand in any time it likes.
"""

import time
from datetime import UTC, datetime

__all__ = ["boottime_s", "monotonic_s", "rfc3339", "wall_ms"]


def wall_ms() -> int:
    """Milliseconds since the epoch: what is written into records and compared with other machines."""
    return time.time_ns() // 1_000_000


def monotonic_s() -> float:
    """Seconds that never run backwards: how long something took inside this process."""
    return time.monotonic()


def boottime_s() -> float:
    """Seconds since boot, counted on through a suspend: the clock of leases (a frozen machine must not gain time)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def rfc3339(at_ms: int) -> str:
    """Milliseconds since the epoch as text, UTC: `2026-11-24T12:00:00.000Z`."""
    return datetime.fromtimestamp(at_ms / 1_000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
