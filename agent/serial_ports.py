"""Lists the serial ports of this PC with the USB identity by which the site file can name an adapter for good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo


@dataclass(frozen=True, slots=True)
class SerialPort:
    """One port as `chartbound ports` shows it."""

    device: str  # COM4, /dev/ttyUSB0: may change when the adapter is plugged in elsewhere
    usb: str  # "usb:0403:6001:A10LZ1", what to write in the site file; "" where the port is not on USB
    description: str
    manufacturer: str


def listing(found: Iterable[ListPortInfo] | None = None) -> list[SerialPort]:
    """The ports of this PC, by name; of `found` where it is given."""
    ports = list_ports.comports() if found is None else found
    return sorted(map(_row, ports), key=lambda row: (len(row.device), row.device))  # COM4 before COM10


def _row(port: ListPortInfo) -> SerialPort:
    usb = ""
    if port.vid is not None and port.pid is not None:
        usb = f"usb:{port.vid:04x}:{port.pid:04x}"
        serial_number = port.serial_number or ""
        if serial_number and not any(sign.isspace() for sign in serial_number):  # the site file's form has no blanks
            usb += f":{serial_number}"
    return SerialPort(port.device, usb, _words(port.description), _words(port.manufacturer))


def _words(text: str | None) -> str:
    """What a USB device says of itself, made fit for a terminal; pyserial says n/a where it says nothing."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text or "")
    return "" if shown == "n/a" else shown
