r"""How the receiver of a message says that it has it: the acknowledgment (ACK), read and written.

    MSH|^~\&|EHR|HOSP|CHARTBOUND|RIVERSIDE|20260302101501-0600||ACK^R01^ACK|9|P|2.5.1
    MSA|AA|K7Q2M4
    ERR|||207^Application internal error^HL70357|E|||specimen unknown      (only after an error)

HL7 v2.5.1, 2.9 and 2.15: MSA-1 is AA filed, AE error, AR rejected; in enhanced mode first CA, CE or CR: safely received or
not. MSA-2 repeats the MSH-10 of the message that is meant, and an ACK counts for no other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from . import er7

ACCEPTED = frozenset({"AA", "CA"})
REFUSED = frozenset({"AE", "AR", "CE", "CR"})
MAX_ACK_SIZE = 1024 * 1024  # bytes; real ones are some hundred

CONDITIONS = {  # table 0357, the codes that our listener and the simulator give
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "200": "Unsupported message type",
    "204": "Unknown key identifier",
    "205": "Duplicate key identifier",
    "207": "Application internal error",
}


class UnreadableAck(Exception):
    """These bytes are no ACK. They count as no answer: whether the message was received stays unknown."""


@dataclass(frozen=True, slots=True)
class Ack:
    """What the receiver answered. Its words may name the patient."""

    code: str  # MSA-1, table 0008
    control_id: str  # MSA-2
    text: str = field(default="", repr=False)  # MSA-3
    error: str = field(default="", repr=False)  # ERR: the texts of every one, joined


def read(message: bytes, encoding: str = "utf-8") -> Ack:
    """Read an ACK as it came out of its frame. Raises `UnreadableAck`, and nothing else whatever the bytes.

    Text that is not in the agreed character set is read byte by byte (Latin-1): a stray letter in MSA-3 must not make an
    AA unread, or the message would be sent for ever. Segments may end in CR, LF or both.
    """
    import hl7  # python-hl7

    try:
        text = message.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        text = message.decode("latin-1")
    segments = [segment for segment in text.replace("\n", "\r").split("\r") if segment[:3] in ("MSH", "MSA", "ERR")]
    if len(segments) < 2 or len(segments[0]) < 8 or not segments[0].startswith("MSH"):
        raise UnreadableAck("there is no MSH with an MSA")
    try:
        parsed = hl7.parse("\r".join(segments))
        msa = parsed.segment("MSA")
        errors = "; ".join(filter(None, (_error_text(segment) for segment in parsed if str(segment[0]) == "ERR")))
        bar, marks = segments[0][3], segments[0][4:8].split(segments[0][3])[0]
        delimiters = er7.Delimiters(bar, *marks) if len(marks) == 4 else er7.STANDARD
        ack = Ack(_text(msa, 1), _text(msa, 2), er7.unescape(_text(msa, 3), delimiters), er7.unescape(errors, delimiters))
    except (hl7.HL7Exception, LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
        # What python-hl7 does with hostile separators is not documented; all of it means the same to us.
        problem = f"the ACK cannot be read ({type(error).__name__})"
        raise UnreadableAck(problem) from None
    if not ack.code or not ack.control_id:
        raise UnreadableAck("MSA-1 or MSA-2 is empty")
    return ack


def _text(segment: object, position: int) -> str:
    fields = list(segment)  # type: ignore[call-overload]
    return str(fields[position]).strip() if position < len(fields) else ""


def _error_text(segment: object) -> str:
    """ERR-8 for people, else the code with its text (ERR-3 from 2.5 on), else the location of older versions (ERR-1)."""
    return next(filter(None, (_text(segment, position) for position in (8, 3, 1))), "")


def build(
    message: bytes,
    code: str,
    *,
    at: datetime,
    control_id: str,
    text: str = "",
    condition: str = "207",
    encoding: str = "utf-8",
) -> bytes:
    """Return the ACK that answers `message`, in its own delimiters, version and character set.

    `at` is an aware time for MSH-7, `control_id` the ACK's own MSH-10. `text` says to a person what is wrong, without
    a patient's words: it goes into MSA-3, and into an ERR where the version has its modern form (2.5 and up). A message
    without a readable MSH is answered all the same, with an empty MSA-2.
    """
    header = next((line for line in message.replace(b"\n", b"\r").split(b"\r") if line[:3] == b"MSH" and len(line) > 7), b"")
    bar = header[3:4] or b"|"
    fields = header.split(bar) if header else [b"MSH", b"^~\\&"]

    def msh(position: int, default: bytes = b"") -> bytes:
        return fields[position - 1] if position - 1 < len(fields) and fields[position - 1] else default

    marks = msh(2, b"^~\\&")
    component = marks[:1]
    kind = msh(9).split(component)
    version = msh(12, b"2.5.1").split(component)[0]
    reply_kind = component.join((b"ACK", kind[1], b"ACK")) if len(kind) > 1 and version >= b"2.3.1" else b"ACK"
    words = _plain(text, bar + marks).encode(encoding, "replace")
    head = [b"MSH", marks, msh(5), msh(6), msh(3), msh(4), at.strftime("%Y%m%d%H%M%S%z").encode(), b"", reply_kind]
    head += [control_id.encode(), msh(11, b"P"), msh(12, b"2.5.1")]
    if charset := msh(18):
        head += [b""] * 5 + [charset]
    segments = [head, [b"MSA", code.encode(), msh(10)] + ([words] if words else [])]
    if code in REFUSED and version >= b"2.5":
        reason = component.join((condition.encode(), CONDITIONS.get(condition, "").encode(), b"HL70357"))
        segments.append([b"ERR", b"", b"", reason, b"E", b"", b"", b"", words])
    return b"".join(bar.join(segment).rstrip(bar) + b"\r" for segment in segments)


def _plain(text: str, delimiters: bytes) -> str:
    """Our own words without anything that the receiver would take for structure."""
    return "".join(" " if letter in delimiters.decode("latin-1") or not letter.isprintable() else letter for letter in text)
