"""Law: one row in; its lines for the two result files, its bill and its count out. Pure, the same for every provider.

A row that a model answered is billed, whatever becomes of the answer on its way. A row that failed with an HTTP status,
or that the batch did not come to, is not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchmill.agents.simulator.answering import Answer, answer
from batchmill.agents.simulator.chance import digest_of, sha256_hex
from batchmill.agents.simulator.faults import Fault, FaultPlan, Place, active_at, row_struck
from batchmill.agents.simulator.pricing import Price, cost_nanos
from batchmill.agents.simulator.records import Batch, BatchStatus

if TYPE_CHECKING:
    from batchmill.agents.simulator.caching import PromptCache
    from batchmill.agents.simulator.config import SimulatorConfig
    from batchmill.agents.simulator.dialect import Dialect, RowRequest
    from batchmill.agents.simulator.gold import GoldTable

__all__ = ["Bench", "RowResult", "worked"]

_HTTP_STATUS = {Fault.ROW_400: 400, Fault.ROW_429: 429, Fault.ROW_500: 500, Fault.ROW_STATUS_0: 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    output: bytes = b""
    error: bytes = b""
    failed: bool = False
    run: bool = True
    bill: dict[str, Any] | None = None


class Bench:
    """What all rows of one batch are worked with."""

    def __init__(
        self,
        *,
        batch: Batch,
        dialect: Dialect,
        config: SimulatorConfig,
        gold: GoldTable,
        plan: FaultPlan,
        cache: PromptCache,
    ) -> None:
        self.batch = batch
        self.dialect = dialect
        self.config = config
        self.gold = gold
        self.cache = cache
        self.rules = active_at(plan, Place.ROW)
        self.loses_finished = batch.status is BatchStatus.CANCELLING and Fault.CANCEL_LOSES_FINISHED in batch.faults


def worked(bench: Bench, line: bytes, *, number: int, run: bool) -> RowResult:
    row = _asking_the_batch_s_model(bench.batch, bench.dialect.request(line))
    if not run:
        expired = bench.batch.status is not BatchStatus.CANCELLING
        return RowResult(error=bench.dialect.not_run(bench.batch, row, expired=expired), run=False)
    if row.invalid is not None:
        return RowResult(error=row.invalid, failed=True)
    price = bench.config.price_of(row.question.model)
    if price is None:
        return RowResult(error=bench.dialect.failed(bench.batch, row, 404), failed=True)
    fault = _fault_of(bench, row, number)
    if fault in _HTTP_STATUS:
        status = _HTTP_STATUS[fault]
        return RowResult(error=bench.dialect.failed(bench.batch, row, status), failed=status > 0)
    return _answered(bench, row, line, price, fault)


def _asking_the_batch_s_model(batch: Batch, row: RowRequest) -> RowRequest:
    """Where the batch names the model its rows need not."""
    if row.question.model:
        return row
    return replace(row, question=replace(row.question, model=batch.model or ""))


def _fault_of(bench: Bench, row: RowRequest, number: int) -> Fault | None:
    if not bench.rules:
        return None
    text = sha256_hex(row.question.text.strip())
    return row_struck(bench.rules, seed=bench.config.seed, line=number, custom_id=row.custom_id, text_sha256=text)


def _answered(bench: Bench, row: RowRequest, line: bytes, price: Price, fault: Fault | None) -> RowResult:
    config, question = bench.config, row.question
    given = answer(
        question, seed=config.seed, accuracy=config.accuracy_of(question.model), gold=bench.gold, fault=fault
    )
    given = bench.cache.told(bench.batch.provider, question, given, writes=price.cache_write_nanos is not None)
    lost = bench.loses_finished
    output = b"" if lost else _delivered(bench, row, given, fault)
    bill = _bill(bench, row, line, price, given, delivered=not lost and fault not in _UNREADABLE)
    if not lost:
        return RowResult(output=output, bill=bill)
    return RowResult(error=bench.dialect.not_run(bench.batch, row, expired=False), bill=bill, run=False)


_UNREADABLE = frozenset({Fault.ROW_MISSING, Fault.ROW_BROKEN_LINE, Fault.ROW_NOT_UTF8})


def _delivered(bench: Bench, row: RowRequest, given: Answer, fault: Fault | None) -> bytes:
    whole = bench.dialect.answered(bench.batch, row, given)
    match fault:
        case Fault.ROW_MISSING:
            return b""
        case Fault.ROW_DUPLICATED:
            return whole + whole
        case Fault.ROW_UNKNOWN:
            stranger = replace(row, custom_id=f"unknown-{digest_of(row.custom_id).hex()[:24]}")
            return whole + bench.dialect.answered(bench.batch, stranger, given)
        case Fault.ROW_BROKEN_LINE:
            return whole[: len(whole) // 2] + b"\n"
        case Fault.ROW_NOT_UTF8:
            return whole[:-2] + b"\xff" + whole[-2:]
        case _:
            return whole


def _bill(
    bench: Bench, row: RowRequest, line: bytes, price: Price, given: Answer, *, delivered: bool
) -> dict[str, Any]:
    tokens = given.tokens
    return {
        "batch_id": bench.batch.id,
        "provider": bench.batch.provider,
        "tier": "batch",
        "custom_id": row.custom_id,
        "request_sha256": hashlib.sha256(line).hexdigest(),
        "result_sha256": sha256_hex(given.content),
        "model": row.question.model,
        **tokens,
        "cost_nanos": cost_nanos(price, **tokens, percent=bench.config.batch_percent),
        "delivered": delivered,
    }
