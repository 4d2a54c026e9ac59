"""Named queries on the register of labelled specimens and on claims. Each takes the connection of the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, Select, bindparam, delete, insert, or_, select, tuple_, update

from ...hl7.chart import OrderedTest, Patient, Specimen
from .schema import claim, ordered_test, specimen

_BY_LABEL = select(specimen).where(specimen.c.specimen_id == bindparam("label"))
_ROW_OF = select(specimen.c.id).where(specimen.c.specimen_id == bindparam("label"))
_BY_ID = select(specimen).where(specimen.c.id == bindparam("row"))
_TESTS_OF = (
    select(ordered_test).where(ordered_test.c.specimen.in_(bindparam("rows", expanding=True))).order_by(ordered_test.c.id)
)
_CLAIMS_BETWEEN = (
    select(claim)
    .where(
        claim.c.agent == bindparam("of_agent"),
        claim.c.instrument == bindparam("called"),
        claim.c.started_at <= bindparam("until"),
        claim.c.expires_at >= bindparam("since"),
        or_(claim.c.ended_at.is_(None), claim.c.ended_at >= bindparam("since")),
    )
    .order_by(claim.c.started_at, claim.c.id)
)


@dataclass(frozen=True, slots=True)
class Registered:
    """A specimen as the register holds it, under its row id."""

    id: int
    specimen: Specimen
    registered_at: datetime


def by_label(conn: Connection, specimen_id: str) -> Registered | None:
    """The specimen with this label, cancelled or not."""
    return _first(_load(conn, _BY_LABEL, label=specimen_id))


def row_of(conn: Connection, specimen_id: str) -> int | None:
    """The row id of the specimen with this label."""
    return conn.execute(_ROW_OF, {"label": specimen_id}).scalar()


def by_id(conn: Connection, row: int) -> Registered | None:
    return _first(_load(conn, _BY_ID, row=row))


def by_order_number(conn: Connection, number: str) -> list[Registered]:
    """Every specimen that carries this placer order number or accession."""
    ordered = select(ordered_test.c.specimen).where(ordered_test.c.placer_order == number)
    return _load(conn, select(specimen).where(or_(specimen.c.id.in_(ordered), specimen.c.accession == number)))


def of_patient(conn: Connection, mrn: str) -> list[Registered]:
    """Every specimen of the patient with this medical record number, cancelled or not, oldest first."""
    return _load(conn, select(specimen).where(specimen.c.mrn == mrn).order_by(specimen.c.id))


def listed(conn: Connection, *, limit: int = 500) -> list[Registered]:
    """The newest specimens first."""
    return _load(conn, select(specimen).order_by(specimen.c.id.desc()).limit(limit))


def register(conn: Connection, new: Specimen, at: datetime) -> int:
    """Put a specimen into the register and return its row id. The caller has seen that its label is not taken."""
    who = new.patient
    row = conn.execute(
        insert(specimen)
        .values(
            specimen_id=new.specimen_id,
            accession=new.accession,
            mrn=who.mrn,
            authority=who.authority,
            last_name=who.last_name,
            first_name=who.first_name,
            birth_date=who.birth_date,
            sex=who.sex,
            account=who.account,
            patient_class=who.patient_class,
            location=who.location,
            visit=who.visit,
            specimen_type=new.specimen_type,
            collected_at=new.collected_at,
            collector=new.collector,
            reference_lab=new.reference_lab,
            issued=new.issued,
            registered_at=at,
        )
        .returning(specimen.c.id)
    ).scalar_one()
    add_tests(conn, row, new.tests)
    return int(row)


def add_tests(conn: Connection, row: int, tests: Iterable[OrderedTest]) -> int:
    """Add those ordered tests that this specimen does not have yet; return how many were new."""
    known = {
        (test.placer_order, test.code)
        for test in conn.execute(select(ordered_test.c.placer_order, ordered_test.c.code).where(ordered_test.c.specimen == row))
    }
    new = [test for test in tests if (test.placer_order, test.code) not in known]
    if new:
        conn.execute(
            insert(ordered_test),
            [
                {
                    "specimen": row,
                    "code": test.code,
                    "name": test.name,
                    "coding_system": test.coding_system,
                    "placer_order": test.placer_order,
                    "ordered_at": test.ordered_at,
                    "provider": test.provider,
                }
                for test in new
            ],
        )
    return len(new)


def drop_tests(conn: Connection, row: int, tests: Iterable[OrderedTest]) -> None:
    """Take these ordered tests, by placer order and code, off a specimen that others stay on."""
    keys = [(test.placer_order, test.code) for test in tests]
    conn.execute(
        delete(ordered_test).where(
            ordered_test.c.specimen == row, tuple_(ordered_test.c.placer_order, ordered_test.c.code).in_(keys)
        )
    )


def change(conn: Connection, row: int, **values: object) -> None:
    """Write these columns of a specimen anew."""
    conn.execute(update(specimen).where(specimen.c.id == row).values(**values))


def cancel(conn: Connection, row: int, at: datetime) -> None:
    """From now on nothing is matched to this specimen."""
    conn.execute(update(specimen).where(specimen.c.id == row).values(cancelled_at=at))


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim as the store holds it. Its end is the earliest of its expiry, a person's word and the next claim."""

    id: int
    specimen: int
    agent: str
    instrument: str
    station: str
    who: str
    started_at: datetime
    expires_at: datetime
    ended_at: datetime | None


def start_claim(conn: Connection, new: ClaimRow) -> int:
    values = {
        "specimen": new.specimen,
        "agent": new.agent,
        "instrument": new.instrument,
        "station": new.station,
        "who": new.who,
        "started_at": new.started_at,
        "expires_at": new.expires_at,
    }
    return int(conn.execute(insert(claim).values(values).returning(claim.c.id)).scalar_one())


def end_claims(conn: Connection, agent: str, instrument: str, at: datetime) -> list[ClaimRow]:
    """End every running claim on this instrument of this agent; return those that ran."""
    here = (claim.c.agent == agent) & (claim.c.instrument == instrument)
    running = _claims(conn, select(claim).where(here, claim.c.ended_at.is_(None), claim.c.expires_at > at))
    if running:
        conn.execute(update(claim).where(claim.c.id.in_([one.id for one in running])).values(ended_at=at))
    return running


def claims_between(conn: Connection, agent: str, instrument: str, since: datetime, until: datetime) -> list[ClaimRow]:
    """The claims on this instrument that were running at some moment of this span, oldest first."""
    return _claims(conn, _CLAIMS_BETWEEN, of_agent=agent, called=instrument, since=since, until=until)


def claimed_on(conn: Connection, agent: str, rows: Iterable[int]) -> set[str]:
    """The instruments of this agent on which one of these specimens was ever claimed."""
    query = select(claim.c.instrument).where(claim.c.specimen.in_(list(rows)), claim.c.agent == agent)
    return set(conn.execute(query.distinct()).scalars())


def claim_by_id(conn: Connection, row: int) -> ClaimRow | None:
    found = _claims(conn, select(claim).where(claim.c.id == row))
    return found[0] if found else None


def _claims(conn: Connection, query: Select[tuple[object, ...]], **values: object) -> list[ClaimRow]:
    return [
        ClaimRow(
            id=row.id,
            specimen=row.specimen,
            agent=row.agent,
            instrument=row.instrument,
            station=row.station,
            who=row.who,
            started_at=row.started_at,
            expires_at=row.expires_at,
            ended_at=row.ended_at,
        )
        for row in conn.execute(query, values)
    ]


def _load(conn: Connection, query: Select[tuple[object, ...]], **values: object) -> list[Registered]:
    rows = conn.execute(query, values).all()
    if not rows:
        return []
    tests: dict[int, list[OrderedTest]] = {row.id: [] for row in rows}
    for test in conn.execute(_TESTS_OF, {"rows": list(tests)}):
        tests[test.specimen].append(
            OrderedTest(
                code=test.code,
                name=test.name,
                coding_system=test.coding_system,
                placer_order=test.placer_order,
                ordered_at=test.ordered_at,
                provider=test.provider,
            )
        )
    return [Registered(row.id, _specimen(row, tests[row.id]), row.registered_at) for row in rows]


def _specimen(row: Row[tuple[object, ...]], tests: Sequence[OrderedTest]) -> Specimen:
    return Specimen(
        specimen_id=row.specimen_id,
        patient=Patient(
            mrn=row.mrn,
            last_name=row.last_name,
            first_name=row.first_name,
            birth_date=row.birth_date,
            sex=row.sex,
            authority=row.authority,
            account=row.account,
            patient_class=row.patient_class,
            location=row.location,
            visit=row.visit,
        ),
        tests=tuple(tests),
        accession=row.accession,
        specimen_type=row.specimen_type,
        collected_at=row.collected_at,
        collector=row.collector,
        reference_lab=row.reference_lab,
        issued=bool(row.issued),
        cancelled=row.cancelled_at is not None,
    )


def _first(found: list[Registered]) -> Registered | None:
    return found[0] if found else None
