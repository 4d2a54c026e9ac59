r"""A simulated OneTouch Ultra2, docked on its cable: silent until asked, then it tells its whole memory, the newest first::

> DC1 CR DM@ CR
< @ "SIM123DEY" 0305 CR LF
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..drivers.link import Event, Outgoing
from ..drivers.report import SampleKind
from .peer import SimulatedTest, Simulator

SERIAL_NUMBER = "SIM123DEY"
_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


@dataclass(slots=True)
class UltraPeer:
    """Answers commands. `erased` and `clock_set` tell what no host of ours may ever ask for."""

    tests: Sequence[SimulatedTest]
    clock: datetime
    serial_number: str = SERIAL_NUMBER
    deadline: float | None = field(default=None, init=False)
    erased: bool = field(default=False, init=False)
    clock_set: bool = field(default=False, init=False)
    _dumps: int = field(default=0, init=False)
    _began: float | None = field(default=None, init=False)
    _heard: bytearray = field(default_factory=bytearray, init=False)
    _out: list[Outgoing] = field(default_factory=list, init=False)

    @property
    def done(self) -> bool:
        """Its memory has been told at least once."""
        return self._dumps > 0 and not self._out

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Answer every command that is whole; b"" says that the cable was pulled."""
        self._began = now if self._began is None else self._began
        self._heard = (self._heard + data)[-64:]
        while b"\r" in self._heard:
            command, _, rest = self._heard.partition(b"\r")
            self._heard = bytearray(rest)
            self._out += [Outgoing(_line(text)) for text in self._answer(command.lstrip(b"\x11").decode("latin-1"), now)]
        return []

    def handle_timeout(self, now: float) -> list[Event]:  # noqa: ARG002 - it has no timers
        """Nothing: it only answers."""
        return []

    def data_to_send(self) -> list[Outgoing]:
        """The answers, a line each."""
        out, self._out = self._out, []
        return out

    def _answer(self, command: str, now: float) -> list[str]:
        match command:
            case "DM?":
                return ["?P02.00.00 30/08/06"]
            case "DM@":
                return [f'@ "{self.serial_number}"']
            case "DMF":
                return [f"F {_moment(self.clock + timedelta(seconds=now - (self._began or now)))}"]
            case "DMSU?":
                return ['SU?,"MG/DL "']
            case "DMP":
                self._dumps += 1
                return [f'P {len(self.tests):03d},"{self.serial_number}","MG/DL "', *map(_record, reversed(self.tests))]
            case "DMZ":
                self.erased = True
            case _ if command.startswith("DMT"):
                self.clock_set = True
        return []


def _moment(at: datetime) -> str:
    return f'"{_DAYS[at.weekday()]}","{at:%m/%d/%y}","{at:%H:%M:%S}   "'


def _record(test: SimulatedTest) -> str:
    value = test.values.get("GLU", "112")
    number = {"HI": 601, "LO": 19}.get(value) or int(value)  # HI and LO as the meter's display has them
    mark = "C" if test.kind is SampleKind.CONTROL else " "
    meal, comment = test.values.get("meal", "N"), test.values.get("comment", "00")
    return f'P {_moment(test.at)},"{mark} {number:03d} ","{meal}","{comment}", 00'


def _line(text: str) -> bytes:
    data = text.encode("latin-1")
    return data + b" %04X\r\n" % (sum(data) & 0xFFFF)


def samples(count: int, at: datetime, rng: random.Random) -> list[SimulatedTest]:
    """Plausible readings, one a minute, the last at `at`."""
    return [
        SimulatedTest(
            at=at - timedelta(minutes=count - 1 - number),
            values={"GLU": str(rng.randrange(65, 290))},
            sequence=number + 1,
        )
        for number in range(count)
    ]


SIMULATOR = Simulator(driver="onetouch_ultra2", peer=UltraPeer, samples=samples)
