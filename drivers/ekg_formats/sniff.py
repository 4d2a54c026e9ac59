"""Which maker's EKG file is this? The content answers; the name of a file says nothing.

Carts write their files in quite different forms, XML as UTF-8, ISO-8859-1 or UTF-16, so the bytes are looked at and never a
decoded text:

    <restingecgdata xmlns="http://www3.medical.philips.com" …>     Philips Sierra XML
    <!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>…        GE MUSE XML: a DOCTYPE is allowed, and never fetched
    bytes 16 to 21 = "SCPECG"                                      SCP-ECG

Entities and declarations inside a file are refused: an EKG needs none, and a few bytes of them can fill a PC's memory.
Roots, namespaces and marks were seen in real files of Philips, GE, HL7 aECG, SCP and DICOM; those of Mortara and Schiller are
taken from other programs' readers, the PDF's from memory of ISO 32000.
"""

from __future__ import annotations

from enum import StrEnum
from xml.etree.ElementTree import Element  # the type alone: every byte is read by defusedxml

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError

from ..driver import UnreadableReport


class Format(StrEnum):
    """The forms in which EKG carts and their servers drop files, in the words people know them by."""

    PHILIPS = "Philips Sierra XML"
    MUSE = "GE MUSE XML"
    AECG = "HL7 aECG"
    MORTARA = "Mortara ELI XML"
    SCHILLER = "Schiller XML"
    SCP = "SCP-ECG"
    DICOM = "DICOM"
    PDF = "PDF"


_ROOTS = {  # (namespace, local name) of the root element
    ("http://www3.medical.philips.com", "restingecgdata"): Format.PHILIPS,
    ("", "RestingECG"): Format.MUSE,
    ("urn:hl7-org:v3", "AnnotatedECG"): Format.AECG,
    ("", "com.xiriuz.sema.xml.schillerEDI.SchillerEDI"): Format.SCHILLER,
}


class _Refused(Exception):
    """The XML declares something of its own, which no EKG does."""


def recognise(data: bytes) -> tuple[Format, Element | None]:
    """The form of this file and, where it is XML, its root element.

    Raises `UnreadableReport` where the bytes are no EKG that we know, broken XML, or XML that declares entities.
    """
    if (binary := _binary(data)) is not None:
        return binary, None
    try:
        root = _parse(data)
    except (_Refused, DefusedXmlException):
        where, hint = "the file's head", "it declares entities or elements of its own, which is refused; export the EKG again"
        raise UnreadableReport(where, hint) from None
    except (ParseError, ValueError, LookupError) as broken:
        line = f"line {broken.position[0]}" if isinstance(broken, ParseError) else "the first line"
        hint = "this is not the whole XML of an EKG; export it again, or remove the file if it is something else"
        raise UnreadableReport(line, hint) from None
    namespace, _, name = root.tag.rpartition("}")
    form = _ROOTS.get((namespace.removeprefix("{"), name))
    if form is None and root.tag == "ECG" and root.find("CHANNEL") is not None:
        form = Format.MORTARA
    if form is None:
        raise UnreadableReport("the root element", "this XML is no EKG of a known maker")
    return form, root


def is_whole(data: bytes) -> bool:
    """Whether all of the file is there, by its own form: XML to its closing root tag, SCP by its length, PDF by its end mark.

    What will be refused whatever may follow counts as whole, so that it is refused and shown.
    """
    match _binary(data):
        case Format.SCP:
            return len(data) >= int.from_bytes(data[2:6], "little")
        case Format.PDF:
            return b"%%EOF" in data[-1024:]
        case Format.DICOM:
            return True
    try:
        _parse(data)
    except (_Refused, DefusedXmlException):
        return True
    except (ParseError, ValueError, LookupError):
        return False
    return True


def _binary(data: bytes) -> Format | None:
    if data[16:22] == b"SCPECG":
        return Format.SCP
    if data[128:132] == b"DICM":
        return Format.DICOM
    if data.startswith(b"%PDF-"):
        return Format.PDF
    return None


def _parse(data: bytes) -> Element:
    parser = DefusedXMLParser(forbid_dtd=False, forbid_entities=True, forbid_external=True)
    parser.parser.StartDoctypeDeclHandler = _doctype
    parser.feed(data)
    root: Element = parser.close()
    return root


def _doctype(_name: str, _system: str | None, _public: str | None, has_internal_subset: int) -> None:
    # An attribute's default value, declared once, is a copy in memory for each element: a bomb without any entity.
    if has_internal_subset:
        raise _Refused
