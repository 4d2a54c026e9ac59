"""What every simulated instrument is made of: the tests it is told to run and the pure machine that reports them.

A peer has the shape of a `Link` (see drivers/link.py) and is joined to the real link in the tests, in memory and on real
pseudo-terminals and sockets. One file an instrument, with one `SIMULATOR`.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from ..drivers.link import Link
from ..drivers.report import SampleKind


@dataclass(frozen=True, slots=True)
class SimulatedTest:
    """One test that the simulated instrument runs; `values` by the instrument's own codes, as it would state them."""

    at: datetime  # naive: the instrument's local clock
    values: Mapping[str, str] = field(default_factory=dict)  # {} : the instrument's usual values
    kind: SampleKind = SampleKind.PATIENT
    specimen_id: str = ""
    patient_id: str = ""
    last_name: str = ""
    first_name: str = ""
    birth_date: str = ""  # YYYY-MM-DD
    operator: str = ""
    sequence: int = 1


class Peer(Link, Protocol):
    """An instrument's side of the conversation. `done`: it has said everything that it had to say."""

    @property
    def done(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Simulator:
    """A simulated instrument: the peer of the driver of the same name.

    `peer(tests, clock)` makes the machine that reports these tests, in order, when it is asked or of its own accord;
    `clock` is the instrument's local time at the start. `samples(count, at, rng)` makes plausible tests, one a minute
    ending at `at`.
    """

    driver: str
    peer: Callable[[Sequence[SimulatedTest], datetime], Peer]
    samples: Callable[[int, datetime, random.Random], list[SimulatedTest]]


def find(driver: str) -> Simulator:
    """The simulator of this driver. Raises LookupError where there is none."""
    try:
        module = importlib.import_module(f"{__name__.rpartition('.')[0]}.{driver}")
        simulator = module.SIMULATOR
    except (ModuleNotFoundError, AttributeError) as missing:
        message = f"there is no simulator of {driver}"
        raise LookupError(message) from missing
    assert isinstance(simulator, Simulator)  # noqa: S101 - a simulator file of ours that says otherwise is a bug
    return simulator
