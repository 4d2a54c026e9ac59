"""A live port written down as a transcript, and a transcript read with a driver: how a bug report is made and looked at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..drivers import driver as drivers
from ..drivers import transcript
from ..drivers.driver import Contact, Driver, Serial, UnreadableReport
from ..drivers.link import Incomplete, Link, Trouble, Unit
from ..drivers.transcript import Drop, Heard, Said, Step, Transcript, Wait
from . import body
from .ports import PortUnavailable, Wire, port

_PAUSE = 1.0  # seconds of silence worth a line


class NotReplayed(Exception):
    """This transcript cannot be read with this driver. Says why and what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}")
        self.what, self.hint = what, hint


def record(
    address: str, out: Path, *, driver_name: str = "", folder: Path | None = None, baud: int = 0, seconds: float = 0.0
) -> int:
    """Write what goes over this port into `out` until the line closes, the time is over or Ctrl-C; return the bytes heard.

    With a driver it is answered as the agent would, except that nothing is kept; `folder` holds the site's
    own drivers. Raises `PortUnavailable`, `NotReplayed`.
    """
    driver = _driver(driver_name, folder) if driver_name else None
    settings = driver.serial if driver else Serial()
    opened = port(address, Serial(baud=baud or settings.baud, xonxoff=settings.xonxoff, dtr=settings.dtr))
    until = time.monotonic() + seconds if seconds else None
    steps: list[Step] = []
    try:
        wire = None
        while wire is None and not _over(until):
            wire = opened.open()
        if wire is not None:
            _listen(wire, driver.connect(_options(driver, {}), Contact()) if driver and driver.connect else None, steps, until)
    except KeyboardInterrupt:
        pass
    except PortUnavailable:
        if not steps:
            raise
        steps.append(Drop())
    finally:
        opened.close()
    said = Transcript(tuple(steps), driver_name, {}, "captured", f"recorded with chartbound on {address}")
    out.write_text(transcript.write(said), encoding="utf-8")
    return sum(len(step.data) for step in steps if isinstance(step, Heard))


def _listen(wire: Wire, link: Link | None, steps: list[Step], until: float | None) -> None:
    last = time.monotonic()
    try:
        while not _over(until):
            deadline = link.deadline if link else None
            data = wire.read(None if deadline is None else max(0.0, deadline - time.monotonic()))
            now = time.monotonic()
            if data:
                if now - last >= _PAUSE and steps:
                    steps.append(Wait(round(now - last, 1)))
                steps.append(Heard(data))
                last = now
            if link is not None:
                if data:
                    link.receive_data(data, now)
                if link.deadline is not None and now >= link.deadline:
                    link.handle_timeout(now)
                for out in link.data_to_send():
                    wire.write(out.data)
                    steps.append(Said(out.data))
            if data == b"":
                steps.append(Drop())
                return
    finally:
        wire.close()


def _over(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def replay(file: Path, driver_name: str, options: list[str], folder: Path | None = None) -> list[dict[str, Any]]:
    """What the driver makes of a transcript: a row for each report, unreadable unit, incomplete transmission and trouble.

    `folder` holds the site's own drivers. Raises `NotReplayed`, `TranscriptError`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotReplayed(f"{file} cannot be read ({error})", "name a transcript, as `chartbound record` writes it") from error
    said = transcript.parse(text)
    driver = _driver(driver_name or said.driver, folder)
    chosen = _options(driver, {**said.options, **dict(_pair(one) for one in options)})
    if driver.connect is None:
        units: list[Any] = [Unit(b"".join(step.data for step in said.steps if isinstance(step, Heard)))]
    else:
        units = list(transcript.play(said.steps, driver.connect(chosen, Contact())).events)
    found: list[dict[str, Any]] = []
    for event in units:
        match event:
            case Unit(data):
                found += _read(driver, data, chosen)
            case Incomplete(data, why):
                found.append({"what": "incomplete", "problem": why, "bytes": len(data)})
            case Trouble(what, detail):
                found.append({"what": "trouble", "problem": "", "trouble": f"{what}: {detail}"})
            case _:
                found.append({"what": "unchanged", "problem": ""})
    return found


def _read(driver: Driver, data: bytes, options: Any) -> list[dict[str, Any]]:
    try:
        return [{"what": "report", "problem": one.problem, "report": body.to_json(one)} for one in driver.parse(data, options)]
    except UnreadableReport as why:
        return [{"what": "unreadable", "problem": str(why), "bytes": len(data)}]


def _driver(name: str, folder: Path | None) -> Driver:
    if not name:
        raise NotReplayed("the transcript names no driver", "give --driver")
    try:
        return drivers.find(name, folder)
    except drivers.UnknownDriver:
        raise NotReplayed(
            f"there is no driver {name}", "`chartbound drivers` lists them, with --site the site's own too"
        ) from None


def _options(driver: Driver, said: dict[str, Any]) -> Any:
    try:
        return driver.options.model_validate(said)
    except ValueError as error:
        keys = ", ".join(driver.options.model_fields)
        raise NotReplayed(f"these options do not fit {driver.name} ({error})", f"it takes: {keys or 'none'}") from error


def _pair(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found:
        raise NotReplayed(f"{text!r} is no option", "write KEY=VALUE")
    return key, value.split(",") if "," in value else value
