"""The OneTouch Ultra2: its memory is read whole or not at all, and nothing is ever changed in the meter."""

# ruff: noqa: DTZ001 - an instrument's clock knows no zone

from __future__ import annotations

import dataclasses
import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.drivers.driver import Contact, Options, UnreadableReport
from chartbound.drivers.link import Event, Incomplete, Link, Outgoing, Trouble, Unchanged, Unit
from chartbound.drivers.onetouch_ultra2 import DRIVER, checksum, connect, parse
from chartbound.drivers.report import Report, SampleKind
from chartbound.simulators.in_memory import converse
from chartbound.simulators.onetouch_ultra2 import SIMULATOR, UltraPeer, samples
from chartbound.simulators.peer import SimulatedTest

NOON = datetime(2026, 1, 15, 12, 0)

# The four lines that the Tidepool uploader quotes from a real meter.
CAPTURED = [
    (b'P 003,"GMF600DCY","MG/DL "', b"05A6"),
    (b'P "SAT","03/21/15","16:45:24   ","  081 ","N","03", 00', b"09B6"),
    (b'P "SAT","03/21/15","16:42:11   ","  105 ","B","02", 00', b"099F"),
    (b'P "SAT","03/21/15","16:39:46   ","  176 ","N","02", 00', b"09C1"),
]


def whole(*lines: bytes) -> bytes:
    return b"".join(line + b" " + checksum(line) + b"\r\n" for line in lines)


def read(peer: Link, seconds: float = 5.0) -> list[Event]:
    return converse(connect(Options(), Contact()), peer, until=seconds)


def test_the_checksums_of_captured_lines_come_out() -> None:
    assert [checksum(line) for line, _ in CAPTURED] == [sum_ for _, sum_ in CAPTURED]


def test_captured_readings_are_read_oldest_first() -> None:
    unit = whole(b'@ "GMF600DCY"', b'F "SAT","03/21/15","16:50:00   "', *(line for line, _ in CAPTURED))
    reports = parse(unit, Options())
    assert [(r.observed_at, r.observations[0].value, r.observations[0].note) for r in reports] == [
        (datetime(2015, 3, 21, 16, 39, 46), "176", "too much food"),
        (datetime(2015, 3, 21, 16, 42, 11), "105", "before meal; too much food"),
        (datetime(2015, 3, 21, 16, 45, 24), "81", "mild exercise"),
    ]
    assert reports[0].observations[0].raw == "  176 "
    assert {(r.serial_number, r.clock) for r in reports} == {("GMF600DCY", datetime(2015, 3, 21, 16, 50))}


def test_a_docked_meter_is_read_whole_and_the_clock_alone_is_no_news() -> None:
    peer = UltraPeer(samples(40, NOON, random.Random(1)), NOON)
    unit, *later = read(peer, 35.0)
    assert isinstance(unit, Unit)
    assert len(parse(unit.data, Options())) == 40
    assert later == [Unchanged()] * 3
    assert not peer.erased
    assert not peer.clock_set


def test_a_new_reading_gives_a_new_unit_and_the_old_ones_keep_their_identity() -> None:
    tests = [*samples(3, NOON, random.Random(1)), SimulatedTest(at=NOON + timedelta(minutes=1), values={"GLU": "90"})]
    peer = UltraPeer(tests[:3], NOON)
    link = connect(Options(), Contact())
    (first,) = converse(link, peer, until=5.0)
    peer.tests = tests
    second = converse(link, peer, now=15.0, until=20.0)[-1]
    assert isinstance(first, Unit)
    assert isinstance(second, Unit)
    before, after = parse(first.data, Options()), parse(second.data, Options())
    assert [report.identity for report in after[:3]] == [report.identity for report in before]
    assert len({report.identity for report in after}) == 4


def test_a_reading_that_cannot_be_read_is_the_same_at_every_reading_of_the_memory() -> None:
    lines = [b'@ "ABC123DEY"', b'P 001,"ABC123DEY","MG/DL "', b'P "THU","01/15']
    (first,), (second,) = (parse(whole(*lines), Options()) for _ in range(2))
    assert first.problem
    assert first.identity == second.identity != ()


def test_two_readings_of_one_second_are_told_apart_from_the_oldest() -> None:
    twice = [SimulatedTest(at=NOON, values={"GLU": "100"}), SimulatedTest(at=NOON, values={"GLU": "100"})]
    (unit,) = read(UltraPeer(twice, NOON))
    assert isinstance(unit, Unit)
    assert [report.identity[-1] for report in parse(unit.data, Options())] == ["1", "2"]


@dataclasses.dataclass
class Listening:
    """A cable, and on it a meter or none; what the host said on it."""

    meter: UltraPeer | None = None
    said: list[bytes] = dataclasses.field(default_factory=list)
    deadline: float | None = None

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        self.said.append(data)
        return self.meter.receive_data(data, now) if self.meter else []

    def handle_timeout(self, now: float) -> list[Event]:
        return []

    def data_to_send(self) -> list[Outgoing]:
        return self.meter.data_to_send() if self.meter else []


def docked() -> Listening:
    return Listening(UltraPeer(samples(2, NOON, random.Random(1)), NOON))


def test_an_empty_cable_is_silent_and_is_looked_at_every_few_seconds() -> None:
    cable = Listening()
    assert converse(connect(Options(), Contact(poll_seconds=10)), cable, until=58.0) == []
    assert cable.said == [b"\x11\rDM?\r"] * 20


def test_pulling_the_meter_off_is_one_trouble() -> None:
    cable, link = docked(), connect(Options(), Contact())
    converse(link, cable, until=5.0)
    cable.meter = None
    events = converse(link, cable, now=15.0, until=120.0)
    assert [event.what for event in events if isinstance(event, Trouble)] == ["no_answer"]


def test_only_five_commands_are_ever_sent() -> None:
    cable = docked()
    converse(connect(Options(), Contact()), cable, until=300.0)
    assert set(cable.said) == {b"\x11\rDM?\r", b"\x11\rDM@\r", b"\x11\rDMF\r", b"\x11\rDMSU?\r", b"\x11\rDMP\r"}


@dataclasses.dataclass
class Damaging:
    """A meter on a line that turns over one bit of the `at`th byte of its memory, in the first `times` readings."""

    meter: UltraPeer
    at: int
    times: int = 1
    deadline: float | None = None

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        return self.meter.receive_data(data, now)

    def handle_timeout(self, now: float) -> list[Event]:
        return []

    def data_to_send(self) -> list[Outgoing]:
        data = b"".join(out.data for out in self.meter.data_to_send())
        if data.startswith(b"P ") and self.times > 0:
            self.times -= 1
            data = data[: self.at] + bytes([data[self.at] ^ 1]) + data[self.at + 1 :]
        return [Outgoing(data)] if data else []


def test_a_damaged_memory_is_read_again_and_comes_out_as_it_is() -> None:
    tests = samples(3, NOON, random.Random(1))
    (clean,) = read(UltraPeer(tests, NOON))
    assert isinstance(clean, Unit)
    wanted = parse(clean.data, Options())
    for at in range(len(clean.data[clean.data.index(b"P 003") :])):
        events = read(Damaging(UltraPeer(tests, NOON), at), 9.0)
        given = [event for event in events if isinstance(event, Unit)]
        assert len(given) == 1, at
        assert [value(report) for report in parse(given[0].data, Options())] == [value(report) for report in wanted], at


def value(report: Report) -> tuple[object, ...]:
    return (report.kind, report.observed_at, report.observations, report.identity)


def test_a_memory_that_stays_damaged_is_kept_once_as_incomplete() -> None:
    events = read(Damaging(UltraPeer(samples(3, NOON, random.Random(1)), NOON), at=60, times=1000), 120.0)
    assert not [event for event in events if isinstance(event, Unit)]
    assert len([event for event in events if isinstance(event, Incomplete)]) == 1
    assert {event.what for event in events if isinstance(event, Trouble)} == {"bad_answer", "no_answer"}


def test_a_wire_that_never_stops_fills_no_memory() -> None:
    link = connect(Options(), Contact())
    link.handle_timeout(0.0)
    events = [event for _ in range(400) for event in link.receive_data(b"x" * 1000, 0.1)]
    assert [event.what for event in events if isinstance(event, Trouble)] == ["endless_answer"]


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ([b'@ "ABC123DEY"'], "dump header"),
        ([b'P 000,"ABC123DEY","MG/DL "'], "serial number"),
        ([b'@ "ABC123DEQ"', b'P 000,"ABC123DEQ","MG/DL "'], "serial number"),
        ([b'@ "ABC123DEY"', b'P 000,"ABC124DEY","MG/DL "'], "dump header"),
        ([b'@ "ABC123DEY"', b'P 001,"ABC123DEY","MG/DL "'], "dump"),
    ],
)
def test_what_is_not_one_whole_memory_is_unreadable(lines: list[bytes], where: str) -> None:
    with pytest.raises(UnreadableReport) as error:
        parse(whole(*lines), Options())
    assert error.value.where == where


def test_a_control_solution_is_a_control() -> None:
    (unit,) = read(UltraPeer([SimulatedTest(at=NOON, kind=SampleKind.CONTROL)], NOON))
    assert isinstance(unit, Unit)
    assert [report.kind for report in parse(unit.data, Options())] == [SampleKind.CONTROL]


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b'@ "ABC123DEY"', b'P 001,"ABC123DEY","MG/DL "', b"P ", b"\xff"])).map(lambda x: whole(*x))
)
def test_hostile_bytes_raise_nothing_else(data: bytes) -> None:
    try:
        parse(data, Options())
    except UnreadableReport:
        return


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=50), max_size=20))
def test_a_babbling_meter_never_stops_the_link(pieces: list[bytes]) -> None:
    link, now = connect(Options(), Contact()), 0.0
    for piece in pieces:
        if link.deadline is not None:
            now = max(now, link.deadline)
            link.handle_timeout(now)
        link.data_to_send()
        if piece:
            link.receive_data(piece, now)
    assert link.deadline is not None


def test_the_simulator_and_the_driver_are_of_one_name() -> None:
    assert SIMULATOR.driver == DRIVER.name
    assert DRIVER.memory
