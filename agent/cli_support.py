"""What the commands share: where the site file is, the store and its acts in one transaction, and errors in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..config.catalog import Catalog
    from ..config.site import Site
    from .acts import Acts, Person

SiteFile = Annotated[Path | None, typer.Argument(metavar="[SITE]", help="The site file; by default ./site.toml.")]
SiteOption = Annotated[Path | None, typer.Option("--site", help="The site file; by default ./site.toml.")]
OwnDrivers = Annotated[Path | None, typer.Option("--site", help="A site file: its own drivers are known too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ResultId = Annotated[int, typer.Argument(metavar="RESULT_ID", help="The number of the result in `chartbound results`.")]
Name = Annotated[str, typer.Option("--name", help="The patient's name: LAST,FIRST.")]
BirthDate = Annotated[str, typer.Option("--birth-date", help="The patient's birth date: YYYY-MM-DD.")]


def site_path(given: Path | None) -> Path:
    from . import host

    if given is not None:
        return given / "site.toml" if given.is_dir() else given
    here = Path("site.toml")
    path = here if here.exists() else host.standard_site()
    if not path.exists():
        fail(f"there is no site.toml here and none at {path}", "`chartbound init` writes one, or name it", code=2)
    return path


@contextmanager
def store(site: Path | None) -> Iterator[tuple[Site, Catalog, Engine]]:
    """The site with its store, made where it is not there yet."""
    from . import check as checking
    from . import host
    from .store.engine import migrate, open_store

    with explained():
        found, catalog = checking.load(site_path(site))
        engine = open_store(found.store.url, host.state_folder(found.state_dir))
        try:
            migrate(engine)
            yield found, catalog, engine
        finally:
            engine.dispose()


@contextmanager
def acting(site: Path | None) -> Iterator[Acts]:
    """One transaction in which the operating system's user acts."""
    from . import acts, audit, host
    from .store.engine import writing
    from .verdict import Verdicts

    with store(site) as (found, catalog, engine):
        verdicts: Verdicts = Verdicts(found, catalog, host.agent_id(found.state_dir))
        with writing(engine) as conn:
            yield acts.act(conn, verdicts, audit.operator())


@contextmanager
def explained() -> Iterator[None]:
    """Turn what is for a person to mend into words on standard error: 2 for the site file, 1 for the rest."""
    from ..config.errors import ConfigErrors

    try:
        yield
    except ConfigErrors as errors:
        for error in errors.errors:
            typer.echo(str(error), err=True)
        count = len(errors.errors)
        typer.echo(f"{count} error{'s' * (count != 1)}", err=True)
        raise typer.Exit(2) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if not hasattr(error, "hint"):
            raise
        typer.echo(f"chartbound: {error}", err=True)
        raise typer.Exit(1) from None


def person(name: str, birth_date: str) -> Person:
    from .acts import Person

    last, comma, first = name.partition(",")
    if not comma or not last.strip() or not first.strip():
        fail("--name takes two names", "write --name LAST,FIRST", code=2)
    try:
        return Person(last.strip(), first.strip(), date.fromisoformat(birth_date))
    except ValueError:
        fail(f"{birth_date!r} is no date", "write --birth-date YYYY-MM-DD", code=2)


def print_json(said: object) -> None:
    json.dump(said, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def fail(what: str, hint: str, code: int = 1) -> NoReturn:
    typer.echo(f"chartbound: {what}; {hint}", err=True)
    raise typer.Exit(code)
