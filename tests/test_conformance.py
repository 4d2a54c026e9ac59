"""Every form of message is judged by hl7apy before the first of it is sent; a form is known by its key."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.hl7 import conformance, oru
from chartbound.hl7.chart import Patient
from chartbound.hl7.oru import ChartObservation, ChartOrder, ChartSpecimen, OruContent
from chartbound.hl7.profile import Profile, Site

AT = datetime(2024, 5, 1, 8, 15, 30, tzinfo=timezone(timedelta(hours=-5)))
LAB = Site(name="Riverside Lab", clia="05D0123456", street="1 Main St", city="Riverside", state="IL", postal_code="60000")
_OLD = {"specimen_in": "OBR-15", "performing_site_in": "OBX-15", "coded_type": "CE", "performing_site": LAB}
PROFILES = {
    "2.5.1": Profile(performing_site=LAB),
    "2.5.1, choices turned": Profile(
        acknowledgment="enhanced", code_order="vendor_first", coded_type="CE", text_type="TX", document_form="AP^PDF"
    ),
    "2.4": Profile.model_validate({"version": "2.4", **_OLD}),
    "2.3": Profile.model_validate({"version": "2.3", **_OLD}),
}
EVERY_TYPE = (
    ChartObservation(
        value_type="NM",
        value="6.10",
        loinc="4548-4",
        loinc_name="Hemoglobin A1c/Hemoglobin.total in Blood",
        vendor_code="HbA1c",
        unit="%",
        reference_range="4.0-6.0",
        flags=("H",),
        analysed_at=AT,
        operator="OP1",
        device_model="DCA Vantage",
        device_serial="S123",
        notes=("lot 0142", "expires 2025-01"),
    ),
    ChartObservation(value_type="SN", value="5", comparator="<", loinc="14957-5", unit="mg/L"),
    ChartObservation(value_type="ST", value="Trace-intact | A&B", vendor_code="BLO"),
    ChartObservation(value_type="CWE", value="Positive", loinc="78012-2"),
    ChartObservation(value_type="FT", value="Sinus rhythm\nNormal ECG", loinc="18844-1"),
    ChartObservation(value_type="ED", value="QUJD" * 30_000, loinc="11524-6"),
    ChartObservation(value_type="NM", value="", status="X", loinc="8867-4"),
)


def content(*observations: ChartObservation, **changes: Any) -> OruContent:
    said = OruContent(
        control_id="C1",
        sent_at=AT,
        sending_facility="RIVERSIDE^05D0123456^CLIA",
        patient=Patient("4711", "DOE", "JANE", date(1970, 1, 2), "F", "RIV", "A1", "O", "ROOM2^^^RIV", "V1"),
        order=ChartOrder(
            filler_order="F1",
            placer_order="P-1",
            code="4548-4",
            name="A1c",
            coding_system="LN",
            observed_at=AT,
            reported_at=AT,
            received_at=AT,
            provider="12^SMITH^ANN",
        ),
        observations=observations or EVERY_TYPE,
        specimen=ChartSpecimen(specimen_id="S-1", specimen_type="BLDC", collected_at=AT),
        notes=("whole test",),
    )
    return replace(said, **changes)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("restated", [lambda said: said, oru.correction, oru.retraction])
def test_everything_that_we_build_conforms_to_its_version(name: str, restated: Any) -> None:
    assert conformance.validate(oru.build(restated(content()), PROFILES[name])) == ""


@pytest.mark.parametrize("name", PROFILES)
def test_the_barest_message_conforms_too(name: str) -> None:
    bare = content(EVERY_TYPE[3], patient=Patient("4711", "DOE"), specimen=None, notes=())
    bare = replace(bare, order=ChartOrder(filler_order="F1", code="X", observed_at=AT, reported_at=AT))
    assert conformance.validate(oru.build(bare, PROFILES[name])) == ""


@pytest.mark.parametrize(
    ("ours", "broken", "problem"),
    [
        (b"|4548-4^A1c^LN|", b"||", "Missing required child OBR.OBR_4"),
        (b"|4711^^^RIV^MR|", b"||", "Missing required child PID.PID_3"),
        (b"|ORU^R01^ORU_R01|", b"|ORU^R01^ORU_X99|", "not allowed"),
        (b"|2.5.1|", b"|9.9|", "version"),
        (b"|||20240501081530-0500|", b"|||2024-05-01|", "cannot be read"),
        (b"|NM|4548-4", b"|XX|4548-4", "OBX-5"),
        (b"||6.10|", b"||6,10|", "OBX-5"),
        (b"|<^5|", b"|<^five|", "OBX-5"),
        (b"|<^5|", b"|<^5^-^7^8|", "OBX-5"),
        (b"|<^5|", b"|&x<^5|", "OBX-5"),
        (b"\rSPM|1|S-1||BLD^^HL70487^122554006^^SCT|", b"\rSPM|1|S-1|||", "SPM_4"),
        (b"\rORC|", b"\rMSA|", ""),
        (b"MSH|^~\\&|", b"MSH|", "encoding"),
    ],
)
def test_a_broken_form_is_named_by_its_place(ours: bytes, broken: bytes, problem: str) -> None:
    message = oru.build(content(), PROFILES["2.5.1"])
    assert ours in message
    verdict = conformance.validate(message.replace(ours, broken, 1))
    assert verdict
    assert problem in verdict


def test_segments_out_of_order_are_found() -> None:
    *segments, specimen, end = oru.build(content(), PROFILES["2.5.1"]).split(b"\r")
    for disorder in (
        [segments[0], segments[2], segments[1], *segments[3:], specimen, end],
        [*segments[:6], specimen, *segments[6:], end],
    ):
        assert conformance.validate(b"\r".join(disorder)) == "the segments are not in the order of the standard"


def test_the_verdict_repeats_no_value() -> None:
    message = oru.build(content(), PROFILES["2.5.1"])
    for ours, broken in (
        (b"||6.10|", b"||SECRET|"),
        (b"|DOE^", b"|SECRET^a^b^c^d^e^f^g^h^i^j^k^l^m^n^o^p^q^r^"),
        (b"|19700102|", b"|SECRET|"),
    ):
        verdict = conformance.validate(message.replace(ours, broken, 1))
        assert verdict
        assert "SECRET" not in verdict


def test_values_do_not_change_the_key_and_forms_do() -> None:
    profile = PROFILES["2.5.1"]
    same = {
        conformance.shape(oru.build(content(*each), profile))
        for each in (
            [EVERY_TYPE[1]],
            [replace(EVERY_TYPE[1], value="7", comparator=">")],
            [EVERY_TYPE[1]] * 5,
        )
    }
    assert len(same) == 1
    both_orders = {
        conformance.shape(oru.build(content(*each), profile)) for each in ([*EVERY_TYPE[:2]], [EVERY_TYPE[1], EVERY_TYPE[0]])
    }
    assert len(both_orders) == 1
    different = [
        oru.build(content(EVERY_TYPE[1]), profile),
        oru.build(content(EVERY_TYPE[0]), profile),
        oru.build(content(EVERY_TYPE[2]), profile),
        oru.build(content(replace(EVERY_TYPE[1], unit="")), profile),
        oru.build(content(replace(EVERY_TYPE[1], value="1:8")), profile),
        oru.build(content(EVERY_TYPE[1], specimen=None), profile),
        oru.build(content(EVERY_TYPE[1], notes=()), profile),
        oru.build(content(EVERY_TYPE[1], patient=Patient("4711", "DOE")), profile),
        oru.build(content(EVERY_TYPE[1]), PROFILES["2.4"]),
        oru.build(content(EVERY_TYPE[0], EVERY_TYPE[1]), profile),
        oru.build(content(replace(EVERY_TYPE[1], value_type="NM", comparator="")), profile),
        oru.build(content(replace(EVERY_TYPE[1], value_type="ST", comparator="")), profile),
    ]
    assert len({conformance.shape(message) for message in different}) == len(different)
    assert same <= {conformance.shape(message) for message in different}


def test_the_key_stays_from_release_to_release() -> None:
    """Verdicts are remembered in the store: another key would judge everything again."""
    assert conformance.shape(b"MSH|^~\\&|A|B|||20240501||ORU^R01|1|P|2.3\rPID|1||7\r") == "4da647d6c8518215d8e71e8107d0d938"


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=60)
def test_hostile_bytes_get_a_key_and_a_verdict(noise: bytes) -> None:
    for message in (noise, b"MSH|^~\\&|A|B|||20240501||ORU^R01|1|P|2.3\r" + noise):
        assert len(conformance.shape(message)) == 32
        assert conformance.validate(message)
