"""The EHR's orders and patient updates change the register: a specimen waits, is cancelled, or has its patient's name mended.

A message is taken whole or not at all, in one transaction with its audit rows and with the new verdict on held results that
it bears on. The same message again changes nothing, because a sender that missed our answer sends it again.

Where label and MRN stand in a message is said by `[orders]` of the first destination's profile: orders come from the EHR that
results go to. A patient is an MRN with its authority; neither is ever guessed from the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError

from ..hl7.chart import Patient, Specimen
from ..hl7.orders import Incoming, OrderMessage, PatientMerge, PatientUpdate, read
from ..hl7.profile import Orders
from ..hl7.received import Refused
from . import audit, orders, worklist
from .store import results, specimens
from .store.specimens import Registered
from .verdict import Verdicts

log = structlog.get_logger("chartbound.orders")

_MESSAGE_START = re.compile(rb"(?:\A|(?<=[\r\n\x0b]))MSH")
_AROUND = re.compile(rb"[\r\n\x0b\x1c]+(?:[FB][HT]S[^\r\n]*[\r\n\x0b\x1c]*)*\Z")  # MLLP framing, batch and file trailers


class LabelRefused(Refused):
    """The order is sound, but its label is another patient's, or was cancelled."""

    def __init__(self, where: str, problem: orders.LabelTaken) -> None:
        super().__init__(where, f"the label {problem.what}; {problem.hint}")


def rules(verdicts: Verdicts) -> Orders:
    """Where this site's feed has label and MRN."""
    return verdicts.site.destinations[0].loaded.orders


def messages_of(content: bytes) -> list[bytes]:
    """The messages of a file: one or many, with or without MLLP framing and the segments of a batch (FHS, BHS, BTS, FTS)."""
    starts = [found.start() for found in _MESSAGE_START.finditer(content)]
    return [_AROUND.sub(b"\r", content[at:end]) for at, end in pairwise([*starts, len(content)])]


def receive_all(
    conn: Connection, verdicts: Verdicts, who: str, content: bytes, at: datetime
) -> tuple[int, list[tuple[int, Refused]]]:
    """Take each message of a file; return how many were taken, and the refused with their places, from 1."""
    taken, refused = 0, []
    for number, message in enumerate(messages_of(content), start=1):
        savepoint = conn.begin_nested()
        try:
            receive(conn, verdicts, who, message, at)
        except Refused as problem:
            savepoint.rollback()
            refused.append((number, problem))
        else:
            savepoint.commit()
            taken += 1
    return taken, refused


def receive(conn: Connection, verdicts: Verdicts, who: str, message: bytes, at: datetime) -> int:
    """Do what one message asks for; return how many specimens it changed.

    Raises `hl7.received.Refused` (`UnknownMessage` among it), whose text names no patient; the caller rolls back then.
    """
    incoming = read(message, rules(verdicts), verdicts.site.zone)
    desk = _Desk(conn, verdicts, who, at)
    desk.take(incoming)
    if desk.changed:
        _review(conn, verdicts, desk.changed)
    return len({one.id for one in desk.changed})


def _review(conn: Connection, verdicts: Verdicts, changed: list[Registered]) -> None:
    """Look again at what is held for these specimens. An order is sound even where a held result cannot be judged."""
    savepoint = conn.begin_nested()
    try:
        verdicts.review(conn, worklist.held_for(conn, verdicts.agent, changed))
        savepoint.commit()
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        savepoint.rollback()
        log.exception("held results could not be looked at again; they are with the next order or act that bears on them")


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where one message is worked on. `changed` has each changed specimen as it was and as it is now."""

    conn: Connection
    verdicts: Verdicts
    who: str
    at: datetime
    changed: list[Registered] = field(default_factory=list)

    def take(self, incoming: Incoming) -> None:
        for act in incoming.acts:
            match act:
                case OrderMessage("CA"):
                    for specimen in act.specimens:
                        self._cancel(specimen)
                case OrderMessage():
                    for specimen in act.specimens:
                        self._register(specimen)
                case PatientUpdate():
                    self._update(act.patient)
                case PatientMerge():
                    self._merge(act)
                    self._update(act.survivor)

    def _register(self, specimen: Specimen) -> None:
        known = specimens.by_label(self.conn, specimen.specimen_id)
        try:
            outcome = orders.put(self.conn, specimen, known, self.at)
        except orders.LabelTaken as problem:
            raise self._label_refused(problem) from None
        stated = _stated(known, specimen) if known else {}
        if known and stated:
            specimens.change(self.conn, known.id, **stated)
        if outcome != "known" or stated:
            self._done("register", specimen.specimen_id, {"outcome": outcome, **_fields(stated)}, known)

    def _cancel(self, asked: Specimen) -> None:
        """Cancel these tests, and the specimen where none is left.

        An order that was never heard is remembered as cancelled, so that it opens nothing should it come late.
        """
        known = specimens.by_label(self.conn, asked.specimen_id)
        if known and not orders.same_patient(known.specimen.patient, asked.patient):
            raise self._label_refused(orders.another_patients())
        found = [known] if known else self._of_these_orders(asked)
        if not found:
            specimens.cancel(self.conn, specimens.register(self.conn, replace(asked, cancelled=False), self.at), self.at)
            self._done("cancel", asked.specimen_id, {"outcome": "not heard before"})
        for one in found:
            self._cancel_tests(one, asked)

    def _cancel_tests(self, known: Registered, asked: Specimen) -> None:
        gone = {(test.placer_order, test.code) for test in asked.tests}
        dropped = [test for test in known.specimen.tests if (test.placer_order, test.code) in gone]
        if known.specimen.cancelled or not dropped:
            return
        label = known.specimen.specimen_id
        if len(dropped) == len(known.specimen.tests):
            specimens.cancel(self.conn, known.id, self.at)
            self._done("cancel", label, {}, known)
        else:
            specimens.drop_tests(self.conn, known.id, dropped)
            tests = [[test.placer_order, test.code] for test in dropped]
            self._done("cancel tests", label, {"tests": tests}, known)

    def _of_these_orders(self, asked: Specimen) -> list[Registered]:
        """The specimens of this patient that carry these very orders: a cancellation often leaves the specimen out."""
        found: dict[int, Registered] = {}
        for test in asked.tests:
            for one in specimens.by_order_number(self.conn, test.placer_order) if test.placer_order else ():
                carries = any((each.placer_order, each.code) == (test.placer_order, test.code) for each in one.specimen.tests)
                if carries and orders.same_patient(one.specimen.patient, asked.patient):
                    found[one.id] = one
        return list(found.values())

    def _update(self, patient: Patient) -> None:
        """Name, birth date and sex go to all of the patient's specimens; account and place to those of the same visit."""
        for one in specimens.of_patient(self.conn, patient.mrn):
            before = one.specimen.patient
            if not orders.same_patient(before, patient):
                continue
            names = ["last_name", "first_name", "birth_date", "sex"]
            if patient.visit and patient.visit == before.visit:
                names += ["account", "patient_class", "location"]
            new = {name: getattr(patient, name) for name in names}
            new = {name: value for name, value in new.items() if value and value != getattr(before, name)}
            if new:
                specimens.change(self.conn, one.id, **new)
                self._done("update patient", one.specimen.specimen_id, _fields(new), one)

    def _merge(self, merge: PatientMerge) -> None:
        """Give the retired record's specimens to the survivor, as long as no message about them has been built."""
        moved = [
            one
            for one in specimens.of_patient(self.conn, merge.retired_mrn)
            if not orders.same_patient(one.specimen.patient, merge.survivor)
        ]
        authorities = {one.specimen.patient.authority for one in moved}
        if authorities - {merge.retired_authority} and "" in {*authorities, merge.retired_authority}:
            raise Refused("MRG-1.4", "the authority of the retired number is not the one that specimens are registered under")
        moved = [one for one in moved if one.specimen.patient.authority == merge.retired_authority]
        if any(results.filed_for(self.conn, one.id) for one in moved):
            hint = "results of the retired record have messages already; such merges come in a later version: merge by hand"
            raise Refused("MRG-1", hint)
        for one in moved:
            specimens.change(self.conn, one.id, mrn=merge.survivor.mrn, authority=merge.survivor.authority)
            self._done("merge patient", one.specimen.specimen_id, {}, one)

    def _label_refused(self, problem: orders.LabelTaken) -> LabelRefused:
        return LabelRefused(rules(self.verdicts).specimen_id[0], problem)

    def _done(self, act: str, label: str, detail: dict[str, Any], before: Registered | None = None) -> None:
        audit.append(self.conn, self.verdicts.agent, self.who, act, f"specimen {label}", detail, self.at)
        now = specimens.by_label(self.conn, label)
        self.changed.extend(one for one in (before, now) if one)


def _stated(known: Registered, specimen: Specimen) -> dict[str, Any]:
    """What this message says otherwise, or for the first time, of a known specimen; what it leaves out stays."""
    said = {name: getattr(specimen, name) for name in ("accession", "specimen_type", "collected_at", "collector")}
    return {name: value for name, value in said.items() if value and value != getattr(known.specimen, name)}


def _fields(changed: dict[str, Any]) -> dict[str, Any]:
    """Which fields changed, for the audit: their values are the patient's."""
    return {"fields": sorted(changed)} if changed else {}
