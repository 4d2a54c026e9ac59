"""ER7: delimiters are escaped, control characters never reach the wire, times carry their zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.hl7 import er7

_OFFSETS = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("105", "105"),
        ("A&B | 50^2 ~ \\", "A\\T\\B \\F\\ 50\\S\\2 \\R\\ \\E\\"),
        ("one\r\ntwo\tthree\x00", "one two three"),
        ("\x0bMSH|", " MSH\\F\\"),
        ("\u2028", " "),
        ("µg/L", "µg/L"),
    ],
)
def test_delimiters_are_escaped_and_controls_never_reach_the_wire(text: str, wire: str) -> None:
    assert er7.escape(text) == wire


def test_a_line_break_in_formatted_text_is_br() -> None:
    assert er7.escape_formatted("Sinus rhythm\r\nNormal\nECG") == "Sinus rhythm\\.br\\Normal\\.br\\ECG"


@given(st.text())
@settings(deadline=None, max_examples=150)
def test_no_text_can_end_a_field_a_segment_or_a_frame(text: str) -> None:
    for wire in (er7.escape(text), er7.escape_formatted(text)):
        assert not set("|^~&") & set(wire)
        assert all(character.isprintable() or character not in "\x00\x0b\x0c\x1c\r\n\x85\u2028\u2029" for character in wire)
        assert wire.count("\\") % 2 == 0


@given(st.text(st.characters(blacklist_categories=["Cc", "Zl", "Zp", "Cs"])))
@settings(deadline=None, max_examples=150)
def test_escaping_comes_back_as_it_went(text: str) -> None:
    assert er7.unescape(er7.escape(text)) == text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
@settings(deadline=None, max_examples=60)
def test_python_hl7_reads_the_same_text(text: str) -> None:
    wire = f"MSH|^~\\&|A|B|C|D|20240501||ORU^R01|1|P|2.5.1\rNTE|1|L|{er7.escape(text)}x\r"
    message = hl7.parse(wire)
    assert message.unescape(str(message.segment("NTE")[3])) == text + "x"


def test_what_a_sender_escapes_comes_back_as_text() -> None:
    assert er7.unescape("12 Elm\\X0A\\Apt 3 \\H\\here\\N\\ \\Zxy\\ \\.in+2\\") == "12 Elm\nApt 3 here \\Zxy\\ "
    assert er7.unescape("a#T#b", er7.Delimiters(escape="#", subcomponent="!")) == "a!b"
    assert er7.unescape("a lone \\ stays") == "a lone \\ stays"


def test_a_field_in_other_delimiters_becomes_one_in_the_standard_ones() -> None:
    other = er7.Delimiters(field="!", component="@", repetition="*", escape="/", subcomponent="%")
    assert er7.standard("12@O/R/Neill^@ANN%x*13", other) == "12^O\\R\\Neill\\S\\^ANN&x~13"
    assert er7.standard("12^SMITH", er7.STANDARD) == "12^SMITH"


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=_OFFSETS))  # noqa: DTZ001
@settings(deadline=None, max_examples=100)
def test_a_time_goes_with_its_zone_and_comes_back(at: datetime) -> None:
    wire = er7.timestamp(at)
    assert wire == at.strftime("%Y%m%d%H%M%S%z")[:19]
    assert er7.read_timestamp(wire) == at.replace(microsecond=0)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        er7.timestamp(datetime(2024, 5, 1, 8, 15))  # noqa: DTZ001


def test_received_times_may_be_short() -> None:
    assert er7.read_timestamp("2024") == datetime(2024, 1, 1)  # noqa: DTZ001
    assert er7.read_timestamp("202405010815-0500").utcoffset() == timedelta(hours=-5)
    assert er7.read_timestamp("20240501081530.1234+0000") == datetime(2024, 5, 1, 8, 15, 30, tzinfo=UTC)
    assert er7.read_day("19700102101500") == date(1970, 1, 2)


@pytest.mark.parametrize("text", ["", "2024-05-01", "20241301", "20240501250000", "2024050108153", "２０２４", "197001"])
def test_what_is_no_day_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        er7.read_day(text)
    assert not text or text not in str(refused.value)
