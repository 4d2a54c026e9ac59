"""Simulated instruments on real pseudo-terminals and sockets, with the real link of their driver at the other end."""

# ruff: noqa: DTZ001 - an instrument's clock knows no zone

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import serial
from typer.testing import CliRunner

from chartbound.drivers import driver as drivers
from chartbound.drivers.driver import Contact
from chartbound.drivers.link import Event, Incomplete, Link, Unchanged, Unit
from chartbound.drivers.report import Report, SampleKind
from chartbound.simulators import cli, peer
from chartbound.simulators.faults import CLOCK_ERROR, Fault, FaultyWire, Pause, Send, Unplug
from chartbound.simulators.instrument import run
from chartbound.simulators.peer import SimulatedTest

NOON = datetime(2026, 1, 15, 12, 0)
OPTIONS: dict[str, dict[str, Any]] = {"clinitek_status": {"date_order": "mdy"}}
SOON = 20.0  # seconds: longer than any of these takes on a busy machine

WIRED = [driver.name for driver in drivers.shipped() if driver.connect is not None]

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


class Host:
    """The agent's end of a wire: a real port, the driver's real link, and every unit heard."""

    def __init__(self, driver: str, url: str) -> None:
        self.driver = drivers.find(driver)
        self.options = self.driver.options(**OPTIONS.get(driver, {}))
        assert self.driver.connect is not None
        self.link: Link = self.driver.connect(self.options, Contact(poll_seconds=0.5))
        self.events: list[Event] = []
        self.closed = False
        self._port = Tcp(url) if url.startswith("socket://") else serial.serial_for_url(url, timeout=0.02)

    def hear(self, wanted: int, seconds: float = SOON) -> list[Report]:
        """Listen until so many reports were heard, or the line is closed, or the time is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and len(self.reports) < wanted and not self.closed:
            now = time.monotonic()
            if self.link.deadline is not None and now >= self.link.deadline:
                self.events += self.link.handle_timeout(now)
            self._speak()
            try:
                data = self._port.read(4096)
            except OSError:  # pyserial's errors are such
                data, self.closed = b"", True
            if data or self.closed:
                self.events += self.link.receive_data(data, time.monotonic())
            self._speak()
        return self.reports

    @property
    def reports(self) -> list[Report]:
        return [r for e in self.events if isinstance(e, Unit) for r in self.driver.parse(e.data, self.options)]

    def _speak(self) -> None:
        for out in self.link.data_to_send():
            with contextlib.suppress(OSError):
                self._port.write(out.data)

    def close(self) -> None:
        self._port.close()


class Tcp:
    """A plain socket in the shape of a port: pyserial's own throws away what came before a hang-up."""

    def __init__(self, url: str) -> None:
        address, _, port = url.removeprefix("socket://").rpartition(":")
        self._socket = socket.create_connection((address, int(port)), timeout=SOON)
        self._socket.settimeout(0.02)

    def read(self, most: int) -> bytes:
        try:
            data = self._socket.recv(most)
        except TimeoutError:
            return b""
        if not data:
            raise ConnectionResetError
        return data

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class Running:
    """A simulated instrument in a thread of its own."""

    def __init__(self, driver: str, port: str, tests: list[SimulatedTest], **more: Any) -> None:
        self.stop = threading.Event()
        self.result: bool | None = None
        self._named = threading.Event()
        self._name = ""

        def opened(name: str) -> None:
            self._name = name
            self._named.set()

        def body() -> None:
            self.result = run(peer.find(driver), port, tests, clock=NOON, opened=opened, stop=self.stop, **more)

        self._thread = threading.Thread(target=body)
        self._thread.start()

    @property
    def name(self) -> str:
        assert self._named.wait(SOON)
        return self._name

    def join(self) -> bool | None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        return self.result


@contextlib.contextmanager
def instrument(driver: str, port: str, tests: list[SimulatedTest], **more: Any) -> Iterator[Running]:
    running = Running(driver, port, tests, **more)
    try:
        yield running
    finally:
        running.stop.set()
        running.join()


@contextlib.contextmanager
def host(driver: str, url: str) -> Iterator[Host]:
    end = Host(driver, url)
    try:
        yield end
    finally:
        end.close()


def some(driver: str, count: int) -> list[SimulatedTest]:
    return peer.find(driver).samples(count, NOON, random.Random(7))


def times(reports: list[Report]) -> list[datetime | None]:
    return [report.observed_at for report in reports]


@needs_pty
@pytest.mark.parametrize("driver", WIRED)
def test_everything_said_on_a_pseudo_terminal_is_heard(driver: str) -> None:
    tests = some(driver, 12)
    with instrument(driver, "pty", tests) as running, host(driver, running.name) as end:
        assert times(end.hear(12)) == [test.at for test in tests]
        assert running.join() is True


@pytest.mark.parametrize("driver", WIRED)
def test_everything_said_over_tcp_is_heard(driver: str) -> None:
    tests = some(driver, 12)
    with instrument(driver, "listen://127.0.0.1:0", tests) as running, host(driver, running.name) as end:
        assert times(end.hear(12)) == [test.at for test in tests]


def test_an_instrument_that_calls_waits_for_a_host_that_is_not_there_yet() -> None:
    tests = some("clinitek_status", 3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with instrument("clinitek_status", f"socket://127.0.0.1:{port}", tests) as running:
        assert running.name == f"listen://127.0.0.1:{port}"
        with socket.create_server(("127.0.0.1", port)) as server:
            server.settimeout(SOON)
            connection, _ = server.accept()
            with connection:
                connection.settimeout(SOON)
                said = b""
                while said.count(b"\r") < 3:
                    said += connection.recv(4096)
        assert running.join() is True


@needs_pty
def test_a_docked_meter_stays_and_is_read_again() -> None:
    tests = some("onetouch_ultra2", 2)
    with instrument("onetouch_ultra2", "pty", tests, keep=True) as running, host("onetouch_ultra2", running.name) as end:
        end.hear(2)
        end.hear(3, seconds=1.5)
        assert len(end.reports) == 2
        assert Unchanged() in end.events
        running.stop.set()
        assert running.join() is True


@needs_pty
def test_tests_run_one_after_the_other_fill_the_meter() -> None:
    tests = some("onetouch_ultra2", 3)
    with instrument("onetouch_ultra2", "pty", tests, every=0.1) as running, host("onetouch_ultra2", running.name) as end:
        assert times(end.hear(6))[-3:] == [test.at for test in tests]
        assert len(end.reports) == 1 + 2 + 3


@pytest.mark.parametrize("fault", [Fault.SPLIT, Fault.MERGE, Fault.STALL, Fault.DUPLICATE, Fault.LOST_ACK])
def test_faults_that_harm_no_text_lose_nothing(fault: Fault) -> None:
    tests = some("clinitek_status", 3)
    with (
        instrument("clinitek_status", "listen://127.0.0.1:0", tests, fault=fault) as running,
        host("clinitek_status", running.name) as end,
    ):
        reports = end.hear(4 if fault is Fault.DUPLICATE else 3)
    assert {report.identity for report in reports} == {
        ("1", "2026-01-15T11:58:00"),
        ("2", "2026-01-15T11:59:00"),
        ("3", "2026-01-15T12:00:00"),
    }
    assert not any(report.problem for report in reports)


@pytest.mark.parametrize("fault", [Fault.BAD_CHECKSUM, Fault.NOISE, Fault.SPLIT, Fault.DUPLICATE, Fault.UNPLUG])
def test_a_meters_memory_survives_what_happens_to_the_wire(fault: Fault) -> None:
    """Over TCP an unplugged cable is a closed connection; the host comes back with a fresh link."""
    tests = some("onetouch_ultra2", 5)
    with instrument("onetouch_ultra2", "listen://127.0.0.1:0", tests, fault=fault, keep=True) as running:
        heard: list[Report] = []
        until = time.monotonic() + SOON
        while len(heard) < 5 and time.monotonic() < until:
            with host("onetouch_ultra2", running.name) as end:
                heard = end.hear(5)
        assert times(heard) == [test.at for test in tests]


@pytest.mark.parametrize("fault", [Fault.BAD_CHECKSUM, Fault.NOISE, Fault.SPLIT, Fault.MERGE, Fault.DUPLICATE])
def test_an_instrument_that_waits_for_an_ack_loses_nothing_and_says_nothing_twice(fault: Fault) -> None:
    tests = some("dca_vantage", 3)
    with (
        instrument("dca_vantage", "listen://127.0.0.1:0", tests, fault=fault, times=2) as running,
        host("dca_vantage", running.name) as end,
    ):
        assert times(end.hear(3)) == [test.at for test in tests]
        assert len(end.hear(4)) == 3  # until the instrument has said all and hung up


def test_an_unplugged_one_way_instrument_leaves_a_half_line_that_is_no_report() -> None:
    tests = some("clinitek_status", 2)
    with instrument("clinitek_status", "listen://127.0.0.1:0", tests, fault=Fault.UNPLUG) as running:
        with host("clinitek_status", running.name) as end:
            assert end.hear(1) == []
            assert any(isinstance(event, Incomplete) for event in end.events)
        with host("clinitek_status", running.name) as end:
            assert times(end.hear(2)) == [test.at for test in tests]


def test_a_wrong_clock_is_wrong_for_the_readings_and_the_meter_alike() -> None:
    tests = some("onetouch_ultra2", 1)
    with (
        instrument("onetouch_ultra2", "listen://127.0.0.1:0", tests, fault=Fault.WRONG_CLOCK) as running,
        host("onetouch_ultra2", running.name) as end,
    ):
        (report,) = end.hear(1)
    assert report.observed_at == NOON + CLOCK_ERROR
    assert report.clock is not None
    assert timedelta(0) <= report.clock - (NOON + CLOCK_ERROR) < timedelta(seconds=SOON)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.WRONG_CLOCK, Fault.LOST_ACK)])
def test_a_fault_happens_as_often_as_it_was_asked_for_and_the_same_way_each_time(fault: Fault) -> None:
    said = [b"0123456789ABCDEF\r", b"fedcba9876543210\r", b"0123456789abcdef\r"]

    def heard(wire: FaultyWire) -> list[list[Send | Pause | Unplug]]:
        return [wire.to_host(data) for data in said]

    first = heard(FaultyWire(fault, times=1, seed=5))
    assert first == heard(FaultyWire(fault, times=1, seed=5))
    assert first[0] != [Send(said[0])]
    assert first[2] == [Send(said[2])]
    assert heard(FaultyWire(None)) == [[Send(data)] for data in said]


def test_one_ack_is_lost_and_the_next_is_not() -> None:
    wire = FaultyWire(Fault.LOST_ACK)
    assert [wire.to_instrument(b"\x06") for _ in range(2)] == [b"", b"\x06"]


@needs_pty
def test_an_instrument_speaks_on_a_serial_port_by_its_name() -> None:
    host_end, port = os.openpty()
    try:
        with instrument("clinitek_status", os.ttyname(port), some("clinitek_status", 1)) as running:
            said = b""
            while not said.endswith(b"\r"):
                ready, _, _ = select.select([host_end], [], [], SOON)
                assert ready
                said += os.read(host_end, 4096)
            assert running.join() is True
        assert said.startswith(b"1,01-15-2026,12:00PM,JD,S")
    finally:
        os.close(host_end)
        os.close(port)


@needs_pty
def test_the_command_prints_the_terminals_name_and_ends_when_all_is_said() -> None:
    command = [sys.executable, "-m", "chartbound.simulators.cli", "instrument", "clinitek_status", "--port", "pty"]
    command += ["--count", "2", "--specimen-id", "S000042", "--value", "GLU=100 mg/dL"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], SOON)
        assert ready
        with host("clinitek_status", process.stdout.readline().strip()) as end:
            reports = end.hear(2)
            assert process.wait(SOON) == 0
    assert [report.specimen_id for report in reports] == ["S000042"] * 2
    assert reports[0].observations[0].value == "100"


@pytest.mark.parametrize(
    "arguments",
    [
        ["instrument", "no_such_driver", "--port", "pty"],
        ["instrument", "clinitek_status", "--port", "listen://nowhere"],
        ["instrument", "clinitek_status", "--port", "pty", "--value", "GLU"],
        ["instrument", "clinitek_status", "--port", "pty", "--fault", "tea"],
    ],
)
def test_a_command_used_wrongly_ends_with_two(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.app, arguments).exit_code == 2


@needs_pty
@pytest.mark.parametrize("driver", WIRED)
def test_the_commands_controls_are_controls(driver: str) -> None:
    command = [sys.executable, "-m", "chartbound.simulators.cli", "instrument", driver, "--port", "pty", "--control"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with host(driver, process.stdout.readline().strip()) as end:
            assert [report.kind for report in end.hear(1)] == [SampleKind.CONTROL]
            assert process.wait(SOON) == 0
