r"""Orders and patient updates as the EHR sends them: which specimens wait, for whom, with which tests.

    MSH|^~\&|EHR|RIVERSIDE|||20240501080000||OML^O21^OML_O21|17|P|2.5.1
    PID|1||4711^^^RIVERSIDE^MR||DOE^JANE||19700102|F
    ORC|NW|P-1001
    OBR|1|P-1001||41653-7^Glucose^LN
    SPM|1|S-1||BLD

Read are ORM^O01, OML^O21, ADT^A01, A04, A08 and A40. What a sender may vary is the profile's `[orders]`: where the specimen's
id and the MRN stand. Seen in public samples: one ORC per OBR or one for many; many OBR with one OBR-2; PID-3 empty and the
number in PID-2 or PID-4; `\X0A\` inside addresses; SPM behind OBR or behind ORC. Source: HL7 v2.5.1, 4.4 (order messages),
3.3 (ADT); the clause numbers are from memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo

import hl7

from . import er7
from .chart import OrderedTest, Patient, Specimen
from .er7 import Delimiters
from .profile import Orders

_ORDERS = {"ORM^O01", "OML^O21"}
_UPDATES = {"ADT^A01", "ADT^A04", "ADT^A08"}
_MERGE = "ADT^A40"
_CONTROLS = {"NW", "CA", "XO", "SC"}  # ORC-1, table 0119: new, cancel, change, status changed
_CODECS = {  # table 0211
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "ASCII": "ascii",
    "8859/1": "iso8859-1",
    "8859/15": "iso8859-15",
}


class Refused(Exception):
    """This message cannot be taken as it stands. `code` is MSA-1 of the answer, `where` ERR-2, `hint` ERR-8 (or MSA-3).

    None of them repeats the patient's words.
    """

    code = "AE"

    def __init__(self, where: str, hint: str) -> None:
        super().__init__(f"{where}: {hint}")
        self.where = where
        self.hint = hint


class UnknownMessage(Refused):
    """This is no HL7 v2 message, or of a type that is not read here: sending it again will not help."""

    code = "AR"


@dataclass(frozen=True, slots=True)
class OrderMessage:
    """What an order message asks for. `control` is ORC-1: NW new, CA cancel, XO change, SC status changed."""

    control: str
    specimens: tuple[Specimen, ...]


@dataclass(frozen=True, slots=True)
class PatientUpdate:
    """The patient as the ADT feed has it now."""

    patient: Patient


@dataclass(frozen=True, slots=True)
class PatientMerge:
    """Two records were one person: what was under `retired_mrn` is from now on `survivor`'s."""

    survivor: Patient
    retired_mrn: str = field(repr=False)
    retired_authority: str = ""


Act = OrderMessage | PatientUpdate | PatientMerge


@dataclass(frozen=True, slots=True)
class Incoming:
    """One received message: its control id for the answer, the placer's facility (MSH-4) and what is to be done, in order."""

    control_id: str
    facility: str
    acts: tuple[Act, ...]


def read(message: bytes, rules: Orders, zone: tzinfo) -> Incoming:
    """Read one message without its MLLP framing. `zone` is that of times which name none.

    Raises `Refused` for content that cannot be taken, `UnknownMessage` for another type and for what is no HL7 v2.
    """
    segments = _Segments(message)
    header = segments.first("MSH")
    kind = f"{header.text(9, 1)}^{header.text(9, 2)}"
    acts: tuple[Act, ...]
    if kind in _ORDERS:
        acts = tuple(_orders(segments, rules, zone))
    elif kind in _UPDATES:
        acts = (PatientUpdate(_patient(segments, rules)),)
    elif kind == _MERGE:
        acts = tuple(_merges(segments, rules))
    else:
        raise UnknownMessage("MSH-9", "read are ORM^O01, OML^O21, ADT^A01, ADT^A04, ADT^A08 and ADT^A40")
    return Incoming(header.text(10), header.text(4), acts)


class _Segment:
    """One segment's fields, as text without escapes. HL7's null ("") reads as empty."""

    def __init__(self, segment: hl7.Segment, delimiters: Delimiters) -> None:
        self.name = str(segment[0])
        self._fields = [str(each) for each in segment]
        self._delimiters = delimiters

    def raw(self, number: int) -> str:
        return self._fields[number] if number < len(self._fields) else ""

    def repetitions(self, number: int) -> list[list[str]]:
        """The components, in ER7 form, of each repetition that is filled."""
        marks = self._delimiters
        return [
            repetition.split(marks.component)
            for repetition in self.raw(number).split(marks.repetition)
            if repetition.strip() and repetition != er7.NULL
        ]

    def plain(self, component: str) -> str:
        text = er7.one_line(er7.unescape(component, self._delimiters)).strip()
        return "" if text == er7.NULL else text

    def echo(self, component: str) -> str:
        """ER7 text with the standard delimiters and without controls, to be given back as it came."""
        text = er7.one_line(er7.standard(component, self._delimiters)).strip()
        return "" if text == er7.NULL else text

    def text(self, number: int, component: int = 1) -> str:
        """A component of the first repetition. A stray & in it is text: many senders forget to escape one."""
        found = next(iter(self.repetitions(number)), [""])
        return self.plain(found[component - 1]) if component <= len(found) else ""

    def part(self, number: int, component: int = 1) -> str:
        """The first subcomponent of a component whose type has some (FN, EIP, SPS)."""
        found = next(iter(self.repetitions(number)), [""])
        whole = found[component - 1] if component <= len(found) else ""
        return self.plain(whole.split(self._delimiters.subcomponent)[0])

    def field(self, number: int) -> str:
        """The first repetition as `echo` gives it."""
        return self.echo(self.raw(number).split(self._delimiters.repetition)[0])

    def time(self, number: int, zone: tzinfo) -> datetime | None:
        text = self.text(number)
        if not text:
            return None
        try:
            at = er7.read_timestamp(text)
        except ValueError as problem:
            raise Refused(f"{self.name}-{number}", str(problem)) from None
        return at if at.tzinfo else at.replace(tzinfo=zone)


class _Segments:
    """The segments of one message in order."""

    def __init__(self, message: bytes) -> None:
        text = _decoded(message).replace("\r\n", "\r").replace("\n", "\r").strip("\r\x1c\x0b \t")
        if not text.startswith("MSH") or len(text) < 9:
            raise UnknownMessage("MSH", "the message does not start with MSH")
        marks = Delimiters(text[3], *text[4:8])
        if len(set(text[3:8])) < 5 or not _plausible(text):
            raise UnknownMessage("MSH-2", "five different delimiters are needed, like |^~\\&")
        try:
            parsed = hl7.parse(text)  # type: ignore[no-untyped-call]
            self._all = [_Segment(segment, marks) for segment in parsed]
        except (hl7.HL7Exception, IndexError, KeyError, ValueError, AttributeError):
            raise UnknownMessage("MSH", "the message cannot be read as HL7 v2") from None

    def __iter__(self) -> Iterator[_Segment]:
        return iter(self._all)

    def first(self, name: str) -> _Segment:
        found = next((segment for segment in self._all if segment.name == name), None)
        if found is None:
            raise Refused(name, "required and missing")
        return found

    def maybe(self, name: str) -> _Segment | None:
        return next((segment for segment in self._all if segment.name == name), None)


def _plausible(text: str) -> bool:
    """Are MSH-1 and MSH-2 punctuation, and does a field follow? From 2.7 on MSH-2 has a fifth character."""
    marks = text[3:8]
    return marks.isprintable() and not any(mark.isalnum() or mark == " " for mark in marks) and marks[0] in text[8:10]


def _decoded(message: bytes) -> str:
    """Text by MSH-18; without it UTF-8, of which ASCII is a part. Nothing is read with loss."""
    header = message.lstrip(b"\x0b\r\n ").split(b"\r", 1)[0].split(b"\n", 1)[0]
    fields = header.split(header[3:4]) if len(header) > 3 else []
    named = fields[17].split(header[5:6])[0].decode("ascii", "replace").strip() if len(fields) > 17 else ""
    codec = _CODECS.get(named or "UNICODE UTF-8")
    if codec is None:
        raise Refused("MSH-18", "this character set is not read; send UNICODE UTF-8")
    try:
        return message.decode(codec)
    except UnicodeDecodeError:
        hint = f"the bytes are not {named}" if named else "no character set is named and the bytes are not UTF-8"
        raise Refused("MSH-18", hint) from None


def _patient(segments: _Segments, rules: Orders) -> Patient:
    return _person(segments.first("PID"), segments.maybe("PV1"), rules)


def _person(pid: _Segment, visit: _Segment | None, rules: Orders) -> Patient:
    mrn, authority = _identifier(pid, rules)
    born = pid.text(7)
    try:
        birth_date = er7.read_day(born) if born else None
    except ValueError:
        raise Refused("PID-7", "not a day of the form YYYYMMDD") from None
    return Patient(
        mrn=mrn,
        last_name=pid.part(5, 1),
        first_name=pid.text(5, 2),
        birth_date=birth_date,
        sex=pid.text(8),
        authority=authority,
        account=pid.text(18),
        patient_class=visit.text(2) if visit else "",
        location=visit.field(3) if visit else "",
        visit=visit.text(19) if visit else "",
    )


def _identifier(pid: _Segment, rules: Orders) -> tuple[str, str]:
    """MRN and authority (PID-3.1 and 3.4) from the first field that the profile names and that is filled."""
    for name in rules.mrn:
        if found := _of_best_type(pid, int(name.removeprefix("PID-")), rules):
            return found
    places = " and ".join(rules.mrn)
    raise Refused(rules.mrn[0], f"no MRN in {places}; where this sender has it elsewhere, the profile's orders.mrn says so")


def _of_best_type(segment: _Segment, number: int, rules: Orders) -> tuple[str, str] | None:
    """The identifier whose type code (CX.5) the profile likes best. Raises `Refused` where two are equally good."""
    found = []
    for repetition in segment.repetitions(number):
        parts = [*repetition, "", "", "", ""]
        if identifier := segment.plain(parts[0]):
            found.append((identifier, segment.echo(parts[3]), segment.plain(parts[4])))
    for wanted in rules.mrn_types:
        of_type = {(identifier, authority) for identifier, authority, kind in found if kind == wanted}
        if len(of_type) > 1:
            raise Refused(f"{segment.name}-{number}", "several identifiers of one type; which is the MRN is not guessed")
        if of_type:
            return of_type.pop()
    if found and segment.name == "PID" and number != 3:  # PID-2 and PID-4 hold one identifier, its type seldom said
        return found[0][:2]
    if found:
        raise Refused(f"{segment.name}-{number}", "no identifier of the types that the profile's orders.mrn_types names")
    return None


def _merges(segments: _Segments, rules: Orders) -> Iterator[PatientMerge]:
    """A40: each PID is followed by the MRG of the record that it takes over."""
    pid: _Segment | None = None
    seen = False
    for segment in segments:
        if segment.name == "PID":
            pid = segment
        elif segment.name == "MRG":
            if pid is None:
                raise Refused("MRG", "stands before its PID")
            retired = _of_best_type(segment, 1, rules)
            if retired is None:
                raise Refused("MRG-1", "required and empty")
            seen = True
            yield PatientMerge(_person(pid, None, rules), *retired)
    if not seen:
        raise Refused("MRG", "required and missing")


@dataclass(slots=True)
class _Order:
    """ORC with one OBR and the SPM segments that belong to it."""

    orc: _Segment | None
    obr: _Segment
    specimens: list[_Segment]


def _orders(segments: _Segments, rules: Orders, zone: tzinfo) -> Iterator[OrderMessage]:
    """One `OrderMessage` per run of equal ORC-1; within it the tests of one specimen stand together."""
    patient = _patient(segments, rules)
    run: list[tuple[str, Specimen]] = []
    found = _grouped(segments)
    if not found:
        raise Refused("OBR", "required and missing")
    for order in found:
        control = order.orc.text(1) if order.orc else "NW"
        if control not in _CONTROLS:
            raise Refused("ORC-1", "read are NW, CA, XO and SC")
        if run and run[0][0] != control:
            yield _message(run)
            run = []
        run += [(control, specimen) for specimen in _specimens(order, patient, control, rules, zone)]
    yield _message(run)


def _grouped(segments: _Segments) -> list[_Order]:
    """ORC, OBR and SPM put together.

    An SPM belongs to the OBRs before it, back to its ORC or to another SPM; one between ORC and OBR to all of that ORC's.
    """
    orders: list[_Order] = []
    orc: _Segment | None = None
    shared: list[_Segment] = []
    waiting: list[_Order] = []
    last = ""
    for segment in segments:
        if segment.name == "ORC":
            orc, shared, waiting = segment, [], []
        elif segment.name == "OBR":
            if last == "SPM":
                waiting = []
            waiting.append(_Order(orc, segment, list(shared)))
            orders.append(waiting[-1])
        elif segment.name == "SPM":
            for order in waiting:
                order.specimens.append(segment)
            if not waiting:
                shared.append(segment)
        if segment.name in {"ORC", "OBR", "SPM"}:
            last = segment.name
    return orders


def _message(run: list[tuple[str, Specimen]]) -> OrderMessage:
    by_label: dict[str, Specimen] = {}
    for _, specimen in run:
        known = by_label.get(specimen.specimen_id)
        by_label[specimen.specimen_id] = replace(known, tests=known.tests + specimen.tests) if known else specimen
    return OrderMessage(run[0][0], tuple(by_label.values()))


def _specimens(order: _Order, patient: Patient, control: str, rules: Orders, zone: tzinfo) -> Iterator[Specimen]:
    obr = order.obr
    test = _test(order, zone)
    stated: list[_Segment | None] = [*order.specimens] or [None]
    for spm in stated:
        collected = (spm.time(17, zone) if spm else None) or obr.time(7, zone)
        yield Specimen(
            specimen_id=_label(order, spm, rules),
            patient=patient,
            tests=(test,),
            accession=obr.text(3),
            specimen_type=spm.text(4) if spm else obr.part(15),
            collected_at=collected,
            collector=obr.text(10),
            cancelled=control == "CA",
        )


def _test(order: _Order, zone: tzinfo) -> OrderedTest:
    """OBR-4, whichever of its two triplets is filled first (`^^^code^name` occurs)."""
    obr, orc = order.obr, order.orc
    first = 1 if obr.text(4, 1) else 4
    code = obr.text(4, first)
    if not code:
        raise Refused("OBR-4", "required and empty: the code of the test")
    ordered = (orc.time(9, zone) if orc else None) or obr.time(6, zone)
    return OrderedTest(
        code=code,
        name=obr.text(4, first + 1),
        coding_system=obr.text(4, first + 2),
        placer_order=obr.text(2) or (orc.text(2) if orc else ""),
        ordered_at=ordered,
        provider=obr.field(16) or (orc.field(12) if orc else ""),
    )


def _label(order: _Order, spm: _Segment | None, rules: Orders) -> str:
    """The text of the specimen's label, from the first field that the profile names and that is filled."""
    for name in rules.specimen_id:
        if name == "SPM-2":
            label = spm.part(2) if spm else ""
        elif name == "OBR-3":
            label = order.obr.text(3) or (order.orc.text(3) if order.orc else "")
        else:
            label = order.obr.text(2) or (order.orc.text(2) if order.orc else "")
        if label:
            return label
    places = ", ".join(rules.specimen_id)
    raise Refused(rules.specimen_id[0], f"no specimen id in {places}; the profile's orders.specimen_id names the fields")
