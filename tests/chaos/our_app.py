"""The same pass-through under our driver: `python -m tests.chaos.our_app JSON`."""

import json
import sys
from pathlib import Path
from typing import Any

from batchmill.agents.runtime import RuntimeConfig, Slice, Task, create_app, run_worker
from batchmill.agents.settings_groups import RuntimeSettings
from batchmill.schemas.ids import partition_for

__all__ = ["main"]


class NoRows:
    """A pass-through remembers nothing."""

    def encode(self, row: Any) -> bytes:
        raise AssertionError(f"there are no rows, not even {row}")

    def decode(self, data: bytes) -> Any:
        raise AssertionError(f"there are no rows, here are {len(data)} bytes of one")

    def table(self, row: Any) -> str:
        raise AssertionError(f"there are no tables for {row}")

    def key(self, row: Any) -> str:
        raise AssertionError(f"there are no keys for {row}")

    def entries(self, row: Any) -> tuple[tuple[str, str], ...]:
        raise AssertionError(f"there are no indexes for {row}")


def main(options: dict[str, str]) -> int:
    partitions = int(options["partitions"])
    app = create_app(
        RuntimeConfig(
            app_id=options["group"],
            instance=options["instance"],
            bootstrap_servers=options["bootstrap"],
            partitions=partitions,
            state_topic=options["state"],
            state_dir=Path(options["data_dir"]),
            codec=NoRows(),
            place=lambda key: partition_for(key, partitions),
            tuning=RuntimeSettings(session_timeout_seconds=6, heartbeat_seconds=1, rebalance_timeout_seconds=10),
        )
    )

    def pass_on(task: Task, slice_: Slice) -> None:
        for record in slice_.records:
            task.emit(options["target"], key=record.key, value=record.value, src=record.src)
        task.finish(slice_)

    app.add_stage(options["source"], name="pass_on", on_slice=pass_on)
    return run_worker(app)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
