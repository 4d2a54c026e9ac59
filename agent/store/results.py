"""Named queries on what was heard and decided: units, reports and what happened to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, update

from .schema import alarm, audit, delivery, event, instrument, report, specimen, unit

STATES = (
    "received",
    "duplicate",
    "unreadable",
    "qc",
    "held",
    "queued",
    "posted",
    "refused",
    "dismissed",
    "superseded",
)
FILED = ("queued", "posted", "refused")  # a message for the chart exists

ReportRow = Row[Any]

# Statements that every result needs are made once: making one takes several times as long as doing it.
_IS_SETTLED = select(unit.c.number).where(unit.c.journal == bindparam("in_journal"), unit.c.number == bindparam("at"))
_SETTLED_AMONG = select(unit.c.number).where(
    unit.c.journal == bindparam("in_journal"), unit.c.number.in_(bindparam("among", expanding=True))
)
_SETTLE = insert(unit)
_SET_UP = select(instrument.c.set_up_at).where(
    instrument.c.agent == bindparam("of_agent"), instrument.c.name == bindparam("called")
)
_ADD = insert(report).returning(*report.c)
_CHANGE = update(report).where(report.c.id == bindparam("row"))
_BY_ID = select(report).where(report.c.id == bindparam("row"))
_OF_IDENTITY = select(report).where(report.c.identity == bindparam("same"), report.c.state != "duplicate").order_by(report.c.id)
_FILED_FOR = select(report).where(report.c.specimen == bindparam("to"), report.c.state.in_(FILED)).order_by(report.c.id)
_USING_CLAIM = select(report).where(report.c.claim.in_(bindparam("claims", expanding=True)), report.c.state.in_(FILED))
_LAST_SEQUENCE = (
    select(report.c.sequence)
    .where(
        report.c.agent == bindparam("of_agent"),
        report.c.instrument == bindparam("called"),
        report.c.sequence.is_not(None),
    )
    .order_by(report.c.heard_at.desc(), report.c.id.desc())  # as the index has them: no other reports are looked at
    .limit(1)
)
_CONTACT_BEFORE = (
    select(report)
    .where(
        report.c.agent == bindparam("of_agent"),
        report.c.instrument == bindparam("called"),
        report.c.heard_at < bindparam("before"),
        report.c.clock_offset.is_not(None),
    )
    .order_by(report.c.heard_at.desc(), report.c.id.desc())
    .limit(1)
)
_LOG = insert(event)
_HELD_ON_CLAIM = (
    select(report)
    .where(
        report.c.state == "held",
        report.c.agent == bindparam("of_agent"),
        report.c.instrument == bindparam("called"),
        report.c.claim.is_not(None),
    )
    .order_by(report.c.id)
)
_DELIVERIES_OF = (
    select(*(column for column in delivery.c if column.name != "body"))
    .where(delivery.c.report.in_(bindparam("of", expanding=True)))
    .order_by(delivery.c.id)
)


def is_settled(conn: Connection, journal: str, number: int) -> bool:
    return conn.execute(_IS_SETTLED, {"in_journal": journal, "at": number}).first() is not None


def settled_among(conn: Connection, journal: str, numbers: Sequence[int]) -> set[int]:
    """Which of these units of the journal have a verdict."""
    return set(conn.execute(_SETTLED_AMONG, {"in_journal": journal, "among": list(numbers)}).scalars())


def settled_before(conn: Connection, journal: str, before: datetime, since: int) -> set[int]:
    """The units of this journal, from the number `since` on, that were settled before this time."""
    query = select(unit.c.number).where(unit.c.journal == journal, unit.c.number >= since, unit.c.settled_at < before)
    return set(conn.execute(query).scalars())


def settled_numbers(conn: Connection, journal: str, since: int = 0) -> set[int]:
    """The numbers of this journal's units that have a verdict."""
    query = select(unit.c.number).where(unit.c.journal == journal, unit.c.number >= since)
    return set(conn.execute(query).scalars())


def settle(
    conn: Connection,
    *,
    journal: str,
    number: int,
    instrument: str,
    heard_at: datetime,
    at: datetime,
    incomplete: str = "",
    reports: int = 0,
    rereads: int = 0,
) -> None:
    """Say that this unit has its verdict; doing it again is refused by the key.

    `reports` were found in it, and so many known readings of a meter's memory (`rereads`) beside them.
    """
    conn.execute(
        _SETTLE,
        {
            "journal": journal,
            "number": number,
            "instrument": instrument,
            "heard_at": heard_at,
            "settled_at": at,
            "incomplete": incomplete[:200],
            "reports": reports,
            "rereads": rereads,
        },
    )


def set_up(conn: Connection, agent: str, name: str, at: datetime) -> datetime:
    """Since when this agent hears this instrument; noted at the first time of asking."""
    known: datetime | None = conn.execute(_SET_UP, {"of_agent": agent, "called": name}).scalar()
    if known is None:
        conn.execute(insert(instrument).values(agent=agent, name=name, set_up_at=at))
        return at
    return known


def add(conn: Connection, values: dict[str, Any]) -> ReportRow:
    """Keep a report; return it as it stands in the store."""
    return conn.execute(_ADD, values).one()


def change(conn: Connection, report_id: int, **values: Any) -> None:
    conn.execute(_CHANGE, {"row": report_id, **values})


def by_id(conn: Connection, report_id: int) -> ReportRow | None:
    return conn.execute(_BY_ID, {"row": report_id}).first()


def of_identity(conn: Connection, identity: str) -> Sequence[ReportRow]:
    """Every report that the instrument says is this same result, oldest first; duplicates left out."""
    return conn.execute(_OF_IDENTITY, {"same": identity}).all()


def known_contents(conn: Connection, identities: Iterable[str]) -> dict[tuple[str, str], bool]:
    """Which of these identities the store holds, with their contents, and whether they were more than unreadable.

    So a meter's known readings are told from new ones.
    """
    wanted = list(identities)
    known: dict[tuple[str, str], bool] = {}
    for start in range(0, len(wanted), 500):
        chunk = wanted[start : start + 500]
        columns = (report.c.identity, report.c.content, report.c.state)
        for identity, content, state in conn.execute(select(*columns).where(report.c.identity.in_(chunk))):
            known[identity, content] = known.get((identity, content), False) or state != "unreadable"
    return known


def filed_for(conn: Connection, specimen_id: int) -> Sequence[ReportRow]:
    """The reports that have gone, or are going, to the chart for this specimen."""
    return conn.execute(_FILED_FOR, {"to": specimen_id}).all()


def of_instrument_since(conn: Connection, agent: str, name: str, since: datetime) -> Sequence[ReportRow]:
    """Readings of this instrument, of a patient or of unknown kind, that were heard since this time; duplicates left out."""
    return conn.execute(
        select(report).where(
            report.c.agent == agent,
            report.c.instrument == name,
            report.c.heard_at >= since,
            report.c.kind.in_(("patient", "unknown")),
            report.c.state != "duplicate",
        )
    ).all()


def contact_before(conn: Connection, row: ReportRow) -> ReportRow | None:
    """A report of the contact before this one's at which the instrument told its clock; None where there is none."""
    said = {"of_agent": row.agent, "called": row.instrument, "before": row.heard_at}
    return conn.execute(_CONTACT_BEFORE, said).first()


def using_claim(conn: Connection, claims: Iterable[int]) -> Sequence[ReportRow]:
    """The reports that were filed on these claims."""
    return conn.execute(_USING_CLAIM, {"claims": list(claims)}).all()


def held(conn: Connection, agent: str) -> Sequence[ReportRow]:
    """The held reports that this agent heard, oldest first, whole."""
    return conn.execute(select(report).where(report.c.state == "held", report.c.agent == agent).order_by(report.c.id)).all()


def held_by(conn: Connection, agent: str) -> list[int]:
    """Their ids alone."""
    query = select(report.c.id).where(report.c.state == "held", report.c.agent == agent).order_by(report.c.id)
    return list(conn.execute(query).scalars())


def last_sequence(conn: Connection, agent: str, instrument: str) -> int | None:
    """The highest running number heard from this instrument at its newest report."""
    return conn.execute(_LAST_SEQUENCE, {"of_agent": agent, "called": instrument}).scalar()


def log(conn: Connection, report_id: int | None, what: str, at: datetime, detail: dict[str, Any]) -> None:
    """Append what happened to a report."""
    conn.execute(_LOG, {"report": report_id, "what": what, "at": at, "detail": detail})


def with_events(conn: Connection, whats: Iterable[str], state: str) -> set[int]:
    """The reports in this state to which one of these things has happened."""
    of_state = select(report.c.id).where(report.c.state == state)
    query = select(event.c.report).where(event.c.what.in_(list(whats)), event.c.report.in_(of_state))
    return set(conn.execute(query.distinct()).scalars())


def events_of(conn: Connection, report_id: int) -> Sequence[Row[Any]]:
    return conn.execute(select(event).where(event.c.report == report_id).order_by(event.c.id)).all()


def raise_alarm(conn: Connection, report_id: int | None, what: str, at: datetime, detail: dict[str, Any]) -> None:
    """Append something that a person must be told of."""
    conn.execute(insert(alarm).values(report=report_id, what=what, at=at, detail=detail))


def alarms(conn: Connection, what: str, since: datetime) -> Sequence[Row[Any]]:
    """Every alarm of one kind since this time, newest first."""
    query = select(alarm).where(alarm.c.what == what, alarm.c.at >= since)
    return conn.execute(query.order_by(alarm.c.id.desc()).limit(200)).all()


def listed(conn: Connection, state: str | None = None, limit: int = 200) -> Sequence[Row[Any]]:
    """Reports, newest first, with the label and patient they are assigned to."""
    query = _with_specimen()
    if state:
        query = query.where(report.c.state == state)
    return conn.execute(query.order_by(report.c.id.desc()).limit(limit)).all()


def shown(conn: Connection, report_id: int) -> Row[Any] | None:
    return conn.execute(_with_specimen().where(report.c.id == report_id)).first()


def _with_specimen() -> Select[Any]:
    return select(
        report,
        specimen.c.specimen_id.label("label"),
        specimen.c.mrn,
        specimen.c.last_name,
        specimen.c.first_name,
        specimen.c.birth_date,
    ).select_from(report.outerjoin(specimen, report.c.specimen == specimen.c.id))


def deliveries_of(conn: Connection, reports: Sequence[int]) -> Sequence[Row[Any]]:
    """Their deliveries without the bytes, oldest first."""
    return conn.execute(_DELIVERIES_OF, {"of": list(reports)}).all()


def messages_of(conn: Connection, report_id: int) -> list[dict[str, Any]]:
    """The messages built for this report, as they go on the wire."""
    rows = conn.execute(select(delivery).where(delivery.c.report == report_id).order_by(delivery.c.id)).all()
    return [
        {
            "destination": row.destination,
            "control_id": row.control_id,
            "state": row.state,
            "attempts": row.attempts,
            "ack_code": row.ack_code,
            "outcome": row.outcome,
            "queued_at": row.queued_at.isoformat(),
            "next_attempt_at": row.next_attempt_at.isoformat() if row.next_attempt_at else None,
            "settled_at": row.settled_at.isoformat() if row.settled_at else None,
            "message": bytes(row.body).decode("utf-8", "backslashreplace"),
        }
        for row in rows
    ]


def recount(conn: Connection, journal: str, number: int, reports: int) -> None:
    """Correct how many reports this unit held, after it was read again."""
    key = (unit.c.journal == journal) & (unit.c.number == number)
    conn.execute(update(unit).where(key).values(reports=reports))


def unread_units(conn: Connection, agent: str, journal: str) -> list[tuple[int, int]]:
    """Units of this journal that could not be read as a whole: the id of what stands for each, and its number."""
    whole = select(unit.c.number).where(unit.c.journal == journal, unit.c.reports == 1)
    query = select(report.c.id, report.c.unit).where(
        report.c.state == "unreadable",
        report.c.agent == agent,
        report.c.journal == journal,
        report.c.identity.is_(None),
        report.c.kind == "unknown",
        report.c.unit.in_(whole),
    )
    return [(row.id, row.unit) for row in conn.execute(query.order_by(report.c.id))]


def last_act(conn: Connection) -> int:
    """The row of the last act of anybody on this store; 0 where there is none."""
    return int(conn.execute(select(func.coalesce(func.max(audit.c.id), 0))).scalar_one())


def others_acted(conn: Connection, agent: str, since: int) -> bool:
    """Whether somebody at another PC has acted on this store after this row of the record."""
    return conn.execute(select(audit.c.id).where(audit.c.id > since, audit.c.agent != agent).limit(1)).first() is not None


def acts_on(conn: Connection, report_id: int) -> list[dict[str, Any]]:
    """What people did with this report."""
    rows = conn.execute(select(audit).where(audit.c.subject == f"result {report_id}").order_by(audit.c.id)).all()
    return [{**row.detail, "at": row.at.isoformat(), "who": row.who, "act": row.act} for row in rows]


def counts(conn: Connection) -> dict[str, int]:
    """How many reports are in each state."""
    query = select(report.c.state, func.count()).group_by(report.c.state)
    found = {state: int(count) for state, count in conn.execute(query).all()}
    return {state: found.get(state, 0) for state in STATES}


def unit_counts(conn: Connection) -> tuple[int, int, int]:
    """The reports found in all settled units, the units that never completed, and the readings that were re-reads."""
    query = select(
        func.coalesce(func.sum(unit.c.reports), 0),
        func.count().filter(unit.c.incomplete != ""),
        func.coalesce(func.sum(unit.c.rereads), 0),
    )
    found, incomplete, rereads = conn.execute(query).one()
    return int(found), int(incomplete), int(rereads)


def oldest(conn: Connection, state: str) -> datetime | None:
    """When the oldest report in this state was heard."""
    return conn.execute(select(func.min(report.c.heard_at)).where(report.c.state == state)).scalar()


def incomplete_units(conn: Connection, since: datetime) -> Sequence[Row[Any]]:
    return conn.execute(
        select(unit).where(unit.c.incomplete != "", unit.c.heard_at >= since).order_by(unit.c.heard_at.desc()).limit(50)
    ).all()


def count_and_oldest(conn: Connection, state: str, *, critical: bool = False) -> tuple[int, datetime | None]:
    """How many reports are in this state, of critical value alone where that is asked, and when the oldest was heard."""
    query = select(func.count(), func.min(report.c.heard_at)).where(report.c.state == state)
    if critical:
        query = query.where(report.c.critical)
    count, oldest_at = conn.execute(query).one()
    return int(count), oldest_at


def missing_sequence(conn: Connection, agent: str, name: str, first: int, last: int, since: datetime) -> set[int]:
    """Which of these running numbers were not heard from this instrument since this time: the numbers come round again."""
    query = select(report.c.sequence).where(
        report.c.agent == agent, report.c.instrument == name, report.c.sequence.between(first, last), report.c.heard_at >= since
    )
    return set(range(first, last + 1)) - set(conn.execute(query).scalars())


def held_on_claim(conn: Connection, agent: str, name: str) -> Sequence[ReportRow]:
    """The readings of this agent's instrument that wait with a claim as evidence."""
    return conn.execute(_HELD_ON_CLAIM, {"of_agent": agent, "called": name}).all()
