"""The bench runs and counts right; what it measures is never asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOPICS = {"raw", "normalized", "submitted", "results", "validated", "committed", "state"}


def test_a_small_bench_counts_every_record_on_every_topic_and_names_every_process(
    tmp_path: Path, bootstrap_servers: str
) -> None:
    figures = tmp_path / "figures.json"
    options = ("--records", "300", "--partitions", "2", "--json", str(figures))
    env = {name: value for name, value in os.environ.items() if not name.startswith("BATCHMILL_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *options],
        cwd=ROOT,
        env={**env, "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    found = json.loads(figures.read_text(encoding="utf-8"))
    stages = {stage["topic"]: stage for stage in found["stages"]}
    assert set(stages) >= TOPICS
    assert found["records"] == stages["raw"]["records"] == 300
    assert stages["normalized"]["records"] + stages["excluded"]["records"] == 300
    assert set(found["peak_memory_mib"]) == {"simulator", "worker-1", "worker-2", "projector", "overseer"}
    assert "records/s" in done.stdout
