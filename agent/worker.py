"""A thread of the agent that is started again when it fails, while the others go on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

_BACKOFF_SECONDS = (0.5, 10.0)
_STEADY_SECONDS = 60.0  # a part that ran so long before it failed is started again at once

log = structlog.get_logger("chartbound.agent")


@dataclass(slots=True)
class Worker:
    """A thread of the agent that is started again, more and more slowly, for as long as it fails."""

    name: str
    body: Callable[[], None]
    stop: threading.Event
    failures: int = 0
    thread: threading.Thread = field(init=False)

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        delay = _BACKOFF_SECONDS[0]
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                self.body()
            except Exception:
                # A bug of ours: loud, and this thread alone is started again.
                self.failures += 1
                if time.monotonic() - began > _STEADY_SECONDS:
                    delay = _BACKOFF_SECONDS[0]
                log.exception("a part of the agent failed and is started again", part=self.name, seconds=delay)
                self.stop.wait(delay * random.uniform(0.8, 1.2))  # noqa: S311 - spreads restarts, guards nothing
                delay = min(delay * 2, _BACKOFF_SECONDS[1])
            else:
                return
