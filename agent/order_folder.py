"""Order files dropped into a folder: each is read once, its good rows are taken, and its bad ones are said with their lines."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from sqlalchemy import Engine

from ..config.site import Site
from .acts import Acts
from .folders import Unwanted, WatchedFolder
from .orders import read_csv
from .store.engine import writing
from .verdict import Verdicts

log = structlog.get_logger("chartbound.orders")
_WHO = "order folder"


def order_folder(site: Site, verdicts: Verdicts, engine: Engine, queued: Callable[[], None]) -> WatchedFolder:
    """The watched folder of `[orders] folder`. A file that holds nothing that can be taken goes to `failed`."""
    assert site.orders.folder is not None  # noqa: S101 - the caller has looked

    def take(_name: str, data: bytes) -> None:
        new, problems = read_csv(_text(data), site.zone)
        with writing(engine) as conn:
            taken, refused = Acts(conn, verdicts, _WHO, datetime.now(UTC)).register(new)
        for problem in (*problems, *refused):
            log.warning("a row of an order file was not taken", line=problem.line, hint=problem.hint)
        log.info("orders taken", specimens=len(taken), not_taken=len(problems) + len(refused))
        queued()
        if not taken:
            lines = ", ".join(str(problem.line) for problem in (*problems, *refused)) or "none"
            message = f"no row could be taken; lines with problems: {lines}"
            raise Unwanted(message)

    return WatchedFolder(site.orders.folder, take, lambda _content: False, suffixes=(".csv",), incomplete_minutes=15)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = "it is not UTF-8 text; save it as CSV UTF-8"
        raise Unwanted(message) from error
