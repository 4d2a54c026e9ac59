"""How much slower than a bare framing-and-checksum loop are LIS1-A reception and LIS2-A2 parsing together?

Both read the same bytes, cut the same way; the two take turns, and the ratio of each turn's times is taken.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from ..drivers.link import Unit
from ..drivers.lis1a import ACK, ENQ, EOT, Receiver, frames
from ..drivers.lis2a import parse

_RECORDS = [
    rb"H|\^&|||DCA VANTAGE^04.04.00.00^S012345|||||||P||20260115093000",
    b"P|1|S-1001|||Doe^Jane",
    b"O|1||412^0090||||||||||||||||||||||F",
    *(b"R|%d|^^^Analyte%d|%d.7|mg/L||H||F||op1|20260115092400" % (n, n, 60 + n) for n in range(1, 11)),
    b"L|1|N",
]
STREAM = ENQ + b"".join(frames(_RECORDS)) + EOT
_FRAMES = 14


class _Bare:
    """The least that can be called a receiver: it finds a frame, adds it up, compares and acknowledges."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.texts: list[bytes] = []
        self.out: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        self.buffer += data
        while (start := self.buffer.find(b"\x02")) >= 0:
            end = self.buffer.find(b"\x03", start)
            if end < 0 or len(self.buffer) < end + 5:
                return
            body = self.buffer[start + 1 : end + 1]
            if b"%02X" % (sum(body) & 0xFF) == self.buffer[end + 1 : end + 3]:
                self.texts.append(bytes(body[1:-1]))
                self.out.append(ACK)
            del self.buffer[: end + 5]


def _bare(pieces: list[bytes]) -> None:
    receiver = _Bare()
    for piece in pieces:
        receiver.receive_data(piece)
    assert len(receiver.texts) == _FRAMES


def _ours(pieces: list[bytes]) -> None:
    receiver = Receiver()
    values = 0
    for piece in pieces:
        for event in receiver.receive_data(piece, 0.0):
            if isinstance(event, Unit):
                for order in parse(event.data).orders():
                    for result in order.results:
                        values += len(result.component(3, 4)) > 0 and len(result.field(4)) > 0
        receiver.data_to_send()
    assert values == 10


def _seconds(run: Callable[[list[bytes]], None], pieces: list[bytes], times: int) -> float:
    start = time.process_time()  # the work is all computing: what other programs do meanwhile does not count
    for _ in range(times):
        run(pieces)
    return time.process_time() - start


def measure(turns: int = 15, times: int = 200) -> dict[str, float]:
    """The median ratio for each way of cutting the bytes; 4 or less is the goal."""
    cuts = {
        "whole": [STREAM],
        "by_frame": [ENQ, *frames(_RECORDS), EOT],
        "by_16_bytes": [STREAM[at : at + 16] for at in range(0, len(STREAM), 16)],
        "by_byte": [STREAM[at : at + 1] for at in range(len(STREAM))],
    }
    ratios = {}
    for name, pieces in cuts.items():
        count = max(1, times // (1 + len(pieces) // 50))
        ratios[f"lis1a_{name}"] = statistics.median(
            _seconds(_ours, pieces, count) / _seconds(_bare, pieces, count) for _ in range(turns)
        )
    return ratios


if __name__ == "__main__":
    for name, ratio in measure().items():
        print(f"{name:20} {ratio:5.2f} x a bare loop (goal 4)")
