"""The verdict on a crash campaign: what the instruments were promised, against what the EHR filed and what the ledger says.

Nothing here is read with the program's own code but the ledger: the store with SQLite, the messages by splitting their text.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .campaign import Campaign

GLUCOSE = "glucose-1"
_SPECIFIC_GRAVITY, _HBA1C = "5811-5", "4548-4"  # LOINC


@dataclass(frozen=True, slots=True)
class Filed:
    """A message as the EHR has it."""

    label: str
    mrn: str
    values: dict[str, str]  # by LOINC


def problems(clinic: Campaign, ledger: dict[str, Any]) -> list[str]:
    """Every violation, in words; counts go to `clinic.counts`."""
    return [*_of_ledger(clinic, ledger), *_of_ehr(clinic), *_of_store(clinic)]


def _of_ledger(clinic: Campaign, ledger: dict[str, Any]) -> Iterator[str]:
    if not ledger["balanced"]:
        yield f"the ledger does not balance: {ledger}"
    for state in ("received", "queued", "refused", "unreadable", "dismissed", "superseded", "qc"):
        if ledger[state]:
            yield f"{ledger[state]} results are {state}"
    for state in ("heard", "posted", "duplicate", "held", "incomplete"):
        clinic.counts[f"ledger: {state}"] = ledger[state]


def _of_ehr(clinic: Campaign) -> Iterator[str]:
    ehr = clinic.ehr
    clinic.counts["arrivals at the EHR"] = len(ehr.arrivals)
    clinic.counts["of them the same message again"] = ehr.duplicates
    clinic.counts["messages filed"] = len(ehr.messages)
    first: dict[str, bytes] = {}
    for arrival in ehr.arrivals:
        if first.setdefault(arrival.control_id, arrival.body) != arrival.body:
            yield f"message {arrival.control_id} came with other bytes than before"
    for control_id in first.keys() - ehr.messages.keys():
        yield f"message {control_id} was never filed"
    by_label: dict[str, list[Filed]] = {}
    for body in ehr.messages.values():
        filed = _read(body)
        by_label.setdefault(filed.label, []).append(filed)
    due = {one.label: one for instrument in clinic.instruments for one in instrument.said if one.state == "promised"}
    clinic.counts["results promised"] = len(due)
    for label in by_label.keys() - due.keys():
        yield f"the EHR has a result of {label}, which nobody was promised"
    for label, one in due.items():
        filings = by_label.get(label, [])
        if len(filings) != 1:
            yield f"{one.instrument} {one.sequence} ({label}) is in the EHR {len(filings)} times"
            continue
        loinc = _SPECIFIC_GRAVITY if one.instrument == clinic.urine.name else _HBA1C
        if filings[0].values.get(loinc) != one.value:
            yield f"{one.instrument} {one.sequence}: the EHR has another value"
        if filings[0].mrn != clinic.mrn_of[label]:
            yield f"{one.instrument} {one.sequence}: the EHR has it for another patient"


def _of_store(clinic: Campaign) -> Iterator[str]:
    """Each promised result once, posted; the rest of what was heard of it as duplicates."""
    with contextlib.closing(sqlite3.connect(clinic.state / "chartbound.db")) as store:
        rows = store.execute("SELECT instrument, state, reason, body FROM report WHERE state != 'duplicate'").fetchall()
        [(broken,)] = store.execute("PRAGMA integrity_check").fetchall()
    if broken != "ok":
        yield f"the store is damaged: {broken}"
    found: Counter[tuple[str, str]] = Counter()
    readings: Counter[str] = Counter()
    for instrument, state, reason, text in rows:
        body = json.loads(text)
        if instrument == GLUCOSE:  # no label and no claim: a person must say whose it is
            readings[body["observations"][0]["value"]] += 1
            expected = ("held", "NO_SPECIMEN")
        else:
            found[instrument, body["specimen_id"]] += 1
            expected = ("posted", "")
        if (state, reason) != expected:
            yield f"{instrument}: a result is {state} {reason}"
    yield from _of_instruments(clinic, found)
    for reading in clinic.readings:
        if readings[reading.values["GLU"]] != 1:
            yield f"the meter's reading of {reading.at} is in the store {readings[reading.values['GLU']]} times"
    clinic.counts["readings of the meter"] = len(readings)


def _of_instruments(clinic: Campaign, found: Counter[tuple[str, str]]) -> Iterator[str]:
    for instrument in clinic.instruments:
        clinic.counts["conversations cut"] += instrument.lost_lines
        for one in instrument.said:
            times = found[one.instrument, one.label]
            if one.state == "promised" and times != 1:
                yield f"{one.instrument} {one.sequence} ({one.label}) is in the store {times} times"
            elif one.state == "given up":
                clinic.counts["results cut off before their storage point"] += 1
                if times:
                    yield f"{one.instrument} {one.sequence} was never completed and is a result"
            elif one.state == "new":
                yield f"{one.instrument} {one.sequence} was not said: the campaign itself is wrong"


def _read(body: bytes) -> Filed:
    segments = [line.split("|") for line in body.decode().split("\r") if line]
    one = {fields[0]: fields for fields in segments}
    values = {fields[3].split("^")[0]: fields[5] for fields in segments if fields[0] == "OBX"}
    return Filed(one["SPM"][2].split("^")[0], one["PID"][3].split("^")[0], values)
