"""What stands behind `init`, `check` and `drivers`: the site file's first draft, its examination, and what can be connected.

These functions return what they found; the command line prints it. `check` goes the whole way of a result without an
instrument and without an EHR: for each instrument and destination it builds the message that a made-up result would become
and has it judged against HL7. So a wrong catalog row or profile is found before the first patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from ..config import catalog as catalogs
from ..config import site as sites
from ..config.catalog import Catalog, Row
from ..config.errors import ConfigError, ConfigErrors
from ..config.site import Destination, Instrument, Site
from ..drivers import driver as drivers
from ..drivers.driver import Driver
from ..drivers.report import Observation, Report, SampleKind
from ..hl7 import conformance
from ..hl7.chart import OrderedTest, Patient, Specimen
from ..hl7.oru import NotConformant
from . import charting

FILE_NAME = "site.toml"
_WHEN = datetime(2026, 1, 15, 15, 30, tzinfo=UTC)  # of the made-up result


@dataclass(frozen=True, slots=True)
class Sample:
    """A made-up result of one instrument as one destination would get it."""

    instrument: str
    destination: str
    order_code: str
    message: bytes
    problem: str = ""  # what HL7 has against it; "" if nothing


@dataclass(frozen=True, slots=True)
class Checked:
    """A site whose files are sound. It is fit to run when no sample has a problem."""

    site: Site
    catalog: Catalog
    samples: tuple[Sample, ...]
    summary: tuple[str, ...]  # what stands where, in lines for people
    to_confirm: tuple[str, ...]  # examples that the site has not made its own
    notes: tuple[str, ...]  # allowed, but perhaps not meant

    @property
    def problems(self) -> tuple[str, ...]:
        bad = (one for one in self.samples if one.problem)
        return tuple(dict.fromkeys(f"{one.instrument} → {one.destination} ({one.order_code}): {one.problem}" for one in bad))


def init(folder: Path) -> Path:
    """Write a commented site file into the folder, which is made where it is missing, and return its path.

    Raises FileExistsError where there is a site file already; it is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write((files("chartbound") / "config" / "site.example.toml").read_text(encoding="utf-8"))
    return path


def load(path: Path) -> tuple[Site, Catalog]:
    """The site and its catalog. Raises `ConfigErrors` with the mistakes of site file, profiles, driver names and catalog."""
    errors: list[ConfigError] = []
    site: Site | None = None
    catalog: Catalog | None = None
    try:
        site = sites.load(path)
        drivers_folder = site.drivers_folder
    except ConfigErrors as wrong:
        errors += wrong.errors
        drivers_folder = sites.stated_drivers_folder(path)
    try:
        catalog = catalogs.load(path.absolute().parent, drivers_folder)
    except ConfigErrors as wrong:
        errors += wrong.errors
    if site is None or catalog is None:
        raise ConfigErrors(errors)
    return site, catalog


def check(path: Path) -> Checked:
    """Examine a site's files and the messages that they would lead to. Raises `ConfigErrors` with all mistakes at once."""
    site, catalog = load(path)
    return Checked(
        site=site,
        catalog=catalog,
        samples=tuple(_samples(site, catalog)),
        summary=tuple(_summary(site)),
        to_confirm=tuple(_examples(site, catalog)),
        notes=tuple(_notes(site, catalog)),
    )


def driver_rows(drivers_folder: Path | None = None) -> list[dict[str, Any]]:
    """What can be connected, by name: the rows of `chartbound drivers --json`. A site's own file hides a shipped one."""
    known = {one.name: one for one in drivers.shipped()}
    if drivers_folder is not None:
        known |= {one.name: one for one in drivers.site_drivers(drivers_folder)}
    return [
        {
            "name": one.name,
            "instrument": one.instrument,
            "kind": one.kind,
            "link": one.link,
            "transport": list(one.transport),
            "evidence": str(one.evidence),
        }
        for one in sorted(known.values(), key=lambda one: one.name)
    ]


def option_rows(driver: Driver) -> list[dict[str, Any]]:
    """The keys that this driver takes under [instruments.options]: form, default, and whether each must be set."""
    return [
        {
            "name": name,
            "form": _form(option.annotation),
            "required": option.is_required(),
            "default": None if option.default is PydanticUndefined else option.default,
            "description": option.description or "",
        }
        for name, option in driver.options.model_fields.items()
    ]


def _form(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _samples(site: Site, catalog: Catalog) -> Iterator[Sample]:
    verdicts: dict[str, str] = {}  # by the message's shape: judging one takes about 10 ms
    for instrument in site.instruments:
        for rows in _by_order(catalog.of(instrument.driver)):
            for destination in _destinations(site, instrument):
                message, problem = _sample(site, catalog, instrument, destination, rows)
                if message:
                    shape = conformance.shape(message)
                    if shape not in verdicts:
                        verdicts[shape] = conformance.validate(message)
                    problem = verdicts[shape]
                yield Sample(instrument.name, destination.name, rows[0].order_codes[0], message, problem)


def _by_order(rows: Iterable[Row]) -> Iterable[list[Row]]:
    """The rows that name the same order code first, together: they may come in one message."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.order_codes[0], []).append(row)
    return found.values()


def _destinations(site: Site, instrument: Instrument) -> Iterator[Destination]:
    return (one for one in site.destinations if not one.instruments or instrument.name in one.instruments)


def _sample(
    site: Site, catalog: Catalog, instrument: Instrument, destination: Destination, rows: list[Row]
) -> tuple[bytes, str]:
    observations = [one for row in rows for one in _observations(row)]
    report = Report(
        kind=SampleKind.PATIENT,
        observations=tuple(observations),
        model=instrument.loaded.instrument,
        serial_number=instrument.serial_number or "12345",
        impression=("Sinus rhythm", "Normal EKG") if any(row.vendor_code == "impression" for row in rows) else (),
    )
    test = OrderedTest(code=rows[0].order_codes[0], name="made-up order", placer_order="P-0000")
    patient = Patient(mrn="0000", last_name="TEST", first_name="SAMPLE", birth_date=date(1961, 3, 5), sex="F")
    filing = charting.Filing(
        report=report,
        driver=instrument.driver,
        specimen=Specimen(specimen_id="S-0000", patient=patient, tests=(test,), collected_at=_WHEN - timedelta(minutes=5)),
        test=test,
        origin=charting.Origin("check", 1, 1),
        filler=charting.Origin("check", 1, 1).filler(),
        version=1,
        heard_at=_WHEN,
        observed_at=_WHEN,
        facility=site.facility,
    )
    try:
        return charting.message(filing, catalog, destination.name, destination.loaded)[1], ""
    except NotConformant as refused:
        return b"", str(refused)


def _observations(row: Row) -> Iterator[Observation]:
    """What the instrument might say for this row: a number also with a comparator, as HI and LO come."""
    if row.vendor_code == "impression":
        return  # goes as the report's own words
    value = {"NM": "100", "SN": "100", "ED": "JVBERi0xLjQK"}.get(row.value_type, "Negative")
    yield Observation(row.vendor_code, value, row.vendor_unit)
    if row.value_type == "NM":
        yield Observation(row.vendor_code, value, row.vendor_unit, comparator=">")


def _summary(site: Site) -> Iterator[str]:
    yield f"{site.facility}, clocks in {site.timezone}, state in {site.state_dir}"
    for one in site.instruments:
        yield f"{one.name}: {one.loaded.instrument} on {one.port or one.folder} ({one.loaded.link}, {one.loaded.evidence})"
    for to in site.destinations:
        only = f", only {', '.join((*to.instruments, *to.tests))}" if to.instruments or to.tests else ""
        yield f"→ {to.name}: {to.address}, HL7 {to.loaded.version}, profile {to.profile}{only}"


def _examples(site: Site, catalog: Catalog) -> Iterator[str]:
    for driver in dict.fromkeys(one.driver for one in site.instruments):
        for row in catalog.of(driver):
            if row.shipped and row.has_limits:
                limits = (
                    ("plausible", row.plausible_low, row.plausible_high),
                    ("critical", row.critical_low, row.critical_high),
                )
                stated = ", ".join(f"{kind} {low} to {high}" for kind, low, high in limits if (low, high) != (None, None))
                where = f"{row.driver} {row.vendor_code} {row.vendor_unit}".rstrip()
                yield f"{where}: {stated} are examples; with your director's limits, put the row into catalog/{driver}.csv"


def _notes(site: Site, catalog: Catalog) -> Iterator[str]:
    if not site.instruments:
        yield "no instrument is named: there is nothing to listen to"
    for one in site.instruments:
        if not catalog.of(one.driver):
            yield f"{one.name}: the catalog has no row of {one.driver}; every result of it will be held"
        if not one.confirm_claims:
            yield f"{one.name}: claimed results are filed without a person's yes; this is written on each of them"
        if not any(_destinations(site, one)):
            yield f"{one.name}: no destination takes its results"
    known = {code for row in catalog.rows for code in (row.loinc, *row.order_codes)}
    for to in site.destinations:
        for code in to.tests:
            if code not in known:
                yield f"{to.name}: no row of the catalog has the code {code} that tests names"
    if site.orders.listen is None and site.orders.folder is None:
        yield "[orders] names neither listen nor folder: specimens are known only by `chartbound specimens`"
