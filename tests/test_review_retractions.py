"""Whatever people do after a result was filed, no chart keeps a message that belongs to somebody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest
from sqlalchemy import Engine, delete

from chartbound.agent.acts import Refused
from chartbound.agent.attention import attention
from chartbound.agent.store import deliveries
from chartbound.agent.store.deliveries import Attempt
from chartbound.agent.store.engine import reading, writing
from chartbound.agent.store.schema import ordered_test

from .clinic import A_LABEL, ANA, B_LABEL, BEN, C_LABEL, D_LABEL, HBA1C, NINE, SITE, Clinic, identifiers, open_clinic, ran

CARL = replace(ANA, mrn="MRN-3", last_name="LIND", first_name="CARL")


@pytest.fixture
def clinic(store: Engine, tmp_path: Path) -> Clinic:
    clinic = open_clinic(store, tmp_path)
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.register(B_LABEL, BEN, replace(HBA1C, placer_order="P-7"))
    clinic.register(C_LABEL, CARL, replace(HBA1C, placer_order="P-8"))
    return clinic


def answer(clinic: Clinic, report_id: int, state: str = "posted", outcome: str = "delivered", ack_code: str = "AA") -> None:
    """As if the EHR had answered every message of this report that waits."""
    with writing(clinic.engine) as conn:
        rows = [row for row in deliveries.of_report(conn, report_id) if row.state in deliveries.PENDING]
        deliveries.record(conn, [Attempt(row.id, row.attempts + 1, state, outcome, NINE, ack_code=ack_code) for row in rows])


def said(clinic: Clinic, report_id: int) -> list[tuple[str, str, str]]:
    """Patient, OBX-11 and state of each message of this report, in the order they were built."""
    found = []
    for one in clinic.messages(report_id):
        message = hl7.parse(one["message"])
        found.append((str(message["PID.F3.R1.C1"]), str(message["OBX.F11"]), one["state"]))
    return found


def assign(clinic: Clinic, report_id: int, label: str, patient: Any) -> str:
    with clinic.acting() as acts:
        return acts.assign(report_id, label, identifiers(patient))


def test_each_order_that_a_result_answered_gets_its_own_retraction(clinic: Clinic) -> None:
    acr = [replace(HBA1C, code=code, placer_order=order) for code, order in (("14957-5", "P-18"), ("2161-8", "P-19"))]
    clinic.register(D_LABEL, ANA, *acr)
    clinic.register("B-2", BEN, *[replace(one, placer_order=f"{one.placer_order}B") for one in acr], issued=False)
    [row] = clinic.run("hba1c-1", ran(specimen_id=D_LABEL, values={"Alb": "12.3", "Crt": "101.2"}))
    answer(clinic, row.id)
    assign(clinic, row.id, "B-2", BEN)
    messages = [hl7.parse(one["message"]) for one in clinic.messages(row.id)]
    told = [(str(one["OBR.F2"]), str(one["OBR.F3"]), str(one["OBX.F3.R1.C1"])) for one in messages]
    assert [str(one["OBX.F11"]) for one in messages] == ["F", "F", "W", "W", "F", "F"]
    assert told[2:4] == told[:2], "what was posted is what is retracted, order by order"
    assert not {filler for _, filler, _ in told[4:]} & {filler for _, filler, _ in told[:4]}


def test_a_retraction_that_waits_is_not_withdrawn_by_the_next_assignment(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    answer(clinic, row.id)
    assign(clinic, row.id, B_LABEL, BEN)
    assign(clinic, row.id, C_LABEL, CARL)
    assert said(clinic, row.id) == [
        ("MRN-1", "F", "posted"),
        ("MRN-1", "W", "queued"),
        ("MRN-2", "F", "withdrawn"),
        ("MRN-3", "F", "queued"),
    ]


def test_a_retraction_under_way_is_sent_again_and_not_retracted(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    answer(clinic, row.id)
    assign(clinic, row.id, B_LABEL, BEN)
    answer(clinic, row.id, "unanswered", "unanswered", "")
    assign(clinic, row.id, C_LABEL, CARL)
    assert said(clinic, row.id) == [
        ("MRN-1", "F", "posted"),
        ("MRN-1", "W", "unanswered"),
        ("MRN-2", "F", "withdrawn"),
        ("MRN-2", "W", "queued"),
        ("MRN-3", "F", "queued"),
    ]


def test_what_was_refused_for_the_wrong_patient_can_not_be_sent_to_that_chart_again(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    answer(clinic, row.id, "refused", "refused", "AR")
    assign(clinic, row.id, B_LABEL, BEN)
    answer(clinic, row.id)
    assert clinic.row(row.id).state == "posted"
    with pytest.raises(Refused), clinic.acting() as acts:
        acts.resend(row.id)
    assert said(clinic, row.id) == [("MRN-1", "F", "withdrawn"), ("MRN-2", "F", "posted")]


def test_what_was_refused_after_an_attempt_without_answer_is_retracted(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    answer(clinic, row.id, "unanswered", "unanswered", "")
    answer(clinic, row.id, "refused", "refused", "AR")
    assign(clinic, row.id, B_LABEL, BEN)
    assert said(clinic, row.id)[1] == ("MRN-1", "W", "queued")


def test_a_correction_given_to_another_patient_takes_its_unsent_first_version_along(clinic: Clinic) -> None:
    test = ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"})
    [first] = clinic.run("hba1c-1", test)
    [second] = clinic.run("hba1c-1", replace(test, values={"HbA1c": "6.4"}))
    assign(clinic, second.id, B_LABEL, BEN)
    assert said(clinic, first.id) == [("MRN-1", "F", "withdrawn")]
    assert said(clinic, second.id) == [("MRN-1", "C", "withdrawn"), ("MRN-2", "F", "queued")]


def test_a_correction_given_to_another_patient_retracts_its_posted_first_version(clinic: Clinic) -> None:
    test = ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"})
    [first] = clinic.run("hba1c-1", test)
    answer(clinic, first.id)
    [second] = clinic.run("hba1c-1", replace(test, values={"HbA1c": "6.4"}))
    assign(clinic, second.id, B_LABEL, BEN)
    assert said(clinic, second.id) == [("MRN-1", "C", "withdrawn"), ("MRN-1", "W", "queued"), ("MRN-2", "F", "queued")]
    posted, retraction = (hl7.parse(clinic.messages(one.id)[place]["message"]) for one, place in ((first, 0), (second, 1)))
    assert str(retraction["OBR.F3"]) == str(posted["OBR.F3"])


def test_a_result_whose_order_was_taken_off_since_can_be_reassigned(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    answer(clinic, row.id)
    with writing(clinic.engine) as conn:
        conn.execute(delete(ordered_test).where(ordered_test.c.placer_order == "P-1"))
    assert assign(clinic, row.id, B_LABEL, BEN) == "queued"
    retraction = hl7.parse(clinic.messages(row.id)[1]["message"])
    assert (str(retraction["OBR.F2"]), str(retraction["OBR.F4.R1.C1"])) == ("P-1", "4548-4")


def test_an_undone_correction_leaves_the_first_version_as_it_was(clinic: Clinic) -> None:
    clinic.register("LAB-1", ANA, replace(HBA1C, placer_order="P-11"), issued=False)
    test = ran(specimen_id="LAB-1", values={"HbA1c": "6.1"})
    [first] = clinic.run("hba1c-1", test)
    with clinic.acting() as acts:
        acts.confirm(first.id)
    answer(clinic, first.id)
    [second] = clinic.run("hba1c-1", replace(test, values={"HbA1c": "6.4"}))
    with clinic.acting() as acts:
        acts.confirm(second.id)
    with clinic.acting() as acts:
        acts.undo(second.id)
    assert (clinic.row(first.id).state, clinic.row(second.id).state) == ("posted", "held")
    with clinic.acting() as acts:
        acts.confirm(second.id)
    assert said(clinic, second.id) == [("MRN-1", "C", "withdrawn"), ("MRN-1", "C", "queued")]
    with clinic.acting() as acts:
        acts.undo(second.id)
    assign(clinic, second.id, B_LABEL, BEN)
    assert clinic.row(second.id).filler != clinic.row(first.id).filler, "two patients' results share no filler number"


@pytest.mark.parametrize("act", ["undo", "resend"])
def test_nothing_is_done_with_a_version_in_whose_place_another_stands(clinic: Clinic, act: str) -> None:
    clinic.register("LAB-1", ANA, replace(HBA1C, placer_order="P-11"), issued=False)
    test = ran(specimen_id="LAB-1", values={"HbA1c": "6.1"})
    [first] = clinic.run("hba1c-1", test)
    with clinic.acting() as acts:
        acts.confirm(first.id)
    if act == "resend":
        answer(clinic, first.id, "refused", "refused", "AR")
    [second] = clinic.run("hba1c-1", replace(test, values={"HbA1c": "6.4"}))
    with clinic.acting() as acts:
        acts.confirm(second.id)
    with pytest.raises(Refused, match="superseded"), clinic.acting() as acts:
        getattr(acts, act)(first.id)


def test_what_was_dismissed_is_not_sent_again(clinic: Clinic) -> None:
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    answer(clinic, row.id, "refused", "refused", "AR")
    with clinic.acting() as acts:
        acts.dismiss(row.id, "typed into the chart by hand")
    with pytest.raises(Refused, match="dismissed"), clinic.acting() as acts:
        acts.resend(row.id)
    with clinic.acting() as acts:
        assert acts.undo(row.id) == ("dismissed", "refused")
    with clinic.acting() as acts:
        assert acts.resend(row.id) == 1


def test_an_assignment_that_retracts_an_earlier_version_is_not_undone(clinic: Clinic) -> None:
    test = ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"})
    [first] = clinic.run("hba1c-1", test)
    answer(clinic, first.id)
    [second] = clinic.run("hba1c-1", replace(test, values={"HbA1c": "6.4"}))
    assign(clinic, second.id, B_LABEL, BEN)
    with pytest.raises(Refused, match="may be in the chart"), clinic.acting() as acts:
        acts.undo(second.id)


def test_each_order_goes_where_its_own_test_goes(store: Engine, tmp_path: Path) -> None:
    two = SITE + 'tests = ["14957-5"]\n\n[[destinations]]\nname = "renal"\naddress = "127.0.0.1:2579"\ntests = ["2161-8"]\n'
    clinic = open_clinic(store, tmp_path, two)
    acr = [replace(HBA1C, code=code, placer_order=order) for code, order in (("14957-5", "P-18"), ("2161-8", "P-19"))]
    clinic.register(D_LABEL, ANA, *acr)
    [row] = clinic.run("hba1c-1", ran(specimen_id=D_LABEL, values={"Alb": "12.3", "Crt": "101.2"}))
    sent = [(one["destination"], str(hl7.parse(one["message"])["OBR.F2"])) for one in clinic.messages(row.id)]
    assert sent == [("ehr", "P-18"), ("renal", "P-19")]


def test_a_correction_goes_to_the_order_of_its_first_version(clinic: Clinic) -> None:
    """Another order for the same test, which sorts before the first, came in between."""
    clinic.register(D_LABEL, ANA, replace(HBA1C, placer_order="P-50"))
    test = ran(specimen_id=D_LABEL, values={"HbA1c": "6.1"})
    clinic.run("hba1c-1", test)
    clinic.register(D_LABEL, ANA, replace(HBA1C, placer_order="P-40"))
    [second] = clinic.run("hba1c-1", replace(test, values={"HbA1c": "6.4"}))
    assert second.tests == [["P-50", "4548-4"]]


def test_a_refused_retraction_is_told_also_where_its_result_is_held(clinic: Clinic) -> None:
    clinic.run("hba1c-1", ran(20, specimen_id=B_LABEL, sequence=7))
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL))
    answer(clinic, row.id)
    assert assign(clinic, row.id, B_LABEL, BEN) == "held", "this specimen has a result already"
    answer(clinic, row.id, "refused", "refused", "AR")
    with reading(clinic.engine) as conn:
        assert "retractions refused by the EHR" in [one.what for one in attention(conn, NINE)]
    with clinic.acting() as acts:
        assert acts.resend(row.id) == 1
