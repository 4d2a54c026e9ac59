"""The verdict on a unit, in one store transaction: reports, match or hold, messages for the chart, and what happened.

    unit ── driver.parse ──▶ reports ── matching ──▶ match | hold ── charting ──▶ report, delivery and event rows

Doing a unit again counts nothing: its key is in the store. Holds are looked at again when an order, a claim or a person's act
arrives (`review`), by the same steps and the report's own times, so that the same journal gives the same verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Connection

from ..config.catalog import Catalog
from ..config.site import Instrument, Site
from ..drivers.driver import Driver, UnreadableReport
from ..drivers.report import Report, SampleKind
from . import body, filing, readings, worklist
from .charting import Origin
from .evidence import Reason, clock_doubt
from .journal_file import Heard
from .matching import Hold, Match, decide
from .store import results

log = structlog.get_logger("chartbound.verdict")

_LONGEST_GAP = 1000  # more missing numbers than that is a counter that was set anew


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Decides on units and held reports for one site."""

    site: Site
    catalog: Catalog
    agent: str

    def settle(self, conn: Connection, journal: str, unit: Heard) -> None:
        """Give this unit its verdict, unless it has one."""
        if results.is_settled(conn, journal, unit.number):
            return
        if unit.incomplete:
            _settled(conn, journal, unit)
            return
        instrument = self.site.instrument(unit.instrument)
        if instrument is None:
            hint = f"{unit.instrument} is not in the site file; name it again and restart: it is read then"
            self._unreadable(conn, journal, unit, "", UnreadableReport("the unit", hint))
            return
        driver = instrument.loaded
        try:
            reports = _parse(driver, unit.data, instrument)
        except UnreadableReport as why:
            self._unreadable(conn, journal, unit, driver.name, why)
            return
        if not reports and not driver.memory:
            hint = "look at the bytes, and run the report again at the instrument"
            self._unreadable(conn, journal, unit, driver.name, UnreadableReport("the unit holds no report", hint))
            return
        self._judge_all(conn, journal, unit, instrument, reports)

    def review(self, conn: Connection, report_ids: Iterable[int]) -> None:
        """Look at these reports again: something that bears on them has changed."""
        for report_id in report_ids:
            row = results.by_id(conn, report_id)
            # What another PC on this store has heard is judged there, by its own site file.
            if row is None or row.agent != self.agent or row.state not in ("held", "dismissed", "received"):
                continue
            instrument = self.site.instrument(row.instrument)
            if instrument is not None:
                self._judge(conn, row, instrument)

    def _judge_all(
        self, conn: Connection, journal: str, unit: Heard, instrument: Instrument, reports: Sequence[Report]
    ) -> None:
        driver = instrument.loaded
        keys = [readings.identity_key(self.agent, instrument, report) for report in reports]
        contents = [body.content(report) for report in reports]
        known: dict[tuple[str, str], bool] = {}
        if driver.memory:
            known = results.known_contents(conn, (key for key in keys if key))
        new: list[results.ReportRow] = []
        for ordinal, (report, key, content) in enumerate(zip(reports, keys, contents, strict=True)):
            was_readable = known.get((key, content)) if key else None
            # What was unreadable for the site file's sake, and is not any more, is new.
            if was_readable or (was_readable is False and (report.problem or readings.foreign(report, instrument))):
                continue
            self._note_gap(conn, instrument, report, unit.heard_at)
            new.append(results.add(conn, self._values(journal, unit, ordinal, instrument, report)))
        _settled(conn, journal, unit, reports=len(new), rereads=len(reports) - len(new))
        self._judge_new(conn, new, instrument)

    def _values(self, journal: str, unit: Heard, ordinal: int, instrument: Instrument, report: Report) -> dict[str, Any]:
        """The row of a report that is not judged yet."""
        read = readings.reading(report, instrument, unit.heard_at, self.site.zone, self.catalog)
        return {
            "journal": journal,
            "unit": unit.number,
            "ordinal": ordinal,
            "agent": self.agent,
            "instrument": instrument.name,
            "driver": instrument.driver,
            "heard_at": unit.heard_at,
            "observed_at": read.observed_at,
            "clock_offset": read.clock_offset.total_seconds() if read.clock_offset is not None else None,
            "kind": report.kind.value,
            "identity": readings.identity_key(self.agent, instrument, report),
            "content": body.content(report),
            "sequence": report.sequence,
            "state": "received",
            "critical": readings.is_critical(report, instrument.driver, self.catalog),
            "evidence": [],
            "tests": [],
            "filler": Origin(journal, unit.number, ordinal).filler(),
            "body": body.to_json(report),
        }

    def _judge_new(self, conn: Connection, new: Sequence[results.ReportRow], instrument: Instrument) -> None:
        claims_near = [self._judge(conn, row, instrument) for row in new]
        if any(claims_near):
            # A second reading since a claim makes the first one doubtful too, unless a person has confirmed it already.
            judged = {row.id for row in new}
            held = results.held_on_claim(conn, self.agent, instrument.name)
            self.review(conn, [row.id for row in held if row.id not in judged])

    def read_again(self, conn: Connection, report_id: int, unit: Heard) -> None:
        """Read a whole unit that could not be read: its instrument may be in the site file again, or its driver mended.

        The first report takes the place of the unreadable one, so that its messages are what they would have been at once. A
        meter's memory is left out: it is read again at the meter.
        """
        row = results.by_id(conn, report_id)
        instrument = self.site.instrument(unit.instrument)
        if row is None or row.state != "unreadable" or instrument is None or instrument.loaded.memory:
            return
        try:
            reports = _parse(instrument.loaded, unit.data, instrument)
        except UnreadableReport:
            return
        if not reports or (len(reports) == 1 and body.content(reports[0]) == row.content):
            return
        rows = [self._values(row.journal, unit, ordinal, instrument, report) for ordinal, report in enumerate(reports)]
        results.change(conn, row.id, **rows[0], why="")
        results.log(conn, row.id, "read again", datetime.now(UTC), {"driver": instrument.driver})
        more = [results.add(conn, values) for values in rows[1:]]
        results.recount(conn, row.journal, unit.number, len(rows))
        first = results.by_id(conn, row.id)
        self._judge_new(conn, [*([first] if first else []), *more], instrument)

    def _judge(self, conn: Connection, row: results.ReportRow, instrument: Instrument) -> bool:
        """Decide on this report and do what that means; return whether a claim was near enough to bear on it."""
        report = body.from_json(row.body)
        if problem := report.problem or readings.foreign(report, instrument):
            filing.keep(conn, row, filing.Unreadable(problem))
            return False
        read = readings.reading(report, instrument, row.heard_at, self.site.zone, self.catalog)
        if read.clock_offset is not None:
            read = readings.beside(read, results.contact_before(conn, row), self.site)
        set_up_at = results.set_up(conn, row.agent, instrument.name, row.heard_at) if instrument.loaded.memory else row.heard_at
        rules = readings.rules(self.site, instrument, set_up_at)
        near = worklist.of(conn, row, read, rules)
        verdict = decide(read, near, rules)
        if isinstance(verdict, Match):
            problem = filing.file(conn, self.site, self.catalog, row, read, verdict, clock_doubt(read, rules))
            if not problem:
                return bool(near.claims)
            verdict = Hold(Reason.NOT_CONFORMANT, problem)
        filing.keep(conn, row, verdict)
        return bool(near.claims)

    def _note_gap(self, conn: Connection, instrument: Instrument, report: Report, at: datetime) -> None:
        """Numbers that the instrument has counted and that were not heard."""
        if report.sequence is None or instrument.loaded.memory:
            return
        last = results.last_sequence(conn, self.agent, instrument.name)
        if last is not None and 1 < report.sequence - last <= _LONGEST_GAP:
            detail = {"agent": self.agent, "instrument": instrument.name, "from": last + 1, "to": report.sequence - 1}
            results.raise_alarm(conn, None, "sequence_gap", at, detail)

    def _unreadable(self, conn: Connection, journal: str, unit: Heard, driver: str, why: UnreadableReport) -> None:
        report = Report(SampleKind.UNKNOWN, (), problem=str(why))
        _settled(conn, journal, unit, reports=1)
        row = results.add(
            conn,
            {
                "journal": journal,
                "unit": unit.number,
                "ordinal": 0,
                "agent": self.agent,
                "instrument": unit.instrument,
                "driver": driver,
                "heard_at": unit.heard_at,
                "kind": report.kind.value,
                "content": body.content(report),
                "state": "unreadable",
                "why": str(why),
                "evidence": [],
                "tests": [],
                "filler": Origin(journal, unit.number, 0).filler(),
                "body": body.to_json(report),
            },
        )
        results.log(conn, row.id, "settled", unit.heard_at, {"state": "unreadable", "why": str(why)})
        filing.announce(conn, row.id, unit.instrument, "unreadable")


def _settled(conn: Connection, journal: str, unit: Heard, reports: int = 0, rereads: int = 0) -> None:
    results.settle(
        conn,
        journal=journal,
        number=unit.number,
        instrument=unit.instrument,
        heard_at=unit.heard_at,
        at=datetime.now(UTC),
        incomplete=unit.incomplete,
        reports=reports,
        rereads=rereads,
    )


def _parse(driver: Driver, data: bytes, instrument: Instrument) -> list[Report]:
    try:
        return driver.parse(data, instrument.options)
    except UnreadableReport:
        raise
    except Exception as error:
        # A driver, perhaps the site's own, that fails on a text must not stop the others. The bytes stay.
        log.exception("a driver failed", driver=driver.name)
        hint = f"the driver failed ({type(error).__name__}); keep the bytes and report them"
        raise UnreadableReport("the unit", hint) from error
