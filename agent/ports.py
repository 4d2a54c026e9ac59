"""The wire to an instrument: the only opener of serial ports and instrument sockets.

A port is written as in the site file: `/dev/ttyUSB0`, `COM4`, `usb:0403:6001[:SERIAL]`, `rfc2217://host:port`, `socket://host:port`
(we call the instrument) or `listen://host:port` (the instrument calls us). A USB adapter that comes back under another name
is found again by its identity.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterable
from typing import Protocol

import serial
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from ..drivers.driver import Serial

_READ = 65536
_IDLE_SECONDS = 1.0  # one wake-up a second keeps an idle port quiet and a stop prompt
_CONNECT_SECONDS = 5.0
_CALLS = 8  # open at once on one listening port; of more, the one that was silent for longest is taken for dead
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a dead peer is known after a minute, not two hours


class PortUnavailable(Exception):
    """The port cannot be opened, or it has gone. Says which port, why, and what a person can do."""

    def __init__(self, port: str, why: str, hint: str) -> None:
        super().__init__(f"{port}: {why}; {hint}")
        self.port, self.why, self.hint = port, why, hint


class Wire(Protocol):
    """One open connection to one instrument."""

    def read(self, seconds: float | None) -> bytes | None:
        """What has come, at the latest after `seconds` (None: an idle while); None: nothing; b"": the line is closed."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Port(Protocol):
    """Where wires come from. `open` returns the next one, or None where none came for now."""

    many: bool  # may there be several wires at once?

    def open(self) -> Wire | None: ...
    def close(self) -> None: ...


def port(address: str, settings: Serial) -> Port:
    """The port at this address; nothing is opened yet."""
    if address.startswith("listen://"):
        return _Listening(*_host_port(address))
    if address.startswith("socket://"):
        return _Calling(*_host_port(address))
    return _SerialPort(address, settings)


def _host_port(address: str) -> tuple[str, int]:
    host, _, number = address.partition("://")[2].rpartition(":")
    return host.strip("[]"), int(number)


class _TcpWire:
    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._socket, self._name = connection, name
        self.heard_at = time.monotonic()  # or opened
        self.closed = False

    def read(self, seconds: float | None) -> bytes | None:
        try:
            self._socket.settimeout(_IDLE_SECONDS if seconds is None else max(0.001, min(seconds, _IDLE_SECONDS)))
            data = self._socket.recv(_READ)
        except TimeoutError:
            return None
        except OSError:
            return b""
        self.heard_at = time.monotonic()
        return data

    def write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(_CONNECT_SECONDS)
            self._socket.sendall(data)
        except OSError as error:
            raise PortUnavailable(self._name, _words(error), "the instrument closed the connection") from error

    def close(self) -> None:
        """From another thread too: whoever reads is then told that the line is closed."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class _Listening:
    """The instrument calls us. It may call again before its last connection is known to be dead, so each call is a wire."""

    many = True

    def __init__(self, host: str, number: int) -> None:
        self._name = f"listen://{host}:{number}"
        self._address = (host, number)
        self._server: socket.socket | None = None
        self._calls: list[_TcpWire] = []

    def open(self) -> Wire | None:
        if self._server is None:
            self._server = self._bind()
        try:
            connection, _ = self._server.accept()
        except TimeoutError:
            return None
        except OSError as error:
            self.close()
            raise PortUnavailable(self._name, _words(error), "is the network up?") from error
        try:
            wire = _TcpWire(connection, self._name)
        except OSError:  # it was gone before we had it
            connection.close()
            return None
        self._calls = [call for call in self._calls if not call.closed]
        if len(self._calls) >= _CALLS:
            min(self._calls, key=lambda call: call.heard_at).close()
        self._calls.append(wire)
        return wire

    def _bind(self) -> socket.socket:
        try:
            server = socket.create_server(self._address, family=_family(self._address[0]), backlog=128)
        except OSError as error:
            hint = "does another program, or another instrument of this site, listen there?"
            raise PortUnavailable(self._name, _words(error), hint) from error
        server.settimeout(_IDLE_SECONDS)
        return server

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Calling:
    many = False

    def __init__(self, host: str, number: int) -> None:
        self._name = f"socket://{host}:{number}"
        self._address = (host, number)

    def open(self) -> Wire | None:
        try:
            connection = socket.create_connection(self._address, _CONNECT_SECONDS)
        except OSError as error:
            raise PortUnavailable(self._name, _words(error), "is the instrument, or its converter, switched on?") from error
        return _TcpWire(connection, self._name)

    def close(self) -> None:
        pass


class _SerialWire:
    """A serial line, or a pseudo-terminal, or an RFC 2217 server: whatever pyserial opens."""

    def __init__(self, line: serial.Serial, name: str) -> None:
        self._line, self._name, self._seconds = line, name, _IDLE_SECONDS

    def read(self, seconds: float | None) -> bytes | None:
        wanted = _IDLE_SECONDS if seconds is None else max(0.005, min(seconds, _IDLE_SECONDS))
        try:
            # Setting the timeout reconfigures the line, so it is done only where the wait really is another.
            if not self._seconds <= wanted <= 2 * self._seconds:
                self._line.timeout = self._seconds = wanted
            return bytes(self._line.read(self._line.in_waiting or 1)) or None
        except _SERIAL_ERRORS as error:
            raise PortUnavailable(self._name, _words(error), "was the adapter unplugged? It is looked for again") from error

    def write(self, data: bytes) -> None:
        try:
            self._line.write(data)
        except _SERIAL_ERRORS as error:
            raise PortUnavailable(self._name, _words(error), "was the adapter unplugged? It is looked for again") from error

    def close(self) -> None:
        with contextlib.suppress(*_SERIAL_ERRORS):
            self._line.close()


class _SerialPort:
    many = False

    def __init__(self, address: str, settings: Serial) -> None:
        self._address, self._settings = address, settings

    def open(self) -> Wire | None:
        said = self._settings
        device = usb_device(self._address) if self._address.startswith("usb:") else self._address
        try:
            line = serial.serial_for_url(
                device,
                baudrate=said.baud,
                bytesize=said.data_bits,
                parity=said.parity,
                stopbits=said.stop_bits,
                xonxoff=said.xonxoff,
                timeout=_IDLE_SECONDS,
                write_timeout=_CONNECT_SECONDS,
                do_not_open=True,
            )
            if said.dtr is not None:
                line.dtr = said.dtr
            line.open()
        except _SERIAL_ERRORS as error:
            hint = "does another program hold it, and may this account use it? `chartbound ports` lists what is there"
            raise PortUnavailable(self._address, _words(error), hint) from error
        return _SerialWire(line, self._address)

    def close(self) -> None:
        pass


def usb_device(address: str, plugged_in: Iterable[ListPortInfo] | None = None) -> str:
    """The name that this PC gives, just now, to the adapter `usb:VID:PID[:SERIAL]`. Raises `PortUnavailable`."""
    vendor, product, *rest = address.removeprefix("usb:").split(":", 2)
    found = [
        one
        for one in (list_ports.comports() if plugged_in is None else plugged_in)
        if one.vid == int(vendor, 16) and one.pid == int(product, 16) and (not rest or one.serial_number == rest[0])
    ]
    if len(found) == 1:
        return str(found[0].device)
    if found:
        names = ", ".join(f"{one.device} ({one.serial_number or 'no serial number'})" for one in found)
        raise PortUnavailable(address, f"{len(found)} adapters fit: {names}", "add the adapter's serial number")
    raise PortUnavailable(address, "no such adapter is plugged in", "`chartbound ports` lists what is there")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return "there is no such port"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def _serial_errors() -> tuple[type[Exception], ...]:
    try:
        import termios  # a pseudo-terminal raises its own kind of error, which is no OSError
    except ImportError:
        return (serial.SerialException, OSError, ValueError)
    return (serial.SerialException, OSError, ValueError, termios.error)


_SERIAL_ERRORS = _serial_errors()
