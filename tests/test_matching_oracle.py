"""Random worklists, labels, claims and clocks: what is filed is what the rows of "files when" say, no more and no less.

The oracle below is written from the rules as people read them, row by row, and shares no code with what it judges.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from chartbound.agent.evidence import (
    Assignment,
    Claim,
    Confirmation,
    EarlierVersion,
    Entry,
    Filed,
    Neighbour,
    Reading,
    Reason,
    Release,
    Rules,
    Worklist,
)
from chartbound.agent.matching import Duplicate, Hold, Match, ToQc, decide
from chartbound.drivers.report import Observation, Report, SampleKind
from chartbound.hl7.chart import OrderedTest, Patient, Specimen
from chartbound.hl7.label import issue

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
PATIENTS = (
    Patient("M1", "DOE", "JANE", date(1961, 3, 5)),
    Patient("M2", "ROE", "BEN", date(1950, 1, 31)),
    Patient("M3", "DOE", "JANE", date(1999, 9, 9)),  # another person of the same name
    Patient("M4", "DOE", "JOHN", None),
)
LABELS = (issue(1), issue(2), "F-3", "F-4")
CODES = ("GLU", "UA")
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def seldom(draw: st.DrawFn, chance: int = 8) -> bool:
    return draw(st.integers(1, chance)) == chance


@st.composite
def registers(draw: st.DrawFn) -> tuple[Entry, ...]:
    entries = []
    for label in draw(st.permutations(LABELS))[: draw(st.integers(1, 4))]:
        hours = draw(st.sampled_from((-30, -3, 0)))
        tests = tuple(
            OrderedTest(code, placer_order=draw(st.sampled_from(("P1", "P2"))), ordered_at=NINE + hours * HOUR)
            for code in CODES
            if not seldom(draw, 4)
        )
        specimen = Specimen(
            label,
            draw(st.sampled_from(PATIENTS)),
            tests,
            issued=label.startswith("C") and not seldom(draw),
            cancelled=seldom(draw),
            reference_lab="quest" if seldom(draw, 16) else "",
        )
        entries.append(Entry(specimen, NINE))
    return tuple(entries)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Reading, Worklist, Rules]:
    """A reading that mostly speaks of one specimen of the register, and sometimes of others or of none."""
    entries = draw(registers())
    chosen = draw(st.sampled_from(entries)).specimen

    def stated(mine: Any, others: tuple[Any, ...], nothing: Any) -> Any:
        pick = draw(st.integers(0, 11))
        return nothing if pick < 7 else mine if pick < 11 else draw(st.sampled_from(others))

    names = tuple((patient.last_name, patient.first_name) for patient in PATIENTS)
    last, first = stated((chosen.patient.last_name, chosen.patient.first_name), names, ("", ""))
    orders = tuple(test.placer_order for test in chosen.tests) or ("P9",)
    precision = draw(st.sampled_from((SECOND, MINUTE)))
    at = NINE + draw(st.integers(-8, 8)) * (MINUTE if precision == MINUTE else 30 * SECOND)
    offset = draw(st.sampled_from((timedelta(), timedelta(), 20 * SECOND, -90 * SECOND, 7 * MINUTE, None)))
    kinds = (*(SampleKind.PATIENT,) * 50, *SampleKind)
    report = Report(
        kind=draw(st.sampled_from(kinds)),
        observations=(Observation("X", "5", "u"),),
        precision=precision,
        specimen_id=stated(chosen.specimen_id, (*LABELS, "F-9", issue(9)), ""),
        order_number=stated(orders[0], ("P1", "P2", "P9"), ""),
        patient_id=stated(chosen.patient.mrn, ("M1", "M2", "M3", "M4", "M9"), ""),
        last_name=last,
        first_name=first,
        birth_date=stated(chosen.patient.birth_date, tuple(p.birth_date for p in PATIENTS), None),
    )
    reading = Reading(
        report,
        "meter",
        heard_at=NINE + draw(st.integers(-5, 10)) * MINUTE,
        stated_at=None if seldom(draw, 16) else at + (offset or timedelta()) // MINUTE * MINUTE,
        clock_offset=offset,
        clock_doubtful=seldom(draw, 20),
        asked_by=(frozenset({draw(st.sampled_from(CODES))}),),
        unknown_analytes=("X",) if seldom(draw, 30) else (),
        unknown_units=("X in u",) if seldom(draw, 30) else (),
        implausible=("X",) if seldom(draw, 30) else (),
    )
    claims = tuple(
        Claim(
            number,
            chosen.specimen_id if not seldom(draw, 3) else draw(st.sampled_from(LABELS)),
            "meter" if not seldom(draw, 12) else "other",
            started := NINE + draw(st.integers(-40, 20)) * 15 * SECOND,
            started + draw(st.sampled_from((MINUTE, 15 * MINUTE))),
            started + 2 * MINUTE if seldom(draw, 6) else None,
            used=seldom(draw, 10),
        )
        for number in range(draw(st.sampled_from((0, 1, 1, 1, 2))))
    )
    neighbours = tuple(
        Neighbour(
            NINE + draw(st.integers(-10, 30)) * MINUTE,
            None if seldom(draw) else NINE + draw(st.integers(-20, 20)) * MINUTE,
            precision,
            same_read=draw(st.booleans()),
        )
        for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2))))
    )
    filed = tuple(
        Filed(entry.specimen.specimen_id, test.placer_order, test.code)
        for entry in entries
        for test in entry.specimen.tests
        if seldom(draw, 10)
    )
    person = draw(st.sampled_from((chosen.patient, *PATIENTS)))
    confirmation = Confirmation(chosen.specimen_id, "kim") if not seldom(draw, 3) else None
    if confirmation and seldom(draw, 12):
        confirmation = Confirmation(draw(st.sampled_from(LABELS)), "kim")
    assignment = None
    if seldom(draw, 12) and person.birth_date:
        assignment = Assignment(
            draw(st.sampled_from((chosen.specimen_id, *LABELS))), person.last_name, person.first_name, person.birth_date, "kim"
        )
    worklist = Worklist(entries, claims, neighbours, filed, confirmation=confirmation, assignment=assignment)
    return reading, worklist, Rules(confirm_claims=not seldom(draw, 4))


# --- the oracle --------------------------------------------------------------------------------------------------------------


def true_time(reading: Reading) -> datetime | None:
    if reading.stated_at is None:
        return None
    return reading.stated_at if reading.clock_offset is None else reading.stated_at - reading.clock_offset


def claim_holds(claim: Claim, reading: Reading, neighbours: tuple[Neighbour, ...]) -> bool:
    end = min(time for time in (claim.expires_at, claim.ended_at) if time is not None)
    if claim.instrument != "meter" or claim.used or reading.heard_at < claim.started_at:
        return False
    time = true_time(reading)
    if time is None:
        if reading.heard_at > end:
            return False
    else:
        # What the instrument's own clock showed when the claim was made, in the steps in which it shows time.
        shown = claim.started_at + (reading.clock_offset or timedelta())
        step = reading.report.precision.total_seconds()
        shown_then = datetime.fromtimestamp(shown.timestamp() // step * step, UTC)
        assert reading.stated_at is not None
        if reading.stated_at < shown_then or time > end:
            return False
    for other in neighbours:
        latest = (
            other.heard_at if other.observed_at is None else other.observed_at + other.precision - timedelta(microseconds=1)
        )
        since = other.heard_at >= claim.started_at and latest >= claim.started_at
        within = (other.observed_at or other.heard_at) <= end
        if since and (within or other.same_read):
            return False
    return True


def open_tests(specimen: Specimen, reading: Reading, worklist: Worklist) -> tuple[int, int]:
    """How many of its tests ask for this reading, and how many of those have no result yet."""
    order = reading.report.order_number
    own = [test for test in specimen.tests if test.placer_order == order] if order else []
    asking = [test for test in own or specimen.tests if test.code in reading.asked_by[0]]
    taken = {(one.specimen_id, one.placer_order, one.code) for one in worklist.filed}
    free = [test for test in asking if (specimen.specimen_id, test.placer_order, test.code) not in taken]
    return (0, 0) if specimen.reference_lab else (len(asking), len(free))


def may_file(specimen: Specimen, reading: Reading, worklist: Worklist, rules: Rules) -> bool:
    """Whether this reading files to this specimen, by the text of the rules."""
    report, patient = reading.report, specimen.patient
    _, free = open_tests(specimen, reading, worklist)
    sound = report.kind == "patient" and not (reading.unknown_analytes or reading.unknown_units or reading.implausible)
    if not sound or specimen.cancelled or not free:
        return False
    if worklist.assignment:
        given = worklist.assignment
        two = (given.last_name, given.first_name, given.birth_date) == (
            patient.last_name,
            patient.first_name,
            patient.birth_date,
        )
        return given.specimen_id == specimen.specimen_id and two

    # What is stated must agree, all of it.
    claims = [claim for claim in worklist.claims if claim_holds(claim, reading, worklist.neighbours)]
    claimed = {claim.specimen_id for claim in claims}
    register = {entry.specimen.specimen_id: entry.specimen for entry in worklist.specimens}
    claimed_here = claimed & set(register)
    numbers = {test.placer_order for test in specimen.tests}
    name = (report.last_name, report.first_name)
    contradicted = (
        (report.specimen_id and report.specimen_id != specimen.specimen_id)
        or (report.order_number and report.order_number not in numbers)
        or (claimed and specimen.specimen_id not in claimed)
        or (report.patient_id and report.patient_id != patient.mrn)
        or (any(name) and name != (patient.last_name, patient.first_name))
        or (report.birth_date and patient.birth_date and report.birth_date != patient.birth_date)
        or (worklist.confirmation and worklist.confirmation.specimen_id != specimen.specimen_id)
    )
    if contradicted:
        return False

    label, order = bool(report.specimen_id), bool(report.order_number)
    check = label and specimen.issued
    claim = bool(claimed)
    patient_id = bool(report.patient_id)
    named = any(name) or bool(report.birth_date and patient.birth_date)
    confirmed = worklist.confirmation is not None

    # Exactly one: no other specimen that the same labels, numbers and claims point to.
    others = [other for other in register.values() if other != specimen and not other.cancelled]
    if label or order or claimed_here:
        rivals = [
            other
            for other in others
            if (not label or other.specimen_id == report.specimen_id)
            and (not order or report.order_number in {test.placer_order for test in other.tests})
            and (not claimed_here or other.specimen_id in claimed)
            and (not patient_id or other.patient.mrn == report.patient_id)
            and open_tests(other, reading, worklist)[0]
        ]
        by_patient_alone = False
    else:
        time = true_time(reading)
        when = reading.heard_at if time is None or doubtful(reading) else time
        near = {
            entry.specimen.specimen_id
            for entry in worklist.specimens
            if any(test.ordered_at and abs(test.ordered_at - when) <= 24 * HOUR for test in entry.specimen.tests)
        }
        rivals = [
            other
            for other in others
            if other.patient.mrn == patient.mrn and other.specimen_id in near and open_tests(other, reading, worklist)[1]
        ]
        by_patient_alone = True
        if specimen.specimen_id not in near:
            return False
    if rivals:
        return False

    without_time = (check) or ((label or order) and (patient_id or named or confirmed))
    if not by_patient_alone:
        without_time = without_time or (patient_id and (named or confirmed))
    row_1 = label and check
    row_2 = (label or order) and (claim or patient_id or named or confirmed)
    row_3 = patient_id and (named or claim or confirmed)
    row_4 = claim and (label or order or patient_id or named or confirmed or not rules.confirm_claims)
    if doubtful(reading) and not without_time:
        return False
    return bool(row_1 or row_2 or row_3 or row_4)


def doubtful(reading: Reading) -> bool:
    time, five = true_time(reading), 5 * MINUTE
    if time is None or reading.clock_doubtful or time - reading.heard_at > five:
        return True
    if reading.clock_offset is None:
        return reading.heard_at - time > five
    return abs(reading.clock_offset) > five


# --- the properties ----------------------------------------------------------------------------------------------------------


@given(scenes())
@settings(COMMON, max_examples=500)
def test_what_is_filed_is_exactly_what_the_rules_say(scene: tuple[Reading, Worklist, Rules]) -> None:
    reading, worklist, rules = scene
    verdict = decide(reading, worklist, rules)
    allowed = {entry.specimen.specimen_id for entry in worklist.specimens if may_file(entry.specimen, reading, worklist, rules)}
    event(verdict.reason if isinstance(verdict, Hold) else type(verdict).__name__)
    filed = {verdict.specimen.specimen_id} if isinstance(verdict, Match) else set()
    assert filed == allowed


@given(scenes(), st.sets(st.sampled_from(Reason)), st.sampled_from(PATIENTS))
@settings(COMMON, max_examples=200)
def test_whatever_is_released_some_things_are_never_filed(
    scene: tuple[Reading, Worklist, Rules], reasons: set[Reason], person: Patient
) -> None:
    reading, worklist, rules = scene
    release = Release(frozenset(reasons), person.last_name, person.first_name, person.birth_date or NINE.date(), "kim")
    verdict = decide(reading, replace(worklist, release=release), rules)
    event(type(verdict).__name__)
    if reading.report.kind is not SampleKind.PATIENT:
        assert isinstance(verdict, ToQc | Hold)
    if not isinstance(verdict, Match):
        return
    specimen = verdict.specimen
    assert not specimen.cancelled
    assert not specimen.reference_lab
    assert not reading.unknown_analytes
    assert not reading.unknown_units
    assert all(test in specimen.tests and test.code in reading.asked_by[0] for test in verdict.tests)
    if worklist.assignment:
        assert specimen.patient.last_name == worklist.assignment.last_name
        assert specimen.patient.birth_date == worklist.assignment.birth_date
        return
    # No other patient's specimen, by anything that was stated or by whom the release named.
    assert reading.report.patient_id in ("", specimen.patient.mrn)
    assert reading.report.last_name in ("", specimen.patient.last_name)
    assert reading.report.specimen_id in ("", specimen.specimen_id)
    assert (person.last_name, person.first_name) == (specimen.patient.last_name, specimen.patient.first_name)
    # No reading from before a claim.
    time = true_time(reading)
    for claim in worklist.claims:
        if claim.id == verdict.claim:
            assert claim.specimen_id == specimen.specimen_id
            assert reading.heard_at >= claim.started_at
            assert time is None or time + reading.report.precision > claim.started_at


@given(scenes(), st.data())
@settings(COMMON, max_examples=100)
def test_the_order_of_lists_means_nothing_and_the_same_is_decided_again(
    scene: tuple[Reading, Worklist, Rules], data: st.DataObject
) -> None:
    reading, worklist, rules = scene
    shuffled = replace(
        worklist,
        specimens=tuple(data.draw(st.permutations(worklist.specimens))),
        claims=tuple(data.draw(st.permutations(worklist.claims))),
        neighbours=tuple(data.draw(st.permutations(worklist.neighbours))),
        filed=tuple(data.draw(st.permutations(worklist.filed))),
    )
    verdict = decide(reading, worklist, rules)
    assert decide(reading, worklist, rules) == verdict
    assert decide(reading, shuffled, rules) == verdict


VERSIONS = st.lists(
    st.tuples(
        st.sampled_from(("5", "6", "7")),  # the value
        st.sampled_from(("", "M1", "M2")),  # the patient id
        st.sampled_from(("held", "posted", "queued", "superseded", "dismissed")),
        st.sampled_from(("", *LABELS)),  # filed to
    ),
    max_size=3,
)


@given(scenes(), VERSIONS, st.sampled_from(("", "SN1-412")))
@settings(COMMON, max_examples=200)
def test_earlier_versions_never_lead_a_result_into_another_chart(
    scene: tuple[Reading, Worklist, Rules], versions: list[tuple[str, str, str, str]], identity: str
) -> None:
    reading, worklist, rules = scene
    fields = (identity,) if identity else ()
    reading = replace(reading, report=replace(reading.report, identity=fields))
    earlier = tuple(
        EarlierVersion(
            number,
            replace(reading.report, observations=(Observation("X", value, "u"),), patient_id=patient_id),
            state,
            number,
            filed_to if state in ("posted", "queued", "superseded") else "",
        )
        for number, (value, patient_id, state, filed_to) in enumerate(versions, 1)
    )
    alone = decide(reading, worklist, rules)
    verdicts = {repr(decide(reading, replace(worklist, earlier=order), rules)) for order in permutations(earlier)}
    assert len(verdicts) == 1
    verdict = decide(reading, replace(worklist, earlier=earlier), rules)
    event(f"{type(alone).__name__} alone, {type(verdict).__name__} with {len(earlier)} earlier")
    if not identity:
        assert verdict == alone
    if isinstance(verdict, Duplicate):
        said = earlier[verdict.of - 1]
        assert said.report == reading.report
        assert said.state != "superseded"
    if isinstance(verdict, Match):
        assert isinstance(alone, Match)  # an earlier version is never what lets a result file
        assert verdict.specimen == alone.specimen
        filed_to = {one.filed_to for one in earlier if one.filed_to} if identity else set()
        assert filed_to <= {verdict.specimen.specimen_id} or worklist.assignment
        here = [one for one in earlier if one.filed_to == verdict.specimen.specimen_id] if identity else []
        assert verdict.version == max((one.version for one in here), default=0) + 1
        assert (verdict.corrects is None) == (not here)
