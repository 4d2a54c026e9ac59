"""Orders come in: a CSV file or a person's words become labelled specimens in the register.

The CSV's header row is
`specimen_id,accession,placer_order,mrn,last_name,first_name,birth_date,sex,test_code,test_name,specimen_type,collected_at,collector,reference_lab`;
one row a test, rows with the same `specimen_id` are one specimen. Where `specimen_id` is empty a label of ours is issued.
A bad row is reported with its line, and the rest are taken.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from ..config.catalog import Catalog
from ..hl7 import label
from ..hl7.chart import OrderedTest, Patient, Specimen
from .store import specimens

COLUMNS = (
    "specimen_id",
    "accession",
    "placer_order",
    "mrn",
    "last_name",
    "first_name",
    "birth_date",
    "sex",
    "test_code",
    "test_name",
    "specimen_type",
    "collected_at",
    "collector",
    "reference_lab",
)
_NEEDED = ("mrn", "last_name", "birth_date", "test_code")
_LONGEST = 64


class RowProblem(Exception):
    """A row of an order file that cannot be taken: its line, what is wrong, and a hint."""

    def __init__(self, line: int, what: str, hint: str = "") -> None:
        super().__init__(f"line {line}: {what}" + (f"; {hint}" if hint else ""))
        self.line, self.what, self.hint = line, what, hint


@dataclass(frozen=True, slots=True)
class Ordered:
    """A specimen read from a file, with the line it came from; its `specimen_id` is "" where we are to issue a label."""

    line: int
    specimen: Specimen


@dataclass(frozen=True, slots=True)
class Taken:
    """What the register did with a specimen."""

    specimen_id: str
    outcome: str  # "added", "tests added", "known"


def read_csv(text: str, zone: ZoneInfo) -> tuple[list[Ordered], list[RowProblem]]:
    """Read an order CSV; a time without an offset is taken in the site's zone. Bad rows come back as problems."""
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), restkey="more", strict=False)
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        what = f"the header row lacks {', '.join(missing)}"
        return [], [RowProblem(1, what, f"it must name: {','.join(COLUMNS)}")]
    found: dict[str, Ordered] = {}
    problems: list[RowProblem] = []
    try:
        for row in rows:
            try:
                one = Ordered(rows.line_num, _specimen(rows.line_num, row, zone))
                key = one.specimen.specimen_id or f"\0{rows.line_num}"
                found[key] = _joined(found[key], one) if key in found else one
            except RowProblem as problem:
                problems.append(problem)
    except csv.Error as error:
        problems.append(RowProblem(rows.line_num, str(error), "is this a CSV file in UTF-8?"))
    return list(found.values()), problems


def _specimen(line: int, row: dict[str, str | None], zone: ZoneInfo) -> Specimen:
    if "more" in row or None in row.values():
        raise RowProblem(line, "the row has not as many fields as the header", "quote a field that holds a comma")
    said = {name: (row[name] or "").strip() for name in COLUMNS}
    for name in _NEEDED:
        if not said[name]:
            raise RowProblem(line, f"{name} is empty", "every test needs its patient and its code")
    for name, text in said.items():
        if any(ord(character) < 32 for character in text):
            raise RowProblem(line, f"{name} holds a control character", "type it anew")
        if len(text) > (_LONGEST if name not in ("last_name", "first_name", "test_name", "collector") else 2 * _LONGEST):
            raise RowProblem(line, f"{name} is {len(text)} characters long", "is a quote missing?")
    return Specimen(
        specimen_id=said["specimen_id"],
        accession=said["accession"],
        patient=Patient(
            mrn=said["mrn"],
            last_name=said["last_name"],
            first_name=said["first_name"],
            birth_date=_birth_date(line, said["birth_date"]),
            sex=said["sex"].upper()[:1],
        ),
        tests=(OrderedTest(code=said["test_code"], name=said["test_name"], placer_order=said["placer_order"]),),
        specimen_type=said["specimen_type"],
        collected_at=_moment(line, said["collected_at"], zone),
        collector=said["collector"],
        reference_lab=said["reference_lab"],
    )


def _birth_date(line: int, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise RowProblem(line, f"birth_date {text!r} is no date", "write it YYYY-MM-DD") from error


def _moment(line: int, text: str, zone: ZoneInfo) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RowProblem(line, f"collected_at {text!r} is no time", "write it 2026-01-15T09:30") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _joined(first: Ordered, more: Ordered) -> Ordered:
    """The same label again: one more test, provided that it names the same patient."""
    if first.specimen.patient != more.specimen.patient:
        what = f"the label {more.specimen.specimen_id} stands at line {first.line} for another patient"
        raise RowProblem(more.line, what, "a label is one patient's")
    return replace(first, specimen=replace(first.specimen, tests=first.specimen.tests + more.specimen.tests))


def issue_label() -> str:
    """A new label of ours: nine random characters and their check character (ISO 7064 MOD 37,36).

    It begins with a digit and holds no Q before the last, so that no pattern for control ids ("QC*") takes a patient's.
    """
    alphabet = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"  # without I, O and Q, which a person misreads
    body = secrets.choice(alphabet[:10]) + "".join(secrets.choice(alphabet) for _ in range(8))
    return body + label.check_character(body)


def coded(new: Iterable[Ordered], catalog: Catalog) -> list[Ordered]:
    """The same with each test whose code is a LOINC code of the catalog marked as such: a file has no column for it."""
    loincs = {row.loinc for row in catalog.rows}

    def mark(test: OrderedTest) -> OrderedTest:
        return replace(test, coding_system="LN") if not test.coding_system and test.code in loincs else test

    return [replace(one, specimen=replace(one.specimen, tests=tuple(map(mark, one.specimen.tests)))) for one in new]


class LabelTaken(Exception):
    """A label that this order cannot have. `what` continues "the label …"; neither names label or patient."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}")
        self.what, self.hint = what, hint


def take(conn: Connection, new: Iterable[Ordered], at: datetime) -> tuple[list[Taken], list[RowProblem]]:
    """Put these specimens into the register: new ones are added, known ones get the tests they lack."""
    taken: list[Taken] = []
    problems: list[RowProblem] = []
    for one in new:
        specimen = one.specimen
        known = _known(conn, specimen)
        if known is not None:
            specimen = replace(specimen, specimen_id=known.specimen.specimen_id)
        elif not specimen.specimen_id:
            specimen = replace(specimen, specimen_id=issue_label(), issued=True)
        try:
            taken.append(Taken(specimen.specimen_id, put(conn, specimen, known, at)))
        except LabelTaken as problem:
            problems.append(RowProblem(one.line, f"{specimen.specimen_id} {problem.what}", problem.hint))
    return taken, problems


def put(conn: Connection, specimen: Specimen, known: specimens.Registered | None, at: datetime) -> str:
    """Register a specimen, or add to the `known` one of its label the tests it lacks; return the outcome as in `Taken`.

    Raises `LabelTaken` where the known one was cancelled or is another patient's.
    """
    if known is None:
        specimens.register(conn, specimen, at)
        return "added"
    if not same_patient(known.specimen.patient, specimen.patient):
        raise another_patients()
    if known.specimen.cancelled:
        raise LabelTaken("was cancelled", "use a new label")
    return "tests added" if specimens.add_tests(conn, known.id, specimen.tests) else "known"


def another_patients() -> LabelTaken:
    return LabelTaken("is registered for another patient", "a label is one patient's: check both orders")


def same_patient(one: Patient, other: Patient) -> bool:
    """Whether MRN and authority are the same: names change, and two people may share one."""
    return (one.mrn, one.authority) == (other.mrn, other.authority)


def _known(conn: Connection, specimen: Specimen) -> specimens.Registered | None:
    """The register's specimen of this label or, where the file names none, of this very order: a file may come twice."""
    if specimen.specimen_id:
        return specimens.by_label(conn, specimen.specimen_id)
    for test in specimen.tests:
        for known in specimens.by_order_number(conn, test.placer_order) if test.placer_order else ():
            same = known.specimen.patient.mrn == specimen.patient.mrn and not known.specimen.cancelled
            if same and any(one.code == test.code for one in known.specimen.tests):
                return known
    return None
