"""A simulated DCA Vantage: it reports each run of its own accord, the whole message in one frame."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from ..drivers.lis1a import Sender
from ..drivers.report import SampleKind
from .peer import SimulatedTest, Simulator

SERIAL_NUMBER = "S012345"
_USUAL = {"HbA1c": "6.1"}
_UNITS = {"HbA1c": "%", "Alb": "mg/L", "Crt": "mg/dL", "Ratio": "mg/g"}
_COMMENTS = {"HbA1c": "1.000^0.0 %^NGSP", "Alb": "1.000^0.0 mg/L", "Crt": "1.000^0.0 mg/dL"}


def message(test: SimulatedTest, clock: datetime) -> list[bytes]:
    """The records of one run. An error run has no result; a kind the instrument cannot name is sent as a service mode run."""
    plain = test.kind in (SampleKind.PATIENT, SampleKind.CONTROL, SampleKind.ERROR)
    action = "Q" if test.kind is SampleKind.CONTROL else ""
    name = f"{_text(test.last_name)}^{_text(test.first_name)}" if test.last_name or test.first_name else ""
    records = [
        rf"H|\^&|||DCA VANTAGE^04.04.00.00^{SERIAL_NUMBER}|||||||{'P' if plain else 'D'}||{clock:%Y%m%d%H%M%S}",
        f"P|1|{_text(test.specimen_id or test.patient_id)}|||{name}",
        f"O|1||{test.sequence:03d}^0090||||||||{action}||||||||||||||F",
    ]
    if test.kind is SampleKind.ERROR:
        records.append("C|1|I|ERROR 3-61|G")
    else:
        for number, (code, stated) in enumerate((test.values or _USUAL).items(), 1):
            value, flag = (stated[1:], stated[0]) if stated[:1] in ("<", ">") else (stated, "")
            unit = _UNITS.get(code, "")
            records.append(f"R|{number}|^^^{code}|{value}|{unit}||{flag}||F||{_text(test.operator)}|{test.at:%Y%m%d%H%M%S}")
            if code in _COMMENTS:
                records.append(f"C|1|I|{_COMMENTS[code]}|G")
    records.append("L|1|N")
    return [record.encode("latin-1", "replace") for record in records]


def _text(text: str) -> str:
    """A text that may hold delimiters, escaped."""
    return text.translate({ord("&"): "&E&", ord("|"): "&F&", ord("^"): "&S&", ord("\\"): "&R&"})


def peer(tests: Sequence[SimulatedTest], clock: datetime) -> Sender:
    """The instrument that reports these tests, each as one transmission."""
    return Sender([message(test, clock) for test in tests], one_frame=True)


def samples(count: int, at: datetime, rng: random.Random) -> list[SimulatedTest]:
    """Plausible HbA1c runs, one a minute, the last one at `at`."""
    return [
        SimulatedTest(
            at=at - timedelta(minutes=count - 1 - index),
            values={"HbA1c": f"{rng.uniform(4.6, 11.5):.1f}"},
            sequence=index % 999 + 1,
        )
        for index in range(count)
    ]


SIMULATOR = Simulator(driver="dca_vantage", peer=peer, samples=samples)
