"""The PC below the agent: folders, the one agent of a folder, its name, its stop signals, its user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from chartbound.agent import host
from chartbound.agent.host import HostError, agent_id, sole_agent, standard_site, state_folder, stop_signals

POSIX = pytest.mark.skipif(os.name == "nt", reason="modes and signals of POSIX")

_HOLDER = """
import sys
from pathlib import Path
from chartbound.agent.host import sole_agent
with sole_agent(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_state_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = state_folder(tmp_path / "a" / "state")
    assert folder.is_dir()
    assert folder.is_absolute()
    assert list(folder.iterdir()) == []
    assert state_folder(folder) == folder


@POSIX
def test_a_new_state_folder_is_its_owners_alone(tmp_path: Path) -> None:
    assert state_folder(tmp_path / "state").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("place", ["file", "file/state"])
def test_a_file_in_the_folders_place_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HostError, match="is not a folder") as caught:
        state_folder(tmp_path / place)
    assert "state_dir" in caught.value.hint


@POSIX
@pytest.mark.parametrize("place", ["closed", "closed/state"])
def test_a_folder_that_may_not_be_written_is_named_with_the_user(place: str) -> None:
    """In a process that is nobody, because root may write anywhere."""
    program = f"""
import os, sys
from pathlib import Path
from chartbound.agent import host
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    host.state_folder(Path(sys.argv[1]) / {place!r})
except host.HostError as error:
    assert host.user() in error.hint, error.hint
    print(error.what)
"""
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        closed = Path(outer) / "closed"
        closed.mkdir()
        closed.chmod(0o555)
        done = subprocess.run([sys.executable, "-c", program, outer], capture_output=True, text=True, timeout=60, check=False)
        closed.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "Permission denied" in done.stdout


def test_a_second_agent_on_the_folder_is_refused_and_the_first_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(HostError) as caught, sole_agent(tmp_path):
        pass
    first.communicate("\n", timeout=30)
    assert str(tmp_path) in caught.value.what
    assert f"process {first.pid}" in caught.value.what
    with sole_agent(tmp_path):
        pass


def test_a_killed_agent_leaves_the_folder_free(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    first.kill()
    first.communicate(timeout=30)
    with sole_agent(tmp_path):
        assert (tmp_path / "agent.pid").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "agent.pid").exists()


def test_an_agent_that_fails_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_agent(tmp_path):
        raise ZeroDivisionError
    with sole_agent(tmp_path):
        pass


def test_an_agents_name_is_made_once_and_stays(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(agent_id, [tmp_path] * 8))
    assert len(names) == 1
    assert agent_id(tmp_path) in names
    (tmp_path / "other").mkdir()
    assert agent_id(tmp_path / "other") not in names
    assert all(name.isalnum() and len(name) <= 32 for name in names)


@pytest.mark.parametrize("content", ["", "two words", "x" * 33, "né-à-part"])
def test_a_damaged_name_is_not_replaced_by_another(tmp_path: Path, content: str) -> None:
    (tmp_path / "agent-id").write_text(content, encoding="utf-8")
    with pytest.raises(HostError, match="backup"):
        agent_id(tmp_path)
    assert (tmp_path / "agent-id").read_text(encoding="utf-8") == content


def test_the_standard_site_file_has_an_absolute_path() -> None:
    assert standard_site().is_absolute()
    assert standard_site().name == "site.toml"


def test_a_stop_signal_is_told_and_the_old_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    told: SimpleQueue[str] = SimpleQueue()
    with stop_signals(told.put):
        signal.raise_signal(signal.SIGTERM)
        assert told.get(timeout=10) == "SIGTERM"
        signal.raise_signal(signal.SIGINT)
        assert told.get(timeout=10) == "SIGINT"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@POSIX
def test_a_stop_signal_comes_through_at_any_step_of_a_waiting_agent() -> None:
    """Twenty signals into a thread that does nothing but begin and end its wait for the event that they set."""
    program = """
import os, signal
from threading import Event, Thread
from chartbound.agent.host import stop_signals
for _ in range(20):
    stop = Event()
    with stop_signals(lambda name: stop.set()):
        Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()
        while not stop.is_set():
            stop.wait(0.0)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0


@POSIX
def test_a_waiting_agent_is_woken_by_the_systems_stop() -> None:
    program = """
from threading import Event
from chartbound.agent.host import stop_signals
stop = Event()
with stop_signals(lambda name: (print(name, flush=True), stop.set())):
    print("ready", flush=True)
    stop.wait()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "SIGTERM\n")


@POSIX
def test_the_user_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    monkeypatch.setenv("USER", "boss")
    assert host.user() == pwd.getpwuid(os.getuid()).pw_name
