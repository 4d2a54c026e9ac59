"""Units are forgotten some days after they are settled; what is not settled, and the keys against replays, stay."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from chartbound.agent.journal import Journal, digest
from chartbound.agent.retention import purge
from chartbound.agent.store import results
from chartbound.agent.store.engine import writing

from .clinic import NINE


def test_a_unit_is_forgotten_after_its_days_and_never_before_it_is_settled(store: Engine, tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db", "agent-1")
    try:
        for data in (b"settled long ago", b"settled lately", b"not settled"):
            journal.append_unit("meter", "driver", data, NINE).result(10)
        with writing(store) as conn:
            for number, days in ((1, 91), (2, 89)):
                at = NINE - timedelta(days=days)
                results.settle(conn, journal=journal.id, number=number, instrument="meter", heard_at=at, at=at)
        assert purge(journal, store, 90, NINE) == 1
        assert journal.numbers() == {2, 3}
        assert journal.knows(digest(b"settled long ago"), "meter")
        with writing(store) as conn:
            assert results.is_settled(conn, journal.id, 1)
        assert purge(journal, store, 90, NINE) == 0
    finally:
        journal.close()
