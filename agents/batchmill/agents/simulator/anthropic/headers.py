"""Law: Anthropic's headers about rates. Pure. Resets are instants as it writes them, `2026-01-02T03:04:05Z`."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.agents.simulator.limits import Verdict

__all__ = ["instant", "rate_headers"]


def rate_headers(rates: Verdict, *, now_ms: int) -> dict[str, str]:
    """Three for each rate that is limited, none for the others."""
    headers: dict[str, str] = {}
    for name, told in (("requests", rates.requests), ("tokens", rates.tokens)):
        if told is not None:
            headers[f"anthropic-ratelimit-{name}-limit"] = str(told.limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(told.remaining)
            headers[f"anthropic-ratelimit-{name}-reset"] = instant(now_ms / 1000 + told.reset_seconds)
    return headers


def instant(seconds: float) -> str:
    """Whole seconds, rounded up: whoever waits as told does not come too early."""
    return datetime.fromtimestamp(math.ceil(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
