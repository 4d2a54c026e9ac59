r"""LifeScan OneTouch Ultra2 glucose meter, read through its data port.

Cabling: the LifeScan interface cable (2.5 mm jack to RS-232 or USB), 9600 baud 8N1. Nothing is set at the meter. Switch it off
and plug it in: its display shows PC, and its whole memory, up to 500 readings, is read at every poll while it stays there. The
memory is never erased and the clock never set.

The meter knows no patient and no specimen, and no operator. It says of each reading: time, value, control solution or not, meal
mark, comment. Values are always mg/dL on the wire, also where the display shows mmol/L. HI is sent as a number above 600, LO as
one below 20; they become `>600` and `<20`. Leading zeros of the three-digit field are dropped; the field itself is kept as raw.

    > DC1 CR DMP CR
    < P 002,"ABC123DEY","MG/DL " 0593 CR LF
    < P "THU","01/15/26","09:30:00   ","  112 ","B","00", 00 09A4 CR LF
    < P "THU","01/15/26","09:10:00   ","C 104 ","N","00", 00 09D2 CR LF

Sources: two independent programs that read the meter, glucometerutils (otultra2.py) and the Tidepool uploader
(oneTouchUltra2.js), agree on commands, records and checksum; the latter quotes four captured lines, whose checksums come out.
HI and LO limits: Tidepool. Order, newest first: those lines. Not seen captured: a whole conversation, `C`, `?`, HI and LO.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from .driver import Contact, Driver, Evidence, Options, UnreadableReport
from .host_driven import Heard, HostDrivenLink, Question
from .link import Link
from .report import Observation, Report, SampleKind

CODE = "GLU"  # ours: the meter measures one thing and gives it no code
_MODEL = "OneTouch Ultra2"

_CHECKED = re.compile(rb"(.+) ([0-9A-F]{4})", re.DOTALL)
_SERIAL = re.compile(r'@ "([0-9A-Z]{9})"')
_CLOCK = re.compile(r'F "[A-Z]{3}","(.{8})","(.{8}) *"')
_HEADER = re.compile(r'P ([0-9]{3}),"([0-9A-Z]{9})","(?:MG/DL |MMOL/L)"')
_RECORD = re.compile(r'P "(?P<day>.{3})","(?P<date>.{8})","(?P<time>.{8}) *","(?P<result>(?P<mark>.) (?P<value>[0-9]{3})'
                     r'(?P<parity>.))","(?P<meal>.)","(?P<comment>.{2})", 00')  # fmt: skip
_MEALS = {"B": "before meal", "A": "after meal", "N": ""}
_COMMENTS = {
    "00": "",
    "01": "not enough food",
    "02": "too much food",
    "03": "mild exercise",
    "04": "hard exercise",
    "05": "medication",
    "06": "stress",
    "07": "illness",
    "08": "feel hypo",
    "09": "menses",
    "10": "vacation",
    "11": "other",
}
_HIGHEST, _LOWEST = 600, 20  # mg/dL, the meter's measuring range


def checksum(text: bytes) -> bytes:
    """The four hexadecimal digits behind a line: the sum of its bytes, modulo 65536."""
    return b"%04X" % (sum(text) & 0xFFFF)


def parse(unit: bytes, options: Options) -> list[Report]:  # noqa: ARG001 - the meter has no settings that matter
    """Every reading of one whole memory, the oldest first.

    Raises `UnreadableReport` where an answer is missing, a checksum is wrong or the serial numbers differ. One odd reading
    does not hide the others: it is a report with a `problem`.
    """
    lines = [_checked(line, number) for number, line in enumerate(unit.splitlines(), start=1)]
    serial_number = next((found[1] for line in lines if (found := _SERIAL.fullmatch(line))), "")
    if not serial_number.endswith("Y"):
        raise UnreadableReport("serial number", "this is no OneTouch Ultra2: its serial number has 9 signs, the last a Y")
    clock = next((_time(found[1], found[2]) for line in lines if (found := _CLOCK.fullmatch(line))), None)
    start, header = next(((n, found) for n, line in enumerate(lines) if (found := _HEADER.fullmatch(line))), (0, None))
    if header is None:
        raise UnreadableReport("dump header", "the meter's answer to DMP is missing or of another model")
    if header[2] != serial_number:
        raise UnreadableReport("dump header", "its serial number is not the one the meter gave before: were meters exchanged?")
    records = lines[start + 1 :]
    if len(records) != int(header[1]):
        raise UnreadableReport("dump", f"{len(records)} readings came where {int(header[1])} were announced")
    seen: Counter[str] = Counter()
    return [_report(record, serial_number, clock, seen) for record in reversed(records)]


def _report(line: str, serial_number: str, clock: datetime | None, seen: Counter[str]) -> Report:
    found = _RECORD.fullmatch(line)
    if found is None:
        seen[line] += 1
        return Report(
            kind=SampleKind.UNKNOWN,
            observations=(),
            clock=clock,
            identity=(serial_number, line, CODE, str(seen[line])),
            model=_MODEL,
            serial_number=serial_number,
            remarks=(line,),
            problem="this reading has not the form of a OneTouch Ultra2 reading",
        )
    observed_at = _time(found["date"], found["time"])
    when = observed_at.isoformat() if observed_at else f"{found['date']} {found['time']}"
    seen[when] += 1  # counted from the oldest, so that a new reading changes no older one's ordinal
    problem = ""
    if found["parity"] != " ":
        problem = "the meter marks this reading as damaged in its memory"
    return Report(
        kind={" ": SampleKind.PATIENT, "C": SampleKind.CONTROL}.get(found["mark"], SampleKind.UNKNOWN),
        observations=() if problem else (_observation(found),),
        observed_at=observed_at,
        clock=clock,
        identity=(serial_number, when, CODE, str(seen[when])),
        model=_MODEL,
        serial_number=serial_number,
        remarks=(line,) if problem else (),
        problem=problem,
    )


def _observation(found: re.Match[str]) -> Observation:
    number = int(found["value"])
    comparator, shown = "", number
    if number > _HIGHEST:
        comparator, shown = ">", _HIGHEST
    elif number < _LOWEST:
        comparator, shown = "<", _LOWEST
    notes = (
        _MEALS.get(found["meal"], f"meal mark {found['meal']}"),
        _COMMENTS.get(found["comment"], f"comment {found['comment']}"),
    )
    return Observation(
        code=CODE,
        value=str(shown),
        unit="mg/dL",
        comparator=comparator,
        raw=found["result"],
        note="; ".join(note for note in notes if note),
    )


def _time(date: str, time: str) -> datetime | None:
    try:
        return datetime.strptime(f"{date} {time}", "%m/%d/%y %H:%M:%S")  # noqa: DTZ007 - the meter's local time
    except ValueError:
        return None


def _checked(line: bytes, number: int) -> str:
    found = _CHECKED.fullmatch(line)
    if found is None or checksum(found[1]) != found[2]:
        raise UnreadableReport(f"line {number}", "its checksum is missing or wrong; the meter is read again at the next poll")
    return found[1].decode("latin-1")


def _one_line(prefix: bytes) -> Question:
    def judge(lines: Sequence[bytes]) -> Heard:
        return Heard.WHOLE if lines[0].startswith(prefix) and _sound(lines[0]) else Heard.DAMAGED

    command = b"DMSU?" if prefix == b"SU?" else b"DM" + prefix
    return Question(b"\x11\r" + command + b"\r", judge, changes=prefix == b"F")


def _dump(lines: Sequence[bytes]) -> Heard:
    header = _CHECKED.fullmatch(lines[0])
    announced = header and _sound(lines[0]) and _HEADER.fullmatch(header[1].decode("latin-1"))
    if not announced or not _sound(lines[-1]):
        return Heard.DAMAGED
    return Heard.WHOLE if len(lines) == int(announced[1]) + 1 else Heard.MORE


def _sound(line: bytes) -> bool:
    found = _CHECKED.fullmatch(line)
    return found is not None and checksum(found[1]) == found[2]


# Only these five are ever sent: DMZ would erase the memory and DMT would set the clock.
QUESTIONS = (
    _one_line(b"?"),
    _one_line(b"@"),
    _one_line(b"F"),
    _one_line(b"SU?"),
    Question(b"\x11\rDMP\r", _dump),
)


def connect(options: Options, contact: Contact) -> Link:  # noqa: ARG001 - likewise
    """The link for a cable on which a meter may or may not be docked."""
    return HostDrivenLink(QUESTIONS, poll_seconds=contact.poll_seconds)


DRIVER = Driver(
    name="onetouch_ultra2",
    instrument="LifeScan OneTouch Ultra2",
    kind="glucose",
    link="text, asked by the host",
    transport=("serial", "tcp"),
    evidence=Evidence.DOCUMENTED,
    parse=parse,
    connect=connect,
    memory=True,
)
