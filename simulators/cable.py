"""A serial cable between two programs: what is written at one end is read at the other, as with a null modem.

Two pseudo-terminals joined by a thread, on systems that have them. It stays when the program at one end goes, so an instrument
can be switched off and on again without the other end noticing more than silence.
"""

from __future__ import annotations

import os
import select
import threading


def available() -> bool:
    """Whether this system has pseudo-terminals."""
    return os.name == "posix"


class Cable:
    """`host` and `instrument` are the names of its two ends."""

    def __init__(self) -> None:
        import pty
        import tty

        self._masters: list[int] = []
        self._ends: list[int] = []  # held open, so that an end that nobody has open is not hung up
        for _ in range(2):
            master, end = pty.openpty()
            tty.setraw(end)
            self._masters.append(master)
            self._ends.append(end)
        self.host, self.instrument = (os.ttyname(end) for end in self._ends)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._relay, name="cable", daemon=True)
        self._thread.start()

    def _relay(self) -> None:
        one, other = self._masters
        while True:
            ready, _, _ = select.select([one, other, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            for master in ready:
                os.write(other if master == one else one, os.read(master, 4096))

    def unplug(self) -> None:
        """Take the cable away for good."""
        os.write(self._stop_write, b".")
        self._thread.join()
        for descriptor in (*self._masters, *self._ends, self._stop_read, self._stop_write):
            os.close(descriptor)
