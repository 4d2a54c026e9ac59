"""A clinic for the tests: a site, its store, and instruments that are heard without wires or threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from chartbound.agent.acts import Acts, Person
from chartbound.agent.journal_file import Heard
from chartbound.agent.orders import Ordered
from chartbound.agent.store import results
from chartbound.agent.store.engine import reading, writing
from chartbound.agent.verdict import Verdicts
from chartbound.config import catalog as catalogs
from chartbound.config import site as sites
from chartbound.drivers.driver import Contact
from chartbound.drivers.link import Unit
from chartbound.hl7 import label
from chartbound.hl7.chart import OrderedTest, Patient, Specimen
from chartbound.simulators import peer
from chartbound.simulators.in_memory import converse
from chartbound.simulators.peer import SimulatedTest

SITE = """\
[site]
facility = "RIVERSIDE"
timezone = "UTC"
state_dir = "state"

[[instruments]]
name = "hba1c-1"
driver = "dca_vantage"
port = "listen://127.0.0.1:4001"

[[instruments]]
name = "urine-1"
driver = "clinitek_status"
port = "listen://127.0.0.1:4002"
[instruments.options]
date_order = "mdy"
control_ids = ["CONTROL-*"]

[[instruments]]
name = "glucose-1"
driver = "onetouch_ultra2"
port = "socket://127.0.0.1:4003"
station = "room-2"

[[instruments]]
name = "ekg-cart"
driver = "ekg"
folder = "drop/ekg"

[[destinations]]
name = "ehr"
address = "127.0.0.1:2575"
"""
NINE = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)
ANA = Patient("MRN-1", "RIVERA", "ANA", date(1961, 3, 5), "F")
BEN = Patient("MRN-2", "OKAFOR", "BEN", date(1984, 11, 30), "M")
HBA1C = OrderedTest("4548-4", "HbA1c", placer_order="P-1")
URINE = OrderedTest("24357-6", "Urinalysis", placer_order="P-2")
GLUCOSE = OrderedTest("41653-7", "Glucose", placer_order="P-3")
EKG = OrderedTest("93000", "EKG", placer_order="P-4")
A_LABEL, B_LABEL, C_LABEL, D_LABEL = (label.issue(number) for number in (1, 2, 3, 4))


def identifiers(patient: Patient) -> Person:
    """The two identifiers by which a person names this patient."""
    assert patient.birth_date
    return Person(patient.last_name, patient.first_name, patient.birth_date)


@dataclass
class Clinic:
    """One site on one store; every unit heard is settled at once."""

    engine: Engine
    verdicts: Verdicts
    journal: str = "test-journal"
    units: int = 0

    @contextmanager
    def acting(self, at: datetime = NINE, who: str = "mlee") -> Iterator[Acts]:
        """A transaction in which a person acts."""
        with writing(self.engine) as conn:
            yield Acts(conn, self.verdicts, who, at)

    def register(
        self, specimen_id: str, patient: Patient, *tests: OrderedTest, issued: bool = True, at: datetime = NINE, **more: Any
    ) -> None:
        """Put a labelled specimen into the register."""
        specimen = Specimen(specimen_id, patient, tests, issued=issued, collected_at=at, **more)
        with self.acting(at) as acts:
            taken, problems = acts.register([Ordered(1, specimen)])
        assert not problems
        assert taken

    def run(self, instrument: str, *tests: SimulatedTest, heard_at: datetime | None = None) -> list[Any]:
        """Let the simulated instrument report these tests; return the rows of the reports that came of it."""
        site = self.verdicts.site.instrument(instrument)
        assert site
        driver = site.loaded
        at = heard_at or tests[-1].at.replace(tzinfo=UTC) + timedelta(seconds=20)
        simulated = peer.find(driver.name).peer(tests, at.replace(tzinfo=None))
        if driver.connect is None:
            units = [out.data for out in simulated.data_to_send()]
        else:
            link = driver.connect(site.options, Contact())
            events = converse(link, simulated, until=60.0, finished=lambda: simulated.done)
            events += link.receive_data(b"", 61.0)
            units = [event.data for event in events if isinstance(event, Unit)]
        assert units
        return [row for data in units for row in self.hear(instrument, data, at)]

    def hear(self, instrument: str, data: bytes, at: datetime = NINE, incomplete: str = "") -> Sequence[Any]:
        """Settle one unit; return the rows of its reports."""
        self.units += 1
        site = self.verdicts.site.instrument(instrument)
        return self.settle(Heard(self.units, instrument, site.driver if site else "", 0, at, incomplete, data))

    def settle(self, unit: Heard) -> Sequence[Any]:
        with writing(self.engine) as conn:
            self.verdicts.settle(conn, self.journal, unit)
        with reading(self.engine) as conn:
            return [row for row in results.listed(conn) if row.unit == unit.number][::-1]

    def row(self, report_id: int) -> Any:
        """This report with its specimen's label and patient."""
        with reading(self.engine) as conn:
            return results.shown(conn, report_id)

    def messages(self, report_id: int) -> list[dict[str, Any]]:
        """The messages built for this report."""
        with reading(self.engine) as conn:
            return results.messages_of(conn, report_id)


def open_clinic(engine: Engine, folder: Path, site_text: str = SITE, agent: str = "agent-1") -> Clinic:
    """A clinic with this site file on this store."""
    path = folder / "site.toml"
    path.write_text(site_text, encoding="utf-8")
    (folder / "drop" / "ekg").mkdir(parents=True, exist_ok=True)
    site = sites.load(path)
    clinic = Clinic(engine, Verdicts(site, catalogs.load(folder), agent))
    with writing(engine) as conn:
        for one in site.instruments:
            results.set_up(conn, agent, one.name, NINE - timedelta(days=1))
    return clinic


def ran(minute: int = 30, **stated: Any) -> SimulatedTest:
    """A test run at 9 o'clock and these minutes."""
    return SimulatedTest(at=datetime(2026, 1, 15, 9, 0) + timedelta(minutes=minute), **stated)  # noqa: DTZ001 - local clock
