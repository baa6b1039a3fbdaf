"""Named places where a test can make the process die, hang, raise or freeze: `name:nth:action`.

What lives here: the switchboard. What must not: reading the environment; the value is handed in. A place costs one
attribute look-up while nothing is armed: `if FAILPOINTS.armed: FAILPOINTS.hit("commit.sent")`.

Actions: `kill` (SIGKILL to ourselves), `exit` (os._exit(9)), `raise`, `stop` (SIGSTOP to ourselves until someone
continues us), `pause` (go on after three seconds), `hold` (never go on). In asynchronous places the rest of the process
runs on meanwhile.
"""

import asyncio
import os
import signal
import threading
from dataclasses import dataclass

__all__ = ["FAILPOINTS", "PLACES", "FailpointError", "Failpoints"]

#: Every place of the runtime; stages and effects add their own names by hitting them. `commit.delivered/TOPIC` is hit
#: beside `commit.delivered` by a transaction that writes to TOPIC: a way to die in the transaction of one stage.
PLACES = (
    "fence.done",
    "restore.read",
    "slice.handed",
    "slice.decided",
    "commit.begun",
    "commit.sent",
    "commit.delivered",
    "commit.offsets",
    "commit.committed",
    "commit.applied",
    "revoke.frozen",
)
_ACTIONS = frozenset({"kill", "exit", "raise", "stop", "pause", "hold"})
PAUSE_SECONDS = 3.0


class FailpointError(RuntimeError):
    """Raised by the action `raise`."""


@dataclass(slots=True)
class _Armed:
    name: str
    nth: int
    action: str
    seen: int = 0


class Failpoints:
    """At most one armed place per process."""

    __slots__ = ("_armed_at", "armed")

    def __init__(self) -> None:
        self.armed = False
        self._armed_at: _Armed | None = None

    def arm(self, value: str | None) -> None:
        """Arm `name:nth:action` (nth counts from 1), or disarm with None."""
        self._armed_at, self.armed = None, False
        if not value:
            return
        name, nth, action = (*value.split(":"), "", "")[:3]
        if not name or not nth.isdigit() or int(nth) < 1 or action not in _ACTIONS:
            raise ValueError(f"failpoint must be name:nth:action with action one of {sorted(_ACTIONS)}")
        self._armed_at, self.armed = _Armed(name, int(nth), action), True

    def hit(self, name: str) -> None:
        """A place in synchronous code: `pause` and `hold` stop the whole process."""
        action = self._due(name)
        if action in {"pause", "hold"}:
            threading.Event().wait(PAUSE_SECONDS if action == "pause" else None)

    async def reach(self, name: str) -> None:
        """A place in asynchronous code: `pause` and `hold` stop this coroutine only."""
        action = self._due(name)
        if action == "pause":
            await asyncio.sleep(PAUSE_SECONDS)
        elif action == "hold":
            await asyncio.Event().wait()

    def _due(self, name: str) -> str | None:
        armed = self._armed_at
        if armed is None or armed.name != name:
            return None
        armed.seen += 1
        if armed.seen != armed.nth:
            return None
        if armed.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif armed.action == "exit":
            os._exit(9)
        elif armed.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif armed.action == "raise":
            raise FailpointError(f"failpoint {name} was armed to raise at hit {armed.nth}")
        return armed.action


FAILPOINTS = Failpoints()
