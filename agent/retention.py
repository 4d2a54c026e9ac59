"""Forgetting: the text of units that were settled long ago. The keys that stop a replay stay, in journal and store."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine

from .journal import Journal
from .store import results
from .store.engine import reading


def purge(journal: Journal, engine: Engine, days: int, now: datetime) -> int:
    """Forget units settled more than `days` ago, and the wire's bytes of that time; return how many units that were."""
    before = now - timedelta(days=days)
    kept = journal.numbers()
    if not kept:
        return 0
    with reading(engine) as conn:
        numbers = results.settled_before(conn, journal.id, before, min(kept))
    return journal.purge(sorted(kept & numbers), before)
