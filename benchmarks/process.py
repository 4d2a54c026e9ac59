"""Other processes of a measurement: simulated peers that take one command a line, and the agent itself as IT staff start it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


class Child:
    """A role of `peers.py` in a process of its own: a line of JSON in, a line of JSON out."""

    def __init__(self, role: str, **settings: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chartbound.benchmarks.peers", role, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.said: dict[str, Any] = self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Have the command done and give the answer."""
        self.tell(**command)
        return self._answer()

    def tell(self, **command: Any) -> None:
        """Give a command whose answer is taken with `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")

    def answer(self) -> dict[str, Any]:
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            problem = f"a process of the measurement ended with {self._process.wait()}"
            raise RuntimeError(problem)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AgentProcess:
    """`chartbound run` on a site file; its log goes to a file, as a service's does."""

    def __init__(self, site: Path) -> None:
        self._log = site.with_suffix(".log")
        self._state = site.parent / "state"
        begun = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chartbound", "run", str(site)], stderr=log, stdin=subprocess.DEVNULL, cwd=site.parent
            )
        while b"event=listening" not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() - begun > _START_SECONDS:
                problem = f"the agent did not start: {self._log.read_text('utf-8')[-2000:]}"
                raise RuntimeError(problem)
            time.sleep(0.002)
        self.start_seconds = time.monotonic() - begun

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def status(self) -> dict[str, Any]:
        """What the agent says of itself from now on; it does so every two seconds."""
        asked = time.time_ns()
        path = self._state / "status.json"
        while not path.exists() or path.stat().st_mtime_ns < asked:
            time.sleep(0.05)
        said: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return said

    def commits(self) -> int:
        """Synced transactions of journal and store since the start."""
        return sum(self.status()["commits"].values())

    def memory(self) -> float:
        """Resident MiB, of /proc; 0.0 where there is none."""
        return _proc(self._process.pid, "VmRSS") / 1024

    def cpu(self) -> float:
        """Seconds of processor time so far, of /proc; 0.0 where there is none."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _proc(pid: int, key: str) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:")), 0.0)


def free_ports(count: int) -> list[int]:
    """So many TCP ports that nobody listens on just now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports
