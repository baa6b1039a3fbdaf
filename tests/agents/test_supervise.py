"""The process group, shown with real processes: tiny Python programs that fail, hang or leave."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from batchmill.agents.supervise import ProcessGroup, ProcessSpec, Restarts

QUICK = Restarts(first_pause_seconds=0.01, longest_pause_seconds=0.05, grace_seconds=5.0)


def program(name: str, code: str, *, restart: bool = True) -> ProcessSpec:
    return ProcessSpec(name=name, argv=(sys.executable, "-S", "-c", code), restart=restart)


def silent(_name: str, _what: str) -> None:
    pass


class Heard:
    """Collects what the group says and lets a test wait for a sentence."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, name: str, what: str) -> None:
        self.lines.append((name, what))
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, text: str, times: int = 1) -> None:
        async with self._changed:
            await asyncio.wait_for(
                self._changed.wait_for(lambda: sum(text in what for _, what in self.lines) >= times), 20
            )


async def test_a_member_that_is_killed_is_started_again() -> None:
    heard = Heard()
    async with ProcessGroup([program("w", "import time; time.sleep(60)")], say=heard, restarts=QUICK) as group:
        first = group.pid("w")
        assert group.send("w", signal.SIGKILL)
        await heard.until("started", times=2)
        assert group.pid("w") not in (None, first)
        assert group.starts("w") == 2
    assert any("ended by SIGKILL" in what for _, what in heard.lines)


async def test_the_group_ends_when_every_member_has_left_on_purpose() -> None:
    async with ProcessGroup([program("a", ""), program("b", "")], say=silent, restarts=QUICK) as group:
        assert await asyncio.wait_for(group.run_until_signalled(), 20) == 0
    assert group.starts("a") == group.starts("b") == 1


async def test_a_usage_error_of_one_member_ends_the_group_with_its_code() -> None:
    specs = [program("bad", "raise SystemExit(2)"), program("good", "import time; time.sleep(60)")]
    async with ProcessGroup(specs, say=silent, restarts=QUICK) as group:
        assert await asyncio.wait_for(group.run_until_signalled(), 20) == 2
        assert group.pid("good") is None
        assert group.starts("bad") == 1


async def test_a_member_without_restart_that_fails_makes_the_group_fail_once_it_is_alone() -> None:
    async with ProcessGroup([program("x", "raise SystemExit(9)", restart=False)], say=silent, restarts=QUICK) as group:
        assert await asyncio.wait_for(group.run_until_signalled(), 20) == 1


async def test_stop_lets_a_member_finish_its_work(tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = (
        "import signal, sys, pathlib\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(done)!r}).write_text('x'), sys.exit(0)))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    log = tmp_path / "log"
    spec = ProcessSpec(name="w", argv=(sys.executable, "-c", code), log_path=log)
    async with ProcessGroup([spec], say=silent, restarts=QUICK) as group:
        await until(lambda: log.exists() and b"ready" in log.read_bytes())
        await group.stop()
    assert done.read_text() == "x"


async def test_a_member_that_will_not_finish_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\nsignal.pause()\n"
    spec = ProcessSpec(name="w", argv=(sys.executable, "-c", code), log_path=log)
    heard = Heard()
    impatient = Restarts(grace_seconds=0.2)
    async with ProcessGroup([spec], say=heard, restarts=impatient) as group:
        await until(lambda: log.exists() and b"ready" in log.read_bytes())
        pid = group.pid("w")
    assert pid is not None
    assert not running(pid)
    assert ("w", "killed: it did not finish in time") in heard.lines


async def test_a_second_signal_kills_without_waiting_for_the_grace_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\nsignal.pause()\n"
    spec = ProcessSpec(name="w", argv=(sys.executable, "-c", code), log_path=log)
    heard = Heard()
    async with ProcessGroup([spec], say=heard, restarts=Restarts(grace_seconds=600)) as group:
        await until(lambda: log.exists() and b"ready" in log.read_bytes())
        running_group = asyncio.create_task(group.run_until_signalled())
        await asyncio.sleep(0)  # lets it install its handlers
        os.kill(os.getpid(), signal.SIGTERM)
        await heard.until("asked to finish")
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running_group, 20) == 0


def test_pauses_double_up_to_the_longest() -> None:
    restarts = Restarts(first_pause_seconds=1, longest_pause_seconds=5)
    assert [restarts.pause_seconds(n) for n in (1, 2, 3, 4, 99)] == [1, 2, 4, 5, 5]


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    if sys.platform != "linux":
        return
    import subprocess  # noqa: PLC0415  only here

    code = (
        "import asyncio, sys\n"
        "from batchmill.agents.supervise import ProcessGroup, ProcessSpec\n"
        "async def main():\n"
        "    spec = ProcessSpec(name='c', argv=(sys.executable, '-S', '-c', 'import time; time.sleep(60)'))\n"
        "    async with ProcessGroup([spec], say=lambda *_: None) as group:\n"
        "        print(group.pid('c'), flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert running(child)
    parent.kill()
    parent.wait()
    asyncio.run(until(lambda: not running(child)))


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def until(condition, seconds: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the awaited state did not come"
        await asyncio.sleep(0.01)
