"""`make trust`: 1,700 real addresses, a model that is wrong one time in four, and the confusion table.

    python -m tests.trust [--records N] [--seed N] [--keep FOLDER]

Exit code 0: no answer that the rules can tell to be wrong is in the sink, and with a second opinion none that is wrong.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from batchmill.agents.demo.rig import kafka_for
from tests.trust.gold import addresses
from tests.trust.running import CHECKED, RULES_ONLY, run
from tests.trust.table import KINDS, table_text, tally
from tests.trust.verdict import faults_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.trust", description=__doc__.split("\n\n")[0])
    parser.add_argument("--records", type=int, help="only the first so many addresses")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="work here and leave everything behind")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchmill-trust-") as made:
        folder = asked.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        with kafka_for(folder, say=_say) as cluster:
            outcomes = asyncio.run(run(folder, cluster, addresses(asked.records), seed=asked.seed, say=_say))
    for job, title in ((RULES_ONLY, "Rules and citations"), (CHECKED, "The same, and a second model")):
        print(f"## {title} (job `{job}`)\n\n{table_text(tally(outcomes[job].told))}")
    print("\n".join(f"- {kind}: {what}" for kind, what in KINDS.items()))
    faults = faults_of(outcomes)
    print("\n".join(faults) or "\nevery promise of the table holds")
    return 1 if faults else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
