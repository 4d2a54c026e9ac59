"""A driver is one instrument: a docstring for the person who cables it, a pure `parse`, its options and one `DRIVER`.

A driver is chosen by its file's name in the site file. Nothing is registered and nothing is sniffed among instruments.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from .link import Link
from .report import Report


class UnreadableReport(Exception):
    """The text of this unit cannot be read as a report of this instrument. The bytes stay and are shown to a person.

    `where` says which part ("record 3, field 4"), `hint` what a person can do. Neither holds the patient's words.
    """

    def __init__(self, where: str, hint: str) -> None:
        super().__init__(f"{where}: {hint}")
        self.where = where
        self.hint = hint


class UnknownDriver(Exception):
    """No driver of this name is shipped or stands in the site's drivers folder."""


class Evidence(StrEnum):
    """How well a driver is known to fit the real instrument."""

    CAPTURED = "captured"  # tried on bytes from a real instrument
    DOCUMENTED = "documented"  # built to a vendor's or a standard's text
    THIN = "thin"  # parts rest on memory or on one doubtful source; its docstring says which


class Options(BaseModel):
    """What the instrument's own settings decide and its messages do not say. Each driver has its own model of this."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Serial:
    """The instrument's settings as it leaves its maker; the site file may override the baud rate."""

    baud: int = 9600
    data_bits: int = 8
    parity: str = "N"
    stop_bits: int = 1
    xonxoff: bool = False
    dtr: bool | None = None  # None: leave the line as the adapter sets it


@dataclass(frozen=True, slots=True)
class Contact:
    """What a new link is told of its port."""

    poll_seconds: float = 10.0  # host-driven meters: how often a docked meter is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Everything the agent and the commands need to know of one instrument.

    `parse(unit, options)` turns one unit into its reports; it is pure and raises nothing but `UnreadableReport`. `connect`
    makes the link for a fresh contact; None for instruments that drop files, whose unit is the file's whole content.
    `complete` says of such a file's bytes whether they are all there.
    """

    name: str  # the file's name
    instrument: str  # maker and model, for people
    kind: str  # what it measures: "glucose", "urinalysis", "HbA1c", "EKG"
    link: str  # the protocol, for people: "LIS1-A", "text lines", "files"
    transport: tuple[str, ...]  # of "serial", "tcp", "files"
    evidence: Evidence
    parse: Callable[[bytes, Any], list[Report]]
    connect: Callable[[Any, Contact], Link] | None = None
    complete: Callable[[bytes], bool] | None = None
    options: type[Options] = Options
    serial: Serial = field(default_factory=Serial)
    memory: bool = False  # it keeps its readings and is read again: a known reading is a re-read, not heard again

    @property
    def help(self) -> str:
        """The module's docstring: how to cable and set up this instrument, in the words of its driver file."""
        module = sys.modules[self.parse.__module__]
        return (module.__doc__ or "").strip()


def find(name: str, folder: Path | None = None) -> Driver:
    """Return the driver of this name: the site's own file in `folder` first, else a shipped one.

    Raises `UnknownDriver` where there is none; an error inside a site's own driver file is raised as it is.
    """
    if folder is not None and name.isidentifier() and (own := folder / f"{name}.py").is_file():
        return _load(own)
    if name.isidentifier():
        full_name = f"{_PACKAGE}.{name}"
        try:
            module = importlib.import_module(full_name)
        except ModuleNotFoundError as missing:
            if missing.name != full_name:
                raise
        else:
            driver = getattr(module, "DRIVER", None)
            if isinstance(driver, Driver):
                return driver
    raise UnknownDriver(name)


def shipped() -> Iterator[Driver]:
    """Every driver that comes with chartbound, by name; also in a frozen build or a zip, where no folder can be listed."""
    package = importlib.import_module(_PACKAGE)
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        driver = getattr(importlib.import_module(f"{_PACKAGE}.{name}"), "DRIVER", None)
        if isinstance(driver, Driver):
            yield driver


def site_drivers(folder: Path) -> Iterator[Driver]:
    """Every driver file in the site's own drivers folder."""
    for path in sorted(folder.glob("*.py")):
        yield _load(path)


def _load(path: Path) -> Driver:
    name = f"chartbound_site_drivers.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownDriver(str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    driver = getattr(module, "DRIVER", None)
    if not isinstance(driver, Driver):
        raise UnknownDriver(f"{path} has no DRIVER")
    return driver


_PACKAGE = __name__.rpartition(".")[0]
