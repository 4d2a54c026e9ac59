"""What an instrument says of one test on one specimen, in its own words and in its own local time.

Nothing here is matched, converted or judged: that is the agent's work. A value is kept as text, exactly as stated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase


class SampleKind(StrEnum):
    """What was in the instrument. Only `PATIENT` may ever reach a chart."""

    PATIENT = "patient"
    CONTROL = "control"
    CALIBRATION = "calibration"
    LINEARITY = "linearity"
    PROFICIENCY = "proficiency"
    ERROR = "error"  # the instrument says that it could not measure; there is no value
    UNKNOWN = "unknown"


def is_control_id(stated_id: str, patterns: Iterable[str]) -> bool:
    """Whether an id is one that staff type for controls: `QC*`, `CONTROL-?`, in any case of letters; "" is no id at all."""
    return any(fnmatchcase(stated_id.upper(), pattern.upper()) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Observation:
    """One value as the instrument stated it: `<5.6 %` is comparator "<", value "5.6", unit "%"."""

    code: str  # the instrument's own code for the analyte, the catalog's `vendor_code`
    value: str = field(repr=False)  # the text of the value without comparator and unit; "Trace-intact" stays so
    unit: str = ""  # as stated; "" where the instrument states none
    comparator: str = ""  # "", "<", ">", "<=" or ">="
    flag: str = ""  # the instrument's own flags as stated: "H", "*", "<\\T"
    name: str = ""  # the instrument's own name of the analyte, where it says one beside the code
    raw: str = field(default="", repr=False)  # the text this was read from, where decoding changed its form
    note: str = field(default="", repr=False)  # what the instrument remarks on this value


@dataclass(frozen=True, slots=True)
class Report:
    """One test on one specimen, as the instrument stated it.

    `identity` names the fields by which the instrument says the same result twice: serial and record number, else time, test
    and ordinal among equals; never the patient id. Empty: repeats cannot be told, and every report stands for itself.
    """

    kind: SampleKind
    observations: tuple[Observation, ...]
    kind_by_id: bool = False  # that it is a control the instrument did not say: its id fits one of the site's `control_ids`
    observed_at: datetime | None = None  # naive: the instrument's local clock; None: it stated no (valid) time
    precision: timedelta = timedelta(seconds=1)  # of that clock: a minute where seconds are not shown
    clock: datetime | None = None  # naive: the instrument's clock at the moment of this contact, where it tells
    identity: tuple[str, ...] = ()
    sequence: int | None = None  # a running number of the instrument; a gap is an alarm
    model: str = ""  # as the instrument names itself
    serial_number: str = ""
    panel: str = ""  # the instrument's own name of the whole test: "HbA1c", "Multistix 10 SG", "12-lead"
    specimen_id: str = field(default="", repr=False)  # a label read or typed at the instrument
    order_number: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    last_name: str = field(default="", repr=False)
    first_name: str = field(default="", repr=False)
    birth_date: date | None = field(default=None, repr=False)
    sex: str = ""
    operator: str = ""
    lot: str = ""  # of the reagent, strip or control
    lot_expiry: str = ""  # as stated
    status: str = "F"  # table 0123: F final, P preliminary (unconfirmed), C corrected, X cannot be obtained
    impression: tuple[str, ...] = field(default=(), repr=False)  # statements in words (EKG), line by line
    remarks: tuple[str, ...] = field(default=(), repr=False)  # comments of the instrument on the whole test
    problem: str = ""  # what in this report could not be read; such a report is `unreadable`, the others of its unit are not
