"""Several processes run as one: started together, restarted when they fail-stop, ended together.

`up` and the demo use it. A child gets its own session, so that a terminal's Ctrl-C reaches only the parent, which then
asks every child to finish (SIGTERM); a second signal kills. On Linux a child dies with its parent, so a parent killed
with -9 leaves nothing running. What a child does is none of this module's business; its exit code is:

    0                   it left on purpose; it stays away
    2, 3, 4, 5          a person must change something; the whole group ends with that code
    anything else       fail-stop or killed; it is started again after a growing pause
"""

import asyncio
import contextlib
import ctypes
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from batchmill.agents.clock import monotonic_s

__all__ = ["ProcessGroup", "ProcessSpec", "Restarts", "batchmill_argv"]

_GIVE_UP_CODES = frozenset({2, 3, 4, 5})
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

Say = Callable[[str, str], None]  #: (process name, what happened to it), for people


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One member of the group."""

    name: str
    argv: tuple[str, ...]
    log_path: Path | None = None  #: where its output goes, appended; None = where ours goes
    restart: bool = True
    env: Mapping[str, str] | None = None  #: the whole environment; None = ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """How patiently the group is run."""

    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0
    healthy_after_seconds: float = 60.0  #: a child that ran this long starts again at the first pause
    grace_seconds: float = 30.0  #: between asking the children to finish and killing them

    def pause_seconds(self, failures: int) -> float:
        """Before start number `failures` + 1 in a row: doubles up to the longest."""
        return float(min(self.first_pause_seconds * 2 ** min(failures - 1, 16), self.longest_pause_seconds))


def batchmill_argv(*words: str) -> tuple[str, ...]:
    """The command line of another batchmill command, run by the interpreter that runs this one."""
    return (sys.executable, "-m", "batchmill.agents.cli", *words)


@dataclass(slots=True)
class _Member:
    spec: ProcessSpec
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    failures: int = 0  #: in a row
    exit_code: int | None = None
    keeper: asyncio.Task[None] | None = field(default=None, repr=False)


class ProcessGroup:
    """Use as an async context: members are started on entry and none is left running on exit."""

    def __init__(self, specs: Sequence[ProcessSpec], *, say: Say, restarts: Restarts | None = None) -> None:
        names = [spec.name for spec in specs]
        assert len(set(names)) == len(names), "two members of a group share a name"
        self._members = {spec.name: _Member(spec) for spec in specs}
        self._say = say
        self._restarts = restarts or Restarts()
        self._stopping = asyncio.Event()
        self._killed = asyncio.Event()
        self._ended = asyncio.Event()
        self._code = 0

    async def __aenter__(self) -> Self:
        for member in self._members.values():
            await self._start(member)
            member.keeper = asyncio.get_running_loop().create_task(self._keep(member), name=f"keep {member.spec.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def pid(self, name: str) -> int | None:
        """Of the running incarnation, None while there is none."""
        process = self._members[name].process
        return process.pid if process is not None and process.returncode is None else None

    def starts(self, name: str) -> int:
        """How often it has been started; one more than its restarts."""
        return self._members[name].starts

    def send(self, name: str, signum: signal.Signals) -> bool:
        """Deliver a signal to one member; False when it is not running just now."""
        process = self._members[name].process
        if process is None or process.returncode is not None:
            return False
        process.send_signal(signum)
        return True

    async def run_until_signalled(self) -> int:
        """Wait for SIGTERM or SIGINT, a member that gives up, or the end of all members; then stop. The exit code."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)
        try:
            await self._ended.wait()
            await self.stop()
        finally:
            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(signum)
        return self._code

    def request_stop(self, code: int = 0) -> None:
        """Let `run_until_signalled` end with `code`."""
        if not self._ended.is_set():
            self._code = code
            self._ended.set()

    async def stop(self) -> None:
        """Ask every member to finish, wait for the grace time, kill what is left. Safe to call twice."""
        self._stopping.set()
        for name in self._members:
            if self.send(name, signal.SIGTERM):
                self._say(name, "asked to finish")
        keepers = [member.keeper for member in self._members.values() if member.keeper is not None]
        killed = asyncio.get_running_loop().create_task(self._killed.wait())
        waiting = asyncio.gather(*keepers, return_exceptions=True)
        both: set[asyncio.Future[Any]] = {waiting, killed}
        await asyncio.wait(both, timeout=self._restarts.grace_seconds, return_when="FIRST_COMPLETED")
        killed.cancel()
        for name in self._members:
            if self.send(name, signal.SIGKILL):
                self._say(name, "killed: it did not finish in time")
        await waiting

    def _on_signal(self, signum: signal.Signals) -> None:
        if self._ended.is_set():
            self._say("up", f"second {signum.name}: killing")
            self._killed.set()
            return
        self._say("up", f"{signum.name}: finishing; press again to kill")
        self.request_stop(0)

    async def _start(self, member: _Member) -> None:
        spec = member.spec
        with contextlib.ExitStack() as opened:
            output = None
            if spec.log_path is not None:
                spec.log_path.parent.mkdir(parents=True, exist_ok=True)
                output = opened.enter_context(spec.log_path.open("ab"))
            member.process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if spec.env is None else dict(spec.env),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        member.starts += 1
        self._say(spec.name, f"started, pid {member.process.pid}")
        if self._stopping.is_set():  # the stop came while it was being born, and found nobody to ask
            member.process.send_signal(signal.SIGTERM)

    async def _keep(self, member: _Member) -> None:
        while True:
            assert member.process is not None
            started_s = monotonic_s()
            member.exit_code = await member.process.wait()
            if self._stopping.is_set() or not self._should_restart(member):
                break
            healthy = monotonic_s() - started_s >= self._restarts.healthy_after_seconds
            member.failures = 1 if healthy else member.failures + 1
            pause = self._restarts.pause_seconds(member.failures)
            self._say(member.spec.name, f"{_cause(member.exit_code)}; starts again in {pause:g} s")
            if await self._stopped_within(pause):
                break
            await self._start(member)
        self._say(member.spec.name, "left" if member.exit_code == 0 else _cause(member.exit_code or 0))
        self._after_leaving(member)

    def _should_restart(self, member: _Member) -> bool:
        return member.spec.restart and member.exit_code != 0 and member.exit_code not in _GIVE_UP_CODES

    def _after_leaving(self, member: _Member) -> None:
        if self._stopping.is_set():
            return
        if member.exit_code in _GIVE_UP_CODES:
            self.request_stop(member.exit_code)
        elif all(other.keeper is None or other.keeper.done() or other is member for other in self._members.values()):
            self.request_stop(0 if member.exit_code == 0 else 1)

    async def _stopped_within(self, seconds: float) -> bool:
        """Pause before a restart, cut short when the group is being stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()


def _cause(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _die_with_parent() -> None:
    """Between fork and exec: ask the kernel to kill this process when its parent is gone. Elsewhere than on Linux
    there is no such wish, and a parent killed with -9 leaves its children.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
