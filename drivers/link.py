"""A link is what is said on the wire below the results: frames, checksums, acknowledgments, timers.

Every link is a pure machine, as in h11: bytes in, events out, bytes to send; time is an argument. It does no I/O, keeps no
thread, writes no log, and its buffers are bounded. Fed one byte at a time it gives the same events as fed whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Unit:
    """What the instrument may presume saved at once, whole and checked: the bytes that a driver's `parse` reads."""

    data: bytes
    ago: float = field(
        default=0.0, compare=False
    )  # seconds since the instrument told its clock: a memory takes a minute to read


@dataclass(frozen=True, slots=True)
class Incomplete:
    """What was heard after the last storage point of a transmission that then died. Kept and shown; never a result."""

    data: bytes
    why: str  # for a person: "the line was silent for 30 s after frame 4"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A meter's memory was read and says exactly what it said at the last reading."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The instrument or the wire misbehaved and the link dealt with it (a NAK, noise, an abandoned attempt). Counted."""

    what: str  # a slug to count by: "bad_checksum", "noise", "no_answer"
    detail: str = ""  # for a person; holds no text of a record, because it is logged


Event = Unit | Incomplete | Unchanged | Trouble


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Bytes for the wire. Those marked wait until every unit that the link has given so far is in the journal (sync ①)."""

    data: bytes
    after_sync: bool = False


class Link(Protocol):
    """The one shape of every link, and of every simulated instrument that is a link's peer.

    `deadline` is in monotonic seconds; None: no timer runs. A link that speaks first starts with a deadline of 0.0, so that
    its first `handle_timeout` is due at once. `receive_data(b"")` says that the line is closed. Bytes from `data_to_send`
    are sent in order, so one that waits for the journal holds back those behind it.
    """

    deadline: float | None

    def receive_data(self, data: bytes, now: float) -> list[Event]: ...
    def handle_timeout(self, now: float) -> list[Event]: ...
    def data_to_send(self) -> list[Outgoing]: ...
