"""The way from journals to the store: each unit once, in the order heard, also across a restore."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from chartbound.agent.journal import Journal, begin_after_restore, open_journal, restored_journals
from chartbound.agent.judge import Judge
from chartbound.agent.ledger import ledger
from chartbound.agent.store import results
from chartbound.agent.store.engine import reading
from chartbound.agent.verdict import Verdicts
from chartbound.agent.writer import StoreWriter
from chartbound.config import catalog as catalogs
from chartbound.config import site as sites
from chartbound.simulators import clinitek_status
from chartbound.simulators.peer import SimulatedTest

NINE = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)
SITE = """\
[site]
facility = "RIVERSIDE"
timezone = "UTC"
state_dir = "state"

[[instruments]]
name = "urine-1"
driver = "clinitek_status"
port = "listen://127.0.0.1:4002"
[instruments.options]
date_order = "mdy"

[[destinations]]
name = "ehr"
address = "127.0.0.1:2575"
"""


def hear(journal: Journal, number: int, at: datetime) -> None:
    """Keep the line of the test of this number."""
    test = SimulatedTest(at=NINE.replace(tzinfo=None) + timedelta(minutes=number), sequence=number, specimen_id="S-1")
    journal.append_unit("urine-1", "clinitek_status", clinitek_status.line(test)[:-1], at).result()


def test_what_was_heard_before_a_restore_is_settled_before_what_is_heard_after_it(store: Engine, tmp_path: Path) -> None:
    """Else a result that the instrument says again would be filed anew, under another control id than the one the EHR has."""
    (tmp_path / "site.toml").write_text(SITE, "utf-8")
    site = sites.load(tmp_path / "site.toml")
    verdicts = Verdicts(site, catalogs.load(tmp_path), "a1")
    for day, numbers in enumerate((range(1, 121), range(121, 200), [120, 199, 200]), 1):
        begin_after_restore(tmp_path)
        journal = open_journal(tmp_path, "a1")
        for number in numbers:
            hear(journal, number, NINE + timedelta(days=day))
        if day < 3:
            journal.close()
    readers = [*restored_journals(tmp_path), journal]
    assert [reader.count() for reader in readers] == [120, 79, 3]

    writer = StoreWriter(store)
    judges: list[Judge] = []
    for reader in readers:
        judges.append(Judge(reader, verdicts, writer, lambda: None, after=judges[-1] if judges else None))
    for judge in reversed(judges):
        judge.look()
    writer.start()
    assert writer.flush(60)
    writer.stop()
    for reader in readers:
        reader.close()

    with reading(store) as conn:
        rows = results.listed(conn, limit=1000)
    assert [(row.sequence, row.journal) for row in rows if row.state == "duplicate"] == [(199, journal.id), (120, journal.id)]
    assert len({(row.journal, row.unit) for row in rows}) == len(rows) == 202


def test_what_could_not_be_read_is_read_again_once_its_instrument_is_named_again(store: Engine, tmp_path: Path) -> None:
    """The bytes are kept, so a site file that forgot an instrument costs no result, and the ledger still balances."""
    (tmp_path / "site.toml").write_text(SITE.replace("urine-1", "urine-9"), "utf-8")
    journal = open_journal(tmp_path, "a1")
    hear(journal, 1, NINE)
    hear(journal, 2, NINE)
    journal.append_unit("urine-1", "clinitek_status", b"no report at all", NINE).result()
    writer = StoreWriter(store)
    writer.start()

    def settled_by(site_text: str) -> list[tuple[str, str]]:
        (tmp_path / "site.toml").write_text(site_text, "utf-8")
        verdicts = Verdicts(sites.load(tmp_path / "site.toml"), catalogs.load(tmp_path), "a1")
        judge = Judge(journal, verdicts, writer, lambda: None)
        judge.look()
        assert writer.flush(30)
        judge.read_again()
        assert writer.flush(30)
        with reading(store) as conn:
            assert ledger(conn, [(journal.id, journal.numbers())]).balanced
            return [(row.state, row.reason) for row in results.listed(conn)]

    assert settled_by(SITE.replace("urine-1", "urine-9")) == [("unreadable", "")] * 3
    named_again = [("unreadable", ""), ("held", "LABEL_UNKNOWN"), ("held", "LABEL_UNKNOWN")]
    assert settled_by(SITE) == named_again
    assert settled_by(SITE) == named_again
    writer.stop()
    journal.close()
