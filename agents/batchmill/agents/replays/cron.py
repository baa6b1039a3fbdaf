"""When a cron expression is due, in UTC. What must not live here: what happens then (`scheduling`)."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError

__all__ = ["cron_fault", "ticks_around"]

_MINUTE: Final = timedelta(minutes=1)


def cron_fault(text: str) -> str | None:
    """Why nobody can tell when that is, or None."""
    try:
        return None if next(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)), None) else "it never comes"
    except CronSimError as error:
        return str(error)


def ticks_around(cron: str, now_ms: int) -> tuple[int | None, int | None]:
    """The newest tick that has come, and the next; none of an expression that cannot be read."""
    now = datetime.fromtimestamp(now_ms / 1_000, UTC)
    with suppress(CronSimError):
        last = next(CronSim(cron, now.replace(second=0, microsecond=0) + _MINUTE, reverse=True), None)
        return _ms(last), _ms(next(CronSim(cron, now), None))
    return None, None


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000)
