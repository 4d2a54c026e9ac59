"""A simulated Contour meter on its data cable: each time it is woken it sends its whole memory, oldest reading first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from ..drivers.link import Event, Outgoing
from ..drivers.lis1a import EOT, Sender
from ..drivers.report import SampleKind
from .peer import SimulatedTest, Simulator

SERIAL_NUMBER = "7150-1234567"
_USUAL = "112"
_MEASURES = (20, 600)  # mg/dL


def message(tests: Sequence[SimulatedTest], clock: datetime) -> list[bytes]:
    """The records of the memory: the header, the stored average, then the readings."""
    readings = [test.values.get("Glucose", _USUAL) for test in tests]
    numbers = [float(reading.strip("<>")) for reading in readings] or [0.0]
    records = [
        rf"H|\^&||-7880|Bayer7150^01.05\01.00^{SERIAL_NUMBER}|||||||P|1|{clock:%Y%m%d%H%M}",
        "P|1",
        f"R|1|^^^Glucose|{sum(numbers) / len(numbers):.0f}|mg/dL^P||||||",
    ]
    for number, (test, reading) in enumerate(zip(tests, readings, strict=True), 2):
        value, flag = _as_stored(reading)
        control = "E" if test.kind is SampleKind.CONTROL else ""
        records.append(f"R|{number}|^^^Glucose|{value}|mg/dL^P||{flag}||{control}|||{test.at:%Y%m%d%H%M}")
    records.append("L|1|N")
    return [record.encode("latin-1") for record in records]


def _as_stored(reading: str) -> tuple[str, str]:
    """The value and R.7: out of range is one beyond the last number that the meter measures."""
    low, high = _MEASURES
    if reading.startswith(">") or float(reading.strip("<>")) > high:
        return str(high + 1), ">"
    if reading.startswith("<") or float(reading) < low:
        return str(low - 1), "<"
    return reading, ""


class Meter:
    """The meter's side of the conversation; `done` once its memory was taken whole."""

    def __init__(self, tests: Sequence[SimulatedTest], clock: datetime) -> None:
        self.deadline: float | None = None
        self.done = False
        self._records = message(tests, clock)
        self._sender: Sender | None = None
        self._out: list[Outgoing] = []

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """An EOT wakes the resting meter; the rest are replies."""
        events: list[Event] = []
        if self._sender is None:
            if EOT in data:
                self._out.append(Outgoing(EOT))
                self._sender = Sender([self._records], etb_between=True, attempts=1)
                events += self._sender.handle_timeout(now)
        else:
            events += self._sender.receive_data(data, now)
        self._settle()
        return events

    def handle_timeout(self, now: float) -> list[Event]:
        """The sender's timers."""
        events = self._sender.handle_timeout(now) if self._sender is not None else []
        self._settle()
        return events

    def data_to_send(self) -> list[Outgoing]:
        """What is on its way to the host since the last call."""
        out, self._out = self._out, []
        return out

    def _settle(self) -> None:
        if self._sender is None:
            return
        self._out += self._sender.data_to_send()
        self.deadline = self._sender.deadline
        if self._sender.done:
            self.done = self.done or not self._sender.failed
            self._sender = None


def peer(tests: Sequence[SimulatedTest], clock: datetime) -> Meter:
    """The meter whose memory holds these tests."""
    return Meter(tests, clock)


def samples(count: int, at: datetime, rng: random.Random) -> list[SimulatedTest]:
    """Plausible glucose readings, one a minute, the last one at `at`."""
    return [
        SimulatedTest(
            at=at - timedelta(minutes=count - 1 - index),
            values={"Glucose": str(rng.randint(62, 284))},
            sequence=index + 1,
        )
        for index in range(count)
    ]


SIMULATOR = Simulator(driver="contour", peer=peer, samples=samples)
