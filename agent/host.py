"""The PC the agent runs on: its folders, its user, its stop signals, and the rule that one folder has one agent.

Everything that differs between Windows, Linux and macOS below the ports is here, so that nothing else has to ask.
"""

from __future__ import annotations

import _thread
import errno
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout


class HostError(Exception):
    """This PC does not let the agent run: `what` is wrong, and `hint` says to IT staff what to do about it."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}")
        self.what = what
        self.hint = hint


def standard_site() -> Path:
    """Where the site file is looked for when the command line names none and `./site.toml` is not there."""
    if os.name == "nt":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "chartbound" / "site.toml"
    if sys.platform == "darwin":
        return Path("/Library/Application Support/chartbound/site.toml")
    return Path("/etc/chartbound/site.toml")


def state_folder(path: Path) -> Path:
    """Make the state folder where it is missing, see that it can be written, and return it as an absolute path.

    A folder made here is its owner's alone, because patients' names will lie in it. A full disk is no error: the agent
    starts, says so, and takes up work when there is room. Raises `HostError`.
    """
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise HostError(f"{path} is not a folder", "let state_dir in the site file name a folder") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise HostError(f"{path} cannot be made: the disk is full", "free some space and start again") from None
        hint = f"make it and give it to the user {user()}, or let state_dir name another"
        raise HostError(f"{path} cannot be made ({error.strerror})", hint) from None
    probe = path / f".probe-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            hint = f"let the user {user()} write there, or let state_dir name another folder"
            raise HostError(f"{path} cannot be written ({error.strerror})", hint) from None
    return path


@contextmanager
def sole_agent(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this agent alone; the system lets it go when the process ends, however it ends.

    Raises `HostError` at once where another agent holds it.
    """
    lock = FileLock(state_dir / "agent.lock")
    told = state_dir / "agent.pid"  # beside the lock: on Windows a locked file cannot be read
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with_pid = ""
        with suppress(OSError, ValueError):
            with_pid = f" (process {int(told.read_text(encoding='ascii'))})"
        hint = "stop that one first, or give this one a state_dir of its own"
        raise HostError(f"another agent is running on {state_dir}{with_pid}", hint) from None
    except OSError as error:
        hint = f"let the user {user()} write there"
        raise HostError(f"{state_dir / 'agent.lock'} cannot be locked ({error.strerror})", hint) from None
    try:
        with suppress(OSError):  # the number is a courtesy to the reader of the error; the lock is what counts
            told.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
        with suppress(OSError):
            told.unlink(missing_ok=True)
    finally:
        lock.release()


def agent_id(state_dir: Path) -> str:
    """Return the random name of this agent, made at the first start and kept for good, through backups and restores.

    Raises `HostError` where the file holds something else: a second name would split the agent's audit chain.
    """
    path = state_dir / "agent-id"
    try:
        with FileLock(state_dir / "agent-id.lock", timeout=10):
            if not path.exists():
                fresh = path.with_suffix(".new")
                with fresh.open("w", encoding="ascii") as file:
                    file.write(f"{secrets.token_hex(8)}\n")
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(path)
                sync_folder(state_dir)
            text = path.read_text(encoding="ascii", errors="replace").strip()
    except (OSError, Timeout) as error:
        raise HostError(f"{path} cannot be read or made ({error})", "see who may write there") from None
    if not (text.isascii() and text.isalnum() and 8 <= len(text) <= 32):
        raise HostError(f"{path} holds no agent id", "put it back from a backup of this PC")
    return text


def sync_folder(path: Path) -> None:
    """Make names that were added to or changed in this folder outlive a power cut. Windows sees to that by itself."""
    if os.name == "nt":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def stop_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the signal's name when the system or a person asks the process to end; for the main thread.

    `stop` runs in a thread of its own. In the handler itself it could not set an event: the main thread, which the handler
    interrupts, may just then hold the event's lock to wait for it, and would wait for ever.
    """
    names = [name for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)]  # SIGBREAK: Windows, Ctrl-Break

    def handle(number: int, _frame: FrameType | None) -> None:
        _thread.start_new_thread(stop, (signal.Signals(number).name,))  # `threading` takes locks to start one

    before = {name: signal.signal(getattr(signal, name), handle) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), signal.SIG_DFL if handler is None else handler)


def user() -> str:
    """Return the user the operating system runs us as. Environment variables are not asked: anyone can set them."""
    if sys.platform == "win32":
        import ctypes

        size = ctypes.c_ulong(257)
        name = ctypes.create_unicode_buffer(size.value)
        full_name = ctypes.windll.secur32.GetUserNameExW
        full_name.restype = ctypes.c_ubyte  # BOOLEAN: only the lowest byte of the register is set
        # NameSamCompatible (2): DOMAIN\user, so that two domains' users of one name are told apart.
        if full_name(2, name, ctypes.byref(size)):
            return name.value
        size = ctypes.c_ulong(257)
        if ctypes.windll.advapi32.GetUserNameW(name, ctypes.byref(size)):
            return name.value
        raise HostError("Windows does not say who is signed in", "run the command in a signed-in session")
    import pwd

    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
