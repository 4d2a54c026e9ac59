"""LIS2-A2: records are read by the delimiters that their own header declares."""

# ruff: noqa: DTZ001 - an instrument's clock knows no zone

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.drivers.driver import UnreadableReport
from chartbound.drivers.lis2a import parse, split_comparator, timestamp

UNIT = (
    b"H|\\^&|||Analyzer^1.0^S1|||||||P||20260115093000\r"
    b"P|1|42|||Doe^Jane\r"
    b"C|1|I|of the patient|G\r"
    b"O|1|S-1||^^^ACR|||||||||||||||||||||F\r"
    b"C|1|I|of the order|G\r"
    b"R|1|^^^Alb^Albumin|63.7|mg/L||H\\A||F\r"
    b"C|1|I|of the result|G\r"
    b"C|2|I|and more|G\r"
    b"M|1|maker\r"
    b"R|2|^^^Crt|230.8|mg/dL\r"
    b"L|1|N\r"
)


def test_fields_are_counted_from_one_as_in_the_standard() -> None:
    message = parse(UNIT)
    order = next(message.orders())
    assert message.header.field(2) == "\\^&"
    assert message.header.component(5, 3) == "S1"
    assert message.header.field(14) == "20260115093000"
    assert order.patient.component(6, 2) == "Jane"
    assert order.order.field(3) == "S-1"
    assert order.order.field(26) == "F"
    assert order.results[0].components(3) == ["", "", "", "Alb", "Albumin"]
    assert order.results[0].repeats(7) == ["H", "A"]


def test_a_part_that_is_not_there_is_empty() -> None:
    result = next(parse(UNIT).orders()).results[1]
    assert (result.field(99), result.component(3, 9), result.repeats(99), result.components(99)) == ("", "", [], [])


def test_a_comment_belongs_to_the_record_before() -> None:
    order = next(parse(UNIT).orders())
    assert [comment.field(4) for comment in order.patient.comments] == ["of the patient"]
    assert [comment.field(4) for comment in order.order.comments] == ["of the order"]
    assert [comment.field(4) for comment in order.results[0].comments] == ["of the result", "and more"]
    assert [record.type for record in order.results[0].attached] == ["C", "C", "M"]
    assert order.results[1].comments == []


def test_each_order_has_its_own_patient_and_results() -> None:
    unit = b"H|\\^&\rP|1|A\rO|1|S1\rR|1||1\rO|2|S2\rP|2|B\rR|1||3\rR|2||4\rL|1\r"
    found = [(o.patient.field(3), o.order.field(3), [r.field(4) for r in o.results]) for o in parse(unit).orders()]
    assert found == [("A", "S1", ["1"]), ("A", "S2", []), ("B", "", ["3", "4"])]


def test_delimiters_come_from_the_header() -> None:
    message = parse(b"H|@^\\|||GeneXpert^1\rP|1\rR|1|a@b|x\\F\\y^z\rL|1\r")
    result = next(message.orders()).results[0]
    assert result.repeats(3) == ["a", "b"]
    assert result.components(4) == ["x|y", "z"]


@pytest.mark.parametrize(
    ("sent", "means"),
    [
        ("a&F&b", "a|b"),
        ("a&S&b", "a^b"),
        ("a&R&b", "a\\b"),
        ("a&E&b", "a&b"),
        ("&E&F&E&", "&F&"),
        ("&X41&", "A"),
        ("&X4142E9&", "ABé"),
        ("A & B", "A & B"),
        ("&Z&", "&Z&"),
        ("&X4&", "&X4&"),
    ],
)
def test_escapes_are_decoded_and_what_is_none_is_left(sent: str, means: str) -> None:
    record = parse(f"H|\\^&\rC|1|I|{sent}|G\r".encode("latin-1")).records[1]
    assert record.field(4) == means


def test_an_escaped_delimiter_does_not_divide() -> None:
    record = parse(b"H|\\^&\rP|1|||| |x&S&y^z\r").records[1]
    assert record.components(7) == ["x^y", "z"]


def test_a_header_without_an_escape_character_escapes_nothing() -> None:
    assert parse(b"H|\\^|||X\rC|1|I|a&F&b\r").records[1].field(4) == "a&F&b"


@pytest.mark.parametrize(
    ("unit", "where"),
    [
        (b"", "record 1"),
        (b"\r\r", "record 1"),
        (b"P|1\r", "record 1"),
        (b"H\r", "record 1 (H), field 2"),
        (b"H||||\r", "record 1 (H), field 2"),
        (b"H|\\\\&|\r", "record 1 (H), field 2"),
        (b"H|ab&|\r", "record 1 (H), field 2"),
        (b"H|\\^&x|\r", "record 1 (H), field 2"),
    ],
)
def test_without_a_readable_header_nothing_is_read(unit: bytes, where: str) -> None:
    with pytest.raises(UnreadableReport) as raised:
        parse(unit)
    assert raised.value.where == where


def test_text_in_another_encoding_is_said_with_its_place() -> None:
    assert parse("H|\\^&\rP|1|Ä\r".encode(), "utf-8").records[1].field(3) == "Ä"
    with pytest.raises(UnreadableReport) as raised:
        parse(b"H|\\^&\rP|1|\xc4\r", "utf-8")
    assert raised.value.where == "byte 11"


def test_a_record_shows_no_text_of_a_patient() -> None:
    assert "Jane" not in repr(parse(UNIT).records[1])


@pytest.mark.parametrize(
    ("text", "time", "precision"),
    [
        ("20260115093012", datetime(2026, 1, 15, 9, 30, 12), timedelta(seconds=1)),
        ("202601150930", datetime(2026, 1, 15, 9, 30), timedelta(minutes=1)),
        ("20260115", datetime(2026, 1, 15), timedelta(days=1)),
    ],
)
def test_a_time_has_the_precision_it_was_said_with(text: str, time: datetime, precision: timedelta) -> None:
    assert timestamp(text) == (time, precision)


@pytest.mark.parametrize("text", ["", "2026011509", "20261315093000", "20260115256000", "0000000000000", "²0260115093000"])
def test_an_invalid_time_is_none(text: str) -> None:
    assert timestamp(text) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [("<5.6", ("<", "5.6")), (">= 1", (">=", "1")), ("5.6", ("", "5.6")), (" 5 ", ("", "5")), (">", ("", ">"))],
)
def test_a_comparator_stands_before_a_value(text: str, parts: tuple[str, str]) -> None:
    assert split_comparator(text) == parts


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_hostile_records_raise_nothing_else(data: bytes) -> None:
    try:
        message = parse(b"H|\\^&" + data)
    except UnreadableReport:
        return
    for order in message.orders():
        for record in (order.patient, order.order, *order.results):
            for number in (1, 2, 5, 40):
                record.field(number)
                record.component(number, 3)


_ESCAPED = {"|": "&F&", "^": "&S&", "\\": "&R&", "&": "&E&"}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(codec="latin-1", exclude_characters="\r"), min_size=1), min_size=1, max_size=5))
def test_escaped_texts_come_back_as_they_were(texts: list[str]) -> None:
    field = "^".join("".join(_ESCAPED.get(character, character) for character in text) for text in texts)
    record = parse(f"H|\\^&\rC|1|I|{field}|G\r".encode("latin-1")).records[1]
    assert record.components(4) == texts
