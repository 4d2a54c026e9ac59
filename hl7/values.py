"""What HL7 v2 lets a field hold, looked at in every message: numbers, comparators, lengths, codes, control characters.

A value that a field cannot hold as stated is refused and a person decides; nothing is rounded, cut or tidied ("6.10" stays
"6.10"). Sources: HL7 v2.5.1 chapter 2.A (data types) and the tables named; clause numbers and lengths are from memory.
"""

from __future__ import annotations

import re

from . import er7
from .profile import LENGTHS, Profile


class NotConformant(Exception):
    """This result cannot be said in the HL7 that the profile asks for. The caller holds it with the reason NOT_CONFORMANT.

    `where` is a field ("OBX-5"), `hint` what a person can do. Neither repeats the value.
    """

    def __init__(self, where: str, hint: str) -> None:
        super().__init__(f"{where}: {hint}")
        self.where = where
        self.hint = hint


_SHORT = 15  # no length by default is smaller, so most texts need no look into the table
_NAME_LENGTH = 199  # CE.2

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_NM = re.compile(_NUMBER).fullmatch  # no exponent, no comma, no space within
_SN = re.compile(rf"({_NUMBER})(?:([-+/.:])({_NUMBER})?)?").fullmatch  # 2.A.70: "1:128", "2-4", "3+"
_TYPES = frozenset({"NM", "SN", "ST", "TX", "FT", "CWE", "ED"})
_COMPARATORS = frozenset({"", "<", ">", "<=", ">="})
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?").fullmatch
# Table 0078 (abnormal flags) and the letters of tables 0085 and 0123 that we use.
_FLAGS = frozenset({"L", "H", "LL", "HH", "<", ">", "N", "A", "AA", "U", "D", "B", "W", "S", "R", "I", "MS", "VS"})
_STATUSES = frozenset({"F", "P", "C", "X", "W"})


def within(where: str, text: str, profile: Profile) -> str:
    """The text escaped, if it is no longer than the field. Raises `NotConformant`."""
    if len(text) > _SHORT or profile.lengths:
        _check_length(where, text, profile)
    return er7.escape(text)


def _check_length(where: str, text: str, profile: Profile) -> None:
    longest = profile.lengths.get(where) or LENGTHS[where]
    if len(text) > longest:
        raise NotConformant(where, f"{len(text)} characters where {longest} fit; the profile's [lengths] decides")


def required(where: str, text: str, profile: Profile) -> str:
    """The text escaped, if it is there and fits. Raises `NotConformant`."""
    if not text.strip():
        raise NotConformant(where, "required and empty")
    if er7.has_control(text):  # an identifier changed on the wire is another identifier
        raise NotConformant(where, "holds a control character")
    return within(where, text, profile)


def echoed(where: str, text: str) -> str:
    """Text that is in ER7 form already, as the order gave it; refused where it would break the segment."""
    if "|" in text or er7.has_control(text):
        raise NotConformant(where, "the order's own text holds a field separator or a control character")
    return text


def short_name(name: str) -> str:
    """A code's display name, or nothing where it does not fit: an official name may not be shortened, the code is enough."""
    return name if len(name) <= _NAME_LENGTH else ""


def status(where: str, letter: str, theirs: dict[str, str]) -> str:
    """Our status letter as this EHR writes it."""
    if letter not in _STATUSES:
        raise NotConformant(where, "the status is none of F, P, C, X, W")
    return er7.escape(theirs[letter]) if letter in theirs else letter


def flags(stated: tuple[str, ...], *, several: bool) -> str:
    """OBX-8. Raises `NotConformant` for a flag that table 0078 does not have."""
    if not stated:
        return ""
    if not _FLAGS.issuperset(stated):
        raise NotConformant("OBX-8", "a flag is not in table 0078")
    if len(stated) > 1 and not several:
        raise NotConformant("OBX-8", "this version takes one flag")
    return "~".join(stated)


def unit(ucum: str, profile: Profile) -> str:
    """OBX-6: this EHR's text for the unit, else the UCUM unit with its coding system."""
    if not ucum:
        return ""
    if ucum in profile.unit_text:
        return er7.escape(profile.unit_text[ucum])
    text = within("OBX-6", ucum, profile)
    return f"{text}^^{profile.unit_coding_system}" if profile.unit_coding_system else text


def specimen_type(text: str, profile: Profile) -> str:
    """SPM-4 as one or two triplets. Raises `NotConformant` where it is empty: SPM-4 is required."""
    return "^".join("^".join(code) for code in _specimen_codes(text, "HL70487", profile))


def specimen_source(text: str, profile: Profile) -> str:
    """OBR-15.1 of the older versions: the same codes as subcomponents; table 0070 was theirs."""
    return "&".join("&".join(code) for code in _specimen_codes(text, "HL70070", profile))


def _specimen_codes(text: str, table: str, profile: Profile) -> list[tuple[str, str, str]]:
    code, _, snomed = profile.specimen_types.get(text, text).strip().partition("SCT:")
    code, snomed = code.removesuffix("/").strip(), snomed.strip()
    if not code and not snomed:
        raise NotConformant("SPM-4", 'a specimen type is a code like "BLD", "SCT:258529004" or "BLD/SCT:122554006"')
    stated = ((within("SPM-4", code, profile), "", table), (within("SPM-4", snomed, profile), "", "SCT"))
    return [triplet for triplet in stated if triplet[0]]


def observation_value(
    value_type: str,
    value: str,
    comparator: str,
    profile: Profile,
    *,
    code: str = "",
    coding_system: str = "",
    cannot_be_obtained: bool = False,
) -> tuple[str, str]:
    """OBX-2 as this EHR takes it, and OBX-5. Raises `NotConformant` where the value is not of its type as stated."""
    if value_type not in _TYPES:
        raise NotConformant("OBX-2", "the value type is none of NM, SN, ST, TX, FT, CWE, ED")
    if not value:
        if not cannot_be_obtained:
            raise NotConformant("OBX-5", "required and empty: only a result that cannot be obtained has no value")
        return {"CWE": profile.coded_type, "FT": profile.text_type}.get(value_type, value_type), ""
    if value == er7.NULL:
        raise NotConformant("OBX-5", "two quotation marks would order the receiver to delete its value")
    if comparator not in _COMPARATORS:
        raise NotConformant("OBX-5", "the comparator is none of <, >, <=, >=")
    if value_type == "NM":
        return "NM", _number(value, comparator, profile)
    if value_type == "SN":
        return "SN", _structured(value, comparator, profile)
    if value_type in {"ST", "TX", "FT"}:
        return _text(value_type, comparator + value, profile)
    if value_type == "CWE":
        return _coded(value, comparator, profile, code, coding_system)
    return "ED", _document(value, comparator, profile)


def _number(value: str, comparator: str, profile: Profile) -> str:
    if comparator:
        raise NotConformant("OBX-5", "a number with a comparator is of type SN")
    if _NM(value) is None:
        raise NotConformant("OBX-5", "not a number as HL7 writes it; the catalog's value_type may be wrong")
    if len(value) > _SHORT or profile.lengths:
        _check_length("NM", value, profile)
    return value


def _structured(value: str, comparator: str, profile: Profile) -> str:
    """SN: `<20` is `<^20`, a titre `1:128` is `^1^:^128`; the characters of the value stay in their order."""
    parts = _SN(value)
    if parts is None:
        raise NotConformant("OBX-5", "not a structured number as HL7 writes it; the catalog's value_type may be wrong")
    first, separator, second = parts[1], parts[2] or "", parts[3] or ""
    if len(value) > _SHORT or profile.lengths:
        _check_length("SN", first, profile)
        _check_length("SN", second, profile)
    return f"{comparator}^{first}^{separator}^{second}".rstrip("^")


def _text(value_type: str, value: str, profile: Profile) -> tuple[str, str]:
    """Text as stated. In FT a line break is \\.br\\; in TX each line is a repetition; an ST has no lines."""
    if len(value) > _SHORT or profile.lengths:
        _check_length(value_type, value, profile)
    if value_type == "FT":
        value_type = profile.text_type
    if not er7.has_control(value):
        return value_type, er7.escape(value)
    stated = er7.lines(value)
    if value_type == "ST" or any(er7.has_control(line) for line in stated):
        raise NotConformant("OBX-5", "the text holds a control character")
    if value_type == "TX":
        return "TX", "~".join(map(er7.escape, stated))
    return "FT", er7.escape_formatted(value)


def _coded(value: str, comparator: str, profile: Profile, code: str, coding_system: str) -> tuple[str, str]:
    """CWE or CE: the answer's code where it has one, its text as stated always."""
    if comparator and code:
        raise NotConformant("OBX-5", "an answer with a code has no comparator")
    value = comparator + value
    if er7.has_control(value):
        raise NotConformant("OBX-5", "the text holds a control character")
    if len(value) > _SHORT or profile.lengths:
        _check_length("ST" if profile.coded_type == "ST" else "CWE", value, profile)
    text = er7.escape(value)
    if profile.coded_type == "ST":
        return "ST", text
    if code:
        return profile.coded_type, f"{within('OBX-3.1', code, profile)}^{text}^{er7.escape(coding_system)}"
    return profile.coded_type, f"^{text}"


def _document(value: str, comparator: str, profile: Profile) -> str:
    if comparator or _BASE64(value) is None:
        raise NotConformant("OBX-5", "a document goes as Base64 text")
    return f"^{profile.document_form}^Base64^{value}"
