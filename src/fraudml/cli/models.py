"""``fraudml models``: list, show, promote and roll back registered models."""

from __future__ import annotations

from typing import Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson
from fraudml.models.registry import ModelVersion
from fraudml.settings import settings

app = typer.Typer(help="List, show, promote and roll back models.", no_args_is_help=True)


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="models")


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List all versions, newest first."""
    import msgspec

    versions = wiring.registry(settings()).versions()
    if as_json:
        output.result(msgspec.to_builtins(versions))
        return
    rows = [
        [
            str(v.version),
            v.family,
            ", ".join(v.aliases),
            v.created_at,
            f"{v.metrics.get('average_precision', float('nan')):.3f}",
            f"{v.metrics.get('roc_auc', float('nan')):.3f}",
            f"{v.metrics.get('money_saved_per_day', float('nan')):,.0f}",
            v.fingerprint[:12],
        ]
        for v in versions
    ]
    columns = ["version", "family", "aliases", "created", "avg. precision", "ROC AUC", "saved/day", "features"]
    output.table(columns, rows, title="Registered models" if rows else "No models yet: fraudml train")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Version or alias.")] = "champion",
    as_json: AsJson = False,
) -> None:
    """Show where a version comes from, how good it was and since when it serves."""
    import msgspec

    from fraudml.models import bundle

    registry = wiring.registry(settings())
    version = registry.resolve(name)
    manifest = bundle.read_manifest(registry.fetch(version.version))
    history = [entry for entry in registry.champions() if entry.version == version.version]
    facts = {
        **msgspec.to_builtins(version),
        "training": msgspec.to_builtins(manifest.training),
        "thresholds": msgspec.to_builtins(manifest.thresholds),
        "inputs": [feature.name for feature in manifest.features if feature.input],
        "promotions": msgspec.to_builtins(history),
        "fraudml_version": manifest.fraudml_version,
    }
    if as_json:
        output.result(facts)
        return
    metrics = facts.pop("metrics")
    rows = [[key, _text(value)] for key, value in facts.items()]
    output.table(["property", "value"], rows, title=f"Version {version.version}")
    output.table(["held-back metric", "value"], [[key, f"{value:,.5g}"] for key, value in metrics.items()])


@app.command("promote")
def promote(
    version: Annotated[int, typer.Argument(help="The version that shall serve.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    as_json: AsJson = False,
) -> None:
    """Make a version the champion."""
    _changed(wiring.registry(settings()).promote(version, reason), as_json)


@app.command("rollback")
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    as_json: AsJson = False,
) -> None:
    """Make the champion before this one champion again."""
    _changed(wiring.registry(settings()).rollback(reason), as_json)


def _changed(champion: ModelVersion, as_json: bool) -> None:
    import msgspec

    if as_json:
        output.result(msgspec.to_builtins(champion))
        return
    output.remarks.print(
        f"Version {champion.version} ({champion.family}) is the champion; restart the service to use it."
    )


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return f"{value}"
