"""LIS1-A: a real sender and a real receiver, and a wire between them that lies."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from chartbound.drivers.link import Event, Unit
from chartbound.drivers.lis1a import ACK, ENQ, EOT, NAK, Receiver, Sender, frames
from chartbound.simulators.in_memory import converse

HEADER = rb"H|\^&|||X^1^S1|||||||P||20260115093000"
SMALL = [HEADER, b"P|1", b"O|1|S-1", b"R|1|^^^Alb|63.7", b"L|1|N"]
FIRST = [HEADER, b"P|1|A", b"O|1|S-1", b"R|1|^^^Alb|63.7", b"C|1|I|note|G", b"R|2|^^^Crt|230.8"]
SECOND = [b"O|2|S-2", b"R|1|^^^Alb|12.0", b"L|1|N"]


def unit(records: Sequence[bytes]) -> Unit:
    return Unit(b"".join(record + b"\r" for record in records))


def units(events: Sequence[Event]) -> list[Unit]:
    return [event for event in events if isinstance(event, Unit)]


# A real sender at the other end, and a wire that lies once


class LyingWire:
    """Changes one byte of all that passes, once."""

    def __init__(self, at: int, value: int) -> None:
        self.left, self.value = at, value

    def __call__(self, data: bytes) -> bytes:
        at, self.left = self.left, self.left - len(data)
        return data[:at] + bytes([self.value]) + data[at + 1 :] if 0 <= at < len(data) else data


class LeakyWire(LyingWire):
    """Lets one byte fall (`value` below 0), or adds one before it."""

    def __call__(self, data: bytes) -> bytes:
        at, self.left = self.left, self.left - len(data)
        if not 0 <= at < len(data):
            return data
        return data[:at] + data[at + 1 :] if self.value < 0 else data[:at] + bytes([self.value]) + data[at:]


VALUES = (0x00, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A, 0x0D, 0x15, 0x17, 0x30, 0x31, 0x41, 0x7C, 0xFF)


@pytest.mark.parametrize("how", [{}, {"etb_between": True}, {"one_frame": True}, {"limit": 11}])
def test_one_wrong_byte_anywhere_never_makes_another_result_and_never_loses_one(how: dict[str, int]) -> None:
    records = FIRST + SECOND
    expected = {unit(FIRST), unit(FIRST[:2] + SECOND)}
    options = {"limit": how.get("limit", 240), "one_frame": bool(how.get("one_frame")), "etb_between": "etb_between" in how}
    stream = ENQ + b"".join(frames(records, **options)) + EOT  # type: ignore[arg-type]
    for at in range(len(stream)):
        for value in (*VALUES, stream[at] ^ 0x01):
            sender, receiver = Sender([records], **options), Receiver()  # type: ignore[arg-type]
            heard = converse(receiver, sender, to_link=LyingWire(at, value))
            assert sender.done
            assert set(units(heard)) == expected, (at, value)
            assert sender.failed == []


@pytest.mark.parametrize("one_frame", [False, True])
def test_one_byte_lost_or_added_never_makes_another_result_and_never_loses_one(one_frame: bool) -> None:
    stream = ENQ + b"".join(frames(SMALL, one_frame=one_frame)) + EOT
    for at in range(len(stream)):
        for value in (-1, *VALUES):
            sender, receiver = Sender([SMALL], one_frame=one_frame), Receiver()
            heard = converse(receiver, sender, to_link=LeakyWire(at, value))
            assert set(units(heard)) == {unit(SMALL)}, (at, value)
            assert sender.done
            assert sender.failed == []


@pytest.mark.parametrize("reply", [NAK, b"\x00", b"A", ENQ])
@pytest.mark.parametrize("number", range(7))
def test_a_lost_ack_never_doubles_a_unit(reply: bytes, number: int) -> None:
    sender, receiver = Sender([SMALL]), Receiver()
    heard = converse(receiver, sender, to_peer=LyingWire(number, reply[0]))
    assert units(heard) == [unit(SMALL)]
    assert sender.failed == []


def test_two_instruments_messages_follow_each_other_in_order() -> None:
    other = [*SMALL[:3], b"R|1|^^^Alb|9", b"L|1|N"]
    sender = Sender([SMALL, other])
    assert converse(Receiver(), sender) == [unit(SMALL), unit(other)]


# The sender's own rules


def asking(role: str = "instrument", attempts: int = 6) -> Sender:
    sender = Sender([SMALL], role="host" if role == "host" else "instrument", attempts=attempts)
    assert sender.deadline == 0.0
    sender.handle_timeout(100.0)
    assert said(sender) == ENQ
    return sender


def said(sender: Sender) -> bytes:
    return b"".join(out.data for out in sender.data_to_send())


def test_the_sender_gives_up_an_enquiry_after_fifteen_seconds() -> None:
    sender = asking()
    assert sender.deadline == 115.0
    sender.handle_timeout(115.0)
    assert said(sender) == EOT
    sender.handle_timeout(125.0)
    assert said(sender) == ENQ


def test_a_busy_receiver_is_asked_again_after_ten_seconds() -> None:
    sender = asking()
    sender.receive_data(NAK, 101.0)
    assert sender.deadline == 111.0


@pytest.mark.parametrize(("role", "wait"), [("instrument", 1.0), ("host", 20.0)])
def test_where_both_ask_the_instrument_wins(role: str, wait: float) -> None:
    sender = asking(role)
    sender.receive_data(ENQ, 101.0)
    assert sender.deadline == 101.0 + wait


def test_a_frame_refused_seven_times_ends_the_transmission() -> None:
    sender = asking(attempts=1)
    sender.receive_data(ACK, 101.0)
    first = said(sender)
    for _ in range(6):
        sender.receive_data(NAK, 101.0)
        assert said(sender) == first
    sender.receive_data(NAK, 101.0)
    assert said(sender) == EOT
    assert sender.failed == [SMALL]
    assert sender.done


def test_an_eot_in_place_of_an_ack_stops_the_sender_for_fifteen_seconds() -> None:
    sender = asking()
    sender.receive_data(ACK, 101.0)
    said(sender)
    sender.receive_data(EOT, 102.0)
    assert said(sender) == EOT
    assert sender.deadline == 117.0
    assert not sender.done


def test_a_closed_line_leaves_the_rest_failed() -> None:
    sender = asking()
    sender.receive_data(b"", 101.0)
    assert sender.done
    assert sender.failed == [SMALL]


def test_sender_and_receiver_agree_on_random_messages() -> None:
    """Each result is in exactly one unit, with its own patient and order."""
    rng = random.Random(7)
    for _ in range(200):
        records = [HEADER]
        said_of: list[tuple[bytes, bytes, bytes]] = []
        for patient in range(rng.randint(1, 3)):
            records.append(b"P|%d|%d" % (patient + 1, patient))
            for order in range(rng.randint(0, 3)):
                records.append(b"O|%d|S%d" % (order + 1, order))
                for result in range(rng.randint(0, 3)):
                    records.append(b"R|%d|v%d" % (result + 1, rng.randint(0, 10**9)))
                    said_of.append((b"P|%d|%d" % (patient + 1, patient), b"O|%d|S%d" % (order + 1, order), records[-1]))
        records.append(b"L|1|N")
        heard = units(converse(Receiver(), Sender([records], limit=rng.choice([5, 20, 240]))))
        found = []
        for event in heard:
            patient_record = order_record = b""
            for line in event.data.split(b"\r"):
                if line[:1] == b"P":
                    patient_record = line
                elif line[:1] == b"O":
                    order_record = line
                elif line[:1] == b"R":
                    found.append((patient_record, order_record, line))
        assert found == said_of
