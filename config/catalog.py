"""Reads the test catalog: what the chart calls each analyte that an instrument reports, by the instrument's own code and unit.

One row a line, as in LIVD; a code and unit that are not listed are a hold, because the catalog is what may reach a chart:
`onetouch_ultra2,GLU,mg/dL,41653-7,Glucose [Mass/volume] in Capillary blood by Glucometer,mg/dL,NM,BLDC,82962 41653-7,10,600,,`

The rows that ship are `config/catalog/*.csv`, a file for each driver. A site's own are `catalog/*.csv` beside its site file: a
row there replaces the shipped row of the same driver, code and unit. `name` is an official LOINC name, unaltered (the LOINC
licence asks for that). `vendor_unit` is the unit exactly as the instrument states it and empty where it states none.
`specimen_type` is a code of HL7 table 0487, or BLDC for capillary blood, which the EHR's profile turns into what that EHR
takes; empty where there is no specimen (EKG). `value_type` NM is a number; charting sends it as SN where the instrument stated
a comparator. Limits are in the row's own unit: outside the plausible ones a result is held, at or beyond the critical ones it
alarms.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from pathlib import Path

from ..drivers import driver as drivers
from .errors import ConfigError, ConfigErrors, nearest

COLUMNS = (
    "driver",
    "vendor_code",
    "vendor_unit",
    "loinc",
    "name",
    "ucum",
    "value_type",
    "specimen_type",
    "order_codes",
    "plausible_low",
    "plausible_high",
    "critical_low",
    "critical_high",
)
VALUE_TYPES = ("NM", "SN", "ST", "CWE", "TX", "FT", "ED")  # HL7 table 0125, those that we send

_LOINC = re.compile(r"([0-9]{1,7})-([0-9])")
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One analyte of one instrument in one unit."""

    driver: str
    vendor_code: str
    vendor_unit: str
    loinc: str
    name: str
    ucum: str
    value_type: str
    specimen_type: str
    order_codes: tuple[str, ...]  # the codes that ask for this observation: LOINC, CPT or local
    plausible_low: Decimal | None = None
    plausible_high: Decimal | None = None
    critical_low: Decimal | None = None
    critical_high: Decimal | None = None
    shipped: bool = False  # its limits, if any, are examples that the site has yet to confirm

    @property
    def key(self) -> Key:
        return (self.driver, self.vendor_code, self.vendor_unit)

    @property
    def has_limits(self) -> bool:
        limits = (self.plausible_low, self.plausible_high, self.critical_low, self.critical_high)
        return any(limit is not None for limit in limits)

    def is_plausible(self, value: Decimal) -> bool:
        """Whether the value is one that the instrument could mean."""
        return not _below(value, self.plausible_low) and not _below(self.plausible_high, value)

    def is_critical(self, value: Decimal) -> bool:
        """Whether the value is at or beyond a limit at which a person must be told at once."""
        low, high = self.critical_low, self.critical_high
        return (low is not None and value <= low) or (high is not None and value >= high)


def _below(left: Decimal | None, right: Decimal | None) -> bool:
    return left is not None and right is not None and left < right


@dataclass(frozen=True, slots=True)
class Catalog:
    """The rows in force at a site."""

    rows: tuple[Row, ...]
    _by_key: dict[Key, Row] = field(init=False, repr=False, compare=False)
    _units: dict[tuple[str, str], tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        units: dict[tuple[str, str], tuple[str, ...]] = {}
        for row in self.rows:
            code = (row.driver, row.vendor_code)
            units[code] = (*units.get(code, ()), row.vendor_unit)
        object.__setattr__(self, "_by_key", {row.key: row for row in self.rows})
        object.__setattr__(self, "_units", units)

    def find(self, driver: str, code: str, unit: str) -> Row | None:
        """The row of this code in exactly this unit."""
        return self._by_key.get((driver, code, unit))

    def knows(self, driver: str, code: str) -> bool:
        """Whether this code is listed in any unit: if so, it is the unit that is unknown, not the analyte."""
        return (driver, code) in self._units

    def units(self, driver: str, code: str) -> tuple[str, ...]:
        """The units in which this code is listed, as the instrument states them."""
        return self._units.get((driver, code), ())

    def of(self, driver: str) -> tuple[Row, ...]:
        """The rows of one driver."""
        return tuple(row for row in self.rows if row.driver == driver)


def load(folder: Path | None = None, drivers_folder: Path | None = None) -> Catalog:
    """The shipped catalog with the rows of `folder/catalog/*.csv`; `folder` is where the site file stands.

    Raises `ConfigErrors` with every bad row of every file.
    """
    reader = _Reader(drivers_folder)
    rows: dict[Key, Row] = {}
    shipped = files("chartbound") / "config" / "catalog"
    for resource in sorted((each for each in shipped.iterdir() if each.name.endswith(".csv")), key=lambda each: each.name):
        for row in reader.read(Path(str(resource)), resource.read_text(encoding="utf-8")):
            rows[row.key] = replace(row, shipped=True)
    reader.start_over()
    for path in sorted((folder / "catalog").glob("*.csv")) if folder else ():
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            reader.errors.append(ConfigError(path, 1, "", f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            reader.errors.append(ConfigError(path, line, "", "is not UTF-8 text", 'save it as "CSV UTF-8"'))
        else:
            rows.update((row.key, row) for row in reader.read(path, text))
    if reader.errors:
        raise ConfigErrors(reader.errors)
    return Catalog(tuple(rows.values()))


def loinc_is_sound(code: str) -> bool:
    """Whether the last digit of a LOINC code is its check digit: mod 10, every second digit doubled (LOINC Users' Guide)."""
    parts = _LOINC.fullmatch(code)
    if parts is None:
        return False
    total = 0
    for place, digit in enumerate(reversed(parts[1])):
        product = int(digit) * (2 if place % 2 == 0 else 1)
        total += product // 10 + product % 10
    return -total % 10 == int(parts[2])


class _Reader:
    """Reads files one after the other and gathers what is wrong with them."""

    def __init__(self, drivers_folder: Path | None) -> None:
        self.errors: list[ConfigError] = []
        self._drivers_folder = drivers_folder
        self._known: dict[str, bool] = {}  # drivers looked for so far
        self._seen: dict[Key, str] = {}

    def start_over(self) -> None:
        """What comes next may say again what came before."""
        self._seen = {}

    def read(self, path: Path, text: str) -> Iterator[Row]:
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = [name.strip() for name in next(lines, [])]
            if self._header_is_sound(path, header):
                for cells in lines:
                    if row := self._row(path, lines.line_num, header, cells):
                        yield row
        except csv.Error as error:
            self.errors.append(ConfigError(path, lines.line_num, "", f"is not CSV: {error}", "look for a lone quotation mark"))

    def _header_is_sound(self, path: Path, header: list[str]) -> bool:
        if len(header) == 1 and ";" in header[0]:
            self.errors.append(ConfigError(path, 1, "", "has semicolons between its columns", "save it with commas"))
            return False
        problems = [
            ConfigError(path, 1, name, "is not a column of the catalog", _meant(nearest(name, COLUMNS)))
            for name in header
            if name not in COLUMNS
        ]
        missing = [name for name in COLUMNS if name not in header]
        problems += [ConfigError(path, 1, name, "is a missing column", ",".join(COLUMNS)) for name in missing]
        problems += [ConfigError(path, 1, name, "is named twice") for name in COLUMNS if header.count(name) > 1]
        self.errors += problems
        return not problems

    def _row(self, path: Path, line: int, header: list[str], cells: list[str]) -> Row | None:
        if not any(cell.strip() for cell in cells):
            return None
        if len(cells) != len(header):
            what = f"has {len(cells)} columns, the header has {len(header)}"
            self.errors.append(ConfigError(path, line, "", what, 'a name with a comma stands in "quotes"'))
            return None
        cell = {name: text.strip() for name, text in zip(header, cells, strict=True)}
        before = len(self.errors)
        for column, what, hint in self._mistakes(cell):
            self.errors.append(ConfigError(path, line, column, what, hint))
        key = (cell["driver"], cell["vendor_code"], cell["vendor_unit"])
        if key in self._seen:
            what = f"{' '.join(filter(None, key))} is already listed in {self._seen[key]}"
            self.errors.append(ConfigError(path, line, "vendor_code", what, "keep one of the two"))
        if len(self.errors) > before:
            return None
        self._seen[key] = f"{path.name}:{line}"
        limits = {column: _number(cell[column]) for column in COLUMNS[9:]}
        words = {column: cell[column] for column in COLUMNS[:8]}
        return Row(**words, order_codes=tuple(cell["order_codes"].split()), **limits)  # type: ignore[arg-type]

    def _mistakes(self, cell: dict[str, str]) -> Iterable[tuple[str, str, str]]:
        for column in ("driver", "vendor_code", "name"):
            if not cell[column]:
                yield column, "is missing", ""
        if cell["driver"] and not self._knows(cell["driver"]):
            close = nearest(cell["driver"], (each.name for each in drivers.shipped()))
            yield "driver", f"there is no driver {cell['driver']}", _meant(close) or "`chartbound drivers` lists them"
        if not _LOINC.fullmatch(cell["loinc"]):
            yield "loinc", "is no LOINC code", "digits, a hyphen and a check digit: 4548-4"
        elif not loinc_is_sound(cell["loinc"]):
            yield "loinc", f"the check digit of {cell['loinc']} is wrong", "look the code up at loinc.org"
        if cell["value_type"] not in VALUE_TYPES:
            yield "value_type", f"must be one of {' '.join(VALUE_TYPES)}", ""
        if cell["value_type"] in ("NM", "SN") and not cell["ucum"] and cell["vendor_unit"]:
            yield "ucum", "is missing for a number with a unit", "the unit as UCUM spells it: mg/dL"
        if " " in cell["ucum"]:
            yield "ucum", "has a space, which UCUM does not know", "mg/g{creat}"
        if not cell["order_codes"]:
            yield "order_codes", "is missing", "the order codes that ask for this test, separated by spaces"
        yield from self._bad_limits(cell)

    def _bad_limits(self, cell: dict[str, str]) -> Iterable[tuple[str, str, str]]:
        for kind in ("plausible", "critical"):
            low, high = cell[f"{kind}_low"], cell[f"{kind}_high"]
            for column, text in ((f"{kind}_low", low), (f"{kind}_high", high)):
                if text and _number(text) is None:
                    yield column, "is not a number", "a decimal point, no unit: 70.5"
            if _below(_number(high), _number(low)):
                yield f"{kind}_low", f"{low} is above {kind}_high {high}", "the two may be exchanged"

    def _knows(self, name: str) -> bool:
        if name not in self._known:
            try:
                drivers.find(name, self._drivers_folder)
            except drivers.UnknownDriver:
                self._known[name] = False
            except Exception:  # noqa: BLE001 - a site's own driver that fails is an error of the site file, said there
                self._known[name] = True
            else:
                self._known[name] = True
        return self._known[name]


def _meant(word: str) -> str:
    return f"did you mean {word}?" if word else ""


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
