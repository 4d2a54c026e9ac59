"""A profile says what one EHR expects of the same result: HL7 version, field choices, codes, and how it answers.

Each EHR has one file, `config/profiles/<name>.toml` or one beside the site file; a site edits it without us. Every key has a
default, and `config/profiles/default.toml` explains them all.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Version = Literal["2.5.1", "2.4", "2.3"]
OrderField = Literal["SPM-2", "OBR-3", "OBR-2"]
PatientField = Literal["PID-3", "PID-2", "PID-4"]
AfterRefusal = Literal["person", "retry"]
Er7Name = Annotated[str, Field(max_length=227, pattern=r"^[^|~\\\x00-\x1f\x7f]*$")]

CODECS = {"UNICODE UTF-8": "utf-8", "8859/1": "iso8859-1", "8859/15": "iso8859-15", "ASCII": "ascii", "": "ascii"}  # table 0211

_CAPILLARY = {"BLDC": "BLD/SCT:122554006"}  # what the catalog calls capillary blood

# Longest texts in characters, before escaping; a profile's [lengths] goes first.
LENGTHS = {
    "MSH-10": 20,  # 2.15.9.10
    "PID-3.1": 250,
    "PID-5.1": 194,  # FN
    "OBR-2": 75,  # EI.1 is 199 and the field 22 [2.5.1]; placers in the field use up to 30 and more
    "OBR-3": 75,
    "OBR-4.1": 64,  # CE.1 is 20; but the order said it, so its sender takes it
    "OBX-3.1": 20,
    "OBX-3.4": 20,
    "OBX-4": 20,
    "OBX-6": 20,
    "OBX-7": 60,
    "SPM-2": 199,  # EI.1
    "SPM-4": 20,  # CWE.1
    "NM": 16,  # 2.A.47
    "SN": 15,  # SN.2 and SN.4, 2.A.70
    "ST": 199,  # 2.A.75
    "CWE": 199,  # CWE.2
    "TX": 65536,
    "FT": 65536,
}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Site(_Model):
    """The laboratory that performed the test (a report element under CLIA)."""

    name: str = Field(default="", max_length=50)  # XON.1
    clia: str = Field(default="", pattern=r"^([0-9]{2}D[0-9]{7})?$")  # "05D0123456"
    street: str = ""
    city: str = ""
    state: str = ""
    postal_code: str = ""


class Orders(_Model):
    """How this EHR's order messages are read."""

    specimen_id: tuple[OrderField, ...] = Field(default=("SPM-2", "OBR-3", "OBR-2"), min_length=1)  # the first that is filled
    mrn: tuple[PatientField, ...] = Field(default=("PID-3",), min_length=1)
    mrn_types: tuple[str, ...] = ("MR", "PI", "")  # PID-3.5 of the identifier that is the MRN, best first; "" is untyped


class Policy(_Model):
    """What follows an answer of this EHR that is no acceptance."""

    ae_retries: int = Field(default=3, ge=0, le=100)  # then a person
    ar: AfterRefusal = "person"
    cr: AfterRefusal = "person"
    ce: AfterRefusal = "person"


class Profile(_Model):
    """One EHR's choices. Keys are in the order of `default.toml`."""

    version: Version = "2.5.1"
    event: Literal["R01"] = "R01"
    sending_application: Er7Name = "CHARTBOUND"
    receiving_application: Er7Name = ""
    receiving_facility: Er7Name = ""
    processing_id: Literal["P", "T", "D"] = "P"
    character_set: Literal["UNICODE UTF-8", "8859/1", "8859/15", "ASCII", ""] = "UNICODE UTF-8"
    acknowledgment: Literal["original", "enhanced"] = "original"

    code_order: Literal["loinc_first", "vendor_first"] = "loinc_first"
    local_coding_system: str = Field(default="L", pattern=r"^[A-Za-z0-9.]{1,20}$")
    unit_text: dict[str, str] = Field(default_factory=dict)  # UCUM → this EHR's text
    unit_coding_system: str = Field(default="UCUM", pattern=r"^[A-Za-z0-9.]{0,20}$")  # OBX-6.3; "": unit alone
    result_status: dict[str, str] = Field(default_factory=lambda: {"W": "C"})  # OBR-25, ours → theirs
    observation_status: dict[str, str] = Field(default_factory=dict)  # OBX-11, ours → theirs
    coded_type: Literal["CWE", "CE", "ST"] = "CWE"
    text_type: Literal["FT", "TX"] = "FT"
    document_form: Literal["application^pdf", "AP^PDF"] = "application^pdf"

    specimen_in: Literal["SPM", "OBR-15", "none"] = "SPM"
    specimen_types: dict[str, str] = Field(default_factory=lambda: dict(_CAPILLARY))
    performing_site_in: Literal["OBX-23", "OBX-15", "none"] = "OBX-23"
    performing_site: Site = Site()
    lengths: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)

    ack_means: Literal["received", "filed"] = "received"
    dedupes_by: Literal["msh10", "filler", "none"] = "msh10"
    connection: Literal["keep", "per_message"] = "keep"
    gap_seconds: float = Field(default=0.0, ge=0, le=60)
    policy: Policy = Policy()
    orders: Orders = Orders()

    @field_validator("result_status")
    @classmethod
    def _table_0123_has_no_w(cls, theirs: dict[str, str]) -> dict[str, str]:
        return {"W": "C"} | theirs

    @field_validator("specimen_types")
    @classmethod
    def _table_0487_has_no_bldc(cls, theirs: dict[str, str]) -> dict[str, str]:
        return _CAPILLARY | theirs

    @model_validator(mode="after")
    def _fits_its_version(self) -> Self:
        """Refuse what the named version has no place for, all at once."""
        problems = []
        if self.version != "2.5.1":
            if self.specimen_in == "SPM":
                problems.append(f'version {self.version} has no SPM: specimen_in = "OBR-15"')
            if self.performing_site_in == "OBX-23":
                problems.append(f'version {self.version} has no OBX-23: performing_site_in = "OBX-15"')
            if self.coded_type == "CWE":
                problems.append(f'version {self.version} has no CWE in OBX-2: coded_type = "CE"')
        problems += [f"lengths: {name} is none of {', '.join(LENGTHS)}" for name in self.lengths if name not in LENGTHS]
        for key, known, table in (
            ("result_status", "FCPXW", self.result_status),
            ("observation_status", "FCPXW", self.observation_status),
        ):
            problems += [f"{key}: {ours} is none of F, C, P, X, W" for ours in table if ours not in known or len(ours) != 1]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def codec(self) -> str:
        """Python's name of the character set; without one in MSH-18 a message is ASCII (HL7 v2.5.1, 2.15.9.18)."""
        return CODECS[self.character_set]


def load(source: str | dict[str, Any]) -> Profile:
    """Read a profile from the text of a TOML file or from its table.

    Raises `tomllib.TOMLDecodeError` or `pydantic.ValidationError`.
    """
    return Profile.model_validate(tomllib.loads(source) if isinstance(source, str) else source)
