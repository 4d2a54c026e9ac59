"""The folder's thread: thousands of files at once, files moved in from elsewhere, a folder that goes away, a prompt stop."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chartbound.agent.folder_watch import watch
from chartbound.agent.folders import WatchedFolder
from chartbound.drivers.ekg_formats import sniff


class Taker:
    """A watched folder and what it gave."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.taken: list[bytes] = []
        self._digests: set[str] = set()
        self.folder = WatchedFolder(path, self._take, self._digests.__contains__, complete=sniff.is_whole)

    def _take(self, name: str, data: bytes) -> None:
        self.taken.append(data)
        self._digests.add(hashlib.sha256(data).hexdigest())

    @property
    def done(self) -> int:
        """How many files are in the folder of those that are done."""
        done = self.path / "done"
        return sum(1 for _ in done.iterdir()) if done.is_dir() else 0


@contextmanager
def watching(folder: WatchedFolder) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(folder, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition holds before the time is over."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        pause.wait(0.02)
    return condition()


def test_thousands_of_files_dropped_at_once_are_all_taken(tmp_path: Path) -> None:
    taker = Taker(tmp_path / "drop")
    contents = [b"<a>%d</a>" % number for number in range(2500)]
    with watching(taker.folder):
        for number in range(2000):
            (taker.path / f"{number}.xml").write_bytes(contents[number])
        for number in range(2000, 2500):
            (taker.path / f"{number}.tmp").write_bytes(contents[number])
        for number in range(2000, 2500):
            (taker.path / f"{number}.tmp").rename(taker.path / f"{number}.xml")
        assert until(lambda: taker.done == 2500, 60)
    assert sorted(taker.taken) == sorted(contents)


def test_files_moved_in_from_another_folder_are_found(tmp_path: Path) -> None:
    taker = Taker(tmp_path / "drop")
    with watching(taker.folder):
        (tmp_path / "a.xml").write_bytes(b"<a/>")
        (tmp_path / "a.xml").rename(taker.path / "a.xml")
        assert until(lambda: taker.done == 1, 20)


def test_a_folder_that_goes_and_comes_back_is_watched_on(tmp_path: Path) -> None:
    taker = Taker(tmp_path / "drop")
    taker.path.rmdir()
    with watching(taker.folder):
        assert until(lambda: taker.folder.away, 20)
        taker.path.mkdir()
        (taker.path / "a.xml").write_bytes(b"<a/>")
        assert until(lambda: taker.done == 1, 20)
        for entry in (*taker.path.glob("done/*"), *taker.path.iterdir()):
            entry.rmdir() if entry.is_dir() else entry.unlink()
        taker.path.rmdir()
        assert until(lambda: taker.folder.away, 20)


def test_a_stop_is_prompt(tmp_path: Path) -> None:
    with watching(Taker(tmp_path / "drop").folder):
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
