"""A claim and the clocks: which reading an MA's scan takes, and when time is no evidence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chartbound.agent.evidence import Neighbour, Reason, Worklist
from chartbound.agent.matching import History, decide

from .matching_scene import (
    ANA,
    BEN,
    CLAIMED,
    ENTRY,
    MINUTE,
    NINE,
    OURS,
    RULES,
    YES,
    claim,
    entry,
    held,
    matched,
    reading,
)

# --- claims ------------------------------------------------------------------------------------------------------------------


def test_a_neighbours_strip_run_just_before_the_claim_is_not_filed_to_the_claimed() -> None:
    late = Worklist((ENTRY,), (claim(start=NINE + MINUTE + timedelta(seconds=1)),), confirmation=YES)
    hold = held(decide(reading(), late, RULES), Reason.NO_SPECIMEN)
    assert "was made after this test" in hold.why


def test_the_clock_offset_is_taken_off_before_a_claim_is_asked() -> None:
    fast = replace(reading(), clock_offset=2 * MINUTE)  # it says 9:01, and it was 8:59
    held(decide(fast, replace(CLAIMED, confirmation=YES), RULES), Reason.NO_SPECIMEN)
    slow = replace(reading(), stated_at=NINE - MINUTE, clock_offset=-2 * MINUTE)  # it says 8:59, and it was 9:01
    matched(decide(slow, replace(CLAIMED, confirmation=YES), RULES))


def test_a_clock_of_minutes_loses_no_claim_of_that_minute() -> None:
    made = claim(start=NINE + timedelta(seconds=90))
    minutes = reading(precision=MINUTE)  # 9:01, which may be 9:01:59
    matched(decide(minutes, Worklist((ENTRY,), (made,), confirmation=YES), RULES))
    seconds = reading()
    held(decide(seconds, Worklist((ENTRY,), (made,), confirmation=YES), RULES), Reason.NO_SPECIMEN)
    next_minute = claim(start=NINE + 2 * MINUTE)
    held(decide(minutes, Worklist((ENTRY,), (next_minute,), confirmation=YES), RULES), Reason.NO_SPECIMEN)


def test_a_result_heard_before_the_claim_is_not_taken_even_within_the_minute() -> None:
    heard = replace(reading(precision=MINUTE), heard_at=NINE + timedelta(seconds=70))
    made = claim(start=NINE + timedelta(seconds=80))
    held(decide(heard, Worklist((ENTRY,), (made,), confirmation=YES), RULES), Reason.NO_SPECIMEN)


@pytest.mark.parametrize("change", [{"expires_at": NINE + timedelta(seconds=30)}, {"ended_at": NINE}, {"used": True}])
def test_a_claim_that_is_over_or_used_takes_nothing(change: dict[str, Any]) -> None:
    held(decide(reading(), Worklist((ENTRY,), (claim(**change),), confirmation=YES), RULES), Reason.NO_SPECIMEN)


def test_a_claim_takes_a_reading_of_its_last_instant() -> None:
    matched(decide(reading(), Worklist((ENTRY,), (claim(expires_at=NINE + MINUTE),), confirmation=YES), RULES))


def test_a_claim_for_another_instrument_takes_nothing() -> None:
    held(decide(reading(), Worklist((ENTRY,), (claim(instrument="urine-1"),), confirmation=YES), RULES), Reason.NO_SPECIMEN)


@pytest.mark.parametrize("neighbour_minute", [0, 1, 5, 14])
def test_two_readings_within_a_claim_are_both_held(neighbour_minute: int) -> None:
    other = Neighbour(NINE + 20 * MINUTE, NINE + neighbour_minute * MINUTE)
    worklist = replace(CLAIMED, neighbours=(other,), confirmation=YES)
    held(decide(reading(), worklist, replace(RULES, confirm_claims=False)), Reason.SEVERAL_SPECIMENS)


def test_two_new_readings_in_one_read_of_a_memory_are_both_held_though_the_claim_had_ended() -> None:
    later = Neighbour(NINE + 30 * MINUTE, NINE + 20 * MINUTE, same_read=True)
    held(decide(reading(), replace(CLAIMED, neighbours=(later,), confirmation=YES), RULES), Reason.SEVERAL_SPECIMENS)
    another_read = replace(later, same_read=False)
    matched(decide(reading(), replace(CLAIMED, neighbours=(another_read,), confirmation=YES), RULES))


def test_readings_from_before_the_claim_do_not_crowd_it() -> None:
    before = Neighbour(NINE + 2 * MINUTE, NINE - MINUTE, same_read=True)
    matched(decide(reading(), replace(CLAIMED, neighbours=(before,), confirmation=YES), RULES))


def test_a_reading_of_doubtful_time_crowds_every_claim_it_was_heard_in() -> None:
    timeless = Neighbour(NINE + 3 * MINUTE, None)
    held(decide(reading(), replace(CLAIMED, neighbours=(timeless,), confirmation=YES), RULES), Reason.SEVERAL_SPECIMENS)


def test_two_claims_within_one_minute_of_the_clock_are_not_guessed_between() -> None:
    switch = NINE + timedelta(seconds=75)
    claims = (claim(ended_at=switch), claim("F-2", switch, 2))
    worklist = Worklist((ENTRY, entry("F-2", BEN)), claims)
    held(decide(reading(precision=MINUTE), worklist, RULES), Reason.SEVERAL_SPECIMENS)
    ben = reading(precision=MINUTE, patient_id="M2")
    assert matched(decide(ben, worklist, RULES)).claim == 2


# --- clocks ------------------------------------------------------------------------------------------------------------------

DOUBTS: list[dict[str, Any]] = [
    {"stated_at": None},
    {"clock_doubtful": True},
    {"clock_offset": 6 * MINUTE, "stated_at": NINE + 7 * MINUTE},
    {"clock_offset": None, "heard_at": NINE + 10 * MINUTE},
    {"stated_at": NINE + 10 * MINUTE},
]


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_doubtful_clock_holds_where_time_is_evidence(doubt: dict[str, Any]) -> None:
    worklist = replace(CLAIMED, confirmation=YES)
    held(decide(replace(reading(), **doubt), worklist, RULES), Reason.CLOCK_DOUBTFUL)
    by_patient = replace(reading(patient_id="M1", birth_date=ANA.birth_date), **doubt)
    held(decide(by_patient, Worklist((ENTRY,)), RULES), Reason.CLOCK_DOUBTFUL)


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_doubtful_clock_does_not_hold_a_label(doubt: dict[str, Any]) -> None:
    stated = replace(reading(specimen_id=OURS), **doubt)
    matched(decide(stated, Worklist((entry(OURS),)), RULES))
    matched(decide(stated, Worklist((entry(OURS),), (claim(OURS),)), RULES))


def test_a_meters_readings_from_before_its_set_up_are_history() -> None:
    rules = replace(RULES, history_before=NINE + 2 * MINUTE)
    assert isinstance(decide(reading(), CLAIMED, rules), History)
    held(decide(reading(), CLAIMED, replace(RULES, history_before=NINE + MINUTE)), Reason.CONFIRMATION_DUE)


def test_a_clock_that_was_reset_makes_no_history() -> None:
    reset = replace(reading(), stated_at=datetime(2000, 1, 1, tzinfo=UTC), clock_offset=datetime(2000, 1, 1, tzinfo=UTC) - NINE)
    rules = replace(RULES, history_before=NINE - MINUTE)
    held(decide(reset, CLAIMED, rules), Reason.CLOCK_DOUBTFUL)
    untold = replace(reset, clock_offset=None)
    held(decide(untold, Worklist(), rules), Reason.NO_SPECIMEN)
