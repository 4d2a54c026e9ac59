"""A report with what the agent adds: its times on the site's clock, its place among repeats, what the catalog says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo

from ..config.catalog import Catalog, Row
from ..config.site import Instrument, Site
from ..drivers.report import Observation, Report
from .evidence import Reading, Rules
from .store.results import ReportRow

_IDENTITY_LENGTH = 200
_IMPRESSION = "impression"
_NUMBERS = frozenset({"NM", "SN"})


def identity_key(agent: str, instrument: Instrument, report: Report) -> str | None:
    """The text under which repeats of this report are found; None where the instrument's messages cannot tell a repeat.

    A serial number is the instrument's own wherever it is plugged in; without one, identity holds for this agent's port alone.
    """
    if not report.identity:
        return None
    whose = f"#{report.serial_number}" if report.serial_number else f"{agent}:{instrument.name}"
    key = "|".join((instrument.driver, whose, *report.identity))
    if len(key) <= _IDENTITY_LENGTH:
        return key
    return f"{instrument.driver}|{hashlib.sha256(key.encode()).hexdigest()}"


def foreign(report: Report, instrument: Instrument) -> str:
    """Why this report is another instrument's, where the site file names the serial number that belongs on this port."""
    wanted = instrument.serial_number
    if wanted is None or report.serial_number == wanted:
        return ""
    heard = report.serial_number or "no serial number"
    return f"the site file expects serial number {wanted} here and {heard} was heard; is another meter on this cable?"


def reading(report: Report, instrument: Instrument, heard_at: datetime, zone: ZoneInfo, catalog: Catalog) -> Reading:
    """The report as matching looks at it."""
    stated_at, doubtful = _on_site_clock(report.observed_at, zone)
    clock, clock_doubtful = _on_site_clock(report.clock, zone)
    rows = [(one, _row(one, instrument.driver, catalog)) for one in report.observations]
    unlisted = [one for one, row in rows if row is None]
    return Reading(
        report=report,
        instrument=instrument.name,
        heard_at=heard_at,
        stated_at=stated_at,
        clock_offset=_offset(report, clock, heard_at),
        clock_doubtful=doubtful or clock_doubtful,
        asked_by=asked_by(report, instrument.driver, catalog),
        unknown_analytes=tuple(one.code for one in unlisted if not catalog.knows(instrument.driver, one.code)),
        unknown_units=tuple(
            f"{one.code} in {one.unit or 'no unit'}" for one in unlisted if catalog.knows(instrument.driver, one.code)
        ),
        implausible=tuple(one.code for one, row in rows if row is not None and not _is_plausible(one, row)),
    )


def beside(read: Reading, before: ReportRow | None, site: Site) -> Reading:
    """The same reading, its clock in doubt where this very instrument's was another at the contact `before`.

    It was set since then, and nobody knows which of its readings it made by which clock.
    """
    if before is None or before.body.get("serial_number", "") != read.report.serial_number or read.clock_offset is None:
        return read
    jump = read.clock_offset - timedelta(seconds=before.clock_offset)
    if abs(jump) <= timedelta(minutes=site.matching.clock_tolerance_minutes):
        return read
    return replace(read, clock_doubtful=True)


def asked_by(report: Report, driver: str, catalog: Catalog) -> tuple[frozenset[str], ...]:
    """The order codes that ask for each observation, or for the whole of a report that has none; see `Reading.asked_by`."""
    if not report.observations and report.impression:
        row = catalog.find(driver, _IMPRESSION, "")
        return (_asking(row),) if row else ()
    return tuple(_asking(_row(one, driver, catalog)) for one in report.observations)


def rules(site: Site, instrument: Instrument, set_up_at: datetime) -> Rules:
    """What the site file says of matching this instrument's results."""
    return Rules(
        order_window=timedelta(hours=site.matching.order_window_hours),
        clock_tolerance=timedelta(minutes=site.matching.clock_tolerance_minutes),
        confirm_claims=instrument.confirm_claims,
        history_before=set_up_at if instrument.loaded.memory else None,
    )


def is_critical(report: Report, driver: str, catalog: Catalog) -> bool:
    """Whether any value is at or beyond a limit at which a person must be told at once."""
    rows = ((one, catalog.find(driver, one.code, one.unit)) for one in report.observations)
    return any(row is not None and row.is_critical(number) for one, row in rows if (number := stated_number(one)) is not None)


def _row(one: Observation, driver: str, catalog: Catalog) -> Row | None:
    """The catalog's row of this value; None for a bare number where only words may come without a unit."""
    row = catalog.find(driver, one.code, one.unit)
    if row is not None and not one.unit and row.value_type not in _NUMBERS and stated_number(one) is not None:
        return None
    return row


def _is_plausible(one: Observation, row: Row) -> bool:
    number = stated_number(one)
    # `<` and `>` say that the value lies outside what the instrument measures: its end of range is not judged.
    return number is None or bool(one.comparator) or row.is_plausible(number)


def stated_number(one: Observation) -> Decimal | None:
    """The value as a number, whatever its comparator; None where it is in words."""
    try:
        number = Decimal(one.value.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _asking(row: Row | None) -> frozenset[str]:
    return frozenset((*row.order_codes, row.loinc)) if row else frozenset()


def _on_site_clock(local: datetime | None, zone: ZoneInfo) -> tuple[datetime | None, bool]:
    """An instrument's local time in the site's zone, and whether the change of clocks makes it ambiguous or impossible."""
    if local is None:
        return None, False
    first, second = local.replace(tzinfo=zone, fold=0), local.replace(tzinfo=zone, fold=1)
    return first.astimezone(UTC), first.utcoffset() != second.utcoffset()


def _offset(report: Report, clock: datetime | None, heard_at: datetime) -> timedelta | None:
    """How far the instrument's clock was ahead at this contact; a clock of minutes that shows the right minute is 0 ahead."""
    if clock is None:
        return None
    ahead = clock - heard_at
    if -report.precision < ahead <= timedelta():
        return timedelta()
    return ahead + report.precision if ahead < timedelta() else ahead
