"""From the journal to the store: every unit gets its verdict, in the order heard, once.

The judge keeps no list of what is waiting. It asks which units of the journal the store has not settled, so that a start
after a crash, a store that was away for a day and the next unit of a quiet morning all go the same way.

After a restore several journals are read, each by its own judge, and what was heard first is settled first: an instrument may
have said a result again since, and the EHR has it under the control id of the first time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from .journal_file import Heard, JournalReader
from .store import results
from .store.engine import reading
from .verdict import Verdicts
from .writer import StoreWriter

_UNITS_A_TURN = 50  # then delivery outcomes and other work get their turn

log = structlog.get_logger("chartbound.judge")


def look_again(verdicts: Verdicts, writer: StoreWriter, queued: Callable[[], None]) -> None:
    """Look at what this agent holds, some at a time: catalog or options may have been mended since, which tells nobody."""

    def share_out(conn: Connection) -> None:
        held = results.held_by(conn, verdicts.agent)
        for start in range(0, len(held), _UNITS_A_TURN):
            writer.submit(partial(verdicts.review, report_ids=held[start : start + _UNITS_A_TURN]), queued)

    writer.submit(share_out)


class Elsewhere:
    """Acts at other PCs of the same store: an order or a person's word given there may bear on what is held here."""

    def __init__(self, engine: Engine, verdicts: Verdicts, writer: StoreWriter, queued: Callable[[], None]) -> None:
        self._engine, self._verdicts, self._writer, self._queued = engine, verdicts, writer, queued
        self._seen: int | None = None  # the record of acts up to which everything has been looked at

    def look(self) -> None:
        """Look again at what this agent holds, if anybody has acted elsewhere since the last look."""
        try:
            with reading(self._engine) as conn:
                last = results.last_act(conn)
                acted = self._seen is not None and results.others_acted(conn, self._verdicts.agent, self._seen)
        except DBAPIError:
            return  # the store is away, which its writer says
        if acted:
            look_again(self._verdicts, self._writer, self._queued)
        self._seen = last


class Judge:
    """Settles the units of one journal through the store's writing thread."""

    def __init__(
        self,
        journal: JournalReader,
        verdicts: Verdicts,
        writer: StoreWriter,
        queued: Callable[[], None],
        after: Judge | None = None,
    ) -> None:
        """`after`: the judge of the journal before this one; until it has once come to that one's end, this one waits."""
        self._journal, self._verdicts, self._writer, self._queued = journal, verdicts, writer, queued
        self._lock = threading.Lock()
        self._asked = False
        self._done = 0  # every unit up to this number is settled for certain
        self._reached = 0  # the same, once the transaction under way is committed
        self._more = False
        self._after = after
        self._came_to_the_end = False
        self._careful = False  # after a failure: each unit in a savepoint, so that one takes nothing of the others with it
        self.failed: set[int] = set()  # units at which the program failed: kept, shown, tried again at the next start

    def look(self) -> None:
        """There may be something new: settle it soon."""
        with self._lock:
            if self._asked:
                return
            self._asked = True
        self._writer.submit(self._turn, self._committed)

    def read_again(self) -> None:
        """Read what could not be read, some at a time: the site file or a driver may have been mended since."""

        def share_out(conn: Connection) -> None:
            unread = results.unread_units(conn, self._verdicts.agent, self._journal.id)
            for start in range(0, len(unread), _UNITS_A_TURN):
                self._writer.submit(partial(self._read_again, unread=unread[start : start + _UNITS_A_TURN]), self._queued)

        self._writer.submit(share_out)

    def _read_again(self, conn: Connection, unread: list[tuple[int, int]]) -> None:
        for report_id, number in unread:
            if (unit := self._journal.unit(number)) is not None:
                self._verdicts.read_again(conn, report_id, unit)

    def _turn(self, conn: Connection) -> None:
        with self._lock:
            self._asked = False
        try:
            self._settle_some(conn)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            self._careful = True  # the writer undoes this turn and does it again
            raise

    def _settle_some(self, conn: Connection) -> None:
        self._reached, self._more = self._done, False
        reached = self._done
        if self._after is not None and not self._after._came_to_the_end:
            self._after.look()
            self._more = True
            return

        def settled(numbers: Sequence[int]) -> set[int]:
            return results.settled_among(conn, self._journal.id, numbers)

        last = self._journal.last()
        for count, unit in enumerate(self._journal.unsettled(settled, after=self._done)):
            if count == _UNITS_A_TURN:
                self._more = True
                break
            self._settle(conn, unit)
            reached = unit.number
        # Only now: where the journal could not be read to here, all of this turn is undone.
        self._reached = reached if self._more else max(reached, last)

    def _settle(self, conn: Connection, unit: Heard) -> None:
        if not self._careful:
            self._verdicts.settle(conn, self._journal.id, unit)
            return
        savepoint = conn.begin_nested()
        try:
            self._verdicts.settle(conn, self._journal.id, unit)
            savepoint.commit()
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            savepoint.rollback()
            self.failed.add(unit.number)
            log.exception("a unit could not be settled; it is kept", journal=self._journal.id, unit=unit.number)

    def _committed(self) -> None:
        self._careful = False
        self._done = max(self._done, self._reached)
        self._queued()
        if self._more:
            self.look()
        else:
            self._came_to_the_end = True
