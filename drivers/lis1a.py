r"""LIS1-A is how most analysers hand over results: ask to speak, send numbered and checked frames, wait for each reply.

    < ENQ                                                   the instrument asks to speak
    > ACK
    < STX 1H|\^&|||DCA VANTAGE^04.04^S1 CR ETX hh CR LF      frame 1, one record; hh is its checksum
    > ACK
    < … STX 5L|1|N CR ETX 08 CR LF                          the record that closes the message
    > ACK                                                   only now may the instrument presume its results saved
    < EOT                                                   no reply is due

A frame is `STX number text (ETX|ETB) checksum CR LF`: the number counts 1 … 7, 0, 1 …; the checksum is the sum of all bytes
after STX through ETX or ETB, modulo 256, as two upper-case hexadecimal digits; ETB says that the message goes on in the next.
Sources: CLSI LIS1-A (ASTM E1381), as public captures and drivers show it. From memory and so in doubt: the waits after a
refused or crossing ENQ, and the 64 000 characters a frame may hold.

What real instruments do and is taken here: a whole message in one frame, frames over 247 bytes, no LF after the CR, an EOT
right after ENQ, records that span frames. One rule is ours: a frame that arrived damaged is refused only after half a second of
silence. Each frame then gets one reply and no more; a second one would be taken for the reply to the next frame. An ENQ in the
middle of a transmission is taken for one only where the same silence lies before it and after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Literal

from .link import Event, Outgoing, Trouble, Unit
from .lis2a_storage import Storage

STX, ETX, EOT, ENQ, ACK, NAK, ETB = b"\x02", b"\x03", b"\x04", b"\x05", b"\x06", b"\x15", b"\x17"

RECEIVER_PATIENCE = 30.0  # seconds without a frame or EOT before the receiver gives up; LIS1-A, receiver's timer
SENDER_PATIENCE = 15.0  # seconds the sender waits for each reply; LIS1-A, sender's timer
BUSY_WAIT = 10.0  # seconds from a refused ENQ, or a transmission given up, to the next ENQ (from memory)
RETRIES = 6  # times that a refused frame is sent again before the sender gives up
QUIET = 0.5  # seconds of silence that end a damaged frame: longer than the gaps within one, far below the sender's 15 s
LONGEST_FRAME = 64_000 + 16  # bytes: what LIS1-A lets a frame hold, and its frame characters
LONGEST_MESSAGE = 4 * 1024 * 1024  # bytes kept while a message has not reached a storage point

# Control characters that may not stand in the text of a frame; the first one after STX is its end or a fault. The standard does
# not name NUL, but a break on the line makes one, and a checksum cannot see it.
_CONTROL = re.compile(rb"[\x00-\x06\x0a\x10-\x17]")
_WHOLE = re.compile(rb"\x02([^\x00-\x06\x0a\x10-\x17]*[\x03\x17])([0-9A-Fa-f]{2})\r\n?")  # what nearly every frame is
_MARK = re.compile(rb"[\x02-\x05\x17]")  # STX ETX EOT ENQ ETB: what means something between frames
_ENQ_OR_EOT = ENQ + EOT
_STX, _ETX, _EOT, _ENQ, _ETB = STX[0], ETX[0], EOT[0], ENQ[0], ETB[0]

_DIGITS = tuple(b"%02X" % value for value in range(256))
_ACK = Outgoing(ACK)
_ACK_AFTER_SYNC = Outgoing(ACK, after_sync=True)
_ACK_OF_ENQ = Outgoing(b"\x06")  # told from _ACK by identity: it is withdrawn where the sender has already moved on
_NAK = Outgoing(NAK)


def checksum(body: bytes) -> bytes:
    """The two digits over `body`, everything after STX through ETX or ETB (LIS1-A, frame checksum)."""
    return _DIGITS[sum(body) & 0xFF]


def frame(number: int, text: bytes, *, last: bool = True) -> bytes:
    """One whole frame. `number` counts from 1 and is sent modulo 8; `last` ends it with ETX, else with ETB."""
    body = b"%d%b%b" % (number % 8, text, ETX if last else ETB)
    return b"%b%b%b\r\n" % (STX, body, checksum(body))


def frames(records: Iterable[bytes], *, limit: int = 240, one_frame: bool = False, etb_between: bool = False) -> list[bytes]:
    """The frames of one message. `limit` is the most characters of text in a frame, the record's own CR among them.

    `one_frame` sends the whole message in one frame however long it is (DCA Vantage); `etb_between` ends every frame but the
    message's last with ETB (Contour).
    """
    texts = [record + b"\r" for record in records]
    if one_frame:
        return [frame(1, b"".join(texts))]
    pieces = [(text[at : at + limit], at + limit >= len(text)) for text in texts for at in range(0, len(text), limit)]
    final = len(pieces) - 1
    return [
        frame(index + 1, piece, last=index == final or (ends and not etb_between)) for index, (piece, ends) in enumerate(pieces)
    ]


def _sound(body: bytes, digits: bytes) -> bool:
    return digits.upper() == _DIGITS[sum(body) & 0xFF] and len(body) <= LONGEST_FRAME


class _Phase(Enum):
    IDLE = auto()  # no transmission is open
    BETWEEN = auto()  # a frame or EOT is due
    FRAME = auto()  # an STX was heard
    DAMAGED = auto()  # everything is discarded until the line is silent


_IDLE, _BETWEEN, _FRAME, _DAMAGED = _Phase


class Receiver:
    """The host's side: a `Link` that takes transmissions and gives units.

    `storage="levels"` gives a unit at every storage point. `storage="message"` gives one at L alone: for meters that keep their
    readings and are read again. `wake` is sent every `poll_seconds` while nothing is being received, at once the first time.
    """

    deadline: float | None

    def __init__(
        self, storage: Literal["levels", "message"] = "levels", *, wake: bytes = b"", poll_seconds: float = 10.0
    ) -> None:
        self._storage = Storage(levels=storage == "levels")
        self._wake = wake
        self._poll_seconds = poll_seconds
        self._next_wake = 0.0 if wake else None
        self._buffer = bytearray()
        self._searched = 0  # where in the buffer the search for the frame's end goes on
        self._out: list[Outgoing] = []
        self._phase = _IDLE
        self._accepted = b""  # the last frame taken, number and text and end: what a repeat is told by
        self._accepted_reply = _ACK
        self._expected = 1
        self._noisy = False  # a run of noise is counted once
        self._last_byte = 0  # of a damaged stretch: only the last one before the silence can be a true ENQ or EOT
        self._alone = True  # nothing but ENQ and EOT was heard since the last silence
        self._reply_due = False  # the damaged stretch holds something of a frame
        self._progress = 0.0  # when something of a transmission was last heard
        self._heard = 0.0  # when anything was
        self._set_deadline()

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take bytes in pieces of any size; b"" says that the line is closed."""
        if not data:
            events = self._end("the line was closed")
            self._next_wake = None
            self._set_deadline()
            return events
        events = []
        self._alone = (self._alone or now >= self._heard + QUIET) and not data.strip(_ENQ_OR_EOT)
        self._heard = now
        buffer = self._buffer
        buffer += data
        if self._phase is _FRAME and not _CONTROL.search(buffer, self._searched) and len(buffer) <= LONGEST_FRAME:
            self._searched = len(buffer)  # the middle of a frame: most pieces of a slow line are
            self._progress = now
            self.deadline = now + RECEIVER_PATIENCE
            return events
        position = 0
        while position < len(buffer):
            if self._phase is _BETWEEN and (whole := _WHOLE.match(buffer, position)) and _sound(whole[1], whole[2]):
                self._progress = now
                self._take(whole[1], events)
                position = whole.end()
            elif self._phase is _FRAME:
                after = self._frame(position, now, events)
                if after is None:
                    break
                position = after
            elif self._phase is _DAMAGED:
                self._last_byte = buffer[-1]
                self._reply_due = self._reply_due or bool(buffer[position:].strip(_ENQ_OR_EOT))
                position = len(buffer)
            else:
                position = self._between(position, now, events)
        if position:
            del buffer[:position]
            self._searched = max(0, self._searched - position)
        self._set_deadline()
        return events

    def handle_timeout(self, now: float) -> list[Event]:
        """Do what is due: refuse a damaged frame, give up a silent transmission, wake a meter."""
        events: list[Event] = []
        if self.deadline is None or now < self.deadline:
            return events
        if self._phase is _IDLE:
            self._out.append(Outgoing(self._wake))
            self._next_wake = now + self._poll_seconds
        elif self._phase is _DAMAGED and now >= self._heard + QUIET:
            self._judge_damage(now, events)
        else:
            events.append(Trouble("timeout", f"no frame within {RECEIVER_PATIENCE:.0f} s"))
            events += self._end(f"the line was silent for {RECEIVER_PATIENCE:.0f} s", now)
        self._set_deadline()
        return events

    def data_to_send(self) -> list[Outgoing]:
        """The replies since the last call."""
        out, self._out = self._out, []
        return out

    @property
    def idle(self) -> bool:
        """No transmission is open."""
        return self._phase is _IDLE

    def _set_deadline(self) -> None:
        if self._phase is _IDLE:
            self.deadline = self._next_wake
        elif self._phase is _DAMAGED:
            self.deadline = min(self._heard + QUIET, self._progress + RECEIVER_PATIENCE)
        else:
            self.deadline = self._progress + RECEIVER_PATIENCE

    def _between(self, position: int, now: float, events: list[Event]) -> int:
        """Find the next byte that means something; give the position after it."""
        found = _MARK.search(self._buffer, position)
        at = found.start() if found else len(self._buffer)
        if not self._noisy and self._buffer[position:at].strip(b"\r\n"):
            self._noisy = True
            events.append(Trouble("noise", "bytes that belong to no frame"))
        if found is None:
            return at
        mark = self._buffer[at]
        if self._phase is _IDLE:
            if mark == _ENQ:
                self._begin(now)
            elif mark != _EOT and not self._noisy:
                self._noisy = True
                events.append(Trouble("noise", "a frame without an ENQ before it"))
            return at + 1
        if mark == _STX:
            self._phase, self._searched = _FRAME, at + 1
            self._progress = now
            return at
        if mark == _EOT:
            events += self._end("the instrument ended the transmission", now)
        elif mark == _ENQ:
            if not (self._out and self._out[-1] is _ACK_OF_ENQ):  # else it is one question, asked twice before our answer left
                self._phase, self._last_byte, self._reply_due = _DAMAGED, _ENQ, False
        else:
            self._damaged("lost_start", "the end of a frame without its start", events)
        return at + 1

    def _frame(self, start: int, now: float, events: list[Event]) -> int | None:
        """Read the frame whose STX is at `start`; give the position after it, None while it is not whole."""
        buffer = self._buffer
        self._progress = now
        found = _CONTROL.search(buffer, self._searched)
        if found is None:
            self._searched = len(buffer)
            if len(buffer) - start > LONGEST_FRAME:
                return self._damaged("oversized_frame", f"more than {LONGEST_FRAME} bytes", events)
            return None
        end = self._searched = found.start()
        if end - start > LONGEST_FRAME:
            return self._damaged("oversized_frame", f"more than {LONGEST_FRAME} bytes", events)
        if buffer[end] not in (_ETX, _ETB):
            return self._damaged("forbidden_control", f"byte {buffer[end]:02X} inside a frame", events)
        tail = bytes(buffer[end + 1 : end + 4])
        if _CONTROL.search(tail):
            return self._damaged("bad_frame", "a control character in place of the checksum", events)
        if len(tail) < 3:
            return None
        body = bytes(buffer[start + 1 : end + 1])
        if not _sound(body, tail[:2]) or tail[2] != 0x0D:
            return self._damaged("bad_checksum", f"the frame after frame {self._number()}", events)
        self._phase = _BETWEEN
        self._take(body, events)
        return end + 4

    def _take(self, body: bytes, events: list[Event]) -> None:
        """Answer a sound frame, of which `body` is everything that its checksum covers, and keep its text."""
        self._noisy = False
        number = body[0] - 0x30
        if body == self._accepted and number != self._expected:
            self._out.append(self._accepted_reply)  # our ACK was lost: it is acknowledged again and not taken again
        elif number != self._expected:
            events.append(Trouble("frame_number", f"{self._expected} was due"))
            self._out.append(_NAK)
        elif self._storage.size + len(body) > LONGEST_MESSAGE:
            events.append(Trouble("oversized_message", f"more than {LONGEST_MESSAGE} bytes without a storage point"))
            self._out.append(_NAK)
        else:
            stored = self._storage.add(body[1:-1], last=body[-1] == _ETX)
            self._accepted = body
            self._accepted_reply = _ACK_AFTER_SYNC if stored and any(isinstance(event, Unit) for event in stored) else _ACK
            self._expected = (number + 1) % 8
            self._out.append(self._accepted_reply)
            events += stored

    def _damaged(self, what: str, detail: str, events: list[Event]) -> int:
        events.append(Trouble(what, detail))
        self._phase, self._last_byte, self._reply_due = _DAMAGED, self._buffer[-1], True
        return len(self._buffer)

    def _judge_damage(self, now: float, events: list[Event]) -> None:
        if self._last_byte == _ENQ and self._alone:
            events.append(Trouble("unexpected_enq", f"a new transmission after frame {self._number()}"))
            events += self._end("the instrument began anew", now)
            self._begin(now)
        elif self._last_byte == _EOT:
            events += self._end("the instrument ended the transmission", now)
        else:
            if self._reply_due:
                self._out.append(_NAK)
                self._progress = now
            self._phase = _BETWEEN

    def _begin(self, now: float) -> None:
        self._phase, self._expected, self._accepted, self._noisy = _BETWEEN, 1, b"", False
        self._progress = now
        self._out.append(_ACK_OF_ENQ)

    def _end(self, why: str, now: float | None = None) -> list[Event]:
        events = self._storage.rest(f"{why} after frame {self._number()}")
        self._phase, self._noisy = _IDLE, False
        if now is None:
            self._buffer.clear()
        else:
            if self._wake:
                self._next_wake = now + self._poll_seconds
            if self._out and self._out[-1] is _ACK_OF_ENQ:
                self._out.pop()
        return events

    def _number(self) -> str:
        return self._accepted[:1].decode("ascii") if self._accepted else "0"


class _Turn(Enum):
    REST = auto()  # the next ENQ is due at the deadline
    ENQUIRED = auto()
    SENT = auto()  # a frame waits for its reply
    DONE = auto()


class Sender:
    """The instrument's side, or a host that asks: sends messages, each as one transmission, and says when it is `done`.

    A message is its records without their CR. `role` decides who yields where both ask to speak: the instrument asks again
    after 1 s, the host after 20 s. A message that was given up is sent again from its start, `attempts` times in all; then
    it is left in `failed`. The other arguments are those of `frames`.
    """

    deadline: float | None

    def __init__(
        self,
        messages: Sequence[Sequence[bytes]],
        *,
        role: Literal["instrument", "host"] = "instrument",
        attempts: int = 6,
        limit: int = 240,
        one_frame: bool = False,
        etb_between: bool = False,
    ) -> None:
        self._messages = [
            (message, frames(message, limit=limit, one_frame=one_frame, etb_between=etb_between)) for message in messages
        ]
        self._contention_wait = 1.0 if role == "instrument" else 20.0
        self._attempts = attempts
        self.failed: list[Sequence[bytes]] = []
        self._current = 0  # the message being sent
        self._next = 0  # its frame that waits for a reply
        self._attempt = 1
        self._retries = 0  # of this frame
        self._out: list[Outgoing] = []
        self._turn = _Turn.REST if self._messages else _Turn.DONE
        self.deadline = 0.0 if self._messages else None

    @property
    def done(self) -> bool:
        """Every message was acknowledged to its last frame, or has failed."""
        return self._turn is _Turn.DONE

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take the receiver's replies."""
        events: list[Event] = []
        if not data and self._turn is not _Turn.DONE:
            self.failed += [records for records, _ in self._messages[self._current :]]
            self._turn, self.deadline = _Turn.DONE, None
        for reply in data:
            if self._turn is _Turn.ENQUIRED:
                self._enquired(reply, now, events)
            elif self._turn is _Turn.SENT:
                self._sent(reply, now, events)
        return events

    def handle_timeout(self, now: float) -> list[Event]:
        """Ask to speak, or give up waiting for a reply."""
        events: list[Event] = []
        if self.deadline is None or now < self.deadline:
            return events
        if self._turn is _Turn.REST:
            self._out.append(Outgoing(ENQ))
            self._turn, self.deadline = _Turn.ENQUIRED, now + SENDER_PATIENCE
        else:
            events.append(Trouble("no_answer", f"no reply within {SENDER_PATIENCE:.0f} s"))
            self._give_up(now)
        return events

    def data_to_send(self) -> list[Outgoing]:
        """ENQ, frames and EOT since the last call."""
        out, self._out = self._out, []
        return out

    def _enquired(self, reply: int, now: float, events: list[Event]) -> None:
        if reply == ACK[0]:
            self._next = 0
            self._send(now)
        elif reply == NAK[0]:  # the receiver is busy
            self._turn, self.deadline = _Turn.REST, now + BUSY_WAIT
        elif reply == ENQ[0]:
            events.append(Trouble("contention"))
            self._turn, self.deadline = _Turn.REST, now + self._contention_wait

    def _sent(self, reply: int, now: float, events: list[Event]) -> None:
        count = len(self._messages[self._current][1])
        if reply == ACK[0] or (reply == EOT[0] and self._next == count - 1):
            self._next += 1
            if self._next == count:
                self._finish(now)
            else:
                self._send(now)
        elif reply == EOT[0]:  # the receiver needs the line: LIS1-A, receiver interrupt
            events.append(Trouble("interrupted"))
            self._give_up(now, wait=SENDER_PATIENCE)
        elif self._retries < RETRIES:  # LIS1-A: any other reply is taken for a NAK
            self._retries += 1
            self._transmit(now)
        else:
            events.append(Trouble("refused", f"frame {self._next + 1} was refused {RETRIES + 1} times"))
            self._give_up(now)

    def _send(self, now: float) -> None:
        self._retries = 0
        self._turn = _Turn.SENT
        self._transmit(now)

    def _transmit(self, now: float) -> None:
        self._out.append(Outgoing(self._messages[self._current][1][self._next]))
        self.deadline = now + SENDER_PATIENCE

    def _give_up(self, now: float, wait: float = BUSY_WAIT) -> None:
        if self._attempt < self._attempts:
            self._out.append(Outgoing(EOT))
            self._attempt += 1
            self._turn, self.deadline = _Turn.REST, now + wait
        else:
            self.failed.append(self._messages[self._current][0])
            self._finish(now)

    def _finish(self, now: float) -> None:
        self._out.append(Outgoing(EOT))
        self._current += 1
        self._attempt = 1
        if self._current < len(self._messages):
            self._turn, self.deadline = _Turn.REST, now
        else:
            self._turn, self.deadline = _Turn.DONE, None
