"""The ledger: is everything that was heard accounted for?

Journal and store are compared unit by unit. Every unit is settled or counted as `received`, and every report is in exactly one
state: heard = received + duplicate + unreadable + qc + held + queued + posted + refused + dismissed + superseded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from .store import deliveries, results


@dataclass(frozen=True, slots=True)
class Ledger:
    """The counts of `chartbound ledger`; `balanced` is the promise that nothing vanished."""

    heard: int
    received: int
    duplicate: int
    unreadable: int
    qc: int
    held: int
    queued: int
    posted: int
    refused: int
    dismissed: int
    superseded: int
    balanced: bool
    incomplete: int
    rereads: int
    oldest_held_at: datetime | None
    oldest_queued_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()}


def ledger(conn: Connection, journals: Iterable[tuple[str, set[int]]]) -> Ledger:
    """Count what the journals (each its id and the numbers of the units it holds) and the store say.

    `heard` is what was found in each unit when it was settled, and one for each unit that has no verdict yet; the states are
    counted from the reports themselves. The two are written at different places and must come to the same.
    """
    unsettled = 0
    for journal, numbers in journals:
        if numbers:
            unsettled += len(numbers - results.settled_numbers(conn, journal, min(numbers)))
    counts = results.counts(conn)
    found, incomplete, rereads = results.unit_counts(conn)
    counts["received"] += unsettled
    return Ledger(
        heard=found + unsettled,
        **counts,
        balanced=found + unsettled == sum(counts.values()),
        incomplete=incomplete,
        rereads=rereads,
        oldest_held_at=results.oldest(conn, "held"),
        oldest_queued_at=deliveries.oldest_queued_at(conn),
    )
