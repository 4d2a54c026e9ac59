"""What a verdict does to the store: a match queues its messages, every other verdict keeps the report in its state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

import structlog
from sqlalchemy import Connection

from ..config.catalog import Catalog
from ..config.site import Destination, Site
from ..drivers.report import Report
from ..hl7.chart import OrderedTest, Patient, Specimen
from ..hl7.oru import NotConformant
from . import body, charting, shapes
from .charting import Filing, Origin
from .evidence import Evidence, Reading
from .fitting import Fit
from .matching import Duplicate, History, Hold, Match, ToQc
from .store import deliveries, results, specimens


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The driver could not read this report, or it is not of the instrument that belongs on this port."""

    why: str


log = structlog.get_logger("chartbound.verdict")

Kept: TypeAlias = Hold | ToQc | Duplicate | History | Unreadable
_STATES = {
    Hold: "held",
    ToQc: "qc",
    Duplicate: "duplicate",
    History: "dismissed",
    Unreadable: "unreadable",
}


def file(
    conn: Connection, site: Site, catalog: Catalog, row: results.ReportRow, reading: Reading, match: Match, doubt: str
) -> str:
    """Build and queue the messages of a match, one for each ordered test and destination. `doubt` is about the clock.

    Returns "" where that is done, else what HL7 or this site cannot carry, in words; then nothing was queued.
    """
    corrected = results.by_id(conn, match.corrects) if match.corrects else None
    origin = Origin(row.journal, row.unit, row.ordinal, issue=len(results.deliveries_of(conn, [row.id])))
    filler = corrected.filler if corrected else row.filler
    filings = list(_filings(site, row, origin, reading, match, doubt, filler))
    takers = [one for one in site.destinations if _takes(one, row.instrument, match.tests)]
    try:
        letters = [(one.name, *charting.message(filing, catalog, one.name, one.loaded)) for filing in filings for one in takers]
    except NotConformant as refused:
        return str(refused)
    if problem := shapes.problem(conn, (message for _, _, message in letters)):
        return problem
    state = "queued" if letters else "received"
    results.change(
        conn,
        row.id,
        state=state,
        reason="",
        why=match.why if letters else f"{match.why}; no destination of the site file takes it",
        specimen=specimens.row_of(conn, match.specimen.specimen_id),
        claim=match.claim,
        evidence=list(match.evidence),
        tests=[[test.placer_order, test.code] for test in match.tests],
        filler=filings[0].filler,
        version=match.version,
        earlier=match.corrects,
    )
    for letter in letters:
        _queue(conn, row.id, match.specimen.patient, letter, row.heard_at)
    _put_aside(conn, (*match.supersedes, *([match.corrects] if match.corrects else [])), row)
    _alarm(conn, match.contradicts, row)
    _log(conn, row, state, "", match.why)
    return ""


def retract(conn: Connection, site: Site, catalog: Catalog, row: results.ReportRow) -> int:
    """Tell every destination that has, or may have, this result that it was for the wrong patient; return how many that are.

    What was never sent is withdrawn. The retraction goes under the same filler number; the next message gets another.
    """
    sent = {one.destination for one in results.deliveries_of(conn, [row.id]) if one.state == "posted"}
    tried = set(deliveries.withdraw(conn, row.id, datetime.now(UTC)))
    sent |= {one.destination for one in results.deliveries_of(conn, [row.id]) if one.id in tried}
    specimen = specimens.by_id(conn, row.specimen)
    assert specimen is not None  # noqa: S101 - a filed report has its specimen
    tests = [test for test in specimen.specimen.tests if [test.placer_order, test.code] in row.tests]
    origin = Origin(row.journal, row.unit, row.ordinal, issue=len(results.deliveries_of(conn, [row.id])))
    filing = Filing(
        report=body.from_json(row.body),
        driver=row.driver,
        specimen=_on_site_clock(specimen.specimen, site),
        test=tests[0],
        origin=origin,
        filler=row.filler,
        version=row.version,
        heard_at=row.heard_at.astimezone(site.zone),
        observed_at=(row.observed_at or row.heard_at).astimezone(site.zone),
        facility=site.facility,
        retracts=True,
    )
    for one in (one for one in site.destinations if one.name in sent):
        letter = (one.name, *charting.message(filing, catalog, one.name, one.loaded))
        _queue(conn, row.id, specimen.specimen.patient, letter, datetime.now(UTC))
    results.change(conn, row.id, filler=replace(origin, issue=origin.issue + 1).filler(), version=1)
    results.log(conn, row.id, "retracted", datetime.now(UTC), {"destinations": sorted(sent)})
    return len(sent)


def keep(conn: Connection, row: results.ReportRow, verdict: Kept) -> None:
    """Keep a report that is not filed in the state that its verdict says, and say why."""
    state, reason, fit = _STATES[type(verdict)], "", None
    if isinstance(verdict, Hold):
        reason = verdict.reason.value
        fit = verdict.candidates[0] if len(verdict.candidates) == 1 else None
        _put_aside(conn, verdict.supersedes, row)
    if isinstance(verdict, Hold | ToQc):
        _alarm(conn, verdict.contradicts, row)
    results.change(
        conn,
        row.id,
        state=state,
        reason=reason,
        why=verdict.why,
        specimen=_row_of(conn, fit),
        claim=fit.claim.id if fit and fit.claim else None,
        evidence=[piece.value for piece in Evidence if fit and piece in fit.agrees],
        earlier=verdict.of if isinstance(verdict, Duplicate) else row.earlier,
    )
    if (state, reason) != (row.state, row.reason):
        _log(conn, row, state, reason, verdict.why)


def _filings(
    site: Site, row: results.ReportRow, origin: Origin, reading: Reading, match: Match, doubt: str, filler: str
) -> Iterable[Filing]:
    """One message for each ordered test, each with the values that it asks for; mostly there is one test for all."""
    for number, (test, report) in enumerate(_shared_out(reading, match.tests)):
        yield Filing(
            report=report,
            driver=row.driver,
            specimen=_on_site_clock(match.specimen, site),
            test=test,
            origin=replace(origin, part=number),
            filler=filler if number == 0 else f"{filler}-{number + 1}",
            version=match.version,
            heard_at=row.heard_at.astimezone(site.zone),
            observed_at=(reading.observed_at or row.heard_at).astimezone(site.zone),
            facility=site.facility,
            notes=(f"Time of test as the instrument stated it: {doubt}.",) if doubt else (),
        )


def _shared_out(reading: Reading, tests: Sequence[OrderedTest]) -> Iterable[tuple[OrderedTest, Report]]:
    report = reading.report
    if len(tests) == 1:
        return [(tests[0], report)]
    parts: dict[OrderedTest, list[int]] = {test: [] for test in tests}
    for place, asking in enumerate(reading.asked_by):
        parts[next((test for test in tests if test.code in asking), tests[0])].append(place)
    return [
        (test, replace(report, observations=tuple(report.observations[place] for place in places), impression=()))
        for test, places in parts.items()
    ]


def _on_site_clock(specimen: Specimen, site: Site) -> Specimen:
    at = specimen.collected_at
    return replace(specimen, collected_at=at.astimezone(site.zone)) if at else specimen


def _queue(conn: Connection, report_id: int, patient: Patient, letter: tuple[str, str, bytes], at: datetime) -> None:
    destination, control_id, message = letter
    deliveries.queue(
        conn,
        report_id,
        destination=destination,
        control_id=control_id,
        patient=f"{patient.authority}|{patient.mrn}",
        body=message,
        at=at,
    )


def _takes(destination: Destination, instrument: str, tests: Sequence[OrderedTest]) -> bool:
    return (not destination.instruments or instrument in destination.instruments) and (
        not destination.tests or any(test.code in destination.tests for test in tests)
    )


def _put_aside(conn: Connection, earlier: Iterable[int], row: results.ReportRow) -> None:
    """Earlier versions of this result need no person any more: this one stands in their place."""
    for report_id in earlier:
        results.change(conn, report_id, state="superseded", reason="", why=f"result {row.id} stands in its place")
        results.log(conn, report_id, "superseded", row.heard_at, {"by": row.id})


def _alarm(conn: Connection, filed: Iterable[int], row: results.ReportRow) -> None:
    """What is in a chart is contradicted by this result: shown on `status` until a person has seen to it."""
    for report_id in filed:
        results.log(conn, report_id, "contradicted", row.heard_at, {"by": row.id})
        results.raise_alarm(conn, report_id, "contradicted", row.heard_at, {"by": row.id})


def _row_of(conn: Connection, fit: Fit | None) -> int | None:
    return specimens.row_of(conn, fit.specimen.specimen_id) if fit else None


def _log(conn: Connection, row: results.ReportRow, state: str, reason: str, why: str) -> None:
    at = row.heard_at if row.state == "received" else datetime.now(UTC)
    results.log(conn, row.id, "settled", at, {"state": state, "reason": reason, "why": why})
    log.info("result", result=row.id, instrument=row.instrument, state=state, reason=reason)
