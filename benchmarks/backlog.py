"""A day's backlog goes to an EHR that is back, beside a plain sender of the stored bytes; a new result overtakes it."""

from __future__ import annotations

import time
from pathlib import Path

from .process import AgentProcess, Child, free_ports
from .sites import add_backlog, make_site


def measure(folder: Path, queued: int, patients: int = 2000) -> dict[str, float]:
    """Messages a second, growth in MiB meanwhile, and how many old messages a new result of another patient lets go first."""
    ports = free_ports(1)
    with Child("ehr") as ehr, Child("instruments") as peers:
        site = make_site(folder, [f"listen://127.0.0.1:{ports[0]}"], ehr.said["port"], results=1)
        add_backlog(site, queued, patients=patients)
        store = str(folder / "state" / "chartbound.db")
        plain = [_plain(ehr, peers, store, queued // 5)]
        ehr.ask(do="expect", count=queued + 1, marker="|M0^")
        with AgentProcess(site) as agent:
            before = agent.memory()
            while (begun := ehr.ask(do="so_far")["count"]) < queued // 3:
                time.sleep(0.02)
            memory = agent.memory()
            peers.ask(do="say_all", ports=ports, first=0, count=1)
            behind = ehr.ask(do="so_far")["count"]
            came = ehr.ask(do="wait")
            grown = max(memory, agent.memory()) - before
        plain.append(_plain(ehr, peers, store, queued // 5))
    times = came["times"]
    ours = (len(times) - 1) / (times[-1] - times[0])
    marked = came["marked"]
    return {
        "ours": ours,
        "plain": sum(plain) / len(plain),
        "ours/plain": ours / (sum(plain) / len(plain)),
        "grown_mib": grown,
        "old_before_new": float(marked - begun),
        "heard_at": float(behind),
        "new_of": float(len(times)),
    }


def _plain(ehr: Child, peers: Child, store: str, count: int) -> float:
    ehr.ask(do="expect", count=0)
    took = peers.ask(do="plain_sender", ehr=ehr.said["port"], store=store, first=1, count=count)["seconds"]
    return float(count / took)
