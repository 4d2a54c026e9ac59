"""The store's tables: what we decided, as the journal is what we heard. SQLite beside the journal, or one PostgreSQL.

Forward-only: a change here comes with a new file in `migrations/versions`. A test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Utc(TypeDecorator[datetime]):
    """An aware time. SQLite keeps no zone, so it is stored as UTC and comes back aware; a naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            message = "a time without a zone cannot be stored"
            raise ValueError(message)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers rows by itself only where the key is exactly INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")


def _id() -> Column[Any]:
    return Column("id", _Id, primary_key=True, autoincrement=True)


specimen = Table(  # a labelled specimen, or the labelled order itself where there is none (EKG)
    "specimen",
    metadata,
    _id(),
    Column("specimen_id", String(64), nullable=False, unique=True),  # the text of the label
    Column("accession", String(64), nullable=False, default=""),
    Column("mrn", String(64), nullable=False, index=True),
    Column("authority", String(64), nullable=False, default=""),
    Column("last_name", String(128), nullable=False, default=""),
    Column("first_name", String(128), nullable=False, default=""),
    Column("birth_date", Date),
    Column("sex", String(8), nullable=False, default=""),
    Column("account", String(64), nullable=False, default=""),
    Column("patient_class", String(8), nullable=False, default=""),
    Column("location", String(128), nullable=False, default=""),
    Column("visit", String(64), nullable=False, default=""),
    Column("specimen_type", String(32), nullable=False, default=""),
    Column("collected_at", Utc),
    Column("collector", String(128), nullable=False, default=""),
    Column("reference_lab", String(64), nullable=False, default=""),
    Column("issued", Boolean, nullable=False, server_default=false()),  # our label, with its check character
    Column("cancelled_at", Utc),
    Column("registered_at", Utc, nullable=False),
)

ordered_test = Table(
    "ordered_test",
    metadata,
    _id(),
    Column("specimen", ForeignKey(specimen.c.id), nullable=False, index=True),
    Column("code", String(64), nullable=False),
    Column("name", String(200), nullable=False, default=""),
    Column("coding_system", String(16), nullable=False, default=""),
    Column("placer_order", String(64), nullable=False, default="", index=True),
    Column("ordered_at", Utc),
    Column("provider", String(200), nullable=False, default=""),
    UniqueConstraint("specimen", "placer_order", "code"),
)

claim = Table(  # "this specimen is being run on this instrument now"
    "claim",
    metadata,
    _id(),
    Column("specimen", ForeignKey(specimen.c.id), nullable=False, index=True),
    Column("agent", String(32), nullable=False),  # whose instrument: names are unique on one PC only
    Column("instrument", String(128), nullable=False),
    Column("station", String(128), nullable=False, default=""),
    Column("who", String(128), nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=False),  # started_at + the instrument's claim_minutes
    Column("ended_at", Utc),  # by a person, or by the next claim; a result does not end it, it uses it up
    Index(None, "agent", "instrument", "started_at"),
)

instrument = Table(  # since when this agent hears it: older readings in a meter's memory are history
    "instrument",
    metadata,
    Column("agent", String(32), nullable=False),
    Column("name", String(128), nullable=False),
    Column("set_up_at", Utc, nullable=False),
    PrimaryKeyConstraint("agent", "name"),
)

unit = Table(  # settled units: the key that makes doing a unit again count nothing
    "unit",
    metadata,
    Column("journal", String(32), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("instrument", String(128), nullable=False),
    Column("heard_at", Utc, nullable=False),
    Column("settled_at", Utc, nullable=False),
    Column("reports", Integer, nullable=False, default=0),  # how many reports were found in it: the ledger's `heard`
    Column("rereads", Integer, nullable=False, default=0),
    Column("incomplete", String(200), nullable=False, default=""),  # why, where the transmission never completed
    PrimaryKeyConstraint("journal", "number"),
)

report = Table(
    "report",
    metadata,
    _id(),
    Column("journal", String(32), nullable=False),
    Column("unit", BigInteger, nullable=False),
    Column("ordinal", Integer, nullable=False),  # the report's place in its unit
    Column("agent", String(32), nullable=False),
    Column("instrument", String(128), nullable=False),
    Column("driver", String(64), nullable=False),
    Column("heard_at", Utc, nullable=False),
    Column("observed_at", Utc),  # as the instrument's own clock has it, in the site's zone
    Column("clock_offset", Float),  # seconds the instrument's clock is ahead, measured at this contact
    Column("kind", String(16), nullable=False),  # drivers.report.SampleKind
    Column("identity", String(200)),  # finds what the instrument says twice
    Column("content", String(64), nullable=False),  # hash of everything the report states but its contact's clock
    Column("sequence", BigInteger),
    Column("state", String(16), nullable=False),
    Column("reason", String(32), nullable=False, default=""),
    Column("why", Text, nullable=False, default=""),  # the reason in words, for a person
    Column("critical", Boolean, nullable=False, server_default=false()),
    Column("specimen", ForeignKey(specimen.c.id), index=True),
    Column("tests", JSON, nullable=False),  # the ordered tests it is filed to: [placer order, code] each
    Column("claim", ForeignKey(claim.c.id), index=True),
    Column("evidence", JSON, nullable=False),  # the pieces of matching, in words of matching.Evidence
    Column("filler", String(20), nullable=False),  # ORC-3: the same on every resend and correction
    Column("version", Integer, nullable=False, default=1),  # 2 and up: a correction
    Column("earlier", ForeignKey("report.id"), index=True),  # the report that this one repeats, corrects or contradicts
    Column("body", JSON, nullable=False),  # the whole drivers.report.Report
    UniqueConstraint("journal", "unit", "ordinal"),
    Index(None, "state", "id"),
    Index(None, "identity"),
    Index(None, "instrument", "sequence"),
    Index(None, "instrument", "heard_at"),
)

delivery = Table(  # one row per report, version and destination; the bytes never change
    "delivery",
    metadata,
    _id(),
    Column("report", ForeignKey(report.c.id), nullable=False, index=True),
    Column("destination", String(64), nullable=False),
    Column("control_id", String(20), nullable=False),  # MSH-10
    Column("patient", String(140), nullable=False),  # authority and MRN: order holds within this
    Column("state", String(12), nullable=False),  # queued | unanswered | posted | refused | withdrawn
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_attempt_at", Utc),  # None: at once
    Column("ack_code", String(8), nullable=False, default=""),  # MSA-1 of the last answer
    Column("outcome", Text, nullable=False, default=""),  # the last outcome, for a person
    Column("queued_at", Utc, nullable=False),
    Column("settled_at", Utc),
    Column("body", LargeBinary, nullable=False),  # the ORU as on the wire; last, so that SQLite need not walk it for the rest
    UniqueConstraint("destination", "control_id"),
    Index(None, "destination", "state", "id"),
    Index(None, "destination", "patient", "state", "id"),
)

lease = Table(  # one sender at a time for a destination, by the server's clock
    "lease",
    metadata,
    Column("destination", String(64), primary_key=True),
    Column("holder", String(32), nullable=False),  # the agent's id
    Column("until", Utc, nullable=False),
)

event = Table(  # what happened to a report, in order: append-only
    "event",
    metadata,
    _id(),
    Column("at", Utc, nullable=False),
    Column("report", ForeignKey(report.c.id), index=True),
    Column("what", String(32), nullable=False),  # settled | reviewed | attempt | confirmed | assigned | …
    Column("detail", JSON, nullable=False),
)

alarm = Table(  # what a person must be told of beside the results' states: append-only
    "alarm",
    metadata,
    _id(),
    Column("at", Utc, nullable=False),
    Column("report", ForeignKey(report.c.id)),
    Column("what", String(32), nullable=False),  # sequence_gap | contradicted | overtaken
    Column("detail", JSON, nullable=False),
    Index(None, "what", "at"),
)

audit = Table(  # acts of people, as a hash chain per agent: append-only
    "audit",
    metadata,
    _id(),
    Column("agent", String(32), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("at", Utc, nullable=False),
    Column("who", String(128), nullable=False),
    Column("act", String(32), nullable=False),
    Column("subject", String(128), nullable=False),  # "result 12", "specimen S-1"
    Column("detail", JSON, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    UniqueConstraint("agent", "number"),
)

shape = Table(  # message shapes that hl7apy has found conformant
    "shape",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("found_at", Utc, nullable=False),
    Column("problem", Text, nullable=False, default=""),  # "" where it conforms
)
