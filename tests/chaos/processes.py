"""Worker processes that are started again whenever they end, and every end of one of them.

What lives here: starting, signalling, restarting, remembering. What must not: why anybody is killed (`script`).
No process outlives the harness: the kernel kills them with it.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Ended", "Pool", "Start", "die_with_parent"]

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
RESTART_PAUSE_SECONDS = 0.3
STOP_SECONDS_MAX = 40.0


@dataclass(frozen=True, slots=True)
class Start:
    """How one incarnation is started."""

    argv: Sequence[str]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    name: str
    pid: int
    code: int  #: negative: the signal
    at_s: float  #: since the pool began


@dataclass(slots=True)
class _Slot:
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    next_failpoint: str | None = None
    leaving: bool = False
    running: asyncio.Event = field(default_factory=asyncio.Event)


class Pool:
    """Workers by name. `command` says how a worker is started, given its name and a failpoint or None."""

    def __init__(self, log_dir: Path, command: Callable[[str, str | None], Start]) -> None:
        self._log_dir = log_dir
        self._command = command
        self._slots: dict[str, _Slot] = {}
        self._began_s = time.monotonic()
        self.ends: list[Ended] = []
        self.starts = 0

    async def start(self, name: str, *, failpoint: str | None = None) -> None:
        slot = self._slots.setdefault(name, _Slot())
        slot.next_failpoint = failpoint
        slot.leaving = False
        await self._launch(name, slot)
        slot.keeper = asyncio.create_task(self._keep(name, slot), name=f"keep {name}")

    def arm(self, name: str, failpoint: str | None) -> None:
        """For the next incarnation only."""
        self._slots[name].next_failpoint = failpoint

    def pid(self, name: str) -> int | None:
        process = self._slots[name].process
        return process.pid if process is not None and process.returncode is None else None

    def send(self, name: str, number: signal.Signals) -> int | None:
        """Signal the running incarnation; its pid, or None when there is none just now."""
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, number)
        return pid

    async def kill(self, name: str) -> int:
        """SIGKILL, and wait until it is dead; the pid."""
        slot = self._slots[name]
        await slot.running.wait()
        process = slot.process
        assert process is not None, f"{name} was never started"
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return process.pid

    def end_of(self, pid: int) -> Ended | None:
        return next((end for end in self.ends if end.pid == pid), None)

    def log(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    async def stop(self, name: str) -> int | None:
        """SIGTERM and wait; SIGKILL when it takes too long. Its exit code."""
        slot = self._slots[name]
        slot.leaving = True
        process = slot.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()
        if slot.keeper is not None:
            await slot.keeper
        return None if process is None else process.returncode

    async def stop_all(self) -> dict[str, int | None]:
        codes = await asyncio.gather(*(self.stop(name) for name in self._slots))
        return dict(zip(self._slots, codes, strict=True))

    async def kill_all(self) -> None:
        for slot in self._slots.values():
            slot.leaving = True
            if slot.process is not None and slot.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    slot.process.kill()
        for slot in self._slots.values():
            if slot.keeper is not None:
                await slot.keeper

    async def _launch(self, name: str, slot: _Slot) -> None:
        start = self._command(name, slot.next_failpoint)
        slot.next_failpoint = None
        self._log_dir.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            slot.process = await asyncio.create_subprocess_exec(
                *start.argv,
                cwd=ROOT,
                env=dict(start.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.starts += 1
        slot.running.set()

    async def _keep(self, name: str, slot: _Slot) -> None:
        while True:
            assert slot.process is not None
            code = await slot.process.wait()
            slot.running.clear()
            self.ends.append(Ended(name, slot.process.pid, code, time.monotonic() - self._began_s))
            if slot.leaving:
                return
            await asyncio.sleep(RESTART_PAUSE_SECONDS)
            if slot.leaving:
                return
            await self._launch(name, slot)


def die_with_parent() -> None:
    """Between fork and exec: the kernel shall kill this process when the harness is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
