r"""ER7 is the text form of HL7 v2: segments end with a carriage return, fields are split by |, components by ^.

    escape("A&B | 50^2")       gives   A\T\B \F\ 50\S\2
    timestamp(…)               gives   20240501081530-0500

Only the standard delimiters |^~\& are written. No control character reaches the wire: a line break is `\.br\` where the data
type knows it (FT) and a space elsewhere. Source: HL7 v2.5.1 chapter 2, 2.5.3 (delimiters), 2.7 (escape sequences), 2.A.22
(DTM); the clause numbers are from memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone

SEGMENT_END = "\r"
NULL = '""'  # two quotation marks order the receiver to delete what it has (2.5.3); they are never a value


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The five delimiters that MSH-1 and MSH-2 of a received message name."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


STANDARD = Delimiters()

_ESCAPED = {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\"}  # 2.7.1
# C0 and C1 controls, and the two line separators of Unicode: some receivers break lines there.
_BREAKS = "\n\r\x0b\x0c\x85\u2028\u2029"
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "")
_AS_SPACE = dict.fromkeys([ord(character) for character in "\t" + _BREAKS], " ")
_PLAIN = str.maketrans(_ESCAPED) | _CONTROLS | _AS_SPACE
_FORMATTED = _PLAIN | {ord(character): "\\.br\\" for character in _BREAKS}

_SPECIAL = re.compile(r"[|^&~\\\x00-\x1f\x7f-\x9f\u2028\u2029]").search
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]").search
_CRLF = re.compile(r"\r\n?")


def escape(text: str) -> str:
    """Text as one component: delimiters escaped, line breaks and tabs become spaces, other control characters are left out."""
    if _SPECIAL(text) is None:  # nearly always: a look costs a fifth of a translation
        return text
    return _CRLF.sub("\n", text).translate(_PLAIN)


def escape_formatted(text: str) -> str:
    r"""Text as an FT component: as `escape`, with each line break written `\.br\` (2.7.6)."""
    if _SPECIAL(text) is None:
        return text
    return _CRLF.sub("\n", text).translate(_FORMATTED)


def has_control(text: str) -> bool:
    """Does the text hold a control character, a tab or a line break?"""
    return _CONTROL(text) is not None


def lines(text: str) -> list[str]:
    """The text split where `escape_formatted` writes a line break."""
    return re.split(f"[{_BREAKS}]", _CRLF.sub("\n", text))


def one_line(text: str) -> str:
    """The text with line breaks and tabs as spaces and without other control characters."""
    return text if _CONTROL(text) is None else _CRLF.sub("\n", text).translate(_CONTROLS | _AS_SPACE)


def components(text: str) -> str:
    """Text whose ^ are meant as component separators ("RIVERSIDE^05D0123456^CLIA"), each component escaped."""
    return "^".join(map(escape, text.split("^")))


def segment(*fields: str) -> str:
    """Fields that are in ER7 form already as one segment, without its end; empty fields at its end are left out."""
    return "|".join(fields).rstrip("|")


def unescape(text: str, delimiters: Delimiters = STANDARD) -> str:
    r"""The text of one component as its sender meant it; `\.br\` and hexadecimal line ends become a line break.

    Highlighting and other formatting commands leave nothing; a sequence that is none of the standard's stays as it is.
    """
    mark = delimiters.escape
    if not mark or mark not in text:
        return text
    known = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        "E": mark,
        "H": "",
        "N": "",
        ".br": "\n",
        ".sp": "\n",
    }

    def meant(sequence: re.Match[str]) -> str:
        name = sequence[1]
        if name in known:
            return known[name]
        if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", name):
            return _CRLF.sub("\n", bytes.fromhex(name[1:]).decode("latin-1"))
        if re.fullmatch(r"\.(?:sp|in|ti|sk|fi|nf|ce)[+-]?\d*", name):
            return "\n" if name.startswith((".sp", ".ce")) else ""
        return sequence[0]

    quoted = re.escape(mark)
    return re.sub(f"{quoted}([^{quoted}]*){quoted}", meant, text)


def standard(text: str, delimiters: Delimiters) -> str:
    """One received field in the standard delimiters, its structure and its escape sequences kept."""
    if delimiters == STANDARD:
        return text
    known = {
        delimiters.component: "^",
        delimiters.repetition: "~",
        delimiters.subcomponent: "&",
        delimiters.escape: "\\",
    }
    return "".join(known.get(character) or _ESCAPED.get(character, character) for character in text)


def timestamp(at: datetime) -> str:
    """YYYYMMDDHHMMSS+ZZZZ. Raises ValueError for a time without a zone."""
    offset = at.utcoffset()
    if offset is None:
        raise ValueError("a time without a zone cannot go into a message")
    minutes = (offset.days * 86400 + offset.seconds) // 60
    sign = "-" if minutes < 0 else "+"
    hours, minutes = divmod(abs(minutes), 60)
    return f"{at.year:04d}{at.month:02d}{at.day:02d}{at.hour:02d}{at.minute:02d}{at.second:02d}{sign}{hours:02d}{minutes:02d}"


def day(on: date) -> str:
    """YYYYMMDD."""
    return f"{on.year:04d}{on.month:02d}{on.day:02d}"


_TIMESTAMP = re.compile(
    r"(?P<year>\d{4})(?:(?P<month>\d\d)(?:(?P<day>\d\d)(?:(?P<hour>\d\d)(?:(?P<minute>\d\d)"
    r"(?:(?P<second>\d\d)(?:\.\d{1,4})?)?)?)?)?)?(?P<zone>[+-]\d{4})?",
    re.ASCII,
)


def read_timestamp(text: str) -> datetime:
    """A received DTM or TS.1; naive where it names no zone. What is left out (day, hour …) is the earliest it can be.

    Raises ValueError for anything else; the message does not repeat the text.
    """
    found = _TIMESTAMP.fullmatch(text.strip())
    if found is None:
        raise ValueError("not a time of the form YYYYMMDDHHMMSS+ZZZZ")
    parts = [int(found[name] or least) for name, least in (("month", 1), ("day", 1), ("hour", 0), ("minute", 0), ("second", 0))]
    zone = None
    if stated := found["zone"]:
        offset = timedelta(hours=int(stated[1:3]), minutes=int(stated[3:]))
        zone = timezone(-offset if stated[0] == "-" else offset) if offset else UTC
    month, on, hour, minute, second = parts
    return datetime(int(found["year"]), month, on, hour, minute, second, tzinfo=zone)


def read_day(text: str) -> date:
    """A received DT (a longer time is cut to its day). Raises ValueError where the day is not stated."""
    if len(text.strip()) < 8:
        raise ValueError("not a day of the form YYYYMMDD")
    return read_timestamp(text).date()
