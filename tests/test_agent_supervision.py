"""The agent as a service: its stop, its ports that come and go, and what it does when a part of it fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from chartbound.drivers.lis1a import ENQ, frames
from chartbound.simulators import dca_vantage
from chartbound.simulators.ehr import EhrSimulator

from .agent_process import (
    COMMAND,
    HBA1C,
    AgentProcess,
    Analyser,
    a_label,
    a_test,
    call,
    count,
    free_port,
    hearing_of,
    instrument,
    patient,
    register,
    results,
    until,
    urine_line,
    write_site,
)

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and pseudo-terminals of POSIX")


@POSIX
def test_a_stop_in_the_middle_of_a_transmission_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    port = free_port()
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", port))
    with AgentProcess(tmp_path) as agent, Analyser(port) as analyser:
        analyser.report(a_test(1, "S1"))
        records = dca_vantage.message(a_test(2, "S2"), a_test(2).at)
        analyser.ask(ENQ)
        for data in frames(records)[:-1]:  # all but L, which alone would be a promise
            analyser.ask(data)
        assert agent.stop(signal.SIGTERM) < 5
    counted = count(tmp_path)
    assert (counted.heard, counted.incomplete, counted.balanced) == (1, 1, True)
    with AgentProcess(tmp_path) as agent, Analyser(port) as analyser:
        analyser.report(a_test(2, "S2"))
        agent.wait_for("result", 1)
        assert agent.stop(signal.SIGINT) < 5
    counted = count(tmp_path)
    assert (counted.heard, counted.held, counted.balanced) == (2, 2, True)


def test_a_second_agent_on_the_folder_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    write_site(tmp_path, instrument("urine-1", "clinitek_status", free_port()))
    with AgentProcess(tmp_path) as agent:
        second = subprocess.run([*COMMAND, "run", "site.toml"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert str(tmp_path / "state") in second.stderr
        assert str(agent.process.pid) in second.stderr
        agent.stop()
    assert not (tmp_path / "state" / "status.json").exists()


@POSIX
def test_a_serial_line_is_waited_for_and_heard_again_whenever_it_comes_back(tmp_path: Path) -> None:
    from chartbound.simulators.cable import Cable

    link = tmp_path / "tty-urine"
    write_site(tmp_path, instrument("urine-1", "clinitek_status", str(link)))
    with AgentProcess(tmp_path) as agent:
        agent.wait_for("port unavailable")
        for number in (1, 2):
            cable = Cable()
            link.symlink_to(cable.host)
            agent.wait_for("port available", number)
            descriptor = os.open(cable.instrument, os.O_RDWR | os.O_NOCTTY)
            os.write(descriptor, urine_line(number, f"S{number}"))
            agent.wait_for("result", number)
            os.close(descriptor)
            link.unlink()
            cable.unplug()
            agent.wait_for("port unavailable", number + 1)
        agent.status_when(lambda said: "no such port" in hearing_of(said, "urine-1")["why"])
        assert agent.stop() < 5
    assert len(agent.said("port unavailable")) <= 2 * 2 + 1  # unplugged, then not there: each said once


def test_a_listening_port_that_is_taken_is_said_once_and_heard_when_it_is_free(tmp_path: Path) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]
    write_site(tmp_path, instrument("urine-1", "clinitek_status", port), instrument("urine-2", "clinitek_status", free_port()))
    with AgentProcess(tmp_path) as agent:
        assert "another program" in agent.wait_for("port unavailable", instrument="urine-1")["hint"]
        said = agent.status_when(lambda said: hearing_of(said, "urine-2")["state"] == "waiting")
        assert hearing_of(said, "urine-1")["state"] == "unavailable"
        other.close()
        agent.wait_for("port available", instrument="urine-1")
        with call(port) as wire:
            wire.sendall(urine_line(1))
            agent.wait_for("result")
        assert len(agent.said("port unavailable")) == 1


def test_an_instrument_that_calls_again_and_again_over_dead_connections_is_heard(tmp_path: Path) -> None:
    """A cable that is pulled ends no connection: the old ones stay open for hours, silent."""
    port = free_port()
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", port))
    with AgentProcess(tmp_path) as agent:
        dead = []
        for number in range(1, 21):
            analyser = Analyser(port)
            dead.append(analyser)
            analyser.report(a_test(number, f"S{number}"))
        agent.wait_for("result", 20)
        assert agent.stop() < 5
        for analyser in dead:
            analyser.wire.close()
    assert (count(tmp_path).held, count(tmp_path).balanced) == (20, True)


_DRIVERS = {
    "dies_in_link": """
class Dying(TextLink):
    def receive_data(self, data, now):
        if b"!" in data:
            raise KeyError("DOE,JANE")
        return super().receive_data(data, now)

def parse(unit, options):
    return CLINITEK.parse(unit, options)

def connect(options, contact):
    return Dying()
""",
    "dies_in_parse": """
def parse(unit, options):
    raise KeyError("DOE,JANE")

def connect(options, contact):
    return TextLink()
""",
}


def _site_driver(folder: Path, name: str) -> None:
    (folder / "drivers").mkdir(exist_ok=True)
    head = (
        "from chartbound.drivers.clinitek_status import DRIVER as CLINITEK\n"
        "from chartbound.drivers.driver import Driver\nfrom chartbound.drivers.line_text import TextLink\n"
        "from dataclasses import replace\n"
    )
    tail = f'\nDRIVER = replace(CLINITEK, name="{name}", parse=parse, connect=connect)\n'
    (folder / "drivers" / f"{name}.py").write_text(head + _DRIVERS[name] + tail, encoding="utf-8")


_OPTIONS = '[instruments.options]\ndate_order = "mdy"\n'


@POSIX
def test_a_drivers_failure_stops_no_other_instrument_and_is_said(tmp_path: Path) -> None:
    """A site's own drivers: one whose link fails, on a serial line and on a socket, and one that fails at each text."""
    from chartbound.simulators.cable import Cable

    for name in _DRIVERS:
        _site_driver(tmp_path, name)
    cable = Cable()
    ports = [free_port() for _ in range(3)]
    write_site(
        tmp_path,
        instrument("bad-serial", "dies_in_link", cable.host, _OPTIONS),
        instrument("bad-socket", "dies_in_link", ports[0], _OPTIONS),
        instrument("bad-parse", "dies_in_parse", ports[1], _OPTIONS),
        instrument("urine-1", "clinitek_status", ports[2]),
        top='drivers_folder = "drivers"',
    )
    with AgentProcess(tmp_path) as agent, call(ports[1]) as text, call(ports[2]) as sound:
        line = os.open(cable.instrument, os.O_RDWR | os.O_NOCTTY)
        for _ in range(2):
            os.write(line, b"!\r")
            with call(ports[0]) as wire:
                wire.sendall(b"!\r")
                assert wire.recv(1) == b""
        text.sendall(urine_line(1))
        sound.sendall(urine_line(1))
        agent.wait_for("result", instrument="urine-1", state="held")
        agent.wait_for("result", instrument="bad-parse", state="unreadable")

        def failed_again() -> bool:
            os.write(line, b"!\r")  # again and again, because opening a serial port throws away what came before
            return len(agent.said("a part of the agent failed and is started again", part="bad-serial")) >= 2

        assert until(failed_again)
        said = agent.status_when(lambda said: said["failures"].get("bad-serial", 0) >= 2)
        assert not said["failures"].get("urine-1")
        assert said["failures"]["bad-socket"] == 2
        os.close(line)
        # Its text is heard as soon as it makes the driver fail no more.
        line = os.open(cable.instrument, os.O_RDWR | os.O_NOCTTY)

        def heard() -> bool:
            os.write(line, urine_line(7))
            return bool(agent.said("result", instrument="bad-serial"))

        assert until(heard)
        os.close(line)
        assert agent.stop() < 5
        assert b"DOE" not in agent.text
    cable.unplug()
    unreadable = [one for one in results(tmp_path) if one["state"] == "unreadable"]
    assert [one["instrument"] for one in unreadable] == ["bad-parse"]
    assert count(tmp_path).balanced


def _black_hole() -> tuple[list[socket.socket], int]:
    """A port that answers no call: its queue is full. Keep the sockets."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    port = int(server.getsockname()[1])
    callers = [server]
    for _ in range(4):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(("127.0.0.1", port))
        callers.append(caller)
    return callers, port


def test_a_stop_takes_less_than_five_seconds_however_many_peers_do_not_answer(tmp_path: Path) -> None:
    sockets, hole = _black_hole()
    write_site(
        tmp_path,
        *(
            instrument(f"i{number}", "dca_vantage", f"socket://127.0.0.1:{hole}" if number else free_port())
            for number in (0, 1)
        ),
        f'[store]\nurl = "postgresql://nobody@127.0.0.1:{hole}/x"\n',
        ehr=f"127.0.0.1:{hole}",
    )
    with AgentProcess(tmp_path) as agent:
        assert agent.stop() < 5
    for one in sockets:
        one.close()


def test_an_ehr_that_is_away_is_said_since_when_and_gets_each_patients_results_in_order(tmp_path: Path) -> None:
    ehr = EhrSimulator().start()
    ehr.stop()
    port = free_port()
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", port), ehr=f"127.0.0.1:{ehr.address[1]}")
    labels = [a_label(number) for number in range(1, 7)]
    register(tmp_path, *((one, patient(number % 2), HBA1C) for number, one in enumerate(labels)))
    with AgentProcess(tmp_path) as agent, Analyser(port) as analyser:
        for number, one in enumerate(labels, 1):
            analyser.report(a_test(number, one, HbA1c=f"{5 + number / 10}"))
        agent.wait_for("unreachable")
        said = agent.status_when(lambda said: said["destinations"][0]["unreachable_since"])
        assert "refused" in said["destinations"][0]["problem"].lower()
        agent.wait_for("result", 6, state="queued")
        with ehr:
            agent.wait_for("delivered", 6)
            agent.status_when(lambda said: said["destinations"][0]["unreachable_since"] is None)
            assert agent.stop() < 5
    assert len(agent.said("unreachable")) == 1
    values = [body.split(b"|HbA1c")[0] and body for body in ehr.messages.values()]
    for number in (0, 1):
        own = [body for body in values if f"MRN-{number}".encode() in body]
        assert len(own) == 3
        heard = [next(one for one in labels if one.encode() in body) for body in own]
        assert heard == sorted(heard, key=labels.index)
    assert (count(tmp_path).posted, count(tmp_path).balanced) == (6, True)
