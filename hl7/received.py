r"""A message that came in, field by field: its own delimiters and character set, escapes undone, HL7's null read as empty.

    PID|1||4711^^^RIVERSIDE^MR||O\T\NEILL^ANN      text(3) is 4711, text(5) is O&NEILL

Nothing is read with loss: bytes that are not of the named character set are refused. Source: HL7 v2.5.1, 2.5 and 2.7; the
clause numbers are from memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo

import hl7

from . import er7
from .er7 import Delimiters

_CODECS = {  # table 0211
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "ASCII": "ascii",
    "8859/1": "iso8859-1",
    "8859/15": "iso8859-15",
}


class Refused(Exception):
    """This message cannot be taken as it stands. `code` is MSA-1 of the answer, `where` ERR-2, `hint` ERR-8 (or MSA-3).

    None of them repeats the patient's words.
    """

    code = "AE"

    def __init__(self, where: str, hint: str) -> None:
        super().__init__(f"{where}: {hint}")
        self.where = where
        self.hint = hint


class UnknownMessage(Refused):
    """This is no HL7 v2 message, or of a type that is not read here: sending it again will not help."""

    code = "AR"


class Segment:
    """One segment's fields, as text without escapes. HL7's null ("") reads as empty."""

    def __init__(self, segment: hl7.Segment, delimiters: Delimiters) -> None:
        self.name = str(segment[0])
        self._fields = [str(each) for each in segment]
        self._delimiters = delimiters

    def raw(self, number: int) -> str:
        return self._fields[number] if number < len(self._fields) else ""

    def repetitions(self, number: int) -> list[list[str]]:
        """The components, in ER7 form, of each repetition that is filled."""
        marks = self._delimiters
        return [
            repetition.split(marks.component)
            for repetition in self.raw(number).split(marks.repetition)
            if repetition.strip() and repetition != er7.NULL
        ]

    def plain(self, component: str) -> str:
        text = er7.one_line(er7.unescape(component, self._delimiters)).strip()
        return "" if text == er7.NULL else text

    def echo(self, component: str) -> str:
        """ER7 text with the standard delimiters and without controls, to be given back as it came."""
        text = er7.one_line(er7.standard(component, self._delimiters)).strip()
        return "" if text == er7.NULL else text

    def text(self, number: int, component: int = 1) -> str:
        """A component of the first repetition. A stray & in it is text: many senders forget to escape one."""
        found = next(iter(self.repetitions(number)), [""])
        return self.plain(found[component - 1]) if component <= len(found) else ""

    def part(self, number: int, component: int = 1) -> str:
        """The first subcomponent of a component whose type has some (FN, EIP, SPS)."""
        found = next(iter(self.repetitions(number)), [""])
        whole = found[component - 1] if component <= len(found) else ""
        return self.plain(whole.split(self._delimiters.subcomponent)[0])

    def field(self, number: int) -> str:
        """The first repetition as `echo` gives it."""
        return self.echo(self.raw(number).split(self._delimiters.repetition)[0])

    def time(self, number: int, zone: tzinfo) -> datetime | None:
        text = self.text(number)
        if not text:
            return None
        try:
            at = er7.read_timestamp(text)
        except ValueError as problem:
            raise Refused(f"{self.name}-{number}", str(problem)) from None
        return at if at.tzinfo else at.replace(tzinfo=zone)


class Segments:
    """The segments of one message in order."""

    def __init__(self, message: bytes) -> None:
        text = _decoded(message).replace("\r\n", "\r").replace("\n", "\r").strip("\r\x1c\x0b \t")
        if not text.startswith("MSH") or len(text) < 9:
            raise UnknownMessage("MSH", "the message does not start with MSH")
        marks = Delimiters(text[3], *text[4:8])
        if len(set(text[3:8])) < 5 or not _plausible(text):
            raise UnknownMessage("MSH-2", "five different delimiters are needed, like |^~\\&")
        try:
            parsed = hl7.parse(text)
            self._all = [Segment(segment, marks) for segment in parsed]
        except (hl7.HL7Exception, IndexError, KeyError, ValueError, AttributeError):
            raise UnknownMessage("MSH", "the message cannot be read as HL7 v2") from None

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._all)

    def first(self, name: str) -> Segment:
        """The first segment of this name. Raises `Refused` where there is none."""
        found = next((segment for segment in self._all if segment.name == name), None)
        if found is None:
            raise Refused(name, "required and missing")
        return found

    def only(self, name: str) -> Segment:
        """The one segment of this name. Raises `Refused` where there is none, or more than one."""
        if sum(segment.name == name for segment in self._all) > 1:
            raise Refused(name, "stands more than once: one message is about one patient")
        return self.first(name)

    def maybe(self, name: str) -> Segment | None:
        """The first segment of this name, if there is one."""
        return next((segment for segment in self._all if segment.name == name), None)


def _plausible(text: str) -> bool:
    """Are MSH-1 and MSH-2 punctuation, and does a field follow? From 2.7 on MSH-2 has a fifth character."""
    marks = text[3:8]
    return marks.isprintable() and not any(mark.isalnum() or mark == " " for mark in marks) and marks[0] in text[8:10]


def _decoded(message: bytes) -> str:
    """Text by MSH-18; without it UTF-8, of which ASCII is a part. Nothing is read with loss."""
    header = message.lstrip(b"\x0b\r\n ").split(b"\r", 1)[0].split(b"\n", 1)[0]
    fields = header.split(header[3:4]) if len(header) > 3 else []
    named = fields[17].split(header[5:6])[0].decode("ascii", "replace").strip() if len(fields) > 17 else ""
    codec = _CODECS.get(named or "UNICODE UTF-8")
    if codec is None:
        raise Refused("MSH-18", "this character set is not read; send UNICODE UTF-8")
    try:
        return message.decode(codec)
    except UnicodeDecodeError:
        hint = f"the bytes are not {named}" if named else "no character set is named and the bytes are not UTF-8"
        raise Refused("MSH-18", hint) from None
