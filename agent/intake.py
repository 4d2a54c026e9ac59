"""From the wire to the journal: one conversation with one instrument, and the promise that an ACK makes.

A conversation joins a wire (I/O) to a link (a pure machine). Units go to the journal as they are heard; bytes that the link has
marked leave only when every unit before them is synced to the disk (sync ①). What the journal cannot take just now is offered
again until it can, and meanwhile nothing is acknowledged. An instrument that waits for no answer is heard on, up to 1 MiB.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event as Flag

import structlog

from ..drivers.link import Event, Incomplete, Link, Trouble, Unchanged, Unit
from .journal import Journal
from .ports import PortUnavailable, Wire

_RETRY_SECONDS = 1.0
_MOST_UNSAVED = 1 << 20  # bytes heard that wait for the disk; then nothing more is read
_LATE_SECONDS = 10.0  # an instrument gives up after 15 s (LIS1-A) and might take a later ACK for that of its next question
_MEMORY_RAW_LIMIT = 1 << 20  # bytes of one read of a meter's memory that are kept until it is known to hold something new

log = structlog.get_logger("chartbound.intake")


@dataclass(slots=True)
class Hearing:
    """What is known of one instrument's port while the agent runs; shown by `chartbound status`."""

    instrument: str
    state: str = "starting"  # waiting | connected | unavailable
    why: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    heard_at: datetime | None = None
    units: int = 0
    incomplete: int = 0
    failures: int = 0  # conversations that ended in an error of the program
    unsaved: str = ""  # why the journal cannot take what was heard, just now
    troubles: Counter[str] = field(default_factory=Counter)

    def turn(self, state: str, why: str = "") -> None:
        if (state, why) != (self.state, self.why):
            self.state, self.why, self.since = state, why, datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes what one instrument says into the journal, and calls `heard` after each unit that is synced."""

    instrument: str
    driver: str
    memory: bool  # the instrument keeps its readings and can be read again
    journal: Journal
    heard: Callable[[], None]
    stop: Flag
    hearing: Hearing

    def keep(self, data: bytes, why_incomplete: str = "", heard_at: datetime | None = None) -> Future[int]:
        """Offer a unit to the journal; the future tells when the disk has it, or raises `JournalUnavailable`."""
        at = heard_at or datetime.now(UTC)
        ticket = self.journal.append_unit(self.instrument, self.driver, data, at, incomplete=why_incomplete)
        ticket.add_done_callback(self._kept)
        return ticket

    def _kept(self, ticket: Future[int]) -> None:
        error = ticket.exception()
        if error is None:
            self.hearing.unsaved = ""
            self.hearing.units += 1
            self.heard()
            return
        if not self.hearing.unsaved:
            log.error("the journal cannot be written; nothing is acknowledged", cause=str(error))
        self.hearing.unsaved = str(error)

    def converse(self, wire: Wire, link: Link) -> None:
        """Speak with the instrument until the line closes or the agent stops. Raises `PortUnavailable` when the wire goes."""
        _Conversation(self, wire, link).run()


class _Stopped(Exception):
    """The agent stops while something heard is not on the disk."""


@dataclass(slots=True)
class _Unsaved:
    """What was heard and is not known to be on the disk."""

    data: bytes
    why: str
    heard_at: datetime
    ticket: Future[int] | None = None  # None: not offered, because one before it was refused

    @property
    def refused(self) -> bool:
        return self.ticket is None or (self.ticket.done() and self.ticket.exception() is not None)


class _Conversation:
    """One wire, one link, and what was heard on it that the disk does not have yet."""

    def __init__(self, intake: Intake, wire: Wire, link: Link) -> None:
        self._intake, self._wire, self._link = intake, wire, link
        self._raw = _Raw(intake)
        self._unsaved: list[_Unsaved] = []
        self._offer_at = 0.0  # monotonic seconds; what was refused is not offered again before

    def run(self) -> None:
        closed = False
        try:
            try:
                while not closed and not self._intake.stop.is_set():
                    closed = self._turn()
            finally:
                # What the link holds of a transmission that dies here is kept, as incomplete.
                if not closed:
                    self._take(self._link.receive_data(b"", time.monotonic()))
                self._sync()
        except _Stopped:
            log.error("stopped with something heard that the disk did not take", instrument=self._intake.instrument)

    def _turn(self) -> bool:
        """Hear once, answer once; return whether the line is closed."""
        link, wire, hearing = self._link, self._wire, self._intake.hearing
        deadline = link.deadline
        data = wire.read(None if deadline is None else max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        events: list[Event] = []
        if data is not None:
            if data:
                hearing.heard_at = datetime.now(UTC)
                self._raw.keep("<", data)
            events += link.receive_data(data, now)
        if link.deadline is not None and now >= link.deadline:
            events += link.handle_timeout(now)
        self._take(events)
        for out in link.data_to_send():
            if out.after_sync:
                self._sync()
                if time.monotonic() - now > _LATE_SECONDS:
                    why = "the disk took what was heard too late for an answer"
                    raise PortUnavailable(self._intake.instrument, why, "the instrument will say it again")
            self._raw.keep(">", out.data)
            wire.write(out.data)
        self._look_after_unsaved()
        return data == b""

    def _take(self, events: list[Event]) -> None:
        intake = self._intake
        for event in events:
            match event:
                case Unit(data, ago):
                    self._raw.flush()
                    self._keep(data, ago=ago)
                case Incomplete(data, why):
                    self._raw.flush()
                    intake.hearing.incomplete += 1
                    log.warning("a transmission did not complete", instrument=intake.instrument, why=why, bytes=len(data))
                    self._keep(data, why)
                case Unchanged():
                    self._raw.drop()
                case Trouble(what, detail):
                    intake.hearing.troubles[what] += 1
                    log.info("trouble on the line", instrument=intake.instrument, what=what, detail=detail)

    def _keep(self, data: bytes, why: str = "", ago: float = 0.0) -> None:
        # The instrument's clock is compared with the time heard, so that is when the clock was told.
        one = _Unsaved(data, why, datetime.now(UTC) - timedelta(seconds=ago))
        if not (self._unsaved and self._unsaved[-1].refused):  # else they would change places
            self._offer(one)
        self._unsaved.append(one)

    def _offer(self, one: _Unsaved) -> None:
        one.ticket = self._intake.keep(one.data, one.why, one.heard_at)

    def _look_after_unsaved(self) -> None:
        """Forget what the disk has and offer again what it refused; wait for it only where too much has gathered."""
        while self._unsaved and not self._unsaved[0].refused and (ticket := self._unsaved[0].ticket) and ticket.done():
            del self._unsaved[0]
        if sum(len(one.data) for one in self._unsaved) > _MOST_UNSAVED:
            self._sync()
        elif self._unsaved and self._unsaved[0].refused and time.monotonic() >= self._offer_at:
            self._offer_refused()

    def _offer_refused(self) -> None:
        self._offer_at = time.monotonic() + _RETRY_SECONDS
        for one in self._unsaved:
            if one.refused:
                self._offer(one)

    def _sync(self) -> None:
        """Wait until the disk has everything heard so far, offering again what it refuses."""
        while self._unsaved:
            ticket = self._unsaved[0].ticket
            if ticket is not None and ticket.exception() is None:
                del self._unsaved[0]
                continue
            if self._intake.stop.wait(_RETRY_SECONDS):
                raise _Stopped
            self._offer_refused()


class _Raw:
    """The raw bytes of a conversation on their way to the journal.

    Those of a meter that keeps its memory wait until its read turned out to hold something new: it can say them again.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._waiting: list[tuple[str, bytes]] = []
        self._size = 0

    def keep(self, direction: str, data: bytes) -> None:
        if not self._intake.memory:
            self._intake.journal.append_raw(self._intake.instrument, direction, data, datetime.now(UTC))
        elif self._size < _MEMORY_RAW_LIMIT:
            self._waiting.append((direction, data))
            self._size += len(data)

    def flush(self) -> None:
        at = datetime.now(UTC)
        for direction, data in self._waiting:
            self._intake.journal.append_raw(self._intake.instrument, direction, data, at)
        self.drop()

    def drop(self) -> None:
        self._waiting, self._size = [], 0
