"""Named queries on deliveries: one row per report, version and destination, from queued to posted or refused.

Order holds per destination and patient: a message that is queued or unanswered holds back that patient's later ones; one
that is posted, refused or withdrawn does not. Rows are found by indexes alone, so that a day's backlog costs no more than
an empty queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, groupby, zip_longest
from typing import Any

from sqlalchemy import Connection, CursorResult, Row, Select, bindparam, func, insert, or_, select, update

from . import schema
from .engine import now as server_time
from .schema import alarm, delivery, event, report

QUEUED, UNANSWERED, POSTED, REFUSED, WITHDRAWN = "queued", "unanswered", "posted", "refused", "withdrawn"
PENDING = (QUEUED, UNANSWERED)  # the EHR may not have it yet: to be sent, and in order

# Made once: making a statement takes several times as long as doing it.
_QUEUE = insert(delivery).returning(delivery.c.id)
_LOAD = select(delivery).where(delivery.c.id == bindparam("row"), delivery.c.state.in_(PENDING))
_TRIED = select(
    delivery.c.id, delivery.c.report, delivery.c.destination, delivery.c.control_id, delivery.c.state, delivery.c.attempts
).where(delivery.c.id.in_(bindparam("rows", expanding=True)))
_CHANGE = update(delivery).where(delivery.c.id == bindparam("row"))
_LOG = insert(event)
_ALARM = insert(alarm)
_STATES_OF = (
    select(delivery.c.report, delivery.c.state).where(delivery.c.report.in_(bindparam("reports", expanding=True))).distinct()
)
_FOLLOW = (
    update(report)
    .where(
        report.c.id == bindparam("row"),
        or_(report.c.state == QUEUED, report.c.state == REFUSED, report.c.state == POSTED),  # many at once know no IN
        report.c.state != bindparam("least"),
    )
    .values(state=bindparam("least"))
)

_WAITING: Select[Any] = select(delivery.c.id, delivery.c.patient, delivery.c.next_attempt_at).where(
    delivery.c.destination == bindparam("to"), delivery.c.state == bindparam("is_in")
)  # one state at a time, because only so does the index give its rows in order
_OLDEST = _WAITING.where(delivery.c.id > bindparam("after")).order_by(delivery.c.id).limit(bindparam("page"))
_NEWEST = _WAITING.order_by(delivery.c.id.desc()).limit(bindparam("page"))

_WINDOW = 200  # rows looked at from one end where that finds any to send
_PAGE = 2000  # rows at a time where it does not


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


def queue(conn: Connection, report_id: int, destination: str, control_id: str, patient: str, body: bytes, at: datetime) -> int:
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
    return int(conn.execute(_QUEUE, values).scalar_one())


def next_due(
    conn: Connection,
    destination: str,
    now: datetime,
    limit: int,
    *,
    busy: Collection[int] = (),
    settled: Collection[int] = (),
) -> list[int]:
    """Ids that may be sent now, at most one per patient, alternately from the newest and the oldest end of the queue.

    So a new result goes out at once though a day's backlog lies before it, and the backlog drains all the same. `busy` are
    rows that the sender has in hand: they are not picked. Those of them in `settled` are posted or refused, which only the
    store does not know yet: they hold nothing back.
    """
    oldest: list[int] = []
    seen: set[str] = set()
    walked = 0
    rows = heapq.merge(*(_oldest(conn, destination, state) for state in PENDING), key=lambda row: row.id)
    for walked, row in enumerate(rows, 1):
        if row.id not in settled and row.patient not in seen:  # else an earlier one of this patient holds it back
            seen.add(row.patient)
            if row.id not in busy and _is_due(row, now):
                oldest.append(row.id)
        if len(oldest) >= limit or (oldest and walked >= _WINDOW):
            break
    else:
        return oldest
    newest = _newest(conn, destination, now, limit // 2, busy, settled)
    both = chain.from_iterable(zip_longest(newest, oldest[: limit - len(newest)]))
    return list(dict.fromkeys(delivery_id for delivery_id in both if delivery_id is not None))


def _oldest(conn: Connection, destination: str, state: str) -> Iterator[Row[Any]]:
    """The destination's rows in this state from the oldest on, read page by page as they are asked for."""
    last, page = 0, _WINDOW
    while True:
        rows = conn.execute(_OLDEST, {"to": destination, "is_in": state, "after": last, "page": page}).all()
        yield from rows
        if len(rows) < page:
            return
        last, page = rows[-1].id, _PAGE


def _newest(
    conn: Connection, destination: str, now: datetime, limit: int, busy: Collection[int], settled: Collection[int]
) -> list[int]:
    """Sendable rows among the newest ones, newest first; none where earlier ones of their patients hold all of them back."""
    first_of: dict[str, Row[Any]] = {}
    for state in PENDING:
        for row in conn.execute(_NEWEST, {"to": destination, "is_in": state, "page": _WINDOW}):
            if row.id not in settled and (row.patient not in first_of or row.id < first_of[row.patient].id):
                first_of[row.patient] = row
    candidates = sorted((row.id for row in first_of.values() if row.id not in busy and _is_due(row, now)), reverse=True)
    found: list[int] = []
    for start in range(0, len(candidates), 2 * limit):
        part = candidates[start : start + 2 * limit]
        held_back = set(conn.execute(_held_back(destination, part, settled)).scalars())
        found += [delivery_id for delivery_id in part if delivery_id not in held_back]
        if len(found) >= limit:
            break
    return found[:limit]


def _held_back(destination: str, ids: Sequence[int], settled: Collection[int]) -> Select[Any]:
    """Those of these rows whose patient has an earlier one pending.

    An empty text is joined to the state so that PostgreSQL looks in the patient's index: without fresh statistics it would
    take the one by state for as good, and read the whole queue for every row.
    """
    earlier = delivery.alias("earlier")
    where = [
        earlier.c.destination == destination,
        earlier.c.patient == delivery.c.patient,
        earlier.c.state.concat("").in_(PENDING),
        earlier.c.id < delivery.c.id,
    ]
    if settled:
        where.append(earlier.c.id.not_in(list(settled)))
    found = select(1).select_from(earlier).where(*where).correlate(delivery).exists()
    rows = select(delivery.c.id, found.label("held_back")).where(delivery.c.id.in_(ids)).subquery()
    return select(rows.c.id).where(rows.c.held_back)


def _is_due(row: Row[Any], now: datetime) -> bool:
    return row.next_attempt_at is None or bool(row.next_attempt_at <= now)


def load(conn: Connection, delivery_id: int) -> Letter | None:
    """The message, where it is still to be sent; None where it was posted, refused or withdrawn meanwhile."""
    row = conn.execute(_LOAD, {"row": delivery_id}).first()
    if row is None:
        return None
    return Letter(row.id, row.report, row.control_id, row.body, row.state, row.attempts)


def record(conn: Connection, attempts: Iterable[Attempt]) -> list[tuple[int, str]]:
    """Write down what became of these attempts: the row, the report's history and the report's state.

    An attempt that is recorded already counts nothing. A message that was withdrawn while it was on the wire and then
    accepted is posted, because the EHR has it; the event says `overtaken`. Returned are the overtaken rows that the EHR has
    or may have, each with its control id: they are to be retracted.
    """
    overtaken_rows: list[tuple[int, str]] = []
    fresh: dict[int, Attempt] = {}
    later = [attempt for attempt in attempts if fresh.setdefault(attempt.delivery, attempt) is not attempt]
    changes: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for row in conn.execute(_TRIED, {"rows": list(fresh)}):
        attempt = fresh[row.id]
        if row.attempts >= attempt.number:
            continue
        overtaken = row.state not in PENDING
        stands = overtaken and attempt.state != POSTED
        changes.append(
            {
                "row": row.id,
                "attempts": attempt.number,
                "ack_code": attempt.ack_code,
                "outcome": attempt.words,
                **({} if stands else _new_state(attempt)),
            }
        )
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
            # What had been attempted when it was withdrawn was retracted by whoever withdrew it.
            if row.state == WITHDRAWN and not row.attempts and attempt.state in (POSTED, UNANSWERED):
                overtaken_rows.append((row.id, row.control_id))
                said = {"destination": row.destination}
                conn.execute(_ALARM, {"report": row.report, "what": "overtaken", "at": attempt.at, "detail": said})
        events.append({"report": row.report, "what": "attempt", "at": attempt.at, "detail": detail})
    for _, alike in groupby(sorted(changes, key=len), key=len):
        conn.execute(_CHANGE, list(alike))
    if events:
        conn.execute(_LOG, events)
    refresh_report_state(conn, {said["report"] for said in events})
    return overtaken_rows + (record(conn, later) if later else [])


def retract(conn: Connection, delivery_id: int, control_id: str, retracted: Callable[[bytes], bytes], at: datetime) -> None:
    """Queue the retraction of a message that went out although it was withdrawn."""
    row = conn.execute(select(delivery).where(delivery.c.id == delivery_id)).one()
    queue(
        conn,
        row.report,
        destination=row.destination,
        control_id=control_id,
        patient=row.patient,
        body=retracted(row.body),
        at=at,
    )


def _new_state(attempt: Attempt) -> dict[str, Any]:
    return {
        "state": attempt.state,
        "next_attempt_at": attempt.next_attempt_at,
        "settled_at": attempt.at if attempt.state in (POSTED, REFUSED) else None,
    }


def refresh_report_state(conn: Connection, report_ids: Collection[int]) -> None:
    """Let each report's state follow the least settled of its deliveries: queued, then refused, then posted.

    Withdrawn ones are left out, and so is a report that a person or a correction has put into another state.
    """
    if not report_ids:
        return
    states: dict[int, set[str]] = {}
    for report_id, state in conn.execute(_STATES_OF, {"reports": list(report_ids)}):
        states.setdefault(report_id, set()).add(QUEUED if state in PENDING else state)
    follow = [
        {"row": report_id, "least": least}
        for report_id, found in states.items()
        if (least := next((state for state in (QUEUED, REFUSED, POSTED) if state in found), None))
    ]
    if follow:
        conn.execute(_FOLLOW, follow)


def withdraw(conn: Connection, report_id: int, at: datetime, after: int = 0) -> list[int]:
    """Take this report's messages out of the outbox, refused ones too, lest they be sent again; only rows behind `after`.

    Returns the ids of those that may be in the chart all the same: attempted and not refused, or refused when an earlier
    attempt had been received or had no answer.
    """
    mine = (delivery.c.report == report_id) & (delivery.c.id > after) & delivery.c.state.in_((*PENDING, REFUSED))
    columns = (delivery.c.id, delivery.c.control_id, delivery.c.state, delivery.c.attempts)
    rows = conn.execute(select(*columns).where(mine)).all()
    if not rows:
        return []
    conn.execute(update(delivery).where(mine).values(state=WITHDRAWN, settled_at=at))
    query = select(event.c.detail).where(event.c.report == report_id, event.c.what == "attempt")
    tries = conn.execute(query).scalars().all()
    arrived = {one["control_id"] for one in tries if one["outcome"] == "unanswered" or one["ack_code"] == "CA"}
    return [row.id for row in rows if (row.control_id in arrived if row.state == REFUSED else row.attempts)]


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


def refused_beside(conn: Connection) -> tuple[int, datetime | None]:
    """How many refused messages belong to results that are held, and since when: retractions that a chart has not taken."""
    found: list[datetime] = []
    for destination in destinations(conn):
        where = (delivery.c.destination == destination, delivery.c.state == REFUSED, report.c.state == "held")
        query = select(delivery.c.queued_at).join_from(delivery, report, delivery.c.report == report.c.id).where(*where)
        found += conn.execute(query).scalars()
    return len(found), min(found, default=None)


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
