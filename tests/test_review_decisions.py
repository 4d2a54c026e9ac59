"""What is decided later, or again, rests on everything that was heard, and right results find their way."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from chartbound.agent.attention import gaps
from chartbound.agent.judge import look_again
from chartbound.agent.store import deliveries
from chartbound.agent.store.deliveries import Attempt
from chartbound.agent.store.engine import reading, writing
from chartbound.agent.store.schema import alarm, event
from chartbound.agent.writer import StoreWriter
from chartbound.drivers import driver as drivers
from chartbound.drivers.driver import Contact
from chartbound.drivers.link import Unit
from chartbound.drivers.report import SampleKind
from chartbound.simulators import peer
from chartbound.simulators.in_memory import converse
from chartbound.simulators.peer import SimulatedTest

from .clinic import A_LABEL, ANA, B_LABEL, BEN, C_LABEL, GLUCOSE, HBA1C, NINE, SITE, URINE, Clinic, open_clinic, ran


@pytest.fixture
def clinic(store: Engine, tmp_path: Path) -> Clinic:
    return open_clinic(store, tmp_path)


def test_a_held_result_that_the_instrument_has_since_stated_of_another_is_not_filed_by_itself(clinic: Clinic) -> None:
    """The label was typed wrong and then mended at the analyzer; what was typed is registered afterwards for somebody else."""
    clinic.register(B_LABEL, BEN, URINE)
    test = ran(specimen_id=A_LABEL)
    [first] = clinic.run("urine-1", test)
    [second] = clinic.run("urine-1", replace(test, specimen_id=B_LABEL))
    assert (first.reason, second.reason) == ("LABEL_UNKNOWN", "IDENTITY_CONFLICT")
    clinic.register(A_LABEL, ANA, replace(URINE, placer_order="P-22"))
    assert (clinic.row(first.id).state, clinic.row(first.id).reason) == ("held", "IDENTITY_CONFLICT")
    assert clinic.messages(first.id) == []


def test_a_held_result_that_the_instrument_has_since_called_a_control_reaches_no_chart(clinic: Clinic) -> None:
    test = ran(specimen_id=A_LABEL)
    [first] = clinic.run("hba1c-1", test)
    [second] = clinic.run("hba1c-1", replace(test, kind=SampleKind.CONTROL))
    assert (first.reason, second.state) == ("LABEL_UNKNOWN", "qc")
    clinic.register(A_LABEL, ANA, HBA1C)
    assert (clinic.row(first.id).state, clinic.row(first.id).reason) == ("held", "SAMPLE_KIND_UNKNOWN")


def test_a_conflict_is_told_once_however_often_it_is_looked_at(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, URINE)
    clinic.register(B_LABEL, BEN, replace(URINE, placer_order="P-22"))
    test = ran(specimen_id=A_LABEL)
    [first] = clinic.run("urine-1", test)
    with writing(clinic.engine) as conn:
        [letter] = deliveries.of_report(conn, first.id)
        deliveries.record(conn, [Attempt(letter.id, 1, "posted", "delivered", NINE)])
    clinic.run("urine-1", replace(test, specimen_id=B_LABEL))

    def told() -> tuple[int, int]:
        with reading(clinic.engine) as conn:
            return tuple(conn.execute(select(func.count()).select_from(table)).scalar_one() for table in (alarm, event))  # type: ignore[return-value]

    before = told()
    for number in range(3):
        clinic.register(f"OTHER-{number}", ANA, replace(HBA1C, placer_order=f"P-5{number}"), issued=False)
    assert told() == before
    assert before[0] == 1


@pytest.mark.parametrize(
    ("since", "reason"),
    [({"specimen_id": B_LABEL}, "IDENTITY_CONFLICT"), ({"kind": SampleKind.CONTROL}, "SAMPLE_KIND_UNKNOWN")],
)
def test_what_is_contradicted_before_it_is_sent_is_not_sent(clinic: Clinic, since: dict[str, Any], reason: str) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.register(B_LABEL, BEN, replace(HBA1C, placer_order="P-22"))
    test = ran(specimen_id=A_LABEL)
    [first] = clinic.run("hba1c-1", test)
    assert first.state == "queued"
    clinic.run("hba1c-1", replace(test, **since))
    assert (clinic.row(first.id).state, clinic.row(first.id).reason) == ("held", reason)
    assert [one["state"] for one in clinic.messages(first.id)] == ["withdrawn"]
    clinic.register(C_LABEL, ANA, replace(HBA1C, placer_order="P-23"))
    assert clinic.row(first.id).state == "held"


def test_results_refused_for_a_wrong_serial_number_in_the_site_file_are_taken_once_it_is_mended(
    store: Engine, tmp_path: Path
) -> None:
    wrong = SITE.replace('station = "room-2"', 'serial_number = "OTHER"')
    wrong = wrong.replace('port = "listen://127.0.0.1:4001"', 'port = "listen://127.0.0.1:4001"\nserial_number = "OTHER"')
    clinic = open_clinic(store, tmp_path, wrong)
    glucose, hba1c = ran(30, values={"GLU": "112"}), ran(specimen_id=A_LABEL)
    [refused] = clinic.run("glucose-1", glucose)
    [refused_too] = clinic.run("hba1c-1", hba1c)
    assert (refused.state, refused_too.state) == ("unreadable", "unreadable")
    mended = open_clinic(store, tmp_path)
    mended.units = clinic.units
    mended.register(A_LABEL, ANA, HBA1C)
    [taken] = mended.run("glucose-1", glucose)
    [taken_too] = mended.run("hba1c-1", hba1c)
    assert (taken.state, taken.reason, taken_too.state) == ("held", "NO_SPECIMEN", "queued")
    assert mended.run("glucose-1", glucose) == []


def test_a_gap_is_told_also_where_the_numbers_have_come_round_again(clinic: Clinic) -> None:
    for number in (411, 412, 413, 414):
        clinic.run("hba1c-1", ran(number - 400, sequence=number, specimen_id=f"X-{number}"))
    later = timedelta(days=200)
    for number in (411, 414):
        test = replace(ran(30, sequence=number, specimen_id=f"Y-{number}"))
        clinic.run("hba1c-1", replace(test, at=test.at + later))
    with reading(clinic.engine) as conn:
        assert [gap["said"] for gap in gaps(conn, NINE + later - timedelta(days=1))] == ["412–413"]


def test_what_was_held_for_the_catalogs_sake_is_looked_at_when_the_agent_starts_with_a_mended_one(
    clinic: Clinic, tmp_path: Path
) -> None:
    clinic.register(A_LABEL, ANA, URINE)
    [row] = clinic.run("urine-1", ran(specimen_id=A_LABEL, values={"GLU": "5.5 g/L"}))
    assert row.reason == "UNKNOWN_UNIT"
    own = tmp_path / "catalog"
    own.mkdir()
    shipped = Path(str(files("chartbound"))) / "config" / "catalog" / "clinitek_status.csv"
    header, *rows = shipped.read_text(encoding="utf-8").splitlines()
    [mended] = [one for one in rows if one.startswith("clinitek_status,GLU,mg/dL,")]
    (own / "own.csv").write_text(f"{header}\n{mended.replace('mg/dL', 'g/L')}\n", encoding="utf-8")
    writer = StoreWriter(clinic.engine)
    look_again(open_clinic(clinic.engine, tmp_path).verdicts, writer, lambda: None)
    writer.start()
    try:
        assert writer.flush(20.0)
    finally:
        writer.stop()
    assert clinic.row(row.id).state == "queued"


def read_out(tests: tuple[SimulatedTest, ...], clock: datetime, driver: str = "onetouch_ultra2") -> bytes:
    """The meter's memory with these tests, read while its own clock shows this."""
    link = drivers.find(driver).connect(drivers.Options(), Contact())  # type: ignore[misc]
    simulated = peer.find(driver).peer(tests, clock.replace(tzinfo=None))
    [unit] = converse(link, simulated, until=60.0, finished=lambda: simulated.done)
    assert isinstance(unit, Unit)
    return unit.data


def test_a_clock_that_was_set_since_the_contact_before_is_no_evidence_for_a_claim(clinic: Clinic) -> None:
    """Its clock an hour ahead, a meter measured at 9:10 and says 10:10; the clock was then set right, and at 10:05 claimed."""
    clinic.register(C_LABEL, ANA, GLUCOSE)
    first, neighbours_strip = ran(55, values={"GLU": "90"}), ran(70, values={"GLU": "250"}, sequence=2)
    clinic.hear("glucose-1", read_out((first,), NINE + timedelta(minutes=65)), NINE + timedelta(minutes=5))
    with clinic.acting(NINE + timedelta(minutes=65)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    at = NINE + timedelta(minutes=75)
    [row] = clinic.hear("glucose-1", read_out((first, neighbours_strip), at), at)
    assert (row.state, row.reason) == ("held", "CLOCK_DOUBTFUL")
    own = ran(80, values={"GLU": "105"}, sequence=3)
    at = NINE + timedelta(minutes=85)
    [row] = clinic.hear("glucose-1", read_out((first, neighbours_strip, own), at), at)
    assert row.reason != "CLOCK_DOUBTFUL", "every reading from then on was made by the clock as it is now"


@pytest.mark.parametrize("driver", ["onetouch_ultra2", "contour"])
def test_a_long_memory_does_not_make_the_meters_clock_look_slow(driver: str) -> None:
    """A minute of transmission is no minute of the clock: else a strip run before a claim would look as if run after it."""
    tests = tuple(ran(number, values={}, sequence=number) for number in range(40))
    link = drivers.find(driver).connect(drivers.Options(), Contact())  # type: ignore[misc]
    simulated = peer.find(driver).peer(tests, datetime(2026, 1, 15, 12, 0))  # noqa: DTZ001 - local clock
    units: list[Unit] = []
    now, told_at = 0.0, 0.0
    while not units:
        if link.deadline is not None and now >= link.deadline:
            link.handle_timeout(now)
        for out in link.data_to_send():
            simulated.receive_data(out.data, now)
        if simulated.deadline is not None and now >= simulated.deadline:
            simulated.handle_timeout(now)
        for out in simulated.data_to_send():
            for byte in out.data:
                now += 0.02
                units += [event for event in link.receive_data(bytes([byte]), now) if isinstance(event, Unit)]
            if b"12:00:00" in out.data or b"202601151200" in out.data:
                told_at = now
        now += 0.01
        assert now < 600
    [unit] = units
    assert now - told_at > 20
    assert unit.ago == pytest.approx(now - told_at, abs=4)


def test_a_sequence_number_that_no_counter_counts_to_holds_up_no_result(clinic: Clinic) -> None:
    clinic.register(A_LABEL, ANA, HBA1C)
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL, sequence=10**30))
    assert (row.state, row.sequence) == ("queued", None)
