"""The order port over real sockets: AA after the commit and never before, and no caller that it does not survive."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text
from structlog.testing import capture_logs
from typer.testing import CliRunner

from chartbound.agent.order_listener import OrderDesk, OrderListener
from chartbound.agent.runtime import Agent
from chartbound.agent.store.engine import migrate, open_store, writing
from chartbound.config import catalog as catalogs
from chartbound.config import site as sites
from chartbound.config.address import Address
from chartbound.hl7 import ack, mllp
from chartbound.simulators import cli as simulators
from chartbound.simulators.orders import OrderFeed

from .clinic import BEN, SITE, open_clinic
from .order_feed import A1C, ORDERS, Feed, listening, order


@pytest.fixture
def feed(store: Engine, tmp_path: Path) -> Iterator[Feed]:
    (tmp_path / "drop" / "orders").mkdir(parents=True)
    with listening(open_clinic(store, tmp_path, SITE + ORDERS)) as feed:
        yield feed


@pytest.fixture
def sqlite_feed(tmp_path: Path) -> Iterator[Feed]:
    """For what does not depend on the store."""
    (tmp_path / "drop" / "orders").mkdir(parents=True)
    engine = open_store("sqlite", tmp_path)
    migrate(engine)
    with listening(open_clinic(engine, tmp_path, SITE + ORDERS)) as feed:
        yield feed
    engine.dispose()


def test_a_sender_that_missed_the_answer_sends_again_and_the_order_is_there_once(feed: Feed) -> None:
    """The connection dies with the answer unread; the same bytes come on a new one, and on a third at the same time."""
    message = order().message("NW")
    wires = [feed.connect() for _ in range(3)]
    for wire in wires:
        wire.sendall(mllp.frame(message))
    for wire in wires:
        wire.close()
    assert feed.send(message).code == "AA"
    assert feed.labels() == ["S-1"]
    assert len(feed.specimen("S-1").specimen.tests) == 1


def test_the_answer_waits_for_the_commit(feed: Feed) -> None:
    """While another has the store there is no answer; then it comes, and the order is there for everybody."""
    with feed.connect() as wire:
        with writing(feed.clinic.engine):
            wire.sendall(mllp.frame(order().message("NW")))
            wire.settimeout(0.5)
            with pytest.raises(TimeoutError):
                wire.recv(1)
        wire.settimeout(20)
        assert b"MSA|AA|" in wire.recv(65536)
    assert feed.labels() == ["S-1"]


def test_a_store_that_is_away_is_an_ae_and_the_order_is_taken_when_it_is_back(tmp_path: Path) -> None:
    site_folder, away = tmp_path / "site", tmp_path / "away"
    site_folder.mkdir()
    (site_folder / "drop" / "orders").mkdir(parents=True)
    first = open_store("sqlite", site_folder)
    migrate(first)
    verdicts = open_clinic(first, site_folder, SITE + ORDERS)
    first.dispose()
    engine = open_store("sqlite", away)
    with listening(replace(verdicts, engine=engine)) as feed, OrderFeed(feed.address) as sender:
        for _ in range(2):
            answer = sender.send(order().message("NW"))
            assert (answer.code, "send again" in answer.text) == ("AE", True)
        away.mkdir()
        assert sender.send(order().message("NW")).code == "AE"  # the file is there, its tables are not
        migrate(engine)
        assert sender.send(order().message("NW")).code == "AA"
        assert feed.labels() == ["S-1"]
    engine.dispose()


def test_a_postgresql_that_is_away_is_an_ae_until_it_is_back(postgresql: Any, tmp_path: Path) -> None:
    name = f"chartbound_{uuid4().hex}"
    admin = create_engine(postgresql.get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT")

    def command(sql: str) -> None:
        with admin.connect() as conn:
            conn.execute(text(sql))

    command(f"CREATE DATABASE {name}")
    engine = open_store(postgresql.get_uri(database=name), tmp_path)
    migrate(engine)
    with listening(open_clinic(engine, tmp_path)) as feed, OrderFeed(feed.address, timeout=20) as sender:
        assert sender.send(order("S-0", number="P-0").message("NW")).code == "AA"
        command(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        command(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        answer = sender.send(order().message("NW"))
        assert (answer.code, "send again" in answer.text) == ("AE", True)
        command(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert sender.send(order().message("NW")).code == "AA"
        assert sorted(feed.labels()) == ["S-0", "S-1"]
    engine.dispose()
    command(f"DROP DATABASE {name}")
    admin.dispose()


@pytest.mark.parametrize(
    ("change", "code", "condition"),
    [
        ((b"OML^O21^OML_O21", b"ORU^R01^ORU_R01"), "AR", b"200^"),
        ((b"MSH|^~\\&", b"MSH|||||"), "AR", b"200^"),
        ((b"PID|", b"ZID|"), "AE", b"101^"),
        ((b"19610305", b"5.3.1961"), "AE", b"102^"),
        ((b"ORC|NW", b"ORC|ZZ"), "AE", b"102^"),
        ((b"UNICODE UTF-8", b"KLINGON"), "AE", b"102^"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_the_standards_codes(
    sqlite_feed: Feed, change: tuple[bytes, bytes], code: str, condition: bytes
) -> None:
    raw = sqlite_feed.exchange(order().message("NW").replace(*change))
    assert b"MSA|" + code.encode() + b"|" in raw.replace(raw[4:5], b"|")
    if code == "AE":
        assert condition in raw
    assert sqlite_feed.labels() == []


def test_a_message_may_be_split_at_every_byte(sqlite_feed: Feed) -> None:
    message = order().message("NW")
    framed = mllp.frame(message)
    with sqlite_feed.connect() as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(framed)):
            wire.sendall(framed[:cut])
            wire.sendall(framed[cut:])
            assert b"MSA|AA|" in wire.recv(65536)
        for position in range(len(framed)):
            wire.sendall(framed[position : position + 1])
        assert b"MSA|AA|" in wire.recv(65536)
    assert sqlite_feed.labels() == ["S-1"]


def test_many_messages_at_once_are_answered_in_order(sqlite_feed: Feed) -> None:
    messages = [order(f"S-{number}", number=f"P-{number}").message("NW") for number in range(20)]
    with sqlite_feed.connect() as wire:
        wire.sendall(b"".join(mllp.frame(message) for message in messages))
        decoder = mllp.Decoder()
        answers: list[bytes] = []
        while len(answers) < len(messages):
            answers += decoder.receive_data(wire.recv(65536))
    stated = [message.split(b"|")[9].decode() for message in messages]
    assert [(ack.read(one).code, ack.read(one).control_id) for one in answers] == [("AA", number) for number in stated]


def test_several_senders_are_heard_while_one_says_nothing(sqlite_feed: Feed) -> None:
    with sqlite_feed.connect(), sqlite_feed.connect() as half:
        half.sendall(mllp.START + b"MSH|^~\\&|")
        for number in range(3):
            assert sqlite_feed.send(order(f"S-{number}", number=f"P-{number}").message("NW")).code == "AA"


def test_port_scanners_are_no_trouble_and_fill_no_log(sqlite_feed: Feed) -> None:
    with capture_logs() as logs:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x0b", b"\x1c\r"):
            with sqlite_feed.connect() as wire:
                wire.sendall(said)
        assert sqlite_feed.send(order().message("NW")).code == "AA"
    assert [one["event"] for one in logs] == ["order message taken"]


def test_a_caller_that_sends_without_end_is_hung_up_on(sqlite_feed: Feed) -> None:
    for start in (b"noise", mllp.START + b"MSH|"):
        with sqlite_feed.connect() as wire, pytest.raises(ConnectionError):
            wire.sendall(start + b"x" * (64 << 20))
    assert sqlite_feed.send(order().message("NW")).code == "AA"


def test_connections_are_bounded_and_the_one_silent_longest_gives_way(sqlite_feed: Feed) -> None:
    wires = [sqlite_feed.connect() for _ in range(40)]
    try:
        assert sqlite_feed.send(order().message("NW")).code == "AA"
        assert sqlite_feed.listener.connections <= 32
        assert wires[0].recv(1) == b""
    finally:
        for wire in wires:
            wire.close()


def test_the_log_holds_no_patient(sqlite_feed: Feed) -> None:
    with capture_logs() as logs:
        for message in (
            order().message("NW"),
            order(patient=BEN).message("NW"),
            order().message("NW").replace(b"19610305", b"5.3.1961"),
            order().message("NW").replace(b"ORC|NW", b"ORC|ANA"),
            order().update(),
            b"RIVERA^ANA",
        ):
            sqlite_feed.send(message) if message.startswith(b"MSH") else sqlite_feed.exchange(message)
    assert len(logs) == 6
    assert not re.search("RIVERA|ANA|MRN-1|1961|OKAFOR|S-1", repr(logs))


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(deadline=None, max_examples=100)
def test_whatever_comes_is_answered(desk: OrderDesk, noise: bytes, at: int) -> None:
    """Every framed message has its answer, and none is an AA that changed the register unseen."""
    whole = order().message("NW")
    for message in (noise, whole[:at] + noise + whole[at:]):
        assert re.search(rb"MSA.A[AER]", desk.answer(message))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrderDesk]:
    folder = tmp_path_factory.mktemp("desk")
    engine = open_store("sqlite", folder)
    migrate(engine)
    clinic = open_clinic(engine, folder)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    yield OrderDesk(engine, clinic.verdicts, lambda: None)
    structlog.reset_defaults()
    engine.dispose()


def test_the_simulated_feed_orders_renames_and_cancels(sqlite_feed: Feed) -> None:
    to = f"127.0.0.1:{sqlite_feed.listener.bound}"
    done = CliRunner().invoke(simulators.app, ["orders", "--to", to, "--count", "3", "--update", "--test", A1C])
    assert (done.exit_code, done.stdout.count("AA")) == (0, 6)
    assert sorted(sqlite_feed.labels()) == ["SIM-000001", "SIM-000002", "SIM-000003"]
    assert sqlite_feed.specimen("SIM-000001").specimen.patient.last_name.endswith("-NEW")
    done = CliRunner().invoke(simulators.app, ["orders", "--to", to, "--count", "1", "--orm", "--cancel", "--test", A1C])
    assert done.exit_code == 0
    assert sqlite_feed.specimen("SIM-000001").specimen.cancelled
    done = CliRunner().invoke(simulators.app, ["orders", "--to", to, "--tries", "1"])
    assert (done.exit_code, "was cancelled" in done.stdout) == (1, True)


def test_the_running_agent_hears_orders_and_stops_at_once(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(SITE.partition("[[instruments]]")[0] + "[[destinations]]" + SITE.partition("[[destinations]]")[2] + ORDERS)
    (tmp_path / "drop" / "orders").mkdir(parents=True)
    agent = Agent(sites.load(path), catalogs.load(tmp_path))
    thread = threading.Thread(target=agent.run)
    thread.start()
    try:
        while agent.order_listener is None:
            assert thread.is_alive()
        assert agent.order_listener.listening.wait(10)
        address = Address("127.0.0.1", agent.order_listener.bound)
        with OrderFeed(address, timeout=20) as sender:
            assert sender.send(order().message("NW"), tries=5).code == "AA"
            assert agent.status()["orders"] == {"port": address.port, "why": ""}
    finally:
        agent.stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_a_port_that_is_taken_is_tried_again_and_said_once(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        stop = threading.Event()
        listener = OrderListener(Address("127.0.0.1", other.getsockname()[1]), lambda message: message, stop)
        thread = threading.Thread(target=listener.run)
        thread.start()
        assert not listener.listening.wait(0.7)
        assert "cannot be heard" in listener.why
        other.close()
        assert listener.listening.wait(10)
        assert listener.why == ""
        stop.set()
        thread.join(10)
