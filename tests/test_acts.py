"""What people do with results: each act is on the record, needs what it must, and can be undone until a message was sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import hl7
import pytest
from sqlalchemy import Engine, select

from chartbound.agent import audit
from chartbound.agent.acts import Refused
from chartbound.agent.attention import attention
from chartbound.agent.store import deliveries
from chartbound.agent.store.deliveries import Attempt
from chartbound.agent.store.engine import reading, writing
from chartbound.agent.store.schema import audit as audit_table
from chartbound.drivers.report import SampleKind

from .clinic import A_LABEL, ANA, B_LABEL, BEN, C_LABEL, GLUCOSE, HBA1C, NINE, Clinic, identifiers, open_clinic, ran


@pytest.fixture
def clinic(store: Engine, tmp_path: Path) -> Clinic:
    return open_clinic(store, tmp_path)


def post(clinic: Clinic, report_id: int) -> None:
    """As if the EHR had accepted every message of this report."""
    with writing(clinic.engine) as conn:
        rows = [row for row in deliveries.of_report(conn, report_id) if row.state == "queued"]
        deliveries.record(conn, [Attempt(row.id, row.attempts + 1, "posted", "delivered", NINE) for row in rows])


def acts_on_record(clinic: Clinic) -> list[tuple[str, str, str]]:
    with reading(clinic.engine) as conn:
        assert audit.verify(conn) == []
        query = select(audit_table.c.who, audit_table.c.act, audit_table.c.subject).order_by(audit_table.c.id)
        return [(row.who, row.act, row.subject) for row in conn.execute(query)]


def test_an_assignment_needs_both_identifiers_and_files_this_one_result(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    [row] = clinic.run("hba1c-1", ran(specimen_id="TYPO"))
    with pytest.raises(Refused, match="name and birth date"), clinic.acting() as acts:
        acts.assign(row.id, A_LABEL, identifiers(BEN))
    with pytest.raises(Refused), clinic.acting() as acts:
        acts.assign(row.id, A_LABEL, replace(identifiers(ANA), birth_date=identifiers(BEN).birth_date))
    assert clinic.row(row.id).state == "held"
    with clinic.acting() as acts:
        assert acts.assign(row.id, A_LABEL, identifiers(ANA)) == "queued"
    assert ("mlee", "assigned", f"result {row.id}") in acts_on_record(clinic)


def test_a_refusal_to_assign_does_not_tell_whose_the_specimen_is(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    [row] = clinic.run("hba1c-1", ran(specimen_id="TYPO"))
    with pytest.raises(Refused) as refused, clinic.acting() as acts:
        acts.assign(row.id, A_LABEL, identifiers(BEN))
    assert "RIVERA" not in str(refused.value)


def test_what_was_posted_for_a_and_belongs_to_b_is_retracted_at_a_and_posted_to_b(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.register(B_LABEL, BEN, replace(HBA1C, placer_order="P-7"))
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"}))
    post(clinic, row.id)
    with clinic.acting() as acts:
        assert acts.assign(row.id, B_LABEL, identifiers(BEN)) == "queued"
    first, retraction, second = (hl7.parse(one["message"]) for one in clinic.messages(row.id))
    assert [str(one["PID.F3.R1.C1"]) for one in (first, retraction, second)] == ["MRN-1", "MRN-1", "MRN-2"]
    assert [str(one["OBX.F11"]) for one in (first, retraction, second)] == ["F", "W", "F"]
    assert str(retraction["OBR.F3"]) == str(first["OBR.F3"])
    assert str(second["OBR.F3"]) != str(first["OBR.F3"])
    assert len({one["control_id"] for one in clinic.messages(row.id)}) == 3


def test_what_was_never_sent_is_withdrawn_without_a_retraction(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.register(B_LABEL, BEN, replace(HBA1C, placer_order="P-7"))
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    with clinic.acting() as acts:
        acts.assign(row.id, B_LABEL, identifiers(BEN))
    assert [one["state"] for one in clinic.messages(row.id)] == ["withdrawn", "queued"]


def test_a_release_waives_a_repeat_and_nothing_that_must_be_mended(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.run("hba1c-1", ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"}))
    [repeat] = clinic.run("hba1c-1", ran(40, specimen_id=A_LABEL, values={"HbA1c": "9.0"}, sequence=2))
    with pytest.raises(Refused, match="name and birth date"), clinic.acting() as acts:
        acts.release(repeat.id, identifiers(BEN))
    with clinic.acting() as acts:
        assert acts.release(repeat.id, identifiers(ANA)) == "queued"
    [unknown] = clinic.run("urine-1", ran(50, specimen_id=A_LABEL, values={"GLU": "5.5 mmol/X"}))
    with pytest.raises(Refused, match="cannot be released"), clinic.acting() as acts:
        acts.release(unknown.id, identifiers(ANA))


def test_a_dismissal_needs_a_reason_and_is_undone(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id="TYPO"))
    with pytest.raises(Refused, match="reason"), clinic.acting() as acts:
        acts.dismiss(row.id, "  ")
    with clinic.acting() as acts:
        acts.dismiss(row.id, "run twice by mistake")
    assert clinic.row(row.id).state == "dismissed"
    with clinic.acting() as acts:
        assert acts.undo(row.id) == ("dismissed", "held")
    assert clinic.row(row.id).reason == "LABEL_UNKNOWN"


def test_a_dismissed_unreadable_unit_comes_back_as_unreadable(clinic: Clinic) -> None:
    [row] = clinic.hear("urine-1", b"no report\r")
    with clinic.acting() as acts:
        acts.dismiss(row.id, "a test of the line")
    with clinic.acting() as acts:
        assert acts.undo(row.id) == ("dismissed", "unreadable")


def confirm(clinic: Clinic, report_id: int) -> None:
    with clinic.acting() as acts:
        acts.confirm(report_id)


def assign(clinic: Clinic, report_id: int) -> None:
    with clinic.acting() as acts:
        acts.assign(report_id, C_LABEL, identifiers(ANA))


@pytest.mark.parametrize("act", [confirm, assign])
def test_an_act_is_undone_before_the_message_is_sent_and_not_after(clinic: Clinic, act: Callable[[Clinic, int], None]) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    [row] = clinic.run("glucose-1", ran(30))
    act(clinic, row.id)
    with clinic.acting() as acts:
        _, state = acts.undo(row.id)
    assert (state, clinic.row(row.id).reason) == ("held", "CONFIRMATION_DUE")
    act(clinic, row.id)
    assert [one["state"] for one in clinic.messages(row.id)] == ["withdrawn", "queued"]
    post(clinic, row.id)
    with pytest.raises(Refused, match="may be in the chart"), clinic.acting() as acts:
        acts.undo(row.id)


def test_only_what_waits_for_a_confirmation_is_confirmed(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id="TYPO"))
    with pytest.raises(Refused, match="LABEL_UNKNOWN"), clinic.acting() as acts:
        acts.confirm(row.id)


def test_a_second_claim_on_an_instrument_ends_the_first_and_says_so(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, GLUCOSE)
    clinic.register(B_LABEL, BEN, replace(GLUCOSE, placer_order="P-9"))
    with clinic.acting() as acts:
        assert acts.claim(A_LABEL, "glucose-1") == []
    with clinic.acting(NINE + timedelta(minutes=1)) as acts:
        assert acts.claim(B_LABEL, "glucose-1") == [A_LABEL]
    [row] = clinic.run("glucose-1", ran(2))
    assert row.label == B_LABEL


@pytest.mark.parametrize(
    ("specimen_id", "instrument", "words"),
    [("NONE", "glucose-1", "registered"), (A_LABEL, "nowhere", "no instrument nowhere")],
)
def test_a_claim_names_what_is_there(clinic: Clinic, specimen_id: str, instrument: str, words: str) -> None:
    clinic.register(A_LABEL, ANA, GLUCOSE)
    with pytest.raises(Refused, match=words), clinic.acting() as acts:
        acts.claim(specimen_id, instrument)


def test_nothing_is_matched_to_a_cancelled_specimen(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    with clinic.acting() as acts:
        acts.cancel(A_LABEL)
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    assert (row.state, row.reason) == ("held", "LABEL_UNKNOWN")
    with pytest.raises(Refused, match="cancelled"), clinic.acting() as acts:
        acts.assign(row.id, A_LABEL, identifiers(ANA))


def test_a_control_cannot_be_assigned(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    [row] = clinic.run("hba1c-1", ran(kind=SampleKind.CONTROL, specimen_id=A_LABEL))
    with pytest.raises(Refused, match="qc"), clinic.acting() as acts:
        acts.assign(row.id, A_LABEL, identifiers(ANA))


def test_an_act_that_is_refused_leaves_no_trace(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id="TYPO"))
    before = acts_on_record(clinic)
    with pytest.raises(Refused), clinic.acting() as acts:
        acts.release(row.id, identifiers(ANA))
    assert acts_on_record(clinic) == before


def test_every_act_is_on_the_record_without_the_identifiers_that_were_given(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    [row] = clinic.run("hba1c-1", ran(specimen_id="TYPO"))
    with clinic.acting(who="CLINIC\\jdoe") as acts:
        acts.assign(row.id, A_LABEL, identifiers(ANA))
    assert acts_on_record(clinic)[-1] == ("CLINIC\\jdoe", "assigned", f"result {row.id}")
    with reading(clinic.engine) as conn:
        assert "RIVERA" not in str(conn.execute(select(audit_table.c.detail)).all())


def test_a_message_that_was_withdrawn_on_the_wire_and_then_accepted_is_an_alarm(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.register(B_LABEL, BEN, replace(HBA1C, placer_order="P-7"))
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    [on_the_wire] = clinic.messages(row.id)
    with clinic.acting() as acts:
        acts.assign(row.id, B_LABEL, identifiers(BEN))
    with writing(clinic.engine) as conn:
        [first, _] = deliveries.of_report(conn, row.id)
        assert first.control_id == on_the_wire["control_id"]
        deliveries.record(conn, [Attempt(first.id, 1, "posted", "delivered", NINE)])
    with reading(clinic.engine) as conn:
        waiting = [one.what for one in attention(conn, NINE)]
    assert waiting == ["accepted after they were withdrawn"]
