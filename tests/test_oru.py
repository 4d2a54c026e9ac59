"""ORU^R01: what goes into the chart is what was said, in a form that two other readers of HL7 read back alike."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from importlib.resources import files
from typing import Any

import hl7
import pytest
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chartbound.hl7 import oru
from chartbound.hl7.chart import Patient
from chartbound.hl7.oru import ChartObservation, ChartOrder, ChartSpecimen, NotConformant, OruContent
from chartbound.hl7.profile import Orders, Policy, Profile, Site, load

AT = datetime(2024, 5, 1, 8, 15, 30, tzinfo=timezone(timedelta(hours=-5)))
OLD = {"specimen_in": "OBR-15", "performing_site_in": "OBX-15", "coded_type": "CE"}
LAB = Site(name="Riverside Lab", clia="05D0123456", street="1 Main St", city="Riverside", state="IL", postal_code="60000")


def glucose(**changes: Any) -> ChartObservation:
    said: dict[str, Any] = {
        "value_type": "NM",
        "value": "6.10",
        "loinc": "41653-7",
        "loinc_name": "Glucose [Mass/volume] in Capillary blood by Glucometer",
        "vendor_code": "GLU",
        "vendor_name": "Glucose",
        "unit": "mg/dL",
        "reference_range": "70-99",
        "flags": ("L",),
        "analysed_at": AT,
        "operator": "OP7",
        "device_model": "Contour",
        "device_serial": "7350-1",
    }
    return ChartObservation(**(said | changes))


def content(*observations: ChartObservation, **changes: Any) -> OruContent:
    said = OruContent(
        control_id="9F3K2A1",
        sent_at=AT,
        sending_facility="RIVERSIDE",
        patient=Patient("4711", "O'DOE & SONS", "JANE", date(1970, 1, 2), "F", "RIV&1.2.3&ISO", "A1", "O", "ROOM2^^^RIV", "V1"),
        order=ChartOrder(
            filler_order="F-1",
            placer_order="P-1001",
            code="GLU",
            name="Glucose, whole blood",
            observed_at=AT,
            received_at=AT,
            reported_at=AT,
            provider="12^SMITH^ANN",
        ),
        observations=observations or (glucose(),),
        specimen=ChartSpecimen(specimen_id="S-1", specimen_type="BLDC", collected_at=AT),
    )
    return replace(said, **changes)


def fields(message: bytes, name: str) -> list[str]:
    """The fields of the first segment of this name, by a plain split."""
    found = next(line for line in message.decode().split("\r") if line.startswith(name + "|"))
    return found.split("|")


def obx5(observation: ChartObservation, **profile: Any) -> tuple[str, str]:
    found = fields(oru.build(content(observation), Profile(**profile)), "OBX")
    return found[2], found[5]


def test_the_message_is_this_one() -> None:
    message = oru.build(content(), Profile(performing_site=LAB))
    assert message.decode().split("\r") == [
        "MSH|^~\\&|CHARTBOUND|RIVERSIDE|||20240501081530-0500||ORU^R01^ORU_R01|9F3K2A1|P|2.5.1||||||UNICODE UTF-8",
        "PID|1||4711^^^RIV&1.2.3&ISO^MR||O'DOE \\T\\ SONS^JANE||19700102|F||||||||||A1",
        "PV1|1|O|ROOM2^^^RIV||||||||||||||||V1",
        "ORC|RE|P-1001|F-1",
        (
            "OBR|1|P-1001|F-1|GLU^Glucose, whole blood^L|||20240501081530-0500|||||||20240501081530-0500||12^SMITH^ANN"
            "||||||20240501081530-0500|||F"
        ),
        (
            "OBX|1|NM|41653-7^Glucose [Mass/volume] in Capillary blood by Glucometer^LN^GLU^Glucose^L||6.10|mg/dL^^UCUM|70-99|L"
            "|||F|||20240501081530-0500||OP7||Contour^7350-1|20240501081530-0500"
            "||||Riverside Lab^^^^^CLIA&2.16.840.1.113883.4.7&ISO^XX^^^05D0123456|1 Main St^^Riverside^IL^60000"
        ),
        "SPM|1|S-1||BLD^^HL70487^122554006^^SCT|||||||||||||20240501081530-0500",
        "",
    ]


def test_building_again_gives_the_same_bytes() -> None:
    assert oru.build(content(), Profile()) == oru.build(content(), Profile())


def test_both_libraries_read_back_what_was_put_in() -> None:
    message = oru.build(content(glucose(notes=("50^2 | & so on",)), glucose(sub_id="2")), Profile())
    plain = hl7.parse(message.decode())
    judged = parse_message(message.decode(), find_groups=False)
    assert plain.unescape(str(plain.segment("PID")[5][0][0])) == "O'DOE & SONS"
    assert judged.pid.pid_5.pid_5_1.to_er7() == "O'DOE \\T\\ SONS"
    for number, (ours, theirs) in enumerate(zip(plain.segments("OBX"), judged.obx, strict=True), start=1):
        assert str(ours[1]) == theirs.obx_1.to_er7() == str(number)
        assert str(ours[5]) == theirs.obx_5.to_er7() == "6.10"
        assert str(ours[3][0][0]) == theirs.obx_3.obx_3_1.to_er7() == "41653-7"
        assert str(ours[6][0][0]) == theirs.obx_6.obx_6_1.to_er7() == "mg/dL"
    assert str(plain.segment("OBR")[2]) == judged.obr.obr_2.to_er7() == str(plain.segment("ORC")[2]) == "P-1001"
    assert str(plain.segment("NTE")[3]) == judged.nte.nte_3.to_er7() == "50\\S\\2 \\F\\ \\T\\ so on"
    assert str(plain.segment("SPM")[2]) == judged.spm.spm_2.to_er7() == "S-1"


@pytest.mark.parametrize(
    ("said", "wire"),
    [
        ({"value_type": "NM", "value": "6.10"}, ("NM", "6.10")),
        ({"value_type": "NM", "value": "+0.50"}, ("NM", "+0.50")),
        ({"value_type": "NM", "value": "-.5"}, ("NM", "-.5")),
        ({"value_type": "SN", "value": "20", "comparator": "<"}, ("SN", "<^20")),
        ({"value_type": "SN", "value": "1.005", "comparator": "<="}, ("SN", "<=^1.005")),
        ({"value_type": "SN", "value": "1:128"}, ("SN", "^1^:^128")),
        ({"value_type": "SN", "value": "2-4"}, ("SN", "^2^-^4")),
        ({"value_type": "SN", "value": "3+"}, ("SN", "^3^+")),
        ({"value_type": "ST", "value": "Trace-intact"}, ("ST", "Trace-intact")),
        ({"value_type": "ST", "value": "1,000", "comparator": ">"}, ("ST", ">1,000")),
        ({"value_type": "CWE", "value": "Positive"}, ("CWE", "^Positive")),
        (
            {"value_type": "CWE", "value": "Positive", "value_code": "10828004", "value_coding_system": "SCT"},
            ("CWE", "10828004^Positive^SCT"),
        ),
        ({"value_type": "CWE", "value": "3+", "comparator": ">="}, ("CWE", "^>=3+")),
        ({"value_type": "FT", "value": "Sinus rhythm\nA & B"}, ("FT", "Sinus rhythm\\.br\\A \\T\\ B")),
        ({"value_type": "TX", "value": "one\ntwo"}, ("TX", "one~two")),
        ({"value_type": "ED", "value": "QUJD"}, ("ED", "^application^pdf^Base64^QUJD")),
        ({"value_type": "NM", "value": "", "status": "X"}, ("NM", "")),
        ({"value_type": "CWE", "value": "", "status": "X"}, ("CWE", "")),
    ],
)
def test_a_value_goes_as_it_was_said(said: dict[str, Any], wire: tuple[str, str]) -> None:
    assert obx5(glucose(**said)) == wire


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"value": ""}, "OBX-5"),
        ({"value": '""', "value_type": "ST"}, "OBX-5"),
        ({"value": "6,1"}, "OBX-5"),
        ({"value": "1e3"}, "OBX-5"),
        ({"value": " 6.1"}, "OBX-5"),
        ({"value": "٦"}, "OBX-5"),
        ({"value": "NaN"}, "OBX-5"),
        ({"value": "5", "comparator": "<"}, "OBX-5"),
        ({"value": "12345678901234567"}, "NM"),
        ({"value_type": "SN", "value": "5", "comparator": "≤"}, "OBX-5"),
        ({"value_type": "SN", "value": "5 x"}, "OBX-5"),
        ({"value_type": "ST", "value": "two\nlines"}, "OBX-5"),
        ({"value_type": "FT", "value": "bell\x07"}, "OBX-5"),
        ({"value_type": "ST", "value": "x" * 200}, "ST"),
        ({"value_type": "CWE", "value": "Pos", "comparator": ">", "value_code": "1"}, "OBX-5"),
        ({"value_type": "A|B", "value": "", "status": "X"}, "OBX-2"),
        ({"value_type": "ED", "value": "QUJ"}, "OBX-5"),
        ({"value_type": "XX"}, "OBX-2"),
        ({"flags": ("HIGH",)}, "OBX-8"),
        ({"status": "Q"}, "OBX-11"),
        ({"loinc": "", "vendor_code": ""}, "OBX-3"),
        ({"sub_id": "x" * 21}, "OBX-4"),
        ({"vendor_code": "x" * 21}, "OBX-3.4"),
    ],
)
def test_what_hl7_cannot_carry_is_refused_with_its_place(said: dict[str, Any], where: str) -> None:
    with pytest.raises(NotConformant) as refused:
        oru.build(content(glucose(**said)), Profile())
    assert refused.value.where == where
    assert refused.value.hint
    assert said.get("value", "") in ("", "5", "Pos", '""') or said["value"] not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"control_id": "x" * 21}, "MSH-10"),
        ({"control_id": ""}, "MSH-10"),
        ({"patient": Patient(" ", "DOE")}, "PID-3.1"),
        ({"patient": Patient("47\r11", "DOE")}, "PID-3.1"),
        ({"patient": Patient("4711")}, "PID-5.1"),
        ({"patient": Patient("4711", "DOE", authority="A|B")}, "PID-3.4"),
        ({"patient": Patient("4711", "DOE", location="X\rPID|1")}, "PV1-3"),
        ({"observations": ()}, "OBX"),
        ({"specimen": ChartSpecimen(specimen_id="", specimen_type="BLD")}, "SPM-2"),
        ({"specimen": ChartSpecimen(specimen_id="S-1", specimen_type="")}, "SPM-4"),
    ],
)
def test_a_message_without_its_keys_is_refused(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(NotConformant) as refused:
        oru.build(replace(content(), **changes), Profile())
    assert refused.value.where == where


def test_a_character_that_the_receiver_cannot_read_is_refused() -> None:
    observation = glucose(value_type="ST", value="µ €")
    with pytest.raises(NotConformant, match="MSH-18"):
        oru.build(content(observation), Profile(character_set="8859/1"))
    assert "µ €".encode("iso8859-15") in oru.build(content(observation), Profile(character_set="8859/15"))


def test_a_correction_keeps_the_filler_number_and_says_c() -> None:
    message = oru.build(oru.correction(content()), Profile())
    assert (fields(message, "OBR")[3], fields(message, "OBR")[25], fields(message, "OBX")[11]) == ("F-1", "C", "C")


def test_a_retraction_says_w_and_the_profile_may_say_it_otherwise() -> None:
    message = oru.build(oru.retraction(content()), Profile())
    assert (fields(message, "OBR")[25], fields(message, "OBX")[11]) == ("C", "W")
    theirs = oru.build(oru.retraction(content()), Profile(observation_status={"W": "D"}, result_status={"C": "A"}))
    assert (fields(theirs, "OBR")[25], fields(theirs, "OBX")[11]) == ("A", "D")


def test_an_ekg_has_no_specimen_and_its_document_comes_last() -> None:
    pdf = base64.b64encode(b"%PDF-1.4 %%EOF").decode()
    rate = glucose(loinc="8867-4", value="72", unit="/min", status="P")
    impression = glucose(value_type="FT", loinc="18844-1", value="Sinus rhythm\nNormal ECG", unit="", status="P")
    document = glucose(value_type="ED", loinc="11524-6", value=pdf, unit="", status="P")
    ekg = content(rate, impression, document, specimen=None)
    ekg = replace(ekg, order=replace(ekg.order, status="P"))
    message = oru.build(ekg, Profile(document_form="AP^PDF", text_type="TX")).decode()
    assert "\rSPM" not in message
    assert "|TX|18844-1^" in message
    assert "|Sinus rhythm~Normal ECG|" in message
    assert message.rstrip("\r").split("\r")[-1].split("|")[5] == f"^AP^PDF^Base64^{pdf}"
    assert fields(message.encode(), "OBR")[25] == "P"


@pytest.mark.parametrize(("version", "kind"), [("2.4", "ORU^R01^ORU_R01"), ("2.3", "ORU^R01")])
def test_older_versions_leave_out_what_they_do_not_know(version: str, kind: str) -> None:
    profile = Profile.model_validate({"version": version, "performing_site": LAB, **OLD})
    message = oru.build(content(glucose(value_type="CWE", value="Positive")), profile)
    assert (fields(message, "MSH")[8], fields(message, "MSH")[11]) == (kind, version)
    assert fields(message, "OBR")[15] == "BLD&&HL70070&122554006&&SCT"
    assert fields(message, "OBX")[15] == "05D0123456^Riverside Lab^CLIA"
    assert fields(message, "OBX")[2] == "CE"
    assert len(fields(message, "OBX")) == (20 if version == "2.4" else 17)
    assert b"\rSPM" not in message


@pytest.mark.parametrize(
    ("stated", "wire"),
    [
        ("UR", "UR^^HL70487"),
        ("BLDC", "BLD^^HL70487^122554006^^SCT"),
        ("SCT:258529004", "258529004^^SCT"),
        ("WB/SCT:122554006", "WB^^HL70487^122554006^^SCT"),
        ("A/B&C", "A/B\\T\\C^^HL70487"),
    ],
)
def test_a_specimen_type_is_a_code_of_a_table_or_of_snomed(stated: str, wire: str) -> None:
    said = content(specimen=ChartSpecimen(specimen_id="S-1", specimen_type=stated))
    assert fields(oru.build(said, Profile()), "SPM")[4] == wire


def test_a_profile_decides_codes_units_and_acknowledgment() -> None:
    profile = Profile(
        code_order="vendor_first",
        unit_text={"mg/dL": "mg per dl"},
        acknowledgment="enhanced",
        local_coding_system="99RIV",
        lengths={"OBR-2": 3},
    )
    with pytest.raises(NotConformant, match="OBR-2"):
        oru.build(content(), profile)
    message = oru.build(content(), profile.model_copy(update={"lengths": {}}))
    assert fields(message, "OBX")[3].startswith("GLU^Glucose^99RIV^41653-7^")
    assert fields(message, "OBX")[6] == "mg per dl"
    assert fields(message, "MSH")[14:16] == ["AL", "AL"]


def test_a_sites_own_codes_stand_beside_the_defaults() -> None:
    profile = load('[result_status]\nP = "I"\n[specimen_types]\nUR = "URINE"\n')
    assert profile.result_status == {"W": "C", "P": "I"}
    assert profile.specimen_types == {"BLDC": "BLD/SCT:122554006", "UR": "URINE"}


def test_the_shipped_profile_is_the_default_and_explains_every_key() -> None:
    text = (files("chartbound") / "config" / "profiles" / "default.toml").read_text(encoding="utf-8")
    assert load(text) == Profile()
    names = {name for model in (Profile, Site, Policy, Orders) for name in model.model_fields}
    assert {name for name in names if f"{name} = " not in text and f"[{name}]" not in text} == set()


@pytest.mark.parametrize(
    "bad",
    [
        {"version": "2.4"},
        {"version": "2.7"},
        {"versoin": "2.4"},
        {"result_status": {"Q": "F"}},
        {"lengths": {"OBR2": 5}},
        {"receiving_facility": "A|B"},
    ],
)
def test_a_profile_that_cannot_work_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        load(bad)


_NAMES = st.text(max_size=30)


@given(_NAMES, _NAMES, st.text(min_size=1, max_size=40), _NAMES)
@settings(deadline=None, max_examples=120)
def test_no_text_moves_a_field(last: str, first: str, value: str, note: str) -> None:
    """Whatever is in the texts, the message has these segments and the value comes back, or it is refused."""
    said = content(glucose(value_type="ST", value=value, notes=(note,)), patient=Patient("4711", last, first))
    try:
        message = oru.build(said, Profile())
    except NotConformant:
        return
    segments = message.decode().split("\r")
    assert [line[:3] for line in segments] == ["MSH", "PID", "ORC", "OBR", "OBX", "NTE", "SPM", ""]
    parsed = hl7.parse(message.decode())
    assert parsed.unescape(str(parsed.segment("OBX")[5])) == value
    assert str(parsed.segment("OBX")[11]) == "F"


def test_patient_text_is_in_no_repr() -> None:
    said = content(glucose(notes=("secret note",)), notes=("secret note",))
    for hidden in ("4711", "DOE", "JANE", "6.10", "OP7", "SMITH", "secret"):
        assert hidden not in repr(said)
