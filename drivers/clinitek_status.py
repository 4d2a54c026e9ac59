r"""Siemens (Bayer) CLINITEK Status and Status+ urine chemistry analyzer, its serial port.

Cabling: the analyzer's 9-pin port to the PC, 9600 baud 8N1 with XON/XOFF (these settings are weakly attested: compare with the
analyzer's own menu), or a serial device server, over TCP. At the analyzer switch the computer port on, so that a result is sent
when its test ends. It only talks and nothing is acknowledged; a result sent while nobody listened can be sent again from its
memory ("send all", newest first). Repeats are known by sequence number, date and time.

One test is one line of values between commas, ended by CR::

    412,01-15-2026, 9:30AM,JD,12345,,,,,Multistix 10 SG,Yellow,Clear,GLU,Negative,,KET,Trace,*,SG ,1.020,,PRO,30 mg/dL,*, CR

Sequence, date, time, operator, the id typed or scanned, four columns that were always empty, strip, colour, clarity, then code,
result and mark of each pad; `E58` in place of a code says that the test failed.

The order of day and month is a setting of the analyzer and cannot be seen in its lines: `date_order` must say it. Whether the
id is a specimen's label or a patient's number is the clinic's custom: `id_is`. Controls are told by their id alone:
`control_ids`; an empty pattern makes every test without an id a control. There is no checksum and no quoting: a comma typed
into an id shifts the columns, which is found and shown as a problem.

Not sent: lot, serial number, any reference range. The mark `*` can be switched off at the analyzer: its absence means nothing.
Sources: about 45 captured lines by five independent authors (US and SI units, controls, errors, TCP), the columns counted in
each. Strips other than Multistix 10 SG were not captured. Codes and words follow the analyzer's language; the catalog has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from .driver import Contact, Driver, Evidence, Options, Serial, UnreadableReport
from .line_text import TextLink
from .link import Link
from .report import Observation, Report, SampleKind, is_control_id

_SEQUENCE, _DATE, _TIME, _OPERATOR, _ID, _STRIP, _COLOR, _CLARITY, _PADS = 0, 1, 2, 3, 4, 9, 10, 11, 12
_SPARE = slice(5, 9)  # empty in all captures

_DATE_FORMATS = {"mdy": "%m-%d-%Y", "dmy": "%d-%m-%Y", "ymd": "%Y-%m-%d"}
_ERROR = re.compile(r"E\d+")
_CONTROL_CHARACTER = re.compile(rb"[\x00-\x1f\x7f]")
_QUANTITY = re.compile(r"(?P<comparator><=|>=|<|>|) *(?P<value>\d+(?:\.\d+)?)(?: +(?P<unit>[^ \d].*))?")
_NOT_ENTERED = "Not Entered"  # what the analyzer says for a colour or clarity that was skipped


class ClinitekOptions(Options):
    """What the analyzer's menu and the clinic's custom decide."""

    date_order: Literal["mdy", "dmy", "ymd"]
    id_is: Literal["specimen", "patient"] = "specimen"
    control_ids: tuple[str, ...] = ("CONTROL*", "QC*")  # patterns with * and ?, in any case


@dataclass(frozen=True, slots=True)
class _Pad:
    code: str
    result: str
    mark: str


def parse(unit: bytes, options: ClinitekOptions) -> list[Report]:
    """The one test of this line. Raises `UnreadableReport` where it is not such a line at all.

    An odd field leaves the others as they are; only columns that do not line up make the report a `problem`.
    """
    if not unit[:1].isdigit():
        raise UnreadableReport("first character", "a CLINITEK Status line begins with its sequence number")
    if _CONTROL_CHARACTER.search(unit):
        raise UnreadableReport("line", "control characters stand in it: check cable, baud rate and flow control")
    fields = unit.decode("latin-1").split(",")
    if len(fields) <= _PADS:
        raise UnreadableReport(f"column {len(fields)}", "the line ends early; send the result again from the analyzer's memory")
    rest = fields[_PADS:]
    failed = bool(_ERROR.fullmatch(rest[0].strip())) and not any(field.strip() for field in rest[1:])
    pads = [] if failed else _pads(rest)
    problem = ""
    if pads is None:
        problem = "the columns do not line up: is there a comma in an id?"
    elif not pads and not failed:
        problem = "the line holds neither a result nor an error code"
    return [_shifted(fields, problem) if problem else _report(fields, pads or [], options)]


def _pads(rest: list[str]) -> list[_Pad] | None:
    """The triplets up to the first empty code; None where something else than code, result and mark stands in them."""
    pads: list[_Pad] = []
    for at in range(0, len(rest), 3):
        code, result, mark = (field.strip() for field in [*rest[at : at + 3], "", ""][:3])
        if not code:
            return None if any(field.strip() for field in rest[at:]) else pads
        # A mark is a sign. Letters or digits there belong to a column that a comma has shifted.
        if not result or any(sign.isalnum() for sign in mark):
            return None
        pads.append(_Pad(code, result, mark))
    return pads


def _report(fields: list[str], pads: list[_Pad], options: ClinitekOptions) -> Report:
    sequence, date, time, operator, named = (fields[at].strip() for at in (_SEQUENCE, _DATE, _TIME, _OPERATOR, _ID))
    observed_at = _moment(date, time, options.date_order)
    remarks = [field.strip() for field in fields[_SPARE] if field.strip()]
    if observed_at is None:
        remarks.append(f"its date and time are not a {options.date_order} date and a time")
    is_control = is_control_id(named, options.control_ids)
    kind = SampleKind.CONTROL if is_control else SampleKind.PATIENT
    if not pads:
        kind = SampleKind.ERROR
        remarks.insert(0, fields[_PADS].strip())
    appearance = [
        Observation(code=code, value=fields[at].strip())
        for code, at in (("COLOR", _COLOR), ("CLARITY", _CLARITY))
        if pads and fields[at].strip() not in ("", _NOT_ENTERED)
    ]
    return Report(
        kind=kind,
        kind_by_id=is_control,
        observations=(*map(_observation, pads), *appearance),
        observed_at=observed_at,
        precision=timedelta(minutes=1),
        identity=(sequence, observed_at.isoformat() if observed_at else f"{date} {time}"),
        sequence=_number(sequence),
        model="CLINITEK Status",
        panel=fields[_STRIP].strip(),
        specimen_id=named if options.id_is == "specimen" else "",
        patient_id=named if options.id_is == "patient" else "",
        operator=operator,
        status="F" if pads else "X",
        remarks=tuple(remarks),
    )


def _shifted(fields: list[str], problem: str) -> Report:
    """A line whose columns cannot be trusted: neither its id nor its values are anyone's."""
    sequence = fields[_SEQUENCE].strip()
    return Report(
        kind=SampleKind.UNKNOWN,
        observations=(),
        precision=timedelta(minutes=1),
        identity=tuple(field.strip() for field in fields[:_OPERATOR]),  # no id has been passed yet
        sequence=_number(sequence),
        model="CLINITEK Status",
        problem=problem,
    )


def _observation(pad: _Pad) -> Observation:
    """`<=1.005` and `30 mg/dL` are taken apart; words, grades and `Ca 25 Ery/uL` stay as they are."""
    found = _QUANTITY.fullmatch(pad.result)
    if found is None:
        return Observation(code=pad.code, value=pad.result, flag=pad.mark)
    comparator, value, unit = found["comparator"], found["value"], found["unit"] or ""
    return Observation(
        code=pad.code,
        value=value,
        unit=unit,
        comparator=comparator,
        flag=pad.mark,
        raw=pad.result if pad.result != value else "",
    )


def _number(sequence: str) -> int | None:
    return int(sequence) if sequence.isdecimal() and len(sequence) < 10 else None


def _moment(date: str, time: str, order: str) -> datetime | None:
    for clock in ("%H:%M", "%I:%M%p"):
        try:
            return datetime.strptime(f"{date} {time}", f"{_DATE_FORMATS[order]} {clock}")  # noqa: DTZ007 - local time
        except ValueError:
            continue
    return None


def connect(options: ClinitekOptions, contact: Contact) -> Link:  # noqa: ARG001 - every driver's connect is given them
    """The link for one contact: lines, ended by CR; LF is tolerated."""
    return TextLink(ends=b"\r\n")


DRIVER = Driver(
    name="clinitek_status",
    instrument="Siemens CLINITEK Status and Status+",
    kind="urinalysis",
    link="text lines",
    transport=("serial", "tcp"),
    evidence=Evidence.DOCUMENTED,
    parse=parse,
    connect=connect,
    options=ClinitekOptions,
    serial=Serial(xonxoff=True),
)
