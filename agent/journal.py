"""What the instruments said, kept before anything else is done with it: nothing acknowledged is ever lost.

The journal is one local SQLite file. An instrument may presume a result saved only after the unit's row has been synced to the
disk. One thread writes; whatever many ports hand over while the disk is busy shares the next sync (group commit). Beside the
units lie the raw bytes of the wire in both directions, at most 20 ms late, because a one-way instrument cannot say them again.

A journal has a random id of its own: unit 17 of journal 5f3a… is one fact for ever, whatever becomes of it in the store. So a
state folder that was restored from a backup goes on with a new journal (`begin_after_restore`): numbers that were given out
after the backup are never given to other results. The restored one stays as `journal-<id>.db`, and is only read.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from pathlib import Path

from .host import sync_folder
from .journal_file import PAGE, Heard, JournalReader, JournalUnavailable, Raw, digest, explain, explained, prepare, utc_text

__all__ = [
    "Heard",
    "Journal",
    "JournalReader",
    "JournalUnavailable",
    "Raw",
    "begin_after_restore",
    "digest",
    "mark_restored",
    "open_journal",
    "restored_journals",
]

RAW_DELAY = 0.015  # seconds that raw bytes gather in memory; with the sync they are on the disk within 20 ms
RAW_HELD = 8 << 20  # bytes of raw text kept in memory while the disk refuses them
_RETRY = 1.0  # seconds between attempts at refused raw bytes; a unit is always tried at once
_BATCH = 1000  # entries a commit, so that a flood of files cannot make one ACK wait for all of them


@dataclass(slots=True)
class _Work:
    """Something to write, for which somebody waits."""

    write: Callable[[sqlite3.Connection], int]
    done: Future[int]
    result: int = 0


@dataclass(slots=True)
class _Wire:
    """Raw bytes on their way to the disk; they grow while they wait."""

    instrument: str
    at: datetime
    direction: str
    data: bytearray


class Journal(JournalReader):
    """The one journal that an agent writes. Every method may be called from any thread."""

    @classmethod
    def open(cls, path: Path, agent: str) -> Journal:
        """Open the journal at `path` for this agent, or make it with a new id.

        Raises `JournalUnavailable`, also where the journal belongs to another agent: a copied one must not go on in two places.
        """
        with explained(path):
            writer = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            try:
                prepare(writer, path, agent)
                return cls(path, writer)
            except BaseException:
                writer.close()
                raise

    def __init__(self, path: Path, writer: sqlite3.Connection) -> None:
        """Not for callers: `open` gives the connection that the writing thread owns from here on."""
        super().__init__(path)
        self.commits = 0  # synced so far: the benchmark's "commits per result"
        self.raw_lost = 0  # bytes of the wire given up because the disk refused them for too long
        self.trouble: JournalUnavailable | None = None  # why the last commit failed; None once one has succeeded
        self._writer = writer
        self._queue: deque[_Work | _Wire] = deque()
        self._awaited = 0  # entries of the queue that somebody waits for
        self._raw_due = 0.0  # monotonic seconds, where the queue holds raw bytes alone
        self._raw_size = 0
        self._growing: dict[str, _Wire] = {}  # by instrument: the queued bytes that may still grow
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append_unit(
        self, instrument: str, driver: str, data: bytes, heard_at: datetime, *, incomplete: str = "", message: int = 0
    ) -> Future[int]:
        """Keep a unit; the future gives its number once the disk has it, or raises `JournalUnavailable`.

        `incomplete` says why a transmission died before its storage point, without a text of its records; `message` tells
        the units of one transmission from the next. A callback on the future runs in the writing thread and must not wait.
        What was refused is not kept for later: the sender, who got no ACK, or the caller says it again.
        """
        content = hashlib.sha256(data).digest()
        row = (instrument, driver, message, utc_text(heard_at), incomplete, content, instrument, data)
        return self._submit(lambda db: _insert_unit(db, row), instrument)

    def append_raw(self, instrument: str, direction: str, data: bytes, at: datetime) -> None:
        """Keep bytes of the wire ("<" heard, ">" said): on the disk within 20 ms or with the next unit.

        While the disk refuses them, some MiB wait for it.
        """
        utc_text(at)  # a time without a zone is the caller's error, and is raised here
        with self._wake:
            self._refuse_closed()
            if self._raw_size + len(data) > RAW_HELD:
                self.raw_lost += len(data)
                return
            self._raw_size += len(data)
            wire = self._growing.get(instrument)
            if wire is not None and wire.direction == direction:
                wire.data += data
                return
            self._growing[instrument] = wire = _Wire(instrument, at, direction, bytearray(data))
            if not self._queue:
                self._raw_due = time.monotonic() + RAW_DELAY
                self._wake.notify()
            self._queue.append(wire)

    def purge(self, numbers: Iterable[int], raw_before: datetime) -> int:
        """Forget the text of these settled units and the wire's bytes before a time; return how many units were forgotten.

        Works in small commits between those of the ports. Number and digest of a unit stay.
        """
        cut, purged, left = utc_text(raw_before), 0, iter(numbers)
        while page := list(islice(left, PAGE)):
            purged += self._submit(lambda db, page=page: _forget_units(db, page)).result()  # type: ignore[misc]
        while self._submit(lambda db: _forget_raw(db, cut)).result():
            pass
        return purged

    def see_to_it(self) -> None:
        """Raises `JournalUnavailable` where the thread that writes has ended, which only a failure of the program can bring."""
        if not self._thread.is_alive():
            raise JournalUnavailable(f"the journal {self.path} is written no more", "see the log, and start the agent again")

    def close(self) -> None:
        """Write what is queued, end the thread and close the file. What cannot be written is refused."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        super().close()
        self._writer.close()  # last: the last connection to close folds the write-ahead log into the file

    def _submit(self, write: Callable[[sqlite3.Connection], int], instrument: str = "") -> Future[int]:
        work = _Work(write, Future())
        work.done.set_running_or_notify_cancel()  # from here on nobody can take it back
        with self._wake:
            self._refuse_closed()
            self._growing.pop(instrument, None)  # bytes heard after a unit are not mixed with those before it
            self._queue.append(work)
            self._awaited += 1
            self._wake.notify()
        return work.done

    def _refuse_closed(self) -> None:
        if self._closing:
            raise JournalUnavailable("the journal is closed", "start the agent again")

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._commit(batch)
        finally:
            with self._wake:  # nobody is left waiting, whatever ended this thread
                self._closing = True
                for entry in self._queue:
                    if isinstance(entry, _Work):
                        entry.done.set_exception(JournalUnavailable("the journal is closed", "start the agent again"))
                self._queue.clear()

    def _take(self) -> list[_Work | _Wire]:
        """Wait until something is due and take it; nothing only when the journal is closing."""
        with self._wake:
            while not (self._awaited or self._closing):
                due = self._raw_due - time.monotonic() if self._queue else None
                if due is not None and due <= 0:
                    break
                self._wake.wait(due)
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            self._awaited -= sum(isinstance(entry, _Work) for entry in batch)
            self._growing.clear()
            return batch

    def _commit(self, batch: list[_Work | _Wire]) -> None:
        """Write what was taken; where that fails, each awaited entry alone: none is refused for its neighbour's sake."""
        error = self._write(batch)
        self.trouble = error
        wires = [entry for entry in batch if isinstance(entry, _Wire)]
        work = [entry for entry in batch if isinstance(entry, _Work)]
        with self._wake:
            if error is None:
                self._raw_size -= sum(len(wire.data) for wire in wires)
            elif self._closing:
                self.raw_lost += sum(len(wire.data) for wire in wires)
            else:
                self._queue.extendleft(reversed(wires))
            self._raw_due = time.monotonic() + (RAW_DELAY if error is None else _RETRY)
        if error is None:
            for entry in work:
                entry.done.set_result(entry.result)
        elif len(batch) == 1:
            for entry in work:
                entry.done.set_exception(error)
        else:
            for entry in work:
                self._commit([entry])

    def _write(self, batch: list[_Work | _Wire]) -> JournalUnavailable | None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for entry in batch:
                if isinstance(entry, _Work):
                    entry.result = entry.write(self._writer)
                else:
                    _insert_raw(self._writer, entry)
            self._writer.execute("COMMIT")
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            with suppress(sqlite3.Error):  # SQLite rolls back by itself after most errors of the disk; the next BEGIN tells
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            return explain(error, self.path)
        self.commits += 1
        return None


def open_journal(state_dir: Path, agent: str) -> Journal:
    """Open the journal of this state folder; after a restore, a new one. Raises `JournalUnavailable`."""
    if (state_dir / "restored").exists():
        begin_after_restore(state_dir)
    return Journal.open(state_dir / "journal.db", agent)


def restored_journals(state_dir: Path) -> list[JournalReader]:
    """The journals that restores have left here, the oldest first, to read for units that the store has not settled."""
    readers: list[JournalReader] = []
    try:
        for path in sorted(state_dir.glob("journal-*.db")):
            readers.append(JournalReader(path))  # noqa: PERF401 (those before a damaged one are closed again)
    except JournalUnavailable:
        for reader in readers:
            reader.close()
        raise
    return sorted(readers, key=lambda reader: reader.began())


def mark_restored(state_dir: Path) -> None:
    """Make way for files from a backup. Called by the restore before it puts the first one in place, with no agent running.

    The journal that is here may hold what the backup does not, so it is put aside like a restored one; a damaged one too, as
    `journal.damaged-…`, which nobody reads.
    """
    current = state_dir / "journal.db"
    if current.exists():
        try:
            _put_aside(current)
        except JournalUnavailable:
            mark = secrets.token_hex(4)
            for suffix in ("", "-wal", "-shm"):  # another journal's log beside the restored file would destroy it
                part = current.with_name(current.name + suffix)
                if part.exists():
                    part.replace(current.with_name(f"journal.damaged-{mark}{suffix}"))
    (state_dir / "restored").touch()
    sync_folder(state_dir)


def begin_after_restore(state_dir: Path) -> None:
    """Put the restored journal aside under its own id, so that the next one opened is new. Cut short, it can be done again."""
    current = state_dir / "journal.db"
    if current.exists():
        _put_aside(current)
    (state_dir / "restored").unlink(missing_ok=True)
    sync_folder(state_dir)


def _put_aside(current: Path) -> None:
    with explained(current), closing(sqlite3.connect(current, timeout=10, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")  # one file from now on, which can be opened where nothing may be written
        [(own_id,)] = db.execute("SELECT value FROM meta WHERE key = 'id'")
    aside, count = current.with_name(f"journal-{own_id}.db"), 1
    while aside.exists():  # the same backup restored before: both are kept, and settled units count once
        count += 1
        aside = current.with_name(f"journal-{own_id}.{count}.db")
    try:
        current.replace(aside)
    except OSError as error:
        hint = "end the programs that have it open, and start again"
        raise JournalUnavailable(f"{current} cannot be put aside ({error.strerror})", hint) from None
    sync_folder(current.parent)


def _insert_unit(db: sqlite3.Connection, row: tuple[str | int | bytes, ...]) -> int:
    cursor = db.execute(
        """INSERT INTO unit (instrument, driver, message, heard_at, incomplete, digest, raw, data)
           VALUES (?, ?, ?, ?, ?, ?, (SELECT coalesce(max(id), 0) FROM raw WHERE instrument = ?), ?)""",
        row,
    )
    return cursor.lastrowid or 0


def _insert_raw(db: sqlite3.Connection, wire: _Wire) -> None:
    row = (wire.instrument, utc_text(wire.at), wire.direction, bytes(wire.data))
    db.execute("INSERT INTO raw (instrument, at, direction, data) VALUES (?, ?, ?, ?)", row)


def _forget_units(db: sqlite3.Connection, numbers: list[int]) -> int:
    sql = "UPDATE unit SET data = NULL WHERE number = ? AND data IS NOT NULL"
    return sum(db.execute(sql, (number,)).rowcount for number in numbers)


def _forget_raw(db: sqlite3.Connection, cut: str) -> int:
    oldest = db.execute("SELECT id, at FROM raw ORDER BY id LIMIT ?", (PAGE,)).fetchall()
    old = [number for number, _ in takewhile(lambda row: row[1] < cut, oldest)]
    return db.execute("DELETE FROM raw WHERE id <= ?", (old[-1],)).rowcount if old else 0
