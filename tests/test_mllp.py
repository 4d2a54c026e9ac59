"""MLLP framing: messages come out whole however the bytes arrive, and noise does no harm."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.hl7 import mllp

content = st.binary(max_size=60).map(lambda data: data.replace(b"\x0b", b".").replace(b"\x1c", b"."))
noise = st.binary(max_size=8).map(lambda data: data.replace(b"\x0b", b".").replace(b"\x1c", b"."))


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


def test_frame_is_the_bytes_of_the_standard() -> None:
    assert mllp.frame(b"MSH|^~\\&|x\r") == b"\x0bMSH|^~\\&|x\r\x1c\x0d"


@pytest.mark.parametrize("inside", [b"\x0b", b"\x1c"])
def test_a_message_with_a_framing_byte_is_refused(inside: bytes) -> None:
    with pytest.raises(ValueError, match="framing byte"):
        mllp.frame(b"MSH|" + inside)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(noise, content, st.sampled_from([b"\r", b"", b"\r\n"])), max_size=6), st.lists(st.integers(0, 500)))
def test_messages_survive_any_cut_noise_and_a_missing_trailer(parts: list[tuple[bytes, bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(before + b"\x0b" + body + b"\x1c" + after for before, body, after in parts)
    decoder = mllp.Decoder()
    received = [message for piece in in_pieces(stream, cuts) for message in decoder.receive_data(piece)]
    assert received == [body for _, body, _ in parts]
    assert decoder.garbage == sum(len(before.translate(None, b"\r\n")) for before, _, _ in parts)
    assert not decoder.inside


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_one_byte_at_a_time_gives_the_same_as_whole(data: bytes, cuts: list[int]) -> None:
    whole, pieces, single = (mllp.Decoder(max_size=40) for _ in range(3))
    expected = whole.receive_data(data)
    assert [m for piece in in_pieces(data, cuts) for m in pieces.receive_data(piece)] == expected
    assert [m for i in range(len(data)) for m in single.receive_data(data[i : i + 1])] == expected
    assert (whole.garbage, whole.oversized, whole.inside) == (single.garbage, single.oversized, single.inside)
    assert (whole.garbage, whole.oversized, whole.inside) == (pieces.garbage, pieces.oversized, pieces.inside)


def test_a_frame_begun_anew_drops_the_unfinished_one() -> None:
    decoder = mllp.Decoder()
    assert decoder.receive_data(b"\x0bMSH|half\x0bMSH|whole\x1c\r") == [b"MSH|whole"]
    assert decoder.garbage == len(b"MSH|half")


def test_a_message_that_never_ends_does_not_fill_the_memory() -> None:
    decoder = mllp.Decoder(max_size=1000)
    decoder.receive_data(b"\x0b")
    for _ in range(100):
        assert decoder.receive_data(b"x" * 100) == []
    assert decoder.oversized == 1
    assert decoder.receive_data(b"\x1c\r" + mllp.frame(b"next")) == [b"next"]
    assert decoder.garbage == 10_000
