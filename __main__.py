"""The `chartbound` command: the agent's commands and the simulators' under one name."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


@cache
def command_line() -> typer.Typer:
    """Every command there is."""
    from .agent.cli import app
    from .simulators import bench, cli

    app.add_typer(cli.app, name="simulate", help="A simulated instrument, EHR or order feed, to try things on.")
    app.command()(bench.demo)
    return app


def main() -> None:
    """Run the command line."""
    from .agent import logs

    logs.configure(logging.WARNING)  # on standard error, because standard output is the command's own
    command_line()()


if __name__ == "__main__":
    main()
