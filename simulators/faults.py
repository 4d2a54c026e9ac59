"""What goes wrong on the way from an instrument to its host, on request, the same way each time, and never for ever.

Faults of the wire change the bytes between an instrument that behaves and its host. A wrong clock is the instrument's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

_ACK = b"\x06"
CLOCK_ERROR = timedelta(minutes=63)  # an hour of summer time and a little drift


class Fault(StrEnum):
    """The faults by name, as on the command line."""

    BAD_CHECKSUM = "bad-checksum"  # one bit of what the instrument said is turned over
    LOST_ACK = "lost-ack"  # an ACK of the host never arrives
    SPLIT = "split"  # what was said at once arrives in pieces
    MERGE = "merge"  # what was said twice arrives at once
    NOISE = "noise"  # bytes that nobody said
    STALL = "stall"  # silence in the middle
    UNPLUG = "unplug"  # the cable is pulled in the middle, and put back
    DUPLICATE = "duplicate"  # what was said once arrives twice
    WRONG_CLOCK = "wrong-clock"  # the instrument's clock is 63 minutes fast


@dataclass(frozen=True, slots=True)
class Send:
    """These bytes reach the host."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing reaches it for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Unplug:
    """The connection breaks; what the instrument says next needs a new one."""


Deed = Send | Pause | Unplug


@dataclass(slots=True)
class FaultyWire:
    """Turns what each end says into what the other end hears, `times` times wrongly and rightly after that."""

    fault: Fault | None = None
    times: int = 1
    seed: int = 0
    stall_seconds: float = 3.0
    _held: bytes = field(default=b"", init=False)
    _rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)  # noqa: S311 - repeatable on purpose

    def to_host(self, data: bytes) -> list[Deed]:
        """What becomes of bytes from the instrument."""
        data, self._held = self._held + data, b""
        harm = _HARMS.get(self.fault) if self.fault else None
        if harm is None or self.times <= 0 or not (deeds := harm(self, data)):
            return [Send(data)] if data else []
        self.times -= 1
        return deeds

    def to_instrument(self, data: bytes) -> bytes:
        """What becomes of bytes from the host."""
        if self.fault is Fault.LOST_ACK and self.times > 0 and _ACK in data:
            self.times -= 1
            return data.replace(_ACK, b"", 1)
        return data

    @property
    def holding(self) -> bool:
        """Something is held back to be merged with what follows."""
        return bool(self._held)

    def at_rest(self) -> bytes:
        """What was held back to be merged and had nothing following it."""
        held, self._held = self._held, b""
        return held

    def _flip(self, data: bytes) -> list[Deed]:
        printable = [at for at, byte in enumerate(data) if 0x30 <= byte < 0x7F]
        if len(data) < 8 or not printable:
            return []
        at = self._rng.choice(printable)
        return [Send(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])]

    def _split(self, data: bytes) -> list[Deed]:
        if len(data) < 2:
            return []
        cuts = sorted(self._rng.sample(range(1, len(data)), k=min(3, len(data) - 1)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [deed for piece in pieces for deed in (Send(piece), Pause(0.02))]

    def _merge(self, data: bytes) -> list[Deed]:
        self._held = data
        return [Pause(0.0)]

    def _noise(self, data: bytes) -> list[Deed]:
        return [Send(bytes(self._rng.randrange(0x80, 0x100) for _ in range(5)) + data)]

    def _stall(self, data: bytes) -> list[Deed]:
        half = len(data) // 2
        return [Send(data[:half]), Pause(self.stall_seconds), Send(data[half:])] if half else []

    def _unplug(self, data: bytes) -> list[Deed]:
        half = len(data) // 2
        return [Send(data[:half]), Unplug()] if half else []

    def _duplicate(self, data: bytes) -> list[Deed]:
        return [Send(data), Send(data)] if len(data) >= 8 else []


_HARMS: dict[Fault, Callable[[FaultyWire, bytes], list[Deed]]] = {
    Fault.BAD_CHECKSUM: FaultyWire._flip,
    Fault.SPLIT: FaultyWire._split,
    Fault.MERGE: FaultyWire._merge,
    Fault.NOISE: FaultyWire._noise,
    Fault.STALL: FaultyWire._stall,
    Fault.UNPLUG: FaultyWire._unplug,
    Fault.DUPLICATE: FaultyWire._duplicate,
}
