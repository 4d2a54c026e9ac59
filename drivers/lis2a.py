r"""LIS2-A2 is how results are written down: one record a line, its parts divided by `|`, their parts by `^`.

    H|\^&|||DCA VANTAGE^04.04^S1|||||||P||20260115093000     header: who speaks; its field 2 says which characters divide
    P|1|BU24                                                 patient
    O|1||660^0090||||||||||||||||||||||F                     order: one specimen, one test
    R|1|^^^Alb|63.7|mg/L||||F|||20260115092500               result
    C|1|I|1.000^0.0 mg/L|G                                   comment on the record before
    L|1|N                                                    end

Fields are counted from 1 as in the standard, where field 1 is the record's letter: `record.field(4)` of the result is `63.7`.
Sources: CLSI LIS2-A2 (ASTM E1394) as public record tables show it; the escapes &F& &S& &R& &E& and &Xhh& from memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from .driver import UnreadableReport


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The four characters that H.1 and H.2 declare; `escape` is "" where the header declares none."""

    field: str = "|"
    repeat: str = "\\"
    component: str = "^"
    escape: str = "&"
    encoding: str = "latin-1"


class Record:
    """One record. It is divided only when a part of it is asked for; a part that is not there is ""."""

    __slots__ = ("_delimiters", "_fields", "attached", "text", "type")

    def __init__(self, text: str, delimiters: Delimiters) -> None:
        self.text = text
        self.type = text[:1].upper()
        self.attached: list[Record] = []  # comments and makers' own records that follow this one
        self._delimiters = delimiters
        self._fields: list[str] | None = None

    def __repr__(self) -> str:
        return f"<Record {self.type}>"  # the text may name a patient

    def raw(self, number: int) -> str:
        """A field as it was sent, escapes and all."""
        if self._fields is None:
            self._fields = self.text.split(self._delimiters.field)
        return self._fields[number - 1] if number <= len(self._fields) else ""

    def field(self, number: int) -> str:
        """A whole field, its escapes decoded."""
        return _decoded(self.raw(number), self._delimiters)

    def repeats(self, number: int) -> list[str]:
        """The repeats of a field; [] where it is empty."""
        raw = self.raw(number)
        return [_decoded(part, self._delimiters) for part in raw.split(self._delimiters.repeat)] if raw else []

    def components(self, number: int) -> list[str]:
        """The components of a field, repeats left together; [] where it is empty."""
        raw = self.raw(number)
        return [_decoded(part, self._delimiters) for part in raw.split(self._delimiters.component)] if raw else []

    def component(self, number: int, component: int) -> str:
        """One component of a field, counted from 1."""
        parts = self.raw(number).split(self._delimiters.component)
        return _decoded(parts[component - 1], self._delimiters) if component <= len(parts) else ""

    @property
    def comments(self) -> list[Record]:
        """The C records that speak of this one."""
        return [record for record in self.attached if record.type == "C"]


_NOBODY = Record("P", Delimiters())


@dataclass(slots=True)
class Order:
    """An order with its results and the patient they are said of. Results without an order have one without text."""

    patient: Record
    order: Record
    results: list[Record] = field(default_factory=list)


class Message:
    """One unit of records, in the order sent."""

    def __init__(self, header: Record, records: list[Record]) -> None:
        self.header = header
        self.records = records

    def orders(self) -> Iterator[Order]:
        """Each order, with the results below it."""
        patient = _NOBODY
        current: Order | None = None
        for record in self.records:
            if record.type == "P":
                if current is not None:
                    yield current
                patient, current = record, None
            elif record.type == "O":
                if current is not None:
                    yield current
                current = Order(patient, record)
            elif record.type == "R":
                if current is None:
                    current = Order(patient, Record("", Delimiters()))
                current.results.append(record)
        if current is not None:
            yield current


def parse(unit: bytes, encoding: str = "latin-1") -> Message:
    """Read the records of a unit. Raises `UnreadableReport` where it does not begin with a readable header.

    C, M and S records and any that the standard does not name are attached to the record before; those after them that speak of
    the same record too.
    """
    try:
        text = unit.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableReport(f"byte {error.start + 1}", f"it is not {encoding}; is the instrument set to another?") from None
    lines = [line for line in text.split("\r") if line]
    if not lines:
        raise UnreadableReport("record 1", "there is no record")
    delimiters = _delimiters(lines[0], encoding)
    records: list[Record] = []
    bearer = None
    for line in lines:
        record = Record(line, delimiters)
        if record.type in "HPOR":
            bearer = record
        elif record.type != "L" and bearer is not None:
            bearer.attached.append(record)
        records.append(record)
    return Message(records[0], records)


def timestamp(text: str) -> tuple[datetime, timedelta] | None:
    """The time that YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS says, and its precision; None where it says no valid one."""
    form = _TIMES.get(len(text))
    if form is None or not (text.isascii() and text.isdigit()):
        return None
    try:
        return datetime.strptime(text, form[0]), form[1]  # noqa: DTZ007 - an instrument's clock knows no zone
    except ValueError:
        return None


_TIMES = {
    8: ("%Y%m%d", timedelta(days=1)),
    12: ("%Y%m%d%H%M", timedelta(minutes=1)),
    14: ("%Y%m%d%H%M%S", timedelta(seconds=1)),
}


def split_comparator(text: str) -> tuple[str, str]:
    """`<5.6` as ("<", "5.6"); a text without a comparator as ("", text)."""
    found = _COMPARATOR.match(text.strip())
    return (found[1], found[2]) if found else ("", text.strip())


_COMPARATOR = re.compile(r"([<>]=?)\s*(.+)", re.DOTALL)


def _delimiters(header: str, encoding: str) -> Delimiters:
    if header[:1] != "H":
        raise UnreadableReport("record 1", "a message begins with a header, H")
    return _declared(header[1:2], header[2:].partition(header[1:2] or "|")[0], encoding)


@lru_cache(maxsize=16)
def _declared(divider: str, others: str, encoding: str) -> Delimiters:
    """H.1 and H.2: the field delimiter, then repeat, component and escape."""
    every = divider + others
    if len(every) not in (3, 4) or len(set(every)) != len(every) or any(map(str.isalnum, every)):
        raise UnreadableReport("record 1 (H), field 2", "two or three different delimiters are due, as in \\^&")
    return Delimiters(divider, others[0], others[1], others[2:], encoding)


def _decoded(text: str, delimiters: Delimiters) -> str:
    escape = delimiters.escape
    if not escape or escape not in text:
        return text
    meanings = {"F": delimiters.field, "S": delimiters.component, "R": delimiters.repeat, "E": escape}

    def meaning(found: re.Match[str]) -> str:
        code = found[1]
        if code in meanings:
            return meanings[code]
        try:
            return bytes.fromhex(code[1:]).decode(delimiters.encoding)
        except ValueError:
            return found[0]  # not an escape that can be read: left as it was sent

    mark = re.escape(escape)
    return re.sub(f"{mark}([FSRE]|X(?:[0-9A-Fa-f]{{2}})+){mark}", meaning, text)
