"""Many EKG files dropped at once: is each one taken, and how soon is it listed and saved?

    python benchmarks/folders.py              50,000 files and 10,000 renamed in
    python benchmarks/folders.py 2000 500

The files are taken into a SQLite journal (WAL, FULL) by one writer with group commit, as the agent does it. Beside them stand
the yardsticks of the same minute: listing that many files with their sizes, and commits a second in the same folder.
"""

from __future__ import annotations

import hashlib
import queue
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path

from chartbound.agent.folder_watch import watch
from chartbound.agent.folders import WatchedFolder
from chartbound.drivers.ekg import DRIVER
from chartbound.simulators import ekg as cart


class GroupCommit:
    """The least that can be called a journal: one thread, one commit for all that has come in since the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: queue.SimpleQueue[tuple[str, bytes, Future[None]] | None] = queue.SimpleQueue()
        self._digests: set[str] = set()
        self.commits = 0
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def take(self, _name: str, data: bytes) -> Future[None]:
        ticket: Future[None] = Future()
        self._new.put((hashlib.sha256(data).hexdigest(), data, ticket))
        return ticket

    def known(self, digest: str) -> bool:
        return digest in self._digests

    def close(self) -> int:
        """Stop, and return how many units are on the disk."""
        self._new.put(None)
        self._thread.join()
        with sqlite3.connect(self._path) as db:
            (count,) = db.execute("SELECT count(DISTINCT digest) FROM unit").fetchone()
        db.close()
        return int(count)

    def _write(self) -> None:
        db = _open(self._path)
        db.execute("CREATE TABLE unit (digest TEXT, data BLOB)")
        more = True
        while more:
            batch = [self._new.get()]
            while not self._new.empty():
                batch.append(self._new.get())
            more = None not in batch
            rows = [row for row in batch if row is not None]
            with db:
                db.executemany("INSERT INTO unit VALUES (?, ?)", [row[:2] for row in rows])
            self.commits += 1
            for digest, _, ticket in rows:
                self._digests.add(digest)
                ticket.set_result(None)
        db.close()


def measure(files: int, renamed: int, folder: Path | None = None) -> dict[str, float]:
    """Drop `files` whole files and rename `renamed` more in, and watch until all are saved and moved. Times in seconds."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        base = Path(name)
        drop = base / "drop"
        drop.mkdir()
        journal = GroupCommit(base / "journal.db")
        watched = WatchedFolder(drop, journal.take, journal.known, complete=DRIVER.complete or bool)
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(watched, stop))
        watcher.start()
        total, contents = files + renamed, _contents(files + renamed)
        begun = time.monotonic()
        for number in range(files):
            (drop / f"{number}.xml").write_bytes(contents(number))
        for number in range(files, total):
            part = drop / f"{number}.xml.tmp"
            part.write_bytes(contents(number))
            part.rename(drop / f"{number}.xml")
        dropped = time.monotonic()
        pause = threading.Event()
        while watched.taken + watched.listed < total:
            pause.wait(0.005)
        listed = time.monotonic()
        while watched.taken < total or watched.waiting:
            pause.wait(0.02)
        done = time.monotonic()
        stop.set()
        watcher.join()
        saved = journal.close()
        left, kept = sum(entry.is_file() for entry in drop.iterdir()), sum(1 for _ in (drop / "done").iterdir())
        return {
            "files": total,
            "lost": total - saved,
            "not_in_done": total - kept,
            "left": left,
            "drop_s": dropped - begun,
            "listed_after_last_s": listed - dropped,
            "saved_after_last_s": done - dropped,
            "files_per_s": total / (done - begun),
            "commits": journal.commits,
            "yardstick_scandir_stat_s": _scandir(drop / "done"),
            "yardstick_commits_per_s": _commits(base),
            "peak_memory_mib": _peak_memory(),
        }


def _contents(total: int) -> Callable[[int], bytes]:
    """A plausible small EKG for each number; the machine's number makes each its own."""
    at = datetime(2026, 3, 2, 9, 31)  # noqa: DTZ001 - a cart's local clock
    (one,) = cart.samples(1, at, random.Random(total))
    whole = cart.write(one, version="1.04", encoding="utf-8", serial_number="US99999999")
    return lambda number: whole.replace(b"US99999999", b"US%08d" % number)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    return db


def _scandir(folder: Path) -> float:
    begun = time.monotonic()
    for entry in folder.iterdir():
        entry.stat()
    return time.monotonic() - begun


def _commits(folder: Path) -> float:
    db = _open(folder / "yardstick.db")
    db.execute("CREATE TABLE row (data BLOB)")
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < 1:
        with db:
            db.execute("INSERT INTO row VALUES (?)", (b"x" * 200,))
        count += 1
    db.close()
    return count / (time.monotonic() - begun)


def _peak_memory() -> float:
    if sys.platform == "win32":
        return 0.0  # not measured there
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    files, renamed = (int(word) for word in sys.argv[1:3]) if len(sys.argv) > 2 else (50_000, 10_000)
    for name, value in measure(files, renamed).items():
        print(f"{name:28} {value:12,.2f}".rstrip("0").rstrip("."))


if __name__ == "__main__":
    main()
