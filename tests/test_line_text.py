"""Text reports by line, block or silence: nothing is lost, nothing unfinished is a report."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.drivers.line_text import TextLink
from chartbound.drivers.link import Event, Incomplete, Trouble, Unit

SEGMENTS = st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=20)


def feed(link: TextLink, data: bytes, sizes: list[int]) -> list[Event]:
    """Give the data to the link in pieces of these sizes, over and over, all at the same moment, then close the line."""
    events: list[Event] = []
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(data):
            break
        events += link.receive_data(data[at : at + size], 0.0)
        at += size
    return events + link.receive_data(b"", 0.0)


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_a_line_may_end_with_cr_lf_or_both(end: bytes) -> None:
    assert feed(TextLink(), b"1,a" + end + b"2,b" + end, [100]) == [Unit(b"1,a"), Unit(b"2,b")]


def test_blank_lines_are_no_reports() -> None:
    assert feed(TextLink(), b"\r\n\r\n  \r\n1\r\n\r\n", [100]) == [Unit(b"1")]


def test_a_block_stands_between_its_marks_and_keeps_its_lines() -> None:
    link = TextLink(begins=b"\x02", ends=b"\x03")
    assert feed(link, b"\x02GLU 1\r\nKET 2\r\n\x03\r\n\x02x\x03", [3]) == [Unit(b"GLU 1\r\nKET 2\r\n"), Unit(b"x")]


def test_noise_between_blocks_is_counted_once_a_run() -> None:
    link = TextLink(begins=b"\x02", ends=b"\x03")
    events = feed(link, b"\xff\xfe\x02a\x03\xff\xff\x02b\x03", [1])
    noise = Trouble("noise", "bytes outside a report")
    assert events == [noise, Unit(b"a"), noise, Unit(b"b")]


def test_a_block_cut_by_the_next_one_is_incomplete() -> None:
    link = TextLink(begins=b"\x02", ends=b"\x03")
    assert feed(link, b"\x02half\x02whole\x03", [2]) == [
        Incomplete(b"half", "a new report began before this one ended"),
        Unit(b"whole"),
    ]


def test_a_line_cut_by_the_end_of_the_connection_is_incomplete() -> None:
    events = feed(TextLink(), b"whole\rhal", [4])
    assert events[0] == Unit(b"whole")
    assert isinstance(events[1], Incomplete)
    assert events[1].data == b"hal"


def test_silence_in_the_middle_of_a_line_makes_it_incomplete() -> None:
    link = TextLink(silence=10.0)
    link.receive_data(b"412,01-1", 100.0)
    assert link.deadline == 110.0
    assert link.handle_timeout(109.9) == []
    (event,) = link.handle_timeout(110.0)
    assert isinstance(event, Incomplete)
    assert link.receive_data(b"413\r", 111.0) == [Unit(b"413")]


def test_silence_ends_a_report_where_the_instrument_marks_no_end() -> None:
    link = TextLink(ends=b"", silence=2.0, silence_ends=True)
    assert link.receive_data(b"Date 1\r\nGLU neg\r\n", 0.0) == []
    assert link.receive_data(b"KET neg\r\n", 1.5) == []
    assert link.handle_timeout(3.5) == [Unit(b"Date 1\r\nGLU neg\r\nKET neg\r\n")]
    assert link.deadline is None


def test_no_timer_runs_between_reports() -> None:
    link = TextLink()
    link.receive_data(b"1\r", 5.0)
    assert link.deadline is None


def test_a_line_of_a_megabyte_is_kept_in_bounded_pieces_and_is_never_a_report() -> None:
    link = TextLink(longest=4096)
    data = b"9" * 1_000_000
    events = []
    for at in range(0, len(data), 10_000):
        events += link.receive_data(data[at : at + 10_000], 0.0)
        assert len(link._text) <= 4096
    events += link.receive_data(b"\r7,next\r", 0.0)
    pieces = [event.data for event in events if isinstance(event, Incomplete)]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 4096
    assert [event.what for event in events if isinstance(event, Trouble)] == ["too_long"]
    assert [event for event in events if isinstance(event, Unit)] == [Unit(b"7,next")]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\x02", b"\x03", b"a", b" ", b"\x00", b"bcdefg"]), max_size=60).map(b"".join),
    SEGMENTS,
    st.sampled_from([b"", b"\x02"]),
)
def test_segmentation_changes_nothing(data: bytes, sizes: list[int], begins: bytes) -> None:
    def link() -> TextLink:
        return TextLink(begins=begins, ends=b"\x03" if begins else b"\r\n", longest=11)

    assert feed(link(), data, sizes) == feed(link(), data, [len(data) + 1])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([b"\r", b"\n", b"x", b"yz" * 9]), max_size=60).map(b"".join), SEGMENTS)
def test_every_byte_of_a_line_is_in_one_event(data: bytes, sizes: list[int]) -> None:
    events = feed(TextLink(longest=11), data, sizes)
    kept = b"".join(event.data for event in events if isinstance(event, Unit | Incomplete))
    assert kept == data.replace(b"\r", b"").replace(b"\n", b"")
