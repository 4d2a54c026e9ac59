"""The EKG as a Philips cart writes it: measurements, the statements in words, the patient and the order typed at the cart.

    <restingecgdata xmlns="http://www3.medical.philips.com" status="New">
      <documentinfo><documentname>b8359e00….xml</documentname><documenttype>PhilipsECG</documenttype>
                    <documentversion>1.04.01</documentversion></documentinfo>
      <dataacquisition date="2020-05-18" time="15:48:11"><machine machineid="US71621374">PageWriter TC</machine>…
      <interpretations><interpretation><globalmeasurements><heartrate>64</heartrate><print>164</print>…
        <statement><leftstatement>Sinus rhythm</leftstatement><rightstatement>V-rate 50-99</rightstatement></statement>

Versions 1.03 (Sierra) and 1.04 (Philips) differ in the names of tags; both are told here in one vocabulary, that of 1.04. The
places and names were read in real files of both. What is not read, on purpose: `internalmeasurements`, `measurements` and
`groupmeasurements` (the same tags with the values before the overread) and `interpretationdatastructure` (templates with
`***`, and statements that an editor has deleted).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from xml.etree.ElementTree import Element  # the type alone

from ..driver import UnreadableReport
from ..report import Observation, Report, SampleKind, is_control_id

# code (the 1.04 tag) -> tag in 1.03 ("" where 1.03 has none), unit. No file states a unit: these are fixed by the form.
MEASUREMENTS = {
    "heartrate": ("heartrate", "bpm"),
    "print": ("meanprint", "ms"),
    "qrsdur": ("meanqrsdur", "ms"),
    "qtint": ("meanqtint", "ms"),
    "qtc": ("meanqtc", "ms"),  # 1.03 alone, which does not say by which formula
    "qtcb": ("", "ms"),  # Bazett
    "qtcf": ("", "ms"),  # Fridericia
    "pfrontaxis": ("pfrontaxis", "deg"),
    "qrsfrontaxis": ("qrsfrontaxis", "deg"),
    "tfrontaxis": ("tfrontaxis", "deg"),
}
_NAMES = {"qtcb": "QTc (Bazett)", "qtcf": "QTc (Fridericia)"}

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_VERSION = re.compile(r"1\.0[34](\.[0-9]{1,4})?")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?")
_NOT_A_PATIENT = re.compile(r"\b(demo|demonstration|simulat\w*)\b", re.IGNORECASE)
_UNREAD = ("unconfirmed", "preliminary")


def read(root: Element, patient_id_field: str, order_number_field: str, control_ids: Sequence[str]) -> Report:
    """The one report of this file. Times are the cart's local clock; durations are ms, the rate per minute, axes degrees.

    Raises `UnreadableReport` for a version other than 1.03 and 1.04. An interpretation that is missing, or of which there are
    several and nothing says which stands, is the report's `problem`.
    """
    version = _version(root)
    remarks: list[str] = []
    acquisition = _at(root, "dataacquisition")
    machine = _at(acquisition, "machine")
    person = _at(root, "patient/generalpatientdata")
    serial_number = _attribute(machine, "machineid")
    document = _text(root, "documentinfo/documentname")
    observed_at, precision = _time(acquisition, remarks)
    patient_id = _text(person, patient_id_field)
    observations: tuple[Observation, ...] = ()
    impression: tuple[str, ...] = ()
    confirmed, problem = False, ""
    try:
        interpretation = _one(root, "interpretations/interpretation")
        if interpretation is None:
            problem = "the file holds no interpretation, so neither measurements nor statements"
        else:
            confirmed = _is_confirmed(root, interpretation)
            observations = _observations(interpretation, version, remarks)
            impression = _impression(interpretation, confirmed)
    except UnreadableReport as unreadable:
        problem = str(unreadable)
    return Report(
        kind=_kind(root, machine, patient_id, control_ids),
        kind_by_id=is_control_id(patient_id, control_ids),
        observations=observations,
        observed_at=observed_at,
        precision=precision,
        identity=_identity(serial_number, acquisition, observed_at, document),
        model=_own_text(machine),
        serial_number=serial_number,
        panel="12-lead",
        order_number=_text(root, f"orderinfo/{order_number_field}"),
        patient_id=patient_id,
        last_name=_text(person, "name/lastname"),
        first_name=_text(person, "name/firstname"),
        birth_date=_birth_date(person, remarks),
        sex=_text(person, "sex"),
        operator=_attribute(_at(acquisition, "acquirer/operator"), "id") or _text(acquisition, "acquirer/operatorid"),
        status="F" if confirmed else "P",
        impression=impression,
        remarks=tuple(remarks),
        problem=problem,
    )


def _version(root: Element) -> str:
    kind, version = _text(root, "documentinfo/documenttype"), _text(root, "documentinfo/documentversion")
    if kind in {"SierraECG", "PhilipsECG"} and _VERSION.fullmatch(version):
        return version[:4]
    hint = "this version of the Philips form is not read; set the cart or its server to export XML 1.03 or 1.04"
    raise UnreadableReport("documentinfo/documentversion", hint)


def _observations(interpretation: Element, version: str, remarks: list[str]) -> tuple[Observation, ...]:
    measured = _one(interpretation, "globalmeasurements" if version == "1.04" else "interpretationmeasurements")
    found = []
    for code, (old_tag, unit) in MEASUREMENTS.items():
        tag = old_tag if version == "1.03" else "" if code == "qtc" else code
        element = _one(measured, tag) if tag else None
        value = _own_text(element)
        if not value:
            continue
        if value in {"Indeterminate", "Failed"}:
            remarks.append(f"{code}: {value}")
        elif not _NUMBER.fullmatch(value):
            raise UnreadableReport(tag, "it holds neither a number nor Indeterminate or Failed")
        elif unit != "deg" and not value.strip("+-0."):
            remarks.append(f"{code}: {value}, which is not a measurement")  # an axis may be 0, a rate or a time may not
        else:
            note = "edited by a person" if _attribute(element, "editedflag").lower() == "true" else ""
            name = _NAMES.get(code, tag if tag != code else "")
            found.append(Observation(code=code, value=value, unit=unit, name=name, note=note))
    return tuple(found)


def _impression(interpretation: Element, confirmed: bool) -> tuple[str, ...]:
    """The statements as printed on the sheet, the severity, and who has or has not read them, one line each."""
    signature = _text(interpretation, "mdsignatureline")
    statements = (
        "; ".join(filter(None, (_text(statement, "leftstatement"), _text(statement, "rightstatement"))))
        for statement in _all(interpretation, "statement")
        if _attribute(statement, "deleted").lower() != "true"
    )
    lines = [line for line in (*statements, _text(interpretation, "severity"), signature) if line]
    if lines and not confirmed and not any(word in signature.lower() for word in _UNREAD):
        lines.append("Unconfirmed")  # a machine's statement that no physician has read must never look like one that was read
    return tuple(lines)


def _is_confirmed(root: Element, interpretation: Element) -> bool:
    signature = _text(interpretation, "mdsignatureline").lower()
    return _attribute(root, "status") == "Confirmed" and bool(signature) and not any(word in signature for word in _UNREAD)


def _identity(serial_number: str, acquisition: Element | None, observed_at: datetime | None, document: str) -> tuple[str, ...]:
    # The document's name is the one the cart gave when it recorded; it was still there in a file that a server had
    # translated and a physician had edited and confirmed, so an edited EKG is found to be a correction of the first.
    if serial_number and observed_at is not None:
        stated = (serial_number, _attribute(acquisition, "date"), _attribute(acquisition, "time"))
        return (*stated, document) if document else stated
    return (document,) if document else ()


def _kind(root: Element, machine: Element | None, patient_id: str, control_ids: Sequence[str]) -> SampleKind:
    """A tracing of the cart's simulator or demonstration must not be taken for a patient's; no text says how it is marked."""
    if is_control_id(patient_id, control_ids):
        return SampleKind.CONTROL
    said = (
        _own_text(machine),
        _attribute(machine, "detaildescription"),
        _text(root, "reportinfo/reportlabel"),
        _text(root, "reportinfo/reportdescription"),
        patient_id,
    )
    return SampleKind.UNKNOWN if any(map(_NOT_A_PATIENT.search, said)) else SampleKind.PATIENT


def _time(acquisition: Element | None, remarks: list[str]) -> tuple[datetime | None, timedelta]:
    day, time = _attribute(acquisition, "date"), _attribute(acquisition, "time")
    try:
        stated = datetime.fromisoformat(f"{day}T{time}") if _CLOCK.fullmatch(time) else None
    except ValueError:
        stated = None
    if stated is None:
        remarks.append("the file states no valid time of acquisition")
    return stated, timedelta(minutes=1) if time.count(":") == 1 else timedelta(seconds=1)


def _birth_date(person: Element | None, remarks: list[str]) -> date | None:
    stated = _text(person, "age/dateofbirth")
    if not stated:
        return None
    try:
        return date.fromisoformat(stated)
    except ValueError:
        remarks.append("the date of birth cannot be read")
        return None


# The form's tags are all in one namespace; a path here is written without it.


def _path(path: str) -> str:
    return "/".join(f"{{*}}{tag}" for tag in path.split("/"))


def _at(parent: Element | None, path: str) -> Element | None:
    return None if parent is None else parent.find(_path(path))


def _all(parent: Element | None, path: str) -> list[Element]:
    return [] if parent is None else parent.findall(_path(path))


def _one(parent: Element | None, path: str) -> Element | None:
    """The only element of this name. Two that do not say the same are a doubt that nobody here may settle."""
    found = _all(parent, path)
    if len(found) > 1 and (any(map(len, found)) or len({_own_text(element) for element in found}) > 1):
        raise UnreadableReport(path, f"the file holds {len(found)}, and nothing says which of them stands")
    return found[0] if found else None


def _text(parent: Element | None, path: str) -> str:
    return _own_text(_at(parent, path))


def _own_text(element: Element | None) -> str:
    return "" if element is None else _said(element.text)


def _attribute(element: Element | None, name: str) -> str:
    return "" if element is None else _said(element.get(name))


def _said(text: str | None) -> str:
    """The text in one line; an empty tag and `---` are the form's two ways of saying nothing."""
    words = " ".join((text or "").split())
    return "" if words and not words.strip("-") else words
