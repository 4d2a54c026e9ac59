r"""Bayer / Ascensia Contour glucose meters with a serial cable (7150, 7160, 7220).

    > EOT                                                                           the agent wakes the meter
    < EOT ENQ
    > ACK
    < STX 1H|\^&||pw|Bayer7150^01.05\01.00^7150-1234567|||||||P|1|202601150940 CR ETB hh CR LF
    < STX 4R|2|^^^Glucose|112|mg/dL^P|||B||||202601150930 CR ETB hh CR LF           a reading, before a meal
    < STX 5L|1|N CR ETX 08 CR LF

Set-up: the maker's data cable (a USB adapter or 9600 8N1), the meter switched on by the cable. The meter sends its whole memory
whenever it is woken, and keeps it: it is read again every `poll_seconds` while docked, and nothing in it is ever changed.
It carries no patient or specimen id: its readings are filed by claim.

The first result record is the meter's stored average, not a reading, and is left out, as one public uploader does; another
public reader leaves out none. Where a meter of yours sends no average, set `first_record = "reading"`.
HI is sent as 601 with `>`, LO as 19 with `<` (meters that measure 20 to 600 mg/dL): they are reported as >600 and <20, and
what was sent is kept. Control tests say `E` in R.9; `Q` in O.12 and `C` in R.7, seen on the 7390, are taken as controls too.
The clock shows minutes. Readings are named by serial number, time, test and, among equals, their place counted from the oldest;
the order of the memory is told from its own times, oldest first where they do not tell.

Sources: two public uploaders for these meters and one captured header. Thin: the average, and the meaning of `T` in R.7
(temperature), which rest on one source or on memory. The Contour Next and USB meters (HID) have another link.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from datetime import datetime, timedelta
from typing import Literal

from .driver import Contact, Driver, Evidence, Options, UnreadableReport
from .link import Event, Link, Outgoing, Unchanged, Unit
from .lis1a import EOT, Receiver
from .lis2a import Record, timestamp
from .lis2a import parse as parse_records
from .report import Observation, Report, SampleKind

_MODELS = re.compile(r"(?:Bayer|Contour)(7150|7160|7220|7390)")
_REFERENCES = {"B": "referenced to whole blood", "P": "referenced to plasma", "C": "referenced to capillary blood"}
_MARKS = {"B": "before a meal", "A": "after a meal", "D": "marked for the logbook"}
_SENTINELS = {("601", ">", "mg/dL"): "600", ("19", "<", "mg/dL"): "20"}  # HI and LO of meters that measure 20 to 600 mg/dL


class ContourOptions(Options):
    """What differs between meters and is not said in their messages."""

    first_record: Literal["average", "reading"] = "average"  # what the first result record of the memory is


def parse(unit: bytes, options: ContourOptions) -> list[Report]:
    """One report for each reading in the memory, oldest first.

    A reading whose clock was not set has no time. Raises `UnreadableReport` where the header is not of these meters.
    """
    message = parse_records(unit)
    header = message.header
    model = header.component(5, 1)
    if not _MODELS.fullmatch(model):
        raise UnreadableReport(
            "record 1 (H), field 5", f"a Contour (Bayer7150, 7160, 7220) is due on this port, and this is {model[:40]!r}"
        )
    serial_number = header.component(5, 3)
    clock = timestamp(header.field(14))
    results = [(order.order, record) for order in message.orders() for record in order.results]
    if options.first_record == "average":
        results = results[1:]
    if _newest_first([_said_at(record) for _, record in results]):
        results.reverse()
    seen: Counter[tuple[str, str]] = Counter()
    reports = []
    for order, record in results:
        said_at, code = _said_at(record), record.component(3, 4)
        ordinal = seen[said_at, code]
        seen[said_at, code] += 1
        time = timestamp(said_at)
        reports.append(
            Report(
                kind=_kind(header, order, record),
                observations=_observations(record),
                observed_at=time[0] if time else None,
                precision=time[1] if time else timedelta(minutes=1),
                clock=clock[0] if clock else None,
                identity=(serial_number, said_at, code, str(ordinal)) if serial_number else (),
                model=model,
                serial_number=serial_number,
                remarks=tuple(_MARKS.get(mark, mark) for mark in record.field(8)),
                problem="" if record.field(4).strip() else f"result record {record.field(2)[:6]}: there is no value",
            )
        )
    return reports


def _said_at(record: Record) -> str:
    """R.12; the 7390 says it in R.9."""
    return record.field(12) or (record.field(9) if record.field(9).isdigit() else "")


def _newest_first(times: list[str]) -> bool:
    valid: list[datetime] = [time[0] for time in map(timestamp, times) if time]
    return bool(valid) and valid[0] > valid[-1]


def _flags(record: Record) -> list[str]:
    return [flag for flag in re.split(r"[\\/]", record.raw(7)) if flag]


def _kind(header: Record, order: Record, record: Record) -> SampleKind:
    if "E" in record.raw(9).split("\\") or order.field(12) == "Q" or "C" in _flags(record):
        return SampleKind.CONTROL
    return SampleKind.PATIENT if header.field(12) in ("P", "") else SampleKind.UNKNOWN


def _observations(record: Record) -> tuple[Observation, ...]:
    stated = record.field(4).strip()
    if not stated:
        return ()
    unit, reference = record.component(5, 1), record.component(5, 2)
    flags = _flags(record)
    comparator = next((flag for flag in flags if flag in ("<", ">")), "")
    value = _SENTINELS.get((stated, comparator, unit), stated)
    notes = [_REFERENCES[reference]] if reference in _REFERENCES else []
    if "T" in flags:
        notes.append("the temperature was outside the meter's range")
    return (
        Observation(
            code=record.component(3, 4),
            value=value,
            unit=unit,
            comparator=comparator,
            flag="\\".join(flag for flag in flags if flag not in ("<", ">")),
            raw="|".join(record.raw(number) for number in range(4, 8)) if comparator else "",
            note="; ".join(notes),
        ),
    )


class Memory:
    """The link: wakes the meter, takes its memory and tells a memory that says the same as at the last reading."""

    def __init__(self, poll_seconds: float) -> None:
        self._receiver = Receiver("message", wake=EOT, poll_seconds=poll_seconds)
        self._last = b""
        self._began = 0.0  # the transmission, whose header tells the meter's clock

    @property
    def deadline(self) -> float | None:
        """The receiver's; see `Link`."""
        return self._receiver.deadline

    @deadline.setter
    def deadline(self, value: float | None) -> None:
        self._receiver.deadline = value

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take bytes in pieces of any size; b"" says that the line is closed."""
        if self._receiver.idle:
            self._began = now
        return [self._compared(event, now) for event in self._receiver.receive_data(data, now)]

    def handle_timeout(self, now: float) -> list[Event]:
        """Wake the meter where that is due, or give up a transmission."""
        return self._receiver.handle_timeout(now)

    def data_to_send(self) -> list[Outgoing]:
        """The receiver's replies."""
        return self._receiver.data_to_send()

    def _compared(self, event: Event, now: float) -> Event:
        if not isinstance(event, Unit):
            return event
        header, _, rest = event.data.partition(b"\r")
        fields = header.split(header[1:2])
        fields[13:14] = []  # H.14, the meter's clock at this contact
        memory = hashlib.sha256(b"|".join(fields) + b"\r" + rest).digest()
        if memory == self._last:
            return Unchanged()
        self._last = memory
        return Unit(event.data, now - self._began)


def _connect(_options: ContourOptions, contact: Contact) -> Link:
    return Memory(contact.poll_seconds)


DRIVER = Driver(
    name="contour",
    instrument="Bayer / Ascensia Contour (7150, 7160, 7220)",
    kind="glucose",
    link="LIS1-A",
    transport=("serial",),
    evidence=Evidence.THIN,
    parse=parse,
    connect=_connect,
    options=ContourOptions,
    memory=True,
)
