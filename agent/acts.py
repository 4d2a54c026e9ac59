"""What people do with results and specimens. Each act is one transaction: the change, the new verdict and the audit row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row

from . import audit, filing, worklist
from .evidence import RELEASABLE, Reason, name_agrees
from .orders import Ordered, RowProblem, Taken, coded, take
from .store import deliveries, results, specimens
from .verdict import Verdicts


class Refused(Exception):
    """This act cannot be done as asked. Says what stands against it and what a person can do instead."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}")
        self.what, self.hint = what, hint


@dataclass(frozen=True, slots=True)
class Person:
    """The two identifiers by which a person names a patient."""

    last_name: str
    first_name: str
    birth_date: date


@dataclass(frozen=True, slots=True)
class Acts:
    """The acts of one person on one store. `who` is signed in, or the operating system's user; never a name that one types."""

    conn: Connection
    verdicts: Verdicts
    who: str
    at: datetime

    def register(self, new: list[Ordered]) -> tuple[list[Taken], list[RowProblem]]:
        """Take orders into the register; held results that waited for them are looked at again."""
        taken, problems = take(self.conn, coded(new, self.verdicts.catalog), self.at)
        for one in taken:
            if one.outcome != "known":
                self._audit("register", f"specimen {one.specimen_id}", {"outcome": one.outcome})
        self._look_again(one.specimen_id for one in taken)
        return taken, problems

    def cancel(self, specimen_id: str) -> None:
        """Nothing more is matched to this specimen."""
        found = self._specimen(specimen_id)
        if found.specimen.cancelled:
            raise Refused(f"{specimen_id} is cancelled already", "nothing is left to do")
        specimens.cancel(self.conn, found.id, self.at)
        self._audit("cancel", f"specimen {specimen_id}", {})
        self._look_again([specimen_id])

    def claim(self, specimen_id: str, instrument_name: str, station: str = "") -> list[str]:
        """Say that this specimen is being run on this instrument now; return the labels whose claims this one ends."""
        instrument = self.verdicts.site.instrument(instrument_name)
        if instrument is None:
            names = ", ".join(one.name for one in self.verdicts.site.instruments) or "none yet"
            raise Refused(f"there is no instrument {instrument_name}", f"the site file names: {names}")
        found = self._specimen(specimen_id)
        if found.specimen.cancelled:
            raise Refused(f"{specimen_id} was cancelled", "scan another label")
        ended = specimens.end_claims(self.conn, self.verdicts.agent, instrument_name, self.at)
        claim = specimens.ClaimRow(
            id=0,
            specimen=found.id,
            agent=self.verdicts.agent,
            instrument=instrument_name,
            station=station or instrument.station or "",
            who=self.who,
            started_at=self.at,
            expires_at=self.at + timedelta(minutes=instrument.claim_minutes),
            ended_at=None,
        )
        specimens.start_claim(self.conn, claim)
        self._audit("claim", f"specimen {specimen_id}", {"instrument": instrument_name, "station": claim.station})
        self._look_again([specimen_id])
        return [label for one in ended if (label := self._label(one.specimen)) != specimen_id]

    def end_claim(self, instrument_name: str) -> list[str]:
        """End what is claimed on this instrument; return the labels."""
        ended = specimens.end_claims(self.conn, self.verdicts.agent, instrument_name, self.at)
        labels = [self._label(one.specimen) for one in ended]
        if not labels:
            raise Refused(f"no claim is running on {instrument_name}", "a claim ends by itself after its minutes")
        for label in labels:
            self._audit("end claim", f"specimen {label}", {"instrument": instrument_name})
        return labels

    def confirm(self, result_id: int) -> str:
        """The claimant has seen value, time and patient and says yes. Returns the state the result is in now."""
        row = self._held(result_id, "confirmed")
        if row.reason != Reason.CONFIRMATION_DUE or row.specimen is None:
            raise Refused(f"result {result_id} is held for {row.reason}, not for a confirmation", _HINTS.get(row.reason, _SEE))
        return self._say(row, "confirmed", {"specimen_id": self._label(row.specimen)})

    def assign(self, result_id: int, specimen_id: str, person: Person) -> str:
        """Give this one result to this specimen, by its label and two identifiers; what was posted elsewhere is retracted."""
        row = self._result(result_id)
        if row.state not in ("held", "queued", "posted", "refused"):
            raise Refused(f"result {result_id} is {row.state} and cannot be assigned", _SEE)
        found = self._specimen(specimen_id)
        if found.specimen.cancelled:
            raise Refused(f"{specimen_id} was cancelled", "scan another label")
        self._check(
            person, found.specimen.patient.last_name, found.specimen.patient.first_name, found.specimen.patient.birth_date
        )
        if row.state in results.FILED:
            if row.specimen == found.id:
                raise Refused(f"result {result_id} is assigned to {specimen_id} already", "nothing is left to do")
            filing.retract(self.conn, self.verdicts.site, self.verdicts.catalog, row)
            results.change(self.conn, row.id, state="held", reason="", specimen=None, tests=[], claim=None)
        return self._say(row, "assigned", {"specimen_id": specimen_id, **_plain(person)})

    def release(self, result_id: int, person: Person) -> str:
        """Let a result go that is held for a doubt which a person may waive, naming two identifiers of its patient."""
        row = self._held(result_id, "released")
        if row.reason not in {reason.value for reason in RELEASABLE}:
            waived = ", ".join(sorted(RELEASABLE))
            raise Refused(f"a hold for {row.reason} cannot be released", f"{_HINTS.get(row.reason, _SEE)}; only {waived} can")
        found = specimens.by_id(self.conn, row.specimen) if row.specimen else None
        if found is None:
            raise Refused(f"result {result_id} fits no single specimen", "assign it instead")
        patient = found.specimen.patient
        self._check(person, patient.last_name, patient.first_name, patient.birth_date)
        return self._say(row, "released", {"reasons": [row.reason], **_plain(person)})

    def dismiss(self, result_id: int, reason: str) -> str:
        """Say that nothing is to be done with this result, and why."""
        row = self._result(result_id)
        if row.state not in ("held", "unreadable", "refused", "received"):
            raise Refused(f"result {result_id} is {row.state} and needs no dismissal", _SEE)
        if not reason.strip():
            raise Refused("a dismissal needs its reason", 'write --reason "run twice by mistake"')
        results.change(self.conn, row.id, state="dismissed", why=f"dismissed by {self.who}: {reason.strip()}")
        detail = {"reason": reason.strip(), "was": row.state, "hold": row.reason, "why": row.why}
        results.log(self.conn, row.id, "dismissed", self.at, {"who": self.who, **detail})
        self._audit("dismiss", f"result {row.id}", detail)
        return "dismissed"

    def undo(self, result_id: int) -> tuple[str, str]:
        """Take back the last act on this result, until a message of it was sent. Returns the act and the state it is in now."""
        row = self._standing(result_id, "undone")
        events = results.events_of(self.conn, row.id)
        acts = [one for one in events if one.what in (*worklist.ACTS, "dismissed", "undone")]
        undone = {one.detail["event"] for one in acts if one.what == "undone"}
        last = next((one for one in reversed(acts) if one.what != "undone" and one.id not in undone), None)
        if last is None:
            raise Refused(f"nobody has done anything with result {result_id} that could be undone", _SEE)
        state, hold, why = "held", "", "an act of a person was undone"
        if last.what == "dismissed":
            state, hold, why = last.detail.get("was", "held"), last.detail.get("hold", ""), last.detail.get("why", "")
        else:
            self._take_back(row, events)
        results.log(self.conn, row.id, "undone", self.at, {"event": last.id, "who": self.who, "act": last.what})
        blank: dict[str, Any] = {"specimen": None, "tests": [], "claim": None, "evidence": []} if state == "held" else {}
        results.change(self.conn, row.id, state=state, reason=hold, why=why, **blank)
        self._audit("undo", f"result {row.id}", {"undone": last.what})
        if state == "held":
            self.verdicts.review(self.conn, [row.id])
        return last.what, self._result(row.id).state

    def _take_back(self, row: results.ReportRow, events: Sequence[Row[Any]]) -> None:
        retracted = any(one.what == "retracted" and one.detail["destinations"] for one in events)
        if retracted or any(one.attempts for one in results.deliveries_of(self.conn, [row.id])):
            raise Refused(
                f"result {row.id} was sent and may be in the chart", "assign it to the right specimen: a retraction goes out"
            )
        filing.undo(self.conn, row)

    def resend(self, result_id: int) -> int:
        """Queue once more what was refused: the same bytes under the same control id. Returns how many messages that are."""
        row = self._standing(result_id, "sent again")
        if row.state == "dismissed":
            raise Refused(f"result {result_id} is dismissed", "undo that first")
        count = deliveries.resend(self.conn, row.id, self.at)
        if not count:
            raise Refused(f"no message of result {result_id} was refused", f"it is {row.state}")
        self._audit("resend", f"result {row.id}", {"messages": count})
        return count

    def _look_again(self, labels: Iterable[str]) -> None:
        """Look at the held results that these bear on: all of them would take seconds, and nobody else could write."""
        changed = [found for label in labels if (found := specimens.by_label(self.conn, label))]
        self.verdicts.review(self.conn, worklist.held_for(self.conn, self.verdicts.agent, changed))

    def _say(self, row: results.ReportRow, what: str, said: dict[str, Any]) -> str:
        results.log(self.conn, row.id, what, self.at, {"who": self.who, **said})
        self._audit(
            what, f"result {row.id}", {name: value for name, value in said.items() if name in ("specimen_id", "reasons")}
        )
        self.verdicts.review(self.conn, [row.id])
        return str(self._result(row.id).state)

    def _audit(self, act: str, subject: str, detail: dict[str, Any]) -> None:
        audit.append(self.conn, self.verdicts.agent, self.who, act, subject, detail, self.at)

    def _result(self, result_id: int) -> results.ReportRow:
        row = results.by_id(self.conn, result_id)
        if row is None:
            raise Refused(f"there is no result {result_id}", "`chartbound results` lists them")
        return row

    def _held(self, result_id: int, what: str) -> results.ReportRow:
        row = self._result(result_id)
        if row.state != "held":
            raise Refused(f"result {result_id} is {row.state}, so it cannot be {what}", _SEE)
        return row

    def _standing(self, result_id: int, what: str) -> results.ReportRow:
        row = self._result(result_id)
        if row.state == "superseded":
            raise Refused(f"result {result_id} is superseded, so it cannot be {what}", f"{row.why}: act on that one")
        return row

    def _specimen(self, specimen_id: str) -> specimens.Registered:
        found = specimens.by_label(self.conn, specimen_id)
        if found is None:
            raise Refused(f"no specimen is registered under {specimen_id}", "`chartbound specimens list` lists them")
        return found

    def _label(self, row: int) -> str:
        found = specimens.by_id(self.conn, row)
        return found.specimen.specimen_id if found else "?"

    def _check(self, person: Person, last: str, first: str, born: date | None) -> None:
        """Two identifiers must both be the patient's. What they should have been is not told."""
        if name_agrees(person.last_name, person.first_name, last, first) is not True or person.birth_date != born:
            raise Refused(
                "the name and birth date given are not both those of this specimen's patient", "read them from the label"
            )


def act(conn: Connection, verdicts: Verdicts, who: str) -> Acts:
    """The acts of this person, now."""
    return Acts(conn, verdicts, who, datetime.now(UTC))


def _plain(person: Person) -> dict[str, str]:
    return {
        "last_name": person.last_name,
        "first_name": person.first_name,
        "birth_date": person.birth_date.isoformat(),
    }


_SEE = "`chartbound result ID` shows what became of it"
_HINTS = {
    Reason.UNKNOWN_ANALYTE: "add the code to the site's catalog",
    Reason.UNKNOWN_UNIT: "add the unit to the site's catalog, if the instrument is set right",
    Reason.SAMPLE_KIND_UNKNOWN: "set control_ids in the instrument's options",
    Reason.NO_SPECIMEN: "register the order, or assign the result",
    Reason.SEVERAL_SPECIMENS: "assign the result to the right one",
    Reason.LABEL_UNKNOWN: "register the label, or assign the result",
    Reason.IDENTITY_CONFLICT: "find out whose it is and assign the result",
    Reason.TEST_NOT_ORDERED: "add the test to the order, or dismiss the result",
    Reason.CONFIRMATION_DUE: "confirm it",
    Reason.NOT_CONFORMANT: "mend the order, the catalog or the profile",
}
