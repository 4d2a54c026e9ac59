"""What each message of the order feed changes in the register, on both stores: orders, cancellations, patients, merges."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import Engine

from chartbound.agent import audit
from chartbound.agent.store import results
from chartbound.agent.store.engine import reading
from chartbound.hl7.chart import OrderedTest, Patient

from .clinic import ANA, BEN, NINE, SITE, identifiers, open_clinic, ran
from .order_feed import A1C, ORDERS, Feed, listening, order


@pytest.fixture
def feed(store: Engine, tmp_path: Path) -> Iterator[Feed]:
    (tmp_path / "drop" / "orders").mkdir(parents=True)
    with listening(open_clinic(store, tmp_path, SITE + ORDERS)) as feed:
        yield feed


def test_an_order_is_registered_as_the_ehr_states_it(feed: Feed) -> None:
    answer = feed.send(order().message("NW"))
    assert (answer.code, answer.text) == ("AA", "")
    found = feed.specimen("S-1").specimen
    assert found.patient == ANA
    assert found.tests == (OrderedTest(A1C, "HbA1c", "LN", "P-1", NINE),)
    assert (found.specimen_type, found.collected_at, found.issued) == ("BLD", NINE, False)
    assert feed.woken == ["senders"]
    with reading(feed.clinic.engine) as conn:
        assert audit.verify(conn) == []


def test_an_orm_has_its_label_in_the_filler_number(feed: Feed) -> None:
    assert feed.send(order().message("NW", "ORM^O01")).code == "AA"
    assert feed.specimen("S-1").specimen.accession == "S-1"


def test_a_held_result_files_when_its_order_comes(feed: Feed) -> None:
    [row] = feed.clinic.run("hba1c-1", ran(specimen_id="S-1", values={"HbA1c": "6.1"}))
    assert (row.state, row.reason) == ("held", "LABEL_UNKNOWN")
    assert feed.send(order().message("NW")).code == "AA"
    after = feed.clinic.row(row.id)
    assert (after.reason, after.label) == ("CONFIRMATION_DUE", "S-1")  # a label of the EHR's has no check character
    with feed.clinic.acting() as acts:
        acts.confirm(row.id)
    assert feed.clinic.row(row.id).tests == [["P-1", A1C]]
    [message] = feed.clinic.messages(row.id)
    assert "|4548-4^HbA1c^LN|" in message["message"]


def test_to_a_cancelled_order_nothing_is_matched(feed: Feed) -> None:
    feed.send(order().message("NW"))
    assert feed.send(order().message("CA")).code == "AA"
    assert feed.send(order().message("CA")).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled
    [row] = feed.clinic.run("hba1c-1", ran(specimen_id="S-1", values={"HbA1c": "6.1"}))
    assert row.state == "held"
    answer = feed.send(order().message("NW"))
    assert (answer.code, "was cancelled" in answer.text) == ("AE", True)


def test_a_status_changed_to_cancelled_is_a_cancellation(feed: Feed) -> None:
    feed.send(order().message("NW"))
    assert feed.send(order().message("SC")).code == "AA"
    assert not feed.specimen("S-1").specimen.cancelled
    assert feed.send(order().message("SC").replace(b"ORC|SC|P-1|||", b"ORC|SC|P-1|||CA")).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled


def test_a_cancellation_without_the_specimen_finds_it_by_the_order(feed: Feed) -> None:
    feed.send(order(tests=(A1C, "41653-7")).message("NW"))
    cancel = re.sub(rb"SPM\|[^\r]*\r", b"", order().message("CA"))
    assert feed.send(cancel).code == "AA"
    found = feed.specimen("S-1").specimen
    assert ([test.code for test in found.tests], found.cancelled) == (["41653-7"], False)
    assert feed.send(re.sub(rb"SPM\|[^\r]*\r", b"", order(tests=("41653-7",)).message("CA"))).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled
    assert feed.labels() == ["S-1"]


def test_a_cancellation_that_comes_before_its_order_keeps_it_closed(feed: Feed) -> None:
    assert feed.send(order().message("CA")).code == "AA"
    assert feed.specimen("S-1").specimen.cancelled
    assert feed.send(order().message("NW")).code == "AE"


def test_a_changed_order_adds_tests_and_says_what_was_not_known(feed: Feed) -> None:
    feed.send(order().message("NW").replace(b"SPM|1|S-1||BLD", b"SPM|1|S-1||"))
    assert feed.send(order(tests=(A1C, "41653-7")).message("XO")).code == "AA"
    found = feed.specimen("S-1").specimen
    assert ([test.code for test in found.tests], found.specimen_type) == ([A1C, "41653-7"], "BLD")


def test_a_label_of_another_patient_is_an_ae_and_takes_nothing_of_its_message(feed: Feed) -> None:
    feed.send(order().message("NW"))
    both = order(patient=BEN, tests=("41653-7",), label="S-2", number="P-2").message("NW")
    both += order(patient=BEN, tests=("41653-7",), number="P-2").message("NW").partition(b"ORC")[2].join((b"ORC", b""))
    for message in (both, order(patient=BEN).message("CA"), order(patient=BEN).message("XO")):
        answer = feed.send(message)
        assert (answer.code, "another patient" in answer.text) == ("AE", True)
        assert b"205^" in feed.exchange(message)
    assert feed.labels() == ["S-1"]
    assert feed.specimen("S-1").specimen.patient == ANA
    assert not feed.specimen("S-1").specimen.cancelled


def test_an_adt_changes_the_names_of_all_specimens_and_the_place_of_its_own_visit(feed: Feed) -> None:
    visit = b"PV1|1|O|ROOM 1||||||||||||||||%s\rORC"
    feed.send(order("S-1").message("NW").replace(b"ORC", visit % b"V-1"))
    feed.send(order("S-2", number="P-2").message("NW").replace(b"ORC", visit % b"V-2"))
    feed.send(order("S-3", BEN, "P-3").message("NW"))
    newly = replace(ANA, last_name="RIVERA-LOPEZ", birth_date=date(1961, 3, 6))
    moved = b"PV1|1|O|ROOM 7||||||||||||||||V-2"
    assert feed.send(order(patient=newly).update().replace(b"PV1|1|O", moved)).code == "AA"
    one, two, three = (feed.specimen(label).specimen.patient for label in ("S-1", "S-2", "S-3"))
    assert (one.last_name, one.birth_date, one.location) == ("RIVERA-LOPEZ", date(1961, 3, 6), "ROOM 1")
    assert (two.last_name, two.location) == ("RIVERA-LOPEZ", "ROOM 7")
    assert three == BEN
    assert feed.send(order(patient=Patient("MRN-1")).update()).code == "AA"
    assert feed.specimen("S-1").specimen.patient.last_name == "RIVERA-LOPEZ"  # what is left out stays


def test_an_adt_may_settle_a_doubt_about_a_held_result(feed: Feed) -> None:
    feed.send(order(patient=replace(ANA, last_name="MISSPELT")).message("NW"))
    [row] = feed.clinic.run("urine-1", ran(specimen_id="S-1", last_name="RIVERA", first_name="ANA"))
    assert row.state == "held"
    woken = len(feed.woken)
    assert feed.send(order().update()).code == "AA"
    assert len(feed.woken) == woken + 1
    assert feed.send(order().update()).code == "AA"
    assert len(feed.woken) == woken + 1  # nothing new: nobody is woken


def test_only_what_an_order_bears_on_is_looked_at_again_and_nothing_is_missed(feed: Feed) -> None:
    """After each message a look at every held result finds nothing left to change."""
    clinic = feed.clinic
    feed.send(order("S-0", number="P-0").message("NW"))
    with clinic.acting() as acts:
        acts.claim("S-0", "glucose-1")
    held = [
        *clinic.run("hba1c-1", ran(specimen_id="S-1"), ran(31, specimen_id="S-2"), ran(32, specimen_id="", patient_id="MRN-1")),
        *clinic.run("urine-1", ran(33, specimen_id="P-3", patient_id="MRN-2")),
        *clinic.run("glucose-1", ran(2)),
    ]

    def states() -> list[tuple[str, str, str | None]]:
        return [(row.state, row.reason, row.label) for row in (clinic.row(one.id) for one in held)]

    before = states()
    for message in (
        order().message("NW"),
        order("S-2", BEN, "P-3", ("24357-6",)).message("NW"),
        order("S-0", number="P-0", tests=("41653-7",)).message("XO"),
        order(patient=replace(ANA, last_name="OTHER")).update(),
        order().message("CA"),
        order("S-0", number="P-0", tests=(A1C, "41653-7")).message("CA"),
    ):
        assert feed.send(message).code == "AA"
        found = states()
        with clinic.acting() as acts:
            acts.verdicts.review(acts.conn, results.held_by(acts.conn, acts.verdicts.agent))
        assert states() == found
    assert found != before


def test_a_merge_moves_what_waits_and_refuses_where_messages_exist(feed: Feed) -> None:
    feed.send(order().message("NW"))
    merge = order(patient=BEN).update().replace(b"ADT^A08^ADT_A01", b"ADT^A40^ADT_A39").replace(b"PV1|1|O", b"MRG|MRN-1^^^^MR")
    assert feed.send(merge).code == "AA"
    assert feed.specimen("S-1").specimen.patient == BEN
    assert feed.send(merge).code == "AA"
    doubtful = feed.send(merge.replace(b"MRG|MRN-1^^^^MR", b"MRG|MRN-2^^^RIV^MR").replace(b"MRN-2^^^^MR", b"MRN-9^^^^MR"))
    assert (doubtful.code, "authority" in doubtful.text) == ("AE", True)
    [row] = feed.clinic.run("hba1c-1", ran(specimen_id="S-1", values={"HbA1c": "6.1"}))
    if row.state == "held":
        with feed.clinic.acting() as acts:
            acts.assign(row.id, "S-1", identifiers(BEN))
    back = order(patient=ANA).update().replace(b"ADT^A08^ADT_A01", b"ADT^A40^ADT_A39").replace(b"PV1|1|O", b"MRG|MRN-2^^^^MR")
    answer = feed.send(back)
    assert (answer.code, "later version" in answer.text) == ("AE", True)
    assert feed.specimen("S-1").specimen.patient == BEN
