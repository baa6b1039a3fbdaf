"""Law: OpenAI's headers about rates. Pure. Resets are durations as it writes them: `12ms`, `1.5s`, `6m0s`, `1h2m0s`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from batchmill.agents.simulator.limits import Verdict

__all__ = ["duration", "rate_headers"]

_MS: Final = 1_000
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000


def rate_headers(rates: Verdict) -> dict[str, str]:
    """Three for each rate that is limited, none for the others."""
    headers: dict[str, str] = {}
    for name, told in (("requests", rates.requests), ("tokens", rates.tokens)):
        if told is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(told.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(told.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(told.reset_seconds)
    return headers


def duration(seconds: float) -> str:
    ms = math.ceil(seconds * _MS)
    if ms < _MS:
        return f"{ms}ms"
    hours, rest = divmod(ms, _HOUR_MS)
    minutes, rest = divmod(rest, _MINUTE_MS)
    told = f"{hours}h" if hours else ""
    told += f"{minutes}m" if hours or minutes else ""
    return f"{told}{rest / _MS:g}s"
