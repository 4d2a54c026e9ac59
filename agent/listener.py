"""Hears one instrument on its port: opens it, speaks, and goes on looking for it when it is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from ..config.site import Instrument
from ..drivers.driver import Contact
from .intake import Intake
from .ports import Port, PortUnavailable, Wire, port

BACKOFF_SECONDS = (0.5, 10.0)  # a port that comes back under another name is heard again within 30 s
_CONVERSATIONS = 32  # at once on one listening port, those that wait for a full disk among them
_STOP_SECONDS = 4.0

log = structlog.get_logger("chartbound.agent")


@dataclass(slots=True)
class Listener:
    """Hears one instrument on its port, and goes on looking for the port when it is gone."""

    instrument: Instrument
    intake: Intake
    stop: threading.Event
    _talking: set[threading.Thread] = field(default_factory=set)

    def run(self) -> None:
        settings = self.instrument.loaded.serial
        if self.instrument.baud:
            settings = replace(settings, baud=self.instrument.baud)
        address = self.instrument.port or ""
        listening = port(address, settings)
        hearing = self.intake.hearing
        delay = BACKOFF_SECONDS[0]
        with _closing(listening):
            while not self.stop.is_set():
                try:
                    wire = listening.open()
                    if hearing.state == "unavailable":
                        log.info("port available", instrument=hearing.instrument)
                    if wire is None:
                        hearing.turn("connected" if self._alive() else "waiting")
                    elif listening.many:
                        self._talk_beside(wire)
                    else:
                        self._talk(wire)
                    delay = BACKOFF_SECONDS[0]
                except PortUnavailable as gone:
                    if hearing.why != str(gone):
                        log.warning("port unavailable", instrument=hearing.instrument, why=gone.why, hint=gone.hint)
                    hearing.turn("unavailable", str(gone))
                    self.stop.wait(delay)
                    delay = min(delay * 2, BACKOFF_SECONDS[1])
        until = time.monotonic() + _STOP_SECONDS
        for thread in self._talking:
            thread.join(max(0.0, until - time.monotonic()))

    def _talk(self, wire: Wire) -> None:
        driver = self.instrument.loaded
        assert driver.connect is not None  # noqa: S101 - the site file has checked that a port has a driver for it
        link = driver.connect(self.instrument.options, Contact(self.instrument.poll_seconds))
        self.intake.hearing.turn("connected")
        with _closing(wire):
            self.intake.converse(wire, link)

    def _talk_beside(self, wire: Wire) -> None:
        if self._alive() >= _CONVERSATIONS:
            log.warning("too many connections at once; the newest is refused", instrument=self.instrument.name)
            wire.close()
            return

        def talk() -> None:
            try:
                self._talk(wire)
            except PortUnavailable as gone:
                log.info("the instrument is gone", instrument=self.instrument.name, why=gone.why)
            except Exception:
                self.intake.hearing.failures += 1
                log.exception("a conversation failed; the instrument may call again", instrument=self.instrument.name)

        thread = threading.Thread(target=talk, name=f"{self.instrument.name} conversation", daemon=True)
        self._talking.add(thread)
        thread.start()

    def _alive(self) -> int:
        self._talking = {thread for thread in self._talking if thread.is_alive()}
        return len(self._talking)


@contextmanager
def _closing(thing: Port | Wire) -> Iterator[None]:
    try:
        yield
    finally:
        thing.close()
