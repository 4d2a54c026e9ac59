"""The agent's log: one line an event on standard error, as key=value pairs. It carries row ids; no patient is in it.

Of what happens over and over, noise on a line or a folder of bad files, the first lines of each minute are written; the next
one says with `left_out` how many were not. The counts are on `chartbound status`, and every result keeps its line.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

_LINES, _SECONDS = 20, 60.0  # of one kind in so long
_KIND = ("instrument", "folder", "part", "destination", "what", "state")


def configure(level: int = logging.INFO) -> None:
    """Send the agent's events, and what libraries warn of, to standard error."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _failure_without_values,
    ]
    last: Processor = (
        structlog.dev.ConsoleRenderer(pad_event_to=0)
        if sys.stderr.isatty()
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    threading.excepthook = _thread_failed  # Python's own prints what the failure says, and that may be a patient's
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("chartbound").setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            Repeats(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class Repeats:
    """Lets so many lines of each kind through in a minute. A line's kind is its event and what it is about."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}  # since when, how many

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        if event["event"] == "delivered" or (event["event"] == "result" and event.get("state") != "unreadable"):
            return event
        kind = (event["event"], *(str(event.get(key, "")) for key in _KIND))
        now, left_out = self._clock(), 0
        with self._lock:
            since, count = self._seen.get(kind, (now, 0))
            if now - since >= _SECONDS:
                left_out, since, count = max(0, count - _LINES), now, 0
            self._seen[kind] = since, count + 1
        if count >= _LINES:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        thread = failed.thread.name if failed.thread else ""
        structlog.get_logger("chartbound").error("a thread ended", thread=thread, exc_info=failed.exc_value)


def _failure_without_values(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Say where a failure happened and of what kind it was. Its own words may repeat a value that is a patient's."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    elif isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[0] is not None:
        event["failure"] = info[0].__name__
        event["at"] = " < ".join(_places(info[2]))
    return event


def _places(trace: TracebackType | None) -> list[str]:
    frames = reversed(traceback.extract_tb(trace))
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames][:12]
