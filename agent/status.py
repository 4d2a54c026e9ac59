"""What the running agent is doing, for `chartbound status`: it writes a small file every few seconds, and others read it.

The file holds instruments, destinations and counts; no patient.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from . import host
from .store import results
from .store.engine import StoreUnavailable, migrate, open_store, reading

if TYPE_CHECKING:
    from ..config.site import Site
    from .runtime import Agent

_FILE = "status.json"
_FRESH = timedelta(seconds=15)
_RECENT = timedelta(days=7)


def of(agent: Agent) -> dict[str, Any]:
    """The running agent's own view of itself."""
    return {
        "at": _iso(datetime.now(UTC)),
        "pid": os.getpid(),
        "started_at": _iso(agent.started_at),
        "instruments": [
            {
                "name": one.instrument,
                "state": one.state,
                "why": one.why,
                "since": _iso(one.since),
                "heard_at": _iso(one.heard_at),
                "units": one.units,
                "incomplete": one.incomplete,
                "unsaved": one.unsaved,
                "troubles": dict(one.troubles),
            }
            for one in agent.hearings
        ],
        "folders": {
            name: [f"{trouble.what}: {trouble.detail}" for trouble in list(folder.troubles.values())]
            for name, folder in agent.folders.items()
        },
        "orders": {"port": agent.order_listener.bound, "why": agent.order_listener.why} if agent.order_listener else None,
        "destinations": [
            {
                "name": said.destination,
                "connected": said.connected,
                "last_outcome": said.last_outcome.value if said.last_outcome else None,
                "last_at": _iso(said.last_at),
                "unreachable_since": _iso(said.unreachable_since),
                "problem": said.problem,
            }
            for said in (sender.status() for sender in agent.senders)
        ],
        "store_away": agent.writer.away,
        "journal_trouble": str(agent.journal.trouble or ""),
        "commits": {"journal": agent.journal.commits, "store": agent.writer.commits},
        "failures": dict(_failures(agent)),
        "not_settled": sorted(number for judge in agent.judges for number in judge.failed),
    }


def _failures(agent: Agent) -> Counter[str]:
    """How often each part failed and was started again: a program's error, a driver's among them."""
    found = Counter({worker.name: worker.failures for worker in agent.workers})
    found.update({one.instrument: one.failures for one in agent.hearings})
    return +found


def write(state_dir: Path, said: dict[str, Any]) -> None:
    """Replace the file whole, so that nobody reads half of it; on a full disk write over the old one, which needs no room."""
    fresh, path, text = state_dir / f"{_FILE}.new", state_dir / _FILE, json.dumps(said, indent=1).encode()
    try:
        fresh.write_bytes(text)
        fresh.replace(path)
    except OSError:
        with suppress(OSError), path.open("r+b") as file:
            file.write(text)
            file.truncate()


def remove(state_dir: Path) -> None:
    """Say that no agent runs here any more."""
    (state_dir / _FILE).unlink(missing_ok=True)


def read(state_dir: Path, now: datetime) -> dict[str, Any] | None:
    """What the agent last said of itself; None where none runs. `fresh` is false where it has fallen silent."""
    try:
        said: dict[str, Any] = json.loads((state_dir / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    said["fresh"] = now - datetime.fromisoformat(said["at"]) < _FRESH
    return said


@dataclass(frozen=True, slots=True)
class Attention:
    """Something that a person should look at: what, how many, since when, and what to do."""

    what: str
    count: int
    since: datetime | None
    hint: str


def attention(conn: Connection, now: datetime) -> list[Attention]:
    """What waits for a person, the gravest first."""
    since = now - _RECENT
    found: list[Attention] = []
    held, critical = results.held(conn), results.held_critical(conn)
    contradicted = results.alarms(conn, "contradicted", since)
    overtaken = results.alarms(conn, "overtaken", since)
    refused, unreadable = results.in_state(conn, "refused"), results.in_state(conn, "unreadable")
    incomplete = results.incomplete_units(conn, since)
    if critical:
        found.append(
            Attention("critical values held", len(critical), critical[0].heard_at, "`chartbound results --state held`")
        )
    if contradicted:
        hint = "results in the chart that the instrument has since stated of another: `chartbound result ID`"
        found.append(Attention("charted results contradicted", len(contradicted), contradicted[-1].at, hint))
    if overtaken:
        hint = "the EHR has a message that was withdrawn while it was on the wire: `chartbound result ID`"
        found.append(Attention("accepted after they were withdrawn", len(overtaken), overtaken[-1].at, hint))
    if refused:
        found.append(
            Attention("refused by the EHR", len(refused), refused[0].heard_at, "mend the cause, then `chartbound resend ID`")
        )
    if held:
        found.append(Attention("held", len(held), held[0].heard_at, "`chartbound results --state held`"))
    if unreadable:
        found.append(
            Attention("unreadable", len(unreadable), unreadable[0].heard_at, "`chartbound results --state unreadable`")
        )
    found += [
        Attention(f"{gap['instrument']}: {gap['said']} not heard", gap["count"], gap["at"], "see the instrument's own memory")
        for gap in gaps(conn, since)
    ]
    if incomplete:
        hint = "an instrument fell silent in mid-message: see its own memory and run the report again"
        found.append(Attention("incomplete transmissions", len(incomplete), incomplete[-1].heard_at, hint))
    return found


def waiting(site: Site, now: datetime) -> tuple[list[Attention], bool]:
    """What waits for a person, and whether the store is away: then that is it, and the running agent can still be shown."""
    engine = open_store(site.store.url, host.state_folder(site.state_dir))
    try:
        migrate(engine)
        with reading(engine) as conn:
            return attention(conn, now), False
    except StoreUnavailable as away:
        return [Attention(away.what, 1, None, away.hint)], True
    finally:
        engine.dispose()


def gaps(conn: Connection, since: datetime) -> list[dict[str, Any]]:
    """Running numbers of instruments that were never heard, those heard later left out."""
    found = []
    for event in results.alarms(conn, "sequence_gap", since):
        first, last = event.detail["from"], event.detail["to"]
        missing = results.missing_sequence(conn, event.detail["instrument"], first, last)
        if missing:
            said = str(first) if first == last else f"{first}–{last}"
            found.append({"instrument": event.detail["instrument"], "said": said, "count": len(missing), "at": event.at})
    return found


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
