"""Measures the yardsticks and the agent together and prints how each goal is met.

    python benchmarks/run.py            some minutes
    python benchmarks/run.py --quick    about one minute, less sure
    python benchmarks/run.py --full     the goals' own numbers (50,000 files, 100,000 results); long
    python benchmarks/run.py --json     the table and every figure behind it, for programs

Disks and loopbacks vary from hour to hour, so what is judged is a ratio inside this run. Processor and memory are read from
/proc; where there is none these goals are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chartbound.benchmarks import backlog, folders, idle, lis1a, oru, pipeline


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything is measured."""

    rounds: int
    results: int  # a round, for ours and W
    usual: int  # a round, for N
    latency: int
    files: int
    idle_seconds: float
    growth: int
    queued: int


SIZES = {
    "quick": Size(rounds=3, results=160, usual=32, latency=40, files=2000, idle_seconds=5, growth=2000, queued=3000),
    "usual": Size(rounds=5, results=480, usual=64, latency=100, files=10_000, idle_seconds=20, growth=8000, queued=10_000),
    "full": Size(rounds=7, results=1600, usual=160, latency=300, files=50_000, idle_seconds=60, growth=100_000, queued=50_000),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table."""

    goal: str
    target: str
    measured: str
    met: bool


def _at_least(goal: str, value: float, target: float, unit: str) -> Goal:
    return Goal(goal, f"≥ {target:g} {unit}", f"{value:.2f} {unit}", value >= target)


def _at_most(goal: str, value: float, target: float, unit: str) -> Goal:
    return Goal(goal, f"≤ {target:g} {unit}", f"{value:.3g} {unit}", value <= target)


Part = Callable[[Path, Size], tuple[dict[str, Any], list[Goal]]]


def one_instrument(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    return _pipeline(folder, size, "1 instrument", 1, against_usual=10, commits=3)


def sixteen_instruments(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    return _pipeline(folder, size, "16 instruments", 16, against_usual=20, commits=0.5)


def _pipeline(
    folder: Path, size: Size, name: str, count: int, *, against_usual: float, commits: float
) -> tuple[dict[str, Any], list[Goal]]:
    found = pipeline.measure(folder, count, results=size.results, usual=size.usual, rounds=size.rounds)
    return found, [
        _at_least(f"{name}, whole path", found["ours/W"], 0.5, "W"),
        _at_least(f"{name}, whole path", found["ours/N"], against_usual, "N"),
        _at_most(f"{name}, commits per result", found["commits_per_result"], commits, ""),
    ]


def latency(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    found = pipeline.latency(folder, size.latency)
    return found, [_at_most("last frame to ORU on the wire, beyond 2 commits", 1000 * found["added"], 10, "ms")]


def building(_folder: Path, _size: Size) -> tuple[dict[str, Any], list[Goal]]:
    found = oru.measure()
    return found, [_at_most("ORU with 10 OBX", found["ratio"], 2, "J")]


def receiving(_folder: Path, _size: Size) -> tuple[dict[str, Any], list[Goal]]:
    found = lis1a.measure()
    return found, [_at_most("LIS1-A and LIS2-A2, 14 frames, any cut", max(found.values()), 4, "× bare loop")]


def dropping(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    folder.mkdir()
    found = folders.measure(size.files * 5 // 6, size.files // 6, folder)
    return found, [
        _at_most(f"{found['files']:.0f} files at once, lost", found["lost"], 0, ""),
        _at_most(f"{found['files']:.0f} files at once, listed after the last", found["listed_after_last_s"], 2, "s"),
    ]


def idling(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    share = 100 * idle.processor(folder / "site", size.idle_seconds)
    return {"percent": share}, [_at_most("8 idle ports, folder watch", share, 0.5, "% of a core")]


def starting(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    found = idle.start(folder, size.queued, size.rounds)
    return found, [
        _at_most("resident memory, idle", found["idle_mib"], 80, "MiB"),
        _at_most(f"more with {size.queued:,} queued", found["queued_mib"] - found["idle_mib"], 30, "MiB"),
        _at_most("start to listening", found["start_s"], 1, "s"),
        _at_most(f"{size.queued:,} queued add", found["start_added_s"], 1, "s"),
    ]


def growing(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    grown = idle.growth(folder, size.growth)
    return {"mib": grown}, [_at_most(f"growth over {size.growth:,} results", grown, 10, "MiB")]


def catching_up(folder: Path, size: Size) -> tuple[dict[str, Any], list[Goal]]:
    found = backlog.measure(folder, size.queued)
    return found, [
        _at_least(f"backlog of {size.queued:,}", found["ours/plain"], 0.5, "plain sender"),
        _at_most("growth meanwhile", found["grown_mib"], 10, "MiB"),
        _at_most("old messages before a new result", found["old_before_new"], size.queued / 10, ""),
    ]


PARTS: dict[str, Part] = {
    part.__name__: part
    for part in (
        one_instrument,
        sixteen_instruments,
        latency,
        building,
        receiving,
        dropping,
        idling,
        starting,
        growing,
        catching_up,
    )
}


def measure(size: Size, names: list[str]) -> Iterator[tuple[str, dict[str, Any], list[Goal]]]:
    """Each part in turn, in a folder of its own below the current one: the disk is the one that is measured."""
    with tempfile.TemporaryDirectory(prefix="chartbound-benchmark-", dir=Path.cwd(), ignore_cleanup_errors=True) as name:
        for part in names:
            found, goals = PARTS[part](Path(name) / part, size)
            yield part, found, goals


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {' '.join(PARTS)}")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size", default="usual")
    parser.add_argument("--full", action="store_const", const="full", dest="size")
    parser.add_argument("--json", action="store_true", dest="as_json")
    said = parser.parse_args()
    if unknown := set(said.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    table: list[Goal] = []
    for part, found, goals in measure(SIZES[said.size], said.parts or list(PARTS)):
        figures[part] = found
        table += goals
        if not said.as_json:
            for one in goals:
                print(f"{one.goal:50} {one.target:18} {one.measured:22} {'met' if one.met else 'NOT MET'}", flush=True)
    if said.as_json:
        print(json.dumps({"goals": [asdict(one) for one in table], "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
