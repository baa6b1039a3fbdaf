"""`make story`: 10,000 records through three versions of a job: a gate, a replay, a rollback, live records meanwhile.

    python -m tests.story [--records N] [--keep FOLDER]

Exit code 0: every total is exact, and nothing was asked or written twice.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from batchmill.agents.demo.rig import kafka_for
from tests.story.running import run
from tests.story.script import script_of
from tests.story.telling import table_text, transcript
from tests.story.verdict import faults_of

_RECORDS = 10_000
_RECORDS_MIN = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.story", description=__doc__.split("\n\n")[0])
    parser.add_argument("--records", type=int, default=_RECORDS, help=f"{_RECORDS_MIN} or more")
    parser.add_argument("--keep", type=Path, help="work here and leave everything behind, with a transcript")
    asked = parser.parse_args()
    if asked.records < _RECORDS_MIN:
        parser.error(f"--records: {_RECORDS_MIN} or more, or the samples are larger than what they are of")
    with tempfile.TemporaryDirectory(prefix="batchmill-story-") as made:
        folder = asked.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        with kafka_for(folder, say=_say) as cluster:
            told = asyncio.run(run(folder, cluster, script_of(asked.records), say=_say))
            (folder / "transcript.txt").write_text(transcript(told), encoding="utf-8")
    print(table_text(told))
    faults = faults_of(told)
    print("\n".join(faults) or "every promise of the story holds")
    return 1 if faults else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
