"""EKG files: what is read of them, what is refused, and what a half-written or hostile one does."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.drivers.driver import UnreadableReport, find
from chartbound.drivers.ekg import DRIVER, Options, parse
from chartbound.drivers.ekg_formats import sniff
from chartbound.drivers.report import Report, SampleKind
from chartbound.simulators import ekg as cart
from chartbound.simulators.peer import SimulatedTest
from chartbound.simulators.peer import find as find_simulator

AT = datetime(2026, 3, 2, 9, 31, 7)  # noqa: DTZ001 - a cart's local clock
NAMES = st.text(st.characters(codec="iso-8859-1", categories=["L", "Nd", "Po", "Zs"]), max_size=20)


def read(data: bytes, options: Options | None = None) -> Report:
    (report,) = parse(data, options or Options())
    return report


def values(report: Report) -> dict[str, str]:
    return {observation.code: observation.value for observation in report.observations}


def composed(*changes: str) -> bytes:
    """A 1.04 file in UTF-8 with changes like "<print>158 => <print>160"."""
    test = SimulatedTest(at=AT, patient_id="MRN-7", last_name="Berg", first_name="Ada", birth_date="1961-03-05", sequence=2)
    text = cart.write(test, version="1.04", encoding="utf-8", order_number="ORD-1").decode()
    for old, new in (change.split(" => ", 1) for change in changes):
        assert old in text
        text = text.replace(old, new)
    return text.encode()


@pytest.mark.parametrize("version", ["1.03", "1.04"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
def test_both_versions_say_the_same_in_one_vocabulary(version: str, encoding: str) -> None:
    test = SimulatedTest(
        at=AT, patient_id="MRN-7", last_name="Müller", first_name="Zoë", birth_date="1961-03-05", operator="MA1"
    )
    data = cart.write(test, version=version, encoding=encoding)
    assert DRIVER.complete is not None
    assert DRIVER.complete(data)
    report = read(data)
    expected = dict(cart.USUAL)
    if version == "1.03":
        expected["qtc"] = expected.pop("qtcb")  # 1.03 does not say by which formula
        del expected["qtcf"]
    assert values(report) == expected
    assert {o.unit for o in report.observations if o.code.endswith("axis")} == {"deg"}
    assert {o.unit for o in report.observations if o.code == "heartrate"} == {"bpm"}
    assert {o.unit for o in report.observations if o.code.startswith("q") and "axis" not in o.code} == {"ms"}
    assert (report.last_name, report.first_name, report.birth_date) == ("Müller", "Zoë", date(1961, 3, 5))
    assert (report.observed_at, report.precision, report.clock) == (AT, timedelta(seconds=1), None)
    assert (report.kind, report.status, report.panel, report.problem) == (SampleKind.PATIENT, "P", "12-lead", "")
    assert (report.patient_id, report.serial_number, report.operator) == ("MRN-7", "US00000001", "MA1")


@given(patient_id=NAMES, last_name=NAMES, rate=st.integers(1, 400), axis=st.integers(-180, 359), number=st.integers(1, 99))
@settings(deadline=None, max_examples=60)
def test_what_a_cart_writes_is_read_back(patient_id: str, last_name: str, rate: int, axis: int, number: int) -> None:
    stated = {"heartrate": str(rate), "qrsfrontaxis": str(axis)}
    test = SimulatedTest(at=AT, values=stated, patient_id=patient_id, last_name=last_name, sequence=number)
    report = read(cart.write(test))
    assert values(report) == stated
    if patient_id.strip("-"):
        assert report.patient_id == " ".join(patient_id.split())
    assert report.last_name == " ".join(last_name.split()) or not last_name.strip("-")


def test_the_simulator_gives_files_that_the_driver_of_its_name_reads() -> None:
    simulator = find_simulator("ekg")
    tests = simulator.samples(6, AT, random.Random(3))
    peer = simulator.peer(tests, AT)
    files = [out.data for out in peer.data_to_send()]
    assert peer.done
    reports = [read(file) for file in files]
    assert [report.observed_at for report in reports] == [test.at for test in tests]
    assert len({report.identity for report in reports}) == 6
    assert find("ekg") is DRIVER
    assert "PageWriter" in DRIVER.help


def test_values_before_the_overread_and_templates_are_not_read() -> None:
    report = read(composed())
    assert values(report)["heartrate"] == "72"  # the composed internalmeasurements say 199
    assert not any("***" in line for line in report.impression)


def test_empty_tags_and_dashes_say_nothing() -> None:
    changes = (
        "<lastname>Berg => <lastname>---",
        "<patientid>MRN-7 => <patientid>",
        ">ORD-1< => >---<",
        "<qtcf>410 => <qtcf>",
        "1961-03-05 => ---",
    )
    report = read(composed(*changes))
    assert (report.last_name, report.patient_id, report.order_number, report.birth_date) == ("", "", "", None)
    assert "qtcf" not in values(report)
    assert report.remarks == ()
    assert report.kind is SampleKind.PATIENT


def test_what_the_cart_could_not_measure_is_a_remark_and_no_value() -> None:
    report = read(composed("<print>158 => <print>Indeterminate", "<qtint>386 => <qtint>Failed", "<qrsdur>92 => <qrsdur>0"))
    assert {"print", "qtint", "qrsdur"}.isdisjoint(values(report))
    assert report.remarks[:3] == ("print: Indeterminate", "qrsdur: 0, which is not a measurement", "qtint: Failed")


def test_an_axis_of_zero_is_a_value() -> None:
    assert values(read(composed("<pfrontaxis>48 => <pfrontaxis>0")))["pfrontaxis"] == "0"


def test_nonsense_that_is_a_number_is_told_as_stated() -> None:
    assert values(read(composed("<print>158 => <print>5080")))["print"] == "5080"


@pytest.mark.parametrize("text", ["about 70", "7O", "&lt;40", "1e3", "七"])
def test_a_measurement_in_words_makes_the_report_unreadable(text: str) -> None:
    report = read(composed(f"<heartrate>72 => <heartrate>{text}"))
    assert report.problem
    assert report.observations == ()


def test_measurements_that_a_person_edited_say_so() -> None:
    report = read(composed('<qtint>386 => <qtint editedflag="True">386'))
    assert [o.code for o in report.observations if o.note == "edited by a person"] == ["qtint"]


def test_two_interpretations_are_a_doubt_and_not_a_choice() -> None:
    report = read(composed("</interpretation></interpretations> => </interpretation><interpretation/></interpretations>"))
    assert "2" in report.problem
    assert report.observations == ()
    report = read(composed("<print>158</print> => <print>158</print><print>159</print>"))
    assert report.problem


def test_a_file_without_an_interpretation_is_unreadable() -> None:
    text = composed().decode()
    start, end = text.index("<interpretations>"), text.index("</interpretations>")
    assert read((text[:start] + "<interpretations>" + text[end:]).encode()).problem


def test_an_ekg_is_final_once_it_is_confirmed_and_signed() -> None:
    test = SimulatedTest(at=AT)
    confirmed = cart.write(test, version="1.04", encoding="utf-8", confirmed=True)
    assert read(confirmed).status == "F"
    assert "Unconfirmed" not in " ".join(read(confirmed).impression)
    for old, new in [
        (b"Confirmed by: Examiner, A, MD", b"Unconfirmed diagnosis"),
        (b"Confirmed by: Examiner, A, MD", b"PRELIMINARY"),
        (b"Confirmed by: Examiner, A, MD", b""),
        (b'status="Confirmed"', b'status="New"'),
        (b'status="Confirmed"', b""),
    ]:
        assert old in confirmed
        report = read(confirmed.replace(old, new))
        assert report.status == "P"
        assert any(word in " ".join(report.impression).lower() for word in ("unconfirmed", "preliminary"))


def test_a_deleted_statement_is_not_told() -> None:
    report = read(composed('<statement> => <statement deleted="True">'))
    assert not any("Sinus" in line for line in report.impression)
    assert any("Sinus rhythm; normal P axis" in line for line in read(composed()).impression)


def test_the_clinic_says_which_field_holds_the_patient_and_the_order() -> None:
    data = composed("<MRN>--- => <MRN>12345", "<uniqueorderid/> => <uniqueorderid>U-9</uniqueorderid>")
    options = Options(patient_id_field="MRN", order_number_field="uniqueorderid")
    assert (read(data).patient_id, read(data).order_number) == ("MRN-7", "ORD-1")
    assert (read(data, options).patient_id, read(data, options).order_number) == ("12345", "U-9")


def test_the_same_tracing_keeps_its_identity_when_edited_and_for_another_patient() -> None:
    first = read(composed())
    assert read(composed("MRN-7 => MRN-8", "<print>158 => <print>160")).identity == first.identity
    assert read(composed("09:31:07 => 09:31:08")).identity != first.identity
    assert read(composed("US00000001 => US00000002")).identity != first.identity
    assert "MRN-7" not in first.identity


def test_test_tracings_are_no_patients() -> None:
    assert read(composed("Standard 12 Lead => Demo 12 Lead")).kind is SampleKind.UNKNOWN
    assert read(composed("MRN-7 => SIMULATOR")).kind is SampleKind.UNKNOWN
    assert read(composed("Berg => Demo")).kind is SampleKind.PATIENT
    options = Options(control_ids=("test*", "QC?"))
    assert read(composed("MRN-7 => TEST-1"), options).kind is SampleKind.CONTROL
    assert read(composed("MRN-7 => QC1"), options).kind is SampleKind.CONTROL
    assert read(composed("MRN-7 => QC11"), options).kind is SampleKind.PATIENT


@pytest.mark.parametrize("kind", [SampleKind.CONTROL, SampleKind.UNKNOWN])
def test_the_simulator_marks_what_is_of_no_patient(kind: SampleKind) -> None:
    assert read(cart.write(SimulatedTest(at=AT, kind=kind)), Options(control_ids=("QC-*",))).kind is kind


@pytest.mark.parametrize("time", ["25:00:00", "9 o'clock", "", "09:31:07Z", "---"])
def test_an_invalid_clock_does_not_end_the_read(time: str) -> None:
    report = read(composed(f'time="09:31:07" => time="{time}"'))
    assert report.observed_at is None
    assert values(report)["heartrate"] == "72"
    assert report.identity  # the document's own name
    assert report.remarks


def test_a_clock_of_minutes_says_so() -> None:
    assert read(composed('time="09:31:07" => time="09:31"')).precision == timedelta(minutes=1)


def test_an_unreadable_birth_date_is_none_and_said() -> None:
    report = read(composed("1961-03-05 => 05.03.1961"))
    assert report.birth_date is None
    assert report.remarks == ("the date of birth cannot be read",)


@pytest.mark.parametrize("version", ["1.02", "1.05", "2.0", "1.04; DROP", ""])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(UnreadableReport, match=r"1\.03 or 1\.04"):
        read(composed(f"<documentversion>1.04 => <documentversion>{version}"))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b'<?xml version="1.0"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG/>', "GE MUSE"),
        (b'<AnnotatedECG xmlns="urn:hl7-org:v3"/>', "HL7 aECG"),
        (b"<!--Generated by ELI Link--><ECG><CHANNEL/></ECG>", "Mortara"),
        (b"<com.xiriuz.sema.xml.schillerEDI.SchillerEDI/>", "Schiller"),
        (b"\x00\x00\x16\x00\x00\x00" + bytes(10) + b"SCPECG", "SCP-ECG"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"%PDF-1.4\n%%EOF\n", "PDF"),
    ],
)
def test_other_forms_are_named_to_the_person_who_sees_them(data: bytes, named: str) -> None:
    assert sniff.is_whole(data)
    with pytest.raises(UnreadableReport, match=named):
        read(data)


@pytest.mark.parametrize("data", [b"", b"hello", b"<html/>", b"<restingecgdata/>", b"PK\x03\x04", b"<a>", b"\xff\xfe<"])
def test_what_is_no_ekg_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableReport):
        read(data)


BOMBS = [
    b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><a>&b;</a>',
    b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x">%x;]><a/>',
    b'<!DOCTYPE a [<!ATTLIST b c CDATA "' + b"x" * 10_000 + b'">]><a>' + b"<b/>" * 1000 + b"</a>",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_declares_anything_is_refused_and_shown(bomb: bytes) -> None:
    assert sniff.is_whole(bomb)
    with pytest.raises(UnreadableReport, match="declares"):
        read(bomb)


def test_a_doctype_is_allowed_and_never_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        system = f"http://127.0.0.1:{server.getsockname()[1]}/restecg.dtd"
        data = composed(f'<restingecgdata xmlns => <!DOCTYPE restingecgdata SYSTEM "{system}"><restingecgdata xmlns')
        assert values(read(data))["heartrate"] == "72"
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_very_deep_file_is_refused_and_harms_nothing() -> None:
    data = composed("<print>158 => " + "<print>" * 20_000 + "158" + "</print>" * 20_000 + "<print>158")
    assert sniff.is_whole(data)
    assert read(data).problem


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_file_cut_anywhere_is_not_whole(encoding: str) -> None:
    data = cart.write(SimulatedTest(at=AT), version="1.04", encoding=encoding)
    end = len(data) - len("\n".encode(encoding)[-1 if encoding == "utf-8" else -2 :])
    assert sniff.is_whole(data[:end])
    step = 1 if encoding == "utf-8" else 7
    assert not any(sniff.is_whole(data[:cut]) for cut in range(0, end, step))
    assert not sniff.is_whole(data[: end // 2] + bytes(end - end // 2))  # room made first, filled later


def test_a_scp_file_is_whole_at_its_length() -> None:
    data = b"\x00\x00\x40\x00\x00\x00" + bytes(10) + b"SCPECG" + bytes(42)
    assert sniff.is_whole(data)
    assert not sniff.is_whole(data[:-1])


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_a_report_or_unreadable(data: bytes) -> None:
    sniff.is_whole(data)
    with pytest.raises(UnreadableReport):
        read(data)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_damaged_file_is_a_report_or_unreadable(data: st.DataObject) -> None:
    whole = bytearray(composed())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=12))
    sniff.is_whole(bytes(whole))
    with suppress(UnreadableReport):
        read(bytes(whole))


def test_nothing_shows_the_patient_in_a_log() -> None:
    shown = repr(read(composed()))
    assert not any(word in shown for word in ("Berg", "Ada", "MRN-7", "1961", "ORD-1", "Sinus"))


# -- real files, where they are at hand -----------------------------------------------------------------------------------

SAMPLES = Path(os.environ.get("CHARTBOUND_SAMPLES", "")) / "ekg"
real = pytest.mark.skipif(not SAMPLES.is_absolute(), reason="CHARTBOUND_SAMPLES names no folder of real files")
CODES_1_03 = ("heartrate", "print", "qrsdur", "qtint", "qtc", "pfrontaxis", "qrsfrontaxis", "tfrontaxis")
CODES_1_04 = ("heartrate", "print", "qrsdur", "qtint", "qtcb", "pfrontaxis", "qrsfrontaxis", "tfrontaxis")
TOUCH = ("41", "144", "102", "564", "466", "19", "85", "53")
MRX = ("41", "151", "135", "476", "393", "66", "-21", "59")


@real
@pytest.mark.parametrize(
    ("name", "codes", "expected", "status", "model"),
    [
        ("129DYPRG.XML", CODES_1_03, MRX, "P", "HeartstartMRx"),
        ("repbeats_example.xml", CODES_1_03, MRX, "P", "HeartstartMRx"),
        ("2020-5-18_15-48-11.xml", CODES_1_04, ("64", "164", "102", "399", "412", "27", "22", "80"), "P", "PageWriter TC"),
        (
            "ad4d3d80-d165_1-04_orig.xml",
            CODES_1_04,
            ("41", "144", "102", "564", "466", "19", "85", "53"),
            "F",
            "PageWriter Touch",
        ),
    ],
)
def test_real_files_are_read_as_their_source_says(
    name: str, codes: tuple[str, ...], expected: tuple[str, ...], status: str, model: str
) -> None:
    data = (SAMPLES / name).read_bytes()
    assert sniff.is_whole(data)
    assert not sniff.is_whole(data[: len(data) // 2])
    report = read(data)
    assert tuple(values(report)[code] for code in codes) == expected
    assert (report.status, report.model, report.problem, report.kind) == (status, model, "", SampleKind.PATIENT)
    assert report.order_number == ""
    assert not any("***" in line or "BASELINE WANDER" in line for line in report.impression)  # a template; a deleted one


@real
@pytest.mark.parametrize(
    ("name", "named"), [("fda_Example_aECG.xml", "aECG"), ("fda_minimum_aecg.xml", "aECG"), ("Example.scp", "SCP-ECG")]
)
def test_real_files_of_other_forms_are_named(name: str, named: str) -> None:
    data = (SAMPLES / name).read_bytes()
    assert sniff.is_whole(data)
    with pytest.raises(UnreadableReport, match=named):
        read(data)
