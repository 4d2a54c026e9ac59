"""Text reports that an instrument prints to its port: a line at a time, a block at a time, or until it falls silent.

No acknowledgment and no checksum: the instrument talks, we listen. A line ends with CR, LF or both::

    412,01-15-2026, 9:30AM,JD,12345,,,,,Multistix 10 SG,Yellow,Clear,GLU,Negative, CR

a block begins with STX and ends with ETX (URiSCAN, Dirui, URIT print so)::

    STX Date :01-15-2026 09:30 CR LF … ETX

Each becomes one unit, without the bytes that begin and end it. A report that stops in the middle is never a unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .link import Event, Incomplete, Outgoing, Trouble, Unit

_FILLER = b"\r\n\x00 "  # what may stand between two blocks without being noise


@dataclass(slots=True)
class TextLink:
    """A `Link` that only listens.

    Any byte of `ends` ends a report; with `begins`, what stands before that byte is noise. A report longer than `longest`
    bytes is given away in pieces of that length, as incomplete, so that memory stays bounded. After `silence` seconds
    without a byte an unfinished report is incomplete, or with `silence_ends` it is whole.
    """

    ends: bytes = b"\r\n"
    begins: bytes = b""
    silence: float = 10.0
    silence_ends: bool = False
    longest: int = 16_384
    deadline: float | None = field(default=None, init=False)
    _text: bytearray = field(default_factory=bytearray, init=False)
    _inside: bool = field(default=False, init=False)  # between the begin of a block and its end
    _too_long: bool = field(default=False, init=False)  # the report in hand has already lost its first pieces
    _noisy: bool = field(default=False, init=False)  # this run of noise is counted already
    _mark: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._mark = re.compile(b"[" + re.escape(self.ends + self.begins) + b"]" if self.ends + self.begins else b"(?!)")

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take what was heard at `now`; b"" says that the line is closed, which no report survives unfinished."""
        events: list[Event] = []
        if not data:
            self.deadline = None
            self._abandon("the line was closed in the middle of a report", events)
            return events
        start = 0
        for mark in self._mark.finditer(data):
            self._take(data[start : mark.start()], events)
            start = mark.end()
            if mark.group() in self.begins:
                self._abandon("a new report began before this one ended", events)
                self._inside = True
            else:
                self._end(events)
        self._take(data[start:], events)
        self.deadline = now + self.silence if self._text or self._inside or self._too_long else None
        return events

    def handle_timeout(self, now: float) -> list[Event]:
        """Say what the silence means: the end of a report, or that it will not be finished."""
        events: list[Event] = []
        if self.deadline is None or now < self.deadline:
            return events
        self.deadline = None
        if self.silence_ends and not self.begins:
            self._end(events)
        else:
            self._abandon(f"the line was silent for {self.silence:g} s in the middle of a report", events)
        return events

    def data_to_send(self) -> list[Outgoing]:
        """Nothing, ever: these instruments are not answered."""
        return []

    def _take(self, text: bytes, events: list[Event]) -> None:
        if self.begins and not self._inside:
            if text.strip(_FILLER) and not self._noisy:
                self._noisy = True
                events.append(Trouble("noise", "bytes outside a report"))
            return
        self._text += text
        while len(self._text) > self.longest:
            if not self._too_long:
                self._too_long = True
                events.append(Trouble("too_long", f"a report of more than {self.longest} bytes"))
            events.append(Incomplete(bytes(self._text[: self.longest]), "part of a report that is too long to be one"))
            del self._text[: self.longest]

    def _end(self, events: list[Event]) -> None:
        if self._too_long:
            self._abandon("the end of a report that is too long to be one", events)
        elif self._text.strip(_FILLER):
            events.append(Unit(bytes(self._text)))
        self._reset()

    def _abandon(self, why: str, events: list[Event]) -> None:
        if self._text.strip(_FILLER):
            events.append(Incomplete(bytes(self._text), why))
        self._reset()

    def _reset(self) -> None:
        self._text.clear()
        self._inside = self._too_long = self._noisy = False
