"""The overseer of a story: reads what tasks have committed, late and in parts, and may die between any two writes.

Its write is one transaction, so it happens or does not; what it forgets by dying it reads again.
"""

import json
from random import Random
from typing import Any

from batchmill.schemas.records import Control
from batchmill.streams.controlling import GRANT, PAUSE_TOO
from batchmill.streams.overseeing import Books, Limits
from tests.simulation.world import World

__all__ = ["SimOverseer"]


class SimOverseer:
    """One at a time: a new one begins when the old one is dead."""

    def __init__(self, world: World, chance: Random) -> None:
        self.world = world
        self.chance = chance
        self.commands = 0
        self.begin()

    def begin(self) -> None:
        """Take over: everything that is committed, and the grants that no task had taken by then."""
        self.books = Books(Limits())
        self.seen = 0
        self.read(len(self.world.state))
        for partition in range(self.world.partitions):
            read_to = [at for task, _, at in self.world.state if task == partition]
            for entry in self.world.log["control", partition][max(read_to, default=0) :]:
                assert isinstance(entry.value, Control)
                if entry.value.command == GRANT:
                    self.books.handed(partition, json.loads(entry.value.body_json)["granted"])

    def act(self) -> None:
        """A turn, or less than a turn."""
        if self.chance.random() < 0.05:
            self.begin()
        self.read(self.chance.randrange(1, 6))
        if self.chance.random() < 0.7:
            self.write()

    def read(self, count: int) -> None:
        for partition, rows, _ in self.world.state[self.seen : self.seen + count]:
            for row in rows:
                self.books.row(partition, row)
        self.seen = min(len(self.world.state), self.seen + count)

    def write(self) -> bool:
        hand_outs, spreads = self.books.decide(self.world.now_ms), self.books.spreads()
        for each in hand_outs:
            self._append(each.partition, GRANT, "overseer", {"granted": each.granted, "most": each.most})
            self.books.handed(each.partition, each.granted)
            self.books.told(each)
        for told in spreads:
            self._append(told.partition, PAUSE_TOO, told.job, {"reason": told.reason, "after": told.after})
            self.books.spread(told)
        return bool(hand_outs or spreads)

    def _append(self, partition: int, command: str, job: str, body: dict[str, Any]) -> None:
        self.commands += 1
        record = Control(
            command_id=f"overseer-{self.commands}",
            command=command,
            job=job,
            version=None,
            body_json=json.dumps(body),
            actor="overseer",
            issued_at_ms=self.world.now_ms,
        )
        self.world.append("control", partition, record)
