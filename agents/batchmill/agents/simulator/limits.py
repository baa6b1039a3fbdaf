"""Law: how much may be asked, and how much was: rates per key and model, rooms of the queue. Pure; the time is told.

A rate is a token bucket: `burst_seconds` of the rate are there at the start and at most, and it fills evenly, so that
in any span of T seconds no more than rate x (burst + T) passes. What is refused takes nothing. A single call takes one
request and its tokens: those of the prompt and as many as the answer may have. Buckets live in memory: a restart, and
any change of the limits, fills them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator.chance import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONTROL",
    "CREATES",
    "EVERY_MODEL",
    "Allowance",
    "Bucket",
    "Client",
    "Limiter",
    "Limits",
    "QueueRoom",
    "Rate",
    "Verdict",
    "limits_from_json",
    "limits_to_json",
]

EVERY_MODEL: Final = "*"
CONTROL: Final = "control calls"  # files and batches: not of any model
CREATES: Final = "batch creations"
CLIENTS_MAX: Final = 10_000
MINUTE_SECONDS: Final = 60.0
HOUR_SECONDS: Final = 3_600.0
_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Of one API key at one model. None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        _whole(self.requests_per_minute, self.tokens_per_minute)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRoom:
    """Of one model, over all batches that have not ended. None: no limit."""

    tokens_max: int | None = None
    requests_max: int | None = None

    def __post_init__(self) -> None:
        _whole(self.tokens_max, self.requests_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    rates: Mapping[str, Rate] = field(default_factory=dict)  # by model; "*" is every model that is not named
    queues: Mapping[str, QueueRoom] = field(default_factory=dict)
    control_per_minute: int | None = None  # calls of an API key that concern files and batches
    creates_per_hour: int | None = None  # batches of an API key
    burst_seconds: float = MINUTE_SECONDS

    def __post_init__(self) -> None:
        _whole(self.control_per_minute, self.creates_per_hour)
        if not 0 < self.burst_seconds <= HOUR_SECONDS:
            raise ValueError(f"burst_seconds lies between 0 and {HOUR_SECONDS:g}")

    def rate_of(self, model: str) -> Rate:
        return self.rates.get(model) or self.rates.get(EVERY_MODEL) or Rate()

    def queue_of(self, model: str) -> QueueRoom:
        return self.queues.get(model) or self.queues.get(EVERY_MODEL) or QueueRoom()


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a rate is for."""

    provider: str
    key: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """One bucket, as a provider's headers tell it. `reset_seconds`: until it is full again."""

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`limited_by` None: it may pass. `wait_seconds` None: it is larger than the whole bucket and never will."""

    limited_by: str | None = None  # "requests" or "tokens"
    wait_seconds: float | None = 0.0
    requests: Allowance | None = None
    tokens: Allowance | None = None


class Bucket:
    def __init__(self, limit: int, *, period_seconds: float, burst_seconds: float, now_s: float) -> None:
        self._limit = limit
        self._per_second = limit / period_seconds
        self._room = max(self._per_second * min(burst_seconds, period_seconds), 1.0)
        self._level = self._room
        self._at_s = now_s

    def wait_seconds(self, amount: int, now_s: float) -> float | None:
        """How long until so much is there; None: never."""
        if amount > self._room:
            return None
        lacking = amount - self._filled(now_s)
        return max(lacking, 0.0) / self._per_second

    def take(self, amount: int, now_s: float) -> None:
        self._level = self._filled(now_s) - amount

    def shown(self, now_s: float) -> Allowance:
        level = self._filled(now_s)
        reset = (self._room - level) / self._per_second
        return Allowance(limit=self._limit, remaining=max(int(level), 0), reset_seconds=reset)

    def _filled(self, now_s: float) -> float:
        """A clock that stands still or goes back adds nothing."""
        self._level = min(self._level + max(now_s - self._at_s, 0.0) * self._per_second, self._room)
        self._at_s = max(now_s, self._at_s)
        return self._level


@dataclass(slots=True, kw_only=True)
class _Account:
    """The buckets of one client, and what went through them."""

    since_s: float
    requests: Bucket | None
    tokens: Bucket | None
    requests_used: int = 0
    tokens_used: int = 0
    requests_refused: int = 0


class Limiter:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: dict[Client, _Account] = {}

    @property
    def limits(self) -> Limits:
        return self._limits

    def change(self, limits: Limits) -> None:
        """From now on; what was used so far is forgotten."""
        self._limits = limits
        self._accounts.clear()

    def ask(self, client: Client, *, tokens: int, now_s: float) -> Verdict:
        """Take one request and its tokens, or nothing of either."""
        account = self._account(client, now_s)
        for name, bucket, amount in (("requests", account.requests, 1), ("tokens", account.tokens, tokens)):
            wait = 0.0 if bucket is None else bucket.wait_seconds(amount, now_s)
            if wait is None or wait > 0:
                account.requests_refused += 1
                return _verdict(account, now_s, limited_by=name, wait_seconds=wait and _rounded_up(wait))
        for bucket, amount in ((account.requests, 1), (account.tokens, tokens)):
            if bucket is not None:
                bucket.take(amount, now_s)
        account.requests_used += 1
        account.tokens_used += tokens
        return _verdict(account, now_s)

    def shown(self, now_s: float) -> list[dict[str, Any]]:
        """Every client seen since the limits were set; keys are told by a hash."""
        return [_account_shown(client, account, now_s) for client, account in self._accounts.items()]

    def _account(self, client: Client, now_s: float) -> _Account:
        account = self._accounts.get(client)
        if account is None:
            if len(self._accounts) >= CLIENTS_MAX:
                del self._accounts[next(iter(self._accounts))]
            account = self._accounts[client] = self._opened(client.model, now_s)
        return account

    def _opened(self, model: str, now_s: float) -> _Account:
        limits = self._limits
        if model == CREATES:
            # as many as an hour allows may come at once: the burst is the hour itself
            return _Account(
                since_s=now_s, requests=_bucket(limits.creates_per_hour, HOUR_SECONDS, HOUR_SECONDS, now_s), tokens=None
            )
        rate = Rate(requests_per_minute=limits.control_per_minute) if model == CONTROL else limits.rate_of(model)
        burst = limits.burst_seconds
        return _Account(
            since_s=now_s,
            requests=_bucket(rate.requests_per_minute, MINUTE_SECONDS, burst, now_s),
            tokens=_bucket(rate.tokens_per_minute, MINUTE_SECONDS, burst, now_s),
        )


def _bucket(limit: int | None, period_seconds: float, burst_seconds: float, now_s: float) -> Bucket | None:
    if limit is None:
        return None
    return Bucket(limit, period_seconds=period_seconds, burst_seconds=burst_seconds, now_s=now_s)


def _verdict(
    account: _Account, now_s: float, *, limited_by: str | None = None, wait_seconds: float | None = 0.0
) -> Verdict:
    return Verdict(
        limited_by=limited_by,
        wait_seconds=wait_seconds,
        requests=None if account.requests is None else account.requests.shown(now_s),
        tokens=None if account.tokens is None else account.tokens.shown(now_s),
    )


def _account_shown(client: Client, account: _Account, now_s: float) -> dict[str, Any]:
    told = _verdict(account, now_s)
    requests = {} if told.requests is None else asdict(told.requests)
    tokens = {} if told.tokens is None else asdict(told.tokens)
    return {
        "provider": client.provider,
        "key_sha256": digest_of(client.key).hex()[:12],
        "model": client.model,
        "since_seconds": round(now_s - account.since_s, 3),
        "requests": {"used": account.requests_used, "refused": account.requests_refused, **requests},
        "tokens": {"used": account.tokens_used, **tokens},
    }


def _rounded_up(seconds: float) -> float:
    """To the millisecond a client is told, and one more: whoever waits as told is not refused again by a rounding."""
    return (math.ceil(seconds * _MS) + 1) / _MS


def limits_from_json(value: Any) -> Limits:
    """An object with the names of `Limits`; a name that is unknown is refused."""
    if not isinstance(value, dict):
        raise ValueError("give an object of limits")  # noqa: TRY004 - refused like any other value
    given = dict(value)
    try:
        given |= {name: _by_model(given[name], made) for name, made in _BY_MODEL.items() if name in given}
        return Limits(**given)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"limits: {error}") from None


def limits_to_json(limits: Limits) -> dict[str, Any]:
    return {
        "rates": {model: asdict(rate) for model, rate in limits.rates.items()},
        "queues": {model: asdict(room) for model, room in limits.queues.items()},
        "control_per_minute": limits.control_per_minute,
        "creates_per_hour": limits.creates_per_hour,
        "burst_seconds": limits.burst_seconds,
    }


_BY_MODEL: Final[Mapping[str, Any]] = MappingProxyType({"rates": Rate, "queues": QueueRoom})


def _by_model(value: Any, made: Any) -> dict[str, Any]:
    return {str(model): made(**fields) for model, fields in dict(value).items()}


def _whole(*values: int | None) -> None:
    if any(value is not None and (value < 1) for value in values):
        raise ValueError("a limit is a whole number from 1; leave it out for none")
