r"""Meters that speak only when asked: the host sends a command, the meter answers in lines of text.

The meter lies in a drawer most of the day, so silence is normal. While it is docked its whole memory is read at every poll::

    > DC1 CR DM? CR
    < ?P02.00.00 30/08/06 03BC CR LF

A reading of the memory is one unit: the lines of all answers, each ended by CR LF. When it says what the last one said, nothing
new was measured. An answer that comes damaged or stops is asked for again a few times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from .link import Event, Incomplete, Outgoing, Trouble, Unchanged, Unit

_LINE = re.compile(rb"[^\r\n]*[\r\n]")
_FILLER = b"\x11\x13\x00 "  # DC1 and DC3, which a meter may send while it wakes
_LONGEST = 1 << 17  # bytes of one answer; 999 readings of an Ultra2 are 62 kB
_LOOK_SECONDS = 3.0  # how often an empty cable is looked at, so that a docked meter is found soon


class Heard(Enum):
    """What the lines heard so far are worth as an answer."""

    MORE = "more"
    WHOLE = "whole"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Question:
    """A command and how to know its answer."""

    command: bytes
    judge: Callable[[Sequence[bytes]], Heard]  # given at least one line, each without its end
    changes: bool = False  # the answer differs at every reading (a clock), which makes no reading new


class _State(Enum):
    RESTING = "until the next poll"
    ASKING = "an answer is due"
    DRAINING = "an answer was damaged; the rest of it runs out"


@dataclass(slots=True)
class HostDrivenLink:
    """A `Link` that asks all questions in order every `poll_seconds`.

    An answer that has been silent for `patience` seconds is asked for again, `attempts` times in all. While no meter is docked
    the first question is asked every few seconds, and its silence is not an event. After a damaged answer the line must have
    been silent for `quiet` seconds, or the rest of it would be taken for the next answer.
    """

    questions: tuple[Question, ...]
    poll_seconds: float
    patience: float = 2.0
    quiet: float = 0.5
    attempts: int = 3
    deadline: float | None = field(default=0.0, init=False)
    _state: _State = field(default=_State.RESTING, init=False)
    _answers: list[list[bytes]] = field(default_factory=list, init=False)
    _lines: list[bytes] = field(default_factory=list, init=False)  # of the answer under way
    _broken: list[bytes] = field(default_factory=list, init=False)  # of the last attempt at it that was heard in part
    _rest: bytearray = field(default_factory=bytearray, init=False)  # a line that has not ended
    _size: int = field(default=0, init=False)
    _attempt: int = field(default=0, init=False)
    _began: float = field(default=0.0, init=False)  # this reading
    _clock_at: float | None = field(default=None, init=False)  # when the answer came that differs at every reading
    _out: list[Outgoing] = field(default_factory=list, init=False)
    _last: list[list[bytes]] | None = field(default=None, init=False)  # what the last whole reading said
    _docked: bool = field(default=False, init=False)
    _failing: bool = field(default=False, init=False)  # the last reading broke off and was kept as incomplete
    _noisy: bool = field(default=False, init=False)

    def data_to_send(self) -> list[Outgoing]:
        """The commands that are due."""
        out, self._out = self._out, []
        return out

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take what the meter said at `now`; b"" says that the line is closed."""
        events: list[Event] = []
        if not data:
            self._break_off("the line was closed while the memory was read", events)
            self.deadline = None
            return events
        self._rest += data
        while self._state is _State.ASKING and (line := _LINE.match(self._rest)):
            heard = line.group()
            del self._rest[: line.end()]
            self._size += len(heard)
            if text := heard.strip(b"\r\n").strip(_FILLER):
                self._hear(text, now, events)
        if self._state is _State.ASKING:
            self.deadline = now + self.patience
            if self._size + len(self._rest) > _LONGEST:
                self._damaged("endless_answer", now, events)
        if self._state is not _State.ASKING:
            self._ignore(now, events)
        return events

    def handle_timeout(self, now: float) -> list[Event]:
        """Ask, ask again, or give this reading up until the next poll."""
        events: list[Event] = []
        if self.deadline is None or now < self.deadline:
            return events
        if self._state is _State.RESTING:
            self._answers = []
            self._attempt = 0
            self._began = now
            self._clock_at = None
            self._ask(now)
        elif self._docked and self._attempt < self.attempts:
            self._ask(now)
        else:
            self._give_up(now, events)
        return events

    def _ask(self, now: float) -> None:
        self._attempt += 1
        self._broken = self._lines or self._broken
        self._lines = []
        self._rest.clear()
        self._size = 0
        self._state = _State.ASKING
        self._out.append(Outgoing(self.questions[len(self._answers)].command))
        self.deadline = now + self.patience

    def _hear(self, text: bytes, now: float, events: list[Event]) -> None:
        self._docked = True
        self._lines.append(text)
        match self.questions[len(self._answers)].judge(self._lines):
            case Heard.DAMAGED:
                self._damaged("bad_answer", now, events)
            case Heard.WHOLE:
                if self.questions[len(self._answers)].changes:
                    self._clock_at = now
                self._answers.append(self._lines)
                self._lines, self._broken = [], []
                self._attempt = 0
                if len(self._answers) == len(self.questions):
                    self._finish(now, events)
                else:
                    rest = bytes(self._rest)
                    self._ask(now)
                    self._rest += rest  # an LF behind the CR that ended the last line
            case Heard.MORE:
                pass

    def _damaged(self, what: str, now: float, events: list[Event]) -> None:
        number = len(self._lines)
        events.append(Trouble(what, f"line {number} of answer {len(self._answers) + 1} is damaged or not the one asked for"))
        self._state = _State.DRAINING
        self.deadline = now + self.quiet

    def _ignore(self, now: float, events: list[Event]) -> None:
        if self._state is _State.DRAINING:
            self.deadline = now + self.quiet
        elif self._rest.strip(b"\r\n" + _FILLER) and not self._noisy:
            self._noisy = True
            events.append(Trouble("noise", "the meter spoke without being asked"))
        self._rest.clear()

    def _finish(self, now: float, events: list[Event]) -> None:
        told = [lines for question, lines in zip(self.questions, self._answers, strict=True) if not question.changes]
        if told == self._last:
            events.append(Unchanged())
        else:
            events.append(Unit(_joined(self._answers), now - (now if self._clock_at is None else self._clock_at)))
            self._last = told
        self._failing = self._noisy = False
        self._rest_until(now + self.poll_seconds)

    def _give_up(self, now: float, events: list[Event]) -> None:
        if self._docked:
            events.append(Trouble("no_answer", "the meter does not answer any more, or not readably"))
        self._break_off(f"no sound answer after {self.attempts} attempts", events)
        self._docked = False
        self._rest_until(max(now, self._began + min(self.poll_seconds, _LOOK_SECONDS)))

    def _break_off(self, why: str, events: list[Event]) -> None:
        """Keep what was heard of the last answer, the readings; the lines before them say nothing that could be lost."""
        reading_memory = len(self._answers) == len(self.questions) - 1
        heard = self._lines or self._broken
        if reading_memory and heard and self._state is not _State.RESTING and not self._failing:
            self._failing = True
            events.append(Incomplete(_joined([*self._answers, heard]) + bytes(self._rest), why))

    def _rest_until(self, when: float) -> None:
        self._state = _State.RESTING
        self._answers = []
        self._lines, self._broken = [], []
        self.deadline = when


def _joined(answers: Sequence[Sequence[bytes]]) -> bytes:
    return b"".join(line + b"\r\n" for lines in answers for line in lines)
