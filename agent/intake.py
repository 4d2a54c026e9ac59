"""From the wire to the journal: one conversation with one instrument, and the promise that an ACK makes.

A conversation joins a wire (I/O) to a link (a pure machine). Units go to the journal as they are heard; bytes that the link has
marked leave only when every unit before them is synced to the disk (sync ①). What the journal cannot take just now is offered
again until it can, and meanwhile nothing is acknowledged and nothing more is read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event as Flag

import structlog

from ..drivers.link import Event, Incomplete, Link, Trouble, Unchanged, Unit
from .journal import Journal
from .journal_file import JournalUnavailable
from .ports import Wire

_RETRY_SECONDS = 1.0
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

    def keep(self, data: bytes, why_incomplete: str = "") -> Future[int]:
        """Offer a unit to the journal; the future tells when the disk has it, or raises `JournalUnavailable`."""
        at = datetime.now(UTC)
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


class _Conversation:
    """One wire, one link, and what was heard on it that the disk does not have yet."""

    def __init__(self, intake: Intake, wire: Wire, link: Link) -> None:
        self._intake, self._wire, self._link = intake, wire, link
        self._raw = _Raw(intake)
        self._unsynced: list[tuple[bytes, str, Future[int]]] = []

    def run(self) -> None:
        closed = False
        try:
            while not closed and not self._intake.stop.is_set():
                closed = self._turn()
        finally:
            # What the link holds of a transmission that dies here is kept, as incomplete.
            if not closed:
                self._take(self._link.receive_data(b"", time.monotonic()))
                self._sync()

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
            self._raw.keep(">", out.data)
            wire.write(out.data)
        self._sync()
        return data == b""

    def _take(self, events: list[Event]) -> None:
        intake = self._intake
        for event in events:
            match event:
                case Unit(data):
                    self._raw.flush()
                    self._unsynced.append((data, "", intake.keep(data)))
                case Incomplete(data, why):
                    self._raw.flush()
                    intake.hearing.incomplete += 1
                    log.warning("a transmission did not complete", instrument=intake.instrument, why=why, bytes=len(data))
                    self._unsynced.append((data, why, intake.keep(data, why)))
                case Unchanged():
                    self._raw.drop()
                case Trouble(what, detail):
                    intake.hearing.troubles[what] += 1
                    log.info("trouble on the line", instrument=intake.instrument, what=what, detail=detail)

    def _sync(self) -> None:
        """Wait until the disk has everything heard so far, offering again what it refuses."""
        while self._unsynced:
            data, why, ticket = self._unsynced[0]
            try:
                ticket.result()
            except JournalUnavailable:
                if self._intake.stop.wait(_RETRY_SECONDS):
                    log.error("stopped with something heard that the disk did not take", instrument=self._intake.instrument)
                    raise
                self._unsynced[0] = (data, why, self._intake.keep(data, why))
            else:
                del self._unsynced[0]


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
