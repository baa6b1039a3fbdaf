"""Law: how long batches really took, by published measurements, and how much faster a simulator shall go through it.

Figures of one run of 100,000 rows: Gemini 45 minutes (ten batches), Claude 2 h 44 min (one batch), OpenAI 14 to 84
minutes through the day. When in the day OpenAI is slow was not published: here it is fastest at 06:00 UTC and slowest
at 18:00. A time scale of 1000 makes a day of 86 seconds, its hours included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PROFILES", "PUBLISHED", "Profile", "profile_seconds"]

PUBLISHED: Final = "published"  # each provider its own profile
_MINUTE_SECONDS: Final = 60.0
_DAY_SECONDS: Final = 86_400.0
_FASTEST_SECONDS: Final = 6 * 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Minutes from the begin of work to its end: at the fastest hour, and at the slowest."""

    fastest_minutes: float
    slowest_minutes: float


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "openai": Profile(fastest_minutes=14, slowest_minutes=84),
        "anthropic": Profile(fastest_minutes=164, slowest_minutes=164),
        "gemini": Profile(fastest_minutes=45, slowest_minutes=45),
    }
)


def profile_seconds(name: str, provider: str, *, wall_seconds: float, time_scale: float) -> float | None:
    """How long a batch that begins now takes; None where nothing was published of this provider."""
    profile = PROFILES.get(provider if name == PUBLISHED else name)
    if profile is None:
        return None
    turn = (wall_seconds * time_scale - _FASTEST_SECONDS) / _DAY_SECONDS
    slowness = (1 - math.cos(2 * math.pi * turn)) / 2
    minutes = profile.fastest_minutes + (profile.slowest_minutes - profile.fastest_minutes) * slowness
    return minutes * _MINUTE_SECONDS / time_scale
