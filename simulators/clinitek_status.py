"""A simulated CLINITEK Status: it prints a line for each test, of its own accord, with US dates and the 12-hour clock::

412,01-15-2026, 9:30AM,JD,12345,,,,,Multistix 10 SG,Yellow,Clear,GLU,Negative,,… CR
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..drivers.link import Event, Outgoing
from ..drivers.report import SampleKind
from .peer import SimulatedTest, Simulator

_USUAL = {
    "GLU": "Negative",
    "BIL": "Negative",
    "KET": "Negative",
    "SG": "1.020",
    "BLO": "Negative",
    "pH": "6.0",
    "PRO": "Negative",
    "URO": "0.2 E.U./dL",
    "NIT": "Negative",
    "LEU": "Negative",
}
_NORMAL = {"Negative", "0.2 E.U./dL", "1 E.U./dL"}
_NO_MARK = {"SG", "pH"}
_CHOICES: dict[str, tuple[str, ...]] = {
    "GLU": ("Negative", "Negative", "100 mg/dL", ">=1000 mg/dL"),
    "KET": ("Negative", "Negative", "Trace", "15 mg/dL"),
    "SG": ("<=1.005", "1.010", "1.015", "1.020", "1.025", ">=1.030"),
    "BLO": ("Negative", "Negative", "Trace-lysed", "Trace-intact", "Large"),
    "pH": ("5.0", "5.5", "6.0", "7.0", "8.0"),
    "PRO": ("Negative", "Negative", "Trace", "30 mg/dL"),
    "NIT": ("Negative", "Negative", "Positive"),
    "LEU": ("Negative", "Negative", "Trace", "Small", "Large"),
}


def line(test: SimulatedTest) -> bytes:
    """What the analyzer prints for this test."""
    hour = test.at.strftime("%I").lstrip("0")
    head = [
        str(test.sequence),
        test.at.strftime("%m-%d-%Y"),
        f"{hour:>2}{test.at.strftime(':%M%p')}",
        test.operator,
        test.specimen_id or test.patient_id or ("CONTROL-1" if test.kind is SampleKind.CONTROL else ""),
        *("", "", "", ""),
        "Multistix 10 SG",
    ]
    if test.kind is SampleKind.ERROR:
        return ",".join([*head, "", "", "E58"]).encode("latin-1") + b"\r"
    values: Mapping[str, str] = {**_USUAL, **test.values}
    pads = [f"{code:<3},{value},{_mark(code, value)}" for code, value in values.items()]
    return ",".join([*head, "Yellow", "Clear", *pads]).encode("latin-1") + b"\r"


def _mark(code: str, value: str) -> str:
    return "" if value in _NORMAL or code in _NO_MARK else "*"


@dataclass(slots=True)
class ClinitekPeer:
    """Sends one line after the other and hears nothing."""

    tests: Sequence[SimulatedTest]
    deadline: float | None = field(default=0.0, init=False)
    _sent: int = field(default=0, init=False)
    _out: list[Outgoing] = field(default_factory=list, init=False)

    @property
    def done(self) -> bool:
        """Every line is sent."""
        return self._sent == len(self.tests) and not self._out

    def receive_data(self, data: bytes, now: float) -> list[Event]:  # noqa: ARG002 - it has no ears
        """Nothing that is said to it matters."""
        return []

    def handle_timeout(self, now: float) -> list[Event]:
        """Print the next line."""
        if self.deadline is not None and now >= self.deadline and self._sent < len(self.tests):
            self._out.append(Outgoing(line(self.tests[self._sent])))
            self._sent += 1
        self.deadline = now if self._sent < len(self.tests) else None
        return []

    def data_to_send(self) -> list[Outgoing]:
        """The lines that are due."""
        out, self._out = self._out, []
        return out


def _peer(tests: Sequence[SimulatedTest], clock: datetime) -> ClinitekPeer:  # noqa: ARG001 - its lines carry no clock
    return ClinitekPeer(tests)


def samples(count: int, at: datetime, rng: random.Random) -> list[SimulatedTest]:
    """Plausible tests, one a minute, the last at `at`."""
    return [
        SimulatedTest(
            at=at - timedelta(minutes=count - 1 - number),
            values={code: rng.choice(choices) for code, choices in _CHOICES.items()},
            sequence=number + 1,
            specimen_id=f"S{rng.randrange(10**6):06d}",
            operator="JD",
        )
        for number in range(count)
    ]


SIMULATOR = Simulator(driver="clinitek_status", peer=_peer, samples=samples)
