"""Decides whose result this is: it is filed on two agreeing pieces of evidence, or it waits for a person. Nothing is guessed.

`decide` is a pure function of a reading, what the store knows that bears on it, and the site's rules. It never asks what time
it is now, so catching up after an outage gives the verdicts that would have been given then. The rules stand in two tables:
`FILES_WHEN` says which pieces file, `_BEFORE` and `_AFTER` in which order the doubts are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..drivers.report import SampleKind
from ..hl7.chart import OrderedTest, Specimen
from ..hl7.label import is_checked
from .evidence import (
    AMBIGUOUS,
    RELEASABLE,
    Assignment,
    EarlierVersion,
    Evidence,
    Reading,
    Reason,
    Rules,
    Worklist,
    clock_doubt,
    not_taken,
    patient_differs,
    same_content,
    suffices,
    two_identifiers,
    within_window,
)
from .fitting import OTHER_PATIENT_ID, Fit, already_filed, asked_tests, weigh


@dataclass(frozen=True, slots=True)
class Match:
    """The result belongs to this specimen and answers these tests (the first is the one, or the panel, to chart it under)."""

    specimen: Specimen
    tests: tuple[OrderedTest, ...]
    pieces: frozenset[Evidence]
    evidence: tuple[str, ...]  # in words, as they are stored with the result
    why: str
    claim: int | None = None  # the claim that this result uses up
    version: int = 1  # 2 and up: a correction, under the filler number of the report `corrects`
    corrects: int | None = None
    supersedes: tuple[int, ...] = ()  # earlier versions that were held and need no person any more
    contradicts: tuple[int, ...] = ()  # earlier versions filed to another specimen, to be retracted; only where assigned

    @property
    def test(self) -> OrderedTest:
        return self.tests[0]


@dataclass(frozen=True, slots=True)
class Hold:
    """A person must look at this result."""

    reason: Reason
    why: str
    candidates: tuple[Fit, ...] = ()  # by label
    supersedes: tuple[int, ...] = ()  # earlier versions that were held: this one waits in their place
    contradicts: tuple[int, ...] = ()  # earlier versions already filed: an alarm


@dataclass(frozen=True, slots=True)
class ToQc:
    """Not a patient's result: to the QC log."""

    why: str
    contradicts: tuple[int, ...] = ()  # earlier versions filed to a chart: an alarm


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The instrument says again what the report `of` said."""

    of: int
    why: str


@dataclass(frozen=True, slots=True)
class History:
    """A reading of a meter's memory from before the instrument was set up here: kept, and quiet."""

    why: str


Verdict = Match | Hold | ToQc | Duplicate | History


def decide(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict:
    """Return what becomes of this reading. Pure: the same arguments give the same verdict, in whatever order lists come.

    Raises `ValueError` for a report with a `problem`: what could not be read has no verdict, it is unreadable.
    """
    report = reading.report
    if report.problem:
        message = "an unreadable report is not matched"
        raise ValueError(message)
    earlier = tuple(
        sorted((e for e in worklist.earlier if report.identity and e.report.identity == report.identity), key=lambda e: e.id)
    )
    later = tuple(e for e in worklist.later if e.report.identity == report.identity and e.state not in _NO_LONGER_SAID)
    worklist = replace(worklist, earlier=earlier, later=later)
    verdict = next((found for rule in _BEFORE if (found := rule(reading, worklist, rules))), None)
    verdict = verdict or _match(reading, worklist, rules)
    if isinstance(verdict, Hold | Match):
        held = tuple(e.id for e in earlier if e.state == "held" and not patient_differs(e.report, report))
        verdict = replace(verdict, supersedes=held)
    return verdict


# --- before anything is compared with a specimen ---------------------------------------------------------------------------


def _said_before(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict | None:  # noqa: ARG001
    for earlier in worklist.earlier:
        if earlier.state != "superseded" and same_content(earlier.report, reading.report):
            return Duplicate(earlier.id, f"the instrument said the same before, as result {earlier.id}")
    return None


_QC = {
    SampleKind.CONTROL: "a control",
    SampleKind.CALIBRATION: "a calibration",
    SampleKind.LINEARITY: "a linearity check",
    SampleKind.PROFICIENCY: "a proficiency test",
    SampleKind.ERROR: "the instrument could not measure",
}


def _control_under_a_label(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict | None:  # noqa: ARG001
    """The site's patterns for ids of controls may be wider than meant: a patient's result must not vanish in the QC log."""
    stated = {reading.report.specimen_id.strip(), reading.report.patient_id.strip()} - {""}
    ids = {text for entry in worklist.specimens for text in (entry.specimen.specimen_id, entry.specimen.patient.mrn)}
    if reading.report.kind_by_id and stated & ids:
        return Hold(Reason.SAMPLE_KIND_UNKNOWN, "its id is a patient's, and fits the site's pattern for controls (control_ids)")
    return None


def _not_of_a_patient(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict | None:  # noqa: ARG001
    kind = reading.report.kind
    if kind in _QC:
        return ToQc(_QC[kind], tuple(e.id for e in worklist.earlier if e.filed_to))
    if kind is not SampleKind.PATIENT:
        return Hold(Reason.SAMPLE_KIND_UNKNOWN, "the instrument does not say whether this is a patient's specimen or a control")
    others = (*worklist.earlier, *worklist.later)
    if other := next((e for e in others if e.report.kind in _QC and e.report.kind is not SampleKind.ERROR), None):
        return Hold(Reason.SAMPLE_KIND_UNKNOWN, f"the instrument also said, as result {other.id}: {_QC[other.report.kind]}")
    return None


def _history(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict | None:  # noqa: ARG001
    stated, observed, since = reading.stated_at, reading.observed_at, rules.history_before
    # A clock that was reset makes new readings look old, so the clock must be known, and both times must be before.
    if stated is None or observed is None or since is None or reading.clock_offset is None or reading.clock_doubtful:
        return None
    if max(stated, observed) + reading.report.precision > since:
        return None
    return History("from before this instrument was set up here")


def _other_patient(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict | None:  # noqa: ARG001
    before = [e for e in worklist.earlier if e.state != "superseded" and patient_differs(e.report, reading.report)]
    since = [e for e in worklist.later if patient_differs(e.report, reading.report)]
    if not (before or since) or worklist.assignment:
        return None
    why = f"the instrument said the same measurement of another patient or specimen, as result {(before + since)[-1].id}"
    return Hold(Reason.IDENTITY_CONFLICT, why, contradicts=tuple(e.id for e in before if e.filed_to))


def _unknown_codes(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict | None:  # noqa: ARG001
    if reading.unknown_analytes:
        return Hold(Reason.UNKNOWN_ANALYTE, f"not in the catalog: {', '.join(sorted(reading.unknown_analytes))}")
    if reading.unknown_units:
        return Hold(Reason.UNKNOWN_UNIT, f"not a unit of the catalog: {', '.join(sorted(reading.unknown_units))}")
    return None


_NO_LONGER_SAID = frozenset({"superseded", "dismissed"})

_BEFORE: tuple[Callable[[Reading, Worklist, Rules], Verdict | None], ...] = (
    _said_before,
    _control_under_a_label,
    _not_of_a_patient,
    _history,
    _other_patient,
    _unknown_codes,
)


# --- which specimen ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Case:
    """One specimen fits; what is left to doubt is asked of this."""

    reading: Reading
    worklist: Worklist
    rules: Rules
    fit: Fit
    by_window: bool = False  # the patient id alone led here, and time decided which specimens count

    @property
    def pieces(self) -> frozenset[Evidence]:
        return self.fit.agrees

    @property
    def tests(self) -> tuple[OrderedTest, ...]:
        label = self.fit.specimen.specimen_id
        answered = frozenset(test for e in self.worklist.earlier if e.filed_to == label for test in e.tests)
        return asked_tests(self.fit.specimen, self.reading, self.worklist.filed, answered)

    @property
    def rests_on_time(self) -> bool:
        timeless = self.pieces - {Evidence.CLAIM} - ({Evidence.PATIENT_ID} if self.by_window else set())
        return (self.by_window or Evidence.CLAIM in self.pieces) and not suffices(timeless, confirm_claims=True)


def _match(reading: Reading, worklist: Worklist, rules: Rules) -> Verdict:
    assignment = worklist.assignment
    case = _assigned(reading, worklist, rules, assignment) if assignment else _identified(reading, worklist, rules)
    if isinstance(case, Hold):
        return case
    specimen, release = case.fit.specimen, worklist.release
    notes = []
    for check in _AFTER:
        if hold := check(case):
            if release and hold.reason in release.reasons & RELEASABLE and two_identifiers(release, specimen.patient):
                notes.append(f"{hold.reason} released by {release.who}: {hold.why}")
                continue
            return hold
    if Evidence.ASSIGNMENT in case.pieces:
        notes += [f"assigned although {words}" for words in case.fit.against]
    elif not suffices(case.pieces, confirm_claims=True):
        notes.append("claims on this instrument need no confirmation (confirm_claims = false)")
    same = [e for e in worklist.earlier if e.filed_to == specimen.specimen_id]
    corrected = max(same, key=lambda e: (e.version, e.id), default=None)
    evidence = tuple(piece.value for piece in Evidence if piece in case.pieces) + tuple(notes)
    return Match(
        specimen,
        case.tests,
        case.pieces,
        evidence,
        why=f"{specimen.specimen_id}: {'; '.join(evidence)}",
        claim=case.fit.claim.id if case.fit.claim else None,
        version=corrected.version + 1 if corrected else 1,
        corrects=corrected.id if corrected else None,
        contradicts=tuple(e.id for e in _filed_elsewhere(case)),
    )


def _assigned(reading: Reading, worklist: Worklist, rules: Rules, assignment: Assignment) -> _Case | Hold:
    fit = next((f for f in weigh(reading, worklist) if f.specimen.specimen_id == assignment.specimen_id), None)
    if fit is None or fit.specimen.cancelled:
        return Hold(Reason.LABEL_UNKNOWN, f"assigned to {assignment.specimen_id}, which is not registered or was cancelled")
    if not two_identifiers(assignment, fit.specimen.patient):
        why = f"the name and birth date given by {assignment.who} are not those of {assignment.specimen_id}"
        return Hold(Reason.IDENTITY_CONFLICT, why, (fit,))
    return _Case(reading, worklist, rules, replace(fit, agrees=fit.agrees | {Evidence.ASSIGNMENT}))


# What names one specimen by itself; each of these that is there must name the specimen that is filed to.
_POINTERS = frozenset({Evidence.LABEL, Evidence.ORDER, Evidence.CLAIM})


def _identified(reading: Reading, worklist: Worklist, rules: Rules) -> _Case | Hold:
    fits = weigh(reading, worklist)
    if unknown := _label_unknown(reading, fits):
        return unknown
    pointers = _POINTERS & frozenset().union(*(fit.agrees for fit in fits))
    if not pointers:
        return _by_patient_id(reading, worklist, rules, fits)
    pointed = tuple(fit for fit in fits if fit.agrees & pointers)
    agreed = [fit for fit in pointed if fit.agrees >= pointers and OTHER_PATIENT_ID not in fit.against]
    if not agreed:
        against = "; ".join(f"{fit.specimen.specimen_id}: {', '.join(fit.against)}" for fit in pointed)
        return Hold(Reason.IDENTITY_CONFLICT, f"what is stated does not agree: {against}", pointed)
    live = [fit for fit in agreed if not fit.specimen.cancelled]
    if not live:
        return Hold(Reason.LABEL_UNKNOWN, f"{_labels(agreed)} was cancelled", pointed)
    asked = [fit for fit in live if asked_tests(fit.specimen, reading, worklist.filed)]
    found = _the_only_one(asked or live)
    return found if isinstance(found, Hold) else _Case(reading, worklist, rules, found)


def _label_unknown(reading: Reading, fits: tuple[Fit, ...]) -> Hold | None:
    label, order = reading.report.specimen_id.strip(), reading.report.order_number.strip()
    found = tuple(fit for fit in fits if Evidence.LABEL in fit.agrees)
    if label and not found:
        return Hold(Reason.LABEL_UNKNOWN, "no specimen is registered under the label that was read")
    for fit in found:
        if fit.specimen.cancelled:
            return Hold(Reason.LABEL_UNKNOWN, f"the specimen {label} was cancelled", found)
        if fit.specimen.issued and not is_checked(label):
            return Hold(Reason.LABEL_UNKNOWN, f"the check character of {label} is wrong", found)
    ordered = tuple(fit for fit in fits if Evidence.ORDER in fit.agrees)
    if order and not any(not fit.specimen.cancelled for fit in ordered):
        return Hold(Reason.LABEL_UNKNOWN, "no order is open under the number that was stated", ordered)
    return None


def _by_patient_id(reading: Reading, worklist: Worklist, rules: Rules, fits: tuple[Fit, ...]) -> _Case | Hold:
    # Where the clock is in doubt the time heard must do; the doubt is then raised, because the window is evidence.
    when = reading.heard_at if clock_doubt(reading, rules) else reading.observed_at or reading.heard_at
    near = {entry.specimen.specimen_id for entry in worklist.specimens if within_window(entry, when, rules)}
    mine = [fit for fit in fits if Evidence.PATIENT_ID in fit.agrees and fit.specimen.specimen_id in near]
    live = [fit for fit in mine if not fit.specimen.cancelled]
    if not live:
        return _nothing_fits(reading, worklist, fits)
    tests = {fit: asked_tests(fit.specimen, reading, worklist.filed) for fit in live}
    asked = [fit for fit in live if tests[fit]]
    if not asked:
        return Hold(Reason.TEST_NOT_ORDERED, "no open order of this patient asks for this test", tuple(live))
    unfiled = [fit for fit in asked if not already_filed(fit.specimen, tests[fit], worklist.filed)]
    found = _the_only_one(unfiled or asked)
    return found if isinstance(found, Hold) else _Case(reading, worklist, rules, found, by_window=True)


def _nothing_fits(reading: Reading, worklist: Worklist, fits: tuple[Fit, ...]) -> Hold:
    claims = sorted(worklist.claims, key=lambda claim: (claim.started_at, claim.id))
    untaken = [(claim.specimen_id, not_taken(claim, reading, worklist.neighbours)) for claim in claims]
    claimed = sorted({specimen_id for specimen_id, why in untaken if why == AMBIGUOUS})
    if claimed:
        why = f"{', '.join(claimed)} was claimed, and more than one reading has come since"
        return Hold(Reason.SEVERAL_SPECIMENS, why, tuple(fit for fit in fits if fit.specimen.specimen_id in claimed))
    words = ["no label, order number or patient id of an open specimen was stated, and no claim takes this result"]
    words += [f"the claim on {specimen_id} {why}" for specimen_id, why in untaken if why]
    return Hold(Reason.NO_SPECIMEN, "; ".join(words), fits)


def _the_only_one(fits: list[Fit]) -> Fit | Hold:
    if len(fits) > 1:
        return Hold(Reason.SEVERAL_SPECIMENS, f"more than one specimen fits: {_labels(fits)}", tuple(fits))
    if fits[0].against:
        return Hold(Reason.IDENTITY_CONFLICT, f"{_labels(fits)}: {'; '.join(fits[0].against)}", tuple(fits))
    return fits[0]


def _labels(fits: Iterable[Fit]) -> str:
    return ", ".join(fit.specimen.specimen_id for fit in fits)


# --- which test, and the last doubts -----------------------------------------------------------------------------------------


def _filed_elsewhere(case: _Case) -> list[EarlierVersion]:
    return [e for e in case.worklist.earlier if e.filed_to and e.filed_to != case.fit.specimen.specimen_id]


def _test_not_ordered(case: _Case) -> Hold | None:
    if case.tests:
        return None
    label = case.fit.specimen.specimen_id
    return Hold(Reason.TEST_NOT_ORDERED, f"{label} is not asked for everything in this result", (case.fit,))


def _belongs_elsewhere(case: _Case) -> Hold | None:
    elsewhere = _filed_elsewhere(case)
    if not elsewhere or Evidence.ASSIGNMENT in case.pieces:
        return None
    why = f"{case.fit.specimen.specimen_id} fits, but result {elsewhere[-1].id} of the same measurement was filed elsewhere"
    return Hold(Reason.IDENTITY_CONFLICT, why, (case.fit,), contradicts=tuple(e.id for e in elsewhere))


def _conflicting_repeat(case: _Case) -> Hold | None:
    if already_filed(case.fit.specimen, case.tests, case.worklist.filed):
        why = f"{case.fit.specimen.specimen_id} already has a result of this test from another reading"
        return Hold(Reason.CONFLICTING_REPEAT, why, (case.fit,))
    if any(same_content(e.report, case.reading.report) for e in case.worklist.earlier):
        return Hold(Reason.CONFLICTING_REPEAT, "the instrument returns to a value that it has since corrected", (case.fit,))
    return None


def _clock_doubtful(case: _Case) -> Hold | None:
    doubt = clock_doubt(case.reading, case.rules)
    if not doubt or not case.rests_on_time:
        return None
    evidence = "the order window" if case.by_window else "the claim"
    return Hold(Reason.CLOCK_DOUBTFUL, f"{doubt}, and {evidence} rests on the time", (case.fit,))


def _confirmation_due(case: _Case) -> Hold | None:
    if suffices(case.pieces, case.rules.confirm_claims):
        return None
    known = "; ".join(piece.value for piece in Evidence if piece in case.pieces)
    return Hold(Reason.CONFIRMATION_DUE, f"for {case.fit.specimen.specimen_id} speaks only: {known}", (case.fit,))


def _implausible(case: _Case) -> Hold | None:
    if not case.reading.implausible:
        return None
    return Hold(Reason.IMPLAUSIBLE, f"outside plausible limits: {', '.join(sorted(case.reading.implausible))}", (case.fit,))


_AFTER: tuple[Callable[[_Case], Hold | None], ...] = (
    _test_not_ordered,
    _belongs_elsewhere,
    _conflicting_repeat,
    _clock_doubtful,
    _confirmation_due,
    _implausible,
)
