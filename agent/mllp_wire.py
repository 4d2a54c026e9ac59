"""One TCP connection to a receiver of HL7 messages: a message goes out, and its own acknowledgment comes back.

An answer counts only if it was read after the message was sent and its MSA-2 is the message's MSH-10; it may come in pieces,
or with others. When it does not come in time the connection is closed before anything else is done, so that a late one
can never be taken for the next message's.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from ..hl7 import ack as acks
from ..hl7 import mllp
from ..hl7.profile import Profile

if TYPE_CHECKING:
    from ..config import site

log = structlog.get_logger("chartbound.delivery")

_CONNECT_SECONDS = 4.0  # less than the 5 s in which the agent stops
_LAST_WAIT = 2.0  # for the answer to a message that is on the wire when the agent stops
_SLICE = 0.25  # how often a wait looks whether the agent stops
_READ = 65536
_STALE_READS = 16


class Unreachable(Exception):
    """Nothing of the message was sent. The text says why, for a person."""


class Unanswered(Exception):
    """The message, or part of it, was sent and no answer to it came: it may have arrived. The connection is closed."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. Without `ca` the system's authorities vouch for the receiver; `certificate` and `key` are our own."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Destination:
    """Where messages go: one of the site file's `[[destinations]]`, with its EHR's profile."""

    name: str
    host: str
    port: int
    ack_timeout: float = 30.0  # seconds
    retry: tuple[float, float] = (1.0, 60.0)  # first and longest wait between attempts, seconds
    tls: Tls | None = None
    profile: Profile = field(default_factory=Profile)

    @classmethod
    def of(cls, said: site.Destination) -> Destination:
        """The destination as the site file has it."""
        tls = Tls(said.tls.ca, said.tls.certificate, said.tls.key) if said.tls else None
        return cls(said.name, said.host, said.port, said.ack_timeout_seconds, said.retry_seconds, tls, said.loaded)

    @property
    def longest_exchange(self) -> float:
        """Seconds from the first look at a message to the end of its attempt, at the worst."""
        answers = 2 if self._awaits_filing else 1
        return 2 * _CONNECT_SECONDS + (1 + answers) * self.ack_timeout

    @property
    def _awaits_filing(self) -> bool:
        return self.profile.acknowledgment == "enhanced" or self.profile.ack_means == "filed"


class Wire:
    """The connection to one destination; it is opened when there is something to send and kept by the profile."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._socket: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self.ignored = 0  # answers that were for another message, unreadable, or not waited for

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(
        self, message: bytes, control_id: str, stop: threading.Event, meanwhile: Callable[[], None] = lambda: None
    ) -> acks.Ack:
        """Send one message and return the answer to it; while that is awaited, do `meanwhile` now and then.

        A CA is returned only where no application answer is agreed, or none followed. Raises `Unreachable` where nothing
        was sent, `Unanswered` where no answer came, ValueError for a message that no frame can hold. When `stop` is set the
        answer is awaited 2 s more.
        """
        framed = mllp.frame(message)
        wire = self._ready()
        try:
            wire.settimeout(self._destination.ack_timeout)
            wire.sendall(framed)
            answer = self._answer(wire, control_id, stop, meanwhile)
        except (OSError, Unanswered) as lost:
            self.close()
            why = str(lost) if isinstance(lost, Unanswered) else f"the connection was lost: {_reason(lost)}"
            raise Unanswered(why) from None
        if self._destination.profile.connection == "per_message":
            self.close()
        return answer

    def _ready(self) -> socket.socket:
        """A connection that the receiver has not closed meanwhile, with nothing left to read on it."""
        if self._socket is not None:
            try:
                if self._discard(self._socket):
                    return self._socket
            except OSError:
                pass
            self.close()
        self._socket = self._connect()
        return self._socket

    def _discard(self, wire: socket.socket) -> bool:
        """Read away what came unasked: an answer from before the message counts for nothing. False: it must be closed."""
        wire.settimeout(0)
        for _ in range(_STALE_READS):
            try:
                if not wire.recv(_READ):
                    return False
            except (BlockingIOError, ssl.SSLWantReadError):
                return True
            self._ignore("it came unasked")
        return False

    def _connect(self) -> socket.socket:
        there = self._destination
        try:
            wire = socket.create_connection((there.host, there.port), timeout=_CONNECT_SECONDS)
        except (OSError, UnicodeError) as error:
            problem = f"no connection to {there.host}:{there.port}: {_reason(error)}"
            raise Unreachable(problem) from None
        try:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if there.tls is None:
                return wire
            self._context = self._context or there.tls.context()
            return self._context.wrap_socket(wire, server_hostname=there.host)
        except (OSError, ValueError) as error:
            wire.close()
            problem = f"no TLS with {there.host}:{there.port}: {_reason(error)}"
            raise Unreachable(problem) from None

    def _answer(self, wire: socket.socket, control_id: str, stop: threading.Event, meanwhile: Callable[[], None]) -> acks.Ack:
        decoder = mllp.Decoder(acks.MAX_ACK_SIZE)
        received: acks.Ack | None = None  # CA: received and safe, whatever comes after
        deadline = time.monotonic() + self._destination.ack_timeout
        stopping = False
        while (left := deadline - time.monotonic()) > 0:
            if stop.is_set() and not stopping:
                stopping = True
                deadline = min(deadline, time.monotonic() + _LAST_WAIT)
            wire.settimeout(min(left, _SLICE))
            try:
                data = wire.recv(_READ)
            except TimeoutError:
                meanwhile()
                continue
            except OSError:
                if received:
                    break
                raise
            if not data:
                break
            answers = self._own(decoder.receive_data(data), control_id)
            for position, answer in enumerate(answers):
                if answer.code != "CA" or not self._destination._awaits_filing:
                    self.ignored += len(answers) - position - 1
                    return answer
                received = answer
                deadline = time.monotonic() + self._destination.ack_timeout
        if left > 0:
            ended = "the receiver hung up"
        else:
            ended = "the agent stopped" if stopping else f"no answer in {self._destination.ack_timeout:g} s"
        if received is None:
            raise Unanswered(ended)
        self.close()
        return replace(received, text=f"received and safe, but no word of its filing: {ended}")

    def _own(self, messages: list[bytes], control_id: str) -> list[acks.Ack]:
        own: list[acks.Ack] = []
        for message in messages:
            try:
                answer = acks.read(message, self._destination.profile.codec)
            except acks.UnreadableAck:
                self._ignore("it is unreadable")
                continue
            if answer.control_id == control_id:
                own.append(answer)
            else:
                self._ignore("it is for another message")
        return own

    def _ignore(self, why: str) -> None:
        self.ignored += 1
        log.warning("an answer was ignored", destination=self._destination.name, why=why)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
