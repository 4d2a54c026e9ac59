"""Reads how the site file names a wire: `COM4`, `/dev/ttyUSB0`, `usb:0403:6001`, `socket://10.0.0.5:4001`, `127.0.0.1:2575`."""

from __future__ import annotations

import re
from dataclasses import dataclass

PORT_FORMS = "COM4, /dev/ttyUSB0, usb:0403:6001[:SERIAL], socket://host:port, rfc2217://host:port or listen://host:port"
SERIAL_KINDS = ("device", "usb", "rfc2217")  # those on which a baud rate means something

_USB = re.compile(r"usb:[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}(:\S+)?")
_DEVICE = re.compile(r"(?:\\\\\.\\)?COM[1-9][0-9]{0,2}|/\S+", re.IGNORECASE)
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. Port 0 asks the system for a free one and is good for listening only."""

    host: str  # without the brackets of an IPv6 address
    port: int


def parse_address(text: str, *, listening: bool = False) -> Address:
    """Read `host:port` or `[ipv6]:port`. Raises ValueError, in words for a person."""
    host, colon, port = text.rpartition(":")
    if not colon or not _HOST.fullmatch(host):
        raise ValueError("must be host:port")
    lowest = 0 if listening else 1
    if not (port.isascii() and port.isdigit() and lowest <= int(port) <= 65535):
        raise ValueError(f"the port number must be {lowest} to 65535")
    return Address(host.strip("[]"), int(port))


def port_kind(text: str) -> str:
    """The kind of an instrument's `port`: "device", "usb", "socket", "rfc2217" or "listen".

    Raises ValueError, in words for a person.
    """
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme not in ("socket", "rfc2217", "listen"):
            raise ValueError(f"{scheme}:// is not a kind of port")
        parse_address(rest, listening=scheme == "listen")
        return scheme
    if text.startswith("usb:"):
        if not _USB.fullmatch(text):
            raise ValueError("a USB port is usb:VENDOR:PRODUCT with four hexadecimal digits each")
        return "usb"
    if _DEVICE.fullmatch(text):
        return "device"
    raise ValueError("is not a port")
