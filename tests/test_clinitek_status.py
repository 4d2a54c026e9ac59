"""The CLINITEK Status line: columns that line up are read as they stand, and nothing else is anyone's result."""

# ruff: noqa: DTZ001 - an instrument's clock knows no zone

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chartbound.drivers.clinitek_status import DRIVER, ClinitekOptions, connect, parse
from chartbound.drivers.driver import Contact, UnreadableReport
from chartbound.drivers.link import Unit
from chartbound.drivers.report import Report, SampleKind
from chartbound.simulators.clinitek_status import SIMULATOR, samples
from chartbound.simulators.clinitek_status import line as printed
from chartbound.simulators.in_memory import converse
from chartbound.simulators.peer import SimulatedTest

MDY = ClinitekOptions(date_order="mdy")
NOON = datetime(2026, 1, 15, 12, 0)
LINE = (
    b"412,01-15-2026, 9:30AM,JD,12345,,,,,Multistix 10 SG,Yellow,Clear,GLU,Negative,,BIL,Negative,,KET,Trace,*,SG ,1.020,,"
    b"BLO,Trace-intact,*,pH ,6.0,,PRO,30 mg/dL,*,URO,0.2 E.U./dL,,NIT,Negative,,LEU,Small,*"
)


def one(line: bytes, options: ClinitekOptions = MDY) -> Report:
    (report,) = parse(line, options)
    return report


def test_the_date_order_must_be_said() -> None:
    with pytest.raises(ValidationError):
        ClinitekOptions()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("date", "order", "day"),
    [(b"02-03-2026", "mdy", (2, 3)), (b"02-03-2026", "dmy", (3, 2)), (b"2026-02-03", "ymd", (2, 3))],
)
def test_the_date_is_read_in_the_order_that_was_said(date: bytes, order: str, day: tuple[int, int]) -> None:
    report = one(LINE.replace(b"01-15-2026", date), ClinitekOptions.model_validate({"date_order": order}))
    assert report.observed_at is not None
    assert (report.observed_at.month, report.observed_at.day) == day


@pytest.mark.parametrize(
    ("time", "hour"), [(b"14:34", 14), (b"11:01AM", 11), (b" 5:33PM", 17), (b"12:05AM", 0), (b"12:05PM", 12), (b" 0:05", 0)]
)
def test_both_clocks_are_read(time: bytes, hour: int) -> None:
    report = one(LINE.replace(b" 9:30AM", time))
    assert report.observed_at is not None
    assert report.observed_at.hour == hour
    assert report.precision == timedelta(minutes=1)


@pytest.mark.parametrize(
    "broken", [b"13-15-2026, 9:30AM", b"01-15-26, 9:30AM", b",", b"01-15-2026,99:30", b"01-15-2026,13:30PM"]
)
def test_an_impossible_time_is_no_time_and_loses_no_result(broken: bytes) -> None:
    report = one(LINE.replace(b"01-15-2026, 9:30AM", broken))
    assert report.observed_at is None
    assert len(report.observations) == 12
    assert not report.problem
    assert "mdy" in report.remarks[-1]


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("Negative", ("", "Negative", "")),
        ("Trace-intact", ("", "Trace-intact", "")),
        ("<=1.005", ("<=", "1.005", "")),
        (">=1000 mg/dL", (">=", "1000", "mg/dL")),
        ("30 mg/dL", ("", "30", "mg/dL")),
        ("0.2 E.U./dL", ("", "0.2", "E.U./dL")),
        ("6.0", ("", "6.0", "")),
        ("1+", ("", "1+", "")),
        ("Ca 25 Ery/uL", ("", "Ca 25 Ery/uL", "")),
        ("15 30 mg/dL", ("", "15 30 mg/dL", "")),
        ("-", ("", "-", "")),
    ],
)
def test_a_number_is_taken_from_its_comparator_and_unit_and_words_stay(said: str, parts: tuple[str, str, str]) -> None:
    seen = one(LINE.replace(b"30 mg/dL", said.encode())).observations[6]
    assert (seen.comparator, seen.value, seen.unit) == parts
    assert seen.raw in ("", said)


def test_a_controls_id_is_told_by_pattern_in_any_case() -> None:
    assert one(LINE.replace(b"12345", b"Control-2")).kind is SampleKind.CONTROL
    assert one(LINE).kind is SampleKind.PATIENT


def test_an_empty_pattern_makes_every_test_without_an_id_a_control() -> None:
    nameless = LINE.replace(b"12345", b"")
    assert one(nameless).kind is SampleKind.PATIENT
    assert one(nameless, ClinitekOptions(date_order="mdy", control_ids=("",))).kind is SampleKind.CONTROL
    assert one(LINE, ClinitekOptions(date_order="mdy", control_ids=("",))).kind is SampleKind.PATIENT


def test_the_id_is_what_the_clinic_says_it_is() -> None:
    assert (one(LINE).specimen_id, one(LINE).patient_id) == ("12345", "")
    patient = one(LINE, ClinitekOptions(date_order="mdy", id_is="patient"))
    assert (patient.specimen_id, patient.patient_id) == ("", "12345")


def test_a_result_sent_again_under_a_mended_id_is_the_same_result() -> None:
    assert one(LINE).identity == one(LINE.replace(b"12345", b"12346")).identity
    assert one(LINE).identity != one(LINE.replace(b"412,", b"413,")).identity


def test_an_odd_mark_stays_as_it_was_said() -> None:
    assert one(LINE.replace(b"Trace,*", b"Trace,**")).observations[2].flag == "**"


@pytest.mark.parametrize("commas", [1, 2, 3, 4, 5, 6, 9, 12])
@pytest.mark.parametrize("column", [b"JD", b"12345"])
def test_commas_in_an_id_make_the_line_nobodys(column: bytes, commas: int) -> None:
    report = one(LINE.replace(column, b"1" + b",2" * commas))
    assert report.problem
    assert (report.specimen_id, report.observations, report.kind) == ("", (), SampleKind.UNKNOWN)


def test_a_decimal_comma_makes_the_line_nobodys() -> None:
    assert one(LINE.replace(b"1.020", b"1,020")).problem


@pytest.mark.parametrize("line", [b"", b"x412,", b" 412,01-15-2026", b"412", LINE[:40], LINE.replace(b"Trace,", b"Tra\x13ce,")])
def test_what_is_no_such_line_is_unreadable(line: bytes) -> None:
    with pytest.raises(UnreadableReport) as error:
        parse(line, MDY)
    assert "12345" not in str(error.value)


def test_a_line_cut_anywhere_and_run_into_the_next_one_gives_no_wrong_result() -> None:
    """The cable is pulled in the middle of a line and put back: what was cut must not lend its id or values to the next."""
    after = LINE.replace(b"412,", b"413,").replace(b"12345", b"67890").replace(b"Trace,*", b"Negative,")
    wanted = one(after)
    for cut in range(1, len(LINE)):
        try:
            report = one(LINE[:cut] + after)
        except UnreadableReport:
            continue
        told = (report.specimen_id, report.observations)
        assert report.problem or told == (wanted.specimen_id, wanted.observations), LINE[:cut]


def test_a_line_cut_short_claims_no_pad_that_it_does_not_hold() -> None:
    codes = [seen.code for seen in one(LINE).observations]
    for cut in range(len(LINE)):
        try:
            report = one(LINE[:cut])
        except UnreadableReport:
            continue
        assert {seen.code for seen in report.observations} <= set(codes)


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(["412", "", "GLU", "*", "E58", "Negative", "9" * 5000]), max_size=60).map(
        lambda x: ("1" + ",".join(x)).encode()
    )
)
def test_hostile_bytes_raise_nothing_else(data: bytes) -> None:
    try:
        parse(data, MDY)
    except UnreadableReport:
        return


def test_what_the_simulator_prints_is_read_back() -> None:
    tests = samples(20, NOON, random.Random(3))
    events = converse(connect(MDY, Contact()), SIMULATOR.peer(tests, NOON))
    reports = [one(event.data) for event in events if isinstance(event, Unit)]
    assert [(r.observed_at, r.specimen_id, r.sequence, r.operator) for r in reports] == [
        (test.at, test.specimen_id, test.sequence, test.operator) for test in tests
    ]
    for test, report in zip(tests, reports, strict=True):
        said = {seen.code: seen.raw or seen.value for seen in report.observations}
        assert {code: said[code] for code in test.values} == dict(test.values)


def test_simulated_controls_and_errors_are_such() -> None:
    kinds = [SampleKind.CONTROL, SampleKind.ERROR]
    assert [one(printed(SimulatedTest(at=NOON, kind=kind)).removesuffix(b"\r")).kind for kind in kinds] == kinds


def test_the_simulator_and_the_driver_are_of_one_name() -> None:
    assert SIMULATOR.driver == DRIVER.name
