"""Law: what the simulator does, for any provider and without HTTP: files, batches, single calls, faults, limits.

Every change of state and its ledger lines are one transaction, and the call returns when the lines are on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents import clock
from batchmill.agents.simulator import lives
from batchmill.agents.simulator.caching import PromptCache
from batchmill.agents.simulator.calling import Call, Called, Caller
from batchmill.agents.simulator.engine import Engine, ended_facts, record
from batchmill.agents.simulator.faults import (
    Fault,
    FaultPlan,
    FaultRule,
    Place,
    active_at,
    plan_from_json,
    plan_to_json,
    struck,
)
from batchmill.agents.simulator.gold import GoldTable, load_gold
from batchmill.agents.simulator.ledger import online_totals
from batchmill.agents.simulator.ledger_writer import LedgerWriter, entry_bytes
from batchmill.agents.simulator.limits import (
    CONTROL,
    CREATES,
    EVERY_MODEL,
    Client,
    Limiter,
    limits_from_json,
    limits_to_json,
)
from batchmill.agents.simulator.records import Batch, StoredFile
from batchmill.agents.simulator.store import Store
from batchmill.agents.simulator.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from batchmill.agents.simulator.config import SimulatorConfig
    from batchmill.agents.simulator.dialect import Dialect
    from batchmill.agents.simulator.limits import QueueRoom, Verdict

__all__ = ["Core", "Upload"]

WINDOW_MS: Final = 86_400_000
_PLAN: Final = "faults"
_LIMITS: Final = "limits"
_ALWAYS: Final[FaultPlan] = {Fault.SHUFFLED: FaultRule(rate=1.0)}


class Core:
    def __init__(
        self,
        config: SimulatorConfig,
        dialects: Mapping[str, Dialect],
        events: Mapping[str, Callable[[Batch], dict[str, Any] | None]],
    ) -> None:
        self.config = config
        self.store = Store(config.data_dir)
        staged = self.store.staged()
        self.ledger = LedgerWriter(config.ledger_file, staged=staged.values())
        self.store.unstage(staged)
        self._dialects = dialects
        gold = GoldTable() if config.gold_path is None else _gold(config, config.gold_path)
        self._changed = plan_from_json(self.store.setting(_PLAN) or {})
        kept = self.store.setting(_LIMITS)
        self._webhooks = Webhooks(config=config, events=events, strike=self.strike)
        cache = PromptCache(tokens_min=config.prompt_cache_tokens_min)
        self._limiter = Limiter(limits_from_json(kept) if kept else config.limits)
        self._engine = Engine(
            config=config,
            store=self.store,
            ledger=self.ledger,
            gold=gold,
            dialects=dialects,
            plan=lambda: self.plan,
            limits=lambda: self._limiter.limits,
            cache=cache,
            on_ended=self._webhooks.ended,
        )
        self._caller = Caller(
            config=config,
            ledger=self.ledger,
            gold=gold,
            limiter=self._limiter,
            cache=cache,
            plan=lambda: self.plan,
            strike=self.strike,
            count=self.store.count,
        )
        self._caller.restore(online_totals(config.ledger_file))
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for leftover in self.config.data_dir.glob("upload-*.part"):
            leftover.unlink()
        self._running = asyncio.create_task(self._engine.run())
        self._webhooks.start()

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
        await self._webhooks.stop()
        await self.ledger.close()
        self.store.close()

    # Faults --------------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> FaultPlan:
        return {**_ALWAYS, **self.config.faults, **self._changed}

    def change_faults(self, value: Any) -> None:
        """Rules set while running outlive a restart; `nth` counts from now."""
        rules = plan_from_json(value)
        self._changed = {**self._changed, **rules}
        with self.store.transaction():
            self.store.keep_setting(_PLAN, plan_to_json(self._changed))
            for fault in rules:
                self.store.forget_count(f"nth:{fault}")

    def reset_faults(self) -> None:
        """Back to the rules of the configuration."""
        self._changed = {}
        self.store.keep_setting(_PLAN, {})

    def strikes(self, place: Place, key: str) -> tuple[Fault, ...]:
        """The faults that fire for this request or batch; each asking counts as one."""
        plan = self.plan
        active = active_at(plan, place)
        if not active:
            return ()
        with self.store.transaction():
            ordinals = {fault: self.store.count(f"nth:{fault}") for fault, rule in active if rule.nth}
            seen = self.store.count(f"seen:{place}:{key}")
        return struck(plan, place, seed=self.config.seed, key=key, occurrence=seen, ordinals=ordinals)

    def strike(self, place: Place, key: str) -> Fault | None:
        """The first of them: one request can only go wrong in one way."""
        return next(iter(self.strikes(place, key)), None)

    # Single calls, limits -------------------------------------------------------------------------------------------

    async def call(self, call: Call) -> Called:
        """Answer one question now, or say how it went wrong; bills are on disk when this returns."""
        return await self._caller.call(call)

    def ask_control(self, provider: str, key: str) -> Verdict:
        """May this key make one more call that concerns files or batches?"""
        return self._limiter.ask(Client(provider, key, CONTROL), tokens=0, now_s=clock.monotonic_s())

    def ask_create(self, provider: str, key: str) -> Verdict:
        """May this key create one more batch this hour?"""
        return self._limiter.ask(Client(provider, key, CREATES), tokens=0, now_s=clock.monotonic_s())

    def has_room(self, provider: str, *, requests: int) -> bool:
        """May so many requests wait beside those of all batches that have not ended, whatever their models?"""
        room = self._limiter.limits.queue_of(EVERY_MODEL)
        waiting = [batch for batch in self.store.unfinished() if batch.provider == provider]
        return lives.queue_problem(waiting, room, requests=requests, tokens=0) is None

    def change_limits(self, value: Any) -> None:
        """Limits set while running outlive a restart; what is not named in them is not limited."""
        limits = limits_from_json(value)
        self.store.keep_setting(_LIMITS, limits_to_json(limits))
        self._limiter.change(limits)

    def reset_limits(self) -> None:
        """Back to the limits of the configuration."""
        self.store.keep_setting(_LIMITS, {})
        self._limiter.change(self.config.limits)

    def shown_limits(self) -> dict[str, Any]:
        """What is allowed, and what every client used and was refused since the limits were set."""
        return {
            "limits": limits_to_json(self._limiter.limits),
            "clients": self._limiter.shown(clock.monotonic_s()),
            "queues": self._queues(),
        }

    def _queues(self) -> list[dict[str, Any]]:
        models = {(batch.provider, batch.model) for batch in self.store.unfinished() if batch.model is not None}
        shown = []
        for provider, model in sorted(models):
            tokens, requests = self.queued(provider, model)
            shown.append({"provider": provider, "model": model, "tokens": tokens, "requests": requests})
        return shown

    def queued(self, provider: str, model: str) -> tuple[int, int]:
        """Prompt tokens and requests of all batches of a model that were let in and have not ended."""
        batches = [batch for batch in self.store.unfinished() if (batch.provider, batch.model) == (provider, model)]
        return sum(batch.queued_tokens for batch in batches), sum(batch.total for batch in batches)

    def queue_of(self, model: str) -> QueueRoom:
        return self._limiter.limits.queue_of(model)

    def totals(self) -> dict[str, Any]:
        online = self._caller.tally
        totals = self.store.totals()
        return totals | {
            "billed_calls": online.billed_calls,
            "cost_nanos": totals["cost_nanos"] + online.cost_nanos,
            "online_cost_nanos": online.cost_nanos,
        }

    # Files ---------------------------------------------------------------------------------------------------------

    def upload(self) -> Upload:
        return Upload(self.config.data_dir / f"upload-{secrets.token_hex(8)}.part")

    async def keep_upload(self, upload: Upload, *, provider: str, filename: str, purpose: str) -> StoredFile:
        file = StoredFile(
            id=f"file-{secrets.token_hex(12)}",
            provider=provider,
            filename=filename,
            purpose=purpose,
            size_bytes=upload.size_bytes,
            sha256=upload.sha256,
            created_ms=clock.wall_ms(),
        )
        upload.path.replace(self.store.payload_path(file.id))
        facts = {"file_id": file.id, "purpose": purpose, "size_bytes": file.size_bytes, "sha256": file.sha256}
        await self._record(lambda: self.store.add_file(file), entry_bytes("file_created", facts))
        return file

    async def delete_file(self, file: StoredFile) -> None:
        entry = entry_bytes("file_deleted", {"file_id": file.id})
        await self._record(lambda: self.store.delete_file(file.id), entry)
        self.store.drop_unused_payload(file.id)

    # Batches -------------------------------------------------------------------------------------------------------

    async def create_batch(
        self,
        file: StoredFile,
        *,
        endpoint: str,
        window: str,
        metadata: Mapping[str, str],
        quirks: Sequence[Fault] = (),
        model: str | None = None,
    ) -> Batch:
        """`quirks` are faults that this batch has in any case: those of the flavour it was asked in.

        `model` where the create call names it; else the rows do.
        """
        batch = self._planned(file.provider, "batch_", file.id, file.sha256, quirks, endpoint=endpoint, window=window)
        due = batch.created_ms + round(self.config.validating_seconds * 1000)
        return await self._opened(replace(batch, due_ms=due, metadata=dict(metadata), model=model))

    async def create_inline_batch(
        self, upload: Upload, *, provider: str, id_prefix: str, endpoint: str, window: str, rows: int
    ) -> Batch:
        """Of requests that came in the create call and were checked on their way in: it runs at once.

        They are no file of the account's: nobody can read or delete them, and they go when the batch ends.
        """
        input_id = f"inline-{secrets.token_hex(12)}"
        upload.path.replace(self.store.payload_path(input_id))
        batch = self._planned(provider, id_prefix, input_id, upload.sha256, endpoint=endpoint, window=window)
        return await self._opened(lives.begun(batch, batch.created_ms, total=rows, model=None, queued_tokens=0))

    def _planned(
        self,
        provider: str,
        id_prefix: str,
        input_id: str,
        sha256: str,
        quirks: Sequence[Fault] = (),
        *,
        endpoint: str,
        window: str,
    ) -> Batch:
        """Everything that chance decides about a batch is decided here."""
        occurrence = self.store.count(f"input:{sha256}")
        key = f"{sha256}/{occurrence}"
        plan, now = self.plan, clock.wall_ms()
        faults = {quirk: FaultRule() for quirk in quirks}
        faults |= {fault: plan[fault] for fault in self.strikes(Place.BATCH, key)}
        lag = faults[Fault.LIST_LAG].seconds if Fault.LIST_LAG in faults else 0.0
        return Batch(
            id=f"{id_prefix}{secrets.token_hex(12)}",
            provider=provider,
            endpoint=endpoint,
            input_file_id=input_id,
            input_sha256=sha256,
            occurrence=occurrence,
            window=window,
            created_ms=now,
            expires_ms=now + WINDOW_MS,
            listed_ms=now + round(lag * 1000),
            latency_ms=lives.latency_ms(self.config, provider, key, now),
            faults={str(fault): self._measure(provider, fault, rule) for fault, rule in faults.items()},
        )

    async def _opened(self, batch: Batch) -> Batch:
        await self._record(lambda: self.store.add_batch(batch), entry_bytes("batch_created", _created(batch)))
        self._engine.wake()
        return batch

    async def delete_batch(self, batch: Batch) -> None:
        """An ended one: it is shown no more, and its results are gone. What it cost stays in the totals."""
        gone = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id is not None]

        def change() -> None:
            self.store.hide_batch(batch.id)
            for file_id in gone:
                self.store.delete_file(file_id)

        await self._record(change, *(entry_bytes("file_deleted", {"file_id": file_id}) for file_id in gone))
        for file_id in gone:
            self.store.drop_unused_payload(file_id)

    async def cancel_batch(self, batch: Batch, *, ignored: bool) -> Batch:
        at_once = self._dialects[batch.provider].cancels_at_once
        wait_ms = 0 if at_once else round(self.config.cancelling_seconds * 1000)
        asked = lives.cancelling(batch, clock.wall_ms(), wait_ms=wait_ms, ignored=ignored)
        entries = [entry_bytes("batch_cancel_asked", {"batch_id": batch.id})]
        if asked.status.ended:  # cancelled before its rows were looked at
            entries.append(entry_bytes("batch_ended", ended_facts(asked)))
        await self._record(lambda: self.store.save_batch(asked), *entries)
        if asked.status.ended:
            self._webhooks.ended(asked)
            self.store.drop_unused_payload(batch.input_file_id)
        self._engine.wake()
        return asked

    def _measure(self, provider: str, fault: Fault, rule: FaultRule) -> float:
        if fault is not Fault.EXPIRE:
            return rule.seconds
        return 1.0 if self._dialects[provider].expires_whole else rule.share

    async def _record(self, change: Callable[[], None], *entries: bytes) -> None:
        """A change of state and its ledger lines in one transaction; returns when the lines are on disk."""
        await record(self.store, self.ledger, change, entries)


class Upload:
    """Bytes of a file on their way to the payload directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size_bytes += len(data)

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Nothing is left, unless the upload was kept (then it has another name)."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def _gold(config: SimulatorConfig, path: Path) -> GoldTable:
    return load_gold(path, text_field=config.gold_text_field, label_field=config.gold_label_field)


def _created(batch: Batch) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "provider": batch.provider,
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id,
        "input_sha256": batch.input_sha256,
        "metadata": batch.metadata,
    }
