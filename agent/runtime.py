"""The agent: built from the site file, it owns every thread, restarts what fails, and joins them all at its end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from ..config.catalog import Catalog
from ..config.site import Instrument, Site
from ..drivers.driver import Contact, UnreadableReport
from . import host, journal, retention, status
from .delivery import Sender
from .folder_watch import watch
from .folders import FolderTrouble, Unwanted, WatchedFolder
from .intake import Hearing, Intake
from .journal_file import JournalReader
from .judge import Judge
from .mllp_wire import Destination
from .order_folder import order_folder
from .order_listener import OrderDesk, OrderListener
from .ports import Port, PortUnavailable, Wire, port
from .store.engine import migrate, open_store, writing
from .store.results import set_up
from .verdict import Verdicts
from .writer import StoreWriter

_BACKOFF_SECONDS = (0.5, 10.0)  # a port that comes back under another name is heard again within 30 s
_STATUS_SECONDS = 2.0
_FIRST_PURGE_SECONDS, _PURGE_SECONDS = 60.0, 3600.0
_CONVERSATIONS = 32  # at once on one listening port, those that wait for a full disk among them
_STOP_SECONDS = 4.0  # for all threads together, so that with the store's last commit it stays below 5 s
_STEADY_SECONDS = 60.0  # a part that ran so long before it failed is started again at once

log = structlog.get_logger("chartbound.agent")


@dataclass(slots=True)
class Worker:
    """A thread of the agent that is started again, more and more slowly, for as long as it fails."""

    name: str
    body: Callable[[], None]
    stop: threading.Event
    failures: int = 0
    thread: threading.Thread = field(init=False)

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        delay = _BACKOFF_SECONDS[0]
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                self.body()
            except Exception:
                # A bug of ours: loud, and this thread alone is started again.
                self.failures += 1
                if time.monotonic() - began > _STEADY_SECONDS:
                    delay = _BACKOFF_SECONDS[0]
                log.exception("a part of the agent failed and is started again", part=self.name, seconds=delay)
                self.stop.wait(delay * random.uniform(0.8, 1.2))  # noqa: S311 - spreads restarts, guards nothing
                delay = min(delay * 2, _BACKOFF_SECONDS[1])
            else:
                return


class Agent:
    """One running agent on its state folder."""

    def __init__(self, site: Site, catalog: Catalog) -> None:
        self.site, self.catalog = site, catalog
        self.stop = threading.Event()
        self._store_ready = threading.Event()  # it has its tables
        self._stop_by = 0.0  # monotonic seconds
        self.hearings: list[Hearing] = []
        self.folders: dict[str, WatchedFolder] = {}
        self.senders: list[Sender] = []
        self.order_listener: OrderListener | None = None
        self.workers: list[Worker] = []
        self.started_at = datetime.now(UTC)

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Run until `stop` is set. Raises `HostError`, `JournalUnavailable` or `StoreUnavailable` where it cannot start."""
        with ExitStack() as open_things:
            state = host.state_folder(self.site.state_dir)
            open_things.enter_context(host.sole_agent(state))
            self.agent_id = host.agent_id(state)
            self.journal = journal.open_journal(state, self.agent_id)
            open_things.callback(self.journal.close)
            engine = open_store(self.site.store.url, state)
            open_things.callback(engine.dispose)
            self.writer = StoreWriter(engine, prepare=self._prepare_store)
            self.engine = engine
            self.verdicts = Verdicts(self.site, self.catalog, self.agent_id)
            self.judges: list[Judge] = []
            for one in (*self._restored(state, open_things), self.journal):
                before = self.judges[-1] if self.judges else None
                self.judges.append(Judge(one, self.verdicts, self.writer, self._queued, after=before))
            self._make_senders()
            self._make_ears()
            self.writer.start()
            open_things.callback(lambda: self.writer.stop(max(0.5, self._stop_by - time.monotonic())))
            for judge in self.judges:
                judge.look()
            for worker in self.workers:
                worker.start()
            log.info("listening", instruments=len(self.site.instruments), destinations=len(self.senders))
            ready()
            self._tend(state)
            log.info("stopping")
            self._stop_by = time.monotonic() + _STOP_SECONDS
            self._store_ready.set()
            for sender in self.senders:
                sender.wake()
            for worker in self.workers:
                worker.thread.join(max(0.0, self._stop_by - time.monotonic()))
            status.remove(state)

    def _prepare_store(self) -> None:
        migrate(self.engine)
        with writing(self.engine) as conn:
            for one in self.site.instruments:
                set_up(conn, self.agent_id, one.name, self.started_at)
        self._store_ready.set()

    def _restored(self, state: Path, open_things: ExitStack) -> list[JournalReader]:
        found = journal.restored_journals(state)
        for one in found:
            open_things.callback(one.close)
        return found

    def _queued(self) -> None:
        for sender in self.senders:
            sender.wake()

    def _make_senders(self) -> None:
        for one in self.site.destinations:
            sender = Sender(Destination.of(one), self.engine, self.writer, self.agent_id)
            self.senders.append(sender)
            self.workers.append(Worker(f"to {one.name}", partial(self._deliver, sender), self.stop))

    def _deliver(self, sender: Sender) -> None:
        self._store_ready.wait()
        sender.run(self.stop)

    def _make_ears(self) -> None:
        for one in self.site.instruments:
            hearing = Hearing(one.name)
            self.hearings.append(hearing)
            intake = Intake(one.name, one.driver, one.loaded.memory, self.journal, self.judges[-1].look, self.stop, hearing)
            if one.folder is not None:
                self._hear_files(one, intake, one.folder)
            else:
                self.workers.append(Worker(one.name, Listener(one, intake, self.stop).run, self.stop))
        if self.site.orders.folder is not None:
            orders = order_folder(self.site, self.verdicts, self.engine, self._queued)
            self._watch("orders", orders)
        if address := self.site.orders.listen_address:
            desk = OrderDesk(self.engine, self.verdicts, self._queued)
            self.order_listener = OrderListener(address, desk.answer, self.stop)
            self.workers.append(Worker("order feed", self.order_listener.run, self.stop))

    def _hear_files(self, one: Instrument, intake: Intake, path: Path) -> None:
        driver = one.loaded

        def take(_name: str, data: bytes) -> Future[int]:
            ticket = intake.keep(data)
            try:
                driver.parse(data, one.options)
            except UnreadableReport as why:
                ticket.result()
                raise Unwanted(str(why)) from why
            except Exception as why:
                ticket.result()
                message = f"the driver failed ({type(why).__name__})"
                raise Unwanted(message) from why
            return ticket

        memory = self.site.state_dir / f"seen-{one.name}.db" if one.mode == "copy" else None
        intake.hearing.turn("connected", f"watching {path}")
        folder = WatchedFolder(
            path,
            take,
            lambda content: self.journal.knows(content, one.name),
            complete=driver.complete or bool,
            mode=one.mode,
            incomplete_minutes=one.incomplete_minutes,
            memory=memory,
        )
        self._watch(one.name, folder)

    def _watch(self, name: str, folder: WatchedFolder) -> None:
        def tell(trouble: FolderTrouble) -> None:
            log.warning("trouble with a folder", folder=name, what=trouble.what, detail=trouble.detail)

        folder.tell = tell
        self.folders[name] = folder
        self.workers.append(Worker(name, lambda: watch(folder, self.stop), self.stop))

    def _tend(self, state: Path) -> None:
        """What is done now and then while the others work: the status file, and forgetting what was settled long ago."""
        next_purge = time.monotonic() + _FIRST_PURGE_SECONDS
        while True:
            try:
                status.write(state, status.of(self))
            except Exception:
                log.exception("the status could not be told")
            if self.stop.wait(_STATUS_SECONDS):
                return
            if time.monotonic() >= next_purge:
                next_purge = time.monotonic() + _PURGE_SECONDS
                self._purge()

    def _purge(self) -> None:
        try:
            retention.purge(self.journal, self.engine, self.site.journal_days, datetime.now(UTC))
        except Exception:
            log.exception("old units could not be forgotten; tried again in an hour")


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
        delay = _BACKOFF_SECONDS[0]
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
                    delay = _BACKOFF_SECONDS[0]
                except PortUnavailable as gone:
                    if hearing.why != str(gone):
                        log.warning("port unavailable", instrument=hearing.instrument, why=gone.why, hint=gone.hint)
                    hearing.turn("unavailable", str(gone))
                    self.stop.wait(delay)
                    delay = min(delay * 2, _BACKOFF_SECONDS[1])
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
