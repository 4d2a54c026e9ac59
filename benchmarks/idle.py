"""What the agent costs a lab PC: processor while nothing happens, memory, and the time from the start to listening."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from .process import AgentProcess, Child, free_ports
from .sites import add_backlog, make_site
from .yardsticks import play


def processor(folder: Path, seconds: float) -> float:
    """The share of a core that eight idle ports, four of them serial where there are any, and a watched folder take."""
    with _terminals(4) as lines:
        ports = [*lines, *(f"listen://127.0.0.1:{port}" for port in free_ports(8 - len(lines)))]
        site = make_site(folder, ports, free_ports(1)[0], drop=folder.parent / "drop")
        with AgentProcess(site) as agent:
            time.sleep(3)  # what is done once at the start
            before, begun = agent.cpu(), time.monotonic()
            time.sleep(seconds)
            return (agent.cpu() - before) / (time.monotonic() - begun)


@contextlib.contextmanager
def _terminals(count: int) -> Iterator[list[str]]:
    try:
        pairs = [os.openpty() for _ in range(count)]
    except (AttributeError, OSError):  # Windows has none
        yield []
        return
    try:
        yield [os.ttyname(end) for _, end in pairs]
    finally:
        for pair in pairs:
            for end in pair:
                os.close(end)


def start(folder: Path, queued: int, rounds: int = 5) -> dict[str, float]:
    """Seconds from exec to listening with an empty queue and with `queued` messages, in turns; and MiB in both states."""
    ehr = free_ports(1)[0]  # nobody listens there
    sites = {}
    for name, backlog in (("empty", 0), ("queued", queued)):
        sites[name] = make_site(folder / name, [f"listen://127.0.0.1:{port}" for port in free_ports(8)], ehr)
        add_backlog(sites[name], backlog, patients=2000)
    seconds: dict[str, list[float]] = {name: [] for name in sites}
    memory: dict[str, list[float]] = {name: [] for name in sites}
    for _ in range(rounds):
        for name, site in sites.items():
            with AgentProcess(site) as agent:
                time.sleep(2)
                seconds[name].append(agent.start_seconds)
                memory[name].append(agent.memory())
    return {
        "start_s": median(seconds["empty"]),
        "start_added_s": median(seconds["queued"]) - median(seconds["empty"]),
        "idle_mib": median(memory["empty"]),
        "queued_mib": median(memory["queued"]),
    }


def growth(folder: Path, results: int, instruments: int = 4) -> float:
    """By how many MiB the agent has grown after so many results, counted from the first thousand on."""
    ports, warm = free_ports(instruments), 1000
    each = results // instruments
    with Child("ehr") as ehr, Child("instruments") as peers:
        total = warm + each * instruments
        site = make_site(folder, [f"listen://127.0.0.1:{port}" for port in ports], ehr.said["port"], results=total)
        with AgentProcess(site) as agent:
            play(peers, ehr, ports, 0, warm // instruments)
            before = agent.memory()
            done, part = 0, 250  # results of an instrument at a time: the simulators' clocks keep up
            while done < each:
                few = min(part, each - done)
                play(peers, ehr, ports, warm + done * instruments, few)
                done += few
            return agent.memory() - before
