"""`python -m tests.simulation --seeds 1000`: many stories, each with its seed; stops at the first that breaks a law."""

import argparse
import sys
import time

from tests.simulation.invariants import broken
from tests.simulation.simulation import Scale, simulate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many stories")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--prefer", choices=("batch", "online", "auto"), default="batch", help="which way they go")
    judged = ("plainly", "ruled", "scored")
    parser.add_argument("--judged", choices=judged, default="plainly", help="how answers are judged")
    parser.add_argument("--blind", action="store_true", help="the sink cannot compare")
    parser.add_argument("--stop-after", type=int, help="commits of a version until the operator says go")
    parser.add_argument("--changes", action="store_true", help="commits are taken back and put back")
    parser.add_argument("--replays", action="store_true", help="versions change often, and runs read and write again")
    parser.add_argument("--shared", action="store_true", help="sources share their questions")
    parser.add_argument("--cascade", action="store_true", help="there are routes, and some answers are asked for again")
    parser.add_argument("--sources", type=int, default=Scale().sources, help="sources at most")
    given = parser.parse_args()
    scale = Scale(
        prefer=given.prefer,
        judged=given.judged,
        changes=given.changes,
        compares=not given.blind,
        stop_after=given.stop_after,
        replays=given.replays,
        shared=given.shared,
        cascade=given.cascade,
        sources=given.sources,
    )
    began, lives = time.monotonic(), 0
    for seed in range(given.first, given.first + given.seeds):
        try:
            story = simulate(seed, scale)
        except Exception:
            print(f"seed {seed} stopped", file=sys.stderr)
            raise
        laws = broken(story)
        lives += len(story.lives())
        if laws:
            print(f"seed {seed} broke {', '.join(laws)}")
            for name, shown in laws.items():
                print(*(f"  {name}: {each}" for each in shown[:5]), sep="\n")
            return 1
    seconds = time.monotonic() - began
    print(f"{given.seeds} seeds from {given.first}: every law holds; {lives} lives in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
