"""The agent's log: one line an event on standard error, as key=value pairs. It carries row ids; no patient is in it."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor


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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("chartbound").setLevel(level)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


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
