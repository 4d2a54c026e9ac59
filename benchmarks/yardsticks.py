"""What this machine can do just now: every figure of the agent is a ratio to one of these, measured in the same minute.

S  one-row SQLite commits a second (WAL, FULL) in the same folder
R  plain-socket stop-and-wait messages a second to the same EHR
W  the same instruments into a bare receiver (see peers.py)
N  the pipeline that one would write with the libraries at hand (see peers.py)
J  an escaping join of the same ORU (see oru.py)
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .peers import full_sync
from .process import Child


def commits_per_second(folder: Path, seconds: float = 0.4) -> float:
    """S."""
    db = full_sync(folder / "yardstick.db")
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        db.execute("INSERT INTO heard (data) VALUES (?)", (b"x" * 200,))
        count += 1
    took = time.monotonic() - begun
    db.close()
    return count / took


def messages_per_second(instruments: Child, ehr: Child, seconds: float = 0.4) -> float:
    """R."""
    ehr.ask(do="expect", count=0)
    return float(instruments.ask(do="stop_and_wait", ehr=ehr.said["port"], seconds=seconds)["per_second"])


def results_per_second(instruments: Child, ehr: Child, ports: list[int], first: int, each: int) -> float:
    """How many results a second a candidate takes on these ports, heard first to last answered by the EHR."""
    said, arrived = play(instruments, ehr, ports, first, each)
    return len(ports) * each / (arrived[-1] - float(said["begun"]))


def play(
    instruments: Child, ehr: Child, ports: list[int], first: int, each: int, pause: float = 0.0
) -> tuple[dict[str, Any], list[float]]:
    """Let each instrument say `each` results; when they were said, and when each came to the EHR."""
    ehr.ask(do="expect", count=len(ports) * each)
    said = instruments.ask(do="say_all", ports=ports, first=first, count=each, pause=pause)
    came = ehr.ask(do="wait")
    if "problem" in came:
        raise RuntimeError(came["problem"])
    return said, came["times"]
