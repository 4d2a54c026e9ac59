"""What people and programs are shown of results: plain data, the same for the command line, its `--json` and the screens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row

from ..config.catalog import Catalog
from ..drivers import transcript
from ..drivers.report import Observation
from . import body
from .journal_file import JournalReader
from .store import results, specimens


def result_list(conn: Connection, catalog: Catalog, state: str | None, limit: int) -> list[dict[str, Any]]:
    """`results --json`: newest first."""
    return _results(conn, catalog, results.listed(conn, state, limit))


def result(conn: Connection, catalog: Catalog, report_id: int) -> dict[str, Any] | None:
    """One result as in the list, or None."""
    row = results.shown(conn, report_id)
    return _results(conn, catalog, [row])[0] if row is not None else None


def lineage(
    conn: Connection, catalog: Catalog, report_id: int, heard: Callable[[str, int], dict[str, Any]]
) -> dict[str, Any] | None:
    """One result's whole way: bytes heard, report, evidence, messages, each answer, acts of people.

    `heard(journal, number)` reads the unit and the raw bytes around it from the journal.
    """
    row = results.shown(conn, report_id)
    if row is None:
        return None
    claim = specimens.claim_by_id(conn, row.claim) if row.claim else None
    return {
        **_results(conn, catalog, [row])[0],
        "why": row.why,
        "critical": bool(row.critical),
        "clock_offset_seconds": row.clock_offset,
        "filler_order": row.filler,
        "version": row.version,
        "earlier": row.earlier,
        "patient": _patient(row),
        "heard": {"journal": row.journal, "unit": row.unit, "ordinal": row.ordinal, **heard(row.journal, row.unit)},
        "report": row.body,
        "claim": claim and {"who": claim.who, "station": claim.station, "started_at": _iso(claim.started_at)},
        "messages": results.messages_of(conn, report_id),
        "events": [{"at": _iso(event.at), "what": event.what, **event.detail} for event in results.events_of(conn, report_id)],
        "acts": results.acts_on(conn, report_id),
    }


def specimen_list(conn: Connection, limit: int) -> list[dict[str, Any]]:
    """`specimens list --json`: newest first."""
    found = []
    for row in specimens.listed(conn, limit=limit):
        one, who = row.specimen, row.specimen.patient
        found.append(
            {
                "specimen_id": one.specimen_id,
                "accession": one.accession,
                "mrn": who.mrn,
                "last_name": who.last_name,
                "first_name": who.first_name,
                "birth_date": who.birth_date.isoformat() if who.birth_date else None,
                "sex": who.sex,
                "specimen_type": one.specimen_type,
                "collected_at": _iso(one.collected_at),
                "issued_here": one.issued,
                "cancelled": one.cancelled,
                "tests": [{"code": t.code, "name": t.name, "placer_order": t.placer_order} for t in one.tests],
            }
        )
    return found


def _results(conn: Connection, catalog: Catalog, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    sent: dict[int, list[dict[str, Any]]] = {row.id: [] for row in rows}
    for one in results.deliveries_of(conn, list(sent)):
        sent[one.report].append(
            {
                "destination": one.destination,
                "control_id": one.control_id,
                "state": one.state,
                "ack_code": one.ack_code,
                "attempts": one.attempts,
                "outcome": one.outcome,
            }
        )
    return [_result(catalog, row, sent[row.id]) for row in rows]


def _result(catalog: Catalog, row: Row[Any], sent: list[dict[str, Any]]) -> dict[str, Any]:
    report = body.from_json(row.body)
    return {
        "id": row.id,
        "instrument": row.instrument,
        "driver": row.driver,
        "state": row.state,
        "reason": row.reason,
        "specimen_id": row.label,
        "placer_order": row.tests[0][0] if row.tests else "",
        "mrn": row.mrn,
        "sample_kind": row.kind,
        "observed_at": _iso(row.observed_at),
        "heard_at": _iso(row.heard_at),
        "evidence": row.evidence,
        "deliveries": sent,
        "observations": [_observation(catalog, row.driver, one) for one in report.observations],
    }


def _observation(catalog: Catalog, driver: str, one: Observation) -> dict[str, Any]:
    known = catalog.find(driver, one.code, one.unit)
    return {
        "code": one.code,
        "name": known.name if known else one.name,
        "loinc": known.loinc if known else None,
        "value": one.value,
        "comparator": one.comparator,
        "unit": one.unit,
        "flag": one.flag,
    }


def _patient(row: Row[Any]) -> dict[str, Any] | None:
    if row.mrn is None:
        return None
    return {
        "mrn": row.mrn,
        "last_name": row.last_name,
        "first_name": row.first_name,
        "birth_date": row.birth_date.isoformat() if row.birth_date else None,
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


class Journals:
    """The journals of a state folder, to look up what was heard for one result."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def __call__(self, journal: str, number: int) -> dict[str, Any]:
        """The unit and the raw bytes around it, in a transcript's words; empty where it was purged or is another PC's."""
        for path in sorted(self._state_dir.glob("journal*.db")):
            with closing(JournalReader(path)) as reader:
                if reader.id == journal and (unit := reader.unit(number)) is not None:
                    return {
                        "bytes": transcript.encode(unit.data),
                        "wire": [
                            {"at": raw.at.isoformat(), "direction": raw.direction, "bytes": transcript.encode(raw.data)}
                            for raw in reader.raw_around(number)
                        ],
                    }
        return {"bytes": None, "wire": []}
