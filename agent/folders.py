"""A folder into which other programs drop files: each is taken once, whole, and then moved to `done`; none is ever deleted.

    drop/ekg/a.xml        seen; the same at the next scan; complete by its format; saved in the journal; moved to
    drop/ekg/done/a.xml   (`failed` where it is no file of this kind)

The scan is the truth; events of the operating system are at most a hint to scan now, because they are lost under load and never
come from a network share. A file is read when size and time of change have stayed the same over two scans and its format says
that it is all there. It is moved only after what takes it has it on the disk. A crash between the two does not double it: its
content is then `known`, and it is only moved.

Nothing here knows of instruments, and no time is looked up: `now` is in monotonic seconds. The thread is in folder_watch.py.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .seen_files import SeenFiles

DONE, FAILED = "done", "failed"
_IGNORED_SUFFIXES = (".tmp", ".part", ".filepart", ".crdownload", "~")
_IGNORED_NAMES = {"thumbs.db", "desktop.ini"}
_LOCKED_SECONDS = 10.0  # a copy in progress or a virus scanner may lock a file; longer than this a person should know
_LONGEST_WAIT = 60.0
_BATCH_BYTES = 16 << 20


class Unwanted(Exception):
    """Raised by what takes a file: it is none of this kind and goes to `failed`. The text says why, without its content."""


@dataclass(frozen=True, slots=True)
class FolderTrouble:
    """What a person should know of, said once. `detail` says what and what to do; a file's name may hold a patient's."""

    what: str  # incomplete | locked | too_large | unwanted | not_saved | not_moved | folder_away
    detail: str
    name: str = field(default="", repr=False)


@dataclass(slots=True)
class _File:
    size: int
    changed_ns: int
    first_seen: float
    unchanged_since: float
    settled: bool = False  # the same over two scans
    tries: int = 0
    try_at: float = 0.0
    locked_since: float | None = None
    incomplete: bool = False  # by its format, when it was last read
    read_as: tuple[int, int] | None = None  # size and time of change as the open file told them
    content: str = ""  # SHA-256 of what was read
    goes_to: str = ""  # it is safe: only the move is due

    def is_locked_long(self, now: float) -> bool:
        if self.locked_since is None:
            self.locked_since = now
        return now - self.locked_since >= _LOCKED_SECONDS

    def postpone(self, now: float) -> None:
        self.tries += 1
        self.try_at = now + min(_LONGEST_WAIT, 2.0 ** min(self.tries - 1, 6))

    @property
    def waits_its_turn(self) -> bool:
        """It was the same over two scans and has not been opened yet: that will tell whether it is still the same."""
        return self.settled and self.size > 0 and not self.tries and not self.goes_to

    @property
    def listed_as(self) -> tuple[int, int]:
        return self.size, self.changed_ns


@dataclass(slots=True)
class WatchedFolder:
    """One folder and what is known of the files in it.

    `take(name, data)` saves a file: it returns when the content is on the disk, or gives a future that says so, and then
    several files share one sync. `known(digest)` (SHA-256, hexadecimal) says whether that content was taken before.
    `complete(data)` says whether the whole file is there. In mode "copy" files stay, and are remembered by name, size and
    time of change, in `memory` across restarts; so a changed file of the same size and time is not noticed there.
    """

    path: Path
    take: Callable[[str, bytes], Future[Any] | None]
    known: Callable[[str], bool]
    complete: Callable[[bytes], bool] = bool
    mode: Literal["move", "copy"] = "move"
    incomplete_minutes: float = 15.0
    suffixes: tuple[str, ...] = ()  # lower case; () is every file
    tell: Callable[[FolderTrouble], None] = lambda _trouble: None
    memory: Path | None = None
    settle_seconds: float = 1.0  # between the two scans that find a file unchanged
    largest: int = 128 << 20  # bytes
    troubles: dict[tuple[str, str], FolderTrouble] = field(default_factory=dict)  # those that last, by kind and file
    taken: int = 0
    listed: int = 0  # files in the folder at the last scan, without those that are ignored
    _files: dict[str, _File] = field(default_factory=dict)
    _ready: deque[str] = field(default_factory=deque)
    _seen: SeenFiles = field(init=False)
    _paused_until: float = 0.0

    def __post_init__(self) -> None:
        self._seen = SeenFiles(self.memory)

    @property
    def waiting(self) -> int:
        """Files that are there and not yet settled."""
        return len(self._files)

    @property
    def away(self) -> bool:
        return ("folder_away", "") in self.troubles

    def scan(self, now: float) -> int:
        """Look at the folder, and return how many files are ready. Nothing is read; a folder that is away is said once."""
        files: dict[str, _File] = {}
        present: set[bytes] = set()
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    before = self._files.get(entry.name)
                    if before is not None and before.waits_its_turn:
                        files[entry.name] = before
                    elif not self._ignores(entry.name):
                        with suppress(FileNotFoundError):  # it went between the listing and this look at it
                            self._look(entry, now, files, present)
        except OSError as error:
            self._say("folder_away", f"{self.path} cannot be listed ({_cause(error)}); is it there, and may the agent read it?")
            return 0
        self._over("folder_away")
        self.listed = len(files) + len(present)
        self._seen.keep(present)
        self._files = files
        for trouble in [key for key in self.troubles if key[1] and key[1] not in files]:
            del self.troubles[trouble]
        ready = [(file.changed_ns, name) for name, file in files.items() if self._is_ready(file, now)]
        self._ready = deque(name for _, name in sorted(ready))  # the oldest first: an order comes before its cancellation
        self._alarm(now)
        return len(self._ready)

    def take_ready(self, now: float, limit: int = 64) -> int:
        """Take up to `limit` of the ready files, and return how many were looked at. What fails is tried again later."""
        looked, size = 0, 0
        begun: dict[str, tuple[str, _File, Future[Any] | None]] = {}  # by content: the same twice is taken once
        while self._ready and looked < limit and size < _BATCH_BYTES and now >= self._paused_until:
            name = self._ready.popleft()
            file = self._files[name]
            looked += 1
            if file.goes_to:
                self._settle(name, file, now)
                continue
            data = self._read(name, file, now)
            if data is None:
                continue
            size += len(data)
            try:
                file.incomplete = not self.complete(data)
                if file.incomplete:
                    file.postpone(now)
                    continue
                file.content = hashlib.sha256(data).hexdigest()
                if file.content in begun:
                    continue  # at the next scan it is known
                if self.known(file.content):
                    self._safe(name, file, DONE, now)
                else:
                    begun[file.content] = (name, file, self.take(name, data))
            except Exception as error:  # noqa: BLE001 - whatever one file brings about, the others go on
                self._not_saved(name, file, error, now)
        for name, file, ticket in begun.values():
            try:
                if ticket is not None:
                    ticket.result()
            except Exception as error:  # noqa: BLE001 - likewise
                self._not_saved(name, file, error, now)
            else:
                self.taken += 1
                self._over("not_saved")
                self._safe(name, file, DONE, now)
        return looked

    # -- looking ----------------------------------------------------------------------------------------------------------

    def _ignores(self, name: str) -> bool:
        lower = name.lower()
        return (
            lower.startswith((".", "~$"))
            or lower.endswith(_IGNORED_SUFFIXES)
            or lower in _IGNORED_NAMES
            or (bool(self.suffixes) and not lower.endswith(self.suffixes))
        )

    def _look(self, entry: os.DirEntry[str], now: float, files: dict[str, _File], present: set[bytes]) -> None:
        if not entry.is_file(follow_symlinks=False):
            return
        status = entry.stat(follow_symlinks=False)
        if self.mode == "copy":
            key = SeenFiles.key(entry.name, status.st_size, status.st_mtime_ns)
            if key in self._seen:
                present.add(key)
                return
        before = self._files.get(entry.name)
        if before is not None and before.listed_as == _state(status):
            before.settled = now - before.unchanged_since >= self.settle_seconds
            files[entry.name] = before
        else:
            first_seen = now if before is None else before.first_seen
            files[entry.name] = _File(status.st_size, status.st_mtime_ns, first_seen, now)

    def _is_ready(self, file: _File, now: float) -> bool:
        return file.settled and file.size > 0 and now >= file.try_at

    def _alarm(self, now: float) -> None:
        due = now - self.incomplete_minutes * 60
        for name, file in self._files.items():
            never_whole = file.size == 0 or file.incomplete or not file.settled
            if file.first_seen <= due and never_whole and not file.goes_to:
                minutes = f"{self.incomplete_minutes:g} minutes"
                what = "is empty" if file.size == 0 else "is not complete by its format"
                hint = "let its sender write it again, or remove it if it is something else"
                self._say("incomplete", f"a file in {self.path} {what} after {minutes}: {hint}", name)

    # -- reading and saving -----------------------------------------------------------------------------------------------

    def _read(self, name: str, file: _File, now: float) -> bytes | None:
        """The content; None where the file changes, is locked or too large, which is tried again later."""
        if file.size > self.largest:
            self._say("too_large", f"a file in {self.path} has more than {self.largest >> 20} MiB and is not read", name)
            file.postpone(now)
            return None
        try:
            with (self.path / name).open("rb") as opened:
                before = _state(os.fstat(opened.fileno()))
                data = opened.read(self.largest + 1)
                after = _state(os.fstat(opened.fileno()))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._locked(name, file, error, now)
            return None
        self._over("locked", name)
        file.locked_since = None
        # The listing is stale on Windows while a writer holds the file open, and on some shares it rounds times: where it
        # differs from what the open file tells, the open file must tell the same twice.
        as_expected = before in (file.listed_as, file.read_as)
        file.read_as = after
        if as_expected and before == after and len(data) == after[0]:
            return data
        file.postpone(now)
        return None

    def _locked(self, name: str, file: _File, error: OSError, now: float) -> None:
        if file.is_locked_long(now):
            hint = "close it in the program that holds it, or give the agent's user the right to read it"
            self._say("locked", f"a file in {self.path} cannot be read ({_cause(error)}); {hint}", name)
        file.postpone(now)

    def _not_saved(self, name: str, file: _File, error: Exception, now: float) -> None:
        if isinstance(error, Unwanted):
            self.tell(FolderTrouble("unwanted", f"a file in {self.path} was refused: {error}", name))
            self._safe(name, file, FAILED, now)
            return
        # Errors that are meant for people carry a hint and none of the file's words; of others the kind must do.
        cause = str(error) if hasattr(error, "hint") else type(error).__name__
        self._say("not_saved", f"files in {self.path} cannot be saved and stay where they are: {cause}")
        file.postpone(now)
        self._paused_until = now + 1.0  # a full disk refuses every file: do not read them all for that

    # -- after it is saved ------------------------------------------------------------------------------------------------

    def _safe(self, name: str, file: _File, goes_to: str, now: float) -> None:
        file.goes_to = goes_to
        self._over("incomplete", name)
        self._settle(name, file, now)

    def _settle(self, name: str, file: _File, now: float) -> None:
        """Move a file whose content is safe, or in mode "copy" remember it."""
        if self.mode == "copy":
            self._seen.add(SeenFiles.key(name, file.size, file.changed_ns))
            del self._files[name]
            return
        try:
            self._move(name, file)
        except FileNotFoundError:
            pass  # somebody else has taken it away; its content is safe
        except OSError as error:
            hint = 'give the agent the right to write there, or set mode = "copy" to leave the files where they are'
            if file.is_locked_long(now) or not isinstance(error, PermissionError):
                self._say("not_moved", f"files in {self.path} are saved and cannot be moved ({_cause(error)}); {hint}")
            file.postpone(now)
            return
        else:
            self._over("not_moved")
        del self._files[name]

    def _move(self, name: str, file: _File) -> None:
        source, folder = self.path / name, self.path / file.goes_to
        folder.mkdir(exist_ok=True)
        if _state(source.stat()) != file.read_as:
            return  # written again since it was read: a new file, which the next scan finds
        target = _free(folder, name, file.content)
        source.rename(target)
        if _state(target.stat()) != file.read_as:  # written again in this very moment: back to where it is read
            target.rename(_free(self.path, name, file.content))

    # -- saying things once -----------------------------------------------------------------------------------------------

    def _say(self, what: str, detail: str, name: str = "") -> None:
        if (what, name) not in self.troubles:
            self.troubles[what, name] = FolderTrouble(what, detail, name)
            self.tell(self.troubles[what, name])

    def _over(self, what: str, name: str = "") -> None:
        self.troubles.pop((what, name), None)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _free(folder: Path, name: str, content: str) -> Path:
    """A path in this folder that nothing has yet, because a move must write over no other file.

    Some carts give every file the same name: a part of the content's hash tells them apart without a long search.
    """
    stem, suffix = Path(name).stem, Path(name).suffix
    target, number = folder / name, 1
    while os.path.lexists(target):
        target = folder / f"{stem}-{content[:8]}{f'-{number}' if number > 1 else ''}{suffix}"
        number += 1
    return target


def _cause(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else type(error).__name__
