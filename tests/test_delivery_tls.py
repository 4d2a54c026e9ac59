"""TLS to the EHR: delivered where the certificate is vouched for, and nothing is sent where it is not."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chartbound.agent.mllp_wire import Destination, Tls, Unreachable, Wire
from chartbound.hl7 import ack, mllp

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates of these tests")

MESSAGE = b"MSH|^~\\&|CHARTBOUND|RIVERSIDE|||20260115093000+0000||ORU^R01^ORU_R01|ID-1|P|2.5.1\r"


def certificate(folder: Path, name: str, host: str = "localhost") -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    made, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*command, *subject, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return made, key


class Receiver:
    """An EHR behind TLS that takes one message and answers AA."""

    def __init__(self, made: Path, key: Path, clients: Path | None = None) -> None:
        self.received: list[bytes] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(made, key)
        if clients is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(clients)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        with suppress(OSError):  # the caller refuses our certificate, or the test is over
            plain, _ = self.server.accept()
            with plain, self.context.wrap_socket(plain, server_side=True) as wire:
                decoder = mllp.Decoder()
                while not self.received:
                    self.received += decoder.receive_data(wire.recv(65536))
                wire.sendall(mllp.frame(ack.build(self.received[0], "AA", at=datetime.now(UTC), control_id="A-1")))
                wire.recv(1)

    def close(self) -> None:
        self.server.close()
        self.thread.join(10)


@pytest.fixture
def ours(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path, "ours")


def send(port: int, tls: Tls) -> str:
    wire = Wire(Destination("ehr", "localhost", port, ack_timeout=10, tls=tls))
    try:
        return wire.exchange(MESSAGE, "ID-1", threading.Event()).code
    finally:
        wire.close()


def test_a_message_is_delivered_where_the_certificate_is_vouched_for(ours: tuple[Path, Path]) -> None:
    receiver = Receiver(*ours)
    assert send(receiver.port, Tls(ca=ours[0])) == "AA"
    receiver.close()
    assert receiver.received == [MESSAGE]


def test_we_show_our_own_certificate_where_the_ehr_asks_for_one(ours: tuple[Path, Path], tmp_path: Path) -> None:
    client = certificate(tmp_path, "client")
    receiver = Receiver(*ours, clients=client[0])
    assert send(receiver.port, Tls(ca=ours[0], certificate=client[0], key=client[1])) == "AA"
    receiver.close()


@pytest.mark.parametrize("host", ["localhost", "other.example"])
def test_nothing_is_sent_to_a_peer_that_nobody_vouches_for(tmp_path: Path, ours: tuple[Path, Path], host: str) -> None:
    stranger = certificate(tmp_path, "stranger", host)
    receiver = Receiver(*stranger)
    with pytest.raises(Unreachable, match="certificate"):
        send(receiver.port, Tls(ca=ours[0] if host == "localhost" else stranger[0]))
    receiver.close()
    assert receiver.received == []
