"""Which files of a folder have been taken, where another program needs them to stay: so that 50,000 are not read again.

A file is remembered as a hash of its name, size and time of change, because names may hold a patient's. The list is a
convenience and may be lost: what is read again is known by its content.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

_KEY_BYTES = 16
_LINE = 2 * _KEY_BYTES + 1  # in hexadecimal, with its line end


class SeenFiles:
    """A set of files, appended to `path` where one is given; a torn or foreign line there is passed over."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys: set[bytes] = set()
        if path is not None:
            with suppress(OSError):
                self._keys = {key for line in path.read_bytes().splitlines() if (key := _key(line))}

    @staticmethod
    def key(name: str, size: int, changed_ns: int) -> bytes:
        stated = os.fsencode(name) + b"\0%d\0%d" % (size, changed_ns)
        return hashlib.blake2b(stated, digest_size=_KEY_BYTES).digest()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes) -> None:
        if key not in self._keys:
            self._keys.add(key)
            self._append(key)

    def keep(self, present: set[bytes]) -> None:
        """Forget those that are no longer there, once they are the greater part."""
        if len(self._keys) <= 2 * len(present) + 1000:
            return
        self._keys = set(present)
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            with suppress(OSError):
                new.write_bytes(b"".join(key.hex().encode() + b"\n" for key in present))
                new.replace(self._path)

    def _append(self, key: bytes) -> None:
        if self._path is not None:
            with suppress(OSError), self._path.open("ab") as file:  # on a full disk the file is read again after a restart
                file.write(key.hex().encode() + b"\n")


def _key(line: bytes) -> bytes | None:
    if len(line) != _LINE - 1:
        return None
    try:
        return bytes.fromhex(line.decode("ascii"))
    except ValueError:
        return None
