"""The simulated EHR as its own tests and foreign clients see it, and the sender against foreign receivers."""

from __future__ import annotations

import asyncio
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from chartbound.agent.mllp_wire import Destination, Unanswered, Unreachable, Wire
from chartbound.hl7 import ack, mllp
from chartbound.hl7.profile import Profile
from chartbound.simulators.ehr import BEHAVIOURS, EhrSimulator, command

AT = datetime(2026, 3, 2, 16, 15, tzinfo=UTC)
NEVER = threading.Event()


def oru(control_id: str) -> bytes:
    return (
        f"MSH|^~\\&|CHARTBOUND|RIVERSIDE|EHR|HOSP|20260302101500-0600||ORU^R01^ORU_R01|{control_id}|P|2.5.1\r"
        "PID|1||123^^^RIV^MR||DOE^JANE\rOBR|1||F1|2339-0^Glucose^LN\rOBX|1|NM|2339-0^Glucose^LN||96|mg/dL|||||F\r"
    ).encode()


def wire_to(address: tuple[str, int], connection: str = "keep") -> Wire:
    return Wire(Destination("ehr", *address, ack_timeout=2.0, profile=Profile.model_validate({"connection": connection})))


@pytest.fixture
def ehr() -> Iterator[EhrSimulator]:
    with EhrSimulator() as simulator:
        yield simulator


def test_what_is_filed_is_saved_once_under_its_number_and_control_id(tmp_path: Path) -> None:
    with EhrSimulator(behaviour=["AA", "AR", "hangup", "AA"], save=tmp_path) as ehr:
        wire = wire_to(ehr.address)
        wire.exchange(oru("M/1"), "M/1", NEVER)
        wire.exchange(oru("M2"), "M2", NEVER)
        with pytest.raises(Unanswered):
            wire.exchange(oru("M3"), "M3", NEVER)
        wire.exchange(oru("M3"), "M3", NEVER)
        wire.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1-M_1.hl7", "2-M3.hl7"]
        assert (tmp_path / "2-M3.hl7").read_bytes() == oru("M3")
        assert (ehr.duplicates, ehr.mismatches) == (1, [])


def test_other_bytes_under_a_known_control_id_are_noticed(ehr: EhrSimulator) -> None:
    wire = wire_to(ehr.address)
    wire.exchange(oru("M1"), "M1", NEVER)
    wire.exchange(oru("M1").replace(b"|96|", b"|97|"), "M1", NEVER)
    wire.close()
    assert (ehr.mismatches, ehr.messages) == (["M1"], {"M1": oru("M1")})


def test_a_seeded_draw_can_be_repeated() -> None:
    def run() -> list[str]:
        with EhrSimulator(behaviour=["AA", "AE", "AR"], seed=5) as ehr:
            wire = wire_to(ehr.address)
            for number in range(12):
                wire.exchange(oru(f"M{number}"), f"M{number}", NEVER)
            wire.close()
            return [one.behaviour for one in ehr.arrivals]

    first = run()
    assert first == run()
    assert len(set(first)) > 1


def test_it_comes_back_at_the_same_address(ehr: EhrSimulator) -> None:
    wire = wire_to(ehr.address)
    wire.exchange(oru("M1"), "M1", NEVER)
    ehr.stop()
    with pytest.raises(Unreachable, match=r"no connection to 127\.0\.0\.1"):
        wire.exchange(oru("M2"), "M2", NEVER)
    ehr.start()
    wire.exchange(oru("M2"), "M2", NEVER)
    wire.close()
    assert list(ehr.messages) == ["M1", "M2"]


def test_the_command_refuses_what_it_cannot_do() -> None:
    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["--ack", "AA,OK"]).exit_code == 2
    assert CliRunner().invoke(app, ["--listen", "nowhere"]).exit_code == 2


def test_the_answer_may_be_cut_anywhere() -> None:
    """An ACK in two reads, cut at every byte, with an answer for another message before it."""
    answer = mllp.frame(ack.build(oru("OTHER"), "AA", at=AT, control_id="8")) + mllp.frame(
        ack.build(oru("M1"), "AA", at=AT, control_id="9")
    )
    with listening() as (server, address):
        wire = wire_to(address, "per_message")
        for cut in range(0, len(answer), 3):
            told = threading.Thread(target=tell, args=(server, answer[:cut], answer[cut:]))
            told.start()
            assert wire.exchange(oru("M1"), "M1", NEVER) == ack.Ack("AA", "M1")
            told.join()
        assert wire.ignored == len(range(0, len(answer), 3))


def test_an_endless_answer_is_given_up() -> None:
    with listening() as (server, address):
        wire = Wire(Destination("ehr", *address, ack_timeout=0.5))
        told = threading.Thread(target=tell, args=(server, mllp.START + b"x" * 3_000_000, b""))
        told.start()
        with pytest.raises(Unanswered):
            wire.exchange(oru("M1"), "M1", NEVER)
        told.join()
        assert not wire.connected


@contextmanager
def listening() -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()


def tell(server: socket.socket, *parts: bytes) -> None:
    """Take one message and say these parts, whatever it was; then wait until the peer has gone."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        decoder = mllp.Decoder()
        while not decoder.receive_data(connection.recv(65536)):
            pass
        try:
            for part in parts:
                connection.sendall(part)
            while connection.recv(65536):
                pass
        except OSError:
            return


def test_every_behaviour_is_understood() -> None:
    assert {"AA", "AE", "AR", "none", "late", "hangup", "wrong-id"} <= BEHAVIOURS.keys()


# Foreign peers: python-hl7's client and both libraries' servers.


def test_python_hl7s_client_gets_its_answer(ehr: EhrSimulator) -> None:
    from hl7.client import MLLPClient

    with MLLPClient(*ehr.address) as client:
        answer = client.send_message(oru("M1"))
    assert b"MSA|AA|M1" in answer
    assert list(ehr.messages) == ["M1"]


@pytest.mark.parametrize("connection", ["keep", "per_message"])
def test_python_hl7s_server_takes_our_messages(connection: str) -> None:
    with python_hl7_server() as (address, received):
        wire = wire_to(address, connection)
        for number in range(5):
            assert wire.exchange(oru(f"M{number}"), f"M{number}", NEVER).code == "AA"
        wire.close()
    assert received == [f"M{number}" for number in range(5)]


@contextmanager
def python_hl7_server() -> Iterator[tuple[tuple[str, int], list[str]]]:
    import hl7.mllp

    received: list[str] = []
    loop = asyncio.new_event_loop()
    ready, done = threading.Event(), asyncio.Event()
    address: list[tuple[str, int]] = []

    async def converse(reader: Any, writer: Any) -> None:
        try:
            while True:
                message = await reader.readmessage()
                received.append(str(message["MSH.F10"]))
                writer.writemessage(message.create_ack())
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    async def serve() -> None:
        server = await hl7.mllp.start_hl7_server(converse, "127.0.0.1", 0)
        address.append(server.sockets[0].getsockname())
        ready.set()
        await done.wait()
        server.close()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0], received
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()


@pytest.mark.parametrize("connection", ["keep", "per_message"])
def test_hl7apys_server_that_closes_after_each_message_is_survived(connection: str) -> None:
    """Whatever of its hang-ups we see too late is unanswered and sent again; every message arrives, its order kept."""
    with hl7apy_server() as (address, received):
        wire = wire_to(address, connection)
        for number in range(10):
            for _ in range(20):
                try:
                    answer = wire.exchange(oru(f"M{number}"), f"M{number}", NEVER)
                except Unanswered:
                    assert connection == "keep"
                    continue
                break
            assert answer == ack.Ack("AA", f"M{number}")
        wire.close()
    assert list(dict.fromkeys(received)) == [f"M{number}" for number in range(10)]
    assert connection == "keep" or len(received) == 10


@contextmanager
def hl7apy_server() -> Iterator[tuple[tuple[str, int], list[str]]]:
    from hl7apy.mllp import AbstractHandler, MLLPServer

    received: list[str] = []

    class Handler(AbstractHandler):
        def reply(self) -> str:
            message = self.incoming_message.encode()
            received.append(message.split(b"|")[9].decode())
            return mllp.frame(ack.build(message, "AA", at=AT, control_id="1")).decode()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = MLLPServer("127.0.0.1", 0, {"ORU^R01^ORU_R01": (Handler,)}, timeout=5)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address, received
        finally:
            server.shutdown()
            thread.join(10)
            server.server_close()
