r"""A wire transcript: what an instrument and its host said to each other, as plain text that a person can read and mend.

`<` is what the instrument said, `>` what the host said, control characters are written by their ASCII names::

    # evidence: composed
    # source: the vendor's manual, or which instrument it was captured from
    # driver: dca_vantage
    < ENQ
    > ACK
    < STX 1H|\^& CR ETX E5 CR LF
    !wait 15
    !drop

`!wait` is seconds of silence, `!drop` the end of the connection. Every byte can be written and read back: words stand between
single spaces; a control character, and any byte beyond ASCII (`xE9`), is a word of its own; a space between two words of text
is a space of the text, so ` 9:30` after CR is `CR  9:30`. A word of the text that looks like such a name takes an apostrophe
(`'CR`), and a space at the end of a line, which editors eat, is written `SP`.

The same text serves the tests, `record`, `replay` and the simulators, so a bug report is a transcript.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .link import Event, Link

_C0 = "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"
_NAME = dict(enumerate(_C0.split())) | {0x7F: "DEL"} | {byte: f"x{byte:02X}" for byte in range(0x80, 0x100)}
_BYTE = {name: byte for byte, name in _NAME.items()} | {"SP": 0x20}
_LOOKS_LIKE_A_NAME = re.compile("'*(?:" + "|".join(_BYTE) + ")")
_PIECES = re.compile(rb"[ -~]+|[^ -~]")
_HEADER = re.compile(r"#\s*(driver|options|evidence|source)\s*:\s*(.*)")


class TranscriptError(ValueError):
    """This line of a transcript cannot be read. It names the line by its number and never shows its text."""

    def __init__(self, line: int, hint: str) -> None:
        super().__init__(f"line {line}: {hint}")
        self.line = line
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Heard:
    """Bytes from the instrument."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Said:
    """Bytes from the host."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds in which nothing was said."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection ended."""


Step = Heard | Said | Wait | Drop


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said, and what is known of where it comes from."""

    steps: tuple[Step, ...]
    driver: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)  # of the driver, as in the site file
    evidence: str = ""  # "captured" from a real instrument, or "composed" after a text
    source: str = ""  # which instrument or which text


@dataclass(frozen=True, slots=True)
class Played:
    """What a link made of a transcript."""

    events: tuple[Event, ...]
    said: bytes = field(repr=False)  # everything that it sent


def parse(text: str) -> Transcript:
    """Read a transcript. Raises `TranscriptError` at the first line that is not one of the forms above."""
    steps: list[Step] = []
    header: dict[str, str] = {}
    for number, whole in enumerate(text.split("\n"), start=1):
        line = whole.removesuffix("\r")
        if found := _HEADER.fullmatch(line.rstrip()):
            header[found[1]] = found[2]
        elif line.startswith(("<", ">")):
            if line[1:2] not in ("", " "):
                raise TranscriptError(number, "a space belongs after < or >")
            data = decode(line[2:])
            steps.append(Heard(data) if line[0] == "<" else Said(data))
        elif line.startswith("!"):
            steps.append(_directive(line, number))
        elif line.strip() and not line.startswith("#"):
            raise TranscriptError(number, "it begins with none of < > ! #")
    try:
        options = json.loads(header.get("options", "{}"))
    except json.JSONDecodeError as error:
        raise TranscriptError(0, "the options in the header are not JSON") from error
    return Transcript(tuple(steps), header.get("driver", ""), options, header.get("evidence", ""), header.get("source", ""))


def dump(steps: Iterable[Step]) -> str:
    """Write these steps, one a line; `parse` reads them back exactly."""
    lines = []
    for step in steps:
        match step:
            case Heard(data):
                lines.append(f"< {encode(data)}".rstrip())
            case Said(data):
                lines.append(f"> {encode(data)}".rstrip())
            case Wait(seconds):
                lines.append(f"!wait {seconds!r}")
            case Drop():
                lines.append("!drop")
    return "".join(f"{line}\n" for line in lines)


def write(transcript: Transcript) -> str:
    """Write a whole transcript with its header."""
    header = {"evidence": transcript.evidence, "source": transcript.source, "driver": transcript.driver}
    lines = [f"# {key}: {' '.join(value.split())}\n" for key, value in header.items() if value]
    if transcript.options:
        lines.append(f"# options: {json.dumps(dict(transcript.options))}\n")
    return "".join(lines) + dump(transcript.steps)


def encode(data: bytes) -> str:
    """Bytes as the words of one line: `b"a b\\r"` is `a b CR`."""
    text = data.rstrip(b" ")
    words: list[str] = []
    for piece in _PIECES.findall(text):
        if len(piece) == 1 and piece[0] in _NAME:
            words.append(_NAME[piece[0]])
        else:
            words += (f"'{word}" if _LOOKS_LIKE_A_NAME.fullmatch(word) else word for word in piece.decode("ascii").split(" "))
    return " ".join(words + ["SP"] * (len(data) - len(text)))


def decode(line: str) -> bytes:
    """The bytes that these words stand for; characters beyond ASCII are taken as UTF-8."""
    data = bytearray()
    after_text = False
    for word in line.split(" ") if line else ():
        if word in _BYTE:
            data.append(_BYTE[word])
            after_text = False
        else:
            if after_text:
                data += b" "
            data += (word[1:] if _LOOKS_LIKE_A_NAME.fullmatch(word) else word).encode()
            after_text = True
    return bytes(data)


def play(steps: Iterable[Step], link: Link, now: float = 0.0) -> Played:
    """Let a fresh link live through these steps, in a time of its own that begins at `now` seconds.

    Time passes in `!wait`, and where the host speaks next although the link has nothing to say before its timer ends.
    """
    events: list[Event] = []
    said = bytearray()
    due = 0  # how much the host has said in the transcript so far

    def speak() -> None:
        said.extend(b"".join(out.data for out in link.data_to_send()))

    for step in steps:
        match step:
            case Heard(data):
                if data:
                    events += link.receive_data(data, now)
            case Said(data):
                due += len(data)
                while len(said) < due and link.deadline is not None:
                    now = max(now, link.deadline)
                    events += link.handle_timeout(now)
                    speak()
            case Wait(seconds):
                until = now + seconds
                while link.deadline is not None and link.deadline <= until:
                    now = max(now, link.deadline)
                    events += link.handle_timeout(now)
                    speak()
                now = until
            case Drop():
                events += link.receive_data(b"", now)
        speak()
    return Played(tuple(events), bytes(said))


def _directive(line: str, number: int) -> Step:
    word, _, rest = line.strip().partition(" ")
    if word == "!drop" and not rest:
        return Drop()
    if word == "!wait":
        try:
            seconds = float(rest)
        except ValueError:
            seconds = math.nan
        if seconds >= 0 and math.isfinite(seconds):
            return Wait(seconds)
        raise TranscriptError(number, "!wait takes a number of seconds")
    raise TranscriptError(number, "only !wait SECONDS and !drop are known")
