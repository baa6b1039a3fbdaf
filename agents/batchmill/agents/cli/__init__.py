"""The command line. Data goes to standard output, words for people to standard error; every read takes `--json`.

`program` puts the commands together, one module per noun or task. Modules import what is heavy (settings, Kafka, SQL)
inside the commands that need it, so that `batchmill --help` answers at once. Nothing is decided here.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """The `batchmill` command."""
    from batchmill.agents.cli.program import run

    sys.exit(run(sys.argv[1:]))
