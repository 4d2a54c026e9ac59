"""What speaks for a result belonging to a specimen: the pieces, the rows by which they file, and what a verdict looks at.

Values and their comparison only. A piece either agrees with a specimen, disagrees, or was not stated; nothing is fuzzy.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum

from ..drivers.report import Report
from ..hl7.chart import Patient, Specimen


class Evidence(StrEnum):
    """One piece of evidence that a result belongs to a specimen, in words for the screens and the record."""

    LABEL = "label read at the instrument"
    ORDER = "order number stated by the instrument"
    CHECK = "the label's own check character"
    CLAIM = "claim: the specimen was being run on this instrument"
    PATIENT_ID = "patient id stated by the instrument"
    NAME = "name stated by the instrument"
    BIRTH_DATE = "birth date stated by the instrument"
    CONFIRMATION = "confirmed by a person who saw value, time and patient"
    ASSIGNMENT = "assigned by a person, by label, name and birth date"


# Files when exactly one specimen fits by a piece of the left and a piece of the right. Label and order number are one piece
# (one barcode may carry both), so they do not second each other; a name or a birth date is never on the left.
_SECONDS = frozenset({Evidence.PATIENT_ID, Evidence.NAME, Evidence.BIRTH_DATE, Evidence.CONFIRMATION})
FILES_WHEN: tuple[tuple[frozenset[Evidence], frozenset[Evidence]], ...] = (
    (frozenset({Evidence.LABEL}), frozenset({Evidence.CHECK})),
    (frozenset({Evidence.LABEL, Evidence.ORDER}), _SECONDS | {Evidence.CLAIM}),
    (frozenset({Evidence.PATIENT_ID}), frozenset({Evidence.NAME, Evidence.BIRTH_DATE, Evidence.CLAIM, Evidence.CONFIRMATION})),
    (frozenset({Evidence.CLAIM}), _SECONDS | {Evidence.LABEL, Evidence.ORDER}),
    (frozenset({Evidence.ASSIGNMENT}), frozenset({Evidence.ASSIGNMENT})),
)


def suffices(pieces: frozenset[Evidence], confirm_claims: bool) -> bool:
    """Whether these agreeing pieces file a result; with `confirm_claims` off a claim alone does."""
    if not confirm_claims and Evidence.CLAIM in pieces:
        return True
    return any(pieces & left and pieces & right for left, right in FILES_WHEN)


class Reason(StrEnum):
    """Why a result waits for a person."""

    NO_SPECIMEN = "NO_SPECIMEN"
    SEVERAL_SPECIMENS = "SEVERAL_SPECIMENS"
    LABEL_UNKNOWN = "LABEL_UNKNOWN"
    IDENTITY_CONFLICT = "IDENTITY_CONFLICT"
    TEST_NOT_ORDERED = "TEST_NOT_ORDERED"
    CONFIRMATION_DUE = "CONFIRMATION_DUE"
    UNKNOWN_ANALYTE = "UNKNOWN_ANALYTE"
    UNKNOWN_UNIT = "UNKNOWN_UNIT"
    CLOCK_DOUBTFUL = "CLOCK_DOUBTFUL"
    SAMPLE_KIND_UNKNOWN = "SAMPLE_KIND_UNKNOWN"
    CONFLICTING_REPEAT = "CONFLICTING_REPEAT"
    QC_LOCKOUT = "QC_LOCKOUT"
    IMPLAUSIBLE = "IMPLAUSIBLE"
    NOT_CONFORMANT = "NOT_CONFORMANT"


# The only holds that a release waives. The others are mended where they arise: catalog, options, register, assignment.
RELEASABLE = frozenset({Reason.CLOCK_DOUBTFUL, Reason.CONFLICTING_REPEAT, Reason.QC_LOCKOUT, Reason.IMPLAUSIBLE})


@dataclass(frozen=True, slots=True)
class Claim:
    """An MA's word that a specimen is being run on an instrument now."""

    id: int
    specimen_id: str
    instrument: str
    started_at: datetime  # aware, by the agent's clock
    expires_at: datetime
    ended_at: datetime | None = None  # by a person or the next claim
    used: bool = False  # another reading (not an earlier version of this one) was filed by it

    @property
    def until(self) -> datetime:
        return self.expires_at if self.ended_at is None else min(self.ended_at, self.expires_at)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another reading of the same instrument, which may be the one that a claim was made for."""

    heard_at: datetime
    observed_at: datetime | None  # offset-corrected; None where its clock is in doubt
    precision: timedelta = timedelta(seconds=1)
    same_read: bool = False  # heard in the same reading of the instrument's memory as the reading in question


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A person saw value, time and patient of this result and said yes."""

    specimen_id: str  # the specimen whose patient was shown
    who: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """A person gave this one result to a specimen, by its label and two identifiers of its patient."""

    specimen_id: str
    last_name: str = field(repr=False)
    first_name: str = field(repr=False)
    birth_date: date = field(repr=False)
    who: str


@dataclass(frozen=True, slots=True)
class Release:
    """A person looked at a hold and let this result go, naming two identifiers of its patient."""

    reasons: frozenset[Reason]  # the holds that the person was shown
    last_name: str = field(repr=False)
    first_name: str = field(repr=False)
    birth_date: date = field(repr=False)
    who: str


@dataclass(frozen=True, slots=True)
class Filed:
    """A test of a specimen that another reading has already been filed to, and not retracted from."""

    specimen_id: str
    placer_order: str
    code: str


@dataclass(frozen=True, slots=True)
class EarlierVersion:
    """Another report with the same identity from the same instrument; mostly an earlier one."""

    id: int
    report: Report
    state: str  # as in the ledger; a superseded one no longer stands
    version: int = 1
    filed_to: str = ""  # the specimen that its message names, whatever became of delivery; "" where none, or retracted
    tests: tuple[tuple[str, str], ...] = ()  # placer order and code of each ordered test that it is filed to


@dataclass(frozen=True, slots=True)
class Entry:
    """A specimen of the register."""

    specimen: Specimen
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class Reading:
    """One report with what the agent knows of its times and its codes. All times are aware.

    `clock_offset` is how far the instrument's clock was ahead at this contact, measured at the clock's own precision: a clock
    of minutes that shows the right minute is 0 ahead. None: the instrument does not tell its clock.
    """

    report: Report
    instrument: str
    heard_at: datetime
    stated_at: datetime | None = None  # as the instrument's clock has it, in the site's zone; None: no valid time stated
    clock_offset: timedelta | None = None
    clock_doubtful: bool = False  # the offset has jumped since the contact before, or the stated time fits no local time
    asked_by: tuple[frozenset[str], ...] = ()
    # asked_by: the order codes of the catalog row of each observation; for a report without observations (an EKG's
    # statements) one set for the whole. An empty set goes along with the others (a calculated ratio).
    unknown_analytes: tuple[str, ...] = ()  # codes that the catalog does not list for this driver
    unknown_units: tuple[str, ...] = ()  # "GLU in mmol/L": listed codes with a unit that is not
    implausible: tuple[str, ...] = ()  # codes whose value lies outside the catalog's plausible limits

    @property
    def observed_at(self) -> datetime | None:
        """The true time of the test: as stated, corrected by the offset where one was measured."""
        if self.stated_at is None:
            return None
        return self.stated_at - (self.clock_offset or timedelta())


@dataclass(frozen=True, slots=True)
class Worklist:
    """Everything of the store that bears on one reading. The order of the tuples means nothing.

    `specimens` holds, cancelled ones too and each once, every specimen whose label is the stated label, that has a test under
    the stated order number or has that number as its label, whose patient has the stated patient id, or that a claim, the
    confirmation or the assignment below names. `claims` are those on this instrument that had started by the time heard and
    reach to 24 h before the test or later. `neighbours` are this instrument's other readings of kind patient or unknown, in
    whatever state, since the first of these claims started; without duplicates and without other versions of this reading.
    `filed` are the tests of these specimens with a result of another reading. `earlier` has the reports of the same identity
    that were heard before this one (none where the report has no identity), without duplicates and unreadable ones; `later`
    those that were heard since, where a held report is looked at again.
    """

    specimens: tuple[Entry, ...] = ()
    claims: tuple[Claim, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    filed: tuple[Filed, ...] = ()
    earlier: tuple[EarlierVersion, ...] = ()
    later: tuple[EarlierVersion, ...] = ()
    confirmation: Confirmation | None = None
    assignment: Assignment | None = None
    release: Release | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the site file says of matching."""

    order_window: timedelta = timedelta(hours=24)
    clock_tolerance: timedelta = timedelta(minutes=5)
    confirm_claims: bool = True
    history_before: datetime | None = None  # a memory's older readings are history: when this instrument was set up here


def clock_doubt(reading: Reading, rules: Rules) -> str:
    """Why the time of this test is no evidence, in words; "" where it is."""
    observed_at, offset, tolerance = reading.observed_at, reading.clock_offset, rules.clock_tolerance
    if observed_at is None:
        return "the instrument stated no valid time"
    if reading.clock_doubtful:
        return "the instrument's clock was changed or its time is ambiguous"
    if offset is not None and abs(offset) > tolerance:
        side = "ahead" if offset > timedelta() else "behind"
        return f"the instrument's clock is {abs(offset) // timedelta(minutes=1)} min {side}"
    if observed_at > reading.heard_at + tolerance:
        return "the stated time of the test is later than the time it was heard"
    if offset is None and observed_at < reading.heard_at - tolerance:
        return "the stated time is long before the time heard, and the instrument does not tell its clock"
    return ""


AMBIGUOUS = "fits more than one reading"


def not_taken(claim: Claim, reading: Reading, neighbours: tuple[Neighbour, ...]) -> str:
    """Why this claim does not take this reading, in words; "" where it does.

    The test's time is a span as long as the instrument's precision, so that a clock of minutes loses no claim made within
    that minute. A reading whose time was not stated is judged by the time heard; the doubt is `clock_doubt`'s to tell.
    """
    if claim.instrument != reading.instrument:
        return "was made for another instrument"
    if claim.used:
        return "was used by another reading"
    if reading.heard_at < claim.started_at:
        return "was made after this result was heard"
    if not _ends_after(claim.started_at, reading.heard_at, reading.observed_at, reading.report.precision):
        return "was made after this test"
    if (reading.observed_at or reading.heard_at) > claim.until:
        return "had ended before this test"
    if any(_since(claim, other) for other in neighbours):
        return AMBIGUOUS
    return ""


def _since(claim: Claim, other: Neighbour) -> bool:
    started = claim.started_at
    if other.heard_at < started or not _ends_after(started, other.heard_at, other.observed_at, other.precision):
        return False
    return other.same_read or (other.observed_at or other.heard_at) <= claim.until


def _ends_after(start: datetime, heard_at: datetime, observed_at: datetime | None, precision: timedelta) -> bool:
    if observed_at is None:
        return heard_at >= start
    return observed_at >= start or observed_at + precision > start


def within_window(entry: Entry, when: datetime, rules: Rules) -> bool:
    """Whether a specimen was ordered, collected or, where neither is known, registered near enough to `when`."""
    specimen = entry.specimen
    stated = [test.ordered_at for test in specimen.tests] + [specimen.collected_at]
    times = [time for time in stated if time is not None] or [entry.registered_at]
    return any(abs(when - time) <= rules.order_window for time in times)


def same_content(one: Report, other: Report) -> bool:
    """Whether two reports state the same, whatever the instrument's clock showed at the contact."""
    return _content(one) == _content(other)


def _content(report: Report) -> tuple[object, ...]:
    return tuple(getattr(report, name) for name in Report.__slots__ if name != "clock")


def patient_differs(one: Report, other: Report) -> bool:
    """Whether two reports name different people or specimens by anything that both of them state."""
    pairs = ((one.specimen_id, other.specimen_id), (one.order_number, other.order_number), (one.patient_id, other.patient_id))
    return (
        any(mine.strip() != theirs.strip() for mine, theirs in pairs if mine.strip() and theirs.strip())
        or name_agrees(one.last_name, one.first_name, other.last_name, other.first_name) is False
        or (None not in (one.birth_date, other.birth_date) and one.birth_date != other.birth_date)
    )


def name_agrees(last: str, first: str, other_last: str, other_first: str) -> bool | None:
    """Whether two names are the same: True where both are whole and equal, False where a part differs, None else.

    Letter case, accents, hyphens, apostrophes and spaces do not count; nothing else is forgiven. An instrument that has one
    field for the name puts the whole in `last`.
    """
    mine, theirs = (_plain(last), _plain(first)), (_plain(other_last), _plain(other_first))
    if all(mine) and all(theirs):
        return mine == theirs
    if mine[0] and not mine[1] and all(theirs) and mine[0] == "".join(theirs):
        return True
    return False if any(a and b and a != b for a, b in zip(mine, theirs, strict=True)) else None


def two_identifiers(person: Assignment | Release, patient: Patient) -> bool:
    """Whether name and birth date that a person gave are both those of this patient."""
    named = name_agrees(person.last_name, person.first_name, patient.last_name, patient.first_name)
    return named is True and person.birth_date == patient.birth_date


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold().translate(_STROKES))
    return re.sub(r"[\W_]", "", "".join(c for c in letters if not unicodedata.combining(c)).casefold())


_STROKES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i"})  # accents to a reader, letters of their own to Unicode
