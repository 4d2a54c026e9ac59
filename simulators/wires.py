"""The instrument's end of a wire: a pseudo-terminal, a TCP connection or a serial port.

A wire is open (`connected`) while the host has its end open; an instrument waits for that before it speaks, and survives a host
that goes and comes back.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from typing import Protocol

import serial

_LOOK = 0.05  # seconds between two looks at a wire that nobody has opened yet
_SETTLE = 0.2  # seconds that a host takes to set up what it has opened: pyserial first throws away what was said before


class Wire(Protocol):
    """One end of a wire. `name` is what the host must open."""

    name: str

    def connect(self, seconds: float) -> bool:
        """Wait at most this long for the host; True once it is there."""

    def read(self, seconds: float) -> bytes | None:
        """What the host said within this time, b"" if nothing; None: it is gone."""

    def write(self, data: bytes) -> bool:
        """Send all of it; False: the host is gone."""

    def hang_up(self) -> None:
        """Break the connection as an unplugged cable does; `connect` can follow."""

    def drain(self, seconds: float) -> None:
        """Wait at most this long until the host has read everything."""

    def close(self) -> None: ...


class TcpWire:
    """A TCP connection that the instrument makes (`socket://host:port`) or waits for (`listen://host:port`)."""

    def __init__(self, host: str, port: int, *, listens: bool) -> None:
        self._peer: socket.socket | None = None
        self._address = (host, port)
        self._server: socket.socket | None = None
        if listens:
            self._server = socket.create_server(self._address)
            self._address = self._server.getsockname()[:2]
        self.name = f"{'socket' if listens else 'listen'}://{self._address[0]}:{self._address[1]}"

    def connect(self, seconds: float) -> bool:
        """Accept the host's connection, or make one; a host that is not there yet is tried again."""
        if self._peer is not None:
            return True
        try:
            if self._server is not None:
                self._server.settimeout(seconds)
                self._peer, _ = self._server.accept()
            else:
                self._peer = socket.create_connection(self._address, timeout=max(seconds, _LOOK))
        except OSError:
            if self._server is None:
                time.sleep(_LOOK)  # a refused connection fails at once
            return False
        time.sleep(_SETTLE)
        return True

    def read(self, seconds: float) -> bytes | None:
        """See `Wire`."""
        if self._peer is None:
            return None
        try:
            ready, _, _ = select.select([self._peer], [], [], seconds)
            if not ready:
                return b""
            data = self._peer.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return None
        return data

    def write(self, data: bytes) -> bool:
        """See `Wire`."""
        if self._peer is None:
            return False
        try:
            self._peer.settimeout(10.0)
            self._peer.sendall(data)
        except OSError:
            self.hang_up()
            return False
        return True

    def hang_up(self) -> None:
        """See `Wire`."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def drain(self, seconds: float) -> None:
        """Say that no more comes and wait until the host closes, so that nothing in flight is reset."""
        if self._peer is None:
            return
        try:
            self._peer.shutdown(socket.SHUT_WR)
        except OSError:
            return
        until = time.monotonic() + seconds
        while self.read(max(0.0, until - time.monotonic())) and time.monotonic() < until:
            pass

    def close(self) -> None:
        """Free the sockets."""
        self.hang_up()
        if self._server is not None:
            self._server.close()


class SerialWire:
    """A serial port or anything else that pyserial opens by a URL; there, the host is always taken to be present."""

    def __init__(self, name: str, baud: int) -> None:
        self.name = name
        self._port = serial.serial_for_url(name, baudrate=baud, timeout=0.1)

    def connect(self, seconds: float) -> bool:  # noqa: ARG002 - a serial line shows nobody's presence
        """See `Wire`."""
        return True

    def read(self, seconds: float) -> bytes | None:
        """See `Wire`."""
        self._port.timeout = seconds
        return bytes(self._port.read(self._port.in_waiting or 1))

    def write(self, data: bytes) -> bool:
        """See `Wire`."""
        self._port.write(data)
        return True

    def hang_up(self) -> None:
        """A line without presence cannot be hung up; the break condition is the nearest to an unplugged cable."""
        self._port.send_break(0.25)

    def drain(self, seconds: float) -> None:  # noqa: ARG002 - the adapter knows when its buffer is empty
        """See `Wire`."""
        self._port.flush()

    def close(self) -> None:
        """Free the port."""
        self._port.close()


if sys.platform != "win32":
    import fcntl
    import pty
    import struct
    import termios
    import tty

    class PtyWire:
        """A pseudo-terminal. The host has hung up or not yet come while nobody has the terminal open."""

        def __init__(self) -> None:
            self._master, terminal = pty.openpty()
            self.name = os.ttyname(terminal)
            tty.setraw(terminal)
            os.close(terminal)
            os.set_blocking(self._master, False)
            self._connected = False

        def connect(self, seconds: float) -> bool:
            """Wait for the host to open the terminal, then make it raw for hosts that do not."""
            until = time.monotonic() + seconds
            while not self._connected:
                if not self._hung_up():
                    time.sleep(_SETTLE)
                    self._make_raw()
                    self._connected = not self._hung_up()
                elif time.monotonic() >= until:
                    return False
                else:
                    time.sleep(_LOOK)
            return True

        def read(self, seconds: float) -> bytes | None:
            """See `Wire`."""
            if not self._connected:
                return None
            ready, _, _ = select.select([self._master], [], [], seconds)
            if not ready:
                return b""
            try:
                return os.read(self._master, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: the last one closed the terminal
                    raise
                self._connected = False
                return None

        def write(self, data: bytes) -> bool:
            """See `Wire`."""
            left = memoryview(data)
            while left:
                if self._hung_up():
                    self._connected = False
                    return False
                _, ready, _ = select.select([], [self._master], [], 1.0)
                try:
                    left = left[os.write(self._master, left) if ready else 0 :]
                except BlockingIOError:
                    continue
            return True

        def hang_up(self) -> None:
            """Nothing on this system unplugs a terminal and leaves its name; the host must reopen what stands there."""
            self._connected = False

        def drain(self, seconds: float) -> None:
            """Wait until the host has read what lies in the terminal: closing throws it away."""
            until = time.monotonic() + seconds
            while self._unread() and time.monotonic() < until:
                time.sleep(_LOOK)

        def close(self) -> None:
            """The terminal disappears; a host that has it open hears a hang-up."""
            os.close(self._master)

        def _hung_up(self) -> bool:
            poll = select.poll()
            poll.register(self._master, 0)
            return bool(poll.poll(0))

        def _make_raw(self) -> None:
            terminal = os.open(self.name, os.O_RDWR | os.O_NOCTTY)
            try:
                tty.setraw(terminal, termios.TCSANOW)
            finally:
                os.close(terminal)

        def _unread(self) -> bool:
            if self._hung_up():
                return False
            terminal = os.open(self.name, os.O_RDWR | os.O_NOCTTY)
            try:
                (count,) = struct.unpack("i", fcntl.ioctl(terminal, termios.FIONREAD, b"\0\0\0\0"))
            finally:
                os.close(terminal)
            return bool(count)


def open_wire(port: str, baud: int) -> Wire:
    """Open the instrument's end of `pty`, `listen://host:port`, `socket://host:port`, or a port that pyserial knows.

    Raises `ValueError` for a name that is none of these, `OSError` (pyserial's errors are such) where it cannot be opened.
    """
    if port == "pty":
        if sys.platform == "win32":
            message = "Windows has no pseudo-terminals; use listen://127.0.0.1:PORT"
            raise ValueError(message)
        else:  # noqa: RET506 - so that a check for Windows sees no name that is missing there
            return PtyWire()
    scheme, found, address = port.partition("://")
    if found and scheme in ("listen", "socket"):
        host, _, number = address.rpartition(":")
        if not host or not number.isdecimal():
            message = f"{scheme}://HOST:PORT is wanted"
            raise ValueError(message)
        return TcpWire(host.strip("[]"), int(number), listens=scheme == "listen")
    return SerialWire(port, baud)
