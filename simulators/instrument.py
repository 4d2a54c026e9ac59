"""Runs a simulated instrument on a real wire: a pseudo-terminal, a TCP connection or a serial port.

It waits until the host has its end open, says what it has to say, and starts anew after an unplugged cable.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from ..drivers import driver as drivers
from .faults import CLOCK_ERROR, Fault, FaultyWire, Pause, Send, Unplug
from .peer import Peer, SimulatedTest, Simulator
from .wires import Wire, open_wire

_BREATH = 0.2  # seconds between two looks at whether to stop
_DRAIN = 10.0  # seconds that a host is given to read the last bytes


def run(
    simulator: Simulator,
    port: str,
    tests: Sequence[SimulatedTest],
    *,
    clock: datetime,
    fault: Fault | None = None,
    times: int = 1,
    seed: int = 0,
    every: float = 0.0,
    keep: bool = False,
    opened: Callable[[str], None] = lambda _name: None,
    stop: threading.Event | None = None,
) -> bool:
    """Report these tests on this port; True if all were reported.

    `clock` is the instrument's local time now. `fault` happens `times` times. With `every` a test is run each so many
    seconds, else all stand ready at the start. `keep`: it stays on the wire afterwards, as a docked meter does, until `stop`.
    `opened` is told the name that the host must open. Raises what `open_wire` raises.
    """
    if fault is Fault.WRONG_CLOCK:
        clock += CLOCK_ERROR
        tests = [dataclasses.replace(test, at=test.at + CLOCK_ERROR) for test in tests]
    told = drivers.find(simulator.driver)
    wire = open_wire(port, told.serial.baud)
    try:
        opened(wire.name)
        bench = _Bench(simulator, tests, clock, every, memory=told.memory)
        talk = _Talk(wire, bench, FaultyWire(fault, times, seed), stop or threading.Event())
        while not talk.stop.is_set() and not (bench.all_said and not keep):
            if wire.connect(_BREATH) and not talk.until_gone(keep=keep) and not bench.all_said:
                bench.again()
        return bench.all_said
    finally:
        wire.close()


class _Bench:
    """Hands out the instrument as it stands: with the tests run so far, kept in its memory or still to be said."""

    def __init__(
        self, simulator: Simulator, tests: Sequence[SimulatedTest], clock: datetime, every: float, *, memory: bool
    ) -> None:
        self._simulator = simulator
        self._tests = tests
        self._clock = clock
        self._every = every
        self._memory = memory
        self._began = time.monotonic()
        self._run = min(len(tests), 1) if every else len(tests)
        self._said = 0  # tests that the instruments before this one have reported
        self.again()

    @property
    def all_said(self) -> bool:
        return self.peer.done and self._run == len(self._tests)

    def advance(self) -> None:
        """Run the next test when it is due and the ones before are said."""
        due = self._began + self._every * self._run
        if self._run < len(self._tests) and self.peer.done and time.monotonic() >= due:
            self._said = self._run
            self._run += 1
            self.again()

    def again(self) -> None:
        """The same instrument at the start of a conversation: after a test, or after its cable was put back."""
        first = 0 if self._memory else self._said
        clock = self._clock + timedelta(seconds=time.monotonic() - self._began)
        self.peer: Peer = self._simulator.peer(self._tests[first : self._run], clock)


@dataclasses.dataclass(slots=True)
class _Talk:
    wire: Wire
    bench: _Bench
    faults: FaultyWire
    stop: threading.Event

    def until_gone(self, *, keep: bool) -> bool:
        """Talk until the host is gone (False), or all is said (True) unless the instrument stays."""
        while not self.stop.is_set():
            self.bench.advance()
            peer = self.bench.peer
            if peer.deadline is not None and time.monotonic() >= peer.deadline:
                peer.handle_timeout(time.monotonic())
            if not self._speak(peer):
                return False
            patience = _BREATH if peer.deadline is None else min(_BREATH, max(0.0, peer.deadline - time.monotonic()))
            heard = self.wire.read(patience)
            if heard is None:
                peer.receive_data(b"", time.monotonic())
                return False
            if heard := self.faults.to_instrument(heard):
                peer.receive_data(heard, time.monotonic())
            elif (held := self.faults.at_rest()) and not self.wire.write(held):
                return False
            if self.bench.all_said and not keep and not self.faults.holding:
                self.wire.drain(_DRAIN)
                return True
        return True

    def _speak(self, peer: Peer) -> bool:
        for out in peer.data_to_send():
            for deed in self.faults.to_host(out.data):
                match deed:
                    case Send(data):
                        if not self.wire.write(data):
                            return False
                    case Pause(seconds):
                        self.stop.wait(seconds)
                    case Unplug():
                        self.wire.hang_up()
                        return False
        return True
