"""The wire by its name in the site file: USB adapters found by identity, and callers on a listening port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from serial.tools.list_ports_common import ListPortInfo

from chartbound.agent.ports import Port, PortUnavailable, Wire, port, usb_device
from chartbound.drivers.driver import Serial


def _adapter(device: str, vendor: int, product: int, serial_number: str | None = None) -> ListPortInfo:
    found = ListPortInfo(device)
    found.vid, found.pid, found.serial_number = vendor, product, serial_number
    return found


_PLUGGED_IN = [
    _adapter("COM3", 0x0403, 0x6001, "A10LZ1"),
    _adapter("COM4", 0x0403, 0x6001, "B20LZ2"),
    _adapter("COM5", 0x10C4, 0xEA60),
    ListPortInfo("COM1"),  # on the board: no USB
]


@pytest.mark.parametrize(
    ("address", "device"),
    [
        ("usb:0403:6001:B20LZ2", "COM4"),
        ("usb:10c4:ea60", "COM5"),
        ("usb:10C4:EA60", "COM5"),
    ],
)
def test_an_adapter_is_found_by_its_identity_whatever_its_name_is(address: str, device: str) -> None:
    assert usb_device(address, _PLUGGED_IN) == device


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("usb:0403:6001", "2 adapters fit: COM3 (A10LZ1), COM4 (B20LZ2)"),
        ("usb:0403:6001:C30", "no such adapter is plugged in"),
        ("usb:067b:2303", "no such adapter is plugged in"),
        ("usb:10c4:ea60:X", "no such adapter is plugged in"),
    ],
)
def test_an_adapter_that_is_not_there_or_not_alone_is_never_guessed(address: str, why: str) -> None:
    with pytest.raises(PortUnavailable) as caught:
        usb_device(address, _PLUGGED_IN)
    assert caught.value.why == why
    assert caught.value.hint


@pytest.fixture
def listening() -> Iterator[tuple[Port, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    made = port(f"listen://127.0.0.1:{number}", Serial())
    yield made, number
    made.close()


def test_of_too_many_open_calls_the_one_that_was_silent_for_longest_is_closed(listening: tuple[Port, int]) -> None:
    server, number = listening
    callers: list[socket.socket] = []
    wires: list[Wire] = []

    def call() -> None:
        # The port is bound by the first look at it, and a caller comes after that.
        if not callers:
            assert server.open() is None
        callers.append(socket.create_connection(("127.0.0.1", number), 10))
        wire = server.open()
        assert wire is not None
        wires.append(wire)

    for _ in range(8):
        call()
    callers[0].sendall(b"first")
    assert wires[0].read(10) == b"first"
    call()
    callers[1].settimeout(10)
    assert callers[1].recv(1) == b""
    assert wires[1].read(0.01) == b""
    callers[0].sendall(b"again")
    assert wires[0].read(10) == b"again"
    for caller in callers:
        caller.close()
    for wire in wires:
        wire.close()
