"""Delivery to an EHR over real sockets and real stores: each way of answering badly ends as it must, and nothing is lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, Row, insert, select

from chartbound.agent.delivery import Outcome, Sender, backoff, judge, shown
from chartbound.agent.mllp_wire import Destination
from chartbound.agent.store import deliveries, results, schema
from chartbound.agent.store.engine import reading, writing
from chartbound.agent.writer import StoreWriter
from chartbound.hl7 import ack, mllp
from chartbound.hl7.profile import Policy, Profile
from chartbound.simulators.ehr import EhrSimulator

AT = datetime(2026, 3, 2, 16, 15, tzinfo=UTC)


def oru(control_id: str, value: str = "96") -> bytes:
    return (
        f"MSH|^~\\&|CHARTBOUND|RIVERSIDE|EHR|HOSP|20260302101500-0600||ORU^R01^ORU_R01|{control_id}|P|2.5.1\r"
        f"PID|1||123^^^RIV^MR||DOE^JANE\rOBR|1||F1|2339-0^Glucose^LN\rOBX|1|NM|2339-0^Glucose^LN||{value}|mg/dL|||||F\r"
    ).encode()


def destination(address: tuple[str, int], name: str = "ehr", profile: Profile | None = None, **settings: Any) -> Destination:
    base = Destination(name, *address, ack_timeout=1.0, retry=(0.01, 0.05), profile=profile or Profile())
    return replace(base, **settings)


class Outbox:
    """Messages by their control id, each of a report of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._units = 0

    def put(self, control_id: str, patient: str = "", destination: str = "ehr", report: int | None = None) -> int:
        """Queue one message and return its report's id; without a patient it is of one of its own."""
        with writing(self.engine) as conn:
            self._units += 1
            report_id = report or results.add(conn, report_values(self._units)).id
            deliveries.queue(
                conn,
                report_id,
                destination=destination,
                control_id=control_id,
                patient=patient or f"P-{control_id}",
                body=oru(control_id),
                at=AT,
            )
            return report_id

    def put_many(self, count: int, patients: int) -> None:
        with writing(self.engine) as conn:
            report_id = results.add(conn, report_values(999_999)).id
            rows = [
                {
                    "report": report_id,
                    "destination": "ehr",
                    "control_id": f"B{number}",
                    "patient": f"P{number % patients}",
                    "body": oru(f"B{number}"),
                    "state": "queued",
                    "queued_at": AT,
                }
                for number in range(count)
            ]
            conn.execute(insert(schema.delivery), rows)

    def row(self, control_id: str, destination: str = "ehr") -> Row[Any]:
        with reading(self.engine) as conn:
            where = (schema.delivery.c.control_id == control_id, schema.delivery.c.destination == destination)
            return conn.execute(select(schema.delivery).where(*where)).one()

    def states(self) -> dict[str, str]:
        with reading(self.engine) as conn:
            found = conn.execute(select(schema.delivery.c.control_id, schema.delivery.c.state))
            return {row.control_id: row.state for row in found}

    def outcomes(self, control_id: str) -> list[str]:
        """Every attempt's outcome, from the events."""
        with reading(self.engine) as conn:
            query = select(schema.event.c.detail).where(schema.event.c.what == "attempt").order_by(schema.event.c.id)
            return [detail["outcome"] for detail in conn.execute(query).scalars() if detail["control_id"] == control_id]

    def report_state(self, report_id: int) -> str:
        with reading(self.engine) as conn:
            row = results.by_id(conn, report_id)
            assert row is not None
            return str(row.state)

    def settled(self) -> bool:
        return not set(self.states().values()) & set(deliveries.PENDING)


def report_values(unit: int) -> dict[str, Any]:
    return {
        "journal": "j1",
        "unit": unit,
        "ordinal": 0,
        "agent": "a1",
        "instrument": "glucose",
        "driver": "onetouch_ultra2",
        "heard_at": AT,
        "kind": "patient",
        "content": f"{unit}",
        "state": "queued",
        "evidence": [],
        "tests": [],
        "filler": f"F{unit}",
        "body": {},
    }


def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Look until it holds; fail where that takes longer than `timeout` seconds."""
    tick = threading.Event()
    for _ in range(int(timeout / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come to this in time")


@contextmanager
def written(engine: Engine) -> Iterator[StoreWriter]:
    writer = StoreWriter(engine)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()
        assert not writer.is_alive()
        assert writer.failed == 0


@contextmanager
def sending(sender: Sender) -> Iterator[Sender]:
    """The sender in a thread, as the agent runs it; an exception in it fails the test."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def body() -> None:
        try:
            sender.run(stop)
        except BaseException as failure:  # noqa: BLE001 - handed to the test's own thread
            failures.append(failure)

    thread = threading.Thread(target=body, name="sender")
    thread.start()
    try:
        yield sender
    finally:
        stop.set()
        sender.wake()
        thread.join(10)
        assert not thread.is_alive()
        assert failures == []


@contextmanager
def delivering(engine: Engine, to: Destination, holder: str = "a1", **settings: Any) -> Iterator[Sender]:
    with written(engine) as writer, sending(Sender(to, engine, writer, holder, poll_seconds=0.02, **settings)) as sender:
        yield sender


def script(**turns: list[str]) -> Callable[[str, int], str]:
    """What the EHR does at the first, second … arrival of each control id; AA when the list is at its end."""

    def behave(control_id: str, before: int) -> str:
        listed = turns.get(control_id, [])
        return listed[before] if before < len(listed) else "AA"

    return behave


@pytest.fixture
def outbox(store: Engine) -> Outbox:
    return Outbox(store)


ENDINGS = [
    # the EHR's turns, the outcomes of the attempts, the row's state at the end
    (["AA"], ["delivered"], "posted"),
    (["pieces"], ["delivered"], "posted"),
    (["double"], ["delivered"], "posted"),
    (["garbage"], ["delivered"], "posted"),
    (["no-trailer"], ["delivered"], "posted"),
    (["close"], ["delivered"], "posted"),
    (["CA"], ["delivered"], "posted"),
    (["hangup"], ["unanswered", "delivered"], "posted"),
    (["none"], ["unanswered", "delivered"], "posted"),
    (["late"], ["unanswered", "delivered"], "posted"),
    (["wrong-id"], ["unanswered", "delivered"], "posted"),
    (["AE"], ["retry", "delivered"], "posted"),
    (["AE", "hangup", "AE"], ["retry", "unanswered", "retry", "delivered"], "posted"),
    (["AE"] * 4, ["retry", "retry", "retry", "refused"], "refused"),
    (["AR"], ["refused"], "refused"),
    (["CE"], ["refused"], "refused"),
    (["CR"], ["refused"], "refused"),
]


@pytest.mark.parametrize(
    ("turns", "outcomes", "state"), ENDINGS, ids=lambda value: "-".join(value) if isinstance(value, list) else value
)
def test_each_answer_ends_as_it_must(outbox: Outbox, turns: list[str], outcomes: list[str], state: str) -> None:
    """A neighbour of another patient is posted whatever becomes of this one."""
    report = outbox.put("M1")
    outbox.put("M2")
    with EhrSimulator(behaviour=script(M1=turns), late_seconds=0.6) as ehr:
        with delivering(outbox.engine, destination(ehr.address, ack_timeout=0.3)):
            until(outbox.settled)
        assert outbox.states() == {"M1": state, "M2": "posted"}
        assert outbox.outcomes("M1") == outcomes
        assert outbox.row("M1").attempts == len(outcomes)
        assert outbox.report_state(report) == state
        assert ehr.mismatches == []
        assert ehr.messages.keys() == ({"M1", "M2"} if state == "posted" else {"M2"})


def test_a_late_answer_is_not_credited_to_the_next_message(outbox: Outbox) -> None:
    """The connection is closed at the timeout, so what is said on it later is never read."""
    outbox.put("M1", patient="P")
    outbox.put("M2", patient="P")
    with EhrSimulator(behaviour=script(M1=["late"], M2=["none"]), late_seconds=0.4) as ehr:
        with delivering(outbox.engine, destination(ehr.address, ack_timeout=0.3)):
            until(outbox.settled)
        assert (outbox.outcomes("M1"), outbox.outcomes("M2")) == (["unanswered", "delivered"], ["unanswered", "delivered"])
        assert ehr.connections == 3


def test_an_answer_from_before_the_message_counts_for_nothing(outbox: Outbox) -> None:
    with EhrSimulator(behaviour=script(M2=["none"])) as ehr:
        with delivering(outbox.engine, destination(ehr.address, ack_timeout=0.3)) as sender:
            outbox.put("M1")
            sender.wake()
            until(outbox.settled)
            ehr.say(mllp.frame(ack.build(oru("M2"), "AA", at=AT, control_id="9")))
            outbox.put("M2")
            sender.wake()
            until(outbox.settled)
        assert outbox.outcomes("M2") == ["unanswered", "delivered"]


def test_a_resend_is_the_same_bytes(outbox: Outbox) -> None:
    for number in range(6):
        outbox.put(f"M{number}")
    turns = {f"M{number}": ["hangup", "AE", "none"] for number in range(6)}
    with EhrSimulator(behaviour=script(**turns)) as ehr:
        with delivering(outbox.engine, destination(ehr.address, ack_timeout=0.1)):
            until(outbox.settled)
        assert ehr.mismatches == []
        assert ehr.messages == {f"M{number}": oru(f"M{number}") for number in range(6)}
        assert len(ehr.arrivals) == 24


def test_order_holds_within_a_patient(outbox: Outbox) -> None:
    """A message that is retried or unanswered holds back that patient's later ones, and nobody else's."""
    for patient in "ABC":
        for number in range(4):
            outbox.put(f"{patient}{number}", patient)
    turns = {"A0": ["AE", "AE"], "B1": ["hangup", "none"], "C2": ["wrong-id"]}
    with EhrSimulator(behaviour=script(**turns)) as ehr:
        with delivering(outbox.engine, destination(ehr.address, ack_timeout=0.1)):
            until(outbox.settled)
        for patient in "ABC":
            arrived = [one.control_id for one in ehr.arrivals if one.control_id[0] == patient]
            assert arrived == sorted(arrived)
        assert set(outbox.states().values()) == {"posted"}


def test_a_refused_message_holds_nobody_back(outbox: Outbox) -> None:
    for number in range(4):
        outbox.put(f"A{number}", "A")
    with EhrSimulator(behaviour=script(A1=["AR"])) as ehr, delivering(outbox.engine, destination(ehr.address)):
        until(outbox.settled)
    assert outbox.states() == {"A0": "posted", "A1": "refused", "A2": "posted", "A3": "posted"}


def test_a_message_that_no_frame_can_hold_is_refused_unsent(outbox: Outbox) -> None:
    with writing(outbox.engine) as conn:
        row = results.add(conn, report_values(1000)).id
        deliveries.queue(conn, row, destination="ehr", control_id="BAD", patient="P", body=b"MSH\x0b", at=AT)
    outbox.put("M2", "P")
    with EhrSimulator() as ehr, delivering(outbox.engine, destination(ehr.address)):
        until(outbox.settled)
        assert outbox.states() == {"BAD": "refused", "M2": "posted"}
        assert [one.control_id for one in ehr.arrivals] == ["M2"]


def test_an_ehr_that_is_down_costs_the_rows_nothing(outbox: Outbox) -> None:
    """Many attempts to connect, none of a message; when it is back everything goes out once."""
    ehr = EhrSimulator().start()
    ehr.stop()
    for number in range(30):
        outbox.put(f"M{number}", f"P{number % 3}")
    with delivering(outbox.engine, destination(ehr.address, retry=(0.001, 0.004))) as sender:
        until(lambda: sender.status().unreachable_since is not None)
        assert sender.status().last_outcome is Outcome.UNREACHABLE
        assert "no connection" in sender.status().problem
        until(lambda: sender.attempts_to_connect > 100)
        assert outbox.row("M0").attempts == 0
        with ehr.start():
            until(outbox.settled)
            assert sender.status().unreachable_since is None
            assert (sender.status().connected, sender.status().leased) == (True, True)
    assert {outbox.row(f"M{number}").attempts for number in range(30)} == {1}
    assert ehr.duplicates == 0


def test_a_silent_ehr_is_not_flooded(outbox: Outbox) -> None:
    """One message may be poison, so the next patient's goes out; after the second in a row the destination backs off."""
    for number in range(50):
        outbox.put(f"M{number}")
    with EhrSimulator(behaviour=["hangup"]) as ehr, delivering(outbox.engine, destination(ehr.address, retry=(30.0, 60.0))):
        until(lambda: len(ehr.arrivals) >= 2)
        assert not ehr.wait_for(lambda _: len(ehr.arrivals) > 2, 0.5)


def test_the_connection_is_kept_and_an_idle_close_is_survived(outbox: Outbox) -> None:
    with EhrSimulator() as ehr, delivering(outbox.engine, destination(ehr.address)) as sender:
        for number in range(5):
            outbox.put(f"M{number}")
        sender.wake()
        until(outbox.settled)
        assert ehr.connections == 1
        ehr.hang_up()
        assert ehr.wait_for(lambda ehr: ehr.open_connections == 0)
        outbox.put("M9")
        sender.wake()
        until(outbox.settled)
        assert (ehr.connections, outbox.outcomes("M9"), ehr.duplicates) == (2, ["delivered"], 0)


def test_one_connection_a_message_where_the_profile_says_so(outbox: Outbox) -> None:
    for number in range(5):
        outbox.put(f"M{number}")
    profile = Profile(connection="per_message", gap_seconds=0.01)
    with EhrSimulator() as ehr:
        with delivering(outbox.engine, destination(ehr.address, profile=profile)):
            until(outbox.settled)
        assert (ehr.connections, ehr.duplicates) == (5, 0)


@pytest.mark.parametrize(
    ("turn", "profile", "state"),
    [
        ("CA+AA", Profile(acknowledgment="enhanced"), "posted"),
        ("CA", Profile(acknowledgment="enhanced"), "posted"),
        ("CA", Profile(ack_means="filed"), "refused"),
        ("CA+AA", Profile(ack_means="filed"), "posted"),
    ],
)
def test_a_message_received_safely_is_never_resent(outbox: Outbox, turn: str, profile: Profile, state: str) -> None:
    outbox.put("M1")
    with EhrSimulator(behaviour=[turn]) as ehr:
        with delivering(outbox.engine, destination(ehr.address, profile=profile, ack_timeout=0.3)):
            until(outbox.settled)
        assert (outbox.states()["M1"], len(ehr.arrivals)) == (state, 1)


def test_a_resend_to_a_receiver_that_knows_no_duplicates_is_marked(outbox: Outbox) -> None:
    report = outbox.put("M1")
    forgetful = Profile(dedupes_by="none")
    with (
        EhrSimulator(behaviour=script(M1=["hangup"])) as ehr,
        delivering(outbox.engine, destination(ehr.address, profile=forgetful)),
    ):
        until(outbox.settled)
    with reading(outbox.engine) as conn:
        details = [row.detail for row in results.events_of(conn, report)]
    assert [detail.get("may_be_doubled", False) for detail in details] == [False, True]


def test_a_new_result_does_not_wait_behind_a_backlog(outbox: Outbox) -> None:
    with EhrSimulator() as ehr:
        ehr.stop()
        outbox.put_many(2000, patients=40)
        with delivering(outbox.engine, destination(ehr.address)) as sender, ehr.start():
            assert ehr.wait_for(lambda ehr: len(ehr.arrivals) > 100)
            outbox.put("NEW")
            before = len(ehr.arrivals)
            sender.wake()
            assert ehr.wait_for(lambda ehr: "NEW" in ehr.messages)
            assert [one.control_id for one in ehr.arrivals].index("NEW") - before < 200
            until(outbox.settled, 60)
        assert len(ehr.messages) == 2001


def test_an_outcome_that_was_never_committed_is_sent_again_as_the_same_message(outbox: Outbox) -> None:
    """As after a kill between the EHR's answer and the commit."""
    outbox.put("M1")
    with EhrSimulator() as ehr:
        killed = _HalfWriter(outbox.engine)
        with sending(Sender(destination(ehr.address), outbox.engine, killed, "a1", poll_seconds=0.02)):
            assert ehr.wait_for(lambda ehr: len(ehr.arrivals) == 1)
            until(lambda: killed.dropped > 0)
        assert outbox.states() == {"M1": "queued"}
        with delivering(outbox.engine, destination(ehr.address)):
            until(outbox.settled)
        assert (ehr.duplicates, ehr.mismatches, outbox.states()) == (1, [], {"M1": "posted"})


class _HalfWriter:
    """A writer that is killed after the lease was taken: what else is submitted never reaches the store."""

    def __init__(self, engine: Engine) -> None:
        self.dropped = 0
        self._engine = engine
        self._leased = False

    def submit(self, job: Any, committed: Callable[[], None] | None = None) -> None:
        if self._leased:
            self.dropped += 1
            return
        self._leased = True
        with writing(self._engine) as conn:
            job(conn)
        assert committed is not None
        committed()


def test_two_agents_do_not_send_the_same_message(outbox: Outbox) -> None:
    for number in range(40):
        outbox.put(f"M{number}")
    with EhrSimulator() as ehr:
        to = destination(ehr.address)
        with delivering(outbox.engine, to, "a1") as one, delivering(outbox.engine, to, "a2") as other:
            until(outbox.settled)
            assert sorted((one.status().leased, other.status().leased)) == [False, True]
        outbox.put("M40")
        with delivering(outbox.engine, to, "a3"):  # an agent that stops gives its lease back
            until(outbox.settled)
        assert (ehr.duplicates, len(ehr.messages)) == (0, 41)


def test_what_is_withdrawn_is_not_sent(outbox: Outbox) -> None:
    kept, gone = outbox.put("M1"), outbox.put("M2")
    with writing(outbox.engine) as conn:
        assert deliveries.withdraw(conn, gone, AT) == []
    with EhrSimulator() as ehr:
        with delivering(outbox.engine, destination(ehr.address)):
            until(outbox.settled)
        assert list(ehr.messages) == ["M1"]
    assert outbox.states() == {"M1": "posted", "M2": "withdrawn"}
    assert outbox.report_state(kept) == "posted"


def test_a_stop_is_prompt_with_a_message_on_the_wire(outbox: Outbox) -> None:
    outbox.put("M1")
    with EhrSimulator(behaviour=["none"]) as ehr:
        with delivering(outbox.engine, destination(ehr.address, ack_timeout=60.0)):
            assert ehr.wait_for(lambda ehr: len(ehr.arrivals) == 1)
        assert outbox.states() == {"M1": "unanswered"}


def test_judgement_follows_the_profile() -> None:
    strict, lenient = Profile(policy=Policy(ae_retries=0)), Profile(policy=Policy(ae_retries=2, ar="retry"))
    assert judge(ack.Ack("AE", "1"), strict, 0) is Outcome.REFUSED
    assert judge(ack.Ack("AR", "1"), lenient, 1) is Outcome.RETRY
    assert judge(ack.Ack("AR", "1"), lenient, 2) is Outcome.REFUSED
    assert judge(ack.Ack("CR", "1"), lenient, 0) is Outcome.REFUSED
    assert judge(ack.Ack("XX", "1"), lenient, 0) is Outcome.REFUSED


def test_a_day_of_waiting_is_bounded_and_never_in_step() -> None:
    rng = random.Random(7)
    waits = [backoff(attempt, (1.0, 60.0), rng) for attempt in range(1, 3000)]
    assert waits[0] <= 1.0
    assert max(waits) <= 60.0
    assert min(waits[10:]) >= 30.0
    assert 1440 <= next(n for n in range(3000) if sum(waits[:n]) > 86_400) <= 2880
    assert len(set(waits)) == len(waits)


def test_the_words_of_a_peer_are_harmless_when_shown() -> None:
    assert shown("\x1b[2Jno\r\nsuch order") == "\\x1b[2Jno\\r\\nsuch order"
    assert len(shown("x" * 5000)) == 200
