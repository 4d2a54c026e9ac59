"""The `chartbound` command: the agent's commands and the simulators' under one name."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from .agent.cli import app
    from .simulators import bench, cli

    app.add_typer(cli.app, name="simulate", help="A simulated instrument, EHR or order feed, to try things on.")
    app.command()(bench.demo)
    app()


if __name__ == "__main__":
    main()
