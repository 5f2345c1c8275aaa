"""The ``fraudml`` command: puts the commands together and turns errors into one line and exit code 2."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from fraudml import __version__
from fraudml.errors import FraudmlError

app = typer.Typer(
    name="fraudml",
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


# One module per command, each adding itself to ``app`` through ``add(app)``.
COMMANDS = ("init", "train", "score", "serve", "features", "models", "keys", "simulate", "demo")
for _name in COMMANDS:
    import_module(f"fraudml.cli.{_name}").add(app)


def run() -> None:
    """The entry point: no error of a user ever shows a traceback."""
    try:
        app()
    except FraudmlError as error:
        typer.echo(f"fraudml: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("fraudml: stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)  # the reader of our output went away: what a shell reports for SIGPIPE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"fraudml: {place}{error.strerror or error}", err=True)
        sys.exit(2)
