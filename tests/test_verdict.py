"""From a unit to its verdict, on the real store: what files, what is held, and that doing it again changes nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

import hl7
import pytest
from sqlalchemy import Engine

from chartbound.agent.journal_file import Heard
from chartbound.agent.judge import Elsewhere
from chartbound.agent.ledger import ledger
from chartbound.agent.store import results
from chartbound.agent.store.engine import migrate, open_store, reading, writing
from chartbound.agent.writer import StoreWriter
from chartbound.drivers.report import SampleKind
from chartbound.hl7 import conformance

from .clinic import (
    A_LABEL,
    ANA,
    B_LABEL,
    BEN,
    C_LABEL,
    EKG,
    GLUCOSE,
    HBA1C,
    NINE,
    SITE,
    URINE,
    Clinic,
    open_clinic,
    ran,
)


@pytest.fixture
def clinic(store: Engine, tmp_path: Path) -> Clinic:
    return open_clinic(store, tmp_path)


def state(clinic: Clinic) -> dict[str, int | bool]:
    with reading(clinic.engine) as conn:
        counted = ledger(conn, [(clinic.journal, set(range(1, clinic.units + 1)))])
    assert counted.balanced
    return {name: value for name, value in counted.to_json().items() if value and isinstance(value, int) and name != "balanced"}


def test_a_label_of_ours_files_and_the_message_says_what_the_instrument_said(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"}))
    assert (row.state, row.label, row.tests) == ("queued", A_LABEL, [["P-1", "4548-4"]])
    assert row.evidence == ["label read at the instrument", "the label's own check character"]
    [message] = clinic.messages(row.id)
    parsed = hl7.parse(message["message"])
    assert str(parsed["MSH.F10"]) == message["control_id"]
    assert str(parsed["PID.F3.R1.C1"]) == "MRN-1"
    assert str(parsed["OBR.F2"]) == "P-1"
    assert str(parsed["OBR.F3"]) == row.filler
    assert [str(segment[5]) for segment in parsed.segments("OBX")] == ["6.1"]
    assert str(parsed["SPM.F2"]) == A_LABEL
    assert conformance.validate(message["message"].encode()) == ""
    assert state(clinic) == {"heard": 1, "queued": 1}


def test_doing_a_unit_again_counts_nothing(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    unit = Heard(row.unit, "hba1c-1", "dca_vantage", 0, row.heard_at, "", b"anything")
    assert [one.id for one in clinic.settle(unit)] == [row.id]
    assert len(clinic.messages(row.id)) == 1


def test_the_same_journal_gives_the_same_bytes_in_another_store(tmp_path: Path) -> None:
    """A store restored from before a result builds it again as the same message under the same control id."""
    said = []
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        engine = open_store("sqlite", tmp_path / name)
        migrate(engine)
        clinic = open_clinic(engine, tmp_path / name)
        clinic.register(A_LABEL, ANA, HBA1C)
        [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
        said.append([(one["control_id"], one["message"]) for one in clinic.messages(row.id)])
        engine.dispose()
    assert said[0] == said[1]


def test_a_label_nobody_registered_is_held_until_its_order_arrives(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    assert (row.state, row.reason) == ("held", "LABEL_UNKNOWN")
    clinic.register(A_LABEL, ANA, HBA1C)
    assert clinic.row(row.id).state == "queued"


def test_a_foreign_label_alone_waits_for_a_persons_yes(clinic: Clinic) -> None:
    clinic.register("LAB-77", ANA, HBA1C, issued=False)
    [row] = clinic.run("hba1c-1", ran(specimen_id="LAB-77"))
    assert (row.state, row.reason, row.label) == ("held", "CONFIRMATION_DUE", "LAB-77")
    with clinic.acting() as acts:
        assert acts.confirm(row.id) == "queued"
    assert "confirmed by a person who saw value, time and patient" in clinic.row(row.id).evidence


@pytest.mark.parametrize("instrument", ["hba1c-1", "urine-1", "glucose-1", "ekg-cart"])
def test_a_control_never_reaches_a_chart(clinic: Clinic, instrument: str) -> None:
    clinic.register(A_LABEL, ANA, HBA1C, URINE, GLUCOSE, EKG)
    specimen_id = "CONTROL-1" if instrument == "urine-1" else A_LABEL
    [row] = clinic.run(instrument, ran(kind=SampleKind.CONTROL, specimen_id=specimen_id))
    assert row.state in ("qc", "held")
    assert clinic.messages(row.id) == []


def test_a_registered_label_that_fits_a_pattern_for_controls_is_held_and_not_lost_in_the_qc_log(clinic: Clinic) -> None:
    clinic.register("CONTROL-17", ANA, URINE, issued=False)
    [row] = clinic.run("urine-1", ran(specimen_id="CONTROL-17"))
    assert (row.state, row.reason) == ("held", "SAMPLE_KIND_UNKNOWN")


def test_a_replayed_line_is_a_duplicate_and_not_sent_twice(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, URINE)
    test = ran(specimen_id=A_LABEL)
    [first] = clinic.run("urine-1", test)
    [again] = clinic.run("urine-1", test, heard_at=first.heard_at + timedelta(minutes=3))
    assert (first.state, again.state, again.earlier) == ("queued", "duplicate", first.id)
    assert clinic.messages(again.id) == []
    assert state(clinic) == {"heard": 2, "queued": 1, "duplicate": 1}


def test_a_mended_id_on_a_line_already_filed_is_a_conflict(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, URINE)
    clinic.register(B_LABEL, BEN, replace(URINE, placer_order="P-22"))
    test = ran(specimen_id=A_LABEL)
    [first] = clinic.run("urine-1", test)
    [other] = clinic.run("urine-1", replace(test, specimen_id=B_LABEL))
    assert (first.state, other.state, other.reason) == ("queued", "held", "IDENTITY_CONFLICT")


def test_another_value_for_the_same_record_is_a_correction_under_the_same_filler_number(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    test = ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"})
    [first] = clinic.run("hba1c-1", test)
    [second] = clinic.run("hba1c-1", replace(test, values={"HbA1c": "6.4"}))
    assert (clinic.row(first.id).state, second.state, second.version) == ("superseded", "queued", 2)
    assert second.filler == first.filler
    parsed = hl7.parse(clinic.messages(second.id)[0]["message"])
    assert (str(parsed["OBX.F11"]), str(parsed["OBR.F25"])) == ("C", "C")


def test_a_second_run_of_the_same_test_is_a_conflicting_repeat_that_can_be_released(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.run("hba1c-1", ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"}))
    [repeat] = clinic.run("hba1c-1", ran(40, specimen_id=A_LABEL, values={"HbA1c": "9.0"}, sequence=2))
    assert (repeat.state, repeat.reason) == ("held", "CONFLICTING_REPEAT")


def test_a_unit_the_catalog_does_not_list_is_held_unconverted(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, URINE)
    [row] = clinic.run("urine-1", ran(specimen_id=A_LABEL, values={"GLU": "5.5 mmol/X"}))
    assert (row.state, row.reason) == ("held", "UNKNOWN_UNIT")


def test_a_bare_number_where_words_are_expected_is_held(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, URINE)
    [row] = clinic.run("urine-1", ran(specimen_id=A_LABEL, values={"GLU": "100"}))
    assert (row.state, row.reason) == ("held", "UNKNOWN_UNIT")


def test_a_glucose_files_on_a_claim_and_a_confirmation(clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    [row] = clinic.run("glucose-1", ran(30, values={"GLU": "112"}))
    assert (row.state, row.reason, row.label) == ("held", "CONFIRMATION_DUE", C_LABEL)
    with clinic.acting() as acts:
        assert acts.confirm(row.id) == "queued"
    assert clinic.row(row.id).claim is not None


def test_a_strip_run_before_the_claim_is_not_filed_to_the_claimed_patient(clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=31)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    [row] = clinic.run("glucose-1", ran(30), heard_at=NINE + timedelta(minutes=35))
    assert (row.state, row.reason) == ("held", "NO_SPECIMEN")


def test_two_readings_since_one_claim_are_both_held(clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    rows = clinic.run("glucose-1", ran(30, values={"GLU": "112"}), ran(32, values={"GLU": "250"}, sequence=2))
    assert [(row.state, row.reason) for row in rows] == [("held", "SEVERAL_SPECIMENS")] * 2


def test_a_reading_that_comes_later_makes_an_unconfirmed_one_doubtful(clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    first, second = ran(30, values={"GLU": "112"}), ran(32, values={"GLU": "250"}, sequence=2)
    [row] = clinic.run("glucose-1", first)
    assert row.reason == "CONFIRMATION_DUE"
    clinic.run("glucose-1", first, second)
    assert clinic.row(row.id).reason == "SEVERAL_SPECIMENS"


def test_known_readings_of_a_memory_are_re_reads_and_old_ones_history(clinic: Clinic) -> None:
    old = ran(-2000, values={"GLU": "99"})
    new = ran(30, values={"GLU": "112"}, sequence=2)
    rows = clinic.run("glucose-1", old, new)
    assert [row.state for row in rows] == ["dismissed", "held"] or [row.state for row in rows] == ["held", "dismissed"]
    again = clinic.run("glucose-1", old, new, ran(40, values={"GLU": "140"}, sequence=3))
    assert len(again) == 1
    assert state(clinic) == {"heard": 3, "held": 2, "dismissed": 1, "rereads": 2}


def test_a_doubtful_clock_holds_a_claimed_reading_and_no_labelled_one(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    wrong = ran(30 - 55)
    [urine] = clinic.run("hba1c-1", replace(wrong, specimen_id=A_LABEL), heard_at=NINE + timedelta(minutes=30))
    assert urine.state == "queued"
    assert "OBR" in clinic.messages(urine.id)[0]["message"]


def test_an_ekg_files_on_patient_id_and_name_and_has_no_specimen_segment(clinic: Clinic) -> None:
    clinic.register("EKG-9", ANA, EKG, issued=False)
    [row] = clinic.run("ekg-cart", ran(patient_id="MRN-1", last_name="RIVERA", first_name="ANA"))
    assert (row.state, row.label) == ("queued", "EKG-9")
    parsed = hl7.parse(clinic.messages(row.id)[0]["message"])
    assert not [segment for segment in parsed if str(segment[0]) == "SPM"]
    assert {str(segment[2]) for segment in parsed.segments("OBX")} == {"NM", "FT"}


def test_an_ekg_with_an_id_alone_is_held(clinic: Clinic) -> None:
    clinic.register("EKG-9", ANA, EKG, issued=False)
    [row] = clinic.run("ekg-cart", ran(patient_id="MRN-1"))
    assert (row.state, row.reason) == ("held", "CONFIRMATION_DUE")


def test_two_orders_answered_by_one_report_get_a_message_each(clinic: Clinic) -> None:
    acr = [replace(HBA1C, code=code, placer_order=order) for code, order in (("14957-5", "P-8"), ("2161-8", "P-9"))]
    clinic.register(A_LABEL, ANA, *acr)
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL, values={"Alb": "12.3", "Crt": "101.2"}))
    assert row.state == "queued", row.why
    parsed = [hl7.parse(one["message"]) for one in clinic.messages(row.id)]
    assert [str(one["OBR.F2"]) for one in parsed] == ["P-8", "P-9"]
    assert len({str(one["OBR.F3"]) for one in parsed}) == 2


def test_an_unreadable_unit_is_kept_shown_and_counted(clinic: Clinic) -> None:
    [row] = clinic.hear("urine-1", b"this is no report\r")
    assert row.state == "unreadable"
    assert row.why
    assert state(clinic) == {"heard": 1, "unreadable": 1}


def test_an_incomplete_transmission_is_counted_beside_and_is_never_a_result(clinic: Clinic) -> None:
    assert clinic.hear("hba1c-1", b"H|\\^&\rP|1\r", incomplete="the line was closed") == []
    assert state(clinic) == {"incomplete": 1}


def test_another_meter_on_the_cable_is_refused_where_the_site_names_the_serial_number(store: Engine, tmp_path: Path) -> None:
    clinic = open_clinic(store, tmp_path, SITE.replace('station = "room-2"', 'serial_number = "OTHER"'))
    [row] = clinic.run("glucose-1", ran(30))
    assert row.state == "unreadable"
    assert "OTHER" in row.why


def test_a_gap_in_the_instruments_numbers_is_an_alarm_until_the_missing_are_heard(clinic: Clinic) -> None:
    from chartbound.agent.attention import gaps

    clinic.run("urine-1", ran(30, sequence=411, specimen_id="X-1"))
    clinic.run("urine-1", ran(33, sequence=414, specimen_id="X-2"))

    def said() -> list[str]:
        with reading(clinic.engine) as conn:
            return [gap["said"] for gap in gaps(conn, NINE - timedelta(days=1))]

    assert said() == ["412–413"]
    clinic.run("urine-1", ran(31, sequence=412, specimen_id="X-3"))
    clinic.run("urine-1", ran(32, sequence=413, specimen_id="X-4"))
    assert said() == []


def test_a_held_critical_value_is_marked(clinic: Clinic) -> None:
    [row] = clinic.run("glucose-1", ran(30, values={"GLU": "35"}))
    assert row.state == "held"
    assert row.critical


def test_an_instrument_that_the_site_file_no_longer_names_loses_nothing(clinic: Clinic) -> None:
    [row] = clinic.hear("gone-1", b"anything", NINE.astimezone(UTC))
    assert row.state == "unreadable"
    assert "gone-1" in row.why


def test_a_critical_value_is_flagged_in_the_chart(clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    [row] = clinic.run("glucose-1", ran(30, values={"GLU": "35"}))
    with clinic.acting() as acts:
        acts.confirm(row.id)
    assert str(hl7.parse(clinic.messages(row.id)[0]["message"])["OBX.F8"]) == "LL"


def test_a_unit_without_a_report_is_shown_and_not_lost(clinic: Clinic) -> None:
    [row] = clinic.hear("hba1c-1", b"H|\\^&|||DCA VANTAGE^04^S1|||||||P||20260115093000\rP|1\rL|1|N\r")
    assert row.state == "unreadable"


def test_instruments_of_the_same_name_at_two_pcs_do_not_share_a_claim(clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    other = replace_agent(clinic, "agent-2")
    [row] = other.run("glucose-1", ran(30))
    assert (row.state, row.reason) == ("held", "NO_SPECIMEN")


def test_an_order_given_at_another_pc_files_what_is_held_here(clinic: Clinic) -> None:
    """Each PC judges what it has heard by its own site file; acts elsewhere make it look again."""
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    other = replace_agent(clinic, "agent-2")
    writer = StoreWriter(clinic.engine)
    writer.start()
    elsewhere = Elsewhere(clinic.engine, clinic.verdicts, writer, lambda: None)
    elsewhere.look()
    other.register(A_LABEL, ANA, HBA1C)
    assert clinic.row(row.id).state == "held"
    elsewhere.look()
    assert writer.flush(10)
    writer.stop()
    assert clinic.row(row.id).state == "queued"


def replace_agent(clinic: Clinic, agent: str) -> Clinic:
    """The same store and site file at another PC."""
    other = Clinic(clinic.engine, replace(clinic.verdicts, agent=agent), journal=f"journal of {agent}")
    with writing(clinic.engine) as conn:
        results.set_up(conn, agent, "glucose-1", NINE - timedelta(days=1))
    return other
