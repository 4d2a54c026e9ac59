"""What the chart holds: the patient, the labelled specimen and the tests ordered on it. Fields follow HL7 v2's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime


@dataclass(frozen=True, slots=True)
class Patient:
    """A person as the order or the ADT feed states them; never as an instrument does."""

    mrn: str = field(repr=False)  # PID-3.1
    last_name: str = field(default="", repr=False)  # PID-5.1
    first_name: str = field(default="", repr=False)  # PID-5.2
    birth_date: date | None = field(default=None, repr=False)  # PID-7
    sex: str = ""  # PID-8, table 0001
    authority: str = ""  # PID-3.4
    account: str = field(default="", repr=False)  # PID-18
    patient_class: str = ""  # PV1-2, table 0004
    location: str = ""  # PV1-3
    visit: str = field(default="", repr=False)  # PV1-19


@dataclass(frozen=True, slots=True)
class OrderedTest:
    """One test that was asked for. The placer's number need not be unique by test: with facility and code it is."""

    code: str  # OBR-4.1, the order's own code (LOINC, CPT or local)
    name: str = ""  # OBR-4.2
    coding_system: str = ""  # OBR-4.3; "LN" for LOINC, "" for local
    placer_order: str = ""  # ORC-2 = OBR-2
    ordered_at: datetime | None = None  # aware
    provider: str = ""  # OBR-16, as the order gave it (id^last^first)


@dataclass(frozen=True, slots=True)
class Specimen:
    """A labelled specimen with what was ordered on it; for an EKG, which has no specimen, the labelled order itself."""

    specimen_id: str  # SPM-2: the text of the label
    patient: Patient
    tests: tuple[OrderedTest, ...]
    accession: str = ""
    specimen_type: str = ""  # SPM-4, table 0487
    collected_at: datetime | None = None  # aware; SPM-17, OBR-7
    collector: str = ""
    reference_lab: str = ""  # "" for a test that is run in-house
    issued: bool = False  # the label is one of ours and ends in its check character (ISO 7064 MOD 37,36)
    cancelled: bool = False
