"""The instruments of the crash campaign. Each keeps what the verdict rests on: what it said, and what it may presume saved.

`Dca` speaks LIS1-A with one to three patients in a message. The ACK of the frame that holds a storage point (the next P, or L)
promises the result above it; whatever was not promised is said again, and with it the whole message, as real analysers do.
`Clinitek` talks one way. It has its memory: at the end it is told to send all of it again. The glucose meter is the simulated
one of the program.
"""

from __future__ import annotations

import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from chartbound.drivers.lis1a import ACK, ENQ, EOT, NAK, frames
from chartbound.simulators import clinitek_status, dca_vantage
from chartbound.simulators.peer import SimulatedTest

_PATIENCE = 5.0  # seconds for one answer; then the line counts as dead
_AGAIN = 0.02  # seconds between two attempts to connect


@dataclass(slots=True)
class Said:
    """One result as the instrument holds it. `state` is new, promised or given up (never said again, and not promised)."""

    instrument: str
    sequence: int
    label: str
    value: str
    state: str = "new"
    sent: int = 0  # times that its message was begun


class Instrument(threading.Thread):
    """Says a result for every label that it is given, whatever becomes of its host."""

    def __init__(self, name: str, port: int, labels: queue.SimpleQueue[str], seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self.port, self.labels = port, labels
        self.rng = random.Random(seed)
        self.said: list[Said] = []
        self.lost_lines = 0  # conversations that broke
        self.stopping = threading.Event()
        self.closing = threading.Event()  # no new results; end when all is said
        self._clock = local_time().replace(microsecond=0) - timedelta(hours=3)

    @property
    def promised(self) -> int:
        return sum(1 for one in self.said if one.state == "promised")

    def take_labels(self, most: int) -> list[str]:
        """Up to `most` labels, as soon as there are any; none when the instrument is to end."""
        taken: list[str] = []
        while not taken and not self.stopping.is_set():
            try:
                taken.append(self.labels.get(timeout=0.05))
            except queue.Empty:
                if self.closing.is_set():
                    break
        while taken and len(taken) < most:
            try:
                taken.append(self.labels.get_nowait())
            except queue.Empty:
                break
        return taken

    def connect(self) -> socket.socket | None:
        while not self.stopping.is_set():
            try:
                wire = socket.create_connection(("127.0.0.1", self.port), _PATIENCE)
            except OSError:
                self.stopping.wait(_AGAIN)
                continue
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return wire
        return None

    def test(self, label: str, sequence: int, values: dict[str, str]) -> SimulatedTest:
        """The run of this number. The instrument counts 1 to 999 and begins again; its clock goes on."""
        at = self._clock + timedelta(seconds=sequence)
        return SimulatedTest(at=at, specimen_id=label, sequence=(sequence - 1) % 999 + 1, values=values)


@dataclass(slots=True)
class _Message:
    frames: list[bytes]
    promises: dict[int, Said]  # by the frame whose ACK is the promise
    last: int = field(default=0)  # the frame after whose answer the line dies for good; else the last one


class Dca(Instrument):
    """A DCA Vantage that reports up to three patients in a message, with records in frames of their own."""

    def __init__(
        self,
        name: str,
        port: int,
        labels: queue.SimpleQueue[str],
        seed: str,
        *,
        at_l: Callable[[], None] = lambda: None,
        dies_one_in: int = 8,
    ) -> None:
        """`at_l` is called between the answer to a message's L and its EOT."""
        super().__init__(name, port, labels, seed)
        self.at_l = at_l
        self._dies_one_in = dies_one_in
        self.given_up = 0  # messages whose line died for good
        self.serial = f"S{sum(map(ord, name)):06d}"

    def run(self) -> None:
        wire: socket.socket | None = None
        while labels := self.take_labels(self.rng.choice((1, 1, 2, 3))):
            message = self._message(labels)
            while not self.stopping.is_set():
                wire = wire or self.connect()
                if wire is None:
                    return
                if self._say(wire, message):
                    if message.last != len(message.frames) - 1:
                        wire.close()
                        wire = None
                    break
                self.lost_lines += 1
                wire.close()
                wire = None
            self.stopping.wait(self.rng.uniform(0, 0.03))
        if wire is not None:
            wire.close()

    def _message(self, labels: Sequence[str]) -> _Message:
        results: list[Said] = []
        records: list[bytes] = []
        stored_at: list[int] = []  # the record that stores each result
        for number, label in enumerate(labels, 1):
            one = Said(self.name, len(self.said) + 1, label, f"{self.rng.uniform(4, 14):.1f}")
            self.said.append(one)
            results.append(one)
            test = self.test(label, one.sequence, {"HbA1c": one.value})
            header, patient, *rest, last = dca_vantage.message(test, local_time())
            if number == 1:
                records.append(header.replace(dca_vantage.SERIAL_NUMBER.encode(), self.serial.encode()))
            else:
                stored_at.append(len(records))
            records += [patient.replace(b"P|1|", b"P|%d|" % number), *rest]
        stored_at.append(len(records))
        records.append(last)
        whole = len(labels) == 1 and self.rng.random() < 0.5
        made = frames(records, one_frame=whole)
        promises = {0: results[0]} if whole else dict(zip(stored_at, results, strict=True))
        final = len(made) - 1
        if len(labels) > 1 and self.rng.randrange(self._dies_one_in) == 0:
            # The line dies for good between the storage point of one patient and that of the next, before or after its result.
            final = self.rng.randrange(stored_at[0], stored_at[1])
            self.given_up += 1
            for one in results[1:]:
                one.state = "given up"
        return _Message(made, promises, final)

    def _say(self, wire: socket.socket, message: _Message) -> bool:
        """Send the message up to its last frame; True where all of that was answered."""
        for one in message.promises.values():
            one.sent += 1
        try:
            if self._ask(wire, ENQ) != ACK:
                return False
            for number, data in enumerate(message.frames[: message.last + 1]):
                answer = self._ask(wire, data)
                for _ in range(6):
                    if answer != NAK:
                        break
                    answer = self._ask(wire, data)
                if answer != ACK:
                    return False
                if (stored := message.promises.get(number)) is not None:
                    stored.state = "promised"
            if message.last == len(message.frames) - 1:
                self.at_l()
                wire.sendall(EOT)
        except OSError:
            # All is promised: the analyser does not care what became of its EOT.
            return all(one.state != "new" for one in message.promises.values()) and message.last == len(message.frames) - 1
        return True

    def _ask(self, wire: socket.socket, data: bytes) -> bytes:
        wire.settimeout(_PATIENCE)
        wire.sendall(data)
        return wire.recv(1)


class Clinitek(Instrument):
    """A CLINITEK Status: prints a line a test, whether anybody listens or not."""

    def __init__(self, name: str, port: int, labels: queue.SimpleQueue[str], seed: str) -> None:
        super().__init__(name, port, labels, seed)
        self._lines: list[bytes] = []

    def run(self) -> None:
        wire: socket.socket | None = None
        while labels := self.take_labels(1):
            one = Said(self.name, len(self.said) + 1, labels[0], self.rng.choice(("1.005", "1.010", "1.015", "1.025")))
            self.said.append(one)
            self._lines.append(clinitek_status.line(self.test(one.label, one.sequence, {"SG": one.value})))
            wire = wire or self.connect()
            if wire is None:
                return
            one.sent += 1
            try:
                wire.sendall(self._lines[-1])
            except OSError:
                self.lost_lines += 1
                wire.close()
                wire = None
            self.stopping.wait(self.rng.uniform(0, 0.1))
        if wire is not None:
            wire.close()

    def send_all(self) -> None:
        """Print the whole memory, newest first, to a host that stays: what a technologist does after an outage."""
        wire = self.connect()
        assert wire is not None
        with wire:
            wire.sendall(b"".join(reversed(self._lines)))
            wire.shutdown(socket.SHUT_WR)
            wire.settimeout(60)
            assert wire.recv(1) == b""  # the host has read all of it and closed its end
        for one in self.said:
            one.sent += 1
            one.state = "promised"


def local_time() -> datetime:
    """What the instruments' clocks show: the campaign's site is in UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def until(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Look again and again whether `condition` holds; False where it did not within so many seconds."""
    flag, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        flag.wait(every)
    return True
