"""A clinic whose order port is open, for the tests: orders go over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from chartbound.agent.order_listener import OrderDesk, OrderListener
from chartbound.agent.store import specimens
from chartbound.agent.store.engine import reading
from chartbound.agent.store.specimens import Registered
from chartbound.config.address import Address
from chartbound.hl7 import ack, mllp
from chartbound.hl7.chart import Patient
from chartbound.simulators.orders import Order, OrderFeed

from .clinic import ANA, NINE, Clinic

ORDERS = '\n[orders]\nlisten = "127.0.0.1:0"\nfolder = "drop/orders"\n'
A1C = "4548-4"


@dataclass
class Feed:
    """A clinic whose order port is open."""

    clinic: Clinic
    listener: OrderListener
    woken: list[str]

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.listener.bound)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address.host, self.address.port), timeout=20)

    def send(self, message: bytes) -> ack.Ack:
        with OrderFeed(self.address, timeout=20) as feed:
            return feed.send(message)

    def exchange(self, message: bytes) -> bytes:
        """The frame that comes back."""
        with self.connect() as wire:
            wire.sendall(mllp.frame(message))
            return wire.recv(65536)

    def specimen(self, label: str) -> Registered:
        with reading(self.clinic.engine) as conn:
            found = specimens.by_label(conn, label)
        assert found
        return found

    def labels(self) -> list[str]:
        with reading(self.clinic.engine) as conn:
            return [one.specimen.specimen_id for one in specimens.listed(conn)]


@contextmanager
def listening(clinic: Clinic) -> Iterator[Feed]:
    stop = threading.Event()
    woken: list[str] = []
    desk = OrderDesk(clinic.engine, clinic.verdicts, lambda: woken.append("senders"))
    listener = OrderListener(Address("127.0.0.1", 0), desk.answer, stop)
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        assert listener.listening.wait(10)
        yield Feed(clinic, listener, woken)
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def order(label: str = "S-1", patient: Patient = ANA, number: str = "P-1", tests: tuple[str, ...] = (A1C,)) -> Order:
    return Order(number, label, replace(patient, authority=""), tests, NINE, authority="")
