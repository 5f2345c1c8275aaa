"""The ``fraudml`` command: puts the commands together and turns errors into one line and exit code 2."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from fraudml import __version__
from fraudml.errors import FraudmlError

# One module per command (or group of them), each adding itself to an app through ``add(app)``.
COMMANDS = (
    "init",
    "train",
    "retrain",
    "score",
    "serve",
    "worker",
    "stream",
    "replay",
    "dlq",
    "features",
    "models",
    "rollout",
    "keys",
    "db",
    "migrate",
    "decisions",
    "drift",
    "performance",
    "report",
    "monitor",
    "warehouse",
    "schema",
    "doctor",
    "simulate",
    "demo",
    "bench",
    "profile",
)


class Commands(TyperGroup):
    """Imports a command's module when it is asked for: ``fraudml --version`` need not load NumPy."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        parts = typer.Typer()
        parts.callback()(lambda: None)  # keeps Typer from taking a single command for the whole program
        import_module(f"fraudml.cli.{cmd_name}").add(parts)
        group = typer.main.get_group(parts)
        return group.commands[cmd_name]


app = typer.Typer(
    name="fraudml",
    cls=Commands,
    help="Fraud detection from a CSV to a scoring API: init, train, serve, score.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
) -> None:
    """Fraud detection from a CSV to a scoring API: init, train, serve, score."""
    if version:
        typer.echo(f"fraudml {__version__}")
        raise typer.Exit


def run() -> None:
    """The entry point: no error of a user ever shows a traceback."""
    try:
        app()
    except FraudmlError as error:
        typer.echo(f"fraudml: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"fraudml: {place}{error.strerror or error}", err=True)
        sys.exit(2)
