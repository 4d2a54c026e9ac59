"""Starts agents that die at a chosen commit: the fault points of the crash campaign, outside the program's own code.

It imports the program once and forks for each request, so that a start costs a tenth of a second. A request is a JSON line:

    {"argv": ["run", "site.toml"], "cwd": "…", "out": "out.json", "err": "agent.log", "fault": ["journal.db", "before", 3]}

and the answers are `{"started": PID}` and, when that process has ended, `{"gone": PID, "status": -9}`. With the fault above the
process kills itself (SIGKILL) just before the third COMMIT that it makes on the file `journal.db`.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import sqlite3
import sqlite3.dbapi2
import sys
from functools import partial
from pathlib import Path
from typing import Any

_PRELOADED = (
    "chartbound.agent.check",
    "chartbound.agent.cli",
    "chartbound.agent.orders",
    "chartbound.agent.runtime",
    "chartbound.agent.show",
    "chartbound.hl7.conformance",
    "chartbound.simulators.bench",
    "chartbound.simulators.cli",
    "alembic.command",
    "alembic.autogenerate",
    "chartbound.drivers.dca_vantage",
    "chartbound.drivers.clinitek_status",
    "chartbound.drivers.onetouch_ultra2",
)


class _Mortal(sqlite3.Connection):
    """A connection whose COMMITs are counted; the process does not outlive one of them."""

    counted = ""  # the name of the database file
    when = ""  # "before" or "after" the commit
    left = 0  # commits until then

    name = ""  # of this connection's file

    def commit(self) -> None:
        ends = self.in_transaction
        if ends:
            self._die("before")
        super().commit()
        if ends:
            self._die("after")

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql != "COMMIT":
            return super().execute(sql, *args)
        self._die("before")
        cursor = super().execute(sql, *args)
        self._die("after")
        return cursor

    def _die(self, when: str) -> None:
        if self.name != _Mortal.counted:
            return
        if when == "before":
            _Mortal.left -= 1
        if _Mortal.left <= 0 and when == _Mortal.when:
            os.kill(os.getpid(), signal.SIGKILL)


def _make_mortal(name: str, when: str, number: int) -> None:
    _Mortal.counted, _Mortal.when, _Mortal.left = name, when, number
    real = sqlite3.connect

    def connect(database: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        made = real(database, *args, factory=_Mortal, **kwargs)
        made.name = Path(str(database).partition("?")[0]).name
        return made

    sqlite3.connect = sqlite3.dbapi2.connect = connect  # type: ignore[assignment]


def _become(request: dict[str, Any]) -> None:
    """In the child: run the program with these arguments, and never return."""
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(request["cwd"])
        for number, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
            mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | (os.O_APPEND if number == 2 else os.O_TRUNC)
            os.dup2(os.open(path, mode, 0o600), number)
        if request.get("fault"):
            _make_mortal(*request["fault"])
        sys.argv = ["chartbound", *request["argv"]]
        from chartbound.__main__ import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    """Fork for each request until standard input is closed; then every child is killed."""
    for name in _PRELOADED:
        importlib.import_module(name)
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    ready = selectors.DefaultSelector()
    ready.register(0, selectors.EVENT_READ)
    ready.register(woken, selectors.EVENT_READ)
    children: set[int] = set()
    pending = b""
    say = partial(print, flush=True)
    while True:
        for key, _ in ready.select():
            if key.fd == woken:
                os.read(woken, 4096)
                for child in list(children):
                    pid, status = os.waitpid(child, os.WNOHANG)
                    if pid:
                        children.discard(pid)
                        say(json.dumps({"gone": pid, "status": os.waitstatus_to_exitcode(status)}))
                continue
            data = os.read(0, 65536)
            if not data:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    _become(json.loads(line))
                children.add(pid)
                say(json.dumps({"started": pid}))


if __name__ == "__main__":
    serve()
