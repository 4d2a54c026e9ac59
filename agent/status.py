"""What the running agent is doing, for `chartbound status`: it writes a small file every few seconds, and others read it.

The file holds instruments, destinations and counts; no patient.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

_FILE = "status.json"
_FRESH = timedelta(seconds=15)


def write(state_dir: Path, said: dict[str, Any]) -> None:
    """Replace the file whole, so that nobody reads half of it; on a full disk write over the old one, which needs no room."""
    fresh, path, text = state_dir / f"{_FILE}.new", state_dir / _FILE, json.dumps(said, indent=1).encode()
    try:
        fresh.write_bytes(text)
        fresh.replace(path)
    except OSError:
        with suppress(OSError), path.open("r+b") as file:
            file.write(text)
            file.truncate()


def remove(state_dir: Path) -> None:
    """Say that no agent runs here any more."""
    (state_dir / _FILE).unlink(missing_ok=True)


def read(state_dir: Path, now: datetime) -> dict[str, Any] | None:
    """What the agent last said of itself; None where none runs. `fresh` is false where it has fallen silent."""
    try:
        said: dict[str, Any] = json.loads((state_dir / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    said["fresh"] = now - datetime.fromisoformat(said["at"]) < _FRESH
    return said


def iso(at: datetime | None) -> str | None:
    """A time as JSON has it."""
    return at.isoformat() if at else None
