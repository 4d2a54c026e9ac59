"""The command line: one thin function a command. What prints for people prints JSON with `--json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..config.catalog import Catalog
    from ..config.site import Site
    from .acts import Acts, Person
    from .verdict import Verdicts

app = typer.Typer(
    help="chartbound takes point-of-care results from the instruments to the EHR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
specimens_app = typer.Typer(help="The register of labelled specimens.", no_args_is_help=True, rich_markup_mode=None)
audit_app = typer.Typer(help="The record of what people did.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(specimens_app, name="specimens")
app.add_typer(audit_app, name="audit")

SiteFile = Annotated[Path | None, typer.Argument(metavar="[SITE]", help="The site file; by default ./site.toml.")]
SiteOption = Annotated[Path | None, typer.Option("--site", help="The site file; by default ./site.toml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ResultId = Annotated[int, typer.Argument(metavar="RESULT_ID", help="The number of the result in `chartbound results`.")]
Name = Annotated[str, typer.Option("--name", help="The patient's name: LAST,FIRST.")]
BirthDate = Annotated[str, typer.Option("--birth-date", help="The patient's birth date: YYYY-MM-DD.")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write it.")] = Path()) -> None:
    """Write a commented site.toml to begin with."""
    from . import check as checking

    try:
        path = checking.init(folder)
    except FileExistsError:
        _fail(f"{folder / checking.FILE_NAME} is there already and was left as it is", "`chartbound check` examines it")
    except OSError as error:
        _fail(f"{folder} cannot be written ({error.strerror})", "name another folder")
    typer.echo(f"{path} is written. Edit it, then run: chartbound check {path}")


@app.command()
def check(site: SiteFile = None, as_json: AsJson = False) -> None:
    """Examine the site file, catalog, profiles and drivers, and a sample message for each instrument."""
    from . import check as checking
    from . import show

    with _explained():
        found = checking.check(_site_path(site))
    if as_json:
        _json(show.checked_json(found))
    else:
        show.checked(found)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def run(site: SiteFile = None) -> None:
    """Run the agent in the foreground; Ctrl-C or SIGTERM stops it within 5 s with nothing lost."""
    from . import check as checking
    from . import host, logs
    from .runtime import Agent

    with _explained():
        found, catalog = checking.load(_site_path(site))
        logs.configure()
        agent = Agent(found, catalog)
        with host.stop_signals(lambda _name: agent.stop.set()):
            agent.run()


@app.command()
def status(site: SiteOption = None, as_json: AsJson = False) -> None:
    """What is running, what waits for a person, and whether the EHR answers."""
    from . import show
    from . import status as watching
    from .store.engine import reading

    now = datetime.now(UTC)
    with _store(site) as (found, _, engine), reading(engine) as conn:
        said = watching.read(found.state_dir, now)
        waiting = watching.attention(conn, now)
    if as_json:
        _json({"agent": said, "attention": [{**asdict(one), "since": show.iso(one.since)} for one in waiting]})
    else:
        show.status(said, waiting, now)


@app.command()
def ledger(site: SiteOption = None, as_json: AsJson = False) -> None:
    """The conservation ledger: everything heard, each in exactly one state. Exit code 1 where it does not balance."""
    from . import show
    from .journal_file import JournalReader
    from .ledger import ledger as count
    from .store.engine import reading

    with _store(site) as (found, _, engine):
        heard = []
        for path in sorted(found.state_dir.glob("journal*.db")):
            journal = JournalReader(path)
            heard.append((journal.id, journal.numbers()))
            journal.close()
        with reading(engine) as conn:
            counted = count(conn, heard)
    if as_json:
        _json(counted.to_json())
    else:
        show.ledger(counted)
    if not counted.balanced:
        raise typer.Exit(1)


@app.command()
def results(
    state: Annotated[str | None, typer.Option(help="Only these: held, queued, posted, refused, qc, …")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
    site: SiteOption = None,
    as_json: AsJson = False,
) -> None:
    """Results, newest first."""
    from . import show, views
    from .store.engine import reading
    from .store.results import STATES

    if state is not None and state not in STATES:
        _fail(f"there is no state {state}", f"one of: {', '.join(STATES)}", code=2)
    with _store(site) as (_, catalog, engine), reading(engine) as conn:
        found = views.result_list(conn, catalog, state, limit)
    if as_json:
        _json(found)
    else:
        show.results(found)


@app.command()
def result(result_id: ResultId, site: SiteOption = None, as_json: AsJson = False) -> None:
    """One result's whole lineage: bytes heard, report, evidence, messages, each answer, acts of people."""
    from . import show, views
    from .store.engine import reading

    with _store(site) as (found, catalog, engine), reading(engine) as conn:
        said = views.lineage(conn, catalog, result_id, views.Journals(found.state_dir))
    if said is None:
        _fail(f"there is no result {result_id}", "`chartbound results` lists them")
    if as_json:
        _json(said)
    else:
        show.lineage(said)


@specimens_app.command("list")
def specimens_list(limit: Annotated[int, typer.Option(min=1)] = 500, site: SiteOption = None, as_json: AsJson = False) -> None:
    """The registered specimens, newest first."""
    from . import show, views
    from .store.engine import reading

    with _store(site) as (_, _, engine), reading(engine) as conn:
        found = views.specimen_list(conn, limit)
    if as_json:
        _json(found)
    else:
        show.specimens(found)


@specimens_app.command("add")
def specimens_add(  # noqa: PLR0917 - Typer names them all
    mrn: Annotated[str, typer.Option(help="The patient's medical record number.")],
    name: Name,
    birth_date: BirthDate,
    test: Annotated[list[str], typer.Option(help="What is ordered: CODE or CODE=NAME; may be repeated.")],
    specimen_id: Annotated[str, typer.Option(help="The text of the label; without it a label of ours is issued.")] = "",
    order: Annotated[str, typer.Option(help="The placer order number.")] = "",
    accession: Annotated[str, typer.Option(help="The accession number.")] = "",
    sex: Annotated[str, typer.Option(help="F, M, O or U.")] = "",
    specimen_type: Annotated[str, typer.Option(help="BLD, UR, …; without it the catalog's.")] = "",
    site: SiteOption = None,
    as_json: AsJson = False,
) -> None:
    """Register a labelled specimen with the tests ordered on it."""
    from ..hl7.chart import OrderedTest, Patient, Specimen
    from .orders import Ordered

    person = _person(name, birth_date)
    patient = Patient(mrn, person.last_name, person.first_name, person.birth_date, sex)
    pairs = (one.partition("=") for one in test)
    tests = tuple(OrderedTest(code=code, name=said, placer_order=order) for code, _, said in pairs)
    new = Specimen(
        specimen_id, patient, tests, accession=accession, specimen_type=specimen_type, collected_at=datetime.now(UTC)
    )
    with _acting(site) as acts:
        taken, problems = acts.register([Ordered(0, new)])
    if problems:
        _fail(problems[0].what, problems[0].hint)
    if as_json:
        _json({"specimen_id": taken[0].specimen_id, "outcome": taken[0].outcome})
    else:
        typer.echo(f"{taken[0].specimen_id}: {taken[0].outcome}")


@specimens_app.command("import")
def specimens_import(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv")], site: SiteOption = None, as_json: AsJson = False
) -> None:
    """Register the specimens of an order CSV; bad rows are named with their lines and the rest are taken."""
    from .orders import read_csv

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{file} cannot be read ({error})", "give a CSV file in UTF-8", code=2)
    with _acting(site) as acts:
        new, problems = read_csv(text, acts.verdicts.site.zone)
        taken, refused = acts.register(new)
    problems += refused
    if as_json:
        said = [{"line": one.line, "what": one.what, "hint": one.hint} for one in problems]
        _json({"taken": [asdict(one) for one in taken], "problems": said})
    else:
        for one in taken:
            typer.echo(f"{one.specimen_id}: {one.outcome}")
        for problem in problems:
            typer.echo(f"{file}:{problem.line}: {problem.what}; {problem.hint}", err=True)
    if problems:
        raise typer.Exit(1)


@specimens_app.command("cancel")
def specimens_cancel(specimen_id: Annotated[str, typer.Argument(metavar="ID")], site: SiteOption = None) -> None:
    """Cancel a specimen: nothing is matched to it any more."""
    with _acting(site) as acts:
        acts.cancel(specimen_id)
    typer.echo(f"{specimen_id} is cancelled")


@app.command()
def claim(
    specimen_id: Annotated[str | None, typer.Argument(metavar="[SPECIMEN_ID]")] = None,
    instrument: Annotated[str, typer.Option(help="Where it is being run.")] = "",
    station: Annotated[str, typer.Option(help="The station at which this is said.")] = "",
    end: Annotated[bool, typer.Option("--end", help="End what is claimed on the instrument.")] = False,
    site: SiteOption = None,
) -> None:
    """Say: this specimen is being run on this instrument now."""
    if not instrument or (specimen_id is None and not end):
        _fail("a claim names a specimen and an instrument", "chartbound claim SPECIMEN_ID --instrument NAME", code=2)
    with _acting(site) as acts:
        labels = acts.end_claim(instrument) if end else acts.claim(specimen_id or "", instrument, station)
    if not end:
        typer.echo(f"{specimen_id} is being run on {instrument}")
    for label in labels:
        typer.echo(f"the claim of {label} on {instrument} has ended without a further result")


@app.command()
def confirm(result_id: ResultId, site: SiteOption = None) -> None:
    """You have seen value, time and patient of a claimed result: yes, it is theirs."""
    with _acting(site) as acts:
        _done(result_id, acts.confirm(result_id))


@app.command()
def assign(
    result_id: ResultId,
    specimen_id: Annotated[str, typer.Argument(metavar="SPECIMEN_ID")],
    name: Name,
    birth_date: BirthDate,
    site: SiteOption = None,
) -> None:
    """Give one result to a specimen, by its label and two identifiers; what was posted elsewhere is retracted."""
    person = _person(name, birth_date)
    with _acting(site) as acts:
        _done(result_id, acts.assign(result_id, specimen_id, person))


@app.command()
def release(result_id: ResultId, name: Name, birth_date: BirthDate, site: SiteOption = None) -> None:
    """Let a result go that is held for its clock, a repeat, a QC lockout or an implausible value."""
    person = _person(name, birth_date)
    with _acting(site) as acts:
        _done(result_id, acts.release(result_id, person))


@app.command()
def dismiss(
    result_id: ResultId,
    reason: Annotated[str, typer.Option(help="Why nothing is to be done with it.")],
    site: SiteOption = None,
) -> None:
    """Say that nothing is to be done with a result, and why."""
    with _acting(site) as acts:
        _done(result_id, acts.dismiss(result_id, reason))


@app.command()
def undo(result_id: ResultId, site: SiteOption = None) -> None:
    """Take back the last act on a result, until it was sent."""
    with _acting(site) as acts:
        what, state = acts.undo(result_id)
    typer.echo(f"result {result_id}: {what} is undone; it is {state} now")


@app.command()
def resend(result_id: ResultId, site: SiteOption = None) -> None:
    """Send once more what the EHR refused: the same bytes under the same control id."""
    with _acting(site) as acts:
        count = acts.resend(result_id)
    typer.echo(f"result {result_id}: {count} message{'s' * (count != 1)} queued again")


@audit_app.command("verify")
def audit_verify(site: SiteOption = None, as_json: AsJson = False) -> None:
    """Check the hash chain of the audit record. Exit code 1 where a row was changed, taken out or moved."""
    from . import audit
    from .store.engine import reading

    with _store(site) as (_, _, engine), reading(engine) as conn:
        problems = audit.verify(conn)
        heads = audit.heads(conn)
    if as_json:
        _json({"problems": [asdict(one) for one in problems], "heads": [asdict(one) for one in heads]})
    else:
        for problem in problems:
            typer.echo(f"agent {problem.agent}, row {problem.number}: {problem.what}", err=True)
        for head in heads:
            typer.echo(f"agent {head.agent}: {head.number} acts, head {head.hash}")
    if problems:
        raise typer.Exit(1)


@app.command()
def drivers(
    name: Annotated[str | None, typer.Argument(help="One driver: how to cable it, and its options.")] = None,
    site: SiteOption = None,
    as_json: AsJson = False,
) -> None:
    """The instruments that can be connected; with a name, how to set that one up."""
    from ..drivers import driver as known
    from . import check as checking
    from . import show

    folder = None
    if site is not None:
        with _explained():
            folder = checking.load(site)[0].drivers_folder
    if name is None:
        rows = checking.driver_rows(folder)
        if as_json:
            _json(rows)
        else:
            show.drivers(rows)
        return
    try:
        one = known.find(name, folder)
    except known.UnknownDriver:
        _fail(f"there is no driver {name}", "`chartbound drivers` lists them", code=2)
    if as_json:
        row = next(row for row in checking.driver_rows(folder) if row["name"] == name)
        _json({**row, "help": one.help, "options": checking.option_rows(one)})
    else:
        show.driver(one, checking.option_rows(one))


@app.command()
def ports(as_json: AsJson = False) -> None:
    """The serial ports of this PC, with the USB identity to write into the site file."""
    from . import serial_ports, show

    found = serial_ports.listing()
    if as_json:
        _json([asdict(one) for one in found])
    else:
        show.ports(found)


@app.command()
def record(
    port: Annotated[str, typer.Option(help="As in the site file.")],
    out: Annotated[Path, typer.Option(help="The transcript to write.")],
    driver: Annotated[str, typer.Option(help="Answer as this driver does; without it, only listen.")] = "",
    baud: Annotated[int, typer.Option(min=0, help="0: the driver's own, else 9600.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so long; 0: until Ctrl-C.")] = 0.0,
) -> None:
    """Write what goes over a live port as a transcript in plain text. Nothing of it enters the store."""
    from . import recorder

    with _explained():
        count = recorder.record(port, out, driver_name=driver, baud=baud, seconds=seconds)
    typer.echo(f"{out}: {count} bytes heard. It may hold patients' names: treat it as such.", err=True)


@app.command()
def replay(
    file: Path,
    driver: Annotated[str, typer.Option(help="The driver to read it with.")] = "",
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, an option of the driver; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a transcript with a driver and print the reports that it gives."""
    from . import recorder, show

    with _explained():
        said = recorder.replay(file, driver, option or [])
    if as_json:
        _json(said)
    else:
        show.replayed(said)
    if any(one["problem"] for one in said):
        raise typer.Exit(1)


def _site_path(given: Path | None) -> Path:
    from . import host

    if given is not None:
        return given / "site.toml" if given.is_dir() else given
    here = Path("site.toml")
    path = here if here.exists() else host.standard_site()
    if not path.exists():
        _fail(f"there is no site.toml here and none at {path}", "`chartbound init` writes one, or name it", code=2)
    return path


@contextmanager
def _store(site: Path | None) -> Iterator[tuple[Site, Catalog, Engine]]:
    """The site with its store, made where it is not there yet."""
    from . import check as checking
    from . import host
    from .store.engine import migrate, open_store

    with _explained():
        found, catalog = checking.load(_site_path(site))
        engine = open_store(found.store.url, host.state_folder(found.state_dir))
        try:
            migrate(engine)
            yield found, catalog, engine
        finally:
            engine.dispose()


@contextmanager
def _acting(site: Path | None) -> Iterator[Acts]:
    """One transaction in which the operating system's user acts."""
    from . import acts, audit, host
    from .store.engine import writing
    from .verdict import Verdicts

    with _store(site) as (found, catalog, engine):
        verdicts: Verdicts = Verdicts(found, catalog, host.agent_id(found.state_dir))
        with writing(engine) as conn:
            yield acts.act(conn, verdicts, audit.operator())


@contextmanager
def _explained() -> Iterator[None]:
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


def _person(name: str, birth_date: str) -> Person:
    from .acts import Person

    last, comma, first = name.partition(",")
    if not comma or not last.strip() or not first.strip():
        _fail("--name takes two names", "write --name LAST,FIRST", code=2)
    try:
        return Person(last.strip(), first.strip(), date.fromisoformat(birth_date))
    except ValueError:
        _fail(f"{birth_date!r} is no date", "write --birth-date YYYY-MM-DD", code=2)


def _done(result_id: int, state: str) -> None:
    typer.echo(f"result {result_id} is {state} now")


def _json(said: object) -> None:
    json.dump(said, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def _fail(what: str, hint: str, code: int = 1) -> NoReturn:
    typer.echo(f"chartbound: {what}; {hint}", err=True)
    raise typer.Exit(code)
