"""A result is assigned to somebody else while its first message is on the wire: both charts end up right."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hl7
from sqlalchemy import Engine

from chartbound.agent.delivery import Sender
from chartbound.agent.mllp_wire import Destination
from chartbound.agent.store import deliveries
from chartbound.agent.store.engine import reading
from chartbound.agent.writer import StoreWriter
from chartbound.hl7 import conformance
from chartbound.simulators.ehr import EhrSimulator

from .clinic import A_LABEL, ANA, B_LABEL, BEN, HBA1C, identifiers, open_clinic, ran


def until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Look until it is so; False where that takes too long."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not (found := condition()) and time.monotonic() < end:
        pause.wait(0.02)
    return found


def play(store: Engine, folder: Path, first_answer: str) -> list[tuple[str, str]]:
    """Whom the EHR was told what of, in order, where it answers the first message so and all others at once."""
    clinic = open_clinic(store, folder)
    clinic.register(A_LABEL, ANA, HBA1C)
    clinic.register(B_LABEL, BEN, replace(HBA1C, placer_order="P-7"))
    [row] = clinic.run("hba1c-1", ran(specimen_id=A_LABEL, values={"HbA1c": "6.1"}))
    stop, writer = threading.Event(), StoreWriter(store)
    came: list[str] = []

    def answer(control_id: str, _before: int) -> str:
        came.append(control_id)
        return first_answer if len(came) == 1 else "AA"

    def all_settled() -> bool:
        with reading(store) as conn:
            return len(ehr.messages) == 3 and deliveries.waiting(conn, "ehr") == 0

    with EhrSimulator(behaviour=answer, late_seconds=0.7) as ehr:
        there = Destination("ehr", *ehr.address, ack_timeout=2.0, retry=(0.01, 0.05))
        thread = threading.Thread(target=Sender(there, store, writer, "agent-1", poll_seconds=0.05).run, args=(stop,))
        writer.start()
        thread.start()
        assert ehr.wait_for(lambda ehr: len(ehr.arrivals) == 1)
        with clinic.acting() as acts:
            assert acts.assign(row.id, B_LABEL, identifiers(BEN)) == "queued"
        assert until(all_settled)
        stop.set()
        thread.join()
        writer.stop()
    assert all(conformance.validate(message) == "" for message in ehr.messages.values())
    parsed = [hl7.parse(message.decode()) for message in ehr.messages.values()]
    return sorted((str(one["PID.F3.R1.C1"]), str(one["OBX.F11"])) for one in parsed)


def test_a_message_accepted_after_its_result_was_given_to_another_is_retracted(store: Engine, tmp_path: Path) -> None:
    assert play(store, tmp_path, "late") == [("MRN-1", "F"), ("MRN-1", "W"), ("MRN-2", "F")]


def test_so_is_one_that_was_sent_and_never_answered(store: Engine, tmp_path: Path) -> None:
    """The EHR of this test has filed it; for all we know it may have."""
    assert play(store, tmp_path, "hangup") == [("MRN-1", "F"), ("MRN-1", "W"), ("MRN-2", "F")]
