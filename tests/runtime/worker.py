"""A worker of a three-step pipeline, started by the tests as its own process: `python -m tests.runtime.worker JSON`.

raw -> (re-key) -> mid -> (de-duplicate through state) -> queue in state -> effect `pump` -> out. Repeats go to dup.
Every fact worth asserting is printed as one JSON line.
"""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchmill.agents.clock import boottime_s
from batchmill.agents.runtime import (
    App,
    BareSendError,
    LogRecord,
    Observer,
    PoisonEffectError,
    RuntimeConfig,
    Slice,
    Task,
    create_app,
    run_worker,
)
from batchmill.agents.settings_groups import RuntimeSettings
from batchmill.schemas.ids import partition_for

TABLE = "items"


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    status: str


class ItemCodec:
    def encode(self, row: Item) -> bytes:
        return json.dumps([row.id, row.status]).encode()

    def decode(self, data: bytes) -> Item:
        return Item(*json.loads(data))

    def table(self, _row: Item) -> str:
        return TABLE

    def key(self, row: Item) -> str:
        return row.id

    def entries(self, row: Item) -> tuple[tuple[str, str], ...]:
        return (("queue", row.id),) if row.status == "queued" else ()


def say(what: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"what": what, **facts}) + "\n")
    sys.stdout.flush()


class Saying(Observer):
    def fenced(self, partition: int, seconds: float) -> None:
        say("fenced", partition=partition, boottime=boottime_s())

    def restored(self, partition: int, rows: int, seconds: float, *, from_local: bool) -> None:
        say("restored", partition=partition, rows=rows, from_local=from_local, seconds=seconds)

    def recycled(self, partition: int) -> None:
        say("recycled", partition=partition)

    def suspicious(self, partition: int, what: str) -> None:
        say("suspicious", partition=partition, topic=what)

    def poisoned(self, topic: str, partition: int, offset: int) -> None:
        say("poisoned", topic=topic, partition=partition, offset=offset)

    def backpressure(self, partition: int, *, on: bool) -> None:
        say("backpressure", partition=partition, on=on)

    def outbox(self, partition: int, records: int, size_bytes: int) -> None:
        if records > 100:
            say("outbox", partition=partition, records=records)

    def forwarded(self, topic: str, partition: int) -> None:
        say("forwarded", topic=topic, partition=partition)


class Pipeline:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        prefix = options["prefix"]
        self.raw, self.mid, self.out, self.dup, self.state, self.dead = (
            f"{prefix}.{name}" for name in ("raw", "mid", "out", "dup", "state", "dead")
        )
        self.poison = options.get("poison", "").encode()
        self.most_waiting = 0

    def config(self) -> RuntimeConfig:
        options = self.options
        return RuntimeConfig(
            app_id=options["prefix"],
            instance=options["instance"],
            bootstrap_servers=options["bootstrap"],
            partitions=options["partitions"],
            state_topic=self.state,
            state_dir=Path(options["state_dir"]),
            codec=ItemCodec(),
            place=lambda key: partition_for(key, options["partitions"]),
            tuning=RuntimeSettings(**options.get("tuning", {})),
            on_poison=self.on_poison,
            observer=Saying(),
            failpoint=options.get("failpoint"),
            healthy_seconds=options.get("healthy_seconds", 30.0),
            route_check=self.home if options.get("route") else None,
        )

    def home(self, record: LogRecord) -> int | None:
        return None if record.topic == self.raw else partition_for(record.key or b"", self.options["partitions"])

    def on_raw(self, task: Task, slice_: Slice) -> None:
        for record in slice_.records:
            assert record.value is not None
            task.emit(self.mid, key=record.value, value=record.value, src=record.src, intent="rekey")
        task.finish(slice_)

    def on_mid(self, task: Task, slice_: Slice) -> None:
        for record in slice_.records:
            assert record.value is not None
            if record.value == self.poison:
                say("dying", src=record.src)
                os._exit(33)
            name = record.value.decode()
            if task.view.get(TABLE, name) is None:
                task.put(Item(name, "queued"))
                task.wake("pump")
            else:
                task.emit(self.dup, key=record.value, value=record.src.encode(), src=record.src)
        task.finish(slice_)

    def on_poison(self, task: Task, record: LogRecord) -> None:
        task.emit(self.dead, key=record.key, value=record.value, src=record.src, intent="poison")

    async def pump(self, task: Task) -> None:
        say("owned", partition=task.partition, clean=task.previous_owner_clean, round=task.round)
        while True:
            await task.capacity()
            for _, item in task.view.scan("queue", "", limit=self.options.get("step", 50)):
                await self.pump_one(task, item)
            if not task.view.scan("queue", "", limit=1):
                await task.rest("pump", 0.5)
            else:
                await asyncio.sleep(0)

    async def pump_one(self, task: Task, item: Item) -> None:
        try:
            async with task.effect("pump", item.id):
                if item.id == self.options.get("effect_poison"):
                    say("effect_dying", row=item.id)
                    os._exit(34)
                if "effect_seconds" in self.options:
                    say("effect", row=item.id)
                    await asyncio.sleep(self.options["effect_seconds"])
        except PoisonEffectError as poison:
            task.put(Item(item.id, "isolated"))
            task.emit(self.dead, key=item.id.encode(), value=str(poison.deaths).encode(), src="effect:pump")
            return
        task.put(Item(item.id, "done"))
        pad = b"x" * self.options.get("pad", 0)
        task.emit(self.out, key=item.id.encode(), value=item.id.encode() + pad, src="effect:pump")


async def try_bare_sends(app: App, topic: str) -> None:
    refused = []
    for name, send in (
        ("topic", lambda: app.topic(topic).send(value=b"x")),
        ("producer", lambda: app.producer.send(topic, b"k", b"v", None, None, None)),
    ):
        try:
            await send()
        except BareSendError:
            refused.append(name)
    say("bare_sends", refused=refused)


def main() -> int:
    options = json.loads(sys.argv[1])
    pipeline = Pipeline(options)
    app = create_app(pipeline.config())
    if options.get("bare"):
        app.runtime.add_effect("bare", lambda _task: try_bare_sends(app, pipeline.out))
    app.add_stage(pipeline.raw, name="raw", on_slice=pipeline.on_raw)
    app.add_stage(pipeline.mid, name="mid", on_slice=pipeline.on_mid)
    app.runtime.add_effect("pump", pipeline.pump)
    return run_worker(app, loglevel=options.get("loglevel", "WARNING"))


if __name__ == "__main__":
    sys.exit(main())
