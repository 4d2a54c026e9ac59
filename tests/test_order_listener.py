"""The order feed over real sockets, on both stores: AA after the commit and never before, and what each message changes."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from structlog.testing import capture_logs

from chartbound.agent import audit
from chartbound.agent.order_folder import order_folder
from chartbound.agent.order_listener import OrderDesk, OrderListener
from chartbound.agent.order_messages import messages_of
from chartbound.agent.store import specimens
from chartbound.agent.store.engine import migrate, open_store, reading
from chartbound.agent.store.specimens import Registered
from chartbound.config.address import Address
from chartbound.hl7 import ack, mllp
from chartbound.hl7.chart import OrderedTest, Patient
from chartbound.simulators.orders import Order, OrderFeed

from .clinic import ANA, BEN, NINE, SITE, Clinic, identifiers, open_clinic, ran

ORDERS = '\n[orders]\nlisten = "127.0.0.1:0"\nfolder = "drop/orders"\n'
A1C = "4548-4"


@dataclass
class Feed:
    """A clinic whose order port is open."""

    clinic: Clinic
    listener: OrderListener
    woken: list[str]

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.listener.bound)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address.host, self.address.port), timeout=20)

    def send(self, message: bytes) -> ack.Ack:
        with OrderFeed(self.address, timeout=20) as feed:
            return feed.send(message)

    def specimen(self, label: str) -> Registered:
        with reading(self.clinic.engine) as conn:
            found = specimens.by_label(conn, label)
        assert found
        return found

    def labels(self) -> list[str]:
        with reading(self.clinic.engine) as conn:
            return [one.specimen.specimen_id for one in specimens.listed(conn)]


@contextmanager
def listening(clinic: Clinic) -> Iterator[Feed]:
    stop = threading.Event()
    woken: list[str] = []
    desk = OrderDesk(clinic.engine, clinic.verdicts, lambda: woken.append("senders"))
    listener = OrderListener(Address("127.0.0.1", 0), desk.answer, stop)
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        assert listener.listening.wait(10)
        yield Feed(clinic, listener, woken)
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


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


def order(label: str = "S-1", patient: Patient = ANA, number: str = "P-1", tests: tuple[str, ...] = (A1C,)) -> Order:
    return Order(number, label, replace(patient, authority=""), tests, NINE, authority="")


def test_an_order_is_registered_as_the_ehr_states_it(feed: Feed) -> None:
    answer = feed.send(order().message("NW"))
    assert (answer.code, answer.text) == ("AA", "")
    found = feed.specimen("S-1").specimen
    assert found.patient == ANA
    assert found.tests == (OrderedTest(A1C, "HbA1c", "LN", "P-1", NINE),)
    assert (found.specimen_type, found.collected_at, found.issued) == ("BLD", NINE, False)
    assert feed.woken == ["senders"]
    with reading(feed.clinic.engine) as conn:
        assert audit.verify(conn) == []


def test_an_orm_has_its_label_in_the_filler_number(feed: Feed) -> None:
    assert feed.send(order().message("NW", "ORM^O01")).code == "AA"
    assert feed.specimen("S-1").specimen.accession == "S-1"


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


def test_the_answer_comes_after_the_commit(feed: Feed) -> None:
    """Whoever has read AA finds the order in the store, by another connection."""
    for number in range(10):
        assert feed.send(order(f"S-{number}", number=f"P-{number}").message("NW")).code == "AA"
        assert feed.specimen(f"S-{number}")


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


def test_a_held_result_files_when_its_order_comes(feed: Feed) -> None:
    [row] = feed.clinic.run("hba1c-1", ran(specimen_id="S-1", values={"HbA1c": "6.1"}))
    assert (row.state, row.reason) == ("held", "LABEL_UNKNOWN")
    assert feed.send(order().message("NW")).code == "AA"
    after = feed.clinic.row(row.id)
    assert (after.state, after.reason) != ("held", "LABEL_UNKNOWN")
    assert after.label == "S-1" or after.reason in {"CONFIRMATION_DUE", "IDENTITY_CONFLICT"}


def test_to_a_cancelled_order_nothing_is_matched(feed: Feed) -> None:
    feed.send(order().message("NW"))
    assert feed.send(order().message("CA")).code == "AA"
    assert feed.send(order().message("CA")).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled
    [row] = feed.clinic.run("hba1c-1", ran(specimen_id="S-1", values={"HbA1c": "6.1"}))
    assert row.state == "held"
    answer = feed.send(order().message("NW"))
    assert (answer.code, "was cancelled" in answer.text) == ("AE", True)


def test_a_status_changed_to_cancelled_is_a_cancellation(feed: Feed) -> None:
    feed.send(order().message("NW"))
    assert feed.send(order().message("SC")).code == "AA"
    assert not feed.specimen("S-1").specimen.cancelled
    assert feed.send(order().message("SC").replace(b"ORC|SC|P-1|||", b"ORC|SC|P-1|||CA")).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled


def test_a_cancellation_without_the_specimen_finds_it_by_the_order(feed: Feed) -> None:
    feed.send(order(tests=(A1C, "41653-7")).message("NW"))
    cancel = re.sub(rb"SPM\|[^\r]*\r", b"", order().message("CA"))
    assert feed.send(cancel).code == "AA"
    found = feed.specimen("S-1").specimen
    assert ([test.code for test in found.tests], found.cancelled) == (["41653-7"], False)
    assert feed.send(re.sub(rb"SPM\|[^\r]*\r", b"", order(tests=("41653-7",)).message("CA"))).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled
    assert feed.labels() == ["S-1"]


def test_a_cancellation_that_comes_before_its_order_keeps_it_closed(feed: Feed) -> None:
    assert feed.send(order().message("CA")).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled
    assert feed.send(order().message("NW")).code == "AE"


def test_a_changed_order_adds_tests_and_says_what_was_not_known(feed: Feed) -> None:
    feed.send(order().message("NW").replace(b"SPM|1|S-1||BLD", b"SPM|1|S-1||"))
    assert feed.send(order(tests=(A1C, "41653-7")).message("XO")).code == "AA"
    found = feed.specimen("S-1").specimen
    assert ([test.code for test in found.tests], found.specimen_type) == ([A1C, "41653-7"], "BLD")


def test_a_label_of_another_patient_is_an_ae_and_takes_nothing_of_its_message(feed: Feed) -> None:
    feed.send(order().message("NW"))
    both = order(patient=BEN, tests=("41653-7",), label="S-2", number="P-2").message("NW")
    both += order(patient=BEN, tests=("41653-7",), number="P-2").message("NW").partition(b"ORC")[2].join((b"ORC", b""))
    for message in (both, order(patient=BEN).message("CA"), order(patient=BEN).message("XO")):
        answer = feed.send(message)
        assert (answer.code, "another patient" in answer.text) == ("AE", True)
        assert b"205^" in raw_answer(feed, message)
    assert feed.labels() == ["S-1"]
    assert feed.specimen("S-1").specimen.patient == ANA
    assert not feed.specimen("S-1").specimen.cancelled


def raw_answer(feed: Feed, message: bytes) -> bytes:
    with feed.connect() as wire:
        wire.sendall(mllp.frame(message))
        return wire.recv(65536)


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
    raw = raw_answer(sqlite_feed, order().message("NW").replace(*change))
    assert b"MSA|" + code.encode() + b"|" in raw.replace(raw[4:5], b"|")
    if code == "AE":
        assert condition in raw
    assert sqlite_feed.labels() == []


def test_an_adt_changes_the_names_of_all_specimens_and_the_place_of_its_own_visit(feed: Feed) -> None:
    visit = b"PV1|1|O|ROOM 1||||||||||||||||%s\rORC"
    feed.send(order("S-1").message("NW").replace(b"ORC", visit % b"V-1"))
    feed.send(order("S-2", number="P-2").message("NW").replace(b"ORC", visit % b"V-2"))
    feed.send(order("S-3", BEN, "P-3").message("NW"))
    newly = replace(ANA, last_name="RIVERA-LOPEZ", birth_date=date(1961, 3, 6))
    moved = b"PV1|1|O|ROOM 7||||||||||||||||V-2"
    assert feed.send(order(patient=newly).update().replace(b"PV1|1|O", moved)).code == "AA"
    one, two, three = (feed.specimen(label).specimen.patient for label in ("S-1", "S-2", "S-3"))
    assert (one.last_name, one.birth_date, one.location) == ("RIVERA-LOPEZ", date(1961, 3, 6), "ROOM 1")
    assert (two.last_name, two.location) == ("RIVERA-LOPEZ", "ROOM 7")
    assert three == BEN
    assert feed.send(order(patient=Patient("MRN-1")).update()).code == "AA"
    assert feed.specimen("S-1").specimen.patient.last_name == "RIVERA-LOPEZ"  # what is left out stays


def test_an_adt_may_settle_a_doubt_about_a_held_result(feed: Feed) -> None:
    feed.send(order(patient=replace(ANA, last_name="MISSPELT")).message("NW"))
    [row] = feed.clinic.run("urine-1", ran(specimen_id="S-1", last_name="RIVERA", first_name="ANA"))
    assert row.state == "held"
    woken = len(feed.woken)
    assert feed.send(order().update()).code == "AA"
    assert len(feed.woken) == woken + 1
    assert feed.send(order().update()).code == "AA"
    assert len(feed.woken) == woken + 1  # nothing new: nobody is woken


def test_a_merge_moves_what_waits_and_refuses_where_messages_exist(feed: Feed) -> None:
    feed.send(order().message("NW"))
    merge = order(patient=BEN).update().replace(b"ADT^A08^ADT_A01", b"ADT^A40^ADT_A39").replace(b"PV1|1|O", b"MRG|MRN-1^^^^MR")
    assert feed.send(merge).code == "AA"
    assert feed.specimen("S-1").specimen.patient == BEN
    assert feed.send(merge).code == "AA"
    [row] = feed.clinic.run("hba1c-1", ran(specimen_id="S-1", values={"HbA1c": "6.1"}))
    if row.state == "held":
        with feed.clinic.acting() as acts:
            acts.assign(row.id, "S-1", identifiers(BEN))
    back = order(patient=ANA).update().replace(b"ADT^A08^ADT_A01", b"ADT^A40^ADT_A39").replace(b"PV1|1|O", b"MRG|MRN-2^^^^MR")
    answer = feed.send(back)
    assert (answer.code, "later version" in answer.text) == ("AE", True)
    assert feed.specimen("S-1").specimen.patient == BEN


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
            sqlite_feed.send(message) if message.startswith(b"MSH") else raw_answer(sqlite_feed, message)
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


def test_a_file_of_messages_is_taken_one_by_one(feed: Feed) -> None:
    """Framed or not, in a batch or not; what is refused leaves the others be."""
    clinic = feed.clinic
    folder = order_folder(clinic.verdicts.site, clinic.verdicts, clinic.engine, lambda: None)
    assert clinic.verdicts.site.orders.folder
    drop = clinic.verdicts.site.orders.folder
    good, bad = order().message("NW"), order(patient=BEN).message("NW")
    also = order("S-2", number="P-2").message("NW")
    batch = b"FHS|^~\\&\rBHS|^~\\&\r" + good + bad + also.replace(b"\r", b"\r\n") + b"BTS|3\rFTS|1\r"
    (drop / "batch.HL7").write_bytes(batch)
    (drop / "framed.hl7").write_bytes(mllp.frame(order("S-3", number="P-3").message("NW")))
    (drop / "none.hl7").write_bytes(b"no message at all")
    for now in (0.0, 2.0):
        folder.scan(now)
    while folder.take_ready(2.0):
        pass
    assert sorted(feed.labels()) == ["S-1", "S-2", "S-3"]
    assert sorted(path.name for path in (drop / "done").iterdir()) == ["batch.HL7", "framed.hl7"]
    assert [path.name for path in (drop / "failed").iterdir()] == ["none.hl7"]


def test_a_batch_is_parted_at_its_messages() -> None:
    one, two = order().message("NW"), order("S-2").message("NW")
    for content in (one + two, mllp.frame(one) + mllp.frame(two), b"BHS|^~\\&\r" + one + b"\r\n" + two + b"BTS|2\rFTS|1"):
        assert messages_of(content) == [one, two]
    assert messages_of(b"") == []
    assert messages_of(b"PID|MSH") == []


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
