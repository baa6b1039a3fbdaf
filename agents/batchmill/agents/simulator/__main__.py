"""Law: `python -m batchmill.agents.simulator CONFIG.json HOST PORT`, the process that `RunningSimulator` starts."""

from __future__ import annotations

import sys
from pathlib import Path

from batchmill.agents.simulator.config import config_from_json
from batchmill.agents.simulator.server import serve

__all__ = ["main"]


def main() -> None:
    config_file, host, port = sys.argv[1:]
    serve(config_from_json(Path(config_file).read_bytes()), host, int(port))


if __name__ == "__main__":
    main()
