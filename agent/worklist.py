"""What the store knows that bears on one reading: the specimens, claims and earlier results that matching weighs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection

from . import body
from .evidence import (
    Assignment,
    Claim,
    Confirmation,
    EarlierVersion,
    Entry,
    Filed,
    Neighbour,
    Reading,
    Reason,
    Release,
    Rules,
    Worklist,
    clock_doubt,
)
from .store import results, specimens
from .store.specimens import ClaimRow, Registered

_CLAIM_REACH = timedelta(hours=24)  # before the test: an older claim can take nothing and disagree with nothing
ACTS = ("confirmed", "assigned", "released")


def of(conn: Connection, row: results.ReportRow, reading: Reading, rules: Rules) -> Worklist:
    """Gather the worklist of this report, as evidence.Worklist describes it."""
    same = results.of_identity(conn, row.identity) if row.identity else ()
    own = {row.id, *(one.id for one in same if one.id < row.id)}
    versions = [one for one in same if one.state != "unreadable"]
    acts = standing_acts(conn, row.id) if row.state != "received" else {}
    claims = _claims(conn, row, reading)
    found = {one.id: one for one in _candidates(conn, reading, claims, acts)}
    labels = {one.id: one.specimen.specimen_id for one in found.values()}
    using = results.using_claim(conn, [claim.id for claim in claims]) if claims else ()
    used = {one.claim for one in using if one.id not in own}
    return Worklist(
        specimens=tuple(Entry(one.specimen, one.registered_at) for one in found.values()),
        claims=tuple(_claim(claim, labels[claim.specimen], claim.id in used) for claim in claims),
        neighbours=_neighbours(conn, row, claims, own, rules),
        filed=tuple(
            Filed(labels[specimen], placer_order, code)
            for specimen in found
            for one in results.filed_for(conn, specimen)
            if one.id not in own
            for placer_order, code in one.tests
        ),
        earlier=tuple(_version(conn, one) for one in versions if one.id < row.id),
        later=tuple(_version(conn, one) for one in versions if one.id > row.id),
        confirmation=_confirmation(acts.get("confirmed")),
        assignment=_assignment(acts.get("assigned")),
        release=_release(acts.get("released")),
    )


def held_for(conn: Connection, agent: str, changed: Iterable[Registered]) -> list[int]:
    """The reports held by this agent in whose worklist one of these specimens stands, by what `_candidates` looks for.

    To look at every held report again takes milliseconds for each, while the store waits: an order feed would stop it.
    """
    labels: set[str] = set()
    numbers: set[str] = set()
    rows: set[int] = set()
    for one in changed:
        specimen = one.specimen
        rows.add(one.id)
        labels.add(specimen.specimen_id)
        numbers |= {specimen.accession, specimen.patient.mrn, *(test.placer_order for test in specimen.tests)}
    stated_as = (labels | numbers) - {""}
    instruments = specimens.claimed_on(conn, agent, rows)
    acted_on = results.with_events(conn, ACTS, "held")

    def concerned(row: results.ReportRow) -> bool:
        if row.instrument in instruments:
            return True
        if any(str(row.body.get(name, "")).strip() in stated_as for name in ("specimen_id", "order_number", "patient_id")):
            return True
        said = standing_acts(conn, row.id).values() if row.id in acted_on else ()
        return any(one.get("specimen_id") in labels for one in said)

    return [row.id for row in results.held(conn, agent) if concerned(row)]


def standing_acts(conn: Connection, report_id: int) -> dict[str, dict[str, Any]]:
    """What people have said of this report and not undone: the newest of each kind, with the id of its event."""
    standing: dict[str, dict[str, Any]] = {}
    for event in results.events_of(conn, report_id):
        if event.what in ACTS:
            standing[event.what] = {"event": event.id, **event.detail}
        elif event.what == "undone":
            standing = {what: said for what, said in standing.items() if said["event"] != event.detail["event"]}
    return standing


def _claims(conn: Connection, row: results.ReportRow, reading: Reading) -> list[ClaimRow]:
    when = min(reading.observed_at or row.heard_at, row.heard_at)
    return specimens.claims_between(conn, row.agent, row.instrument, when - _CLAIM_REACH, row.heard_at)


def _candidates(
    conn: Connection, reading: Reading, claims: Iterable[ClaimRow], acts: dict[str, dict[str, Any]]
) -> Iterable[Registered]:
    report = reading.report
    if report.specimen_id:
        yield from _some(specimens.by_label(conn, report.specimen_id.strip()))
    if report.order_number:
        yield from specimens.by_order_number(conn, report.order_number.strip())
        yield from _some(specimens.by_label(conn, report.order_number.strip()))  # of an EKG the order is what is labelled
    if report.patient_id:
        yield from specimens.of_patient(conn, report.patient_id.strip())
    for claim in claims:
        yield from _some(specimens.by_id(conn, claim.specimen))
    for said in acts.values():
        yield from _some(specimens.by_label(conn, said.get("specimen_id", "")))


def _some(found: Registered | None) -> list[Registered]:
    return [] if found is None else [found]


def _neighbours(
    conn: Connection, row: results.ReportRow, claims: list[ClaimRow], own: set[int], rules: Rules
) -> tuple[Neighbour, ...]:
    if not claims:
        return ()
    since = min(claim.started_at for claim in claims) - timedelta(minutes=1)  # a clock of minutes shows the minute's start
    return tuple(
        _neighbour(one, rules, same_read=(one.journal, one.unit) == (row.journal, row.unit))
        for one in results.of_instrument_since(conn, row.agent, row.instrument, since)
        if one.id not in own
    )


def _neighbour(row: results.ReportRow, rules: Rules, *, same_read: bool) -> Neighbour:
    """Another reading; where its clock is in doubt its stated time is no help, and the time heard must do."""
    report = body.from_json(row.body)
    offset = None if row.clock_offset is None else timedelta(seconds=row.clock_offset)
    stated_at = None if row.observed_at is None else row.observed_at + (offset or timedelta())
    doubt = clock_doubt(Reading(report, row.instrument, row.heard_at, stated_at, offset), rules)
    return Neighbour(row.heard_at, None if doubt else row.observed_at, report.precision, same_read)


def _claim(claim: ClaimRow, label: str, used: bool) -> Claim:
    return Claim(
        id=claim.id,
        specimen_id=label,
        instrument=claim.instrument,
        started_at=claim.started_at,
        expires_at=claim.expires_at,
        ended_at=claim.ended_at,
        used=used,
    )


def _version(conn: Connection, row: results.ReportRow) -> EarlierVersion:
    filed_to = specimens.by_id(conn, row.specimen) if row.specimen and row.state in results.FILED else None
    return EarlierVersion(
        id=row.id,
        report=body.from_json(row.body),
        state=row.state,
        version=row.version,
        filed_to=filed_to.specimen.specimen_id if filed_to else "",
        tests=tuple((order, code) for order, code in row.tests) if filed_to else (),
    )


def _confirmation(said: dict[str, Any] | None) -> Confirmation | None:
    return Confirmation(said["specimen_id"], said["who"]) if said else None


def _assignment(said: dict[str, Any] | None) -> Assignment | None:
    if said is None:
        return None
    return Assignment(
        said["specimen_id"], said["last_name"], said["first_name"], date.fromisoformat(said["birth_date"]), said["who"]
    )


def _release(said: dict[str, Any] | None) -> Release | None:
    if said is None:
        return None
    reasons = frozenset(Reason(name) for name in said["reasons"])
    return Release(reasons, said["last_name"], said["first_name"], date.fromisoformat(said["birth_date"]), said["who"])
