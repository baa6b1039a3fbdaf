"""`make bench`: so many records end to end through a real Kafka, and what that took. It asserts nothing about time.

    python -m tests.bench [--records 50000] [--workers 2] [--chunk 1000] [--json FILE]
    python -m tests.bench online ...      (no Kafka: see `tests.bench.online`)

The provider answers at once and makes no mistakes: what is measured is the pipeline. Data: the demo's sentences, again
and again with a number behind.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from batchmill.agents.clock import monotonic_s
from batchmill.agents.commands import issue
from batchmill.agents.demo.events import gold_lines, sentences
from batchmill.agents.demo.playing import JOB_FOLDER
from batchmill.agents.demo.rig import Rig, RigPlan, kafka_for, running_rig
from batchmill.agents.ingest import SourceRecord, ingest
from batchmill.agents.jobs import load_job
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector.reading import View
from batchmill.agents.simulator import SimulatorConfig
from tests.bench import online
from tests.bench.ratios import ratios
from tests.bench.reading import Usage, read_spans
from tests.bench.tables import Bench, Span, bench_lines, stages_of

_LOOK_SECONDS = 1.0
_SECONDS_MAX_PER_RECORD = 0.02
_SECONDS_MAX_LEAST = 60.0
_OPEN = "status NOT IN ('committed', 'failed_terminal', 'needs_review')"


def main() -> int:
    """Run it; the table goes to stdout, the JSON to the file named, else behind the table."""
    if sys.argv[1:2] == ["online"]:
        return online.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=1_000, help="records per provider batch")
    parser.add_argument("--json", type=Path, help="file for the figures as JSON; default: behind the table")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as folder, kafka_for(Path(folder), say=_say) as cluster:
        spans, usage = asyncio.run(_measured(asked, Path(folder), cluster))
    bench = _bench(asked.workers, spans, usage)
    print(*bench_lines(bench), sep="\n")
    figures = json.dumps(asdict(bench), indent=2)
    if asked.json is None:
        print(figures)
    else:
        asked.json.write_text(figures + "\n", encoding="utf-8")
    return 0


async def _measured(asked: argparse.Namespace, folder: Path, cluster: RunningCluster) -> tuple[list[Span], Usage]:
    known = sentences(asked.records)
    gold = folder / "gold.jsonl"
    gold.write_text("".join(gold_lines(known)), encoding="utf-8")
    plan = RigPlan(
        work_dir=folder,
        workers=asked.workers,
        simulator=SimulatorConfig(data_dir=folder / "simulator", gold_path=gold, latency_seconds=(0.1, 0.2)),
        settings={"partitions": asked.partitions},
    )
    events = [SourceRecord(line=line, key=each.id.encode(), value=each.event()) for line, each in enumerate(known, 1)]
    async with running_rig(plan, cluster, say=_say) as rig:
        job = await _apply(rig, asked.chunk)
        usage = Usage(rig.pids())
        sampling = asyncio.create_task(usage.sample())
        began_s = monotonic_s()
        await ingest(rig.settings, iter(events), run="bench", job=job)
        _say(f"{len(events):,} events published in {monotonic_s() - began_s:.1f} s")
        await _at_rest(rig, len(events))
        sampling.cancel()
        usage.look()
        return await read_spans(rig.settings), usage


def _bench(workers: int, spans: list[Span], usage: Usage) -> Bench:
    by_topic = {span.topic: span for span in spans}
    took_s = (by_topic["committed"].last_ms - by_topic["raw"].first_ms) / 1_000
    raw = by_topic["raw"].records
    return Bench(
        records=raw,
        workers=workers,
        end_to_end_s=took_s,
        end_to_end_per_second=raw / took_s,
        written_per_raw=sum(span.records for span in spans) / raw - 1,
        stages=stages_of(spans),
        peak_memory_mib=usage.peak_mib,
        cpu_seconds=usage.cpu_s,
        ratios=ratios(),
    )


async def _apply(rig: Rig, chunk: int) -> str:
    """The demo's job with batches of the wanted size."""
    loaded = load_job(JOB_FOLDER)
    mode = replace(loaded.spec.mode, chunk=replace(loaded.spec.mode.chunk, max_count=chunk))
    spec = replace(loaded.spec, mode=mode)
    issued = await issue(
        rig.settings,
        "apply",
        spec.job,
        actor="bench",
        version=loaded.version,
        body_json=spec.to_json(),
        wait_seconds=30,
    )
    assert issued.effective, f"the job is not in effect in tasks {issued.laggards}"
    return spec.job


async def _at_rest(rig: Rig, expected: int) -> None:
    """Wait until every event has a place to stay; a cheap look, so that looking does not slow what is measured."""
    deadline_s = monotonic_s() + max(_SECONDS_MAX_LEAST, expected * _SECONDS_MAX_PER_RECORD)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        with View(rig.settings.view_path) as view:
            raw = view.number("SELECT SUM(records) FROM positions WHERE topic LIKE '%.raw.%'")
            lives = view.number("SELECT COUNT(*) FROM lives")
            unfinished = view.number(f"SELECT COUNT(*) FROM lives WHERE {_OPEN}")
            out = view.number("SELECT COUNT(*) FROM excluded")
        _say(f"raw {raw:,}  lives {lives:,}  unfinished {unfinished:,}  excluded {out:,}")
        if raw == expected == lives + out and not unfinished:
            return
        if monotonic_s() > deadline_s:
            raise TimeoutError(f"not at rest after {deadline_s:g} s; see {rig.plan.work_dir / 'logs'}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
