"""`python -m tests.money [--only openai] [--quick] [--keep DIR]`: play every fault at every provider, print the table.

Exit 0 when every row holds. What is kept with --keep: logs, ledgers, the table as JSON.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from batchmill.agents.kafka import start_cluster
from tests.chaos.mill import running_mill
from tests.chaos.workload import write_gold
from tests.money.accounts import ACCOUNTS, Account
from tests.money.playing import REST_SECONDS_MAX, WORKER, Row, Table, play, texts_of
from tests.money.scenarios import SCENARIOS, Scenario
from tests.money.table import faults_of, printed

__all__ = ["main", "of_account"]

CHUNK_COUNT = 8
#: what a short run plays
QUICK = ("nothing goes wrong", "accept, then 500", "kill -9 after acceptance", "call billed, then disconnect")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.money", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(ACCOUNTS), help="this provider (may be repeated)")
    parser.add_argument("--scenario", action="append", help="scenarios whose name holds this (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="the few that say most")
    parser.add_argument("--keep", type=Path, help="folder for logs, ledgers and table.json; default: a temporary one")
    told = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of every broken connection; we break them
    with contextlib.ExitStack() as opened:
        directory = told.keep or Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="money-")))
        directory.mkdir(parents=True, exist_ok=True)
        cluster = opened.enter_context(start_cluster(directory / "kafka"))
        rows, faults = asyncio.run(
            _all(cluster.bootstrap_servers, directory, told.only or list(ACCOUNTS), _chosen(told))
        )
        (directory / "table.json").write_text(
            json.dumps({name: [asdict(row) for row in played] for name, played in rows.items()}, indent=1)
        )
    sys.stdout.write(printed(rows))
    sys.stdout.write("\n".join(faults) + "\n" if faults else "\nEvery row holds.\n")
    return 1 if faults else 0


def _chosen(told: argparse.Namespace) -> list[Scenario]:
    chosen = [each for each in SCENARIOS if not told.quick or each.name in QUICK]
    wanted = told.scenario or [""]
    return [each for each in chosen if any(part in each.name for part in wanted)]


async def _all(
    bootstrap: str, directory: Path, names: Sequence[str], scenarios: Sequence[Scenario]
) -> tuple[dict[str, list[Row]], list[str]]:
    rows: dict[str, list[Row]] = {}
    faults: list[str] = []
    for name in names:
        account = ACCOUNTS[name]
        rows[name], found = await of_account(account, bootstrap, directory / name, scenarios)
        faults += found
    return rows, faults


async def of_account(
    account: Account,
    bootstrap: str,
    directory: Path,
    scenarios: Sequence[Scenario],
    *,
    plant: str | None = None,
    rest_seconds: float = REST_SECONDS_MAX,
) -> tuple[list[Row], list[str]]:
    """Play the scenarios that mean something for the account, one after the other in one running pipeline.

    `plant` names a bug that its worker has (`planted_worker`).
    """
    played = [each for each in scenarios if (each.online if account.mode == "online" else each.batch)]
    records = {each.name: texts_of(number, each.records) for number, each in enumerate(played)}
    directory.mkdir(parents=True, exist_ok=True)
    write_gold(directory / "gold.jsonl", [event for events in records.values() for event in events])
    job = account.job(chunk_count=CHUNK_COUNT)
    table, faults = Table(rows=[]), []
    async with running_mill(
        bootstrap,
        directory,
        prefix=f"money-{account.name}-{os.urandom(3).hex()}",
        **({} if plant is None else {"worker": ("-m", "tests.money.planted_worker", plant)}),
        gold=directory / "gold.jsonl",
        job=job,
        account=account.overrides,
    ) as mill:
        await mill.pool.start(WORKER)
        await mill.apply()
        for scenario in played:
            row = await play(mill, table, scenario, records[scenario.name], rest_seconds=rest_seconds)
            faults += faults_of(account, scenario, row)
            sys.stderr.write(f"{account.name}: {scenario.name}: {row.seconds:.1f} s\n")
    return table.rows, faults


if __name__ == "__main__":
    sys.exit(main())
