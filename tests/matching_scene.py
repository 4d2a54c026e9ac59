"""A reading at nine o'clock and the specimens it may belong to, for the tests of matching."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from chartbound.agent.evidence import Claim, Confirmation, Entry, Reading, Reason, Rules, Worklist
from chartbound.agent.matching import Hold, Match, Verdict
from chartbound.drivers.report import Observation, Report, SampleKind
from chartbound.hl7.chart import OrderedTest, Patient, Specimen
from chartbound.hl7.label import issue

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
RULES = Rules()
METER = "glucose-room-2"
MINUTE = timedelta(minutes=1)

ANA = Patient("M1", "Muñoz-Díaz", "Ana", date(1961, 3, 5))
BEN = Patient("M2", "Roe", "Ben", date(1950, 1, 31))
GLUCOSE = OrderedTest("82947", placer_order="P1", ordered_at=NINE)
OURS, THEIRS = issue(1), "F-100"


def entry(label: str = THEIRS, patient: Patient = ANA, *tests: OrderedTest, **more: Any) -> Entry:
    specimen = Specimen(label, patient, tests or (GLUCOSE,), issued=label.startswith("C"))
    return Entry(replace(specimen, **more), NINE)


def reading(**stated: Any) -> Reading:
    fields = {"kind": SampleKind.PATIENT, "observations": (Observation("GLU", "101", "mg/dL"),), **stated}
    return Reading(
        Report(**fields),
        METER,
        heard_at=NINE + 2 * MINUTE,
        stated_at=NINE + MINUTE,
        clock_offset=timedelta(),
        asked_by=(frozenset({"82947", "2345-7"}),),
    )


def claim(label: str = THEIRS, start: datetime = NINE, number: int = 1, **more: Any) -> Claim:
    made = Claim(number, label, METER, start, start + 15 * MINUTE)
    return replace(made, **more)


ENTRY = entry()
CLAIMED = Worklist((ENTRY,), (claim(),))
YES = Confirmation(THEIRS, "kim")


def matched(verdict: Verdict) -> Match:
    assert isinstance(verdict, Match), verdict
    return verdict


def held(verdict: Verdict, reason: Reason) -> Hold:
    assert isinstance(verdict, Hold), verdict
    assert verdict.reason is reason, verdict
    assert verdict.why
    return verdict
