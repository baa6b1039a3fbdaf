"""The overseer's process: stand by, take over, then read, decide, write, again and again.

What lives here: who is in charge, and carrying hand-outs into the log. What must not: how much anybody gets
(`streams.overseeing`), and what a task makes of it (`streams.granting`).

One is in charge: its transactional id fences whoever was before. Another one only reads, and takes over when the
heartbeat (a record `__overseer` of `state`, partition 0) has not come for `SILENCE_SECONDS` or says that its writer has
left. Whoever was fenced finds out at its next write, and none of that is visible: it ends, and starts again as a
standby. Every write is one transaction; an outcome that is not known ends the process, the successor reads what is so.
What is counted of drift lies beside the heartbeat (`watching`).
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from batchmill.agents import clock
from batchmill.agents.commands import new_command
from batchmill.agents.overseer.reading import Reader
from batchmill.agents.overseer.watching import Watcher
from batchmill.agents.runtime.codec import OVERSEER
from batchmill.agents.runtime.producers import TaskProducer
from batchmill.agents.settings import Settings
from batchmill.agents.topics import kafka_client_options
from batchmill.schemas.codec import encode
from batchmill.schemas.records import Control
from batchmill.streams.controlling import GRANT, PAUSE_TOO
from batchmill.streams.overseeing import Books, HandOut, Limits, Posts, Spread
from batchmill.streams.topology import topic_name
from batchmill.streams.watching import ScoreNow, Watches

__all__ = ["BEAT_SECONDS", "SILENCE_SECONDS", "Overseer", "limits_of"]

_log = structlog.get_logger(__name__)

BEAT_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 8.0
_OLD_MS: Final = 60_000
_TRANSACTION_TIMEOUT_MS: Final = 5_000
_WRITE_SECONDS_MAX: Final = 15.0
_NO_JOB: Final = "overseer"
_ACTOR: Final = "overseer"


def limits_of(settings: Settings) -> Limits:
    """What the settings say of accounts."""
    accounts = settings.accounts
    return Limits(
        queue_max={name: each.queued_max for name, each in accounts.items() if each.queued_max is not None},
        creates_max={
            name: each.batches_per_hour_max for name, each in accounts.items() if each.batches_per_hour_max is not None
        },
        create_ms_max={
            name: round((each.lease_seconds + each.total_timeout_seconds) * 1_000) for name, each in accounts.items()
        },
    )


class Overseer:
    """One process; `run` until stopped. `in_charge` once it has fenced its predecessors and read what they left."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._books = Books(limits_of(settings))
        self._watches = Watches()
        self._watcher = Watcher(settings, self._watches)
        self._names = {name: topic_name(settings.topic_prefix, name) for name in ("state", "control")}
        options = {
            **kafka_client_options(settings.kafka),
            "client_id": f"{settings.app_id}-{settings.instance}-overseer",
            "transaction_timeout_ms": _TRANSACTION_TIMEOUT_MS,
        }
        self._producer = TaskProducer(f"{settings.app_id}-overseer", options)
        self._beaten_s = 0.0
        self.in_charge = False

    async def run(self, stop: asyncio.Event) -> None:
        async with Reader(self._settings, self._books, self._watches) as reader:
            await self._stand_by(reader, stop)
            if stop.is_set():
                return
            try:
                await self._take_over(reader)
                while not stop.is_set():
                    await self._turn(reader)
                await self._write([], [], left=True)
            finally:
                await self._watcher.stop()
                await self._producer.stop()

    def scores(self) -> list[ScoreNow]:
        """How far the watched jobs are from what they were, by signal."""
        return self._watches.scores()

    async def _stand_by(self, reader: Reader, stop: asyncio.Event) -> None:
        """Until nobody is in charge. To be wrong about that costs a restart: whoever was fenced writes no more."""
        await reader.level()
        if _is_over(reader.beat):
            return
        _log.info("overseer_standing_by", in_charge=(reader.beat or {}).get("instance"))
        heard_s, beats = clock.monotonic_s(), reader.beats
        while not stop.is_set() and not (reader.beat or {}).get("left"):
            if clock.monotonic_s() - heard_s >= SILENCE_SECONDS:
                return
            await reader.fold()
            if reader.beats != beats:
                heard_s, beats = clock.monotonic_s(), reader.beats

    async def _take_over(self, reader: Reader) -> None:
        await self._producer.start()
        await reader.catch_up()
        beat = reader.beat or {}
        self._books.posts = {pool: Posts(map(tuple, seen)) for pool, seen in beat.get("posts", {}).items()}
        self._watcher.restore(reader.kept)
        self.in_charge = True
        _log.info("overseer_in_charge", instance=self._settings.instance)

    async def _turn(self, reader: Reader) -> None:
        await reader.fold()
        await self._watcher.turn(reader)
        now_ms = clock.wall_ms()
        self._books.note_posts(now_ms)
        hand_outs, spreads = self._books.decide(now_ms), [*self._books.spreads(), *self._watcher.pauses()]
        if hand_outs or spreads or clock.monotonic_s() - self._beaten_s >= BEAT_SECONDS:
            await self._write(hand_outs, spreads)

    async def _write(self, hand_outs: Sequence[HandOut], spreads: Sequence[Spread], *, left: bool = False) -> None:
        """One transaction, heartbeat included; the books are told when it is known committed."""
        commands, kept = [*map(_grant, hand_outs), *map(_pause, spreads)], self._watcher.rows()
        async with asyncio.timeout(_WRITE_SECONDS_MAX):
            kafka = self._producer.kafka
            await kafka.begin_transaction()
            sent = [await self._send("control", partition, encode(record)) for partition, record in commands]
            sent.append(await self._keep(OVERSEER, json.dumps(self._beat(left=left))))
            sent += [await self._keep(f"{OVERSEER}/{name}", text) for name, text in kept.items()]
            for delivery in sent:
                await delivery
            await kafka.commit_transaction()
            self._beaten_s = clock.monotonic_s()
            if self._producer.doubtful:
                await self._producer.recycle()
        for hand_out in hand_outs:
            self._books.handed(hand_out.partition, hand_out.granted)
            self._books.told(hand_out)
            _say(hand_out)
        self._watcher.written(kept)
        for told in spreads:
            self._books.spread(told)
            self._watches.paused(told)
            _log.warning("pause_spread", partition=told.partition, job=told.job, reason=told.reason)

    async def _send(self, topic: str, partition: int, value: bytes) -> Any:
        return await self._producer.kafka.send(
            self._names[topic], value, key=str(partition).encode(), partition=partition
        )

    async def _keep(self, key: str, text: str | None) -> Any:
        value = None if text is None else text.encode()
        return await self._producer.kafka.send(self._names["state"], value, key=key.encode(), partition=0)

    def _beat(self, *, left: bool) -> dict[str, Any]:
        return {
            "instance": self._settings.instance,
            "at_ms": clock.wall_ms(),
            "left": left,
            "posts": {pool: posts.seen for pool, posts in self._books.posts.items()},
        }


def _is_over(beat: Mapping[str, Any] | None) -> bool:
    """Nobody was ever in charge, he has left, or his last heartbeat is so old that no clock can be that wrong."""
    return beat is None or beat.get("left", False) or clock.wall_ms() - beat["at_ms"] > _OLD_MS


def _say(hand_out: HandOut) -> None:
    for pool, total in hand_out.granted.items():
        _log.info("granted", partition=hand_out.partition, pool=pool, total=total)
    for pool, amount in hand_out.most.items():
        _log.info("too_much_asked", partition=hand_out.partition, pool=pool, most=amount)


def _grant(hand_out: HandOut) -> tuple[int, Control]:
    return hand_out.partition, _command(GRANT, _NO_JOB, {"granted": hand_out.granted, "most": hand_out.most})


def _pause(spread: Spread) -> tuple[int, Control]:
    return spread.partition, _command(PAUSE_TOO, spread.job, {"reason": spread.reason, "after": spread.after})


def _command(command: str, job: str, body: dict[str, Any]) -> Control:
    return new_command(command, job, actor=_ACTOR, body_json=json.dumps(body))
