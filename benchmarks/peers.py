"""The processes that all candidates meet alike (instruments, EHR), and the two candidates to be compared with the agent.

    ehr          answers every message with AA at once, and notes when it came
    instruments  DCA Vantage simulators, as many as there are ports, each sending its next result as soon as it may
    bare         yardstick W: framing and checksum, one full commit a message, a canned ORU over a plain socket
    usual        yardstick N: the same receiver, hl7apy for the message, python-hl7's client, two commits a result

Each runs by itself (`python -m chartbound.benchmarks.peers ROLE SETTINGS`) and takes commands line by line, in JSON.
"""

from __future__ import annotations

import json
import selectors
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import count as counter
from pathlib import Path
from typing import Any

from chartbound.drivers.lis1a import ACK, ENQ, EOT, Sender
from chartbound.simulators.dca_vantage import SIMULATOR
from chartbound.simulators.peer import SimulatedTest

_WAIT = 60.0  # seconds after which a measurement has failed


def label(number: int) -> str:
    """The specimen label of result `number`."""
    return f"B{number:07d}"


class Ehr:
    """Takes messages over MLLP and answers AA; the same for every candidate."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._server.getsockname()[1])
        self._times: list[float] = []
        self._seen: set[bytes] = set()
        self._wanted = 0
        self._marker = b""
        self._marked = -1
        self._reached = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            wire, _ = self._server.accept()
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._converse, args=(wire,), daemon=True).start()

    def _converse(self, wire: socket.socket) -> None:
        buffer = b""
        while data := wire.recv(65536):
            buffer += data
            while (end := buffer.find(b"\x1c\r")) >= 0:
                at = time.monotonic()
                message, buffer = buffer[:end], buffer[end + 2 :]
                control_id = message.split(b"|", 10)[9]
                if control_id not in self._seen:
                    self._seen.add(control_id)
                    self._times.append(at)
                    if self._marker and self._marker in message:
                        self._marked = len(self._times) - 1
                wire.sendall(
                    b"\x0bMSH|^~\\&|EHR|H|CB|R|20260101||ACK^R01^ACK|A%b|P|2.5.1\rMSA|AA|%b\r\x1c\r" % (control_id, control_id)
                )
                if len(self._times) == self._wanted:
                    self._reached.set()

    def expect(self, count: int, marker: str = "") -> dict[str, Any]:
        """From now on so many messages are expected; one that holds the marker is told from the others."""
        self._times.clear()
        self._seen.clear()
        self._reached.clear()
        self._wanted, self._marker, self._marked = count, marker.encode(), -1
        return {}

    def wait(self) -> dict[str, Any]:
        """Wait for what is expected: when each came (monotonic seconds), and which was the marked one."""
        if not self._reached.wait(_WAIT):
            return {"times": self._times, "problem": f"{len(self._times)} of {self._wanted} messages came in {_WAIT:.0f} s"}
        return {"times": self._times, "marked": self._marked}

    def so_far(self) -> dict[str, Any]:
        return {"count": len(self._times)}


def _call(port: int) -> socket.socket:
    """Connect; an agent that has just said that it listens may be about to open the port."""
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.05)
    return socket.create_connection(("127.0.0.1", port))


class Instrument:
    """One simulated DCA Vantage on a TCP connection that it makes itself."""

    def __init__(self, number: int, port: int, first: int, count: int) -> None:
        self._wire = _call(port)
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = datetime.now()  # noqa: DTZ005 - an instrument's local clock
        tests = [
            SimulatedTest(
                at=now - timedelta(seconds=60),
                values={"HbA1c": f"{4.6 + each % 70 / 10:.1f}"},
                sequence=number * 10_000_000 + each,
                specimen_id=label(each),
                last_name=f"LAST{each}",
                first_name="JANE",
            )
            for each in range(first, first + count)
        ]
        self._peers: Iterator[Sender] = (SIMULATOR.peer([test], now) for test in tests)  # type: ignore[misc]
        self._peer: Sender | None = None
        self.frames: list[float] = []  # when each last frame left

    def fileno(self) -> int:
        return self._wire.fileno()

    def begin(self) -> bool:
        """Begin with the next result; False where none is left."""
        self._peer = next(self._peers, None)
        if self._peer is None:
            return False
        self._peer.handle_timeout(time.monotonic())
        self._say()
        return True

    def hear(self) -> bool:
        """Take the receiver's answer; True where the result is said."""
        data = self._wire.recv(4096)
        assert data, "the receiver has closed the connection"
        assert self._peer is not None
        self._peer.receive_data(data, time.monotonic())
        self._say()
        assert not self._peer.failed, "the receiver has refused a result"
        return self._peer.done

    def _say(self) -> None:
        assert self._peer is not None
        data = b"".join(out.data for out in self._peer.data_to_send())
        if data:
            if data[0] == 2:
                self.frames.append(time.monotonic())
            self._wire.sendall(data)

    def close(self) -> None:
        self._wire.close()


def say_all(ports: list[int], first: int, count: int, pause: float = 0.0) -> dict[str, Any]:
    """Every instrument says `count` results of its own, `first` and up; with a pause one result at a time."""
    instruments = [Instrument(i, port, first + i * count, count) for i, port in enumerate(ports)]
    selector = selectors.DefaultSelector()
    begun = time.monotonic()
    talking = 0
    for one in instruments:
        selector.register(one, selectors.EVENT_READ, one)
        talking += one.begin()
    while talking:
        for key, _ in selector.select(_WAIT):
            if key.data.hear():
                if pause:
                    time.sleep(pause)
                talking -= not key.data.begin()
    ended = time.monotonic()
    for one in instruments:
        one.close()
    selector.close()
    return {"begun": begun, "ended": ended, "frames": [at for one in instruments for at in one.frames]}


class Receiver:
    """The least that can be called a receiver, for many instruments: framing, checksum, and what `take` does before the ACK."""

    def __init__(self, ports: int, take: Callable[[bytes], None], after: Callable[[bytes], None]) -> None:
        self._take, self._after = take, after
        self._selector = selectors.DefaultSelector()
        self.ports = []
        for _ in range(ports):
            server = socket.create_server(("127.0.0.1", 0))
            self._selector.register(server, selectors.EVENT_READ, None)
            self.ports.append(int(server.getsockname()[1]))

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                wire = key.fileobj
                assert isinstance(wire, socket.socket)
                if key.data is None:
                    connection, _ = wire.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._selector.register(connection, selectors.EVENT_READ, bytearray())
                elif not self._hear(wire, key.data):
                    self._selector.unregister(wire)
                    wire.close()

    def _hear(self, wire: socket.socket, buffer: bytearray) -> bool:
        data = wire.recv(65536)
        buffer += data
        if buffer[:1] == EOT:
            del buffer[:1]
        if buffer[:1] == ENQ:
            del buffer[:1]
            wire.sendall(ACK)
        start, end = buffer.find(b"\x02"), buffer.find(b"\x03")
        if 0 <= start < end and len(buffer) >= end + 5:
            body = bytes(buffer[start + 1 : end + 1])
            assert b"%02X" % (sum(body) & 0xFF) == buffer[end + 1 : end + 3]
            del buffer[: end + 5]
            self._take(body)
            wire.sendall(ACK)
            self._after(body)
        return bool(data)


def full_sync(path: Path) -> sqlite3.Connection:
    """A database whose every commit is synced, as the agent's are."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE IF NOT EXISTS heard (id INTEGER PRIMARY KEY, data BLOB, state TEXT)")
    return db


class PlainSender:
    """Stop-and-wait over a plain socket."""

    def __init__(self, port: int) -> None:
        self._wire = socket.create_connection(("127.0.0.1", port))
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: bytes) -> bytes:
        self._wire.sendall(b"\x0b" + message + b"\x1c\r")
        answer = b""
        while not answer.endswith(b"\x1c\r"):
            answer += self._wire.recv(65536)
        return answer

    def close(self) -> None:
        self._wire.close()


CANNED = (
    b"MSH|^~\\&|CHARTBOUND|RIVERSIDE|||20260115093000-0600||ORU^R01^ORU_R01|%020d|P|2.5.1\r"
    b"PID|1||4711^^^RIV^MR||DOE^JANE||19700101|F\r"
    b"ORC|RE|P-1|F-1\r"
    b"OBR|1|P-1|F-1|4548-4^Hemoglobin A1c^LN|||20260115092400-0600|||||||||||||||20260115093000-0600|||F\r"
    b"OBX|1|NM|4548-4^Hemoglobin A1c/Hemoglobin.total in Blood^LN^HbA1c^HbA1c^L||6.1|%%|||||F|||20260115092400-0600\r"
    b"SPM|1|B0000001&CB||BLD\r"
)


def bare(ehr: int, folder: str, ports: int) -> Receiver:
    """W."""
    db, sender, numbers = full_sync(Path(folder) / "bare.db"), PlainSender(ehr), counter(1)

    def take(body: bytes) -> None:
        db.execute("INSERT INTO heard (data) VALUES (?)", (body,))

    def after(_body: bytes) -> None:
        sender.send(CANNED % next(numbers))

    return Receiver(ports, take, after)


def usual(ehr: int, folder: str, ports: int) -> Receiver:
    """N: what one writes with the libraries at hand."""
    import hl7.client

    db, client, numbers = full_sync(Path(folder) / "usual.db"), hl7.client.MLLPClient("127.0.0.1", ehr), counter(1)

    def take(body: bytes) -> None:
        db.execute("INSERT INTO heard (data, state) VALUES (?, 'heard')", (body,))

    def after(body: bytes) -> None:
        number = next(numbers)
        answer = client.send_message(usual_message(body, number))
        state = "posted" if b"|AA|" in answer else "refused"
        db.execute("UPDATE heard SET state = ? WHERE id = ?", (state, number))

    return Receiver(ports, take, after)


def usual_message(body: bytes, number: int) -> bytes:
    """The ORU of one frame, put together with hl7apy; nothing is validated."""
    from hl7apy.core import Message

    records = [record.split("|") for record in body[1:-1].decode("latin-1").split("\r") if record]
    patient = next(record for record in records if record[0] == "P")
    result = next(record for record in records if record[0] == "R")
    code = result[2].split("^")[3]
    message = Message("ORU_R01", version="2.5.1")
    message.msh.msh_3, message.msh.msh_4 = "CHARTBOUND", "RIVERSIDE"
    message.msh.msh_7, message.msh.msh_9 = "20260115093000", "ORU^R01^ORU_R01"
    message.msh.msh_10, message.msh.msh_11 = f"N{number}", "P"
    whole = message.add_group("oru_r01_patient_result")
    person = whole.add_group("oru_r01_patient")
    person.pid.pid_3, person.pid.pid_5, person.pid.pid_7, person.pid.pid_8 = "4711^^^RIV^MR", patient[5], "19700101", "F"
    order = whole.add_group("oru_r01_order_observation")
    order.orc.orc_1, order.orc.orc_2, order.orc.orc_3 = "RE", "P-1", f"F-{number}"
    order.obr.obr_1, order.obr.obr_2, order.obr.obr_3 = "1", "P-1", f"F-{number}"
    order.obr.obr_4, order.obr.obr_7 = "4548-4^Hemoglobin A1c^LN", result[11]
    order.obr.obr_22, order.obr.obr_25 = "20260115093000", "F"
    observation = order.add_group("oru_r01_observation")
    observation.obx.obx_1, observation.obx.obx_2 = "1", "NM"
    observation.obx.obx_3 = f"4548-4^Hemoglobin A1c/Hemoglobin.total in Blood^LN^{code}^{code}^L"
    observation.obx.obx_5, observation.obx.obx_6 = result[3], "%"
    observation.obx.obx_11, observation.obx.obx_14 = "F", result[11]
    specimen = order.add_group("oru_r01_specimen")
    specimen.spm.spm_1, specimen.spm.spm_2, specimen.spm.spm_4 = "1", patient[2], "BLD"
    return bytes(message.to_er7().encode())


def plain_sender(ehr: int, store: str, first: int, count: int) -> dict[str, Any]:
    """Stored bytes, read one by one and sent; nothing is written down."""
    db, sender = sqlite3.connect(store), PlainSender(ehr)
    begun = time.monotonic()
    for number in range(first, first + count):
        ((body,),) = db.execute("SELECT body FROM delivery WHERE id = ?", (number,))
        sender.send(body)
    took = time.monotonic() - begun
    sender.close()
    db.close()
    return {"seconds": took}


def stop_and_wait(ehr: int, seconds: float) -> dict[str, Any]:
    """R: canned messages to the same peer, as fast as one at a time can go."""
    sender, numbers, begun = PlainSender(ehr), counter(1), time.monotonic()
    done = 0
    while time.monotonic() - begun < seconds:
        sender.send(CANNED % (10**19 + next(numbers)))
        done += 1
    took = time.monotonic() - begun
    sender.close()
    return {"per_second": done / took}


def main() -> None:
    role, settings = sys.argv[1], json.loads(sys.argv[2])
    answers: dict[str, Callable[..., dict[str, Any]]]
    if role == "ehr":
        ehr = Ehr()
        answers = {"expect": ehr.expect, "wait": ehr.wait, "so_far": ehr.so_far}
        said: dict[str, Any] = {"port": ehr.port}
    elif role in ("bare", "usual"):
        receiver = (bare if role == "bare" else usual)(**settings)
        threading.Thread(target=receiver.run, daemon=True).start()
        answers, said = {}, {"ports": receiver.ports}
    else:
        answers, said = {"say_all": say_all, "plain_sender": plain_sender, "stop_and_wait": stop_and_wait}, {}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(answers[command.pop("do")](**command)), flush=True)


if __name__ == "__main__":
    main()
