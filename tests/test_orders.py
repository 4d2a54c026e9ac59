"""Order files: good rows become specimens, bad rows are named with their line, and a file that comes twice adds nothing."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from chartbound.agent.orders import COLUMNS, issue_label, read_csv
from chartbound.hl7.label import is_checked

from .clinic import Clinic, open_clinic

HEADER = ",".join(COLUMNS)
ZONE = ZoneInfo("America/Chicago")
ANA_ROW = "S-1,A-1,P-1,MRN-1,RIVERA,ANA,1961-03-05,F,4548-4,HbA1c,BLD,2026-01-15T09:30,jd,"


@pytest.fixture
def clinic(store: Engine, tmp_path: Path) -> Clinic:
    return open_clinic(store, tmp_path)


def csv(*rows: str) -> str:
    return "\n".join((HEADER, *rows)) + "\n"


def test_a_row_becomes_a_specimen_with_its_times_in_the_sites_zone() -> None:
    [one], problems = read_csv(csv(ANA_ROW), ZONE)
    assert problems == []
    assert one.specimen.collected_at is not None
    assert one.specimen.collected_at.isoformat() == "2026-01-15T09:30:00-06:00"
    assert (one.specimen.specimen_id, one.specimen.tests[0].placer_order) == ("S-1", "P-1")


def test_rows_of_one_label_are_one_specimen_with_several_tests() -> None:
    found, _ = read_csv(csv(ANA_ROW, ANA_ROW.replace("4548-4,HbA1c", "82043,Albumin")), ZONE)
    assert [[test.code for test in one.specimen.tests] for one in found] == [["4548-4", "82043"]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ANA_ROW.replace("1961-03-05", "05.03.1961"), "birth_date"),
        (ANA_ROW.replace("2026-01-15T09:30", "yesterday"), "collected_at"),
        (ANA_ROW.replace("MRN-1", ""), "mrn is empty"),
        (ANA_ROW.replace("4548-4", ""), "test_code is empty"),
        (ANA_ROW + ",extra", "fields"),
        ("S-1,A-1", "fields"),
        (ANA_ROW.replace("ANA", "A\x01NA"), "control character"),
        (ANA_ROW.replace("MRN-1", "9" * 100), "100 characters"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_the_rest_are_taken(row: str, words: str) -> None:
    good = ANA_ROW.replace("S-1", "S-2")
    found, [problem] = read_csv(csv(good, row), ZONE)
    assert [one.specimen.specimen_id for one in found] == ["S-2"]
    assert problem.line == 3
    assert words in str(problem)


def test_one_label_for_two_patients_is_a_problem_of_the_second_row() -> None:
    found, [problem] = read_csv(csv(ANA_ROW, ANA_ROW.replace("MRN-1", "MRN-2")), ZONE)
    assert len(found) == 1
    assert problem.line == 3


def test_missing_columns_are_all_named() -> None:
    found, [problem] = read_csv("mrn,last_name\n1,X\n", ZONE)
    assert not found
    assert "specimen_id" in str(problem)
    assert "birth_date" in str(problem)


@given(st.text(max_size=300))
def test_no_text_breaks_the_reading_of_an_order_file(text: str) -> None:
    read_csv(text, ZONE)
    read_csv(HEADER + "\n" + text, ZONE)


def test_a_label_of_ours_ends_in_its_check_character() -> None:
    labels = {issue_label() for _ in range(200)}
    assert len(labels) == 200
    assert all(is_checked(one) for one in labels)


def test_no_label_of_ours_looks_like_an_id_of_a_control() -> None:
    """With a label that begins with QC a patient's result would go to the QC log."""
    labels = [issue_label() for _ in range(2000)]
    assert all(one[0].isdigit() and "QC" not in one for one in labels)


def test_a_file_that_comes_twice_adds_nothing_even_where_we_issue_the_labels(clinic: Clinic) -> None:
    found, _ = read_csv(csv(ANA_ROW.replace("S-1,", ","), ANA_ROW.replace("P-1", "P-2")), ZONE)
    with clinic.acting() as acts:
        first, _ = acts.register(found)
    with clinic.acting() as acts:
        second, _ = acts.register(found)
    assert [one.outcome for one in first] == ["added", "added"]
    assert [one.outcome for one in second] == ["known", "known"]
    assert [one.specimen_id for one in first] == [one.specimen_id for one in second]


def test_a_label_registered_for_another_patient_is_refused(clinic: Clinic) -> None:
    found, _ = read_csv(csv(ANA_ROW), ZONE)
    other, _ = read_csv(csv(ANA_ROW.replace("MRN-1", "MRN-2")), ZONE)
    with clinic.acting() as acts:
        acts.register(found)
    with clinic.acting() as acts:
        taken, [problem] = acts.register(other)
    assert not taken
    assert "another patient" in str(problem)
