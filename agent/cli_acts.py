"""The commands by which people act: the register of specimens, claims, and what is done with a result."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from .cli_support import (
    AsJson,
    BirthDate,
    Name,
    ResultId,
    SiteOption,
    acting,
    fail,
    person,
    print_json,
    store,
)

app = typer.Typer()
specimens_app = typer.Typer(help="The register of labelled specimens.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(specimens_app, name="specimens")


@specimens_app.command("list")
def specimens_list(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 500, site: SiteOption = None, as_json: AsJson = False
) -> None:
    """List the registered specimens, newest first."""
    from . import show, views
    from .store.engine import reading

    with store(site) as (_, _, engine), reading(engine) as conn:
        found = views.specimen_list(conn, limit)
    if as_json:
        print_json(found)
    else:
        show.specimens(found)


@specimens_app.command("add")
def specimens_add(
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
    """Register a labelled specimen and the tests ordered on it.

    Collected now, by this PC's clock. Held results that waited for this order are looked at again.
    """
    from ..hl7.chart import OrderedTest, Patient, Specimen
    from .orders import Ordered

    named = person(name, birth_date)
    patient = Patient(mrn, named.last_name, named.first_name, named.birth_date, sex)
    pairs = (one.partition("=") for one in test)
    tests = tuple(OrderedTest(code=code, name=said, placer_order=order) for code, _, said in pairs)
    new = Specimen(
        specimen_id, patient, tests, accession=accession, specimen_type=specimen_type, collected_at=datetime.now(UTC)
    )
    with acting(site) as acts:
        taken, problems = acts.register([Ordered(0, new)])
    if problems:
        fail(problems[0].what, problems[0].hint)
    if as_json:
        print_json({"specimen_id": taken[0].specimen_id, "outcome": taken[0].outcome})
    else:
        typer.echo(f"{taken[0].specimen_id}: {taken[0].outcome}")


@specimens_app.command("import")
def specimens_import(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="An order CSV in UTF-8.")],
    site: SiteOption = None,
    as_json: AsJson = False,
) -> None:
    """Register the specimens of an order CSV.

    Bad rows are named with their lines and the rest are taken; then the exit code is 1.
    """
    from .orders import read_csv

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read ({error})", "give a CSV file in UTF-8", code=2)
    with acting(site) as acts:
        new, problems = read_csv(text, acts.verdicts.site.zone)
        taken, refused = acts.register(new)
    problems += refused
    if as_json:
        said = [{"line": one.line, "what": one.what, "hint": one.hint} for one in problems]
        print_json({"taken": [asdict(one) for one in taken], "problems": said})
    else:
        for one in taken:
            typer.echo(f"{one.specimen_id}: {one.outcome}")
        for problem in problems:
            typer.echo(f"{file}:{problem.line}: {problem.what}; {problem.hint}", err=True)
    if problems:
        raise typer.Exit(1)


@specimens_app.command("cancel")
def specimens_cancel(
    specimen_id: Annotated[str, typer.Argument(metavar="ID", help="The text of its label.")], site: SiteOption = None
) -> None:
    """Cancel a specimen: nothing more is matched to it."""
    with acting(site) as acts:
        acts.cancel(specimen_id)
    typer.echo(f"{specimen_id} is cancelled")


@app.command()
def claim(
    specimen_id: Annotated[str | None, typer.Argument(metavar="[SPECIMEN_ID]", help="The label.")] = None,
    instrument: Annotated[str, typer.Option(help="Where it is being run.")] = "",
    station: Annotated[str, typer.Option(help="The station at which this is said.")] = "",
    end: Annotated[bool, typer.Option("--end", help="End what is claimed on the instrument.")] = False,
    site: SiteOption = None,
) -> None:
    """Say: this specimen is run on this instrument now.

    A claim holds for the instrument's claim_minutes; a second one on the same instrument ends the first.
    """
    if not instrument or (specimen_id is None and not end):
        fail("a claim names a specimen and an instrument", "chartbound claim SPECIMEN_ID --instrument NAME", code=2)
    with acting(site) as acts:
        labels = acts.end_claim(instrument) if end else acts.claim(specimen_id or "", instrument, station)
    if not end:
        typer.echo(f"{specimen_id} is being run on {instrument}")
    for label in labels:
        typer.echo(f"the claim of {label} on {instrument} has ended without a further result")


@app.command()
def confirm(result_id: ResultId, site: SiteOption = None) -> None:
    """Say yes to a claimed result: it is this patient's.

    You have seen its value, its time and the patient.
    """
    with acting(site) as acts:
        _done(result_id, acts.confirm(result_id))


@app.command()
def assign(
    result_id: ResultId,
    specimen_id: Annotated[str, typer.Argument(metavar="SPECIMEN_ID", help="The label.")],
    name: Name,
    birth_date: BirthDate,
    site: SiteOption = None,
) -> None:
    """Give one result to a specimen.

    By the label and two identifiers of the patient. What was posted elsewhere is retracted there.
    """
    named = person(name, birth_date)
    with acting(site) as acts:
        _done(result_id, acts.assign(result_id, specimen_id, named))


@app.command()
def release(result_id: ResultId, name: Name, birth_date: BirthDate, site: SiteOption = None) -> None:
    """Let a result go whose doubt a person may waive.

    Those are CLOCK_DOUBTFUL, CONFLICTING_REPEAT, QC_LOCKOUT and IMPLAUSIBLE; every other hold is mended where it arises.
    """
    named = person(name, birth_date)
    with acting(site) as acts:
        _done(result_id, acts.release(result_id, named))


@app.command()
def dismiss(
    result_id: ResultId,
    reason: Annotated[str, typer.Option(help="Why nothing is to be done with it.")],
    site: SiteOption = None,
) -> None:
    """Say that nothing is to be done with a result."""
    with acting(site) as acts:
        _done(result_id, acts.dismiss(result_id, reason))


@app.command()
def undo(result_id: ResultId, site: SiteOption = None) -> None:
    """Take back the last act on a result, until it was sent."""
    with acting(site) as acts:
        what, state = acts.undo(result_id)
    typer.echo(f"result {result_id}: {what} is undone; it is {state} now")


@app.command()
def resend(result_id: ResultId, site: SiteOption = None) -> None:
    """Send once more what the EHR refused.

    The same bytes go under the same control id: mend the cause at the EHR first.
    """
    with acting(site) as acts:
        count = acts.resend(result_id)
    typer.echo(f"result {result_id}: {count} message{'s' * (count != 1)} queued again")


def _done(result_id: int, state: str) -> None:
    typer.echo(f"result {result_id} is {state} now")
