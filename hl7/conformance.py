"""Is a message of this form what HL7 v2 allows? The judge is hl7apy, which knows the tables of every version.

Judging takes about 10 ms, so a form is judged once: `shape` gives a message's key, and the caller remembers the verdict of
`validate` under it. Lengths and lexical forms of values are looked at in every message when it is built.
"""

from __future__ import annotations

import re
from hashlib import sha256

_TEXT = re.compile(rb"[^|^~&\r]+")
_REPEATS = re.compile(rb"(x[^|~\r]*)(?:~\1(?=[|~\r]|$))+")

# hl7apy 1.3.5 reads ORC-7 and OBR-27 as required in 2.3. The standard has them optional there [from memory], so the judged
# copy gets one.
_OPTIONAL_AFTER_ALL = {"2.3": (("ORC", 7, "1"), ("OBR", 27, "1"))}
# hl7apy ends texts that a later version or a peer lets run longer (a PDF in ED.5). Length is looked at when a message is
# built, and here only costs time.
_BEYOND = re.compile(r"(?<=[^|^~&\r]{199})[^|^~&\r]+")


def shape(message: bytes) -> str:
    """A key of the message's form: type, version, segments, filled fields and their parts, OBX-2; not the values.

    Two messages with the same key are conformant or not together. Observations count as a set of forms: how often a form
    repeats, and in which order, makes no difference to the standard.
    """
    head: list[bytes] = []
    observations: set[bytes] = set()
    observation = b""
    for segment, blank in zip(message.split(b"\r"), _TEXT.sub(b"x", message).split(b"\r"), strict=True):
        if not segment:
            continue
        name = segment.partition(b"|")[0]
        form = _decisive(name, segment) + (_REPEATS.sub(rb"\1~\1", blank) if b"~" in blank else blank)
        if name == b"OBX":
            observations.add(observation)
            observation = form
        elif name == b"NTE" and observation:
            if not observation.endswith(form):
                observation += form
        elif not head or head[-1] != form:
            observations.add(observation)
            observation = b""
            head.append(form)
    observations.add(observation)
    return sha256(b"\n".join([*head, b"", *sorted(observations)])).hexdigest()[:32]


def _decisive(name: bytes, segment: bytes) -> bytes:
    """The texts that decide the form: the segment's name, OBX-2, MSH-9 and MSH-12."""
    if name == b"OBX":
        return b"|".join([name, *segment.split(b"|", 3)[2:3]])
    if name == b"MSH":
        fields = segment.split(b"|", 12)
        return b"|".join([name, *fields[8:9], *fields[11:12]])
    return name


def validate(message: bytes) -> str:
    """What is wrong with the message's form by its own version of the standard; "" if nothing.

    The answer names segments and fields, never a value.
    """
    from hl7apy.consts import VALIDATION_LEVEL
    from hl7apy.exceptions import HL7apyException, ValidationError
    from hl7apy.parser import parse_message

    segments = _judged(message)
    try:
        values = _take_values(segments)
        text = "\r".join(map("|".join, segments))
        parsed = parse_message(text, VALIDATION_LEVEL.STRICT, force_validation=True)
        for value_type, value in values:
            _judge_value(value_type, value, parsed.version)
        # hl7apy takes segments in any order, and writes them in the standard's.
        if [line[:3] for line in parsed.to_er7().split("\r")] != [fields[0] for fields in segments]:
            raise ValidationError("the segments are not in the order of the standard")
    except ValidationError as problem:
        return str(problem)
    except HL7apyException as problem:  # these repeat values
        return f"{_in_words(type(problem).__name__)}{_place(problem)}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as problem:  # hl7apy at odd input
        return f"cannot be read as HL7 ({type(problem).__name__})"
    return ""


def _judged(message: bytes) -> list[list[str]]:
    """The message's fields as hl7apy can judge them. Bytes are read as Latin-1: the form does not depend on the letters."""
    text = _BEYOND.sub("", message.decode("latin-1"))
    segments = [segment.split("|") for segment in text.split("\r") if segment]
    version = segments[0][11] if segments and len(segments[0]) > 11 else ""
    for fields in segments:
        for name, number, stand_in in _OPTIONAL_AFTER_ALL.get(version, ()):
            if fields[0] == name:
                fields.extend([""] * (number + 1 - len(fields)))
                fields[number] = fields[number] or stand_in
    return segments


def _take_values(segments: list[list[str]]) -> list[tuple[str, str]]:
    """OBX-2 and OBX-5 of each observation, taken out of the fields: hl7apy reads OBX-5 as text whatever OBX-2 says."""
    values = []
    for fields in segments:
        if fields[0] == "OBX" and len(fields) > 5 and fields[5]:
            values += [(fields[2], repetition) for repetition in fields[5].split("~")]
            fields[5] = "x"
    return values


def _judge_value(value_type: str, text: str, version: str) -> None:
    from hl7apy.consts import VALIDATION_LEVEL
    from hl7apy.core import is_base_datatype
    from hl7apy.exceptions import HL7apyException, ValidationError
    from hl7apy.parser import parse_components

    try:
        parts = parse_components(text, value_type, version, validation_level=VALIDATION_LEVEL.STRICT)
    except (HL7apyException, ValueError):
        parts = []
    simple = is_base_datatype(value_type, version)
    if not parts or (simple and len(parts) > 1):
        raise ValidationError(f"OBX-5 is not of the type that OBX-2 says ({value_type})")


def _in_words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _place(problem: Exception) -> str:
    """Where hl7apy names an element by its place ("OBX_3"), that place."""
    places = re.findall(r"\b[A-Z][A-Z0-9]{1,2}_[0-9]+(?:_[0-9]+)*\b", str(problem))
    return f" at {places[0].replace('_', '-')}" if places else ""
