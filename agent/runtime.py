"""The agent: built from the site file, it owns every thread, restarts what fails, and joins them all at its end."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from ..config.catalog import Catalog
from ..config.site import Instrument, Site
from ..drivers.driver import UnreadableReport
from . import host, journal, retention
from . import status as status_file
from .delivery import Sender
from .folder_watch import watch
from .folders import FolderTrouble, Unwanted, WatchedFolder
from .intake import Hearing, Intake
from .journal_file import JournalReader
from .judge import Elsewhere, Judge, look_again
from .listener import Listener
from .mllp_wire import Destination
from .order_folder import order_folder
from .order_listener import OrderDesk, OrderListener
from .store.engine import migrate, open_store, writing
from .store.results import set_up
from .verdict import Verdicts
from .worker import Worker
from .writer import StoreWriter

_STATUS_SECONDS = 2.0
_SWITCH_SECONDS = 0.0005  # an instrument waits for its ACK while verdicts are computed: let its thread in ten times sooner
_FIRST_PURGE_SECONDS, _PURGE_SECONDS = 60.0, 3600.0
_STOP_SECONDS = 4.0  # for all threads together, so that with the store's last commit it stays below 5 s

log = structlog.get_logger("chartbound.agent")
iso = status_file.iso


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
        sys.setswitchinterval(_SWITCH_SECONDS)
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
                judge.read_again()
            look_again(self.verdicts, self.writer, self._queued)
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
            status_file.remove(state)

    def status(self) -> dict[str, Any]:
        """The running agent's own view of itself."""
        return {
            "at": iso(datetime.now(UTC)),
            "pid": os.getpid(),
            "started_at": iso(self.started_at),
            "instruments": [
                {
                    "name": one.instrument,
                    "state": one.state,
                    "why": one.why,
                    "since": iso(one.since),
                    "heard_at": iso(one.heard_at),
                    "units": one.units,
                    "incomplete": one.incomplete,
                    "unsaved": one.unsaved,
                    "troubles": dict(one.troubles),
                }
                for one in self.hearings
            ],
            "folders": {
                name: [f"{trouble.what}: {trouble.detail}" for trouble in list(folder.troubles.values())]
                for name, folder in self.folders.items()
            },
            "orders": {"port": self.order_listener.bound, "why": self.order_listener.why} if self.order_listener else None,
            "destinations": [
                {
                    "name": said.destination,
                    "connected": said.connected,
                    "last_outcome": said.last_outcome.value if said.last_outcome else None,
                    "last_at": iso(said.last_at),
                    "unreachable_since": iso(said.unreachable_since),
                    "problem": said.problem,
                }
                for said in (sender.status() for sender in self.senders)
            ],
            "store_away": self.writer.away,
            "journal_trouble": str(self.journal.trouble or ""),
            "commits": {"journal": self.journal.commits, "store": self.writer.commits},
            "failures": dict(self._failures()),
            "not_settled": sorted(number for judge in self.judges for number in judge.failed),
        }

    def _failures(self) -> Counter[str]:
        """How often each part failed and was started again: a program's error, a driver's among them."""
        found = Counter({worker.name: worker.failures for worker in self.workers})
        found.update({one.instrument: one.failures for one in self.hearings})
        return +found

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
        """What is done now and then while the others work: the status file, other PCs' acts, forgetting what is long settled.

        Raises `JournalUnavailable` where the journal's thread has ended: without it nothing may be acknowledged, and the
        service is better started anew.
        """
        next_purge = time.monotonic() + _FIRST_PURGE_SECONDS
        elsewhere = Elsewhere(self.engine, self.verdicts, self.writer, self._queued)
        while True:
            self.journal.see_to_it()
            if self.engine.dialect.name == "postgresql" and self._store_ready.is_set():
                elsewhere.look()
            try:
                status_file.write(state, self.status())
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
