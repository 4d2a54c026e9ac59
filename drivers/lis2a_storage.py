r"""Which of the records an instrument has sent may it presume saved? Those up to the last storage point.

    H|\^&|||X   P|1   O|1|S-1   R|1|^^^Alb|63.7   O|2|S-2          the second O stores the first specimen: one unit, H P O R
    R|1|^^^Alb|12.0   L|1|N                                        L stores the second: one unit, H P O R L

LIS2-A2's storage rule (from memory): the sender may presume saved what it has sent when the receiver acknowledges an L, or a
record that lowers the level in H > P > O > R: a new P below which something stood, or an O after an R.
"""

from __future__ import annotations

from .link import Event, Incomplete, Trouble, Unit

_ALL_LEVELS = {b"H": 0, b"P": 1, b"O": 2, b"R": 3}
_HEADER_ONLY = {b"H": 0}


class Storage:
    """The records heard since the last storage point, with those above them that they need to be understood."""

    def __init__(self, *, levels: bool) -> None:
        """With `levels` a lowered level stores, without it L alone does."""
        self._levels = _ALL_LEVELS if levels else _HEADER_ONLY
        self._parts: list[list[bytes]] = [[], [], [], []]  # records by level, each followed by those that belong to it
        self._depth = 0
        self._results = False  # an order, a result or a maker's own record stands since the last storage point
        self._fresh = False  # any record at all does
        self._partial: list[bytes] = []  # pieces of a record that goes on in the next frame
        self.size = 0  # bytes kept

    def add(self, text: bytes, *, last: bool) -> list[Event]:
        """Take the text of one good frame; `last`: it ended with ETX, and so its last record ends with it."""
        *lines, tail = text.split(b"\r")
        if lines and self._partial:
            lines[0] = self._whole(lines[0])
        if last and (tail or self._partial):
            lines.append(self._whole(tail))
            tail = b""
        events: list[Event] = []
        for line in lines:
            if line:
                self._record(line, events)
        if tail:
            self._partial.append(tail)
            self.size += len(tail)
        return events

    def rest(self, why: str) -> list[Event]:
        """Forget everything; what stood after the last storage point is incomplete."""
        events: list[Event] = []
        partial = self._whole(b"")
        if self._fresh or partial:
            events.append(Incomplete(self._joined() + partial, why))
        self._clear(0)
        return events

    def _record(self, line: bytes, events: list[Event]) -> None:
        kind = line[:1].upper()
        if kind == b"L":
            self._parts[self._depth].append(line)
            self._store(events)
            self._clear(0)
            return
        if kind == b"Q":
            events.append(Trouble("query", "the instrument asks for orders, which it is not sent"))
            return
        level = self._levels.get(kind)
        if level is None:  # C, M, S and a maker's own belong to the record before
            level = self._depth
        elif level < self._depth or kind == b"H":
            if self._levels is _HEADER_ONLY:
                events += self.rest("a new message began before the last one was closed")
            else:
                self._store(events)
            self._clear(level)
        self._parts[level].append(line)
        self._depth = level
        self._results = self._results or kind not in b"HPC"
        self._fresh = True
        self.size += len(line) + 1

    def _whole(self, end: bytes) -> bytes:
        """The record that the kept pieces and `end` make."""
        if not self._partial:
            return end
        self.size -= sum(map(len, self._partial))
        whole = b"".join([*self._partial, end])
        self._partial.clear()
        return whole

    def _store(self, events: list[Event]) -> None:
        if self._results:
            events.append(Unit(self._joined()))

    def _joined(self) -> bytes:
        return b"".join([line + b"\r" for part in self._parts for line in part])

    def _clear(self, level: int) -> None:
        for part in self._parts[level:]:
            part.clear()
        self._depth, self._results, self._fresh = 0, False, False
        self.size = sum(len(line) + 1 for part in self._parts[:level] for line in part)
