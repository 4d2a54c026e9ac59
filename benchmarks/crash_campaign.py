"""Five hundred kills: is anything that the agent acknowledged lost, doubled or changed?

    python benchmarks/crash_campaign.py                    500 kills, from a checkout installed with `pip install -e '.[test]'`
    python benchmarks/crash_campaign.py --kills 50 --seed 7 --dir kept

SIGKILL at random moments, before and after commits of journal and store, and between the ACK of an L and its EOT, while
instruments send and the EHR misbehaves; backups are put back on the way. Prints the counts; exit code 1 on any violation.
A seed repeats the choices, not the timing of processes. POSIX only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from chartbound.tests.crash.campaign import Campaign


def main() -> int:
    said = argparse.ArgumentParser(description="Kill the agent again and again, and count what was lost.")
    said.add_argument("--kills", type=int, default=500)
    said.add_argument("--seed", type=int, default=1)
    said.add_argument("--dir", type=Path, help="keep the state and the agent's log in this new folder")
    asked = said.parse_args()
    if asked.dir is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            return campaign(Path(name), asked.kills, asked.seed)
    asked.dir.mkdir(parents=True)
    return campaign(asked.dir.absolute(), asked.kills, asked.seed)


def campaign(folder: Path, kills: int, seed: int) -> int:
    """Run it in this folder and print what came of it; 1 where anything is wrong."""
    began = time.monotonic()
    with Campaign(folder, seed=seed, kills=kills) as clinic:

        def told(number: int) -> None:
            if sys.stderr.isatty():
                print(f"\r{number} of {kills} kills", end="", file=sys.stderr, flush=True)

        clinic.run(told)
        if sys.stderr.isatty():
            print("; waiting for the queue", file=sys.stderr)
        wrong = clinic.account(seconds=60 + kills)
        print(*clinic.report(), sep="\n")
    print(f"seed {seed}, {time.monotonic() - began:.0f} s")
    for problem in wrong[:50]:
        print(f"WRONG: {problem}")
    print(f"{len(wrong)} violations" if wrong else "nothing lost, nothing doubled, nothing changed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
