r"""An ORU^R01 carries one order's results into the chart: the patient and order as ordered, the values as the instrument said.

    MSH|^~\&|CHARTBOUND|RIVERSIDE|||20240501081533-0500||ORU^R01^ORU_R01|9F3K2A1|P|2.5.1||||||UNICODE UTF-8
    PID|1||4711^^^RIVERSIDE^MR||DOE^JANE||19700102|F
    ORC|RE|P-1001|9F3K2A1
    OBR|1|P-1001|9F3K2A1|41653-7^Glucose^LN|||20240501081530-0500|||||||||||||||20240501081533-0500|||F
    OBX|1|NM|41653-7^…^LN^GLU^Glucose^L||105|mg/dL^^UCUM|||||F|||20240501081530-0500|…
    SPM|1|S-1||BLD^^HL70487

`build` is pure: the same content and profile give the same bytes. It is also the last look at every value: what HL7 v2 cannot
carry as stated is refused (`NotConformant`), never changed. Segments and fields: HL7 v2.5.1 chapter 7, 7.3.1 and 7.4; the
clause numbers and field lengths are from memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from . import er7, values
from .chart import Patient
from .profile import Profile, Site
from .values import NotConformant

__all__ = [
    "ChartObservation",
    "ChartOrder",
    "ChartSpecimen",
    "NotConformant",
    "OruContent",
    "build",
    "correction",
    "retraction",
    "retraction_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartObservation:
    """One value for the chart: OBX and the NTEs under it. Either `loinc` or `vendor_code` is needed."""

    value_type: str  # OBX-2: NM, SN, ST, TX, FT, CWE or ED
    value: str = field(repr=False)  # as stated; of an ED the Base64 text of a PDF; "" only where `status` is X
    comparator: str = ""  # "<", ">", "<=" or ">="; with SN, or in front of text
    value_code: str = ""  # of a CWE whose answer has a code …
    value_coding_system: str = ""  # … of this system
    loinc: str = ""
    loinc_name: str = ""
    vendor_code: str = ""
    vendor_name: str = ""
    unit: str = ""  # UCUM
    reference_range: str = ""
    flags: tuple[str, ...] = ()  # OBX-8, table 0078
    status: str = "F"  # OBX-11 before the profile's own: F, P, C, X, W
    sub_id: str = ""  # OBX-4, tells repeats apart
    observed_at: datetime | None = None  # aware; None: the order's
    analysed_at: datetime | None = None  # aware
    operator: str = field(default="", repr=False)
    device_model: str = ""
    device_serial: str = ""
    notes: tuple[str, ...] = field(default=(), repr=False)  # one NTE each


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartOrder:
    """The one order that a message answers: ORC and OBR."""

    filler_order: str  # ours: the same on every resend and correction
    code: str  # from the order
    observed_at: datetime  # aware; OBR-7, collection or observation
    reported_at: datetime  # aware; OBR-22
    placer_order: str = ""  # "" only where nothing was ordered
    name: str = ""
    coding_system: str = ""  # "LN" for LOINC; "": the profile's local one
    provider: str = field(default="", repr=False)  # OBR-16 in ER7 form, as the order gave it
    received_at: datetime | None = None  # aware; OBR-14
    status: str = "F"  # OBR-25 before the profile's own


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartSpecimen:
    """The labelled specimen; an EKG has none.

    A type is a code of table 0487, `SCT:` and a SNOMED CT code, or one of each joined by a slash: `BLD/SCT:122554006`.
    """

    specimen_id: str
    specimen_type: str
    collected_at: datetime | None = None  # aware


@dataclass(frozen=True, slots=True, kw_only=True)
class OruContent:
    """Everything one message says. Applications and receiving facility left empty are the profile's."""

    control_id: str  # MSH-10, for life
    sent_at: datetime  # aware; MSH-7, the time the result was heard: doing it again gives the same bytes
    sending_facility: str
    patient: Patient
    order: ChartOrder
    observations: tuple[ChartObservation, ...]
    specimen: ChartSpecimen | None = None
    notes: tuple[str, ...] = field(default=(), repr=False)  # NTE under OBR
    performing_site: Site | None = None  # None: the profile's, else the sending facility by name
    processing_id: str = ""  # "": the profile's
    sending_application: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""


def correction(content: OruContent) -> OruContent:
    """The same results as replacements of what was posted under this filler number (table 0085 and 0123: C)."""
    return _restated(content, observation="C", result="C")


def retraction(content: OruContent) -> OruContent:
    """What was posted, said to be of the wrong patient (table 0085: W). Table 0123 has no W: OBR-25 says corrected."""
    return _restated(content, observation="W", result="C")


def retraction_of(message: bytes, control_id: str, profile: Profile) -> bytes:
    """The retraction of a message that `build` made: the same under another control id, said to be the wrong patient's."""
    segments = [segment.split(b"|") for segment in message.split(b"\r")]
    for fields in segments:
        match fields[0]:
            case b"MSH":
                fields[9] = control_id.encode("ascii")
            case b"OBR":
                fields[25] = values.status("OBR-25", "C", profile.result_status).encode(profile.codec)
            case b"OBX" if fields[11] != b"X":  # X: there never was a value to restate
                fields[11] = values.status("OBX-11", "W", profile.observation_status).encode(profile.codec)
    return b"\r".join(b"|".join(fields) for fields in segments)


def _restated(content: OruContent, observation: str, result: str) -> OruContent:
    observations = tuple(
        each if each.status == "X" else replace(each, status=observation)  # X: there never was a value to restate
        for each in content.observations
    )
    return replace(content, observations=observations, order=replace(content.order, status=result))


class _Version(NamedTuple):
    """What a version of HL7 has a place for."""

    structure: str  # MSH-9.3, from 2.3.1 on
    device: bool  # OBX-18 and OBX-19, from 2.4 on
    several_flags: bool  # does OBX-8 repeat


_VERSIONS = {
    "2.5.1": _Version("^ORU_R01", device=True, several_flags=True),
    "2.4": _Version("^ORU_R01", device=True, several_flags=False),
    "2.3": _Version("", device=False, several_flags=True),
}


class _Common(NamedTuple):
    """What every OBX of a message shares, in ER7 form."""

    profile: Profile
    version: _Version
    observed_at: str
    site_id: str  # OBX-15
    site: str  # OBX-20 to 24 with their separators


def build(content: OruContent, profile: Profile) -> bytes:
    """One ORU^R01 without MLLP framing, in the profile's character set, each segment ended by a carriage return.

    Raises `NotConformant` for what the message cannot carry as stated, ValueError for a time without a zone.
    """
    version = _VERSIONS[profile.version]
    segments = [_msh(content, profile, version), _pid(content.patient, profile)]
    if visit := _pv1(content.patient):
        segments.append(visit)
    segments += _order(content, profile)
    segments += _notes(content.notes)
    if not content.observations:
        raise NotConformant("OBX", "a report without an observation has nothing to chart")
    common = _Common(profile, version, er7.timestamp(content.order.observed_at), *_performing_site(content, profile))
    for number, observation in enumerate(content.observations, start=1):
        segments.append(_obx(number, observation, common))
        if observation.notes:
            segments += _notes(observation.notes)
    if content.specimen is not None and profile.specimen_in == "SPM":
        segments.append(_spm(content.specimen, profile))
    segments.append("")
    try:
        return er7.SEGMENT_END.join(segments).encode(profile.codec)
    except UnicodeEncodeError:
        hint = f"a character is not in {profile.character_set or 'ASCII'}; the profile's character_set decides"
        raise NotConformant("MSH-18", hint) from None


def _msh(content: OruContent, profile: Profile, version: _Version) -> str:
    enhanced = "AL" if profile.acknowledgment == "enhanced" else ""
    return er7.segment(
        "MSH",
        "^~\\&",
        er7.components(content.sending_application or profile.sending_application),
        er7.components(content.sending_facility),
        er7.components(content.receiving_application or profile.receiving_application),
        er7.components(content.receiving_facility or profile.receiving_facility),
        er7.timestamp(content.sent_at),
        "",
        f"ORU^{profile.event}{version.structure}",
        values.required("MSH-10", content.control_id, profile),
        er7.escape(content.processing_id) or profile.processing_id,
        profile.version,
        "",
        "",
        enhanced,  # MSH-15
        enhanced,  # MSH-16
        "",
        profile.character_set,
    )


def _pid(patient: Patient, profile: Profile) -> str:
    mrn = values.required("PID-3.1", patient.mrn, profile)
    return er7.segment(
        "PID",
        "1",
        "",
        f"{mrn}^^^{values.echoed('PID-3.4', patient.authority)}^MR",
        "",
        f"{values.required('PID-5.1', patient.last_name, profile)}^{er7.escape(patient.first_name)}".rstrip("^"),
        "",
        er7.day(patient.birth_date) if patient.birth_date else "",
        er7.escape(patient.sex),
        *[""] * 9,
        er7.escape(patient.account),  # PID-18
    )


def _pv1(patient: Patient) -> str:
    if not (patient.patient_class or patient.location or patient.visit):
        return ""
    return er7.segment(
        "PV1",
        "1",
        er7.escape(patient.patient_class) or "U",  # required; table 0004: unknown
        values.echoed("PV1-3", patient.location),
        *[""] * 15,
        er7.escape(patient.visit),  # PV1-19
    )


def _order(content: OruContent, profile: Profile) -> list[str]:
    order, specimen = content.order, content.specimen
    placer = values.within("OBR-2", order.placer_order, profile)
    filler = values.required("OBR-3", order.filler_order, profile)
    name = er7.escape(values.short_name(order.name))
    code = values.required("OBR-4.1", order.code, profile)
    source = ""
    if specimen is not None and profile.specimen_in == "OBR-15":
        source = values.specimen_source(specimen.specimen_type, profile)
    result = er7.segment(
        "OBR",
        "1",
        placer,
        filler,
        f"{code}^{name}^{er7.escape(order.coding_system or profile.local_coding_system)}",
        "",
        "",
        er7.timestamp(order.observed_at),  # OBR-7
        *[""] * 6,
        er7.timestamp(order.received_at) if order.received_at else "",  # OBR-14
        source,  # OBR-15
        values.echoed("OBR-16", order.provider),
        *[""] * 5,
        er7.timestamp(order.reported_at),  # OBR-22
        "",
        "",
        values.status("OBR-25", order.status, profile.result_status),
    )
    return [er7.segment("ORC", "RE", placer, filler), result]


def _notes(notes: tuple[str, ...]) -> list[str]:
    """One NTE each; L: the source is the laboratory's (filler's) system, table 0105."""
    return [f"NTE|{number}|L|{er7.escape_formatted(note)}" for number, note in enumerate(notes, start=1)]


def _obx(number: int, observation: ChartObservation, common: _Common) -> str:
    profile, version = common.profile, common.version
    value_type, value = values.observation_value(
        observation.value_type,
        observation.value,
        observation.comparator,
        profile,
        code=observation.value_code,
        coding_system=observation.value_coding_system,
        cannot_be_obtained=observation.status == "X",
    )
    observed = common.observed_at if observation.observed_at is None else er7.timestamp(observation.observed_at)
    analysed = observation.analysed_at
    head = (
        f"OBX|{number}|{value_type}|{_identifier(observation, profile)}|{values.within('OBX-4', observation.sub_id, profile)}"
        f"|{value}|{values.unit(observation.unit, profile)}|{values.within('OBX-7', observation.reference_range, profile)}"
        f"|{values.flags(observation.flags, several=version.several_flags)}|||"
        f"{values.status('OBX-11', observation.status, profile.observation_status)}|||"
        f"{observed}|{common.site_id}|{er7.escape(observation.operator)}"
    )
    if not version.device:
        return head.rstrip("|")
    device = er7.escape(observation.device_model)
    if observation.device_serial:
        device += "^" + er7.escape(observation.device_serial)
    tail = f"||{device}|{er7.timestamp(analysed) if analysed is not None else ''}{common.site}"
    return (head + tail).rstrip("|")


def _identifier(observation: ChartObservation, profile: Profile) -> str:
    """OBX-3: LOINC and the instrument's own code, in the profile's order."""
    loinc = vendor = ""
    if observation.loinc:
        name = er7.escape(values.short_name(observation.loinc_name))
        loinc = f"{values.within('OBX-3.1', observation.loinc, profile)}^{name}^LN"
    if observation.vendor_code:
        name = er7.escape(values.short_name(observation.vendor_name))
        vendor = f"{values.within('OBX-3.4', observation.vendor_code, profile)}^{name}^{profile.local_coding_system}"
    if loinc and vendor:
        return f"{loinc}^{vendor}" if profile.code_order == "loinc_first" else f"{vendor}^{loinc}"
    if not (loinc or vendor):
        raise NotConformant("OBX-3", "the observation has neither a LOINC nor an instrument's code; see the catalog")
    return loinc or vendor


def _performing_site(content: OruContent, profile: Profile) -> tuple[str, str]:
    """OBX-15, and OBX-20 to 24 with their separators: the laboratory by the profile's choice of field."""
    site = content.performing_site or profile.performing_site
    name = er7.escape(site.name or content.sending_facility.partition("^")[0])
    if profile.performing_site_in == "OBX-15":  # CE
        return (f"{site.clia}^{name}^CLIA" if site.clia else f"{name}^{name}"), ""
    if profile.performing_site_in == "none":
        return "", ""
    organization = f"{name}^^^^^CLIA&2.16.840.1.113883.4.7&ISO^XX^^^{site.clia}" if site.clia else name  # XON
    address = "^".join(map(er7.escape, (site.street, "", site.city, site.state, site.postal_code))).rstrip("^")  # XAD
    return "", f"||||{organization}|{address}"


def _spm(specimen: ChartSpecimen, profile: Profile) -> str:
    return er7.segment(
        "SPM",
        "1",
        values.required("SPM-2", specimen.specimen_id, profile),
        "",
        values.specimen_type(specimen.specimen_type, profile),
        *[""] * 12,
        er7.timestamp(specimen.collected_at) if specimen.collected_at else "",  # SPM-17
    )
