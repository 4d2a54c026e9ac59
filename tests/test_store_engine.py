"""The store on both of its databases: made, brought forward, written by many and read in one moment."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, delete, func, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from chartbound.agent.store import engine as engine_module
from chartbound.agent.store.engine import HEAD, StoreUnavailable, migrate, now, open_store, reading, writing
from chartbound.agent.store.schema import audit, event, lease, metadata, specimen

AT = datetime(2026, 3, 2, 14, 5, 9, 120000, tzinfo=UTC)


def _specimen(label: str, mrn: str = "M1", last_name: str = "DOE") -> dict[str, object]:
    return {"specimen_id": label, "mrn": mrn, "last_name": last_name, "registered_at": AT}


def test_migrations_give_the_tables_of_the_schema(store: Engine) -> None:
    """What the migration files build and what the code reads are the same tables."""
    with store.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_newest_form_is_the_one_in_the_migrations_folder() -> None:
    config = Config()
    folder = Path(engine_module.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_store_is_made_once_and_then_left_alone(empty_store_url: str, tmp_path: Path) -> None:
    first = open_store(empty_store_url, tmp_path)
    migrate(first)
    with writing(first) as conn:
        conn.execute(specimen.insert().values(_specimen("S-1")))
    migrate(first)
    with reading(first) as conn:
        assert conn.execute(select(specimen.c.specimen_id)).scalars().all() == ["S-1"]
    first.dispose()


def test_a_start_at_the_newest_form_does_not_import_alembic(tmp_path: Path) -> None:
    engine = open_store("sqlite", tmp_path)
    migrate(engine)
    engine.dispose()
    program = (
        "import sys; from pathlib import Path; from chartbound.agent.store.engine import open_store, migrate; "
        "engine = open_store('sqlite', Path(sys.argv[1])); migrate(engine); engine.dispose(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_many_processes_may_make_the_store_at_the_same_time(empty_store_url: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from chartbound.agent.store.engine import open_store, migrate; "
        "engine = open_store(sys.argv[1], Path(sys.argv[2])); sys.stdin.readline(); migrate(engine); engine.dispose()"
    )
    command = [sys.executable, "-c", program, empty_store_url, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, trouble = process.communicate(timeout=60)
        assert process.returncode == 0, trouble
    engine = open_store(empty_store_url, tmp_path)
    assert "report" in inspect(engine).get_table_names()
    engine.dispose()


def test_a_store_of_a_newer_program_is_refused(store: Engine) -> None:
    with writing(store) as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="update this PC"):
        migrate(store)


@pytest.mark.parametrize("table", [event, audit], ids=["event", "audit"])
def test_what_happened_cannot_be_changed_or_deleted(store: Engine, table: object) -> None:
    with writing(store) as conn:
        conn.execute(event.insert().values(at=AT, what="settled", detail={}))
        row = {"agent": "a", "number": 1, "at": AT, "who": "w", "act": "x", "subject": "s", "previous": "", "hash": ""}
        conn.execute(audit.insert().values(row | {"detail": {}}))
    for statement in (update(table).values(detail={"other": 1}), delete(table)):  # type: ignore[arg-type]
        with pytest.raises(DBAPIError, match="append-only"), writing(store) as conn:
            conn.execute(statement)
    with reading(store) as conn:
        assert conn.execute(select(func.count()).select_from(table)).scalar_one() == 1  # type: ignore[arg-type]


def test_writers_lose_no_update(store_url: str, tmp_path: Path) -> None:
    """Two PCs, each with its own engine, read a number and write the next: none is lost."""
    engines = [open_store(store_url, tmp_path) for _ in range(2)]
    with writing(engines[0]) as conn:
        conn.execute(lease.insert().values(destination="ehr", holder="0", until=AT))

    def add(engine: Engine) -> None:
        for _ in range(25):
            with writing(engine) as conn:
                held = conn.execute(select(lease.c.holder)).scalar_one()
                conn.execute(update(lease).values(holder=str(int(held) + 1)))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(add, engine) for engine in engines * 2]:
            done.result()
    with reading(engines[0]) as conn:
        assert conn.execute(select(lease.c.holder)).scalar_one() == "100"
    for engine in engines:
        engine.dispose()


def test_a_reader_sees_one_moment_while_another_writes(store: Engine) -> None:
    with reading(store) as conn:
        assert conn.execute(select(func.count()).select_from(specimen)).scalar_one() == 0
        with writing(store) as other:
            other.execute(specimen.insert().values(_specimen("S-1")))
        assert conn.execute(select(func.count()).select_from(specimen)).scalar_one() == 0
    with reading(store) as conn:
        assert conn.execute(select(func.count()).select_from(specimen)).scalar_one() == 1


def test_a_reader_writes_nothing(store: Engine) -> None:
    try:
        with reading(store) as conn:
            conn.execute(specimen.insert().values(_specimen("S-1")))
    except DBAPIError:
        pass  # PostgreSQL refuses it, SQLite takes it back
    with reading(store) as conn:
        assert conn.execute(select(func.count()).select_from(specimen)).scalar_one() == 0


def test_a_failed_verdict_is_taken_back_whole(store: Engine) -> None:
    def fail() -> None:
        with writing(store) as conn:
            conn.execute(specimen.insert().values(_specimen("S-1")))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with reading(store) as conn:
        assert conn.execute(select(func.count()).select_from(specimen)).scalar_one() == 0


def test_a_savepoint_takes_back_its_own_part_alone(store: Engine) -> None:
    with writing(store) as conn:
        conn.execute(specimen.insert().values(_specimen("S-1")))
        savepoint = conn.begin_nested()
        conn.execute(specimen.insert().values(_specimen("S-2")))
        savepoint.rollback()
        conn.execute(specimen.insert().values(_specimen("S-3")))
    with reading(store) as conn:
        assert conn.execute(select(specimen.c.specimen_id).order_by(specimen.c.id)).scalars().all() == ["S-1", "S-3"]


def test_an_error_names_no_patient(store: Engine) -> None:
    twice = [_specimen("S-SECRET", "MRN-SECRET", "NAME-SECRET")] * 2
    with pytest.raises(IntegrityError) as caught, writing(store) as conn:
        conn.execute(specimen.insert(), twice)
    error: BaseException | None = caught.value
    while error is not None:
        assert "SECRET" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


def test_links_between_tables_are_kept(store: Engine) -> None:
    with pytest.raises(IntegrityError), writing(store) as conn:
        conn.execute(event.insert().values(at=AT, report=12345, what="settled", detail={}))


def test_a_time_comes_back_with_its_zone(store: Engine) -> None:
    chicago = timezone(timedelta(hours=-6))
    with writing(store) as conn:
        conn.execute(lease.insert().values(destination="ehr", holder="a", until=AT.astimezone(chicago)))
    with reading(store) as conn:
        until = conn.execute(select(lease.c.until)).scalar_one()
    assert until == AT
    assert until.tzinfo is UTC


def test_the_stores_clock_is_aware_and_goes_on(store: Engine) -> None:
    with writing(store) as conn:
        first, second = now(conn), now(conn)
    assert first.tzinfo is UTC
    assert first <= second
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)


def test_a_writer_waits_for_another(store: Engine) -> None:
    entered, done = threading.Event(), []

    def second() -> None:
        entered.set()
        with writing(store) as conn:
            done.append(conn.execute(select(specimen.c.specimen_id)).scalars().all())

    thread = threading.Thread(target=second)
    with writing(store) as conn:
        thread.start()
        assert entered.wait(5)
        conn.execute(specimen.insert().values(_specimen("S-1")))
    thread.join(10)
    assert done == [["S-1"]]


def test_a_server_that_is_away_is_said_with_a_hint(tmp_path: Path) -> None:
    engine = open_store("postgresql://someone:secret@127.0.0.1:1/nothing", tmp_path)
    with pytest.raises(StoreUnavailable, match="server runs") as caught:
        migrate(engine)
    assert "secret" not in str(caught.value)
    with pytest.raises(OperationalError), writing(engine):
        pass


def test_a_standby_that_cannot_be_written_yet_is_one_that_is_away(store: Engine) -> None:
    """After a failover, and for PostgreSQL alone: SQLAlchemy would call it an internal error."""
    if store.dialect.name != "postgresql":
        pytest.skip("a file has no standby")
    with pytest.raises(OperationalError), writing(store) as conn:
        conn.execute(text("SET TRANSACTION READ ONLY; DELETE FROM lease"))


def test_a_pc_that_hangs_in_a_transaction_does_not_stop_the_others(store: Engine) -> None:
    if store.dialect.name != "postgresql":
        pytest.skip("a file has no other PCs")
    seen = []

    def hang() -> None:
        with writing(store) as hanging:
            hanging.execute(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))
            with writing(store) as other:  # waits for the lock until the server ends the first
                seen.append(other.execute(text("SELECT 1")).scalar())
            hanging.execute(text("SELECT 1"))

    with pytest.raises(OperationalError):
        hang()
    assert seen == [1]


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense"])
def test_an_address_that_is_no_store_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        open_store(url, tmp_path)


def test_a_missing_driver_is_said_with_the_command_that_installs_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None; from pathlib import Path; "
        "from chartbound.agent.store.engine import StoreUnavailable, open_store\n"
        "try: open_store('postgresql://host/base', Path())\n"
        "except StoreUnavailable as error: print(error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'chartbound[postgresql]'" in done.stdout


def test_a_migration_that_fails_leaves_nothing_behind(empty_store_url: str, tmp_path: Path) -> None:
    """The tables and the note of their form come in one transaction: a store is never half made."""
    engine = open_store(empty_store_url, tmp_path)
    with writing(engine) as conn:
        conn.execute(text("CREATE TABLE unit (in_the_way INTEGER)"))
    with pytest.raises(StoreUnavailable):
        migrate(engine)
    assert inspect(engine).get_table_names() == ["unit"]
    with writing(engine) as conn:
        conn.execute(text("DROP TABLE unit"))
    migrate(engine)
    migrate(engine)
    assert "report" in inspect(engine).get_table_names()
    engine.dispose()


def test_a_missing_folder_is_said_with_a_hint(tmp_path: Path) -> None:
    engine = open_store("sqlite", tmp_path / "missing")
    with pytest.raises(StoreUnavailable, match="folder"):
        migrate(engine)
    engine.dispose()


def test_every_commit_of_the_file_is_synced(tmp_path: Path) -> None:
    engine = open_store("sqlite", tmp_path)
    with engine.connect() as conn:
        settings = [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    engine.dispose()
    assert settings == ["wal", 2, 1]
