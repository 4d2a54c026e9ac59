"""The whole path of a result, from the instrument's ENQ to the EHR's answer, beside the yardsticks W and N, in turns."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from .process import AgentProcess, Child, free_ports
from .sites import make_site
from .yardsticks import commits_per_second, messages_per_second, play, results_per_second


def measure(folder: Path, count: int, *, results: int, usual: int, rounds: int = 5) -> dict[str, float]:
    """`count` instruments say `results` results a round to each candidate (`usual` to N, which is slow)."""
    each, few = max(1, results // count), max(1, usual // count)
    folder.mkdir(parents=True)
    ports = free_ports(count)
    with Child("ehr") as ehr, Child("instruments") as instruments:
        told = {"ehr": ehr.said["port"], "folder": str(folder), "ports": count}
        site = make_site(
            folder / "site",
            [f"listen://127.0.0.1:{port}" for port in ports],
            ehr.said["port"],
            results=(rounds + 1) * each * count,
        )
        with Child("bare", **told) as bare, Child("usual", **told) as usual_one, AgentProcess(site) as agent:
            results_per_second(instruments, ehr, ports, 0, each)  # forms are judged, statements compiled
            results_per_second(instruments, ehr, usual_one.said["ports"], 0, few)
            commits, processor = agent.commits(), agent.cpu()
            rates: dict[str, list[float]] = {name: [] for name in ("ours", "W", "N", "S", "R")}
            for number in range(1, rounds + 1):
                rates["W"].append(results_per_second(instruments, ehr, bare.said["ports"], 0, each))
                rates["ours"].append(results_per_second(instruments, ehr, ports, number * each * count, each))
                rates["N"].append(results_per_second(instruments, ehr, usual_one.said["ports"], 0, few))
                rates["S"].append(commits_per_second(folder))
                rates["R"].append(messages_per_second(instruments, ehr))
            said = rounds * each * count
            figures = {
                "commits_per_result": (agent.commits() - commits) / said,
                "processor_ms_per_result": 1000 * (agent.cpu() - processor) / said,
            }
    figures |= {name: median(found) for name, found in rates.items()}
    for other in ("W", "N", "R"):
        figures[f"ours/{other}"] = median(ours / its for ours, its in zip(rates["ours"], rates[other], strict=True))
    return figures


def latency(folder: Path, results: int = 60) -> dict[str, float]:
    """From the last frame's leaving the instrument to the ORU's arrival at the EHR, one result at a time; in seconds."""
    folder.mkdir(parents=True)
    ports = free_ports(1)
    with Child("ehr") as ehr, Child("instruments") as instruments:
        site = make_site(folder / "site", [f"listen://127.0.0.1:{ports[0]}"], ehr.said["port"], results=2 * results)
        with AgentProcess(site):
            play(instruments, ehr, ports, 0, results)
            before = commits_per_second(folder)
            said, came = play(instruments, ehr, ports, results, results, pause=0.06)
            commit = 2 / (before + commits_per_second(folder))
    waits = [arrived - left for left, arrived in zip(said["frames"], came, strict=True)]
    return {"median": median(waits), "longest": max(waits), "commit": commit, "added": median(waits) - 2 * commit}
