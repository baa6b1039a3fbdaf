"""`python -m tests.chaos --records 20000 --seed 7 [--quick]`: run it, print the table, exit 0 if everything held."""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
from pathlib import Path

from batchmill.agents.kafka import start_cluster
from tests.chaos.control import Passed, run
from tests.chaos.exactness import exactness, table

__all__ = ["main"]

CONTROL_RECORDS = 6_000
CONTROL_TRIES = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--records", type=int, default=None, help="default: 20000, with --quick 2000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="four kills")
    parser.add_argument("--no-control", action="store_true", help="leave out the comparison with stock Faust")
    parser.add_argument("--keep", type=Path, help="folder for logs and data; default: a temporary one")
    told = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of every broken connection; we break them
    records = told.records or (2_000 if told.quick else 20_000)
    with contextlib.ExitStack() as opened:
        directory = told.keep or Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="exactness-")))
        directory.mkdir(parents=True, exist_ok=True)
        cluster = opened.enter_context(start_cluster(directory / "kafka"))
        controls = [] if told.no_control else _controls(cluster.bootstrap_servers, directory, told.seed)
        report = asyncio.run(exactness(cluster, directory / "run", records=records, seed=told.seed, quick=told.quick))
    sys.stdout.write(table(report, controls))
    found = told.no_control or (controls[-1].driver == "ours" and controls[-1].exact and controls[-2].duplicates > 0)
    return 0 if report.holds and found else 1


def _controls(bootstrap: str, directory: Path, seed: int) -> list[Passed]:
    """Stock until it doubles something, at most three times; then ours."""
    passed: list[Passed] = []
    for attempt in range(CONTROL_TRIES):
        passed.append(run("stock", bootstrap, directory, records=CONTROL_RECORDS, seed=seed + attempt))
        if passed[-1].duplicates:
            break
    return [*passed, run("ours", bootstrap, directory, records=CONTROL_RECORDS, seed=seed)]


if __name__ == "__main__":
    sys.exit(main())
