"""Bad input on the wires of a running agent: one instrument's noise is nobody else's trouble, and the log stays readable."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from pathlib import Path

from chartbound.drivers.lis1a import ACK, ENQ, NAK, frames
from chartbound.simulators import dca_vantage
from chartbound.simulators.ehr import EhrSimulator

from .agent_process import (
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
    urine_line,
    write_site,
)

_MOST_LINES = 400  # of log for everything below: thousands of bad things


def _client_hello() -> bytes:
    """What a browser says first to a port that it takes for a secure one."""
    out = ssl.MemoryBIO()
    said = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="lab-pc")
    with contextlib.suppress(ssl.SSLWantReadError):
        said.do_handshake()
    return out.read()


def _say(port: int, data: bytes) -> None:
    """Call, say this, and wait until the agent has heard all of it."""
    with call(port) as wire:
        wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        while wire.recv(65536):
            pass


def test_noise_on_two_ports_disturbs_no_third_and_floods_no_log(tmp_path: Path) -> None:
    """Noise, lines of 1 MB, wrong encodings, truncated messages, and a port scan with 200 calls to each port."""
    hba1c, urine, sound = ports = [free_port() for _ in range(3)]
    rng = random.Random(1)
    noise = rng.randbytes(1 << 15)
    label = a_label(1)
    with EhrSimulator() as ehr:
        write_site(
            tmp_path,
            instrument("hba1c-1", "dca_vantage", hba1c),
            instrument("urine-1", "clinitek_status", urine),
            instrument("hba1c-2", "dca_vantage", sound),
            ehr=f"127.0.0.1:{ehr.address[1]}",
        )
        register(tmp_path, (label, patient(1), HBA1C))
        with AgentProcess(tmp_path) as agent, Analyser(sound) as other:
            records = dca_vantage.message(a_test(1, "S1"), a_test(1).at)
            for port in ports[:2]:
                for _ in range(200):
                    call(port).close()
                for hostile in (
                    noise,
                    b"x" * (1 << 20),
                    "Ölçüm;Größe;名前\r\n".encode("utf-16"),
                    _client_hello(),
                    b"GET / HTTP/1.1\r\nHost: lab-pc\r\nUser-Agent: scanner\r\n\r\n",
                    b"\x00" * 5000,
                    ENQ + b"".join(frames(records))[:-20],  # ends in the middle of a frame
                    (ENQ + b"\x021") * 2000,
                    b"\r\n".join(b"%d,," % number for number in range(300)) + b"\r\n",
                ):
                    _say(port, hostile)
            other.report(a_test(1, label, HbA1c="6.1"))
            agent.wait_for("delivered")
            with Analyser(hba1c) as analyser:
                analyser.report(a_test(7, "S-AFTER"))
            with call(urine) as wire:
                wire.sendall(urine_line(7, "S-AFTER"))
                agent.wait_for("result", 1, state="held", instrument="urine-1")
            agent.wait_for("result", 1, state="held", instrument="hba1c-1")
            said = agent.status_when(
                lambda said: (
                    hearing_of(said, "hba1c-1")["troubles"].get("noise", 0) > 1
                    and hearing_of(said, "urine-1")["troubles"].get("too_long")
                )
            )
            assert not said["failures"]
            assert not said["not_settled"]
            assert agent.stop() < 5
    counted = count(tmp_path)
    assert (counted.posted, counted.balanced, counted.received) == (1, True, 0)
    after = [one for one in results(tmp_path) if one["specimen_id"] == "S-AFTER" or one["state"] == "held"]
    assert {one["instrument"] for one in after} >= {"hba1c-1", "urine-1"}
    assert len(agent.lines) < _MOST_LINES, len(agent.lines)


def test_callers_who_hang_on_and_say_nothing_keep_no_instrument_out(tmp_path: Path) -> None:
    port = free_port()
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", port))
    with AgentProcess(tmp_path) as agent:
        idle = [call(port) for _ in range(60)]
        with Analyser(port) as analyser:
            idle += [call(port) for _ in range(4)]
            analyser.report(a_test(1, "S1"))
        agent.wait_for("result")
        assert agent.stop() < 5
        for wire in idle:
            wire.close()
    assert len(agent.lines) < 50


def test_a_frame_damaged_on_the_way_is_refused_and_taken_when_it_comes_sound(tmp_path: Path) -> None:
    port = free_port()
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", port))
    with AgentProcess(tmp_path) as agent, Analyser(port) as analyser:
        [frame] = frames(dca_vantage.message(a_test(1, "S1"), a_test(1).at), one_frame=True)
        analyser.ask(ENQ)
        analyser.wire.sendall(frame.replace(b"S1", b"S2", 1))
        assert analyser.wire.recv(1) == NAK
        analyser.wire.sendall(frame)
        assert analyser.wire.recv(1) == ACK
        agent.wait_for("result", state="held")
        agent.stop()
    assert count(tmp_path).heard == 1
