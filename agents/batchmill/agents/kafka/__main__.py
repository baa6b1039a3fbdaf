"""`python -m batchmill.agents.kafka [FOLDER]`: a local Kafka in the foreground, until Ctrl-C or SIGTERM.

What must not: anything else; the rest of the command line is `batchmill`.
"""

import argparse
import signal
import sys
import threading
from pathlib import Path

from batchmill.agents.kafka import KafkaStartError, start_cluster

__all__ = ["main"]


def main() -> int:
    """Start, print the address on stdout, wait, stop."""
    parser = argparse.ArgumentParser(prog="python -m batchmill.agents.kafka", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".batchmill/kafka"), help="keeps its data")
    parser.add_argument("--brokers", type=int, default=1, help="1 or 3 (default 1)")
    parser.add_argument("--port", type=int, help="of the only broker (default: a free one)")
    arguments = parser.parse_args()
    asked_to_stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: asked_to_stop.set())
    ports = None if arguments.port is None else (arguments.port,)
    try:
        with start_cluster(arguments.folder, brokers=arguments.brokers, ports=ports, say=_to_stderr) as cluster:
            print(cluster.bootstrap_servers, flush=True)
            asked_to_stop.wait()
    except KafkaStartError as error:
        _to_stderr(str(error))
        return 1
    return 0


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
