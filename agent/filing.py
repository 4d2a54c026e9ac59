"""What a verdict does to the store: a match queues its messages, every other verdict keeps the report in its state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

import structlog
from sqlalchemy import Connection

from ..config.catalog import Catalog
from ..config.site import Destination, Site
from ..drivers.report import Report
from ..hl7.chart import OrderedTest, Patient, Specimen
from ..hl7.oru import NotConformant
from . import body, charting, readings, shapes
from .charting import Filing, Origin
from .evidence import Evidence, Reading, Reason
from .fitting import Fit
from .matching import Duplicate, History, Hold, Match, ToQc
from .store import deliveries, results, specimens
from .store.engine import after_commit


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
    built = results.deliveries_of(conn, [row.id]) if row.state != "received" else ()  # a report that is new has none
    origin = Origin(row.journal, row.unit, row.ordinal, issue=len(built))
    filler = corrected.filler if corrected else row.filler
    filings = list(_filings(site, row, origin, reading, match, doubt, filler))
    try:
        letters = [
            (one.name, *charting.message(filing, catalog, one.name, one.loaded))
            for filing in filings
            for one in site.destinations
            if _takes(one, row.instrument, filing.test)
        ]
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
    """Tell every destination that has, or may have, this result that it was for the wrong patient; return how many messages
    that takes. What was never sent is withdrawn, earlier versions of this result likewise.

    A retraction goes under the filler number of what it retracts, one for each ordered test that was answered; the next
    message gets another. Retractions that wait since an assignment before this one are left to go.
    """
    at = datetime.now(UTC)
    origin = Origin(row.journal, row.unit, row.ordinal, issue=len(results.deliveries_of(conn, [row.id])))
    told: set[tuple[str, str]] = set()
    for one in _versions(conn, row):
        in_charts = _may_be_in_charts(conn, one, at)
        for filing in _retractions(conn, site, catalog, one, origin):
            for there in site.destinations:
                key = (there.name, filing.filler)
                if key in in_charts - told:
                    letter = (there.name, *charting.message(filing, catalog, there.name, there.loaded))
                    _queue(conn, row.id, filing.specimen.patient, letter, at)
                    told.add(key)
    last = results.deliveries_of(conn, [row.id])
    results.change(conn, row.id, filler=replace(origin, issue=len(last)).filler(), version=1, earlier=None)
    detail = {"destinations": sorted({name for name, _ in told}), "through": last[-1].id if last else 0}
    results.log(conn, row.id, "retracted", at, detail)
    return len(told)


def _versions(conn: Connection, row: results.ReportRow) -> Iterable[results.ReportRow]:
    """This result and the earlier versions in whose place it stands under the same filler number, newest first."""
    yield row
    earlier = results.by_id(conn, row.earlier) if row.earlier else None
    if earlier is not None and earlier.state == "superseded" and earlier.filler == row.filler:
        yield from _versions(conn, earlier)


def _may_be_in_charts(conn: Connection, row: results.ReportRow, at: datetime) -> set[tuple[str, str]]:
    """Where this report has or may have arrived: destination and filler number. The rest is withdrawn.

    Messages from before its last retraction are done with, and retractions are no results.
    """
    through = max(
        (one.detail.get("through", 0) for one in results.events_of(conn, row.id) if one.what == "retracted"), default=0
    )
    uncertain = set(deliveries.withdraw(conn, row.id, at, after=through))
    return {
        (one.destination, _filler_in(bytes(one.body)))
        for one in deliveries.of_report(conn, row.id)
        if one.id > through and (one.state == deliveries.POSTED or one.id in uncertain)
    }


def _filler_in(message: bytes) -> str:
    """OBR-3 of a message of ours."""
    [order] = [segment for segment in message.split(b"\r") if segment.startswith(b"OBR|")]
    return order.split(b"|")[3].decode("ascii")


def _retractions(conn: Connection, site: Site, catalog: Catalog, row: results.ReportRow, origin: Origin) -> Iterable[Filing]:
    """This report once more for each test it was filed to; an order that was taken off since is named by what was kept."""
    registered = specimens.by_id(conn, row.specimen)
    assert registered is not None  # noqa: S101 - a filed report has its specimen
    open_tests = {(test.placer_order, test.code): test for test in registered.specimen.tests}
    tests = [open_tests.get((order, code), OrderedTest(code, placer_order=order)) for order, code in row.tests]
    report = body.from_json(row.body)
    asked_by = readings.asked_by(report, row.driver, catalog)
    for number, (test, part) in enumerate(_shared_out(report, asked_by, tests)):
        yield Filing(
            report=part,
            driver=row.driver,
            specimen=_on_site_clock(registered.specimen, site),
            test=test,
            origin=replace(origin, part=number),
            filler=_filler_of(row.filler, number),
            version=row.version,
            heard_at=row.heard_at.astimezone(site.zone),
            observed_at=(row.observed_at or row.heard_at).astimezone(site.zone),
            facility=site.facility,
            retracts=True,
        )


def undo(conn: Connection, row: results.ReportRow) -> None:
    """Take back that this result was filed, before anything of it was sent: the version before it stands again."""
    deliveries.withdraw(conn, row.id, datetime.now(UTC))
    earlier = next(iter(list(_versions(conn, row))[1:]), None)
    if earlier is not None and any(one.state != deliveries.WITHDRAWN for one in results.deliveries_of(conn, [earlier.id])):
        results.change(conn, earlier.id, state="queued", why=f"result {row.id} was undone")
        deliveries.refresh_report_state(conn, [earlier.id])
        results.log(conn, earlier.id, "stands again", datetime.now(UTC), {"instead_of": row.id})
    origin = Origin(row.journal, row.unit, row.ordinal, issue=len(results.deliveries_of(conn, [row.id])))
    results.change(conn, row.id, filler=origin.filler(), version=1, earlier=None)


def keep(conn: Connection, row: results.ReportRow, verdict: Kept) -> None:
    """Keep a report that is not filed in the state that its verdict says, and say why."""
    state, reason, fit = _STATES[type(verdict)], "", None
    if isinstance(verdict, Hold):
        reason = verdict.reason.value
        fit = verdict.candidates[0] if len(verdict.candidates) == 1 else None
        _put_aside(conn, verdict.supersedes, row)
    if isinstance(verdict, Hold | ToQc) and (state, reason) != (row.state, row.reason):
        doubt = Reason.IDENTITY_CONFLICT if isinstance(verdict, Hold) else Reason.SAMPLE_KIND_UNKNOWN
        _alarm(conn, [one for one in verdict.contradicts if not _held_back(conn, one, row, doubt)], row)
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
    for number, (test, report) in enumerate(_shared_out(reading.report, reading.asked_by, match.tests)):
        yield Filing(
            report=report,
            driver=row.driver,
            specimen=_on_site_clock(match.specimen, site),
            test=test,
            origin=replace(origin, part=number),
            filler=_filler_of(filler, number),
            version=match.version,
            heard_at=row.heard_at.astimezone(site.zone),
            observed_at=(reading.observed_at or row.heard_at).astimezone(site.zone),
            facility=site.facility,
            notes=(f"Time of test as the instrument stated it: {doubt}.",) if doubt else (),
        )


def _filler_of(filler: str, part: int) -> str:
    return filler if part == 0 else f"{filler}-{part + 1}"


def _shared_out(
    report: Report, asked_by: Sequence[frozenset[str]], tests: Sequence[OrderedTest]
) -> Iterable[tuple[OrderedTest, Report]]:
    if len(tests) == 1:
        return [(tests[0], report)]
    parts: dict[OrderedTest, list[int]] = {test: [] for test in tests}
    for place, asking in enumerate(asked_by):
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


def _takes(destination: Destination, instrument: str, test: OrderedTest) -> bool:
    return (not destination.instruments or instrument in destination.instruments) and (
        not destination.tests or test.code in destination.tests
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


def _held_back(conn: Connection, report_id: int, by: results.ReportRow, doubt: Reason) -> bool:
    """Hold a filed result that this one contradicts, where nothing of any version was sent yet; else there is only to alarm."""
    filed = results.by_id(conn, report_id)
    if filed is None or filed.version > 1 or any(one.attempts for one in results.deliveries_of(conn, [report_id])):
        return False
    undo(conn, filed)
    why = f"the instrument has since said the same measurement of another, as result {by.id}"
    blank: dict[str, Any] = {"specimen": None, "tests": [], "claim": None, "evidence": []}
    results.change(conn, report_id, state="held", reason=doubt.value, why=why, **blank)
    results.log(conn, report_id, "settled", by.heard_at, {"state": "held", "reason": doubt.value, "why": why})
    return True


def _row_of(conn: Connection, fit: Fit | None) -> int | None:
    return specimens.row_of(conn, fit.specimen.specimen_id) if fit else None


def _log(conn: Connection, row: results.ReportRow, state: str, reason: str, why: str) -> None:
    at = row.heard_at if row.state == "received" else datetime.now(UTC)
    results.log(conn, row.id, "settled", at, {"state": state, "reason": reason, "why": why})
    announce(conn, row.id, row.instrument, state, reason)


def announce(conn: Connection, report_id: int, instrument: str, state: str, reason: str = "") -> None:
    """Put a verdict into the agent's log, once it is committed."""
    after_commit(conn, lambda: log.info("result", result=report_id, instrument=instrument, state=state, reason=reason))
