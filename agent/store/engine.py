"""Opening the store: one SQLite file beside the journal, or one PostgreSQL that many PCs share.

Whoever writes has the store alone until the commit (`writing`), so that a verdict rests on what it has read: two PCs cannot use
up the same claim. Whoever reads sees one moment of it (`reading`). No transaction spans the network to an instrument or an EHR.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from .schema import metadata

HEAD = "0001"  # the newest file in migrations/versions; here, so that a start need not import Alembic to know

_AFTERWARDS = "chartbound_afterwards"
_BUSY = 10  # seconds a writer waits for another
_IDLE = 60  # seconds after which PostgreSQL ends the transaction of a PC that hangs in it, so that the others go on
_WRITERS = 0x63626E64  # the advisory lock of PostgreSQL that writers take: "cbnd"


class StoreUnavailable(Exception):
    """The store cannot be opened. The journal goes on without it. `hint` says what a person can do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}")
        self.what = what
        self.hint = hint


def open_store(url: str, state_dir: Path) -> Engine:
    """Return the engine of `[store] url`: "sqlite" is `chartbound.db` in `state_dir`. Connects when it is first used.

    Raises `StoreUnavailable` where the address cannot be one of a store or its driver is not installed.
    """
    if url == "sqlite":
        place = URL.create("sqlite", database=str(state_dir / "chartbound.db"))
    else:
        try:
            place = make_url(url)
        except (ArgumentError, ValueError):
            hint = 'write "sqlite" or "postgresql://USER@HOST/DATABASE"'
            raise StoreUnavailable("the store's url cannot be read", hint) from None
    if place.drivername in {"postgresql", "postgres"}:
        place = place.set(drivername="postgresql+psycopg")
    match place.get_backend_name():
        case "sqlite":
            return _open_sqlite(place)
        case "postgresql":
            return _open_postgresql(place)
        case other:
            raise StoreUnavailable(f"a store of the kind {other!r} is not known", 'it is "sqlite" or "postgresql://…"')


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that has the store alone. It commits at the end of the block, and an exception rolls it back.

    The connection's errors are SQLAlchemy's: `OperationalError` where the store is away or another writer holds it too long.
    """
    with engine.connect().execution_options(chartbound_writing=True) as conn:
        afterwards: list[Callable[[], None]] = []
        conn.info[_AFTERWARDS] = afterwards
        with conn.begin():
            if engine.dialect.name == "postgresql":
                conn.execute(select(func.pg_advisory_xact_lock(_WRITERS)))
            yield conn
        for call in afterwards:
            call()


def after_commit(conn: Connection, call: Callable[[], None]) -> None:
    """Call this once the transaction of `writing` is committed; never where it is rolled back."""
    conn.info[_AFTERWARDS].append(call)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one moment of the store and changes nothing."""
    with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with conn.begin() as transaction:
            yield conn
            transaction.rollback()


def now(conn: Connection) -> datetime:
    """The store's own clock, by which leases are given: the PCs' clocks may differ."""
    if conn.dialect.name == "postgresql":
        moment: datetime = conn.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)
    return datetime.now(UTC)


def migrate(engine: Engine) -> None:
    """Bring the store's tables to the form that this program knows; at once where they have it.

    Several processes may do this at the same time. Raises `StoreUnavailable` where the store is away or of a newer program.
    """
    try:
        with reading(engine) as conn:
            version = _version(conn)
        if version != HEAD:
            _upgrade(engine)
    except DBAPIError as error:
        place = engine.url.render_as_string(hide_password=True)
        raise StoreUnavailable(f"the store {place} cannot be opened ({_first_line(error)})", _hint(engine)) from error


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    with writing(engine) as conn:
        if _version(conn) == HEAD:
            return  # another process was faster
        config = Config()
        folder = str(files("chartbound") / "agent" / "store" / "migrations")
        config.set_main_option("script_location", folder.replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes.update(connection=conn, metadata=metadata)
        command.upgrade(config, "head")


def _version(conn: Connection) -> str:
    """The store's form; "" where it is empty. Refuses one that a newer program has made."""
    if not inspect(conn).has_table("alembic_version"):
        return ""
    version = conn.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""
    if version > HEAD:  # numbers of one width
        what = f"the store has form {version}, and this chartbound knows up to {HEAD}"
        raise StoreUnavailable(what, "a newer chartbound has used it: update this PC too")
    return str(version)


def _open_sqlite(place: URL) -> Engine:
    engine = create_engine(place, hide_parameters=True, connect_args={"timeout": _BUSY, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        # A plain BEGIN that reads first and writes later loses updates of others in silence.
        alone = conn.get_execution_options().get("chartbound_writing")
        conn.exec_driver_sql("BEGIN IMMEDIATE" if alone else "BEGIN")

    return engine


def _open_postgresql(place: URL) -> Engine:
    try:
        engine = create_engine(
            place,
            hide_parameters=True,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5, "application_name": "chartbound"},
        )
    except (ModuleNotFoundError, NoSuchModuleError):
        hint = "install it: pip install 'chartbound[postgresql]'"
        raise StoreUnavailable("the driver for PostgreSQL (psycopg) is not installed", hint) from None

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = '{_BUSY}s'")
        connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE}s'")
        connection.commit()

    event.listen(engine, "handle_error", _retell)
    return engine


def _retell(context: ExceptionContext) -> OperationalError | None:
    """Take values out of PostgreSQL's messages, and call every state that passes by itself an `OperationalError`."""
    error: Any = context.original_exception
    state = getattr(error, "sqlstate", None) or ""
    if state[:2] in {"22", "23"}:  # data exception, integrity constraint violation: a value may be a patient's name
        about = error.diag.constraint_name or error.diag.column_name or error.diag.table_name or "a value"
        error.args = (f"{type(error).__name__} on {about}",)
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.args = (f"({type(error).__name__}) on {about}",)
    if state in {"25006", "25P03"}:  # a standby that cannot be written yet; a transaction that was idle too long
        return OperationalError(None, None, error)
    return None


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]


def _hint(engine: Engine) -> str:
    if engine.dialect.name == "postgresql":
        return "see that the server runs, that this PC reaches it and that user and password in [store] url are right"
    return "see that the folder is there, that the agent's user may write in it and that the disk is not full"
