"""`chartbound simulate …`: instruments, orders and an EHR, well-behaved or not on request. One thin function a command."""

from __future__ import annotations

import dataclasses
import random
from datetime import datetime
from typing import Annotated, Any

import typer

from ..drivers.report import SampleKind
from . import ehr, orders, peer
from .faults import Fault

app = typer.Typer(help="Simulated instruments, order feed and EHR.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Simulated instruments, order feed and EHR."""


app.command("ehr")(ehr.command)
app.command("orders")(orders.command)


@app.command()
def instrument(
    driver: Annotated[str, typer.Argument(help="The driver whose instrument is simulated.")],
    port: Annotated[str, typer.Option(help="pty | listen://HOST:PORT | socket://HOST:PORT | a serial port")],
    count: Annotated[int, typer.Option(min=0, help="How many tests it reports.")] = 1,
    first: Annotated[int, typer.Option(min=1, help="The instrument's running number of the first test.")] = 1,
    every: Annotated[float, typer.Option(min=0.0, help="Seconds from one test to the next; 0: all stand ready.")] = 0.0,
    fault: Annotated[Fault | None, typer.Option(help="What goes wrong on the wire.")] = None,
    times: Annotated[int, typer.Option(min=1, help="How often it goes wrong.")] = 1,
    specimen_id: Annotated[str, typer.Option(help="The label read or typed at the instrument.")] = "",
    patient_id: Annotated[str, typer.Option(help="The patient's number typed at the instrument.")] = "",
    name: Annotated[str, typer.Option(help="LAST,FIRST, for instruments that carry a name.")] = "",
    birth_date: Annotated[str, typer.Option(help="YYYY-MM-DD, likewise.")] = "",
    value: Annotated[list[str] | None, typer.Option(help="CODE=VALUE, in the instrument's own words; may be repeated.")] = None,
    control: Annotated[bool, typer.Option("--control", help="The tests are controls.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tests and faults.")] = 0,
    keep: Annotated[bool, typer.Option("--keep/--once", help="Stay on the wire when all is said, as a docked meter.")] = False,
) -> None:
    """A simulated instrument: the peer of this driver.

    With --port pty it makes a pseudo-terminal and prints its name, to put into the site file.
    """
    from .instrument import run

    try:
        simulator = peer.find(driver)
    except LookupError as missing:
        raise typer.BadParameter(str(missing), param_hint="DRIVER") from None
    stated: dict[str, Any] = {"specimen_id": specimen_id, "patient_id": patient_id, "birth_date": birth_date}
    stated["last_name"], _, stated["first_name"] = name.partition(",")
    changes = {key: text.strip() for key, text in stated.items() if text}
    if control:
        changes.setdefault("specimen_id", "")  # a control carries no patient's label; the instrument names it in its own way
    now = datetime.now().replace(microsecond=0)  # noqa: DTZ005 - an instrument's clock knows no zone
    tests = [
        dataclasses.replace(
            test,
            values={**test.values, **dict(_pair(text) for text in value or ())},
            kind=SampleKind.CONTROL if control else test.kind,
            sequence=first + number,
            **changes,
        )
        for number, test in enumerate(simulator.samples(count, now, random.Random(seed)))  # noqa: S311 - repeatable on purpose
    ]
    try:
        done = run(
            simulator, port, tests, clock=now, fault=fault, times=times, seed=seed, every=every, keep=keep, opened=_opened
        )
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--port") from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    raise typer.Exit(0 if done else 1)


def _pair(text: str) -> tuple[str, str]:
    code, found, value = text.partition("=")
    if not found or not code:
        raise typer.BadParameter("CODE=VALUE is wanted", param_hint="--value")
    return code, value


def _opened(name: str) -> None:
    typer.echo(name)


if __name__ == "__main__":
    app()
