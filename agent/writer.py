"""The one thread that writes the store: verdicts, delivery outcomes and orders share its transactions.

A job is a function of a connection. Jobs that are waiting are done together in one transaction, so that a commit is shared.
Where one of them fails, all are done again, each in a savepoint of its own, so that it takes nothing of its neighbours with it:
a job must stand being done again from its start. No job does I/O of another kind.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from .store.engine import writing

Job = Callable[[Connection], None]

_BATCH = 128  # jobs in one transaction: enough to share a commit, short enough that a person's act never waits long
_RETRY_SECONDS = (0.2, 10.0)
_TURN_SECONDS, _PAUSE_SECONDS = 0.1, 0.01

log = structlog.get_logger("chartbound.writer")


class StoreWriter(threading.Thread):
    """Does jobs in the order they come. While the store is away they wait, and the journal goes on listening."""

    def __init__(self, engine: Engine, prepare: Callable[[], None] = lambda: None) -> None:
        """`prepare` is done before the first job, and again and again while the store is away."""
        super().__init__(name="store", daemon=True)
        self._engine, self._prepare = engine, prepare
        self._prepared = False
        self._jobs: deque[tuple[Job, Callable[[], None] | None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._idle = True
        self.commits = 0
        self.failed = 0
        self.away = ""  # why the store cannot be written just now; "" while it can

    def submit(self, job: Job, committed: Callable[[], None] | None = None) -> None:
        """Do `job` in one of the next transactions; then, once it is committed, call `committed`."""
        with self._wake:
            self._jobs.append((job, committed))
            self._idle = False
            self._wake.notify_all()

    def waiting(self) -> int:
        """How many jobs are not committed yet."""
        return len(self._jobs)

    def flush(self, timeout: float) -> bool:
        """Wait until everything submitted is committed; False where that took longer than `timeout` seconds."""
        with self._wake:
            return self._wake.wait_for(lambda: self._idle and not self._jobs, timeout)

    def stop(self, timeout: float = 3.0) -> None:
        """Do what is waiting, then end. What cannot be written in time is done again from the journal at the next start."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self.join(timeout)

    def run(self) -> None:
        delay = _RETRY_SECONDS[0]
        busy_since = time.monotonic()
        while batch := self._next():
            try:
                if not self._prepared:
                    self._prepare()
                    self._prepared = True
                self._commit(batch)
            except Exception as error:  # noqa: BLE001 - whatever the store does, what is waiting stays and is tried again
                self._say_away(error)
                with self._wake:
                    if self._wake.wait_for(lambda: self._stopping, delay):
                        return
                delay = min(delay * 2, _RETRY_SECONDS[1])
                continue
            delay = _RETRY_SECONDS[0]
            if self.away:
                log.info("the store is back", waiting=len(self._jobs))
                self.away = ""
            with self._wake:
                for _ in batch:
                    self._jobs.popleft()
            for _, committed in batch:
                if committed:
                    committed()
            if time.monotonic() - busy_since > _TURN_SECONDS:
                time.sleep(_PAUSE_SECONDS)  # SQLite has no queue of writers: without a gap another process might never come in
                busy_since = time.monotonic()

    def _next(self) -> list[tuple[Job, Callable[[], None] | None]]:
        """Wait for jobs and return the next batch, which stays queued until it is committed; empty when it is time to end."""
        with self._wake:
            if not self._jobs:
                self._idle = True
                self._wake.notify_all()
            self._wake.wait_for(lambda: bool(self._jobs) or self._stopping)
            return list(islice(self._jobs, _BATCH))

    def _commit(self, batch: list[tuple[Job, Callable[[], None] | None]]) -> None:
        """Do the batch as one; where a job of it fails, do it again with each job in a savepoint of its own."""
        try:
            with writing(self._engine) as conn:
                for job, _ in batch:
                    job(conn)
        except (OperationalError, InterfaceError):
            raise
        except Exception:  # noqa: BLE001 - the second time it is known whose it is, and said
            with writing(self._engine) as conn:
                for job, _ in batch:
                    self._try(conn, job)
        self.commits += 1

    def _try(self, conn: Connection, job: Job) -> None:
        savepoint = conn.begin_nested()
        try:
            job(conn)
            savepoint.commit()
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            # A bug of ours: what this job was about stays unsettled and is shown; the others go on.
            savepoint.rollback()
            self.failed += 1
            log.exception("a piece of work for the store failed", job=getattr(job, "__qualname__", str(job)))

    def _say_away(self, error: Exception) -> None:
        cause = (
            str(error.orig) if isinstance(error, DBAPIError) else str(error) if hasattr(error, "hint") else type(error).__name__
        )
        if self.away:
            return
        self.away = f"the store cannot be written: {cause}"
        log.error("the store cannot be written; listening goes on", cause=cause, exc_info=error)
