"""The agents of the crash campaign: started, killed and stopped, and the program's commands run beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).with_name("launcher.py")
Fault = tuple[str, str, int]  # the database file, "before" or "after", which of its commits


class Process:
    """One run of the program."""

    def __init__(self, pid: int, known: Launcher) -> None:
        self.pid, self._known = pid, known

    def wait(self, seconds: float) -> int | None:
        """Its exit status, negative for a signal; None where it still runs after so many seconds."""
        return self._known.status_of(self.pid, seconds)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        assert self.wait(10) is not None

    def stop(self) -> int | None:
        """SIGTERM, as the system's service manager does it; the exit status."""
        self._signal(signal.SIGTERM)
        return self.wait(10)

    def _signal(self, number: int) -> None:
        if self.wait(0) is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


class Launcher:
    """Runs the program in `folder`, where its site file is. `with Launcher(folder) as launcher: …`"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changed = threading.Condition()
        self._started: list[int] = []
        self._gone: dict[int, int] = {}

    def __enter__(self) -> Launcher:
        self._process = subprocess.Popen([sys.executable, str(LAUNCHER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, name="launcher", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._reader.join()
        self._process.stdout.close()

    def run_agent(self, fault: Fault | None = None) -> Process:
        """Start `chartbound run`; with `fault` it dies at that commit."""
        return self._start(["run", "site.toml"], self.folder / "agent.out", fault)

    def command(self, *words: str) -> Any:
        """What this command says as JSON. Raises AssertionError where it ends with another status than 0."""
        out = self.folder / "command.json"
        status = self._start([*words, "--site", "site.toml", "--json"], out, None).wait(60)
        text = out.read_text("utf-8")
        assert status == 0, f"chartbound {words[0]} ended with {status}: {text}"
        return json.loads(text)

    def status_of(self, pid: int, seconds: float) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: pid in self._gone, seconds)
            return self._gone.get(pid)

    def _start(self, argv: list[str], out: Path, fault: Fault | None) -> Process:
        assert self._process.stdin is not None
        request = {
            "argv": argv,
            "cwd": str(self.folder),
            "out": str(out),
            "err": str(self.folder / "agent.log"),
            "fault": fault,
        }
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        with self._changed:
            begun = self._changed.wait_for(lambda: bool(self._started), 60)
            assert begun, "the launcher does not answer"
            return Process(self._started.pop(), self)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                if "started" in said:
                    self._started.append(said["started"])
                else:
                    self._gone[said["gone"]] = said["status"]
                self._changed.notify_all()
