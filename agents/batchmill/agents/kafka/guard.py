"""Stands between us and a broker so that it cannot outlive us, however we end.

Run as a script by `local`: `python -I -S guard.py java ...`. It starts the broker, says its process id on stdout, and
then waits for one of two things: the broker ends, or stdin closes, which happens at the latest when the kernel buries
whoever started us; then it kills the broker (also a stopped one).

Why not `prctl(PR_SET_PDEATHSIG)` from the starter: the kernel sends that signal when the starting *thread* ends, and
people start brokers from threads; and `preexec_fn` is not safe in a process with threads. A pipe has neither flaw, and
works on macOS. This process has one thread, so here the same wish is safe, for the day someone kills the guard itself.
What must not: an import from outside the standard library (it starts in 30 ms, and lives as long as the broker).
"""

import contextlib
import ctypes
import select
import signal
import subprocess
import sys
from collections.abc import Callable

__all__ = ["main"]

PR_SET_PDEATHSIG = 1
LOOK_EVERY_SECONDS = 0.1


def main(argv: list[str]) -> int:
    """Run `argv` until it ends or our starter does; its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the starter's to act on
    broker = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=die_with_parent())  # noqa: PLW1509 (one thread)
    print(broker.pid, flush=True)
    while broker.poll() is None:
        closed, _, _ = select.select([sys.stdin], [], [], LOOK_EVERY_SECONDS)
        if closed:
            broker.kill()
            broker.wait()
    return broker.returncode


def die_with_parent() -> Callable[[], object] | None:
    """What the child does between fork and exec: on Linux, ask the kernel to kill it when this process is gone."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
