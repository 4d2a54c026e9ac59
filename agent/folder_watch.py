"""Keeps an eye on a drop folder: scans it every few seconds, and at once when the operating system hints at something new."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from .folders import WatchedFolder

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

_SCAN_SECONDS = 1.0  # while files are coming in
_IDLE_SECONDS = 2.0
_LONGEST_IDLE = 10.0
_STOP_SECONDS = 0.5  # at the latest after this a stop is seen
_IDLE_SHARE = 20  # an idle scan may cost one twentieth of the time
_HINTS = {"created", "modified", "moved", "closed"}


def watch(folder: WatchedFolder, stop: Event) -> None:
    """Scan and take until `stop` is set. Hints are used where the folder gives them; without them the scans alone do.

    A folder that is away is looked for at every scan, and goes on when it is back.
    """
    hint, hints = Event(), _Hints(folder.path)
    next_scan = busy = 0.0
    try:
        while not stop.is_set():
            now = time.monotonic()
            if now >= next_scan:
                hint.clear()
                folder.scan(now)
                cost = time.monotonic() - now
                busy = now + max(_SCAN_SECONDS, 1.5 * cost)
                next_scan = busy if folder.waiting else now + min(_LONGEST_IDLE, max(_IDLE_SECONDS, _IDLE_SHARE * cost))
                hints.follow(folder, hint)
            if folder.take_ready(time.monotonic()):
                continue
            if hint.wait(min(_STOP_SECONDS, max(0.0, next_scan - time.monotonic()))):
                next_scan = min(next_scan, busy)
                stop.wait(min(_STOP_SECONDS, max(0.0, next_scan - time.monotonic())))
    finally:
        hints.close()


class _Hints:
    """The operating system's events for one folder, while it is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._observer: BaseObserver | None = None
        self._refused = False

    def follow(self, folder: WatchedFolder, hint: Event) -> None:
        if folder.away:
            self.close()
            self._refused = False
        elif self._observer is None and not self._refused:
            self._refused = not self._start(hint)

    def _start(self, hint: Event) -> bool:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        class Hint(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type in _HINTS:
                    hint.set()

        logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # it reports events that come while it is being stopped
        observer = Observer()
        try:
            observer.schedule(Hint(), str(self._path), recursive=False)
            observer.start()
        except OSError:  # no more watches to be had, or a kind of folder that gives none
            return False
        self._observer = observer
        return True

    def close(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
