"""The journal's file: what stands in it, and how it is read.

One row a unit, one row a piece of the wire, both in the order they were heard; any SQLite tool shows them:

    17 | glucose-room-2 | onetouch_ultra2 | 4 | 2026-03-02T14:05:09.120000+00:00 | … | P "WED","03/02/26",…
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

PAGE = 200  # rows read or purged in one go, so that nobody waits long and memory stays flat
_WIRE = 2000  # pieces of the wire shown before a unit: a noisy line may say nothing whole for days
_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE unit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, even after a purge
    instrument TEXT NOT NULL,
    driver TEXT NOT NULL,
    message INTEGER NOT NULL,                  -- which transmission of that instrument
    heard_at TEXT NOT NULL,                    -- UTC
    incomplete TEXT NOT NULL,                  -- why, where the transmission died before its storage point
    digest BLOB NOT NULL,                      -- SHA-256 of data
    raw INTEGER NOT NULL,                      -- the last raw row of the instrument when this was heard
    data BLOB                                  -- NULL once purged; the row stays, as the key that stops a replay
);
CREATE INDEX unit_content ON unit (digest, instrument);
CREATE INDEX unit_kept ON unit (number) WHERE data IS NOT NULL;
CREATE INDEX unit_wire ON unit (instrument, raw);
CREATE TABLE raw (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    instrument TEXT NOT NULL,
    at TEXT NOT NULL,
    direction TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX raw_instrument ON raw (instrument);
"""


class JournalUnavailable(Exception):
    """The journal cannot keep or give something now, so no ACK may leave. `hint` says what a person can do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}")
        self.what = what
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Heard:
    """One unit as the journal has it."""

    number: int
    instrument: str
    driver: str  # as the site file had it then
    message: int
    heard_at: datetime
    incomplete: str  # "": whole; else why the transmission never completed, and there is no result in it
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes of the wire as they went."""

    at: datetime
    direction: str  # "<" heard, ">" said; as in a transcript
    data: bytes = field(repr=False)


class JournalReader:
    """A journal to read: the restored one, or a running agent's from another process. Safe to share among threads."""

    def __init__(self, path: Path) -> None:
        """Raises `JournalUnavailable` where there is no readable journal."""
        self.path = path
        self._reading = threading.Lock()
        with explained(path):
            self._reader = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None, check_same_thread=False
            )
            try:
                _refuse_newer(self._reader, path)
                meta = dict(self._reader.execute("SELECT key, value FROM meta"))
                self.id, self.agent = str(meta["id"]), str(meta["agent"])
            except BaseException:
                self._reader.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with self._reading:
            self._reader.close()

    def unit(self, number: int) -> Heard | None:
        """Return this unit; None where there is none or its text has been purged."""
        return next(iter(self._units("number = ?", number)), None)

    def units_after(self, number: int = 0) -> Iterator[Heard]:
        """Every unit after this one, in the order heard, read page by page."""
        while page := self._units("number > ?", number):
            yield from page
            number = page[-1].number

    def unsettled(self, settled: Callable[[Sequence[int]], Collection[int]], after: int = 0) -> Iterator[Heard]:
        """Every unit that the store has not settled, in the order heard.

        `settled` is given some hundred numbers at a time and returns those that the store knows.
        """
        sql = "SELECT number FROM unit WHERE data IS NOT NULL AND number > ? ORDER BY number LIMIT ?"
        while page := self._rows(sql, after, PAGE):
            numbers = [number for (number,) in page]
            known = settled(numbers)
            for number in numbers:
                if number not in known and (heard := self.unit(number)) is not None:
                    yield heard
            after = numbers[-1]

    def numbers(self) -> set[int]:
        """The numbers of all units whose text is still here."""
        return {number for (number,) in self._rows("SELECT number FROM unit WHERE data IS NOT NULL")}

    def last(self) -> int:
        """The number of the last unit that was heard; 0 where there is none."""
        return int(self._rows("SELECT coalesce(max(number), 0) FROM unit")[0][0])

    def began(self) -> str:
        """When its first unit was heard, in UTC as text; "" where there is none."""
        rows = self._rows("SELECT heard_at FROM unit ORDER BY number LIMIT 1")
        return str(rows[0][0]) if rows else ""

    def count(self) -> int:
        """How many units this journal has ever heard, whole and incomplete, purged or not."""
        return int(self._rows("SELECT count(*) FROM unit")[0][0])

    def knows(self, content: str, instrument: str) -> bool:
        """Whether a unit of exactly these bytes (`digest(data)`) was heard from this instrument, purged or not."""
        sql = "SELECT 1 FROM unit WHERE digest = ? AND instrument = ? LIMIT 1"
        return bool(self._rows(sql, bytes.fromhex(content), instrument))

    def raw_around(self, number: int, after: timedelta = timedelta(seconds=2)) -> list[Raw]:
        """The wire of this unit's instrument, from the unit before it to a moment `after` it was heard; at most some pages."""
        sql = """
            SELECT instrument, heard_at, raw, coalesce((SELECT max(earlier.raw) FROM unit AS earlier
                WHERE earlier.instrument = unit.instrument AND earlier.raw < unit.raw), 0)
            FROM unit WHERE number = ?"""
        found = self._rows(sql, number)
        if not found:
            return []
        [(instrument, heard_at, last, earlier)] = found
        until = utc_text(datetime.fromisoformat(heard_at) + after)
        sql = "SELECT at, direction, data FROM raw WHERE instrument = ? AND id > ? AND id <= ? ORDER BY id DESC LIMIT ?"
        rows = self._rows(sql, instrument, earlier, last, _WIRE)[::-1]
        sql = "SELECT at, direction, data FROM raw WHERE instrument = ? AND id > ? ORDER BY id LIMIT ?"
        rows += takewhile(lambda row: row[0] <= until, self._rows(sql, instrument, last, PAGE))
        return [Raw(datetime.fromisoformat(at), direction, data) for at, direction, data in rows]

    def _units(self, where: str, number: int) -> list[Heard]:
        sql = f"""SELECT number, instrument, driver, message, heard_at, incomplete, data FROM unit
                  WHERE data IS NOT NULL AND {where} ORDER BY number LIMIT ?"""  # noqa: S608 (where is one of ours)
        return [
            Heard(number, instrument, driver, message, datetime.fromisoformat(heard_at), incomplete, data)
            for number, instrument, driver, message, heard_at, incomplete, data in self._rows(sql, number, PAGE)
        ]

    def _rows(self, sql: str, *values: int | str | bytes) -> list[Any]:
        with self._reading, explained(self.path):
            return self._reader.execute(sql, values).fetchall()


def digest(data: bytes) -> str:
    """The name of a unit's content, for `JournalReader.knows`: SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def prepare(db: sqlite3.Connection, path: Path, agent: str) -> None:
    """Make a journal of this file where it is empty, see that it is this agent's, and have every commit synced to the disk."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync leaves the bytes in the disk's own memory
    db.execute("BEGIN IMMEDIATE")
    _refuse_newer(db, path)
    if db.execute("PRAGMA user_version").fetchone() == (0,):
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("id", secrets.token_hex(8)), ("agent", agent)])
        db.execute(f"PRAGMA user_version = {_VERSION}")
    [(owner,)] = db.execute("SELECT value FROM meta WHERE key = 'agent'")
    db.execute("COMMIT")
    if owner != agent:
        what = f"{path} is the journal of agent {owner}, and this is agent {agent}"
        raise JournalUnavailable(what, "bring agent-id back from the same backup, or move the journal out of the folder")


def utc_text(at: datetime) -> str:
    """Times as text of one width in UTC: to be read by people in any SQLite tool, and compared as text."""
    if at.tzinfo is None:
        message = "a time without a zone cannot be kept"
        raise ValueError(message)
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _refuse_newer(db: sqlite3.Connection, path: Path) -> None:
    [(version,)] = db.execute("PRAGMA user_version")
    if version > _VERSION:
        raise JournalUnavailable(f"{path} was written by a newer chartbound", "install that version again")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says into `JournalUnavailable`."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error, path) from error


_HINTS = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, and it goes on by itself",
    sqlite3.SQLITE_READONLY: "the agent's user may not write there, or the disk is mounted read-only",
    sqlite3.SQLITE_CANTOPEN: "the folder is missing, or the agent's user may not read and write there",
    sqlite3.SQLITE_PERM: "the agent's user may not read and write there",
    sqlite3.SQLITE_IOERR: "the disk failed or is full: see the system's log and the free space",
    sqlite3.SQLITE_BUSY: "another program holds the file open: a copy tool or a virus scanner?",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: keep it, and restore the last backup",
    sqlite3.SQLITE_NOTADB: "the file is damaged or no journal: keep it, and restore the last backup",
}


def explain(error: Exception, path: Path) -> JournalUnavailable:
    """Say what a failed commit means for a person."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind, the rest its detail
    return JournalUnavailable(f"the journal {path} is not available ({error})", _HINTS.get(code, "see the system's log"))
