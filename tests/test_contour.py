"""Contour: a meter's memory is read again and again, and each reading stays the same reading."""

# ruff: noqa: DTZ001 - an instrument's clock knows no zone

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.drivers.contour import DRIVER, ContourOptions
from chartbound.drivers.driver import Contact, UnreadableReport
from chartbound.drivers.link import Event, Incomplete, Link, Unchanged, Unit
from chartbound.drivers.lis1a import ACK, ENQ, EOT, frames
from chartbound.drivers.report import Report, SampleKind
from chartbound.simulators.contour import SIMULATOR, message
from chartbound.simulators.in_memory import converse
from chartbound.simulators.peer import SimulatedTest

HEADER = r"H|\^&||pw|Bayer7150^01.05\01.00^7150-1234567|||||||P|1|202601150940"
AVERAGE = "R|1|^^^Glucose|110|mg/dL^P||||||"
READING = "R|2|^^^Glucose|112|mg/dL^P|||B||||202601150930"
NOON = datetime(2026, 1, 15, 12, 0)


def read(*readings: str, header: str = HEADER, first: str = AVERAGE, **options: object) -> list[Report]:
    unit = "".join(record + "\r" for record in [header, "P|1", *([first] if first else []), *readings, "L|1|N"])
    return DRIVER.parse(unit.encode("latin-1"), ContourOptions(**options))  # type: ignore[arg-type]


def test_a_reading_is_read_whole() -> None:
    (report,) = read(READING)
    (observation,) = report.observations
    assert (observation.code, observation.value, observation.unit) == ("Glucose", "112", "mg/dL")
    assert observation.note == "referenced to plasma"
    assert report.kind is SampleKind.PATIENT
    assert report.observed_at == datetime(2026, 1, 15, 9, 30)
    assert report.precision == timedelta(minutes=1)
    assert report.clock == datetime(2026, 1, 15, 9, 40)
    assert (report.model, report.serial_number) == ("Bayer7150", "7150-1234567")
    assert report.identity == ("7150-1234567", "202601150930", "Glucose", "0")
    assert report.remarks == ("before a meal",)
    assert report.specimen_id == report.patient_id == ""


def test_the_stored_average_is_not_a_reading_unless_the_site_says_so() -> None:
    assert read() == []
    assert len(read(READING, first="", first_record="reading")) == 1


@pytest.mark.parametrize(
    ("value", "mark", "expected"),
    [
        ("601", ">", (">", "600", "601|mg/dL^P||>", "")),
        ("19", "<", ("<", "20", "19|mg/dL^P||<", "")),
        ("601", r">\T", (">", "600", r"601|mg/dL^P||>\T", "T")),
        ("601", "", ("", "601", "", "")),
        ("95", "T", ("", "95", "", "T")),
        ("590", ">", (">", "590", "590|mg/dL^P||>", "")),
    ],
)
def test_hi_and_lo_are_decoded_and_what_was_sent_is_kept(value: str, mark: str, expected: tuple[str, ...]) -> None:
    (report,) = read(f"R|2|^^^Glucose|{value}|mg/dL^P||{mark}|||||202601150930")
    (observation,) = report.observations
    assert (observation.comparator, observation.value, observation.raw, observation.flag) == expected


def test_a_sentinel_in_another_unit_is_left_as_it_was_said() -> None:
    (report,) = read("R|2|^^^Glucose|33.4|mmol/L^P||>|||||202601150930")
    assert (report.observations[0].comparator, report.observations[0].value) == (">", "33.4")
    assert report.observations[0].unit == "mmol/L"


@pytest.mark.parametrize(
    "records",
    [
        ["R|2|^^^Glucose|112|mg/dL^P||||E|||202601150930"],
        [r"R|2|^^^Glucose|112|mg/dL^P||||E\D|||202601150930"],
        ["R|2|^^^Glucose|112|mg/dL^P||C||||202601150930"],
        ["R|2|^^^Glucose|112|mg/dL^P||B/C/M0||202601150930"],
        ["O|1||||||||||Q", "R|2|^^^Glucose|112|mg/dL^P||||||202601150930"],
    ],
)
def test_every_way_of_saying_control_is_heard(records: list[str]) -> None:
    assert [report.kind for report in read(*records)] == [SampleKind.CONTROL]


def test_a_reading_without_a_valid_clock_does_not_end_the_read() -> None:
    reports = read(READING, READING.replace("202601150930", "202613450000"), READING.replace("0930", "0931"))
    assert sorted(report.observed_at is None for report in reports) == [False, False, True]
    assert len({report.identity for report in reports}) == 3


def test_a_reading_without_a_value_is_a_problem_of_its_own() -> None:
    reports = read(READING, "R|3|^^^Glucose||mg/dL^P||||||202601150931")
    assert [bool(report.problem) for report in reports] == [False, True]


@pytest.mark.parametrize("model", ["Bayer7410", "DCA VANTAGE", "Bayer71501"])
def test_another_model_is_refused(model: str) -> None:
    with pytest.raises(UnreadableReport, match="Contour"):
        read(READING, header=HEADER.replace("Bayer7150", model))


def test_a_service_message_is_no_patients() -> None:
    assert read(READING, header=HEADER.replace("|P|1", "|D|1"))[0].kind is SampleKind.UNKNOWN


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.booleans(), st.data())
def test_a_reading_keeps_its_name_when_others_join_it(minutes: list[int], newest_first: bool, data: st.DataObject) -> None:
    """Whichever end of the memory the meter begins with, as long as its times tell."""
    minutes = sorted(minutes)
    records = [f"R|{i}|^^^Glucose|{100 + i}|mg/dL^P||||||| 20260115093{m}".replace("| 2", "|2") for i, m in enumerate(minutes)]
    known = data.draw(st.integers(1, len(records)))

    def names(stored: list[str]) -> dict[str, tuple[str, ...]]:
        told = read(*(reversed(stored) if newest_first else stored))
        return {report.observations[0].value: report.identity for report in told}

    if newest_first and minutes[0] == minutes[known - 1]:
        return  # all at one time: nothing tells the order
    before, after = names(records[:known]), names(records)
    assert {value: after[value] for value in before} == before
    assert Counter(after.values()).most_common(1)[0][1] == 1


# The link


def link(poll_seconds: float = 10.0) -> Link:
    assert DRIVER.connect is not None
    return DRIVER.connect(ContourOptions(), Contact(poll_seconds=poll_seconds))


def readings(*values: str) -> list[SimulatedTest]:
    return [SimulatedTest(at=NOON + timedelta(minutes=index), values={"Glucose": value}) for index, value in enumerate(values)]


def sent(link: Link) -> bytes:
    return b"".join(out.data for out in link.data_to_send())


def dump(link: Link, tests: list[SimulatedTest], clock: datetime, now: float) -> list[Event]:
    events = link.receive_data(EOT + ENQ, now)
    for frame in frames(message(tests, clock), etb_between=True):
        assert sent(link) == ACK
        events += link.receive_data(frame, now)
    return events + link.receive_data(EOT, now)


def test_the_meter_is_woken_and_its_memory_taken() -> None:
    meter = SIMULATOR.peer(readings("112", "<20", ">600"), NOON + timedelta(hours=1))
    events = converse(link(), meter, finished=lambda: meter.done)
    reports = [report for event in events if isinstance(event, Unit) for report in DRIVER.parse(event.data, ContourOptions())]
    told = [(report.observations[0].comparator, report.observations[0].value) for report in reports]
    assert told == [("", "112"), ("<", "20"), (">", "600")]


def test_an_absent_meter_is_woken_again_in_silence() -> None:
    absent = link(poll_seconds=10.0)
    for now in (0.0, 10.0, 20.0):
        assert absent.deadline == now
        assert absent.handle_timeout(now) == []
        assert sent(absent) == EOT


def test_the_same_memory_is_unchanged_though_the_clock_has_moved() -> None:
    tests = readings("112", "95")
    docked = link()
    (first,) = dump(docked, tests, NOON, 1.0)
    assert isinstance(first, Unit)
    sent(docked)
    assert dump(docked, tests, NOON + timedelta(minutes=5), 20.0) == [Unchanged()]
    sent(docked)
    (grown,) = dump(docked, [*tests, *readings("130")], NOON + timedelta(minutes=6), 40.0)
    assert isinstance(grown, Unit)


def test_another_meter_with_the_same_readings_is_not_unchanged() -> None:
    docked = link()
    dump(docked, readings("112"), NOON, 1.0)
    sent(docked)
    other = [record.replace(b"7150-1234567", b"7150-7654321") for record in message(readings("112"), NOON)]
    events = docked.receive_data(ENQ + b"".join(frames(other, etb_between=True)), 2.0)
    assert [type(event) for event in events] == [Unit]


def test_a_read_that_breaks_off_is_incomplete_and_the_next_one_is_whole() -> None:
    docked = link()
    events = docked.receive_data(ENQ + b"".join(frames(message(readings("112"), NOON), etb_between=True)[:3]), 0.0)
    events += docked.handle_timeout(30.0)
    assert any(isinstance(event, Incomplete) for event in events)
    sent(docked)
    assert [type(event) for event in dump(docked, readings("112"), NOON, 60.0)] == [Unit]


def test_the_memory_can_be_read_again_and_again() -> None:
    meter = SIMULATOR.peer(readings("112"), NOON)
    events = converse(link(poll_seconds=5.0), meter, until=16.0)
    assert [type(event) for event in events] == [Unit, Unchanged, Unchanged, Unchanged]


def test_control_tests_of_the_simulator_are_controls() -> None:
    meter = SIMULATOR.peer([SimulatedTest(at=NOON, kind=SampleKind.CONTROL)], NOON)
    (event,) = converse(link(), meter, finished=lambda: meter.done)
    assert isinstance(event, Unit)
    assert [report.kind for report in DRIVER.parse(event.data, ContourOptions())] == [SampleKind.CONTROL]


def test_samples_are_a_minute_apart_and_end_at_the_time_given() -> None:
    made = SIMULATOR.samples(3, NOON, random.Random(1))
    assert [test.at for test in made] == [NOON - timedelta(minutes=2 - index) for index in range(3)]
