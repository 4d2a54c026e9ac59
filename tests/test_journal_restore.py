"""After a restore a new journal is opened, and the restored one is read for what the store has not settled."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chartbound.agent.journal import (
    Journal,
    JournalUnavailable,
    begin_after_restore,
    mark_restored,
    open_journal,
    restored_journals,
)

AT = datetime(2026, 3, 2, 14, 5, 9, 120000, tzinfo=UTC)


def _append(journal: Journal, data: bytes, instrument: str = "meter", at: datetime = AT) -> int:
    return journal.append_unit(instrument, "driver", data, at).result(10)


def _rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def _none(numbers: Sequence[int]) -> Collection[int]:
    return ()


def test_after_a_restore_a_new_journal_is_opened_and_the_old_one_kept(tmp_path: Path) -> None:
    old = open_journal(tmp_path, "agent-1")
    number, old_id = _append(old, b"before the backup"), old.id
    old.close()
    mark_restored(tmp_path)
    new = open_journal(tmp_path, "agent-1")
    assert new.id != old_id
    assert new.count() == 0
    [restored] = restored_journals(tmp_path)
    assert restored.path.name == f"journal-{old_id}.db"
    assert restored.id == old_id
    assert [(unit.number, unit.data) for unit in restored.unsettled(_none)] == [(number, b"before the backup")]
    restored.close()
    new.close()
    again = open_journal(tmp_path, "agent-1")
    assert again.id == new.id
    again.close()


def test_a_restore_cut_short_can_be_done_again(tmp_path: Path) -> None:
    open_journal(tmp_path, "agent-1").close()
    backup = (tmp_path / "journal.db").read_bytes()
    (tmp_path / "journal.db").unlink()
    mark_restored(tmp_path)
    (tmp_path / "journal.db").write_bytes(backup)
    begin_after_restore(tmp_path)
    (tmp_path / "restored").touch()  # as if the process had died before it took the mark away
    begin_after_restore(tmp_path)
    assert len(_restored_paths(tmp_path)) == 1
    assert not (tmp_path / "restored").exists()


def test_what_was_heard_after_the_backup_outlives_the_restore(tmp_path: Path) -> None:
    """The journal on the disk knows more than the backup that replaces it: both are kept, under the id they share."""
    journal = open_journal(tmp_path, "agent-1")
    _append(journal, b"before")
    backup = tmp_path / "backup"
    _rows(journal.path, f"VACUUM INTO '{backup}'")
    _append(journal, b"after")
    journal.close()
    mark_restored(tmp_path)
    backup.replace(tmp_path / "journal.db")
    new = open_journal(tmp_path, "agent-1")
    restored = restored_journals(tmp_path)
    assert {reader.id for reader in restored} == {journal.id}
    assert sorted(b"|".join(unit.data for unit in reader.units_after()) for reader in restored) == [b"before", b"before|after"]
    assert new.id != journal.id
    for opened in (new, *restored):
        opened.close()


def test_a_damaged_journal_does_not_hinder_a_restore(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"rubbish" * 1000)
    (tmp_path / "journal.db-wal").write_bytes(b"rubbish")
    mark_restored(tmp_path)
    assert not list(tmp_path.glob("journal.db*"))
    assert [path.read_bytes() for path in tmp_path.glob("journal.damaged-????????")] == [b"rubbish" * 1000]
    open_journal(tmp_path, "agent-1").close()


def test_the_same_backup_restored_twice_loses_neither(tmp_path: Path) -> None:
    open_journal(tmp_path, "agent-1").close()
    backup = (tmp_path / "journal.db").read_bytes()
    (tmp_path / "journal.db").unlink()
    for _ in range(2):
        mark_restored(tmp_path)
        (tmp_path / "journal.db").write_bytes(backup)
        begin_after_restore(tmp_path)
    assert len(_restored_paths(tmp_path)) == 2


def test_a_restored_journal_that_is_damaged_is_said(tmp_path: Path) -> None:
    open_journal(tmp_path, "agent-1").close()
    mark_restored(tmp_path)
    (tmp_path / "journal-zzz.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(JournalUnavailable, match="damaged"):
        restored_journals(tmp_path)


def _restored_paths(state_dir: Path) -> list[Path]:
    journals = restored_journals(state_dir)
    for journal in journals:
        journal.close()
    return [journal.path for journal in journals]
