"""The store's first tables.

What happened (`event`) and what people did (`audit`) is only ever added to: triggers refuse to change or delete a row.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by itself only where the key is INTEGER
_TIME = sa.DateTime(timezone=True)
_APPEND_ONLY = ("event", "alarm", "audit")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("act", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("agent", "number", name=op.f("uq_audit_agent_number")),
    )
    op.create_table(
        "instrument",
        sa.Column("agent", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("set_up_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("agent", "name", name=op.f("pk_instrument")),
    )
    op.create_table(
        "lease",
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_lease")),
    )
    op.create_table(
        "shape",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("found_at", _TIME, nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_shape")),
    )
    op.create_table(
        "specimen",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("specimen_id", sa.String(64), nullable=False),
        sa.Column("accession", sa.String(64), nullable=False),
        sa.Column("mrn", sa.String(64), nullable=False),
        sa.Column("authority", sa.String(64), nullable=False),
        sa.Column("last_name", sa.String(128), nullable=False),
        sa.Column("first_name", sa.String(128), nullable=False),
        sa.Column("birth_date", sa.Date(), nullable=True),
        sa.Column("sex", sa.String(8), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("patient_class", sa.String(8), nullable=False),
        sa.Column("location", sa.String(128), nullable=False),
        sa.Column("visit", sa.String(64), nullable=False),
        sa.Column("specimen_type", sa.String(32), nullable=False),
        sa.Column("collected_at", _TIME, nullable=True),
        sa.Column("collector", sa.String(128), nullable=False),
        sa.Column("reference_lab", sa.String(64), nullable=False),
        sa.Column("issued", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("cancelled_at", _TIME, nullable=True),
        sa.Column("registered_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_specimen")),
        sa.UniqueConstraint("specimen_id", name=op.f("uq_specimen_specimen_id")),
    )
    op.create_index(op.f("ix_specimen_mrn"), "specimen", ["mrn"])
    op.create_table(
        "unit",
        sa.Column("journal", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("instrument", sa.String(128), nullable=False),
        sa.Column("heard_at", _TIME, nullable=False),
        sa.Column("settled_at", _TIME, nullable=False),
        sa.Column("reports", sa.Integer(), nullable=False),
        sa.Column("rereads", sa.Integer(), nullable=False),
        sa.Column("incomplete", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("journal", "number", name=op.f("pk_unit")),
    )
    op.create_table(
        "claim",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("specimen", _ID, nullable=False),
        sa.Column("agent", sa.String(32), nullable=False),
        sa.Column("instrument", sa.String(128), nullable=False),
        sa.Column("station", sa.String(128), nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["specimen"], ["specimen.id"], name=op.f("fk_claim_specimen")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claim")),
    )
    op.create_index(op.f("ix_claim_agent_instrument_started_at"), "claim", ["agent", "instrument", "started_at"])
    op.create_index(op.f("ix_claim_specimen"), "claim", ["specimen"])
    op.create_table(
        "ordered_test",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("specimen", _ID, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("coding_system", sa.String(16), nullable=False),
        sa.Column("placer_order", sa.String(64), nullable=False),
        sa.Column("ordered_at", _TIME, nullable=True),
        sa.Column("provider", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(["specimen"], ["specimen.id"], name=op.f("fk_ordered_test_specimen")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ordered_test")),
        sa.UniqueConstraint("specimen", "placer_order", "code", name=op.f("uq_ordered_test_specimen_placer_order_code")),
    )
    op.create_index(op.f("ix_ordered_test_placer_order"), "ordered_test", ["placer_order"])
    op.create_index(op.f("ix_ordered_test_specimen"), "ordered_test", ["specimen"])
    op.create_table(
        "report",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("journal", sa.String(32), nullable=False),
        sa.Column("unit", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(32), nullable=False),
        sa.Column("instrument", sa.String(128), nullable=False),
        sa.Column("driver", sa.String(64), nullable=False),
        sa.Column("heard_at", _TIME, nullable=False),
        sa.Column("observed_at", _TIME, nullable=True),
        sa.Column("clock_offset", sa.Float(), nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("identity", sa.String(200), nullable=True),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("critical", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("specimen", _ID, nullable=True),
        sa.Column("tests", sa.JSON(), nullable=False),
        sa.Column("claim", _ID, nullable=True),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("filler", sa.String(20), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("earlier", _ID, nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["claim"], ["claim.id"], name=op.f("fk_report_claim")),
        sa.ForeignKeyConstraint(["earlier"], ["report.id"], name=op.f("fk_report_earlier")),
        sa.ForeignKeyConstraint(["specimen"], ["specimen.id"], name=op.f("fk_report_specimen")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report")),
        sa.UniqueConstraint("journal", "unit", "ordinal", name=op.f("uq_report_journal_unit_ordinal")),
    )
    op.create_index(op.f("ix_report_claim"), "report", ["claim"])
    op.create_index(op.f("ix_report_earlier"), "report", ["earlier"])
    op.create_index(op.f("ix_report_identity"), "report", ["identity"])
    op.create_index(op.f("ix_report_instrument_heard_at"), "report", ["instrument", "heard_at"])
    op.create_index(op.f("ix_report_instrument_sequence"), "report", ["instrument", "sequence"])
    op.create_index(op.f("ix_report_specimen"), "report", ["specimen"])
    op.create_index(op.f("ix_report_state_id"), "report", ["state", "id"])
    op.create_table(
        "delivery",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("report", _ID, nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("control_id", sa.String(20), nullable=False),
        sa.Column("patient", sa.String(140), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", _TIME, nullable=True),
        sa.Column("ack_code", sa.String(8), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("queued_at", _TIME, nullable=False),
        sa.Column("settled_at", _TIME, nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name=op.f("fk_delivery_report")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("destination", "control_id", name=op.f("uq_delivery_destination_control_id")),
    )
    op.create_index(op.f("ix_delivery_destination_patient_state_id"), "delivery", ["destination", "patient", "state", "id"])
    op.create_index(op.f("ix_delivery_destination_state_id"), "delivery", ["destination", "state", "id"])
    op.create_index(op.f("ix_delivery_report"), "delivery", ["report"])
    op.create_table(
        "event",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("report", _ID, nullable=True),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name=op.f("fk_event_report")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_report"), "event", ["report"])
    op.create_table(
        "alarm",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("report", _ID, nullable=True),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["report"], ["report.id"], name=op.f("fk_alarm_report")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarm")),
    )
    op.create_index(op.f("ix_alarm_what_at"), "alarm", ["what", "at"])
    if op.get_bind().dialect.name == "postgresql":
        _refuse_changes_postgresql()
    else:
        _refuse_changes_sqlite()


def _refuse_changes_sqlite() -> None:
    for table in _APPEND_ONLY:
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def _refuse_changes_postgresql() -> None:
    op.execute(
        """CREATE FUNCTION chartbound_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"""
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION chartbound_append_only()"
        )
