"""The catalog names every value that may reach a chart, and says on which line it is wrong."""

from __future__ import annotations

import csv
import random
from datetime import datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.config import catalog
from chartbound.config.errors import ConfigError, ConfigErrors
from chartbound.drivers import driver as drivers
from chartbound.drivers.driver import Contact, Driver
from chartbound.drivers.link import Unit
from chartbound.drivers.report import Report, SampleKind
from chartbound.simulators import peer
from chartbound.simulators.in_memory import converse

SHIPPED = sorted(
    path.name.removesuffix(".csv")
    for path in (files("chartbound") / "config" / "catalog").iterdir()
    if path.name.endswith(".csv")
)
HEADER = ",".join(catalog.COLUMNS)
NAME = "Glucose [Mass/volume] in Capillary blood by Glucometer"
ROW = f"onetouch_ultra2,GLU,mg/dL,41653-7,{NAME},mg/dL,NM,BLDC,G-1 82962,20,600,60,400"
OPTIONS = {"clinitek_status": {"date_order": "mdy"}}  # where a driver's options have no default


def of_site(folder: Path, *lines: str, header: str = HEADER) -> catalog.Catalog:
    (folder / "catalog").mkdir(exist_ok=True)
    (folder / "catalog" / "ours.csv").write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return catalog.load(folder)


def mistakes(folder: Path, *lines: str, header: str = HEADER) -> tuple[ConfigError, ...]:
    with pytest.raises(ConfigErrors) as caught:
        of_site(folder, *lines, header=header)
    return caught.value.errors


def simulated_reports(driver: Driver, count: int) -> list[Report]:
    """What the driver makes of its own simulator's tests, over its own link."""
    simulator = peer.find(driver.name)
    at = datetime(2026, 1, 15, 9, 30)  # noqa: DTZ001 - an instrument's clock knows no zone
    machine = simulator.peer(simulator.samples(count, at, random.Random(1)), at)
    options = driver.options.model_validate(OPTIONS.get(driver.name, {}))
    if driver.connect is None:
        units = [out.data for out in machine.data_to_send()]
    else:
        events = converse(driver.connect(options, Contact()), machine, until=600)
        units = [event.data for event in events if isinstance(event, Unit)]
    return [report for unit in units for report in driver.parse(unit, options)]


def test_the_shipped_catalog_is_sound_and_every_row_says_it_is_shipped() -> None:
    shipped = catalog.load()
    assert {row.driver for row in shipped.rows} == set(SHIPPED)
    assert all(row.shipped for row in shipped.rows)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_code_that_a_simulator_emits_has_a_catalog_row(name: str) -> None:
    shipped = catalog.load()
    reports = simulated_reports(drivers.find(name), 40)
    assert len(reports) == 40
    for report in reports:
        assert not report.problem
        if report.kind is SampleKind.PATIENT:
            assert report.observations
        for each in report.observations:
            row = shipped.find(name, each.code, each.unit)
            assert row is not None, (each.code, each.unit)
            if not each.comparator and row.value_type == "NM":
                assert row.is_plausible(Decimal(each.value))
        if report.impression:
            assert shipped.find(name, "impression", "") is not None


def test_a_unit_that_is_not_listed_is_not_found_though_the_code_is_known() -> None:
    shipped = catalog.load()
    assert shipped.find("onetouch_ultra2", "GLU", "mmol/L") is None
    assert shipped.find("onetouch_ultra2", "GLU", "") is None
    assert shipped.knows("onetouch_ultra2", "GLU")
    assert not shipped.knows("onetouch_ultra2", "glu")
    assert not shipped.knows("contour", "GLU")
    assert shipped.units("clinitek_status", "PRO") == ("", "mg/dL")


def test_mass_and_moles_of_glucose_never_share_a_loinc_code() -> None:
    by_code: dict[str, set[str]] = {}
    for row in catalog.load().rows:
        by_code.setdefault(row.loinc, set()).add(row.ucum)
    assert all(len(units) == 1 for units in by_code.values()), by_code


def test_a_row_of_the_site_replaces_the_shipped_row_with_its_key(tmp_path: Path) -> None:
    ours = of_site(tmp_path, ROW)
    row = ours.find("onetouch_ultra2", "GLU", "mg/dL")
    assert row is not None
    assert (row.order_codes, row.critical_low, row.shipped) == (("G-1", "82962"), Decimal(60), False)
    assert len(ours.rows) == len(catalog.load().rows)
    assert len(of_site(tmp_path, ROW, ROW.replace(",GLU,mg/dL", ",GLU,mmol/L")).rows) == len(ours.rows) + 1


def test_columns_may_stand_in_any_order_and_lines_may_be_blank(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    with (tmp_path / "catalog" / "excel.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, catalog.COLUMNS[::-1])
        writer.writeheader()
        writer.writerow(dict(zip(catalog.COLUMNS, ROW.split(","), strict=True)) | {"name": "A name, with a comma"})
        file.write(",,,,,,,,,,,,\r\n\r\n")
    row = catalog.load(tmp_path).find("onetouch_ultra2", "GLU", "mg/dL")
    assert row is not None
    assert row.name == "A name, with a comma"


@pytest.mark.parametrize(
    ("old", "new", "column", "what"),
    [
        ("onetouch_ultra2,", "onetouch_ultra,", "driver", "no driver onetouch_ultra"),
        ("onetouch_ultra2,", ",", "driver", "is missing"),
        (",GLU,", ",,", "vendor_code", "is missing"),
        ("41653-7", "41653-8", "loinc", "check digit of 41653-8"),
        ("41653-7", "41635-7", "loinc", "check digit of 41635-7"),
        ("41653-7", "GLU", "loinc", "is no LOINC code"),
        (NAME, "", "name", "is missing"),
        (",NM,", ",nm,", "value_type", "must be one of NM SN ST CWE TX FT ED"),
        (",mg/dL,NM", ",,NM", "ucum", "is missing"),
        (",mg/dL,NM", ",mg / dL,NM", "ucum", "space"),
        ("G-1 82962", " ", "order_codes", "is missing"),
        (",20,600,", ',"20,5",600,', "plausible_low", "not a number"),
        (",20,600,", ",20,inf,", "plausible_high", "not a number"),
        (",60,400", ",60,400 mg/dL", "critical_high", "not a number"),
        (",20,600,", ",600,20,", "plausible_low", "600 is above plausible_high 20"),
        (",60,400", ",400,60", "critical_low", "above"),
        (",60,400", ",60", "", "has 12 columns, the header has 13"),
    ],
)
def test_each_mistake_in_a_row_has_its_line_and_column(tmp_path: Path, old: str, new: str, column: str, what: str) -> None:
    assert old in ROW
    (error,) = mistakes(tmp_path, "", ROW.replace(",GLU,", ",OK,", 1), ROW.replace(old, new, 1))
    assert (error.line, error.key, error.file.name) == (4, column, "ours.csv")
    assert what in error.what


def test_every_mistake_of_every_file_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "a.csv").write_text(f"{HEADER}\n{ROW.replace('NM', 'XX').replace('41653-7', '1-1')}\n")
    (tmp_path / "catalog" / "b.csv").write_bytes(b"driver\n\xff\n")
    (tmp_path / "catalog" / "c.csv").write_text(f'{HEADER}\n"a"b\n')
    errors = mistakes(tmp_path, ROW, ROW)
    assert [(error.file.name, error.line, error.key) for error in errors] == [
        ("a.csv", 2, "loinc"),
        ("a.csv", 2, "value_type"),
        ("b.csv", 2, ""),
        ("c.csv", 2, ""),
        ("ours.csv", 3, "vendor_code"),
    ]
    assert "already listed in ours.csv:2" in errors[-1].what


def test_two_files_of_the_site_may_not_claim_the_same_key(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "a.csv").write_text(f"{HEADER}\n{ROW}\n")
    (error,) = mistakes(tmp_path, ROW)
    assert (error.file.name, error.what) == ("ours.csv", "onetouch_ultra2 GLU mg/dL is already listed in a.csv:2")


def test_a_header_with_unknown_missing_or_repeated_columns_is_refused(tmp_path: Path) -> None:
    errors = mistakes(tmp_path, ROW, header=HEADER.replace("loinc", "lonic"))
    assert {(error.line, error.key, error.hint.startswith("did you mean loinc?")) for error in errors} == {
        (1, "lonic", True),
        (1, "loinc", False),
    }
    assert [error.what for error in mistakes(tmp_path, header=HEADER + ",name")] == ["is named twice"]
    assert [error.hint for error in mistakes(tmp_path, header=HEADER.replace(",", ";"))] == ["save it with commas"]
    assert len(mistakes(tmp_path, header="")) == len(catalog.COLUMNS)


@pytest.mark.parametrize("code", ["718-7", "4548-4", "2345-7", "41653-7", "14749-6", "24357-6", "34534-8", "97097-0", "8601-7"])
def test_the_check_digit_of_well_known_codes_is_right_and_every_other_digit_wrong(code: str) -> None:
    stem, _, digit = code.partition("-")
    assert [catalog.loinc_is_sound(f"{stem}-{other}") for other in range(10)].index(True) == int(digit)
    assert sum(catalog.loinc_is_sound(f"{stem}-{other}") for other in range(10)) == 1


@given(st.integers(1, 9_999_999))
def test_the_check_digit_is_that_of_the_users_guide(number: int) -> None:
    """The guide's own way: odd places from the right as one number, times two, even places before it, all digits added."""
    digits = str(number)[::-1]
    doubled = str(int(digits[::2]) * 2) if digits[::2] else ""
    total = sum(map(int, digits[1::2] + doubled))
    assert catalog.loinc_is_sound(f"{number}-{(10 - total % 10) % 10}")


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode), after_the_header=st.booleans())
def test_any_bytes_are_rows_or_mistakes(tmp_path_factory: pytest.TempPathFactory, data: bytes, after_the_header: bool) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_catalog"
    (folder / "catalog").mkdir(parents=True, exist_ok=True)
    (folder / "catalog" / "any.csv").write_bytes((HEADER.encode() + b"\n" if after_the_header else b"") + data)
    try:
        found: tuple[object, ...] = catalog.load(folder).rows
    except ConfigErrors as refused:
        found = refused.errors
    assert found


def test_limits_hold_back_what_is_outside_and_alarm_at_the_limit_itself(tmp_path: Path) -> None:
    row = of_site(tmp_path, ROW).find("onetouch_ultra2", "GLU", "mg/dL")
    assert row is not None
    assert [row.is_plausible(Decimal(value)) for value in ("19.9", "20", "600", "601")] == [False, True, True, False]
    assert [row.is_critical(Decimal(value)) for value in ("60", "60.1", "399", "400")] == [True, False, False, True]
    open_row = of_site(tmp_path, ROW.replace("20,600,60,400", ",,,")).find("onetouch_ultra2", "GLU", "mg/dL")
    assert open_row is not None
    assert open_row.is_plausible(Decimal(10**9))
    assert not open_row.is_critical(Decimal(-1))
    assert not open_row.has_limits
