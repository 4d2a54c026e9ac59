"""The outbox in the store: what may be sent next, what is written down of an attempt, and who may send."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, insert, select, update
from sqlalchemy.exc import IntegrityError

from chartbound.agent.store import deliveries, results, schema
from chartbound.agent.store.deliveries import PENDING, Attempt
from chartbound.agent.store.engine import reading, writing

AT = datetime(2026, 3, 2, 16, 15, tzinfo=UTC)
LATER = AT + timedelta(minutes=1)


def put_report(conn: Connection, unit: int = 1, state: str = "queued") -> int:
    values: dict[str, Any] = {
        "journal": "j1",
        "unit": unit,
        "ordinal": 0,
        "agent": "a1",
        "instrument": "glucose",
        "driver": "onetouch_ultra2",
        "heard_at": AT,
        "kind": "patient",
        "content": "c",
        "state": state,
        "evidence": [],
        "tests": [],
        "filler": f"F{unit}",
        "body": {},
    }
    return int(results.add(conn, values).id)


def state_of(conn: Connection, report: int) -> str:
    row = results.by_id(conn, report)
    assert row is not None
    return str(row.state)


def attempt(delivery: int, number: int, state: str, **more: Any) -> Attempt:
    return Attempt(delivery, number, state, state, AT, **more)


def fill(conn: Connection, rows: list[tuple[str, str, datetime | None]]) -> list[int]:
    """Rows of (patient, state, next attempt) in this order; their ids."""
    report = put_report(conn, unit=random.randrange(10**9))
    values = [
        {
            "report": report,
            "destination": "ehr",
            "control_id": f"{report}-{number}",
            "patient": patient,
            "body": b"MSH",
            "state": state,
            "next_attempt_at": due,
            "queued_at": AT + timedelta(seconds=number),
        }
        for number, (patient, state, due) in enumerate(rows)
    ]
    conn.execute(insert(schema.delivery), values)
    return list(
        conn.execute(
            select(schema.delivery.c.id).where(schema.delivery.c.report == report).order_by(schema.delivery.c.id)
        ).scalars()
    )


def sendable(rows: list[tuple[str, str, datetime | None]], busy: set[int], settled: set[int]) -> set[int]:
    """What may be sent, said once more in the plainest way; rows by their place."""
    found = set()
    for place, (patient, state, due) in enumerate(rows):
        earlier = [at for at in range(place) if rows[at][0] == patient and rows[at][1] in PENDING and at not in settled]
        if state in PENDING and place not in busy and not earlier and (due is None or due <= AT):
            found.add(place)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_what_is_picked_is_what_may_be_sent(store: Engine, seed: int) -> None:
    """Against a plain reading of the rule, for queues shorter and longer than one look takes in."""
    rng = random.Random(seed)
    size, patients = rng.choice([(5, 2), (40, 9), (900, 3), (900, 300), (900, 900)])
    states = rng.choice([PENDING, (*PENDING, "posted", "refused", "withdrawn")])
    rows = [
        (f"P{rng.randrange(patients)}", rng.choice(states), rng.choice([None, AT, LATER] if seed % 2 else [None]))
        for _ in range(size)
    ]
    pending = [place for place, row in enumerate(rows) if row[1] in PENDING]
    busy = set(rng.sample(pending, min(len(pending), 3)))
    settled = set(list(busy)[:2])
    with writing(store) as conn:
        ids = fill(conn, rows)
        picked = deliveries.next_due(
            conn, "ehr", AT, 16, busy={ids[place] for place in busy}, settled={ids[place] for place in settled}
        )
        assert deliveries.next_due(conn, "other", AT, 16) == []
    places = [ids.index(one) for one in picked]
    allowed = sendable(rows, busy, settled)
    assert set(places) <= allowed
    assert len(set(places)) == len(places) <= 16
    assert places if allowed else not places
    if allowed:
        assert min(allowed) in places
    if len(allowed) <= 8 and size <= 200:
        assert set(places) == allowed


def test_half_of_the_picks_are_the_newest(store: Engine) -> None:
    with writing(store) as conn:
        ids = fill(conn, [(f"P{number}", "queued", None) for number in range(500)])
        picked = deliveries.next_due(conn, "ehr", AT, 16)
    assert picked[::2] == ids[:-9:-1]
    assert picked[1::2] == ids[:8]


def test_a_patient_with_a_long_queue_that_waits_hides_nobody(store: Engine) -> None:
    with writing(store) as conn:
        hot = [("HOT", "queued", LATER), *[("HOT", "queued", None)] * 3000]
        ids = fill(conn, [*hot, ("COLD", "queued", None), *hot[1:]])
        assert deliveries.next_due(conn, "ehr", AT, 16) == [ids[3001]]


def test_picking_uses_indexes_alone(store: Engine) -> None:
    if store.dialect.name != "sqlite":
        pytest.skip("the plan's text is SQLite's; PostgreSQL's planner goes by statistics")
    plans: list[str] = []
    with writing(store) as conn:
        fill(conn, [(f"P{number % 40}", "queued", None) for number in range(1000)])

    def explain(conn: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if "FROM delivery" in statement and not statement.startswith("EXPLAIN"):
            plans.extend(row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))

    with reading(store) as conn:
        event.listen(conn, "before_cursor_execute", explain)
        assert len(deliveries.next_due(conn, "ehr", AT, 16)) == 16
        assert deliveries.oldest_queued_at(conn) == AT
        assert deliveries.waiting(conn, "ehr") == 1000
    assert len(plans) > 5
    assert [plan for plan in plans if plan.startswith("SCAN") or "TEMP B-TREE" in plan] == []


def test_an_attempt_is_written_down_once(store: Engine) -> None:
    with writing(store) as conn:
        report = put_report(conn)
        row = deliveries.queue(conn, report, "ehr", "C1", "P", b"MSH|", AT)
        refused = attempt(row, 1, "refused", ack_code="AR", ack_text="no such order", words="AR no such order")
        deliveries.record(conn, [refused, refused])
        deliveries.record(conn, [refused])
        found = conn.execute(select(schema.delivery)).one()
        assert (found.state, found.attempts, found.ack_code, found.settled_at) == ("refused", 1, "AR", AT)
        detail = {"destination": "ehr", "control_id": "C1", "outcome": "refused", "ack_code": "AR", "ack_text": "no such order"}
        assert [(one.what, one.detail) for one in results.events_of(conn, report)] == [("attempt", detail)]
        assert state_of(conn, report) == "refused"
        assert deliveries.load(conn, row) is None


def test_a_report_is_as_settled_as_the_least_of_its_deliveries(store: Engine) -> None:
    with writing(store) as conn:
        report = put_report(conn)
        one, two, three = (deliveries.queue(conn, report, name, "C1", "P", b"MSH|", AT) for name in ("a", "b", "c"))
        deliveries.record(conn, [attempt(one, 1, "posted")])
        assert state_of(conn, report) == "queued"
        deliveries.record(conn, [attempt(two, 1, "refused"), attempt(three, 1, "unanswered", next_attempt_at=LATER)])
        assert state_of(conn, report) == "queued"
        deliveries.record(conn, [attempt(three, 2, "posted")])
        assert state_of(conn, report) == "refused"
        assert deliveries.resend(conn, report, LATER) == 1
        assert state_of(conn, report) == "queued"
        deliveries.record(conn, [attempt(two, 2, "posted")])
        assert state_of(conn, report) == "posted"


def test_a_report_that_a_person_has_put_aside_stays_there(store: Engine) -> None:
    with writing(store) as conn:
        report = put_report(conn, state="superseded")
        row = deliveries.queue(conn, report, "ehr", "C1", "P", b"MSH|", AT)
        deliveries.record(conn, [attempt(row, 1, "posted")])
        assert state_of(conn, report) == "superseded"


def test_withdrawing_says_which_may_have_arrived(store: Engine) -> None:
    with writing(store) as conn:
        report = put_report(conn)
        rows = [deliveries.queue(conn, report, name, "C1", "P", b"MSH|", AT) for name in ("a", "b", "c")]
        deliveries.record(conn, [attempt(rows[1], 1, "unanswered"), attempt(rows[2], 1, "posted")])
        assert deliveries.withdraw(conn, report, LATER) == [rows[1]]
        states = {row.id: row.state for row in conn.execute(select(schema.delivery))}
        assert [states[row] for row in rows] == ["withdrawn", "withdrawn", "posted"]


def test_a_message_withdrawn_on_the_wire_and_then_accepted_is_posted(store: Engine) -> None:
    """The EHR has it, whatever we would have liked; the event says so."""
    with writing(store) as conn:
        report = put_report(conn)
        row = deliveries.queue(conn, report, "ehr", "C1", "P", b"MSH|", AT)
        deliveries.withdraw(conn, report, AT)
        deliveries.record(conn, [attempt(row, 1, "posted")])
        assert conn.execute(select(schema.delivery.c.state)).scalar_one() == "posted"
        assert results.events_of(conn, report)[-1].detail["overtaken"] == "withdrawn"


def test_an_unanswered_message_withdrawn_on_the_wire_stays_withdrawn(store: Engine) -> None:
    with writing(store) as conn:
        report = put_report(conn)
        row = deliveries.queue(conn, report, "ehr", "C1", "P", b"MSH|", AT)
        deliveries.withdraw(conn, report, AT)
        deliveries.record(conn, [attempt(row, 1, "unanswered")])
        assert conn.execute(select(schema.delivery.c.state, schema.delivery.c.attempts)).one() == ("withdrawn", 1)


def test_errors_are_counted_since_a_person_sent_it_again(store: Engine) -> None:
    with writing(store) as conn:
        report = put_report(conn)
        row = deliveries.queue(conn, report, "ehr", "C1", "P", b"MSH|", AT)
        letter = deliveries.load(conn, row)
        assert letter is not None
        turns = [("queued", "AE"), ("unanswered", ""), ("refused", "AE")]
        for number, (state, code) in enumerate(turns, 1):
            deliveries.record(conn, [attempt(row, number, state, ack_code=code)])
        assert deliveries.errors_so_far(conn, letter, {"AE"}) == 2
        deliveries.resend(conn, report, LATER)
        assert deliveries.errors_so_far(conn, letter, {"AE"}) == 0


def test_a_control_id_is_for_life_and_fits_msh_10(store: Engine) -> None:
    with writing(store) as conn:
        report = put_report(conn)
        deliveries.queue(conn, report, "ehr", "C" * 20, "P", b"MSH|", AT)
        for wrong in ("", "C" * 21):
            with pytest.raises(ValueError, match="1 to 20 characters"):
                deliveries.queue(conn, report, "ehr", wrong, "P", b"MSH|", AT)
        deliveries.queue(conn, report, "registry", "C" * 20, "P", b"MSH|", AT)
    with pytest.raises(IntegrityError), writing(store) as conn:
        deliveries.queue(conn, report, "ehr", "C" * 20, "P", b"MSH|", AT)


def test_the_oldest_of_all_destinations_is_found(store: Engine) -> None:
    with writing(store) as conn:
        assert deliveries.oldest_queued_at(conn) is None
        report = put_report(conn)
        rows = [deliveries.queue(conn, report, name, "C", "P", b"MSH|", at) for name, at in (("b", LATER), ("a", AT))]
        assert deliveries.oldest_queued_at(conn) == AT
        deliveries.record(conn, [attempt(rows[1], 1, "posted")])
        assert deliveries.oldest_queued_at(conn) == LATER
        assert deliveries.destinations(conn) == ["a", "b"]


def test_a_lease_is_one_holders_until_it_ends(store: Engine) -> None:
    with writing(store) as conn:
        assert deliveries.take_lease(conn, "ehr", "a1", 60)
        assert not deliveries.take_lease(conn, "ehr", "a2", 60)
        assert deliveries.take_lease(conn, "registry", "a2", 60)
        assert deliveries.take_lease(conn, "ehr", "a1", 60)  # again at once, as after a kill
        deliveries.release_lease(conn, "ehr", "a2")  # not its own
        assert not deliveries.take_lease(conn, "ehr", "a2", 60)
        deliveries.release_lease(conn, "ehr", "a1")
        assert deliveries.take_lease(conn, "ehr", "a2", 60)
        conn.execute(update(schema.lease).values(until=AT))
        assert deliveries.take_lease(conn, "ehr", "a1", 60)


def test_words_of_patients_are_not_in_a_repr() -> None:
    letter = deliveries.Letter(1, 1, "C1", b"DOE^JANE", "queued", 0)
    assert "DOE" not in repr(letter) + repr(attempt(1, 1, "refused", ack_text="DOE", words="DOE"))
