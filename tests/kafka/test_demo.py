"""The demo as a stranger runs it: its own broker, its report, and nothing left behind."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEMO = (sys.executable, "-m", "batchmill.agents.cli", "demo")
RUN_SECONDS_MAX = 150
_STARTED = re.compile(r"started, pid (\d+)")


def test_a_small_demo_keeps_every_promise_and_leaves_nothing_running(tmp_path: Path) -> None:
    options = ("--records", "600", "--accuracy", "0.7", "--json", "--work-dir", str(tmp_path / "demo"))
    done = subprocess.run(
        [*DEMO, *options],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        cwd=tmp_path,
        env=_environment(),
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"
    report = json.loads(done.stdout)
    books = report["ledgers"]
    places = ("committed", "in_review", "held", "in_flight", "dead_lettered", "excluded")
    assert books["raw"] == report["published"]["events"] == sum(books[place] for place in places)
    assert books["in_review"] >= 1
    assert report["kill"]["ready_again_seconds"] > 0
    assert report["accuracy"]["interval"]["low"] <= 0.7 <= report["accuracy"]["interval"]["high"]
    assert report["money"]["ours"] == report["money"]["ledger"] > 0
    assert {"accept_then_500", "accept_then_disconnect"} <= set(report["faults"])
    put_down = {row["reason"] for row in report["put_down"]}
    assert {"not_utf8", "undecodable", "too_deep", "oversized", "invalid_input", "duplicate", "filtered"} <= put_down
    assert _still_running(done.stderr, tmp_path) == []
    _commands_work(report["commands"], tmp_path)


def test_ctrl_c_ends_the_demo_and_everything_it_started(tmp_path: Path) -> None:
    with _demo(tmp_path) as (process, log):
        _await_text(log, "publishing")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert len(_STARTED.findall(log.read_text(encoding="utf-8"))) >= 4
    assert _still_running(log.read_text(encoding="utf-8"), tmp_path) == []


def _environment() -> dict[str, str]:
    """As on a fresh machine: no broker is named, so that it starts its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "BATCHMILL_"))}
    return {**kept, "COLUMNS": "200"}


def _hears_ctrl_c() -> None:
    """A shell that runs the tests in the background has them ignore it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = tmp_path / "said"
    command = [*DEMO, "--records", "600", "--work-dir", str(tmp_path / "demo")]
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            cwd=tmp_path,
            env=_environment(),
            preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 - no thread runs here yet
        )
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()


def _await_text(log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, f"never said {text!r}: {log.read_text(encoding='utf-8')}"
        time.sleep(0.05)


def _still_running(said: str, folder: Path) -> list[str]:
    """Processes that the demo named, or that were started on its folder (the broker)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            ours = "batchmill" in command and entry.name in _STARTED.findall(said)  # a number alone may be taken again
            if ours or str(folder) in command:
                found.append(command)
    return found


def _commands_work(commands: list[list[str]], folder: Path) -> None:
    assert len(commands) >= 5
    for what, line in commands:
        assigned, *words = shlex.split(line)
        name, is_assignment, value = assigned.partition("=")
        env = {**_environment(), name: value} if is_assignment else _environment()
        done = subprocess.run(
            words if is_assignment else [assigned, *words],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=folder,
            env=env,
            check=False,
        )
        assert (done.returncode, bool(done.stdout)) == (0, True), f"{what}: {line}\n{done.stderr}"
