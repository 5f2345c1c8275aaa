"""``fraudml init``: look at a file or a table and write the project file that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, Query, with_query
from fraudml.errors import ConfigError
from fraudml.events import address
from fraudml.events.units import parse_duration
from fraudml.settings import Settings, settings

if TYPE_CHECKING:
    from fraudml.events.profile import TableProfile
    from fraudml.inference.guess import Guess


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("init")(init)


def init(
    files: Annotated[
        list[str], typer.Argument(help="CSV, CSV.gz or Parquet; a glob in quotes; several of one kind; or URLs.")
    ],
    query: Query = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; replace an old project file.")] = False,
    out: Annotated[Path | None, typer.Option("--output", "-o", help="Default: fraudml.yaml.")] = None,
    label_delay: Annotated[
        str | None, typer.Option(help="How long after the event labels are known, such as 7d, if no column says.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at transactions and write a commented fraudml.yaml: schema, costs, features.

    Says what each column was taken for, and why. Nothing but the project file is written.
    """
    current = settings()
    files = with_query(files, query)
    target = out or current.project
    if target.exists() and not yes and not as_json:
        typer.confirm(f"{target} exists; replace it?", abort=True, err=True)
    elif target.exists() and not yes:
        raise ConfigError(f"{target} exists; add --yes to replace it")
    with output.steps(quiet=as_json) as steps, steps.step("Look at the columns", unit="files"):
        profile, guess = _look(files, current)
    guess = _with_password_note(_with_delay(guess, label_delay), files, target)
    features, text = _project_text(guess, profile)
    target.write_text(text, encoding="utf-8")
    if as_json:
        output.result(
            {
                "project": str(target),
                "rows": profile.rows,
                "reasons": guess.reasons,
                "warnings": guess.warnings,
                "entities": guess.schema.entities,
                "features": features,
            }
        )
        return
    output.table(["column", "taken for"], [[column, why] for column, why in guess.reasons.items()])
    for warning in guess.warnings:
        output.remarks.print(f"Note: {warning}", style="yellow", markup=False)
    looked = f" (a sample of {profile.sampled:,} was looked at)" if profile.sampled < profile.rows else ""
    output.remarks.print(
        f"{profile.rows:,} rows{looked}; {len(features)} features; wrote {target} (correct it where it is wrong)",
    )
    output.remarks.print("Next: fraudml train" if guess.schema.label else "Next: name the label column in the file")


def _look(files: list[str], current: Settings) -> tuple[TableProfile, Guess]:
    from fraudml.inference.guess import guess as guess_schema

    paths = files[0] if len(files) == 1 else files
    profile = wiring.profile(current, paths)
    guess = guess_schema(profile)
    if guess.schema.label is not None:
        columns = [guess.schema.attribute_column(name) for name in guess.schema.attributes]
        guess = guess.without_leaks(wiring.label_purity(current, paths, guess.schema.label, columns))
    return profile, guess


def _with_password_note(guess: Guess, files: list[str], target: Path) -> Guess:
    """A password stays out of the project file, which people share; the user is told what to do."""
    if not any(address.is_url(file) and address.parse(file).has_secret for file in files):
        return guess
    note = (
        f"the password is not written to {target}: set FRAUDML_SOURCE_PASSWORD, or what the driver reads, "
        "such as PGPASSWORD or ~/.pgpass"
    )
    return msgspec.structs.replace(guess, warnings=(*guess.warnings, note))


def _with_delay(guess: Guess, delay: str | None) -> Guess:
    if delay is None:
        return guess
    parse_duration(delay)
    if guess.schema.label is None:
        raise ConfigError("--label-delay is given but no column looks like a label")
    label = msgspec.structs.replace(guess.schema.label, delay=delay)
    reasons = {**guess.reasons, "label.delay": "as given with --label-delay"}
    schema = msgspec.structs.replace(guess.schema, label=label)
    return msgspec.structs.replace(guess, schema=schema, reasons=reasons)


def _project_text(guess: Guess, profile: TableProfile) -> tuple[list[str], str]:
    """The names of the features, and the project file's text; it is read back before anything is written."""
    from fraudml import project
    from fraudml.decisions.costs import Costs
    from fraudml.inference.features import default_features
    from fraudml.inference.text import write_yaml

    features = default_features(guess.schema, profile)
    text = write_yaml(guess, features, profile, Costs().as_yaml())
    project.parse(text)
    return [feature.name for feature in features], text
