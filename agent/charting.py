"""What an instrument said becomes what the chart holds: the one translation between the two, pure.

A value goes to the chart as stated or not at all. The catalog names it, the order tells for whom, the profile says how this EHR
wants it written. The same report, assignment and destination always give the same bytes under the same control id.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ..config.catalog import Catalog, Row
from ..drivers.report import Observation, Report
from ..hl7 import oru
from ..hl7.chart import OrderedTest, Specimen
from ..hl7.profile import Profile
from .readings import stated_number

# OBX-8, table 0078: which of an instrument's own marks say the same there. Others go as a note, in the instrument's words.
_FLAGS = {"L": "L", "H": "H", "LL": "LL", "HH": "HH", "A": "A", "*": "A", "N": "N"}
_IMPRESSION = "impression"  # the catalog's code for statements in words
_HAS_UNIT = frozenset({"NM", "SN"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Which report of which unit this is: control ids and filler numbers derive from it, so doing it again gives them again."""

    journal: str
    unit: int
    ordinal: int
    part: int = 0  # where one report answers several orders: which of them
    issue: int = 0  # how many messages were built for it before, and withdrawn or retracted

    def filler(self) -> str:
        """ORC-3, ours: the same on every resend and every correction of this result, another after a retraction."""
        return _derived(10, "filler", self.journal, self.unit, self.ordinal, self.issue)

    def control_id(self, destination: str, version: int, specimen_id: str) -> str:
        """MSH-10, 20 characters: one for life per destination, version and label."""
        return _derived(
            12, "control", self.journal, self.unit, self.ordinal, self.part, self.issue, destination, version, specimen_id
        )


def retraction_id(control_id: str) -> str:
    """MSH-10 of the retraction of the message with this control id, where that went out although it was withdrawn."""
    return _derived(12, "retraction", control_id)


def _derived(size: int, *parts: object) -> str:
    said = "\x1f".join(str(part) for part in parts)
    return base64.b32encode(hashlib.blake2b(said.encode(), digest_size=size).digest()).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Filing:
    """A report with everything the message needs beside it."""

    report: Report
    driver: str
    specimen: Specimen
    test: OrderedTest
    origin: Origin
    filler: str
    version: int
    heard_at: datetime  # aware; MSH-7 and OBR-22
    observed_at: datetime  # aware; the instrument's time where it stated one, else the time heard
    facility: str
    retracts: bool = False  # it was posted here for the wrong patient
    notes: tuple[str, ...] = ()  # what the clinic must be able to read beside the values, e.g. a clock that is off


def message(filing: Filing, catalog: Catalog, destination: str, profile: Profile) -> tuple[str, bytes]:
    """The control id and the bytes of this result for this destination. Raises `oru.NotConformant`."""
    control_id = filing.origin.control_id(destination, filing.version, filing.specimen.specimen_id)
    content = _content(filing, catalog, control_id)
    if filing.retracts:
        content = oru.retraction(content)
    elif filing.version > 1:
        content = oru.correction(content)
    return control_id, oru.build(content, profile)


def _content(filing: Filing, catalog: Catalog, control_id: str) -> oru.OruContent:
    report, specimen, test = filing.report, filing.specimen, filing.test
    rows = [(one, catalog.find(filing.driver, one.code, one.unit)) for one in report.observations]
    observations = [_observation(report, one, row) for one, row in rows]
    if report.impression:
        observations.append(_impression(report, catalog.find(filing.driver, _IMPRESSION, "")))
    kinds = [row.specimen_type for _, row in rows if row is not None]
    return oru.OruContent(
        control_id=control_id,
        sent_at=filing.heard_at,
        sending_facility=filing.facility,
        patient=specimen.patient,
        order=oru.ChartOrder(
            filler_order=filing.filler,
            placer_order=test.placer_order,
            code=test.code,
            name=test.name,
            coding_system=test.coding_system,
            provider=test.provider,
            observed_at=(specimen.collected_at or filing.observed_at) if any(kinds) else filing.observed_at,
            reported_at=filing.heard_at,
            status=report.status,
        ),
        observations=tuple(observations),
        specimen=_specimen(specimen, kinds, filing),
        notes=filing.notes + report.remarks,
    )


def _specimen(specimen: Specimen, kinds: Sequence[str], filing: Filing) -> oru.ChartSpecimen | None:
    kind = specimen.specimen_type or next((kind for kind in kinds if kind), "")
    if not any(kinds):
        return None  # an EKG: what was labelled is the order itself
    return oru.ChartSpecimen(
        specimen_id=specimen.specimen_id,
        specimen_type=kind,
        collected_at=specimen.collected_at or filing.observed_at,
    )


def _observation(report: Report, said: Observation, row: Row | None) -> oru.ChartObservation:
    """One value by its catalog row. The row is there: a code or unit without one was held before."""
    if row is None:
        raise oru.NotConformant("OBX-3", f"{said.code} in {said.unit or 'no unit'} is not in the catalog")
    flags = _flags(said, row)
    value_type = "SN" if row.value_type == "NM" and said.comparator else row.value_type
    return oru.ChartObservation(
        value_type=value_type,
        value=said.value,
        comparator=said.comparator,
        loinc=row.loinc,
        loinc_name=row.name,
        vendor_code=said.code,
        vendor_name=said.name,
        unit=row.ucum if value_type in _HAS_UNIT else "",
        flags=flags,
        status=report.status,
        analysed_at=None,
        operator=report.operator,
        device_model=report.model,
        device_serial=report.serial_number,
        notes=(said.note,) if said.note else (),
    )


def _flags(said: Observation, row: Row) -> tuple[str, ...]:
    """OBX-8: a critical value is flagged by the catalog's limits; else the first of the instrument's own marks."""
    number = stated_number(said)
    if number is not None and row.is_critical(number):
        return ("LL" if row.critical_low is not None and number <= row.critical_low else "HH",)
    marks = said.flag.replace("\\", "/").split("/")
    return tuple(_FLAGS[mark] for mark in marks if mark in _FLAGS)[:1]


def _impression(report: Report, row: Row | None) -> oru.ChartObservation:
    """Statements in words, line by line. An unread machine statement says of itself that it is preliminary: its status is P."""
    if row is None:
        raise oru.NotConformant("OBX-3", "the catalog has no row for the impression of this instrument")
    return oru.ChartObservation(
        value_type=row.value_type,
        value="\n".join(report.impression),
        loinc=row.loinc,
        loinc_name=row.name,
        vendor_code=_IMPRESSION,
        status=report.status,
        device_model=report.model,
        device_serial=report.serial_number,
    )
