"""The command line: one thin function a command. What prints for people prints JSON with `--json`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from . import cli_acts
from .cli_support import AsJson, OwnDrivers, ResultId, SiteFile, SiteOption, explained, fail, print_json, site_path, store

app = typer.Typer(
    help="chartbound takes point-of-care results from the instruments to the EHR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
audit_app = typer.Typer(help="The record of what people did.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cli_acts.app)
app.add_typer(audit_app, name="audit")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"chartbound {__version__}")
        raise typer.Exit(0)


@app.callback()
def _chartbound(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """chartbound takes point-of-care results from the instruments to the EHR."""


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write it.")] = Path()) -> None:
    """Write a commented site.toml to begin with.

    A site file that is there already is left as it is.
    """
    from . import check as checking

    try:
        path = checking.init(folder)
    except FileExistsError:
        fail(f"{folder / checking.FILE_NAME} is there already and was left as it is", "`chartbound check` examines it")
    except OSError as error:
        fail(f"{folder} cannot be written ({error.strerror})", "name another folder")
    typer.echo(f"{path} is written. Edit it, then run: chartbound check {path}")


@app.command()
def check(site: SiteFile = None, as_json: AsJson = False) -> None:
    """Examine the site file and all that it names.

    Every mistake of site file, catalog, profiles and drivers is said at once with its line. Then a made-up result of each
    instrument becomes a message for each destination, which is judged against HL7.
    """
    from . import check as checking
    from . import show

    with explained():
        found = checking.check(site_path(site))
    if as_json:
        print_json(show.checked_json(found))
    else:
        show.checked(found)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def run(site: SiteFile = None) -> None:
    """Run the agent in the foreground.

    Ctrl-C or SIGTERM stops it within 5 s with nothing lost.
    """
    from . import check as checking
    from . import host, logs
    from .runtime import Agent

    with explained():
        found, catalog = checking.load(site_path(site))
        logs.configure()
        agent = Agent(found, catalog)
        with host.stop_signals(lambda _name: agent.stop.set()):
            agent.run()


@app.command()
def status(site: SiteOption = None, as_json: AsJson = False) -> None:
    """What is running, and what waits for a person.

    Each instrument's port, each destination and its last answer, and what a person should look at, the gravest first.
    """
    from . import attention, show
    from . import check as checking
    from . import status as watching

    now = datetime.now(UTC)
    with explained():
        found, _ = checking.load(site_path(site))
        said = watching.read(found.state_dir, now)
        waiting, away = attention.waiting(found, now)
    if as_json:
        print_json({"agent": said, "attention": [{**asdict(one), "since": show.iso(one.since)} for one in waiting]})
    else:
        show.status(said, waiting, now)
    if away:
        raise typer.Exit(1)


@app.command()
def ledger(site: SiteOption = None, as_json: AsJson = False) -> None:
    """Is everything that was heard accounted for?

    Each report is in exactly one state. Exit code 1 where the sum is not what was heard.
    """
    from . import show
    from .journal_file import JournalReader
    from .ledger import ledger as count
    from .store.engine import reading

    with store(site) as (found, _, engine):
        heard: dict[str, set[int]] = {}
        for path in sorted(found.state_dir.glob("journal*.db")):
            with closing(JournalReader(path)) as journal:
                heard.setdefault(journal.id, set()).update(journal.numbers())
        with reading(engine) as conn:
            counted = count(conn, heard.items())
    if as_json:
        print_json(counted.to_json())
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
    """List results, newest first."""
    from . import show, views
    from .store.engine import reading
    from .store.results import STATES

    if state is not None and state not in STATES:
        fail(f"there is no state {state}", f"one of: {', '.join(STATES)}", code=2)
    with store(site) as (_, catalog, engine), reading(engine) as conn:
        found = views.result_list(conn, catalog, state, limit)
    if as_json:
        print_json(found)
    else:
        show.results(found)


@app.command()
def result(result_id: ResultId, site: SiteOption = None, as_json: AsJson = False) -> None:
    """Show one result's whole way, from the bytes to the answer.

    Bytes heard, report, evidence, messages, each answer of the EHR, and the acts of people.
    """
    from . import show, views
    from .store.engine import reading

    with store(site) as (found, catalog, engine), reading(engine) as conn:
        said = views.lineage(conn, catalog, result_id, views.Journals(found.state_dir))
    if said is None:
        fail(f"there is no result {result_id}", "`chartbound results` lists them")
    if as_json:
        print_json(said)
    else:
        show.lineage(said)


@audit_app.command("verify")
def audit_verify(site: SiteOption = None, as_json: AsJson = False) -> None:
    """Check the hash chain of the audit record.

    Exit code 1 where a row was changed, taken out or moved.
    """
    from . import audit
    from .store.engine import reading

    with store(site) as (_, _, engine), reading(engine) as conn:
        problems = audit.verify(conn)
        heads = audit.heads(conn)
    if as_json:
        print_json({"problems": [asdict(one) for one in problems], "heads": [asdict(one) for one in heads]})
    else:
        for problem in problems:
            typer.echo(f"agent {problem.agent}, row {problem.number}: {problem.what}", err=True)
        for head in heads:
            typer.echo(f"agent {head.agent}: {head.number} acts, head {head.hash}")
    if problems:
        raise typer.Exit(1)


def _own_drivers(site: Path | None) -> Path | None:
    """The site's drivers folder, where a site is named."""
    from . import check as checking

    if site is None:
        return None
    with explained():
        return checking.load(site_path(site))[0].drivers_folder


@app.command()
def drivers(
    name: Annotated[str | None, typer.Argument(help="One driver: how to cable it, and its options.")] = None,
    site: OwnDrivers = None,
    as_json: AsJson = False,
) -> None:
    """List the instruments that can be connected.

    With a name: how to cable and set up that one, and its options.
    """
    from ..drivers import driver as known
    from . import check as checking
    from . import show

    folder = _own_drivers(site)
    if name is None:
        rows = checking.driver_rows(folder)
        if as_json:
            print_json(rows)
        else:
            show.drivers(rows)
        return
    try:
        one = known.find(name, folder)
    except known.UnknownDriver:
        fail(f"there is no driver {name}", "`chartbound drivers` lists them", code=2)
    if as_json:
        row = next(row for row in checking.driver_rows(folder) if row["name"] == name)
        print_json({**row, "help": one.help, "options": checking.option_rows(one)})
    else:
        show.driver(one, checking.option_rows(one))


@app.command()
def ports(as_json: AsJson = False) -> None:
    """List the serial ports of this PC.

    Each with the USB identity to write into the site file.
    """
    from . import serial_ports, show

    found = serial_ports.listing()
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        show.ports(found)


@app.command()
def record(
    port: Annotated[str, typer.Option(help="As in the site file.")],
    out: Annotated[Path, typer.Option(help="The transcript to write.")],
    driver: Annotated[str, typer.Option(help="Answer as this driver does; without it, only listen.")] = "",
    baud: Annotated[int, typer.Option(min=0, help="0: the driver's own, else 9600.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so long; 0: until Ctrl-C.")] = 0.0,
    site: OwnDrivers = None,
) -> None:
    """Write what goes over a live port as a transcript.

    The transcript is plain text. Nothing of it enters the store.
    """
    from . import recorder

    with explained():
        count = recorder.record(port, out, driver_name=driver, folder=_own_drivers(site), baud=baud, seconds=seconds)
    typer.echo(f"{out}: {count} bytes heard. It may hold patients' names: treat it as such.", err=True)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The transcript.")],
    driver: Annotated[str, typer.Option(help="The driver to read it with; without it the one it names.")] = "",
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, an option of the driver; may be repeated.")] = None,
    site: OwnDrivers = None,
    as_json: AsJson = False,
) -> None:
    """Read a transcript with a driver and print its reports.

    Exit code 1 where something in it could not be read.
    """
    from . import recorder, show

    with explained():
        said = recorder.replay(file, driver, option or [], _own_drivers(site))
    if as_json:
        print_json(said)
    else:
        show.replayed(said)
    if any(one["problem"] for one in said):
        raise typer.Exit(1)
