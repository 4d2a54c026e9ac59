"""The record of what people did: who, when, what and why; only ever added to.

Each row carries a hash over itself and the row before, one chain an agent. A row that was changed, taken out or put elsewhere
breaks the chain there. Only the end of a chain can be cut off unseen, so its head (`head`) leaves with every backup, and
`verify` compares it.

    sha256('{"act":"assign","agent":"5f3a…","at":"2026-03-02T14:05:09.120000+00:00","detail":{…},"number":7,
             "previous":"9c1e…","subject":"result 12","who":"mlee"}')
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from . import host
from .store.schema import audit

_START = "0" * 64  # what the first row of a chain has before it


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of an agent's chain: who keeps it elsewhere can tell later whether the end was cut off."""

    agent: str
    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A place where a chain is broken."""

    agent: str
    number: int
    what: str  # for a person


def operator() -> str:
    """Who acts on the command line: the operating system's user, never a name that one types."""
    return host.user()


def append(conn: Connection, agent: str, who: str, act: str, subject: str, detail: Mapping[str, Any], at: datetime) -> None:
    """Add an act of a person to this agent's chain. Inside `writing`, with what the act changes: both happen or neither.

    `detail` is plain JSON; a float that is not a number is refused with `ValueError`.
    """
    last = head(conn, agent)
    row = {
        "agent": agent,
        "number": last.number + 1 if last else 1,
        "at": at,
        "who": who,
        "act": act,
        "subject": subject,
        "detail": json.loads(json.dumps(detail, allow_nan=False)),
        "previous": last.hash if last else _START,
    }
    conn.execute(audit.insert().values(**row, hash=_hash(row)))


def head(conn: Connection, agent: str) -> Head | None:
    """The last row of this agent's chain; None where nothing was done yet."""
    newest = select(audit.c.agent, audit.c.number, audit.c.hash).where(audit.c.agent == agent).order_by(audit.c.number.desc())
    row = conn.execute(newest.limit(1)).one_or_none()
    return Head(row.agent, row.number, row.hash) if row else None


def heads(conn: Connection) -> list[Head]:
    """The heads of all chains in this store, by agent."""
    agents = conn.execute(select(audit.c.agent).distinct().order_by(audit.c.agent)).scalars()
    return [found for agent in agents if (found := head(conn, agent))]


def verify(conn: Connection, known: Iterable[Head] = ()) -> list[Problem]:
    """Check every chain from its first row, and that the heads `known` from elsewhere are still in it."""
    expected = {(kept.agent, kept.number): kept.hash for kept in known}
    problems: list[Problem] = []
    agent, number, previous, place = "", 0, _START, 0
    rows = conn.execution_options(yield_per=500).execute(select(audit).order_by(audit.c.agent, audit.c.number))
    for row in rows.mappings():
        if row["agent"] != agent:
            agent, number, previous, place = row["agent"], 0, _START, 0
        if row["number"] != number + 1:
            problems.append(Problem(agent, number + 1, f"missing: row {number} is followed by row {row['number']}"))
        elif row["previous"] != previous:
            problems.append(
                Problem(agent, row["number"], "does not follow the row before: one of the two was changed or replaced")
            )
        if row["hash"] != _hash(dict(row)):
            problems.append(Problem(agent, row["number"], "changed: its content does not give its hash"))
        if row["id"] <= place:
            problems.append(Problem(agent, row["number"], "out of order: it was written before the row it follows"))
        if expected.pop((agent, row["number"]), row["hash"]) != row["hash"]:
            problems.append(Problem(agent, row["number"], "replaced: it is another row than the one kept elsewhere"))
        number, previous, place = row["number"], row["hash"], row["id"]
    problems += [Problem(agent, number, "missing: it is kept elsewhere and not here") for agent, number in expected]
    return problems


def _hash(row: Mapping[str, Any]) -> str:
    said = {key: row[key] for key in ("agent", "number", "who", "act", "subject", "detail", "previous")}
    said["at"] = row["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
