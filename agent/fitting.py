"""What speaks for and against each specimen of the register, and which of its tests ask for a result. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..hl7.chart import OrderedTest, Specimen
from ..hl7.label import is_checked
from .evidence import Claim, Entry, Evidence, Filed, Reading, Worklist, name_agrees, not_taken, two_identifiers


@dataclass(frozen=True, slots=True)
class Fit:
    """What speaks for and against one specimen, for the page where a person decides."""

    specimen: Specimen
    agrees: frozenset[Evidence]
    against: tuple[str, ...] = ()
    claim: Claim | None = None  # the claim that takes this reading for this specimen


OTHER_PATIENT_ID = "the instrument states another patient id"


def weigh(reading: Reading, worklist: Worklist) -> tuple[Fit, ...]:
    """Compare the reading with every specimen of the worklist; sorted by label."""
    claims = [claim for claim in worklist.claims if not not_taken(claim, reading, worklist.neighbours)]
    return tuple(
        _fit(entry, reading, worklist, claims) for entry in sorted(worklist.specimens, key=lambda e: e.specimen.specimen_id)
    )


def _fit(entry: Entry, reading: Reading, worklist: Worklist, claims: list[Claim]) -> Fit:
    report, specimen, patient = reading.report, entry.specimen, entry.specimen.patient
    label, order, patient_id = report.specimen_id.strip(), report.order_number.strip(), report.patient_id.strip()
    orders = {test.placer_order for test in specimen.tests} | {specimen.specimen_id}  # an EKG's order is its own label
    mine = [claim for claim in claims if claim.specimen_id == specimen.specimen_id]
    confirmed, release = worklist.confirmation, worklist.release
    born = None if None in (report.birth_date, patient.birth_date) else report.birth_date == patient.birth_date
    name = name_agrees(report.last_name, report.first_name, patient.last_name, patient.first_name)
    findings: tuple[tuple[Evidence, bool | None, str], ...] = (
        (Evidence.LABEL, label == specimen.specimen_id if label else None, "the instrument read another label"),
        (Evidence.ORDER, order in orders if order else None, "the instrument states another order number"),
        (Evidence.CLAIM, bool(mine) if claims else None, "another specimen was claimed"),
        (Evidence.PATIENT_ID, patient_id == patient.mrn if patient_id else None, OTHER_PATIENT_ID),
        (Evidence.NAME, name, "the instrument states another name"),
        (Evidence.BIRTH_DATE, born, "the instrument states another birth date"),
        (
            Evidence.CONFIRMATION,
            confirmed.specimen_id == specimen.specimen_id if confirmed else None,
            "a person confirmed it for another specimen",
        ),
    )
    agrees = {piece for piece, found, _ in findings if found}
    if Evidence.LABEL in agrees and specimen.issued and is_checked(label):
        agrees.add(Evidence.CHECK)
    against = [words for _, found, words in findings if found is False]
    if release and not two_identifiers(release, patient):
        against.append("it was released for another name or birth date")
    claim = max(mine, key=lambda c: (c.started_at, c.id), default=None)
    return Fit(specimen, frozenset(agrees), tuple(against), claim)


def asked_tests(
    specimen: Specimen, reading: Reading, filed: tuple[Filed, ...], answered: frozenset[tuple[str, str]] = frozenset()
) -> tuple[OrderedTest, ...]:
    """The tests of this specimen that ask for everything in the reading, open ones first; none where something is unasked.

    One test where one covers all (the first by placer order and code), else as many as it takes, in that order. A specimen
    for a reference lab asks for nothing in-house. What an earlier version has `answered` comes first.
    """
    order = reading.report.order_number.strip()
    tests = () if specimen.reference_lab else specimen.tests
    tests = tuple(test for test in tests if test.placer_order == order) or tests if order else tests
    wanted = [codes for codes in reading.asked_by if codes]
    unfiled = [test for test in tests if not already_filed(specimen, (test,), filed)]
    before = [test for test in tests if (test.placer_order, test.code) in answered]
    return _cover(before, wanted) or _cover(unfiled, wanted) or _cover(tests, wanted)


def _cover(tests: Iterable[OrderedTest], wanted: list[frozenset[str]]) -> tuple[OrderedTest, ...]:
    chosen: list[OrderedTest] = []
    ordered = sorted(tests, key=lambda test: (test.placer_order, test.code))
    for test in ordered:
        if wanted and all(test.code in codes for codes in wanted):
            return (test,)
    for test in ordered:
        if any(test.code in codes for codes in wanted):
            chosen.append(test)
            wanted = [codes for codes in wanted if test.code not in codes]
    return () if wanted else tuple(chosen)


def already_filed(specimen: Specimen, tests: tuple[OrderedTest, ...], filed: tuple[Filed, ...]) -> bool:
    """Whether another reading has been filed to any of these tests."""
    return any(Filed(specimen.specimen_id, test.placer_order, test.code) in filed for test in tests)
