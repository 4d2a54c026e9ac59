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
from datetime import tzinfo

from . import er7
from .chart import OrderedTest, Patient, Specimen
from .profile import Orders
from .received import Refused, Segment, Segments, UnknownMessage

__all__ = ["Act", "Incoming", "OrderMessage", "PatientMerge", "PatientUpdate", "Refused", "UnknownMessage", "read"]

_ORDERS = {"ORM^O01", "OML^O21"}
_UPDATES = {"ADT^A01", "ADT^A04", "ADT^A08"}
_MERGE = "ADT^A40"
_CONTROLS = {"NW", "CA", "XO", "SC"}  # ORC-1, table 0119: new, cancel, change, status changed
_CANCELLED = {"CA", "DC"}  # ORC-5, table 0038: cancelled, discontinued (from memory)
# The longest texts that a register of specimens keeps, in characters. Names and numbers in the field are far shorter: more
# is a field that was put together wrongly, and none of these may be cut.
_LONGEST = {
    "PID-3.1": 64,
    "PID-3.4": 64,
    "PID-5.1": 128,
    "PID-5.2": 128,
    "PID-8": 8,
    "PID-18": 64,
    "PV1-2": 8,
    "PV1-3": 128,
    "PV1-19": 64,
    "OBR-2": 64,
    "OBR-3": 64,
    "OBR-4.1": 64,
    "OBR-4.2": 200,
    "OBR-4.3": 16,
    "OBR-10": 128,
    "SPM-2": 64,
    "SPM-4": 32,
}
_LONGEST_PROVIDER = 200


@dataclass(frozen=True, slots=True)
class OrderMessage:
    """What an order message asks for. `control` is ORC-1: NW new, CA cancel, XO change, SC status changed.

    A status that has changed to cancelled or discontinued (ORC-5 CA, DC) is a CA too.
    """

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
    segments = Segments(message)
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


def _patient(segments: Segments, rules: Orders) -> Patient:
    return _person(segments.only("PID"), segments.maybe("PV1"), rules)


def _fit(where: str, text: str) -> str:
    longest = _LONGEST[where]
    if len(text) > longest:
        raise Refused(where, f"{len(text)} characters where {longest} fit")
    return text


def _person(pid: Segment, visit: Segment | None, rules: Orders) -> Patient:
    mrn, authority = _identifier(pid, rules)
    born = pid.text(7)
    try:
        birth_date = er7.read_day(born) if born else None
    except ValueError:
        raise Refused("PID-7", "not a day of the form YYYYMMDD") from None
    return Patient(
        mrn=_fit("PID-3.1", mrn),
        last_name=_fit("PID-5.1", pid.part(5, 1)),
        first_name=_fit("PID-5.2", pid.text(5, 2)),
        birth_date=birth_date,
        sex=_fit("PID-8", pid.text(8)),
        authority=_fit("PID-3.4", authority),
        account=_fit("PID-18", pid.text(18)),
        patient_class=_fit("PV1-2", visit.text(2)) if visit else "",
        location=_fit("PV1-3", visit.field(3)) if visit else "",
        visit=_fit("PV1-19", visit.text(19)) if visit else "",
    )


def _identifier(pid: Segment, rules: Orders) -> tuple[str, str]:
    """MRN and authority (PID-3.1 and 3.4) from the first field that the profile names and that is filled."""
    for name in rules.mrn:
        if found := _of_best_type(pid, int(name.removeprefix("PID-")), rules):
            return found
    places = " and ".join(rules.mrn)
    raise Refused(rules.mrn[0], f"no MRN in {places}; where this sender has it elsewhere, the profile's orders.mrn says so")


def _of_best_type(segment: Segment, number: int, rules: Orders) -> tuple[str, str] | None:
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


def _merges(segments: Segments, rules: Orders) -> Iterator[PatientMerge]:
    """A40: each PID is followed by the MRG of the record that it takes over."""
    pid: Segment | None = None
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

    orc: Segment | None
    obr: Segment
    specimens: list[Segment]


def _orders(segments: Segments, rules: Orders, zone: tzinfo) -> Iterator[OrderMessage]:
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
        if control == "SC" and order.orc and order.orc.text(5) in _CANCELLED:
            control = "CA"
        if run and run[0][0] != control:
            yield _message(run)
            run = []
        run += [(control, specimen) for specimen in _specimens(order, patient, control, rules, zone)]
    yield _message(run)


def _grouped(segments: Segments) -> list[_Order]:
    """ORC, OBR and SPM put together.

    An SPM belongs to the OBRs before it, back to its ORC or to another SPM; one between ORC and OBR to all of that ORC's.
    """
    orders: list[_Order] = []
    orc: Segment | None = None
    shared: list[Segment] = []
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
    stated: list[Segment | None] = [*order.specimens] or [None]
    for spm in stated:
        collected = (spm.time(17, zone) if spm else None) or obr.time(7, zone)
        yield Specimen(
            specimen_id=_label(order, spm, rules),
            patient=patient,
            tests=(test,),
            accession=_fit("OBR-3", obr.text(3)),
            specimen_type=_fit("SPM-4", _specimen_type(spm) if spm else obr.part(15)),
            collected_at=collected,
            collector=_fit("OBR-10", obr.text(10)),
            cancelled=control == "CA",
        )


def _specimen_type(spm: Segment) -> str:
    """SPM-4 as a code of table 0487 or `SCT:` and a SNOMED CT code; "" for a code of the sender's own."""
    stated = [(spm.text(4, first), spm.text(4, first + 2)) for first in (1, 4)]
    table = next((code for code, system in stated if system in {"", "HL70487", "HL70070"}), "")
    snomed = next((code for code, system in stated if code and system in {"SCT", "SNM3"}), "")
    return "/".join(filter(None, (table, snomed and f"SCT:{snomed}")))


def _test(order: _Order, zone: tzinfo) -> OrderedTest:
    """OBR-4, whichever of its two triplets is filled first (`^^^code^name` occurs)."""
    obr, orc = order.obr, order.orc
    first = 1 if obr.text(4, 1) else 4
    code = obr.text(4, first)
    if not code:
        raise Refused("OBR-4", "required and empty: the code of the test")
    ordered = (orc.time(9, zone) if orc else None) or obr.time(6, zone)
    provider = obr.field(16) or (orc.field(12) if orc else "")
    if len(provider) > _LONGEST_PROVIDER:  # id, last and first name tell who it is; the rest is authorities and degrees
        provider = "^".join(provider.split("^")[:3])
    return OrderedTest(
        code=_fit("OBR-4.1", code),
        name=_fit("OBR-4.2", obr.text(4, first + 1)),
        coding_system=_fit("OBR-4.3", obr.text(4, first + 2)),
        placer_order=_fit("OBR-2", obr.text(2) or (orc.text(2) if orc else "")),
        ordered_at=ordered,
        provider=provider if len(provider) <= _LONGEST_PROVIDER else "",
    )


def _label(order: _Order, spm: Segment | None, rules: Orders) -> str:
    """The text of the specimen's label, from the first field that the profile names and that is filled."""
    for name in rules.specimen_id:
        if name == "SPM-2":
            label = (spm.part(2, 1) or spm.part(2, 2)) if spm else ""  # EIP: the placer's id, else the filler's
        elif name == "OBR-3":
            label = order.obr.text(3) or (order.orc.text(3) if order.orc else "")
        else:
            label = order.obr.text(2) or (order.orc.text(2) if order.orc else "")
        if label:
            return _fit(name, label)
    places = ", ".join(rules.specimen_id)
    raise Refused(rules.specimen_id[0], f"no specimen id in {places}; the profile's orders.specimen_id names the fields")
