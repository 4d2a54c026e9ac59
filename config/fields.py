"""The kinds of value that the site file holds: paths, addresses, names, secrets. Each says what is wrong with it in words."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from ..drivers.driver import Driver
from ..hl7.profile import Profile
from .address import parse_address
from .errors import ConfigError
from .toml_file import wrong


@dataclass(slots=True)
class Context:
    """What the validators of one site file know beside the value before them."""

    folder: Path
    drivers_folder: Path | None = None
    drivers: dict[str, Driver] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    instruments: set[str] = field(default_factory=set)
    destinations: set[str] = field(default_factory=set)
    wires: dict[str | Path, str] = field(default_factory=dict)  # ports and folders, and whose they are
    elsewhere: list[ConfigError] = field(default_factory=list)  # mistakes in files that this one names

    def path(self, text: str) -> Path:
        return (self.folder / text).absolute()


def context_of(info: ValidationInfo) -> Context:
    """What is known beside the value; every model of the site file is validated with it."""
    return cast(Context, info.context)


def _path(value: Any, info: ValidationInfo) -> Any:
    if value == "":
        raise wrong("must not be empty")
    return context_of(info).path(value) if isinstance(value, str) else value


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise wrong("there is no such file", f"looked for {path}")
    return path


def _existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise wrong("there is no such folder", f"looked for {path}")
    return path


def _secret(value: str, info: ValidationInfo) -> str:
    """`env:NAME` and `file:PATH` keep a password out of the site file. The secret itself is never shown."""
    kind, _, name = value.partition(":")
    if kind == "env":
        if name not in os.environ:
            raise wrong(f"the environment variable {name} is not set", "the service needs it too, not your own session alone")
        return os.environ[name]
    if kind == "file":
        try:
            return str(context_of(info).path(name).read_text(encoding="utf-8")).strip()
        except (OSError, ValueError):
            raise wrong(f"the file {name} cannot be read as text") from None
    return value


def _trimmed(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise wrong("must not begin or end with a space, nor hold control characters")
    return value


def _remote(value: str) -> str:
    return _checked_address(value, listening=False)


def _own(value: str) -> str:
    return _checked_address(value, listening=True)


def _checked_address(value: str, *, listening: bool) -> str:
    try:
        parse_address(value, listening=listening)
    except ValueError as error:
        raise wrong(str(error), 'write "127.0.0.1:2575", for example') from None
    return value


FilePath = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_file)]
FolderPath = Annotated[Path, BeforeValidator(_path)]
ExistingFolder = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_folder)]
Secret = Annotated[str, AfterValidator(_secret)]
RemoteAddress = Annotated[str, AfterValidator(_remote)]
OwnAddress = Annotated[str, AfterValidator(_own)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_trimmed)]


class Section(BaseModel):
    """A table of the site file. Its fields' descriptions are the hints of its errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
