"""Each rule of matching as a sentence: what files, what waits and why, what is quiet."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from chartbound.agent.evidence import (
    Assignment,
    Confirmation,
    EarlierVersion,
    Evidence,
    Filed,
    Reading,
    Reason,
    Release,
    Worklist,
)
from chartbound.agent.matching import Duplicate, ToQc, decide
from chartbound.drivers.report import Observation, SampleKind
from chartbound.hl7.chart import OrderedTest

from .matching_scene import (
    ANA,
    BEN,
    CLAIMED,
    ENTRY,
    GLUCOSE,
    NINE,
    OURS,
    RULES,
    THEIRS,
    YES,
    claim,
    entry,
    held,
    matched,
    reading,
)

# --- what files --------------------------------------------------------------------------------------------------------------


def test_our_label_with_its_check_character_files() -> None:
    match = matched(decide(reading(specimen_id=OURS), Worklist((entry(OURS),)), RULES))
    assert match.specimen.specimen_id == OURS
    assert match.test == GLUCOSE
    assert match.pieces == {Evidence.LABEL, Evidence.CHECK}
    assert match.version == 1


@pytest.mark.parametrize("primary", [{"specimen_id": THEIRS}, {"order_number": "P1"}, {"patient_id": "M1"}])
@pytest.mark.parametrize(
    "second",
    [{"last_name": "MUNOZ DIAZ", "first_name": "ANA"}, {"birth_date": date(1961, 3, 5)}, {"yes": True}, {"claim": True}],
)
def test_a_label_an_order_number_or_a_patient_id_files_with_a_second_piece(
    primary: dict[str, Any], second: dict[str, Any]
) -> None:
    worklist = Worklist((ENTRY,), (claim(),) if "claim" in second else (), confirmation=YES if "yes" in second else None)
    stated = {name: value for name, value in (primary | second).items() if name not in ("yes", "claim")}
    assert matched(decide(reading(**stated), worklist, RULES)).specimen == ENTRY.specimen


def test_a_meter_without_an_id_files_on_a_claim_and_one_key() -> None:
    due = held(decide(reading(), CLAIMED, RULES), Reason.CONFIRMATION_DUE)
    assert [fit.specimen.specimen_id for fit in due.candidates] == [THEIRS]
    match = matched(decide(reading(), replace(CLAIMED, confirmation=YES), RULES))
    assert match.claim == 1
    assert match.pieces == {Evidence.CLAIM, Evidence.CONFIRMATION}


def test_without_confirm_claims_a_claim_files_alone_and_every_such_result_says_so() -> None:
    match = matched(decide(reading(), CLAIMED, replace(RULES, confirm_claims=False)))
    assert any("confirm_claims = false" in words for words in match.evidence)
    match = matched(decide(reading(), replace(CLAIMED, confirmation=YES), replace(RULES, confirm_claims=False)))
    assert not any("confirm_claims" in words for words in match.evidence)


def test_an_order_that_is_its_own_label_files_with_a_second_piece() -> None:
    ekg = entry("E-7", ANA, OrderedTest("93000"))
    worklist = Worklist((ekg,), confirmation=Confirmation("E-7", "kim"))
    tracing = replace(reading(order_number="E-7"), asked_by=(frozenset({"93000"}),))
    assert matched(decide(tracing, worklist, RULES)).test.code == "93000"


def test_the_label_chooses_among_the_tubes_of_one_order() -> None:
    tubes = (entry("F-1"), entry("F-2"))
    unlabelled = reading(order_number="P1", birth_date=ANA.birth_date)
    several = held(decide(unlabelled, Worklist(tubes), RULES), Reason.SEVERAL_SPECIMENS)
    assert len(several.candidates) == 2
    stated = reading(order_number="P1", specimen_id="F-2", birth_date=ANA.birth_date)
    assert matched(decide(stated, Worklist(tubes), RULES)).specimen.specimen_id == "F-2"


# --- one piece is not enough -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated",
    [{"specimen_id": THEIRS}, {"order_number": "P1"}, {"patient_id": "M1"}, {"specimen_id": THEIRS, "order_number": "P1"}],
)
def test_one_piece_waits_for_a_persons_yes(stated: dict[str, Any]) -> None:
    held(decide(reading(**stated), Worklist((ENTRY,)), RULES), Reason.CONFIRMATION_DUE)


def test_a_foreign_label_that_happens_to_check_is_no_second_piece() -> None:
    foreign = entry(OURS, issued=False)
    held(decide(reading(specimen_id=OURS), Worklist((foreign,)), RULES), Reason.CONFIRMATION_DUE)


def test_name_and_birth_date_alone_find_nobody() -> None:
    stated = reading(last_name="Muñoz-Díaz", first_name="Ana", birth_date=ANA.birth_date)
    held(decide(stated, replace(Worklist((ENTRY,)), confirmation=YES), RULES), Reason.NO_SPECIMEN)


def test_half_a_name_is_no_second_piece() -> None:
    held(decide(reading(specimen_id=THEIRS, last_name="Muñoz-Díaz"), Worklist((ENTRY,)), RULES), Reason.CONFIRMATION_DUE)


def test_the_only_one_waiting_is_not_enough() -> None:
    held(decide(reading(), Worklist((ENTRY,)), RULES), Reason.NO_SPECIMEN)


# --- pieces that disagree ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated",
    [
        {"patient_id": "M2"},
        {"last_name": "Roe", "first_name": "Ana"},
        {"last_name": "Muñoz-Díaz", "first_name": "Anna"},
        {"first_name": "Ben"},
        {"birth_date": date(1961, 5, 3)},
        {"order_number": "P2"},
    ],
)
def test_a_label_that_another_piece_contradicts_is_a_conflict(stated: dict[str, Any]) -> None:
    other = entry("F-2", BEN, OrderedTest("82947", placer_order="P2"))
    held(decide(reading(specimen_id=OURS, **stated), Worklist((entry(OURS), other)), RULES), Reason.IDENTITY_CONFLICT)


def test_a_claim_for_another_specimen_than_the_label_is_a_conflict() -> None:
    worklist = Worklist((entry(OURS), entry("F-2", BEN)), (claim("F-2"),))
    conflict = held(decide(reading(specimen_id=OURS), worklist, RULES), Reason.IDENTITY_CONFLICT)
    assert {fit.specimen.specimen_id for fit in conflict.candidates} == {OURS, "F-2"}


def test_a_confirmation_for_another_specimen_is_a_conflict() -> None:
    worklist = replace(CLAIMED, specimens=(ENTRY, entry("F-2", BEN)), confirmation=Confirmation("F-2", "kim"))
    held(decide(reading(), worklist, RULES), Reason.IDENTITY_CONFLICT)


@pytest.mark.parametrize("worklist", [Worklist(), CLAIMED])
def test_a_label_that_is_not_registered_is_never_overruled_by_a_claim(worklist: Worklist) -> None:
    held(decide(reading(specimen_id="F-999"), replace(worklist, confirmation=YES), RULES), Reason.LABEL_UNKNOWN)


@pytest.mark.parametrize("stated", [{"specimen_id": OURS}, {"order_number": "P1"}, {"claim": True}])
def test_a_cancelled_specimen_takes_nothing(stated: dict[str, Any]) -> None:
    claims = (claim(OURS),) if stated.pop("claim", False) else ()
    worklist = Worklist((entry(OURS, cancelled=True),), claims, confirmation=Confirmation(OURS, "kim"))
    held(decide(reading(**stated), worklist, RULES), Reason.LABEL_UNKNOWN)


def test_one_of_our_labels_with_a_wrong_check_character_is_unknown() -> None:
    wrong = OURS[:-1] + ("0" if OURS[-1] != "0" else "1")
    held(decide(reading(specimen_id=wrong), Worklist((entry(wrong),)), RULES), Reason.LABEL_UNKNOWN)


# --- patient id and its window -----------------------------------------------------------------------------------------------


def test_two_open_specimens_of_a_patient_are_not_guessed_between() -> None:
    worklist = Worklist((entry("F-1"), entry("F-2")))
    held(decide(reading(patient_id="M1", birth_date=ANA.birth_date), worklist, RULES), Reason.SEVERAL_SPECIMENS)


def test_a_specimen_with_its_result_is_not_open_any_more() -> None:
    worklist = Worklist((entry("F-1"), entry("F-2")), filed=(Filed("F-1", "P1", "82947"),))
    stated = reading(patient_id="M1", birth_date=ANA.birth_date)
    assert matched(decide(stated, worklist, RULES)).specimen.specimen_id == "F-2"


def test_a_patient_id_passes_over_cancelled_specimens() -> None:
    stated = reading(patient_id="M1", birth_date=ANA.birth_date)
    held(decide(stated, Worklist((entry("F-1", cancelled=True),)), RULES), Reason.NO_SPECIMEN)
    worklist = Worklist((entry("F-1", cancelled=True), entry("F-2")))
    assert matched(decide(stated, worklist, RULES)).specimen.specimen_id == "F-2"


def test_a_patient_id_finds_orders_of_its_window_only() -> None:
    old = entry(THEIRS, ANA, replace(GLUCOSE, ordered_at=NINE - timedelta(hours=25)))
    stated = reading(patient_id="M1", birth_date=ANA.birth_date)
    held(decide(stated, Worklist((old,)), RULES), Reason.NO_SPECIMEN)
    matched(decide(stated, Worklist((replace(old, specimen=replace(old.specimen, collected_at=NINE)),)), RULES))
    matched(decide(stated, Worklist((old,)), replace(RULES, order_window=timedelta(hours=26))))


def test_a_label_knows_no_window() -> None:
    old = entry(OURS, ANA, replace(GLUCOSE, ordered_at=NINE - timedelta(days=9)))
    matched(decide(reading(specimen_id=OURS), Worklist((old,)), RULES))


def test_a_patient_id_without_an_order_for_the_test_is_held() -> None:
    other = entry(THEIRS, ANA, OrderedTest("83036", placer_order="P9", ordered_at=NINE))
    held(decide(reading(patient_id="M1", birth_date=ANA.birth_date), Worklist((other,)), RULES), Reason.TEST_NOT_ORDERED)


# --- kinds and codes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in SampleKind if kind not in (SampleKind.PATIENT, SampleKind.UNKNOWN)])
def test_what_is_not_a_patients_goes_to_the_qc_log_whatever_speaks_for_a_specimen(kind: SampleKind) -> None:
    worklist = Worklist((entry(OURS),), (claim(OURS),), confirmation=Confirmation(OURS, "kim"))
    assert isinstance(decide(reading(kind=kind, specimen_id=OURS), worklist, RULES), ToQc)


def test_an_unknown_kind_is_held() -> None:
    unknown = reading(kind=SampleKind.UNKNOWN, specimen_id=OURS)
    held(decide(unknown, Worklist((entry(OURS),)), RULES), Reason.SAMPLE_KIND_UNKNOWN)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unknown_analytes": ("XYZ",)}, Reason.UNKNOWN_ANALYTE),
        ({"unknown_units": ("GLU in mmol/L",)}, Reason.UNKNOWN_UNIT),
        ({"implausible": ("GLU",)}, Reason.IMPLAUSIBLE),
        ({"asked_by": (frozenset({"83036"}),)}, Reason.TEST_NOT_ORDERED),
        ({"asked_by": ()}, Reason.TEST_NOT_ORDERED),
    ],
)
def test_what_the_catalog_and_the_order_do_not_list_is_held(change: dict[str, Any], reason: Reason) -> None:
    changed = replace(reading(specimen_id=OURS), **change)
    held(decide(changed, Worklist((entry(OURS),)), RULES), reason)


def test_a_specimen_for_a_reference_lab_asks_for_nothing_here() -> None:
    sent_out = entry(OURS, reference_lab="quest")
    held(decide(reading(specimen_id=OURS), Worklist((sent_out,)), RULES), Reason.TEST_NOT_ORDERED)


def test_an_unreadable_report_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="unreadable"):
        decide(reading(problem="record 3"), Worklist(), RULES)


# --- which test --------------------------------------------------------------------------------------------------------------

ALB = OrderedTest("82043", placer_order="P1")
CRT = OrderedTest("82570", placer_order="P2")
RATIO = OrderedTest("9318-7", placer_order="P3")
URINE = (frozenset({"82043", "9318-7"}), frozenset({"82570", "9318-7"}), frozenset[str]())


@pytest.mark.parametrize(
    ("tests", "chosen"),
    [
        ((RATIO, ALB, CRT), (RATIO,)),  # the panel covers all
        ((CRT, ALB), (ALB, CRT)),
        ((ALB,), None),  # creatinine was not asked for
    ],
)
def test_the_tests_chosen_ask_for_everything_reported(
    tests: tuple[OrderedTest, ...], chosen: tuple[OrderedTest, ...] | None
) -> None:
    verdict = decide(replace(reading(specimen_id=OURS), asked_by=URINE), Worklist((entry(OURS, ANA, *tests),)), RULES)
    if chosen is None:
        held(verdict, Reason.TEST_NOT_ORDERED)
    else:
        assert matched(verdict).tests == chosen


def test_the_test_without_a_result_comes_first_and_a_stated_order_number_decides() -> None:
    first, second = GLUCOSE, replace(GLUCOSE, placer_order="P2")
    worklist = Worklist((entry(OURS, ANA, second, first),))
    assert matched(decide(reading(specimen_id=OURS), worklist, RULES)).test == first
    worklist = replace(worklist, filed=(Filed(OURS, "P1", "82947"),))
    assert matched(decide(reading(specimen_id=OURS), worklist, RULES)).test == second
    held(decide(reading(specimen_id=OURS, order_number="P1"), worklist, RULES), Reason.CONFLICTING_REPEAT)


# --- repeats and corrections -------------------------------------------------------------------------------------------------

NUMBERED: dict[str, Any] = {"identity": ("SN1", "412"), "specimen_id": OURS}


def version(number: int, state: str, filed_to: str = "", version: int = 1, **stated: Any) -> EarlierVersion:
    return EarlierVersion(number, reading(**{**NUMBERED, **stated}).report, state, version, filed_to)


OTHER_VALUE: dict[str, Any] = {"observations": (Observation("GLU", "99", "mg/dL"),)}


def test_the_same_said_again_is_a_duplicate_whatever_the_clock_of_the_contact() -> None:
    again = reading(**NUMBERED, clock=datetime(2026, 3, 2, 10, 0))  # noqa: DTZ001
    for state in ("queued", "posted", "held", "dismissed", "qc"):
        verdict = decide(again, Worklist((entry(OURS),), earlier=(version(7, state),)), RULES)
        assert verdict == Duplicate(7, verdict.why)


def test_without_an_identity_equal_reports_are_two_results() -> None:
    alone = version(7, "posted", OURS, identity=())
    matched(decide(reading(specimen_id=OURS), Worklist((entry(OURS),), earlier=(alone,)), RULES))


def test_another_value_under_the_same_identity_is_a_correction() -> None:
    earlier = (version(7, "posted", OURS, 1, **OTHER_VALUE), version(5, "superseded", "", 1, birth_date=ANA.birth_date))
    match = matched(decide(reading(**NUMBERED), Worklist((entry(OURS),), earlier=earlier), RULES))
    assert (match.corrects, match.version, match.supersedes) == (7, 2, ())


def test_a_new_version_takes_the_place_of_one_that_was_held() -> None:
    earlier = (version(7, "held", **OTHER_VALUE),)
    match = matched(decide(reading(**NUMBERED), Worklist((entry(OURS),), earlier=earlier), RULES))
    assert (match.corrects, match.version, match.supersedes) == (None, 1, (7,))
    hold = held(decide(reading(**NUMBERED), Worklist(earlier=earlier), RULES), Reason.LABEL_UNKNOWN)
    assert hold.supersedes == (7,)


@pytest.mark.parametrize(
    "other",
    [{"specimen_id": "F-2"}, {"patient_id": "M2"}, {"last_name": "Roe", "first_name": "Ben"}, {"birth_date": BEN.birth_date}],
)
def test_the_same_identity_for_another_patient_is_a_conflict_and_an_alarm_if_filed(other: dict[str, Any]) -> None:
    mine: dict[str, Any] = {"patient_id": "M1", "last_name": "Muñoz-Díaz", "first_name": "Ana", "birth_date": ANA.birth_date}
    earlier = (version(7, "posted", "F-2", **{**mine, **other}), version(8, "held", **{**mine, **other, **OTHER_VALUE}))
    worklist = Worklist((entry(OURS), entry("F-2", BEN)), earlier=earlier)
    hold = held(decide(reading(**NUMBERED, **mine), worklist, RULES), Reason.IDENTITY_CONFLICT)
    assert hold.contradicts == (7,)
    assert hold.supersedes == ()


def test_a_correction_that_fits_another_specimen_is_never_filed() -> None:
    earlier = (version(7, "posted", "F-2", specimen_id="", **OTHER_VALUE),)
    worklist = Worklist((entry(OURS), entry("F-2", BEN)), earlier=earlier)
    hold = held(decide(reading(**NUMBERED), worklist, RULES), Reason.IDENTITY_CONFLICT)
    assert hold.contradicts == (7,)


def test_a_return_to_a_value_since_corrected_is_held() -> None:
    earlier = (version(7, "superseded", OURS), version(8, "posted", OURS, 2, **OTHER_VALUE))
    held(decide(reading(**NUMBERED), Worklist((entry(OURS),), earlier=earlier), RULES), Reason.CONFLICTING_REPEAT)


def test_a_control_marked_afterwards_alarms_for_what_was_filed_and_one_unmarked_is_held() -> None:
    filed = (version(7, "posted", OURS),)
    control = decide(reading(**NUMBERED, kind=SampleKind.CONTROL), Worklist((entry(OURS),), earlier=filed), RULES)
    assert isinstance(control, ToQc)
    assert control.contradicts == (7,)
    was_control = (version(7, "qc", kind=SampleKind.CONTROL),)
    held(decide(reading(**NUMBERED), Worklist((entry(OURS),), earlier=was_control), RULES), Reason.SAMPLE_KIND_UNKNOWN)


def test_a_second_reading_of_the_same_test_is_held() -> None:
    worklist = Worklist((entry(OURS),), filed=(Filed(OURS, "P1", "82947"),))
    held(decide(reading(specimen_id=OURS), worklist, RULES), Reason.CONFLICTING_REPEAT)


# --- acts of people ----------------------------------------------------------------------------------------------------------

ASSIGNED = Assignment(THEIRS, "Munoz Diaz", "ANA", date(1961, 3, 5), "kim")


@pytest.mark.parametrize("stated", [{}, {"specimen_id": "F-999"}, {"patient_id": "M2"}, {"specimen_id": "F-2"}])
def test_a_person_assigns_what_the_instrument_left_in_doubt_and_the_record_says_so(stated: dict[str, Any]) -> None:
    worklist = Worklist((ENTRY, entry("F-2", BEN)), assignment=ASSIGNED)
    match = matched(decide(reading(**stated), worklist, RULES))
    assert match.specimen == ENTRY.specimen
    assert Evidence.ASSIGNMENT in match.pieces
    assert any("although" in words for words in match.evidence) == bool(stated)


@pytest.mark.parametrize(
    "given", [{"last_name": "Roe"}, {"first_name": ""}, {"birth_date": date(1961, 3, 6)}, {"first_name": "A"}]
)
def test_an_assignment_needs_both_identifiers_of_the_patient(given: dict[str, Any]) -> None:
    assigned = replace(ASSIGNED, **given)
    held(decide(reading(), Worklist((ENTRY,), assignment=assigned), RULES), Reason.IDENTITY_CONFLICT)


def test_an_assignment_waives_neither_the_order_nor_the_catalog_nor_cancelling() -> None:
    worklist = Worklist((ENTRY,), assignment=ASSIGNED)
    held(decide(replace(reading(), asked_by=(frozenset({"83036"}),)), worklist, RULES), Reason.TEST_NOT_ORDERED)
    held(decide(replace(reading(), unknown_units=("GLU in mmol/L",)), worklist, RULES), Reason.UNKNOWN_UNIT)
    held(decide(reading(kind=SampleKind.UNKNOWN), worklist, RULES), Reason.SAMPLE_KIND_UNKNOWN)
    cancelled = Worklist((entry(cancelled=True),), assignment=ASSIGNED)
    held(decide(reading(), cancelled, RULES), Reason.LABEL_UNKNOWN)


def test_an_assignment_away_from_a_chart_names_what_is_to_be_retracted() -> None:
    earlier = (version(7, "posted", "F-2", **OTHER_VALUE),)
    worklist = Worklist((ENTRY, entry("F-2", BEN), entry(OURS)), earlier=earlier, assignment=ASSIGNED)
    match = matched(decide(reading(**NUMBERED), worklist, RULES))
    assert (match.contradicts, match.corrects, match.version) == ((7,), None, 1)


def release(*reasons: Reason) -> Release:
    return Release(frozenset(reasons), "Muñoz Díaz", "Ana", date(1961, 3, 5), "kim")


def test_a_release_waives_a_doubtful_clock_for_the_patient_it_names() -> None:
    doubtful = replace(reading(), clock_doubtful=True)
    worklist = replace(CLAIMED, confirmation=YES, release=release(Reason.CLOCK_DOUBTFUL))
    match = matched(decide(doubtful, worklist, RULES))
    assert any("CLOCK_DOUBTFUL released by kim" in words for words in match.evidence)
    other = replace(release(Reason.CLOCK_DOUBTFUL), birth_date=date(1961, 3, 6))
    held(decide(doubtful, replace(worklist, release=other), RULES), Reason.IDENTITY_CONFLICT)


def test_an_assigned_result_is_not_released_for_somebody_else() -> None:
    worklist = Worklist((ENTRY,), assignment=ASSIGNED, release=replace(release(Reason.IMPLAUSIBLE), last_name="Roe"))
    held(decide(replace(reading(), implausible=("GLU",)), worklist, RULES), Reason.IMPLAUSIBLE)


def test_a_release_waives_only_what_the_person_was_shown() -> None:
    repeat = Worklist((entry(OURS),), filed=(Filed(OURS, "P1", "82947"),))
    stated = replace(reading(specimen_id=OURS), implausible=("GLU",))
    held(decide(stated, replace(repeat, release=release(Reason.IMPLAUSIBLE)), RULES), Reason.CONFLICTING_REPEAT)
    held(decide(stated, replace(repeat, release=release(Reason.CONFLICTING_REPEAT)), RULES), Reason.IMPLAUSIBLE)
    matched(decide(stated, replace(repeat, release=release(Reason.CONFLICTING_REPEAT, Reason.IMPLAUSIBLE)), RULES))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (replace(reading(specimen_id=OURS), unknown_units=("GLU in mmol/L",)), Reason.UNKNOWN_UNIT),
        (replace(reading(specimen_id=OURS), asked_by=(frozenset({"83036"}),)), Reason.TEST_NOT_ORDERED),
        (reading(specimen_id=OURS, birth_date=BEN.birth_date), Reason.IDENTITY_CONFLICT),
        (reading(order_number="P1"), Reason.CONFIRMATION_DUE),
    ],
)
def test_a_release_waives_no_other_hold(changed: Reading, reason: Reason) -> None:
    worklist = Worklist((entry(OURS),), release=release(*Reason))
    held(decide(changed, worklist, RULES), reason)


# --- words ------------------------------------------------------------------------------------------------------------------


def test_no_verdict_names_the_patient() -> None:
    for verdict in (
        decide(reading(specimen_id=OURS, last_name="Roe", first_name="Ben"), Worklist((entry(OURS),)), RULES),
        decide(reading(patient_id="M1", birth_date=ANA.birth_date), Worklist((ENTRY,)), RULES),
        decide(reading(specimen_id="Muñoz-Díaz"), Worklist((ENTRY,)), RULES),
    ):
        for words in ("Roe", "Ben", "Ana", "Muñoz", "M1", "1961", "101"):
            assert words not in repr(verdict)
