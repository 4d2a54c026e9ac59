"""LIS1-A: what an instrument may presume saved is in a unit, whatever the wire does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.drivers.link import Event, Incomplete, Outgoing, Trouble, Unit
from chartbound.drivers.lis1a import ACK, ENQ, EOT, ETX, LONGEST_FRAME, NAK, STX, Receiver, checksum, frame, frames

HEADER = rb"H|\^&|||X^1^S1|||||||P||20260115093000"
MESSAGE = [HEADER, b"P|1|A", b"O|1|S-1", b"R|1|^^^Alb|63.7", b"C|1|I|note|G", b"R|2|^^^Crt|230.8", b"O|2|S-2",
           b"R|1|^^^Alb|12.0", b"P|2|B", b"O|1|S-3", b"R|1|^^^Alb|5", b"L|1|N"]  # fmt: skip
FIRST = b"".join(record + b"\r" for record in MESSAGE[:6])
SECOND = b"".join(record + b"\r" for record in [*MESSAGE[:2], *MESSAGE[6:8]])
THIRD = b"".join(record + b"\r" for record in [HEADER, *MESSAGE[8:]])
SMALL = [HEADER, b"P|1", b"O|1|S-1", b"R|1|^^^Alb|63.7", b"L|1|N"]


def unit(records: Sequence[bytes]) -> Unit:
    return Unit(b"".join(record + b"\r" for record in records))


def transmission(records: Sequence[bytes], **how: bool) -> bytes:
    return ENQ + b"".join(frames(records, **how)) + EOT


def hear(receiver: Receiver, *chunks: bytes, now: float = 0.0) -> list[Event]:
    return [event for chunk in chunks for event in receiver.receive_data(chunk, now)]


def replies(receiver: Receiver) -> bytes:
    return b"".join(out.data for out in receiver.data_to_send())


def opened(storage: str = "levels") -> Receiver:
    receiver = Receiver("message" if storage == "message" else "levels")
    receiver.receive_data(ENQ, 0.0)
    assert replies(receiver) == ACK
    return receiver


def units(events: Sequence[Event]) -> list[Unit]:
    return [event for event in events if isinstance(event, Unit)]


def slugs(events: Sequence[Event]) -> list[str]:
    return [event.what for event in events if isinstance(event, Trouble)]


# The frame


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"4R|1|^^^HbA1c|6.1|%||N||F||op1||20260115093000\r\x03", b"4B"),
        (b"5L|1|N\r\x03", b"08"),
        (b"4R|1|^^^Glucose|112|mg/dL^P|||B||||202601150930\r\x17", b"AF"),
        (b"2R|1|2345-7^^LN^Glucose SerPl-mCnc|98|mg/dL||||R\r\x03", b"87"),
        (b"5R|1|1^SG|1.020|||||||jdoe\r\x03", b"5C"),
    ],
)
def test_the_checksum_is_that_of_published_frames(body: bytes, expected: bytes) -> None:
    assert checksum(body) == expected


def test_frame_numbers_count_from_one_and_pass_from_seven_to_zero() -> None:
    assert [made[1:2] for made in frames([b"R|1"] * 10)] == [b"%d" % n for n in (1, 2, 3, 4, 5, 6, 7, 0, 1, 2)]


def test_a_long_record_is_split_at_240_characters_and_continued_with_etb() -> None:
    first, second = frames([b"C|1|" + b"x" * 300])
    assert len(first) == 247
    assert first[-5:-4] == b"\x17"
    assert second[-5:-4] == ETX


def test_contour_frames_end_with_etb_but_the_last() -> None:
    assert [made[-5] for made in frames(SMALL, etb_between=True)] == [0x17] * 4 + [0x03]


# Storage points


def test_each_storage_point_gives_a_unit_that_stands_alone() -> None:
    assert hear(Receiver(), transmission(MESSAGE)) == [Unit(FIRST), Unit(SECOND), Unit(THIRD)]


def test_only_the_ack_of_a_storage_point_waits_for_the_journal() -> None:
    receiver = Receiver()
    outgoing = []
    for chunk in [ENQ, *frames(MESSAGE)]:
        receiver.receive_data(chunk, 0.0)
        outgoing += receiver.data_to_send()
    assert all(out.data == ACK for out in outgoing)
    stored_by = [MESSAGE[index - 1][:3] for index, out in enumerate(outgoing) if out.after_sync]
    assert stored_by == [b"O|2", b"P|2", b"L|1"]


def test_many_storage_points_in_one_frame_give_their_units_before_one_ack() -> None:
    receiver = opened()
    assert hear(receiver, frames(MESSAGE, one_frame=True)[0]) == [Unit(FIRST), Unit(SECOND), Unit(THIRD)]
    assert receiver.data_to_send() == [Outgoing(ACK, after_sync=True)]


def test_a_meter_that_is_read_again_stores_at_the_end_alone() -> None:
    receiver = Receiver("message")
    assert hear(receiver, transmission(MESSAGE)) == [unit(MESSAGE)]
    assert [out.after_sync for out in receiver.data_to_send()][1:] == [False] * 11 + [True]


def test_an_acknowledged_l_is_a_result_though_no_eot_follows() -> None:
    receiver = Receiver()
    heard = hear(receiver, transmission(SMALL)[:-1])
    heard += receiver.handle_timeout(30.0)
    assert units(heard) == [unit(SMALL)]
    assert not any(isinstance(event, Incomplete) for event in heard)


def test_a_message_without_results_gives_nothing() -> None:
    assert hear(Receiver(), transmission([HEADER, b"L|1|N"])) == []
    assert hear(Receiver(), transmission([HEADER, b"P|1|A", b"C|1|I|hello|G", b"L|1|N"])) == []


def test_an_order_that_failed_without_a_result_is_a_unit_too() -> None:
    records = [HEADER, b"P|1|A", b"O|1|S-1", b"C|1|I|Insufficient|G", b"L|1|N"]
    assert hear(Receiver(), transmission(records)) == [unit(records)]


def test_a_second_header_stores_what_stood_before_it() -> None:
    heard = hear(Receiver(), transmission([*SMALL[:-1], *SMALL]))
    assert heard == [unit(SMALL[:-1]), unit(SMALL)]


def test_a_second_header_without_l_is_incomplete_in_a_memory() -> None:
    heard = hear(Receiver("message"), transmission([*SMALL[:-1], *SMALL]))
    assert isinstance(heard[0], Incomplete)
    assert heard[1:] == [unit(SMALL)]


def test_a_query_is_counted_and_nothing_more() -> None:
    heard = hear(Receiver(), transmission([HEADER, b"Q|1|^S-1||ALL||||||||O", b"L|1|N"]))
    assert slugs(heard) == ["query"]
    assert units(heard) == []


@pytest.mark.parametrize(
    "ending", [b"", ENQ, EOT, b"silence"], ids=["closed", "a new ENQ", "EOT before L", "thirty seconds of silence"]
)
def test_what_stands_after_the_last_storage_point_is_incomplete(ending: bytes) -> None:
    receiver = opened()
    heard = hear(receiver, *frames(MESSAGE)[:8])
    if ending == b"silence":
        assert receiver.deadline == 30.0
        heard += receiver.handle_timeout(30.0)
    else:
        heard += receiver.receive_data(ending, 1.0)
        heard += receiver.handle_timeout(1.5)
    assert units(heard) == [Unit(FIRST)]
    leftover = [event for event in heard if isinstance(event, Incomplete)]
    assert [event.data for event in leftover] == [SECOND]
    assert "after frame 0" in leftover[0].why


def test_a_header_alone_is_incomplete_too() -> None:
    heard = hear(Receiver(), ENQ, frame(1, HEADER + b"\r"), EOT)
    assert [type(event) for event in heard] == [Incomplete]


# Frames that misbehave


def test_a_repeated_frame_is_acknowledged_and_not_taken_again() -> None:
    receiver = opened()
    sent = frames(SMALL)
    heard = hear(receiver, *sent[:-1])
    heard += hear(receiver, sent[-1])
    receiver.data_to_send()
    heard += hear(receiver, sent[-1])
    assert receiver.data_to_send() == [Outgoing(ACK, after_sync=True)]
    assert heard == [unit(SMALL)]


def test_another_text_under_the_last_number_is_refused_not_discarded() -> None:
    receiver = opened()
    hear(receiver, frame(1, HEADER + b"\r"))
    replies(receiver)
    assert slugs(hear(receiver, frame(1, b"P|1\r"))) == ["frame_number"]
    assert replies(receiver) == NAK


def test_a_skipped_frame_number_is_refused() -> None:
    receiver = opened()
    assert slugs(hear(receiver, frame(2, HEADER + b"\r"))) == ["frame_number"]
    assert replies(receiver) == NAK


@pytest.mark.parametrize(
    ("damaged", "slug"),
    [
        (frame(1, HEADER + b"\r").replace(b"X", b"Y"), "bad_checksum"),
        (frame(1, b"H|\x07\r").replace(b"\x07", b"\x11"), "forbidden_control"),
        (frame(1, HEADER + b"\r").replace(b"X", b"X\x00"), "forbidden_control"),  # no checksum sees a NUL
        (frame(1, HEADER + b"\r").replace(b"\x03", b"A"), "forbidden_control"),  # its LF now stands in the text
        (frame(1, HEADER + b"\r")[1:], "noise lost_start"),
        (frame(1, HEADER + b"\r").replace(b"\x02", b"\x05"), ""),  # an ENQ that text follows is none
    ],
)
def test_a_damaged_frame_is_refused_once_and_after_it_has_ended(damaged: bytes, slug: str) -> None:
    receiver = opened()
    heard = hear(receiver, damaged)
    assert " ".join(slugs(heard)) == slug
    assert replies(receiver) == b""
    assert receiver.deadline == 0.5
    receiver.handle_timeout(0.5)
    assert replies(receiver) == NAK
    assert hear(receiver, *frames(SMALL), now=1.0) == [unit(SMALL)]


def test_a_damaged_checksum_of_a_continuing_frame_is_noticed() -> None:
    receiver = opened()
    damaged = frames(SMALL, etb_between=True)[0].replace(b"|P|", b"|Q|")
    assert slugs(hear(receiver, damaged)) == ["bad_checksum"]


def test_a_record_may_span_frames() -> None:
    records = [*SMALL[:-1], b"C|1|I|" + b"x" * 700, b"L|1|N"]
    assert hear(Receiver(), transmission(records)) == [unit(records)]


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_record_boundaries_may_fall_anywhere_between_frames(size: int) -> None:
    whole = b"".join(record + b"\r" for record in SMALL)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    sent = [frame(number, piece, last=piece is pieces[-1]) for number, piece in enumerate(pieces, 1)]
    assert hear(Receiver(), ENQ, *sent, EOT) == [unit(SMALL)]


def test_a_last_record_without_its_cr_ends_with_its_frame() -> None:
    sent = [frame(number, record) for number, record in enumerate(SMALL, 1)]
    assert hear(Receiver(), ENQ, *sent, EOT) == [unit(SMALL)]


def test_a_frame_may_end_with_cr_alone() -> None:
    sent = b"".join(made[:-1] for made in frames(SMALL))
    assert hear(Receiver(), ENQ + sent + EOT) == [unit(SMALL)]


def test_a_frame_of_64000_characters_is_taken_and_a_longer_one_refused() -> None:
    receiver = opened()
    assert slugs(hear(receiver, frame(1, HEADER + b"\rC|1|I|" + b"x" * 63_900 + b"\r"))) == []
    assert replies(receiver) == ACK
    assert slugs(hear(receiver, STX + b"2" + b"x" * (2 * LONGEST_FRAME))) == ["oversized_frame"]


def test_a_message_without_end_is_refused_before_it_fills_the_memory() -> None:
    receiver = opened("message")
    heard: list[Event] = []
    number = 0
    while NAK not in replies(receiver):
        number += 1
        heard += hear(receiver, frame(number, b"R|1|" + b"x" * 60_000 + b"\r"))
        assert number < 100
    assert slugs(heard) == ["oversized_message"]
    assert number * 60_000 == pytest.approx(4 * 1024 * 1024, rel=0.05)


def test_a_record_without_end_is_refused_before_it_fills_the_memory() -> None:
    receiver = opened()
    heard: list[Event] = []
    number = 0
    while NAK not in replies(receiver):
        number += 1
        heard += hear(receiver, frame(number, b"x" * 60_000, last=False))
        assert number < 100
    assert slugs(heard) == ["oversized_message"]


def test_an_eot_after_half_a_frame_ends_the_transmission_without_a_reply() -> None:
    receiver = opened()
    heard = hear(receiver, frame(1, HEADER + b"\r"), frame(2, b"P|1\r")[:3])
    replies(receiver)
    heard += hear(receiver, EOT, now=15.0)
    heard += receiver.handle_timeout(15.5)
    assert replies(receiver) == b""
    assert receiver.deadline is None
    assert [event.data for event in heard if isinstance(event, Incomplete)] == [HEADER + b"\r"]


def test_noise_between_frames_is_counted_once_a_run() -> None:
    receiver = opened()
    sent = frames(SMALL)
    assert slugs(hear(receiver, b"xx", b"yy", sent[0], b"zz", b"\x00", *sent[1:])) == ["noise", "noise"]


def test_unknown_bytes_before_enq_do_no_harm() -> None:
    heard = hear(Receiver(), b"\xff\x00RING\r\n", transmission(SMALL))
    assert slugs(heard) == ["noise"]
    assert units(heard) == [unit(SMALL)]


def test_frames_without_an_enq_are_not_acknowledged() -> None:
    receiver = Receiver()
    assert slugs(hear(receiver, *frames(SMALL), EOT)) == ["noise"]
    assert replies(receiver) == b""


# ENQ and EOT


def test_no_reply_is_made_to_eot() -> None:
    receiver = Receiver()
    hear(receiver, EOT)
    assert replies(receiver) == b""
    assert receiver.deadline is None


def test_an_enq_that_comes_together_with_an_eot_is_answered() -> None:
    receiver = opened()
    hear(receiver, *frames(SMALL))
    replies(receiver)
    hear(receiver, EOT + ENQ)
    assert replies(receiver) == ACK


def test_eot_right_after_enq_gives_nothing_and_leaves_no_stale_ack() -> None:
    receiver = Receiver()
    assert hear(receiver, ENQ + EOT) == []
    assert replies(receiver) == b""
    assert hear(receiver, ENQ, EOT) == []


def test_an_enq_asked_twice_before_we_answered_is_answered_once() -> None:
    receiver = Receiver()
    hear(receiver, ENQ + ENQ)
    assert replies(receiver) == ACK


def test_an_enq_inside_a_transmission_is_answered_when_silence_lies_around_it() -> None:
    receiver = opened()
    heard = hear(receiver, *frames(SMALL)[:3], now=0.1)
    replies(receiver)
    heard += hear(receiver, ENQ, now=1.0)
    assert replies(receiver) == b""
    heard += receiver.handle_timeout(1.5)
    assert replies(receiver) == ACK
    assert slugs(heard) == ["unexpected_enq"]
    assert hear(receiver, *frames(SMALL), now=2.0) == [unit(SMALL)]


@pytest.mark.parametrize(
    ("sent", "reply"), [(frame(1, HEADER + b"\r"), b""), (frame(1, HEADER + b"\r").replace(b"X", b"Y"), NAK)]
)
def test_an_enq_at_the_heels_of_a_frame_is_noise_and_never_its_acknowledgment(sent: bytes, reply: bytes) -> None:
    receiver = opened()
    hear(receiver, sent)
    replies(receiver)
    hear(receiver, ENQ, now=0.01)
    receiver.handle_timeout(0.51)
    assert replies(receiver) == reply


def test_the_silence_of_thirty_seconds_counts_from_the_last_frame() -> None:
    receiver = opened()
    hear(receiver, frames(SMALL)[0], now=20.0)
    assert receiver.deadline == 50.0
    assert receiver.handle_timeout(49.0) == []
    heard = receiver.handle_timeout(50.0)
    assert slugs(heard) == ["timeout"]
    assert receiver.deadline is None


def test_noise_without_end_does_not_keep_a_dead_transmission_open() -> None:
    receiver = opened()
    for second in range(1, 40):
        hear(receiver, b"~", now=float(second))
    assert receiver.deadline == 30.0


def test_a_meter_is_woken_at_once_and_then_at_intervals() -> None:
    receiver = Receiver("message", wake=EOT, poll_seconds=10.0)
    assert receiver.deadline == 0.0
    receiver.handle_timeout(5.0)
    assert replies(receiver) == EOT
    assert receiver.deadline == 15.0
    hear(receiver, EOT + ENQ, *frames(SMALL), EOT, now=6.0)
    assert receiver.deadline == 16.0


# However the bytes are cut

HOSTILE = [
    transmission(MESSAGE),
    transmission(MESSAGE, one_frame=True),
    transmission([*SMALL[:-1], b"C|1|I|" + b"y" * 500, b"L|1|N"], etb_between=True),
    b"noise" + transmission(SMALL).replace(b"63.7", b"64.7") + transmission(SMALL),
    ENQ + frames(SMALL)[0] + b"~~\x03junk" + transmission(SMALL),
    ENQ + frames(MESSAGE)[0][:20] + ENQ + transmission(SMALL),
    ENQ + frame(1, HEADER)[:-4] + b"4" + ENQ,
    ENQ + frame(1, HEADER)[:-4] + b"ZZ" + EOT,
]


@pytest.mark.parametrize("stream", HOSTILE)
def test_one_byte_at_a_time_says_the_same_as_the_whole(stream: bytes) -> None:
    assert hear(Receiver(), *(bytes([byte]) for byte in stream)) == hear(Receiver(), stream)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(HOSTILE), st.lists(st.integers(0, 700), max_size=12))
def test_any_cut_says_the_same_as_the_whole(stream: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert hear(Receiver(), *pieces) == hear(Receiver(), stream)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([ENQ, EOT, STX, *frames(SMALL)]), max_size=20))
def test_hostile_bytes_never_raise_and_cuts_never_matter(pieces: list[bytes]) -> None:
    heard = hear(Receiver(), *pieces)
    assert hear(Receiver(), b"".join(pieces)) == heard
    assert hear(Receiver(), *(bytes([byte]) for piece in pieces for byte in piece)) == heard


@pytest.mark.parametrize("how", [{}, {"etb_between": True}, {"one_frame": True}])
def test_a_line_cut_at_any_byte_loses_no_acknowledged_unit_and_doubles_none(how: dict[str, bool]) -> None:
    sent = frames(MESSAGE, **how)
    for at in range(sum(map(len, sent)) + 1):
        receiver = opened()
        stream = b"".join(sent)[:at]
        heard = hear(receiver, stream)
        synced = sum(out.after_sync for out in receiver.data_to_send())
        heard += receiver.receive_data(b"", 1.0)
        found = units(heard)
        assert found == [Unit(FIRST), Unit(SECOND), Unit(THIRD)][: len(found)]
        assert len(found) == (3 * synced if how.get("one_frame") else synced)
        assert len(set(found)) == len(found)
