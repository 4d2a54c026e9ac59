"""The agent as IT staff run it: `chartbound run` as a process, its log read line by line, its state folder looked into."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from chartbound.agent import check, ledger, status, views
from chartbound.agent.journal_file import JournalReader
from chartbound.agent.store import specimens
from chartbound.agent.store.engine import migrate, open_store, reading, writing
from chartbound.config import catalog as catalogs
from chartbound.drivers.lis1a import ACK, ENQ, EOT, frames
from chartbound.hl7 import label
from chartbound.hl7.chart import OrderedTest, Patient, Specimen
from chartbound.simulators import clinitek_status, dca_vantage
from chartbound.simulators.peer import SimulatedTest

PATIENCE = 20.0  # seconds for any one thing, many times what it takes
COMMAND = (sys.executable, "-m", "chartbound")
HBA1C = OrderedTest("4548-4", "HbA1c", placer_order="P-1")
URINE = OrderedTest("24357-6", "Urinalysis", placer_order="P-2")


class AgentProcess:
    """`with AgentProcess(folder) as agent: …`; the site file is in the folder. It is killed at the end where it still runs."""

    def __init__(self, folder: Path, prefix: Sequence[str] = (), *, starts: bool = True) -> None:
        self.folder, self._prefix, self._starts = folder, prefix, starts
        self.lines: list[dict[str, str]] = []
        self.text = b""
        self._ended = False
        self._news = threading.Condition()

    def __enter__(self) -> AgentProcess:
        self.process = subprocess.Popen(
            [*self._prefix, *COMMAND, "run", "site.toml"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, name="log", daemon=True)
        self._reader.start()
        if self._starts:
            self.wait_for("listening")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.text += line
                self.lines.append(logfmt(line.decode()))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def said(self, event: str, **more: str) -> list[dict[str, str]]:
        """The log lines of this event so far."""
        wanted = {"event": event, **more}
        return [line for line in self.lines if wanted.items() <= line.items()]

    def wait_for(self, event: str, count: int = 1, seconds: float = PATIENCE, **more: str) -> dict[str, str]:
        """The newest of at least `count` log lines of this event; those before count too."""
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self.said(event, **more)) >= count, seconds)
        assert len(self.said(event, **more)) >= count, (
            f"{count} × {event} {more} not within {seconds:g} s; the log:\n{self.text.decode()}"
        )
        return self.said(event, **more)[-1]

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End it by this signal; the seconds that it took. It must end well."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        took = time.monotonic() - began
        self._reader.join()
        assert code == 0, f"ended with {code}:\n{self.text.decode()}"
        return took

    def fill_disk(self) -> None:
        """No file of the agent grows any more; what is short enough can still be written over."""
        self._limit(4000)

    def free_disk(self) -> None:
        self._limit(None)

    def _limit(self, size: int | None) -> None:
        resource = pytest.importorskip("resource", reason="limits of POSIX")
        if not hasattr(resource, "prlimit"):
            pytest.skip("only Linux limits another process")
        infinite = resource.RLIM_INFINITY
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (infinite if size is None else size, infinite))

    def status(self) -> dict[str, Any]:
        """What the agent last said of itself."""
        return status.read(self.folder / "state", datetime.now(UTC)) or {}

    def status_when(self, so: Callable[[dict[str, Any]], Any], seconds: float = PATIENCE) -> dict[str, Any]:
        """The first status that is so."""
        found: dict[str, Any] = {}

        def look() -> bool:
            nonlocal found
            found = self.status()
            return bool(found) and bool(so(found))

        assert until(look, seconds), f"not so: {found}\n{self.text.decode()}"
        return found

    def hearing(self, name: str) -> dict[str, Any]:
        return hearing_of(self.status(), name)


def hearing_of(said: dict[str, Any], name: str) -> dict[str, Any]:
    """What a status says of this instrument."""
    found: dict[str, Any] = next(one for one in said["instruments"] if one["name"] == name)
    return found


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Look again and again whether `condition` holds; False where it did not within so many seconds."""
    flag, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        flag.wait(0.02)
    return True


def logfmt(line: str) -> dict[str, str]:
    """The pairs of one log line; what is no pair comes as `event`, so that a bare traceback is seen."""
    found: dict[str, str] = {}
    word, quoted, escaped = "", False, False
    for character in line.rstrip("\n") + " ":
        if character == " " and not quoted:
            key, equals, value = word.partition("=")
            found[key if equals else "event"] = value if equals else word
            word = ""
        elif character == '"' and not escaped:
            quoted = not quoted
        else:
            word += character
        escaped = character == "\\" and not escaped
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_site(folder: Path, *parts: str, ehr: str = "127.0.0.1:9", top: str = "") -> None:
    """A site file of these instruments and sections; `top` are more lines of [site]."""
    head = f'[site]\nfacility = "RIVERSIDE"\ntimezone = "UTC"\nstate_dir = "state"\n{top}\n'
    tail = f'\n[[destinations]]\nname = "ehr"\naddress = "{ehr}"\nack_timeout_seconds = 3\nretry_seconds = [0.1, 0.5]\n'
    (folder / "site.toml").write_text(head + "\n".join(parts) + tail, encoding="utf-8")


def instrument(name: str, driver: str, port: int | str, more: str = "") -> str:
    """The section of one instrument; a number is a port of this PC that it listens on."""
    where = f"listen://127.0.0.1:{port}" if isinstance(port, int) else port
    options = '\n[instruments.options]\ndate_order = "mdy"\n' if driver == "clinitek_status" else ""
    return f'[[instruments]]\nname = "{name}"\ndriver = "{driver}"\nport = "{where}"\n{more}{options}'


def ekg_cart(folder: str = "drop/ekg", mode: str = "move") -> str:
    return f'[[instruments]]\nname = "ekg-cart"\ndriver = "ekg"\nfolder = "{folder}"\nmode = "{mode}"\n'


def register(folder: Path, *ordered: tuple[str, Patient, OrderedTest]) -> None:
    """Put labelled specimens into the register; labels of ours carry a check character (`label.issue`)."""
    site, _ = check.load(folder / "site.toml")
    site.state_dir.mkdir(exist_ok=True)
    engine = open_store(site.store.url, site.state_dir)
    migrate(engine)
    with writing(engine) as conn:
        for specimen_id, patient, test in ordered:
            at = datetime.now(UTC)
            specimens.register(conn, Specimen(specimen_id, patient, (test,), issued=True, collected_at=at), at)
    engine.dispose()


def patient(number: int) -> Patient:
    return Patient(f"MRN-{number}", f"LAST{number}", f"FIRST{number}", date(1960, 1, 1 + number % 28), "F")


def a_label(number: int) -> str:
    return label.issue(number)


def count(folder: Path) -> ledger.Ledger:
    """The ledger, also beside a running agent."""
    site, _ = check.load(folder / "site.toml")
    journals = []
    for path in sorted(site.state_dir.glob("journal*.db")):
        journal = JournalReader(path)
        journals.append((journal.id, journal.numbers()))
        journal.close()
    engine = open_store(site.store.url, site.state_dir)
    try:
        with reading(engine) as conn:
            return ledger.ledger(conn, journals)
    finally:
        engine.dispose()


def results(folder: Path) -> list[dict[str, Any]]:
    """`chartbound results --json`, oldest first."""
    site, _ = check.load(folder / "site.toml")
    engine = open_store(site.store.url, site.state_dir)
    try:
        with reading(engine) as conn:
            return views.result_list(conn, catalogs.load(folder), None, 10_000)[::-1]
    finally:
        engine.dispose()


def a_test(sequence: int, specimen_id: str = "", **values: str) -> SimulatedTest:
    """A test that was run just now; the site's time zone is UTC."""
    at = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    return SimulatedTest(at=at, specimen_id=specimen_id, sequence=sequence, values=values)


class Analyser:
    """A DCA Vantage at the other end of a TCP connection, one exchange at a time."""

    def __init__(self, port: int, seconds: float = PATIENCE) -> None:
        self.wire = call(port, seconds)

    def __enter__(self) -> Analyser:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def report(self, test: SimulatedTest) -> None:
        """Say one result and have it acknowledged."""
        self.ask(ENQ)
        for data in frames(dca_vantage.message(test, test.at), one_frame=True):
            self.ask(data)
        self.wire.sendall(EOT)

    def begin(self, test: SimulatedTest) -> None:
        """Say one result and do not wait for the answer."""
        self.ask(ENQ)
        self.wire.sendall(b"".join(frames(dca_vantage.message(test, test.at), one_frame=True)))

    def ask(self, data: bytes) -> None:
        self.wire.sendall(data)
        answer = self.wire.recv(1)
        assert answer == ACK, f"answered {answer!r}"

    def answer_within(self, seconds: float) -> bytes | None:
        """What it is answered; None: nothing in so many seconds."""
        self.wire.settimeout(seconds)
        try:
            return self.wire.recv(1)
        except TimeoutError:
            return None
        finally:
            self.wire.settimeout(PATIENCE)


def call(port: int, seconds: float = PATIENCE) -> socket.socket:
    """A connection to the agent as soon as it listens there."""
    made: list[socket.socket] = []

    def connect() -> bool:
        try:
            made.append(socket.create_connection(("127.0.0.1", port), PATIENCE))
        except OSError:
            return False
        return True

    assert until(connect, seconds), f"nobody listens on {port}"
    made[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made[0]


def urine_line(sequence: int, specimen_id: str = "", **values: str) -> bytes:
    """What the strip reader prints for one test."""
    return clinitek_status.line(a_test(sequence, specimen_id, **values))


def without_roots_rights() -> list[str]:
    """What to put before a command so that file modes bind it, also where the tests run as root."""
    if os.name == "nt":
        pytest.skip("modes of POSIX")
    if os.getuid() != 0:
        return []
    tool = shutil.which("setpriv")
    if tool is None:
        pytest.skip("root ignores file modes, and there is no setpriv to give that up")
    return [tool, "--bounding-set", "-dac_override,-dac_read_search", "--"]
