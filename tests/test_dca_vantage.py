"""DCA Vantage: who the result belongs to is what the instrument said, and a control is never a patient's."""

# ruff: noqa: DTZ001 - an instrument's clock knows no zone

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from chartbound.drivers.dca_vantage import DRIVER, DcaVantageOptions
from chartbound.drivers.driver import Contact, UnreadableReport
from chartbound.drivers.link import Unit
from chartbound.drivers.report import Observation, Report, SampleKind
from chartbound.simulators.dca_vantage import SIMULATOR
from chartbound.simulators.in_memory import converse
from chartbound.simulators.peer import SimulatedTest

AT = datetime(2026, 1, 15, 9, 24)
# Composed after the maker's record positions; the values are ours.
HBA1C = [
    r"H|\^&|||DCA VANTAGE^04.04.00.00^S012345|||||||P||20260115093000",
    "P|1|S-1001|||Doe^Jane",
    "O|1||412^0090||||||||||||||||||||||F",
    "C|1|I|66^F^^^^fasting|G",
    "R|1|^^^HbA1c|6.1|%||H||F||op1|20260115092400",
    "C|1|I|1.000^0.0 %^NGSP^128 mg/dL|G",
    "L|1|N",
]
ACR = [
    HBA1C[0],
    "P|1|S-1002",
    "O|1||413^0071||||||||||||||||||||||F",
    "R|1|^^^Alb|5.0|mg/L||<||F|||20260115094030",
    "C|1|I|1.000^0.0 mg/L|G",
    "R|2|^^^Crt|230.8|mg/dL||||F|||20260115094030",
    "R|3|^^^Ratio|<2.2|mg/g||L||F|||20260115094030",
    "L|1|N",
]


def read(records: list[str], **options: object) -> list[Report]:
    return DRIVER.parse("".join(record + "\r" for record in records).encode("latin-1"), DcaVantageOptions(**options))  # type: ignore[arg-type]


def changed(records: list[str], old: str, new: str) -> list[str]:
    assert any(old in record for record in records)
    return [record.replace(old, new) for record in records]


def test_an_hba1c_is_read_whole() -> None:
    assert read(HBA1C) == [
        Report(
            kind=SampleKind.PATIENT,
            observations=(Observation(code="HbA1c", value="6.1", unit="%", flag="H", note="1.000^0.0 %^NGSP^128 mg/dL"),),
            observed_at=AT,
            clock=datetime(2026, 1, 15, 9, 30),
            identity=("S012345", "412", "20260115092400"),
            sequence=412,
            model="DCA VANTAGE",
            serial_number="S012345",
            panel="HbA1c",
            specimen_id="S-1001",
            last_name="Doe",
            first_name="Jane",
            operator="op1",
            lot="0090",
            remarks=("66^F^^^^fasting",),
        )
    ]


def test_one_cartridge_gives_albumin_creatinine_and_their_ratio() -> None:
    (report,) = read(ACR)
    assert [(o.code, o.comparator, o.value, o.unit, o.flag) for o in report.observations] == [
        ("Alb", "<", "5.0", "mg/L", ""),
        ("Crt", "", "230.8", "mg/dL", ""),
        ("Ratio", "<", "2.2", "mg/g", "L"),
    ]
    assert report.observations[0].raw == "5.0|mg/L||<"
    assert report.problem == ""


@pytest.mark.parametrize(("value", "mark"), [("<5.0", ">"), (">5.0", "<"), ("5.0", r"<\>")])
def test_a_value_whose_marks_disagree_is_unreadable(value: str, mark: str) -> None:
    (report,) = read(changed(ACR, "5.0|mg/L||<", f"{value}|mg/L||{mark}"))
    assert "do not agree" in report.problem


def test_the_one_id_is_the_patients_where_the_site_says_so() -> None:
    (report,) = read(HBA1C, id_is="patient")
    assert (report.patient_id, report.specimen_id) == ("S-1001", "")


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("0090||||||||", "0090||||||||Q", SampleKind.CONTROL),
        ("0090||||||||", "0090||||||||X", SampleKind.UNKNOWN),
        ("|P||2026", "|D||2026", SampleKind.UNKNOWN),
        ("|P||2026", "|Q||2026", SampleKind.UNKNOWN),
        ("|P||2026", "|||2026", SampleKind.UNKNOWN),
        ("S-1001", "qc-level 2", SampleKind.CONTROL),
        ("S-1001", "", SampleKind.PATIENT),
    ],
)
def test_only_what_says_it_is_a_patients_is(old: str, new: str, kind: SampleKind) -> None:
    assert read(changed(HBA1C, old, new), control_ids=("QC*",))[0].kind is kind


def test_a_control_in_service_mode_is_still_a_control() -> None:
    assert read(changed(changed(HBA1C, "|P||2026", "|D||2026"), "0090||||||||", "0090||||||||Q"))[0].kind is SampleKind.CONTROL


def test_a_run_without_a_result_is_an_error_with_its_remark() -> None:
    (report,) = read([*HBA1C[:3], "C|1|I|ERROR 3-61|G", "L|1|N"])
    assert report.kind is SampleKind.ERROR
    assert report.remarks == ("ERROR 3-61",)
    assert report.identity == ()


def test_a_correction_says_so_and_an_unknown_status_is_unreadable() -> None:
    assert read(changed(HBA1C, "|||F", "|||C"))[0].status == "C"
    assert read(changed(HBA1C, "|||F", "|||Y"))[0].problem


def test_an_invalid_clock_leaves_the_report_without_a_time() -> None:
    (report,) = read(changed(HBA1C, "20260115092400", "20261315092400"))
    assert report.observed_at is None
    assert report.observations[0].value == "6.1"


def test_another_model_is_refused_by_both_names() -> None:
    with pytest.raises(UnreadableReport) as raised:
        read(changed(HBA1C, "DCA VANTAGE", "Afinion 2 Analyzer"))
    assert "DCA VANTAGE" in raised.value.hint
    assert "Afinion 2 Analyzer" in raised.value.hint


def test_the_simulated_instrument_is_read_as_it_was_told() -> None:
    tests = [
        SimulatedTest(at=AT, specimen_id="S-1", last_name="O^Hara", first_name="Ann", values={"HbA1c": "7.4"}, operator="jd"),
        SimulatedTest(at=AT, specimen_id="S|2", values={"Alb": "<5", "Crt": "90.1", "Ratio": "5.5"}, sequence=2),
        SimulatedTest(at=AT, kind=SampleKind.CONTROL, specimen_id="C1", sequence=3),
        SimulatedTest(at=AT, kind=SampleKind.ERROR, sequence=4),
        SimulatedTest(at=AT, kind=SampleKind.PROFICIENCY, sequence=5),
    ]
    assert DRIVER.connect is not None
    peer = SIMULATOR.peer(tests, AT + timedelta(minutes=1))
    events = converse(DRIVER.connect(DcaVantageOptions(), Contact()), peer)
    assert peer.done
    assert all(isinstance(event, Unit) for event in events)
    reports = [
        report for event in events if isinstance(event, Unit) for report in DRIVER.parse(event.data, DcaVantageOptions())
    ]
    assert [report.kind.value for report in reports] == ["patient", "patient", "control", "error", "unknown"]
    assert [report.sequence for report in reports] == [1, 2, 3, 4, 5]
    assert (reports[0].last_name, reports[0].first_name, reports[0].operator) == ("O^Hara", "Ann", "jd")
    assert reports[0].observations[0].value == "7.4"
    assert reports[1].specimen_id == "S|2"
    assert [(o.comparator, o.value) for o in reports[1].observations] == [("<", "5"), ("", "90.1"), ("", "5.5")]
    assert reports[0].clock == AT + timedelta(minutes=1)


def test_samples_are_a_minute_apart_and_end_at_the_time_given() -> None:
    made = SIMULATOR.samples(5, AT, random.Random(1))
    assert [test.at for test in made] == [AT - timedelta(minutes=4 - index) for index in range(5)]
    assert made == SIMULATOR.samples(5, AT, random.Random(1))
