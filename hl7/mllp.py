"""How an HL7 message is wrapped for a plain TCP connection, so that the receiver knows where it begins and ends.

    0B  M S H | ^ ~ \\ & | ...  0D  1C 0D

MLLP, HL7 v2 Appendix C (the "minimal lower layer protocol"): start block 0B, the message, end block 1C, then a carriage
return. Neither 0B nor 1C may stand inside a message, so a frame that was never ended is known by the next 0B.
"""

from __future__ import annotations

import re

START = b"\x0b"
END = b"\x1c"
TRAILER = b"\x1c\x0d"

_MARK = re.compile(rb"[\x0b\x1c]")


def frame(message: bytes) -> bytes:
    """Return the message as it goes on the wire. Raises ValueError where it holds a framing byte itself."""
    if _MARK.search(message):
        problem = "a message with a framing byte (0B or 1C) inside cannot be framed"
        raise ValueError(problem)
    return START + message + TRAILER


class Decoder:
    """Takes messages out of a stream of bytes, cut at any place. It holds no more than `max_size` bytes.

    Tolerated, because peers in the field do it: a missing 0D behind 1C, line ends and garbage between frames, a frame
    begun anew. `garbage` counts the bytes that belong to no whole message, `oversized` the messages that were dropped
    for their length.
    """

    def __init__(self, max_size: int = 32 * 1024 * 1024) -> None:
        self.garbage = 0
        self.oversized = 0
        self._max_size = max_size
        self._body: bytearray | None = None  # None between frames
        self._too_long = False

    @property
    def inside(self) -> bool:
        """Whether a message has begun and not yet ended."""
        return self._body is not None

    def receive_data(self, data: bytes) -> list[bytes]:
        """Return the messages that these bytes complete, without their framing."""
        messages: list[bytes] = []
        position = 0
        while position < len(data):
            mark = _MARK.search(data, position)
            end = mark.start() if mark else len(data)
            self._take(data[position:end])
            if mark is None:
                break
            position = mark.end()
            if mark.group() == START:
                self._drop()
                self._body = bytearray()
            elif self._body is None:
                self.garbage += 1
            else:
                if not self._too_long:
                    messages.append(bytes(self._body))
                self._body, self._too_long = None, False
        return messages

    def _take(self, part: bytes) -> None:
        if self._body is None:
            self.garbage += len(part.translate(None, b"\r\n"))
        elif self._too_long:
            self.garbage += len(part)
        elif len(self._body) + len(part) > self._max_size:
            self.oversized += 1
            self.garbage += len(self._body) + len(part)
            self._body.clear()
            self._too_long = True
        else:
            self._body += part

    def _drop(self) -> None:
        if self._body is not None:
            self.garbage += len(self._body)
        self._too_long = False
