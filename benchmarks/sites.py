"""A clinic to measure on: its site file, its register of specimens, and a backlog from a day without the EHR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, insert

from chartbound.agent.store import schema, specimens
from chartbound.agent.store.engine import migrate, open_store, writing
from chartbound.hl7.chart import OrderedTest, Patient, Specimen

from .peers import CANNED, label

SITE = """\
[site]
facility = "RIVERSIDE"
timezone = "UTC"
state_dir = "state"

{instruments}
[[destinations]]
name = "ehr"
address = "127.0.0.1:{ehr}"
retry_seconds = [0.2, 1]
"""
DCA = """\
[[instruments]]
name = "hba1c-{number}"
driver = "dca_vantage"
port = "{port}"
"""
EKG = """\
[[instruments]]
name = "ekg-cart"
driver = "ekg"
folder = "{folder}"
"""


def make_site(folder: Path, ports: Iterable[str], ehr: int, *, results: int = 0, drop: Path | None = None) -> Path:
    """Write a site file with a DCA Vantage at each port, and register a specimen for each result to come."""
    folder.mkdir(parents=True)
    instruments = [DCA.format(number=number, port=port) for number, port in enumerate(ports, 1)]
    if drop is not None:
        drop.mkdir(parents=True)
        instruments.append(EKG.format(folder=drop.as_posix()))
    site = folder / "site.toml"
    site.write_text(SITE.format(instruments="\n".join(instruments), ehr=ehr), encoding="utf-8")
    (folder / "state").mkdir()
    engine = open_store("sqlite", folder / "state")
    migrate(engine)
    with writing(engine) as conn:
        for number in range(results):
            specimens.register(conn, specimen(number), datetime.now(UTC) - timedelta(hours=1))
    engine.dispose()
    return site


def specimen(number: int) -> Specimen:
    """The labelled specimen of result `number`, of a patient of its own, with an order for HbA1c."""
    return Specimen(
        specimen_id=label(number),
        patient=Patient(
            mrn=f"M{number}",
            last_name=f"LAST{number}",
            first_name="JANE",
            birth_date=date(1970, 1, 1),
            sex="F",
            authority="RIV",
        ),
        tests=(OrderedTest(code="4548-4", name="Hemoglobin A1c", coding_system="LN", placer_order=f"P{number}"),),
        specimen_type="BLD",
        collected_at=datetime.now(UTC) - timedelta(hours=1),
    )


def add_backlog(site: Path, count: int, *, patients: int) -> None:
    """Queue so many messages, as if the EHR had been away for a day; each is a report of its own."""
    engine = open_store("sqlite", site.parent / "state")
    with writing(engine) as conn:
        for start in range(1, count + 1, 1000):
            _queue(conn, range(start, min(start + 1000, count + 1)), patients)
    _fold(engine)


def _queue(conn: Connection, numbers: Sequence[int], patients: int) -> None:
    at = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {
            "id": number,
            "journal": "backlog",
            "unit": number,
            "ordinal": 0,
            "agent": "backlog",
            "instrument": "hba1c-1",
            "driver": "dca_vantage",
            "heard_at": at,
            "kind": "patient",
            "content": f"{number:040x}",
            "state": "queued",
            "evidence": [],
            "tests": [],
            "filler": f"F{number}",
            "body": {"kind": "patient", "observations": [{"code": "HbA1c", "value": "6.1", "unit": "%"}]},
        }
        for number in numbers
    ]
    conn.execute(insert(schema.report), rows)
    letters = [
        {
            "id": number,
            "report": number,
            "destination": "ehr",
            "control_id": f"{number:020d}",
            "patient": f"RIV|BACK{number % patients}",
            "body": CANNED % number,
            "state": "queued",
            "queued_at": at,
        }
        for number in numbers
    ]
    conn.execute(insert(schema.delivery), letters)


def _fold(engine: Engine) -> None:
    with engine.connect() as conn:
        conn.exec_driver_sql("COMMIT")
        conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        conn.exec_driver_sql("BEGIN")
    engine.dispose()
