"""Law: one question, answered now: for any provider and without HTTP. Asked, limited, struck, billed, answered.

A call that a model answers is billed before anybody hears of it, at list price. What is refused, by a limit or by a
fault, is not billed. What the client hears is told by a status; the words for it are the provider's.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents import clock
from batchmill.agents.simulator.answering import Answer, Question, answer
from batchmill.agents.simulator.chance import sha256_hex, unit
from batchmill.agents.simulator.faults import Fault, FaultPlan, Place, active_at, row_struck
from batchmill.agents.simulator.ledger_writer import LedgerWriter, entry_bytes
from batchmill.agents.simulator.limits import Client, Limiter, Verdict
from batchmill.agents.simulator.pricing import LIST_PERCENT, Price, cost_nanos, tokens_of_chars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchmill.agents.simulator.caching import PromptCache
    from batchmill.agents.simulator.config import SimulatorConfig
    from batchmill.agents.simulator.gold import GoldTable
    from batchmill.agents.simulator.ledger import OnlineTotals

__all__ = ["NO_MODEL", "Call", "Called", "Caller"]

NO_MODEL: Final = 404
LIMITED: Final = 429
_OK: Final = 200

# What the client hears; 0 is silence: the connection drops, after `seconds` where the fault hangs.
_HEARD: Final[Mapping[Fault, int]] = MappingProxyType(
    {
        Fault.CALL_429: 429,
        Fault.CALL_QUOTA: 429,
        Fault.CALL_500: 500,
        Fault.CALL_503: 503,
        Fault.CALL_DISCONNECT: 0,
        Fault.CALL_HANG: 0,
        Fault.CALL_BILL_THEN_500: 500,
        Fault.CALL_BILL_THEN_DISCONNECT: 0,
        Fault.CALL_BILL_THEN_HANG: 0,
    }
)
_BILLED: Final = frozenset({Fault.CALL_BILL_THEN_500, Fault.CALL_BILL_THEN_DISCONNECT, Fault.CALL_BILL_THEN_HANG})
_UNBILLED: Final = _HEARD.keys() - _BILLED
# Retry-After, or how long the silence lasts before the connection drops
_TOLD_SECONDS: Final = frozenset({Fault.CALL_429, Fault.CALL_503, Fault.CALL_HANG, Fault.CALL_BILL_THEN_HANG})
# Of a row's faults, those that spoil what the model says; the others spoil lines of files, which a call has none of.
_SPOILING: Final = frozenset(
    {
        Fault.REFUSAL,
        Fault.TRUNCATED,
        Fault.EMPTY_CONTENT,
        Fault.MALFORMED_JSON,
        Fault.SCHEMA_VIOLATION,
        Fault.WRONG_ANSWER,
        Fault.USAGE_ABSENT,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request for one answer, read and checked by the provider's routes."""

    provider: str
    key: str  # the API key, for the rates
    question: Question
    body: bytes  # as it came, for the hash of the bill
    custom_id: str = ""  # the request id the client chose, if it chose one


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """What became of a call. `answer` is there when the client is to hear it: `status` 200."""

    id: str
    created_ms: int
    status: int  # as the client hears it; 0: nothing, the connection drops
    rates: Verdict
    answer: Answer | None = None
    fault: Fault | None = None
    #: of Retry-After, or of silence before the connection drops; None: there is none
    seconds: float | None = None


@dataclass(slots=True)
class _Tally:
    billed_calls: int = 0
    cost_nanos: int = 0


@dataclass(slots=True, kw_only=True)
class Caller:
    """What all single calls are worked with."""

    config: SimulatorConfig
    ledger: LedgerWriter
    gold: GoldTable
    limiter: Limiter
    cache: PromptCache
    plan: Callable[[], FaultPlan]
    strike: Callable[[Place, str], Fault | None]
    count: Callable[[str], int]
    tally: _Tally = field(default_factory=_Tally)

    def restore(self, totals: OnlineTotals) -> None:
        self.tally = _Tally(billed_calls=totals.billed_calls, cost_nanos=totals.cost_nanos)

    async def call(self, call: Call) -> Called:
        call_id, now = secrets.token_hex(16), clock.wall_ms()
        price = self.config.price_of(call.question.model)
        if price is None:
            return Called(id=call_id, created_ms=now, status=NO_MODEL, rates=Verdict())
        client = Client(call.provider, call.key, call.question.model)
        rates = self.limiter.ask(client, tokens=_tokens_asked(call.question), now_s=clock.monotonic_s())
        if rates.limited_by is not None:
            return Called(id=call_id, created_ms=now, status=LIMITED, rates=rates, seconds=rates.wait_seconds)
        digest = hashlib.sha256(call.body).hexdigest()
        fault = self.strike(Place.CALL, digest)
        seconds = 0.0 if fault is None else self.plan()[fault].seconds
        turn = _Turn(call, call_id, now, rates, price, digest, fault, seconds)
        return turn.broken() if fault in _UNBILLED else await self._answered(turn)

    async def _answered(self, turn: _Turn) -> Called:
        question, lost = turn.call.question, turn.fault in _BILLED
        spoilt = self._spoilt(turn)
        given = self.cache.told(
            turn.call.provider, question, self._given(question, spoilt), writes=turn.price.cache_write_nanos is not None
        )
        bill = entry_bytes("bill", self._bill(turn, given, delivered=not lost))
        written = self.ledger.written(self.ledger.stage([bill]))
        # The line reaches the disk while the model seems to think: the wait for it costs nothing.
        await asyncio.sleep(self._latency_seconds(turn))
        await written
        return turn.broken() if lost else turn.answered(given, turn.fault or spoilt)

    def _given(self, question: Question, spoilt: Fault | None) -> Answer:
        config = self.config
        accuracy = config.accuracy_of(question.model)
        return answer(question, seed=config.seed, accuracy=accuracy, gold=self.gold, fault=spoilt)

    def _spoilt(self, turn: _Turn) -> Fault | None:
        rules = tuple((fault, rule) for fault, rule in active_at(self.plan(), Place.ROW) if fault in _SPOILING)
        if not rules:
            return None
        name = turn.call.custom_id or f"{turn.digest}/{self.count(f'call:{turn.digest}')}"
        text = sha256_hex(turn.call.question.text.strip())
        return row_struck(rules, seed=self.config.seed, line=0, custom_id=name, text_sha256=text)

    def _latency_seconds(self, turn: _Turn) -> float:
        low, high = self.config.single_latency_seconds
        more = turn.seconds if turn.fault is Fault.CALL_SLOW else 0.0
        return more + low + (high - low) * unit(self.config.seed, "call latency", turn.digest)

    def _bill(self, turn: _Turn, given: Answer, *, delivered: bool) -> dict[str, Any]:
        cost = cost_nanos(turn.price, **given.tokens, percent=LIST_PERCENT)
        self.tally.billed_calls += 1
        self.tally.cost_nanos += cost
        return {
            "batch_id": "",
            "call_id": turn.id,
            "provider": turn.call.provider,
            "tier": "online",
            "custom_id": turn.call.custom_id,
            "request_sha256": turn.digest,
            "result_sha256": sha256_hex(given.content),
            "model": turn.call.question.model,
            **given.tokens,
            "cost_nanos": cost,
            "delivered": delivered,
        }


@dataclass(frozen=True, slots=True)
class _Turn:
    """A call that was let in, and what strikes it: read once, so a change of the rules meanwhile does not matter."""

    call: Call
    id: str
    now_ms: int
    rates: Verdict
    price: Price
    digest: str  # of the body
    fault: Fault | None
    seconds: float  # the fault's measure

    def answered(self, given: Answer, fault: Fault | None) -> Called:
        return Called(id=self.id, created_ms=self.now_ms, status=_OK, rates=self.rates, answer=given, fault=fault)

    def broken(self) -> Called:
        """What the client hears of a call that its fault keeps from it."""
        assert self.fault is not None, "only a fault breaks a call"
        return Called(
            id=self.id,
            created_ms=self.now_ms,
            status=_HEARD[self.fault],
            rates=self.rates,
            fault=self.fault,
            seconds=self.seconds if self.fault in _TOLD_SECONDS else None,
        )


def _tokens_asked(question: Question) -> int:
    """What a rate counts: the prompt, and all that the answer is allowed to have."""
    return max(tokens_of_chars(question.chars), 1) + (question.output_tokens_max or 0)
