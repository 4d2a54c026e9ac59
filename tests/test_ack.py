"""Acknowledgments: read as peers write them, built so that other libraries read them, hostile bytes refused."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.hl7 import ack

AT = datetime(2026, 3, 2, 16, 15, 1, tzinfo=UTC)
ORU = (
    b"MSH|^~\\&|CHARTBOUND|RIVERSIDE|EHR|HOSP|20260302101500-0600||ORU^R01^ORU_R01|K7Q2M4|P|2.5.1||||||UNICODE UTF-8\r"
    b"PID|1||123^^^RIV^MR||DOE^JANE\r"
)
AA = b"MSH|^~\\&|EHR|HOSP|CHARTBOUND|RIVERSIDE|20260302101501||ACK^R01^ACK|9|P|2.5.1\rMSA|AA|K7Q2M4\r"


def test_an_accept_is_read() -> None:
    assert ack.read(AA) == ack.Ack("AA", "K7Q2M4")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_segments_may_end_as_they_like(ending: bytes) -> None:
    assert ack.read(AA.replace(b"\r", ending)).control_id == "K7Q2M4"


def test_an_error_comes_with_its_words() -> None:
    """The texts of MSA-3 and every ERR are unescaped, whatever the version's form of ERR."""
    message = AA.replace(b"|AA|K7Q2M4", b"|AE|K7Q2M4|A \\T\\ B")
    message += b"ERR|||204^Unknown key^HL70357|E||||no such order\rERR|PID^1^3\r"
    assert ack.read(message) == ack.Ack("AE", "K7Q2M4", "A & B", "no such order; PID^1^3")


def test_other_delimiters_are_understood() -> None:
    assert ack.read(b"MSH#*+!%#EHR\rMSA#AR#K7Q2M4#no\r") == ack.Ack("AR", "K7Q2M4", "no")


def test_a_stray_letter_does_not_unread_an_accept() -> None:
    assert ack.read(AA.replace(b"K7Q2M4", b"K7Q2M4|\xe9t\xe9")) == ack.Ack("AA", "K7Q2M4", "été")


def test_words_of_the_receiver_are_not_in_the_repr() -> None:
    assert "DOE" not in repr(ack.Ack("AE", "1", "DOE^JANE", "DOE"))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x06",
        b"MSH",
        b"MSH|^~\\&|x\r",
        b"MSA|AA|K7Q2M4\r",
        AA.replace(b"MSA", b"MSB"),
        AA.replace(b"K7Q2M4", b""),
        b"\xff" * 50,
    ],
)
def test_what_is_no_ack_is_unreadable(message: bytes) -> None:
    with pytest.raises(ack.UnreadableAck):
        ack.read(message)


hostile = st.one_of(st.binary(max_size=12), st.sampled_from([b"MSH", b"|", b"^~\\&", b"\r", b"MSA", b"ERR", b"\\X", b"AA"]))


@settings(deadline=None, max_examples=400)
@given(st.lists(hostile))
def test_hostile_bytes_raise_nothing_else(parts: list[bytes]) -> None:
    for message in (b"".join(parts), b"MSH" + b"".join(parts) + b"\rMSA|AA|1|" + b"".join(parts)):
        with contextlib.suppress(ack.UnreadableAck):
            assert ack.read(message).code


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["AA", "AE", "AR", "CA", "CE", "CR"]), st.text(max_size=40))
def test_what_is_built_is_read_back(code: str, text: str) -> None:
    built = ack.build(ORU, code, at=AT, control_id="77", text=text)
    found = ack.read(built)
    assert (found.code, found.control_id) == (code, "K7Q2M4")
    assert built.count(b"\r") == (2 if code in ack.ACCEPTED else 3)


def test_python_hl7_reads_what_is_built() -> None:
    built = ack.build(ORU, "AE", at=AT, control_id="77", text="label unknown", condition="204")
    message = hl7.parse(built.decode())
    assert (str(message["MSH.F3"]), str(message["MSH.F5"]), str(message["MSH.F18"])) == ("EHR", "CHARTBOUND", "UNICODE UTF-8")
    assert str(message["MSH.F7"]) == "20260302161501+0000"
    assert (str(message["MSA.F1"]), str(message["MSA.F2"]), str(message["ERR.F8"])) == ("AE", "K7Q2M4", "label unknown")


@pytest.mark.parametrize("code", ["AA", "AE"])
@pytest.mark.parametrize("version", ["2.5.1", "2.5", "2.4"])
def test_hl7apy_finds_it_conformant(code: str, version: str) -> None:
    from hl7apy.consts import VALIDATION_LEVEL
    from hl7apy.parser import parse_message

    built = ack.build(ORU.replace(b"2.5.1", version.encode()), code, at=AT, control_id="77", text="label unknown")
    parsed = parse_message(built.decode(), validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()


@pytest.mark.parametrize("message", [b"", b"MSH", b"GARBAGE\rMSH|", b"MSH|^~\\&", b"\xff\xfe" * 9])
def test_even_an_unreadable_message_gets_an_answer(message: bytes) -> None:
    built = ack.build(message, "AR", at=AT, control_id="77", condition="200")
    assert built.startswith(b"MSH|^~\\&|")
    assert b"\rMSA|AR\r" in built
