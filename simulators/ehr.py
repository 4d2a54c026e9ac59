"""A receiving EHR: takes HL7 messages over MLLP, keeps what it files and answers as it is told, badly too.

It files a message once: the same MSH-10 again is answered again and counted, and other bytes under a known MSH-10 are a
mismatch, which no sender may cause.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ..hl7 import ack as acks
from ..hl7 import mllp

BEHAVIOURS = {
    "AA": "files it and says so",
    "CA": "has received it safely (enhanced mode); nothing follows",
    "CA+AA": "has received it safely, then files it",
    "AE": "an error: it does not file it now",
    "AR": "rejects it",
    "CE": "an error before filing (enhanced mode)",
    "CR": "rejects it before filing (enhanced mode)",
    "none": "files it and never answers",
    "late": "files it and answers after --late seconds",
    "hangup": "files it and closes the connection without an answer",
    "wrong-id": "answers for another message, then never for this one",
    "pieces": "AA in single bytes",
    "double": "an AA for another message and the right one in one packet",
    "close": "AA, then closes the connection",
    "garbage": "noise and an unreadable frame, then AA",
    "no-trailer": "AA without the last byte of its frame",
}
_NOT_FILED = frozenset({"AE", "AR", "CE", "CR"})


@dataclass(frozen=True, slots=True)
class Received:
    """One arrival of a message, answered or not."""

    control_id: str  # MSH-10
    body: bytes = field(repr=False)
    behaviour: str


class EhrSimulator:
    """A real TCP server in threads of its own. `with EhrSimulator() as ehr: ehr.address …`

    `behaviour` names one of `BEHAVIOURS` for each arrival in turn, over and over; with a `seed` it is drawn from the list
    at random. A function of (control id, how often it has come before) may be given instead.
    """

    def __init__(
        self,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        behaviour: Iterable[str] | Callable[[str, int], str] = ("AA",),
        *,
        late_seconds: float = 60.0,
        save: Path | None = None,
        seed: int | None = None,
        heard: Callable[[Received], None] | None = None,
    ) -> None:
        self._listen = listen
        self._choose = behaviour if callable(behaviour) else _cycle(list(behaviour), seed)
        self.late_seconds = late_seconds
        self._save = save
        self._heard = heard
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._wires: set[socket.socket] = set()
        self.arrivals: list[Received] = []
        self.messages: dict[str, bytes] = {}  # what is filed, by MSH-10, in order
        self.mismatches: list[str] = []  # MSH-10 that came with other bytes than before
        self.connections = 0
        self._seen: dict[str, bytes] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the system's choice where it was asked for 0."""
        return self._listen

    @property
    def duplicates(self) -> int:
        """Arrivals of a message that had come before."""
        return len(self.arrivals) - len(self._seen)

    @property
    def open_connections(self) -> int:
        return len(self._wires)

    def start(self) -> EhrSimulator:
        """Listen from now on; also again after `stop`, at the same address and with what it has filed."""
        self._stopping.clear()
        self._server = _Server(self._listen, self)
        self._listen = ("127.0.0.1" if self._listen[0] == "" else self._listen[0], self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="ehr", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection."""
        self._stopping.set()
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self.hang_up()
        self._server.server_close()
        self._server = None

    def hang_up(self) -> None:
        """Close every connection and go on listening."""
        with self._changed:
            wires = list(self._wires)
        for wire in wires:
            _shut(wire)

    def say(self, data: bytes) -> None:
        """Send these bytes, unasked, on every open connection."""
        with self._changed:
            wires = list(self._wires)
        for wire in wires:
            wire.sendall(data)

    def __enter__(self) -> EhrSimulator:
        return self if self._server else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, condition: Callable[[EhrSimulator], bool], timeout: float = 10.0) -> bool:
        """Wait until the condition holds, looking at every arrival and connection; False where it took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def converse(self, wire: socket.socket) -> None:
        """One connection, from its opening to its end."""
        decoder = mllp.Decoder()
        with self._changed:
            self.connections += 1
            self._wires.add(wire)
            self._changed.notify_all()
        try:
            while data := wire.recv(65536):
                for message in decoder.receive_data(data):
                    if not self._answer(wire, message):
                        return
        except OSError:
            return  # the sender has gone; that is its right
        finally:
            with self._changed:
                self._wires.discard(wire)
                self._changed.notify_all()

    def _answer(self, wire: socket.socket, message: bytes) -> bool:
        """Take one message and answer it; False where the connection is to be closed."""
        control_id = _control_id(message)
        received = self._take(control_id, message)
        behaviour = received.behaviour
        if self._heard:
            self._heard(received)
        if behaviour == "hangup":
            return False
        if behaviour == "none":
            return True
        if behaviour == "late" and self._stopping.wait(self.late_seconds):
            return False
        for part in _reply(message, behaviour):
            wire.sendall(part)
            if behaviour == "pieces":
                time.sleep(0.0005)  # so that the pieces are read one by one
        return behaviour != "close"

    def _take(self, control_id: str, message: bytes) -> Received:
        with self._changed:
            before = sum(1 for arrival in self.arrivals if arrival.control_id == control_id) if control_id in self._seen else 0
            behaviour = self._choose(control_id, before)
            if behaviour not in BEHAVIOURS:
                problem = f"{behaviour}: the simulated EHR knows {', '.join(BEHAVIOURS)}"
                raise ValueError(problem)
            received = Received(control_id, message, behaviour)
            self.arrivals.append(received)
            if self._seen.setdefault(control_id, message) != message:
                self.mismatches.append(control_id)
            if behaviour not in _NOT_FILED and control_id not in self.messages:
                self.messages[control_id] = message
                if self._save:
                    (self._save / f"{len(self.messages)}-{_file_name(control_id)}.hl7").write_bytes(message)
            self._changed.notify_all()
        return received


class _Server(socketserver.ThreadingTCPServer):
    # On Windows this option would let a second program share the port.
    allow_reuse_address = os.name != "nt"
    daemon_threads = True
    block_on_close = True

    def __init__(self, address: tuple[str, int], ehr: EhrSimulator) -> None:
        self.ehr = ehr
        super().__init__(address, _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self) -> None:
        self.server.ehr.converse(self.request)


def _shut(wire: socket.socket) -> None:
    try:
        wire.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has gone already


def _cycle(names: list[str], seed: int | None) -> Callable[[str, int], str]:
    if seed is not None:
        rng = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret
        return lambda _id, _before: rng.choice(names)
    turns = itertools.cycle(names)
    return lambda _id, _before: next(turns)


def _reply(message: bytes, behaviour: str) -> list[bytes]:
    """The bytes to send, packet by packet."""

    def framed(code: str, to: bytes = message, text: str = "") -> bytes:
        number = f"{time.time_ns() % 10**18}"
        return mllp.frame(acks.build(to, code, at=datetime.now(UTC), control_id=number, text=text))

    other = _with_control_id(message, b"OTHER-1")
    right = framed("AA")
    replies = {
        "CA+AA": lambda: [framed("CA"), right],
        "wrong-id": lambda: [framed("AA", other)],
        "pieces": lambda: [right[i : i + 1] for i in range(len(right))],
        "double": lambda: [framed("AA", other) + right],
        "garbage": lambda: [b"\r\nnoise", mllp.frame(b"this is no ACK") + right],
        "no-trailer": lambda: [right[:-1]],
    }
    if behaviour in replies:
        return replies[behaviour]()
    if behaviour in acks.REFUSED:
        return [framed(behaviour, text="simulated refusal")]
    return [framed("CA")] if behaviour == "CA" else [right]


def _fields(message: bytes) -> list[bytes]:
    return message.split(b"\r", 1)[0].split(message[3:4] or b"|")


def _control_id(message: bytes) -> str:
    fields = _fields(message)
    return fields[9].decode("latin-1") if len(fields) > 9 else ""


def _with_control_id(message: bytes, control_id: bytes) -> bytes:
    fields = _fields(message)
    if len(fields) > 9:
        fields[9] = control_id
    return (message[3:4] or b"|").join(fields)


def _file_name(control_id: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in control_id)


def command(
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 is the system's choice, which is printed")] = "127.0.0.1:2575",
    ack: Annotated[
        str, typer.Option(help=f"how to answer, in turn: a comma list of {' | '.join(BEHAVIOURS)}; AA*9,none is nine of ten")
    ] = "AA",
    save: Annotated[
        Path | None, typer.Option(help="a folder; each message that is filed becomes N-CONTROLID.hl7 in it")
    ] = None,
    late: Annotated[float, typer.Option(help="seconds before a late answer")] = 60.0,
    down: Annotated[float, typer.Option(help="seconds at the start in which nothing listens")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="draw from the list at random, repeatably")] = None,
) -> None:
    """A receiving EHR that can misbehave.

    Prints control ids and answers, never a patient. Ctrl-C ends it.
    """
    host, _, port = listen.rpartition(":")
    behaviours = _behaviours(ack)
    if not port.isdigit():
        raise typer.BadParameter(f"{listen} is not HOST:PORT", param_hint="--listen")
    if save:
        save.mkdir(parents=True, exist_ok=True)

    def heard(received: Received) -> None:
        typer.echo(f"{received.control_id}  {received.behaviour}")

    ehr = EhrSimulator((host, int(port)), behaviours, late_seconds=late, save=save, seed=seed, heard=heard)
    forever = threading.Event()
    try:
        if down:
            typer.echo(f"nothing listens for {down:g} s")
            forever.wait(down)
        with ehr:
            typer.echo(f"listening on {ehr.address[0]}:{ehr.address[1]}")
            while not forever.wait(1.0):  # a wait without end cannot be interrupted on Windows
                pass
    except KeyboardInterrupt:
        pass
    again = f"{ehr.duplicates} came again, {len(ehr.mismatches)} of them with other bytes"
    typer.echo(f"{len(ehr.messages)} filed; {again}")


def _behaviours(text: str) -> list[str]:
    names: list[str] = []
    for part in text.split(","):
        name, _, times = part.strip().partition("*")
        if name not in BEHAVIOURS or (times and not times.isdigit()):
            raise typer.BadParameter(f"{part}: choose of {', '.join(BEHAVIOURS)}", param_hint="--ack")
        names += [name] * int(times or 1)
    return names
