"""Reads `site.toml`: what stands where in this clinic, and where its results go.

`load` gives a checked `Site` or every mistake at once, each as `site.toml:12: instruments[0].baud: must be a whole number`.
Relative paths in the file are relative to the file. A section of the file is a model of the same name (`site.matching`);
what `[site]` itself says is also at hand on the `Site` (`site.facility`, `site.zone`, `site.state_dir`).
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator

from ..drivers import driver as drivers
from ..drivers.driver import Driver, Options, UnknownDriver
from ..hl7.profile import Profile
from . import toml_file
from .address import PORT_FORMS, SERIAL_KINDS, Address, parse_address, port_kind
from .errors import ConfigErrors, nearest
from .fields import (
    Context,
    ExistingFolder,
    FilePath,
    FolderPath,
    Name,
    OwnAddress,
    RemoteAddress,
    Secret,
    Section,
    context_of,
)
from .toml_file import wrong
from .toml_lines import Path as KeyPath


class SiteSection(Section):
    """`[site]`"""

    facility: Name = Field(description='the name of this clinic in every message, MSH-4: "RIVERSIDE"')
    timezone: str = Field(description='the zone of the instruments\' clocks: "America/Chicago"')
    state_dir: FolderPath = Field(
        default=Path("state"), validate_default=True, description="the folder of the journal and the store"
    )
    journal_days: int = Field(default=90, ge=1, le=36500, description="days that a unit is kept after it is settled")
    drivers_folder: ExistingFolder | None = Field(default=None, description="the folder of the site's own driver files")

    @field_validator("state_dir", mode="before")
    @classmethod
    def _default_beside_the_file(cls, value: Any, info: ValidationInfo) -> Any:
        return context_of(info).path(str(value)) if isinstance(value, Path) else value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            close = nearest(value, available_timezones())
            raise wrong("is no known time zone", f"did you mean {close}?" if close else 'write "America/Chicago"') from None
        return value


class Store(Section):
    """`[store]`"""

    url: Secret = Field(default="sqlite", repr=False, description='"sqlite", or "postgresql://…" shared by many PCs')

    @field_validator("url")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value != "sqlite" and not value.startswith("postgresql://"):
            raise wrong("is no kind of store", 'write "sqlite" or "postgresql://user:password@host/database"')
        return value


class Instrument(Section):
    """One of `[[instruments]]`. It is heard on a port, or it drops files into a folder: its driver says which."""

    name: Name = Field(description="a stable name, shown to people")
    driver: str = Field(description="`chartbound drivers` lists them")
    port: str | None = Field(default=None, validate_default=True, description=PORT_FORMS)
    folder: FolderPath | None = Field(
        default=None, validate_default=True, description="the folder that the instrument writes to"
    )
    baud: int | None = Field(default=None, ge=75, le=4_000_000, description="9600, for example; without it the driver's own")
    station: Name | None = Field(default=None, description="the claims made at this station belong to the instrument")
    serial_number: str | None = Field(default=None, description="another meter on this cable is refused")
    poll_seconds: float = Field(default=10.0, ge=0.1, le=86400, description="how often a docked meter is read")
    claim_minutes: float = Field(default=15.0, gt=0, le=1440, description="how long a claim on this instrument holds")
    confirm_claims: bool = Field(default=True, description="a claimed result waits for a person's yes")
    mode: Literal["move", "copy"] = Field(default="move", description='"copy" leaves the files to another program')
    incomplete_minutes: float = Field(default=15.0, gt=0, le=10080, description="a file that never completes alarms after this")
    options: Any = Field(default=None, validate_default=True, description="`chartbound drivers NAME` lists them")
    _loaded: Driver = PrivateAttr()

    @property
    def loaded(self) -> Driver:
        """The driver itself."""
        return self._loaded

    def model_post_init(self, context: Any) -> None:
        self._loaded = context.drivers[self.driver]

    @field_validator("name")
    @classmethod
    def _one_of_a_kind(cls, value: str, info: ValidationInfo) -> str:
        return _unique(value, context_of(info).instruments, "instrument")

    @field_validator("driver")
    @classmethod
    def _known_driver(cls, value: str, info: ValidationInfo) -> str:
        context = context_of(info)
        if value not in context.drivers:
            try:
                context.drivers[value] = drivers.find(value, context.drivers_folder)
            except UnknownDriver:
                close = nearest(value, (each.name for each in drivers.shipped()))
                hint = f"did you mean {close}?" if close else "`chartbound drivers` lists them"
                raise wrong(f"there is no driver {value}", hint) from None
            except Exception as error:  # the site's own file may raise anything
                raise wrong(f"the driver file {value}.py fails: {error!r}", "mend the file in drivers_folder") from error
        return value

    @field_validator("port")
    @classmethod
    def _fitting_port(cls, value: str | None, info: ValidationInfo) -> str | None:
        driver = _driver(info)
        if value is None:
            if driver is not None and driver.connect is not None:
                raise wrong("is missing", PORT_FORMS)
            return None
        if driver is not None and driver.connect is None:
            raise wrong(f"{driver.name} reads files and has no port", "give its folder instead")
        try:
            kind = port_kind(value)
        except ValueError as error:
            raise wrong(str(error), f"write {PORT_FORMS}") from None
        if driver is not None and kind in SERIAL_KINDS and "serial" not in driver.transport:
            raise wrong(f"{driver.name} has no serial port", "write listen://host:port or socket://host:port")
        _refuse_shared(value, info)
        return value

    @field_validator("folder")
    @classmethod
    def _fitting_folder(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        driver = _driver(info)
        if driver is None:
            return value
        if value is None and driver.connect is None:
            raise wrong("is missing", "give the folder that the instrument writes its files to")
        if value is not None and driver.connect is not None:
            raise wrong(f"{driver.name} is heard on a port, not in a folder", "give its port instead")
        if value is not None:
            _refuse_shared(value, info)
        return value

    @field_validator("options", mode="plain")
    @classmethod
    def _drivers_own_options(cls, value: Any, info: ValidationInfo) -> Options | None:
        driver = _driver(info)
        if driver is None:
            return None  # the driver's name is the mistake; its options cannot be judged
        return driver.options.model_validate({} if value is None else value)


def _driver(info: ValidationInfo) -> Driver | None:
    name = info.data.get("driver")
    return context_of(info).drivers[name] if name else None


def _refuse_shared(wire: str | Path, info: ValidationInfo) -> None:
    """A port or folder is one instrument's, or the orders'. Only `listen://…:0` is another port each time."""
    name = info.data.get("name", "another one")
    whose = context_of(info).wires.setdefault(wire, name)
    if whose != name and not str(wire).endswith(":0"):
        raise wrong(f"belongs to {whose} already", "two cannot share it")


def _unique(name: str, taken: set[str], of: str) -> str:
    if name in taken:
        raise wrong(f"another {of} is called {name}", "names are shown to people: make each its own")
    taken.add(name)
    return name


class Orders(Section):
    """`[orders]`: where orders come in."""

    listen: OwnAddress | None = Field(default=None, description='the MLLP address for orders: "127.0.0.1:2576"')
    folder: FolderPath | None = Field(default=None, description="the folder of .hl7 and .csv files")

    @field_validator("listen", "folder")
    @classmethod
    def _no_instruments(cls, value: str | Path | None, info: ValidationInfo) -> str | Path | None:
        if value is not None:
            _refuse_shared(f"listen://{value}" if isinstance(value, str) else value, info)
        return value

    @property
    def listen_address(self) -> Address | None:
        return parse_address(self.listen, listening=True) if self.listen else None


class Matching(Section):
    """`[matching]`"""

    clock_tolerance_minutes: float = Field(default=5.0, ge=0, le=1440, description="an instrument's clock may be this wrong")
    order_window_hours: float = Field(
        default=24.0, gt=0, le=8760, description="an order is open to a patient's result this long"
    )
    unsolicited: bool = Field(default=False, description="may a result without an order be sent for a known patient")

    @field_validator("unsolicited")
    @classmethod
    def _not_yet(cls, value: bool) -> bool:
        if value:
            raise wrong("is not offered yet", "a result without an order is held; write false")
        return value


class Tls(Section):
    """`tls = { ca = …, certificate = …, key = … }`; `tls = true` trusts what the system trusts."""

    ca: FilePath | None = Field(default=None, description="who may vouch for the EHR: a PEM file")
    certificate: FilePath | None = Field(default=None, description="our own certificate: a PEM file")
    key: FilePath | None = Field(default=None, description="our own private key: a PEM file")

    @field_validator("key")
    @classmethod
    def _of_the_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("certificate", value) is None:
            raise wrong("is a key without a certificate", "give the certificate too")
        return value


class Destination(Section):
    """One of `[[destinations]]`: usually one, the EHR."""

    name: Name = Field(description="a stable name, shown to people")
    address: RemoteAddress = Field(description='the EHR\'s MLLP address: "127.0.0.1:2575"')
    profile: Name = Field(
        default="default", validate_default=True, description="a shipped profile, or NAME.toml beside the site file"
    )
    ack_timeout_seconds: float = Field(default=30.0, gt=0, le=3600, description="how long an answer is awaited")
    retry_seconds: tuple[float, float] = Field(
        default=(1.0, 60.0), strict=False, description="the first and the longest wait between attempts: [1, 60]"
    )
    tls: Tls | None = Field(default=None, description="false, or a table of ca, certificate and key")
    instruments: tuple[str, ...] = Field(default=(), strict=False, description="names of instruments; empty is all of them")
    tests: tuple[str, ...] = Field(default=(), strict=False, description="LOINC or order codes; empty is all of them")
    _loaded: Profile = PrivateAttr()

    @property
    def loaded(self) -> Profile:
        """The profile itself."""
        return self._loaded

    @property
    def host(self) -> str:
        return parse_address(self.address).host

    @property
    def port(self) -> int:
        return parse_address(self.address).port

    def model_post_init(self, context: Any) -> None:
        self._loaded = context.profiles[self.profile]

    @field_validator("name")
    @classmethod
    def _one_of_a_kind(cls, value: str, info: ValidationInfo) -> str:
        return _unique(value, context_of(info).destinations, "destination")

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, value: str, info: ValidationInfo) -> str:
        context = context_of(info)
        if value not in context.profiles:
            context.profiles[value] = _read_profile(value, context)
        return value

    @field_validator("retry_seconds", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise wrong("must be two numbers", "the first and the longest wait between attempts: [1, 60]")
        return value

    @field_validator("retry_seconds")
    @classmethod
    def _first_then_longest(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise wrong("must be the first and the longest wait", "the first is more than 0 and not the longer: [1, 60]")
        return value

    @field_validator("tls", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @field_validator("instruments")
    @classmethod
    def _known_instruments(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = context_of(info).instruments
        for name in value:
            if name not in known:
                close = nearest(name, known)
                raise wrong(f"there is no instrument {name}", f"did you mean {close}?" if close else "see [[instruments]]")
        return value


def _read_profile(name: str, context: Context) -> Profile:
    own = context.folder / f"{name}.toml"
    shipped = files("chartbound") / "config" / "profiles" / f"{name}.toml"
    if own.is_file():
        path = own
    elif "/" not in name and "\\" not in name and shipped.is_file():
        path = Path(str(shipped))
    else:
        names = [each.name.removesuffix(".toml") for each in (files("chartbound") / "config" / "profiles").iterdir()]
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"put {name}.toml beside the site file"
        raise wrong(f"there is no profile {name}", hint)
    content, lines, errors = toml_file.read(path)
    profile = None
    if not errors:
        profile, errors = toml_file.validate(Profile, content, lines, path)
    if profile is None:
        context.elsewhere += errors
        raise wrong(f"the profile {name} has mistakes of its own", f"mend {path.name}")
    return profile


class ReferenceLab(BaseModel):
    """One of `[[reference_labs]]`. Beside its name, keys that this version does not read are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name = Field(description="as in the reference_lab column of the orders")


class Web(Section):
    """`[web]`"""

    address: OwnAddress = Field(default="127.0.0.1:8470", description='where the screens are served: "127.0.0.1:8470"')


class Site(Section):
    """A checked site file. Instruments and destinations carry their driver and profile as `loaded`."""

    site: SiteSection = Field(description="the [site] section names the facility and the time zone")
    store: Store = Store()
    instruments: tuple[Instrument, ...] = Field(default=(), strict=False)
    orders: Orders = Orders()
    matching: Matching = Matching()
    destinations: tuple[Destination, ...] = Field(
        strict=False, description="one [[destinations]] says where results go, usually the EHR"
    )
    web: Web = Web()
    reference_labs: tuple[ReferenceLab, ...] = Field(default=(), strict=False)
    _path: Path = PrivateAttr(default=Path())

    @field_validator("destinations", mode="before")
    @classmethod
    def _at_least_one(cls, value: Any) -> Any:
        if value == []:
            raise wrong("is empty", "results have nowhere to go: name the EHR")
        return value

    @property
    def path(self) -> Path:
        """The site file itself, absolute."""
        return self._path

    @property
    def facility(self) -> str:
        return self.site.facility

    @property
    def timezone(self) -> str:
        return self.site.timezone

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.site.timezone)

    @property
    def state_dir(self) -> Path:
        return self.site.state_dir

    @property
    def journal_days(self) -> int:
        return self.site.journal_days

    @property
    def drivers_folder(self) -> Path | None:
        return self.site.drivers_folder

    def instrument(self, name: str) -> Instrument | None:
        return next((each for each in self.instruments if each.name == name), None)

    def destination(self, name: str) -> Destination | None:
        return next((each for each in self.destinations if each.name == name), None)


def load(path: Path) -> Site:
    """Read and check a site file with the profiles and drivers that it names. Raises `ConfigErrors` with all mistakes."""
    path = path.absolute()
    content, lines, errors = toml_file.read(path)
    if errors:
        raise ConfigErrors(errors)
    context = Context(path.parent)
    context.drivers_folder = _stated_drivers_folder(content, context)

    def options_at(key: KeyPath) -> type[Options] | None:
        """The model of an instrument's options is its driver's."""
        match key:
            case ("instruments", int(number), "options"):
                driver = context.drivers.get(content["instruments"][number].get("driver"))
                return driver.options if driver else None
        return None

    site, errors = toml_file.validate(Site, content, lines, path, context=context, model_at=options_at)
    if site is None or context.elsewhere:
        raise ConfigErrors([*errors, *context.elsewhere])
    site._path = path
    return site


def stated_drivers_folder(path: Path) -> Path | None:
    """The drivers folder that a site file names, whatever else is wrong with the file."""
    return _stated_drivers_folder(toml_file.read(path)[0], Context(path.absolute().parent))


def _stated_drivers_folder(content: Mapping[str, Any], context: Context) -> Path | None:
    section = content.get("site")
    own = section.get("drivers_folder") if isinstance(section, Mapping) else None
    return context.path(own) if isinstance(own, str) and own else None
