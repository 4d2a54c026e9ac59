"""Order files dropped into a folder: each is read once, its good rows or messages are taken, and its bad ones are told.

`.csv` files are as in orders.py; `.hl7` files hold one message or many, as the order feed would send them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog
from sqlalchemy import Engine

from ..config.site import Site
from .acts import Acts
from .folders import Unwanted, WatchedFolder
from .order_messages import receive_all
from .orders import RowProblem, read_csv
from .store.engine import writing
from .verdict import Verdicts

log = structlog.get_logger("chartbound.orders")
_WHO = "order folder"
_MOST_NAMED = 200  # lines of one file


def order_folder(site: Site, verdicts: Verdicts, engine: Engine, queued: Callable[[], None]) -> WatchedFolder:
    """The watched folder of `[orders] folder`. A file that holds nothing that can be taken goes to `failed`."""
    assert site.orders.folder is not None  # noqa: S101 - the caller has looked

    def take(name: str, data: bytes) -> None:
        if name.lower().endswith(".hl7"):
            _take_messages(data, verdicts, engine)
        else:
            _take_rows(data, verdicts, engine)
        queued()

    return WatchedFolder(site.orders.folder, take, lambda _content: False, suffixes=(".csv", ".hl7"), incomplete_minutes=15)


def _take_rows(data: bytes, verdicts: Verdicts, engine: Engine) -> None:
    new, problems = read_csv(_text(data), verdicts.site.zone)
    with writing(engine) as conn:
        taken, refused = Acts(conn, verdicts, _WHO, datetime.now(UTC)).register(new)
    for problem in (*problems, *refused):
        log.warning("a row of an order file was not taken", line=problem.line, hint=problem.hint)
    lines = _lines((*problems, *refused))
    log.info("orders taken", specimens=len(taken), not_taken=len(problems) + len(refused), lines=lines)
    if not taken:
        heading = next((problem for problem in problems if problem.line == 1), None)  # it holds no patient's words
        message = str(heading) if heading else f"no row could be taken; lines with problems: {lines or 'none'}"
        raise Unwanted(message)


def _lines(problems: Sequence[RowProblem]) -> str:
    named = ", ".join(str(problem.line) for problem in problems[:_MOST_NAMED])
    more = len(problems) - _MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _take_messages(data: bytes, verdicts: Verdicts, engine: Engine) -> None:
    with writing(engine) as conn:
        taken, refused = receive_all(conn, verdicts, _WHO, data, datetime.now(UTC))
    for number, problem in refused:
        log.warning("a message of an order file was not taken", message=number, where=problem.where, hint=problem.hint)
    log.info("order messages taken", messages=taken, not_taken=len(refused))
    if not taken:
        first = f": {refused[0][1]}" if refused else "; there is none"
        message = f"no message could be taken{first}"
        raise Unwanted(message)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = "it is not UTF-8 text; save it as CSV UTF-8"
        raise Unwanted(message) from error
