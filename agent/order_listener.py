r"""Hears the EHR's order feed: an order is answered with AA once the register has it on the disk, and never before.

    ◀ 0B MSH|^~\&|EHR|RIVERSIDE|||…||OML^O21^OML_O21|17|P|2.5.1 … 1C 0D
    ▶ 0B MSH|^~\&|||EHR|RIVERSIDE|…||ACK^O21^ACK|…|P|2.5.1 CR MSA|AA|17 CR 1C 0D

AE with a text is for content, and for a store that cannot be written: the sender keeps the message and sends it again. AR is
for what is read nowhere here. A sender that misses the answer sends again too, and that changes nothing.

Several senders may be connected. One thread serves them, because the store takes one order at a time anyway; so there is a
limit to everything: connections, the length of a message, the time it may take to arrive, and answers that nobody reads.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError

from ..config.address import Address
from ..hl7 import ack, mllp
from ..hl7.received import Refused, UnknownMessage
from . import order_messages
from .store.engine import StoreUnavailable, writing
from .verdict import Verdicts

_AWAY = (OperationalError, InterfaceError, ProgrammingError, StoreUnavailable)  # Programming…: its tables are not made yet
_CONNECTIONS = 32
_LARGEST = 1 << 20  # bytes of one message; an order has some thousand
_GARBAGE = 64 << 10  # bytes outside of any frame, after which the caller is no sender of messages
_ARRIVAL_SECONDS = 60.0  # from the first byte of a message to its last
_IDLE_SECONDS = 0.25  # a few wake-ups a second keep an idle port quiet and a stop prompt
_READ = 65536
_RETRY_SECONDS = (0.5, 10.0)
_WHO = "order feed"  # in the audit

log = structlog.get_logger("chartbound.orders")


@dataclass(slots=True)
class OrderDesk:
    """Takes one message into the store and says what to answer. `changed` is called after a commit that changed something."""

    engine: Engine
    verdicts: Verdicts
    changed: Callable[[], None]
    away: str = ""  # why the store cannot be written just now

    def answer(self, message: bytes) -> bytes:
        """The acknowledgment of this message, without framing. Nothing is raised, whatever the message."""
        try:
            with writing(self.engine) as conn:
                changed = order_messages.receive(conn, self.verdicts, _WHO, message, datetime.now(UTC))
        except Refused as problem:
            log.warning("an order message was refused", code=problem.code, where=problem.where, hint=problem.hint)
            return _ack(message, problem.code, str(problem), _condition(problem))
        except _AWAY as error:
            if not self.away:
                log.warning("orders cannot be taken while the store cannot be written; their senders are told to send again")
            self.away = type(error).__name__
            return _ack(message, "AE", "the store cannot be written just now; send again", "207")
        except Exception:
            # A bug of ours: the sender keeps the order, and a person sees the log.
            log.exception("an order message could not be worked on")
            return _ack(message, "AE", "an error of the receiver; see its log", "207")
        self.away = ""
        log.info("order message taken", specimens=changed)
        if changed:
            self.changed()
        return _ack(message, "AA")


def _ack(message: bytes, code: str, text: str = "", condition: str = "") -> bytes:
    number = secrets.token_hex(8).upper()
    return ack.build(message, code, at=datetime.now(UTC), control_id=number, text=text, condition=condition)


def _condition(problem: Refused) -> str:
    """Table 0357's code."""
    if isinstance(problem, UnknownMessage):
        return "200"
    if isinstance(problem, order_messages.LabelRefused):
        return "205"
    return "101" if problem.hint.startswith(("required", "no ")) else "102"


@dataclass(slots=True)
class _Caller:
    """One connection."""

    decoder: mllp.Decoder
    heard_at: float  # monotonic seconds
    began_at: float | None = None  # of the message that is arriving

    @property
    def is_nonsense(self) -> bool:
        return self.decoder.garbage > _GARBAGE or self.decoder.oversized > 0


@dataclass(slots=True)
class OrderListener:
    """The MLLP port of `[orders] listen`. `run` until `stop` is set; a port that is taken is tried again."""

    address: Address
    answer: Callable[[bytes], bytes]
    stop: threading.Event
    why: str = ""  # why nothing can be heard just now, for a person
    bound: int = 0  # the port number, once it listens
    listening: threading.Event = field(default_factory=threading.Event)
    _callers: dict[socket.socket, _Caller] = field(default_factory=dict)

    @property
    def connections(self) -> int:
        return len(self._callers)

    def run(self) -> None:
        delay = _RETRY_SECONDS[0]
        while not self.stop.is_set():
            try:
                family = socket.AF_INET6 if ":" in self.address.host else socket.AF_INET
                server = socket.create_server((self.address.host, self.address.port), family=family, backlog=_CONNECTIONS)
            except OSError as error:
                why = f"orders cannot be heard on {self.address.host}:{self.address.port}: {error.strerror or error}"
                if why != self.why:
                    log.warning("port unavailable", why=why, hint="does another program listen there?")
                self.why = why
                self.stop.wait(delay)
                delay = min(delay * 2, _RETRY_SECONDS[1])
                continue
            self.why = ""
            with server:
                self._serve(server)

    def _serve(self, server: socket.socket) -> None:
        server.setblocking(False)
        self.bound = server.getsockname()[1]
        self.listening.set()
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            try:
                while not self.stop.is_set():
                    for key, _ in selector.select(_IDLE_SECONDS):
                        wire = key.fileobj
                        assert isinstance(wire, socket.socket)  # noqa: S101 - nothing else is registered
                        if wire is server:
                            self._accept(server, selector)
                        elif wire in self._callers and not self._hear(wire):
                            self._drop(wire, selector)
                    self._drop_slow(selector)
            finally:
                self.listening.clear()
                for wire in list(self._callers):
                    self._drop(wire, selector)

    def _accept(self, server: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            wire, _ = server.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("a caller could not be heard", why=error.strerror or type(error).__name__)
            self.stop.wait(0.2)  # no more files may be open: the caller stays in the queue
            return
        if len(self._callers) >= _CONNECTIONS:  # of a sender that went without a word, the connection stays: the oldest goes
            log.warning("too many senders of orders at once; the one silent longest is hung up on", limit=_CONNECTIONS)
            self._drop(min(self._callers, key=lambda one: self._callers[one].heard_at), selector)
        wire.setblocking(False)
        with suppress(OSError):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._callers[wire] = _Caller(mllp.Decoder(_LARGEST), time.monotonic())
        selector.register(wire, selectors.EVENT_READ)

    def _hear(self, wire: socket.socket) -> bool:
        """Take what has come; False where the connection is over."""
        caller = self._callers[wire]
        try:
            data = wire.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            return False
        caller.heard_at = time.monotonic()
        try:
            for message in caller.decoder.receive_data(data):
                if self.stop.is_set():
                    return False
                caller.began_at = None
                framed = mllp.frame(self.answer(message))
                if wire.send(framed) < len(framed):
                    return False  # it does not read its answers; it will send again
        except OSError:  # BlockingIOError among it
            return False
        if caller.is_nonsense:
            log.warning("a caller of the order port was hung up on", why="what it sends is too long, or is no message")
            return False
        if not caller.decoder.inside:
            caller.began_at = None
        elif caller.began_at is None:
            caller.began_at = caller.heard_at
        return bool(data)

    def _drop_slow(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for wire, caller in list(self._callers.items()):
            if caller.began_at is not None and now - caller.began_at > _ARRIVAL_SECONDS:
                log.warning("a message on the order port did not arrive whole", seconds=_ARRIVAL_SECONDS)
                self._drop(wire, selector)

    def _drop(self, wire: socket.socket, selector: selectors.BaseSelector) -> None:
        selector.unregister(wire)
        del self._callers[wire]
        wire.close()
