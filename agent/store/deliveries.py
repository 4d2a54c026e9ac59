"""Named queries on deliveries: one row per report, version and destination, from queued to posted or refused.

Order holds per destination and patient: a message that is queued or unanswered holds back that patient's later ones; one
that is posted, refused or withdrawn does not. Rows are found by indexes alone, so that a day's backlog costs no more than
an empty queue.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, CursorResult, Row, Select, Subquery, and_, func, insert, not_, or_, select, union_all, update

from . import schema
from .engine import now as server_time
from .schema import delivery, event, report

QUEUED, UNANSWERED, POSTED, REFUSED, WITHDRAWN = "queued", "unanswered", "posted", "refused", "withdrawn"
PENDING = (QUEUED, UNANSWERED)  # the EHR may not have it yet: to be sent, and in order

_WINDOW = 200  # rows looked at from one end before all of them are


@dataclass(frozen=True, slots=True)
class Letter:
    """One message as it lies in the outbox."""

    id: int
    report: int
    control_id: str  # MSH-10
    body: bytes = field(repr=False)
    state: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one attempt. `number` counts the attempts of its row from 1, so that it is recorded once only."""

    delivery: int
    number: int
    state: str  # the row's state after it
    outcome: str  # delivered | unanswered | refused | retry
    at: datetime
    next_attempt_at: datetime | None = None
    ack_code: str = ""
    ack_text: str = field(default="", repr=False)  # escaped and cut: the receiver's words may name the patient
    words: str = field(default="", repr=False)  # for a person
    may_be_doubled: bool = False  # sent again after no answer to a receiver that does not tell a resend: for reconciliation


def queue(  # noqa: PLR0917 - the row's columns, in their order
    conn: Connection, report_id: int, destination: str, control_id: str, patient: str, body: bytes, at: datetime
) -> int:
    """Put a message into the outbox and return its row's id. `patient` is authority and MRN: order holds within it.

    Raises ValueError for a control id that MSH-10 has no room for (20 characters, HL7 v2.5.1), and IntegrityError for one
    that this destination has had.
    """
    if not 0 < len(control_id) <= 20:
        problem = f"a control id has 1 to 20 characters, not {len(control_id)}"
        raise ValueError(problem)
    values = {
        "report": report_id,
        "destination": destination,
        "control_id": control_id,
        "patient": patient,
        "body": body,
        "state": QUEUED,
        "queued_at": at,
    }
    return int(conn.execute(insert(delivery).values(values).returning(delivery.c.id)).scalar_one())


def next_due(
    conn: Connection,
    destination: str,
    now: datetime,
    limit: int,
    *,
    newest_first: bool = False,
    busy: Collection[int] = (),
    settled: Collection[int] = (),
) -> list[int]:
    """Ids that may be sent now, at most one per patient, from the oldest or the newest end of the queue.

    `busy` are rows that the sender has in hand: they are not picked. Those of them in `settled` are posted or refused, which
    only the store does not know yet: they hold nothing back.
    """
    for window in (_WINDOW, None):
        pending = _pending(destination, newest_first, window)
        order = pending.c.id.desc() if newest_first else pending.c.id
        query = select(pending.c.id).where(*_sendable(pending, destination, now, busy, settled)).order_by(order).limit(limit)
        found = list(conn.execute(query).scalars())
        if found or window is None or conn.execute(select(func.count()).select_from(pending)).scalar_one() < window:
            break
    return found


def _pending(destination: str, newest_first: bool, window: int | None) -> Subquery:
    """The rows of one end of the queue. One SELECT for each state, because only so does the index give them in order."""
    ends: list[Any] = []
    for state in PENDING:
        end: Select[Any] = select(delivery.c.id, delivery.c.patient, delivery.c.next_attempt_at)
        end = end.where(delivery.c.destination == destination, delivery.c.state == state)
        end = end.order_by(delivery.c.id.desc() if newest_first else delivery.c.id)
        ends.append(select(end.limit(window).subquery()) if window else end.order_by(None))
    return union_all(*ends).subquery("pending")


def _sendable(pending: Subquery, destination: str, now: datetime, busy: Collection[int], settled: Collection[int]) -> list[Any]:
    earlier = delivery.alias("earlier")
    holds_back = [
        earlier.c.destination == destination,
        earlier.c.patient == pending.c.patient,
        earlier.c.state.in_(PENDING),
        earlier.c.id < pending.c.id,
    ]
    if settled:
        holds_back.append(earlier.c.id.not_in(list(settled)))
    where: list[Any] = [
        or_(pending.c.next_attempt_at.is_(None), pending.c.next_attempt_at <= now),
        not_(select(1).select_from(earlier).where(and_(*holds_back)).exists()),
    ]
    if busy:
        where.append(pending.c.id.not_in(list(busy)))
    return where


def load(conn: Connection, delivery_id: int) -> Letter | None:
    """The message, where it is still to be sent; None where it was posted, refused or withdrawn meanwhile."""
    row = conn.execute(select(delivery).where(delivery.c.id == delivery_id, delivery.c.state.in_(PENDING))).first()
    if row is None:
        return None
    return Letter(row.id, row.report, row.control_id, row.body, row.state, row.attempts)


def record(conn: Connection, attempts: Iterable[Attempt]) -> None:
    """Write down what became of these attempts: the row, the report's history and the report's state.

    An attempt that is recorded already counts nothing. A message that was withdrawn while it was on the wire and then
    accepted is posted, because the EHR has it; the event says `overtaken`.
    """
    reports: set[int] = set()
    for attempt in attempts:
        key = delivery.c.id == attempt.delivery
        columns = (delivery.c.report, delivery.c.destination, delivery.c.control_id, delivery.c.state, delivery.c.attempts)
        row = conn.execute(select(*columns).where(key)).first()
        if row is None or row.attempts >= attempt.number:
            continue
        overtaken = row.state not in PENDING
        changes: dict[str, Any] = {
            "attempts": attempt.number,
            "ack_code": attempt.ack_code,
            "outcome": attempt.words,
        }
        if not overtaken or attempt.state == POSTED:
            changes["state"] = attempt.state
            changes["next_attempt_at"] = attempt.next_attempt_at
            changes["settled_at"] = attempt.at if attempt.state in (POSTED, REFUSED) else None
        conn.execute(update(delivery).where(key).values(changes))
        detail = {
            "destination": row.destination,
            "control_id": row.control_id,
            "outcome": attempt.outcome,
            "ack_code": attempt.ack_code,
            "ack_text": attempt.ack_text,
        }
        if attempt.may_be_doubled:
            detail["may_be_doubled"] = True
        if overtaken:
            detail["overtaken"] = row.state
        conn.execute(insert(event).values(report=row.report, what="attempt", at=attempt.at, detail=detail))
        reports.add(row.report)
    refresh_report_state(conn, reports)


def refresh_report_state(conn: Connection, report_ids: Collection[int]) -> None:
    """Let each report's state follow the least settled of its deliveries: queued, then refused, then posted.

    Withdrawn ones are left out, and so is a report that a person or a correction has put into another state.
    """
    if not report_ids:
        return
    query = select(delivery.c.report, delivery.c.state).where(delivery.c.report.in_(report_ids)).distinct()
    states: dict[int, set[str]] = {}
    for report_id, state in conn.execute(query):
        states.setdefault(report_id, set()).add(QUEUED if state in PENDING else state)
    for report_id, found in states.items():
        least = next((state for state in (QUEUED, REFUSED, POSTED) if state in found), None)
        if least:
            follows = report.c.state.in_((QUEUED, REFUSED, POSTED)) & (report.c.state != least)
            conn.execute(update(report).where(report.c.id == report_id, follows).values(state=least))


def withdraw(conn: Connection, report_id: int, at: datetime) -> list[int]:
    """Take this report's messages out of the outbox; return the ids of those that had been attempted.

    An attempted one may be in the chart all the same: its sender alarms, and a retraction may be due.
    """
    pending = (delivery.c.report == report_id) & delivery.c.state.in_(PENDING)
    rows = conn.execute(select(delivery.c.id, delivery.c.attempts).where(pending)).all()
    conn.execute(update(delivery).where(pending).values(state=WITHDRAWN, settled_at=at))
    return [row.id for row in rows if row.attempts]


def resend(conn: Connection, report_id: int, at: datetime) -> int:
    """Queue what was refused once more, the same bytes under the same control id; return how many messages that are."""
    refused = (delivery.c.report == report_id) & (delivery.c.state == REFUSED)
    changed: CursorResult[Any] = conn.execute(
        update(delivery).where(refused).values(state=QUEUED, next_attempt_at=None, settled_at=None)
    )
    if changed.rowcount:
        conn.execute(insert(event).values(report=report_id, what="resend", at=at, detail={}))
        refresh_report_state(conn, [report_id])
    return changed.rowcount


def errors_so_far(conn: Connection, letter: Letter, codes: Collection[str]) -> int:
    """How often the receiver has answered this message with one of these codes since it was last queued by a person."""
    query = select(event.c.what, event.c.detail).where(event.c.report == letter.report, event.c.what.in_(("attempt", "resend")))
    count = 0
    for what, detail in conn.execute(query.order_by(event.c.id)):
        if what == "resend":
            count = 0
        elif detail["control_id"] == letter.control_id and detail["ack_code"] in codes:
            count += 1
    return count


def take_lease(conn: Connection, destination: str, holder: str, seconds: float) -> bool:
    """Let `holder` alone send to this destination for so long, by the store's clock; False where another does.

    Its own lease a holder takes again at once, so an agent that was killed need not wait for its own.
    """
    now = server_time(conn)
    lease = schema.lease
    row = conn.execute(select(lease).where(lease.c.destination == destination)).first()
    if row is not None and row.holder != holder and row.until > now:
        return False
    values = {"holder": holder, "until": now + timedelta(seconds=seconds)}
    if row is None:
        conn.execute(insert(lease).values(destination=destination, **values))
    else:
        conn.execute(update(lease).where(lease.c.destination == destination).values(values))
    return True


def release_lease(conn: Connection, destination: str, holder: str) -> None:
    """End the holder's own lease now, so that another agent need not wait for it to run out."""
    lease = schema.lease
    mine = (lease.c.destination == destination) & (lease.c.holder == holder)
    conn.execute(update(lease).where(mine).values(until=server_time(conn)))


def waiting(conn: Connection, destination: str) -> int:
    """How many messages this destination has not answered for good."""
    query = select(func.count()).where(delivery.c.destination == destination, delivery.c.state.in_(PENDING))
    return int(conn.execute(query).scalar_one())


def oldest_queued_at(conn: Connection) -> datetime | None:
    """When the oldest message that waits anywhere was queued; None where nothing waits."""
    ages: list[datetime] = []
    for destination in destinations(conn):
        for state in PENDING:
            query = select(delivery.c.queued_at).where(delivery.c.destination == destination, delivery.c.state == state)
            first = conn.execute(query.order_by(delivery.c.id).limit(1)).scalar()
            if first is not None:
                ages.append(first)
    return min(ages, default=None)


def destinations(conn: Connection) -> list[str]:
    """Every destination that has had a message, those since removed from the site file too."""
    names: list[str] = []
    last = ""
    while (
        name := conn.execute(select(func.min(delivery.c.destination)).where(delivery.c.destination > last)).scalar()
    ) is not None:
        names.append(name)
        last = name
    return names


def of_report(conn: Connection, report_id: int) -> Sequence[Row[Any]]:
    """This report's messages with their bytes, oldest first."""
    return conn.execute(select(delivery).where(delivery.c.report == report_id).order_by(delivery.c.id)).all()
