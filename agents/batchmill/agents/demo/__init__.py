"""`batchmill demo`: real records through a real Kafka and a provider that misbehaves, while a worker is killed.

`events` says what is published, `rig` starts and stops the installation, `playing` runs the play, `collecting` gathers
the facts, `measures` and `report` judge them, `progress` and `page` show them. What must not: code that the pipeline
itself needs.
"""

import asyncio
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from batchmill.agents.clock import monotonic_s
from batchmill.agents.demo.events import gold_lines, write_script
from batchmill.agents.demo.page import print_report
from batchmill.agents.demo.playing import Play
from batchmill.agents.demo.progress import Screen, screen
from batchmill.agents.demo.report import Report, checks, to_json
from batchmill.agents.demo.rig import (
    KAFKA_FOLDER,
    FolderTakenError,
    RigError,
    RigPlan,
    fresh_folder,
    kafka_for,
    running_rig,
)
from batchmill.agents.kafka import KafkaStartError, RunningCluster
from batchmill.agents.settings import load_settings
from batchmill.agents.simulator import SimulatorConfig, parse_fault

__all__ = ["run"]

_PASSED, _FAILED, _TAKEN, _NOT_STARTED, _INTERRUPTED = 0, 1, 5, 75, 130

#: what the provider does to us, in the simulator's notation (docs/simulator.md)
FAULTS = (
    "shuffled",
    "row_500=0.015",
    "row_429=0.005",
    "refusal=0.003",
    "truncated=0.008",
    "malformed_json=0.008",
    "schema_violation=0.004",
    "accept_then_500@3",
    "accept_then_disconnect@7",
    "upload_500@5",
    "retrieve_500=0.01",
    "download_disconnect@4",
    "expire@6,share=0.4",
)
_LATENCY_SECONDS = (0.8, 2.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    records: int
    workers: int
    accuracy: float
    seed: int
    kill: bool


def run(
    *,
    records: int = 5_200,
    workers: int = 2,
    accuracy: float = 0.9,
    seed: int = 5,
    keep: bool = False,
    work_dir: Path | None = None,
    json_output: bool = False,
    kill: bool = True,
) -> int:
    """Run it; the exit code: 0 = every promise was kept, 1 = the report says which one was not.

    `keep` leaves the broker's own files too, so that the log can be served and read again.
    """
    wish = _Wish(records=records, workers=workers, accuracy=accuracy, seed=seed, kill=kill)
    people = screen()
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite request is the same as Ctrl-C
    try:
        folder = fresh_folder(work_dir or load_settings().data_dir / "demo")
        report = _played(wish, folder, people)
        if not keep:
            shutil.rmtree(folder / KAFKA_FOLDER, ignore_errors=True)
    except KeyboardInterrupt:
        people.say("stopped; nothing is left running")
        return _INTERRUPTED
    except (RigError, KafkaStartError) as error:
        people.say(f"the demo could not be run: {error}")
        return _TAKEN if isinstance(error, FolderTakenError) else _NOT_STARTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    if json_output:
        sys.stdout.write(to_json(report).decode() + "\n")
    else:
        print_report(report)
    return _PASSED if all(check.passed for check in checks(report)) else _FAILED


def _played(wish: _Wish, folder: Path, people: Screen) -> Report:
    began_s = monotonic_s()
    people.say(f"working in {folder}")
    with people, kafka_for(folder, say=people.say) as cluster:
        seconds = {"Kafka up": monotonic_s() - began_s}
        report = asyncio.run(_on(cluster, wish, folder, people, seconds))
    seconds["altogether"] = monotonic_s() - began_s
    return report


async def _on(cluster: RunningCluster, wish: _Wish, folder: Path, people: Screen, seconds: dict[str, float]) -> Report:
    began_s = monotonic_s()
    script = write_script(wish.records, seed=wish.seed, value_bytes_max=load_settings().limits.raw_bytes_max)
    gold = folder / "gold.jsonl"
    gold.write_text("".join(gold_lines(script.sentences)), encoding="utf-8")
    plan = RigPlan(work_dir=folder, workers=wish.workers, simulator=_simulator(wish, folder, gold))
    async with running_rig(plan, cluster, say=people.say) as rig:
        seconds["workers ready"] = monotonic_s() - began_s
        play = Play(
            rig=rig,
            script=script,
            screen=people,
            accuracy=wish.accuracy,
            seed=wish.seed,
            kill=wish.kill,
            seconds=seconds,
        )
        return await play.run()


def _simulator(wish: _Wish, folder: Path, gold: Path) -> SimulatorConfig:
    return SimulatorConfig(
        data_dir=folder / "simulator",
        seed=wish.seed,
        accuracy=wish.accuracy,
        gold_path=gold,
        latency_seconds=_LATENCY_SECONDS,
        faults=dict(map(parse_fault, FAULTS)),
    )
