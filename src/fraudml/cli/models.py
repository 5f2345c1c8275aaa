"""``fraudml models``: list, show, promote and roll back registered models; compress is in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import cascade, models_compress, models_gc, output
from fraudml.cli.options import AsJson
from fraudml.cli.origin import operator
from fraudml.models import lifecycle
from fraudml.models.registry import CHAMPION, ModelVersion
from fraudml.settings import settings

if TYPE_CHECKING:
    from fraudml.models.bundle import Manifest
    from fraudml.models.registry import Registry
    from fraudml.models.rollout import Rollout

app = typer.Typer(help="List, show, compress, promote, roll back and clean up models.", no_args_is_help=True)
HASH_SHOWN = 12


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
    if not versions:
        output.remarks.print("No models yet; train some with: fraudml train")
        return
    rows = [
        [
            str(v.version),
            v.family,
            ", ".join(v.aliases),
            v.created_at,
            _figure(v.metrics.get("average_precision"), ".3f"),
            _figure(v.metrics.get("roc_auc"), ".3f"),
            _figure(v.metrics.get("money_saved_per_day"), ",.0f"),
            v.fingerprint[:HASH_SHOWN],
        ]
        for v in versions
    ]
    columns = ["version", "family", "aliases", "created", "avg. precision", "ROC AUC", "saved/day", "features"]
    output.table(columns, rows, title="Registered models")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Version or alias.")] = "champion",
    as_json: AsJson = False,
) -> None:
    """Show where a version comes from, how good it was, its thresholds, and when it was champion and why."""
    import msgspec

    from fraudml.models import bundle

    registry = wiring.registry(settings())
    version = registry.resolve(name)
    manifest = bundle.read_manifest(registry.fetch(version.version))
    history = registry.rollouts()
    if as_json:
        output.result(
            {
                **msgspec.to_builtins(version),
                "training": msgspec.to_builtins(manifest.training),
                "thresholds": msgspec.to_builtins(manifest.thresholds),
                "cascade": manifest.cascade,
                "inputs": [feature.name for feature in manifest.features if feature.input],
                "onnx_sha256": manifest.onnx_sha256,
                "promotions": [
                    {"revision": each.revision, **msgspec.to_builtins(each.change)}
                    for each in promotions(history)
                    if each.champion == version.version
                ],
                "fraudml_version": manifest.fraudml_version,
                "compression": msgspec.to_builtins(manifest.compression),
            }
        )
        return
    facts = _facts(version, manifest)
    output.table(["property", "value"], [[key, value] for key, value in facts.items()], title=f"Version {name}")
    metrics = [[key, _figure(value, ",.5g")] for key, value in version.metrics.items()]
    output.table(["metric of the held-back period", "value"], metrics)
    _show_history(version.version, history)


@app.command("promote")
def promote(
    version: Annotated[int, typer.Argument(help="The version that shall serve.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    as_json: AsJson = False,
) -> None:
    """Make a version the champion."""
    registry = wiring.registry(settings())
    lifecycle.promote(registry, version, reason, operator())
    _changed(registry, as_json)


@app.command("rollback")
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    to: Annotated[int | None, typer.Option(help="Any earlier champion; default: the one before.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion before this one, or an earlier one, champion again."""
    registry = wiring.registry(settings())
    lifecycle.rollback(registry, reason, operator(), to=to)
    _changed(registry, as_json)


app.command("compress")(models_compress.compress)
app.command("gc")(models_gc.collect)


def _changed(registry: Registry, as_json: bool) -> None:
    import msgspec

    champion = registry.resolve(CHAMPION)
    if as_json:
        output.result(msgspec.to_builtins(champion))
        return
    output.remarks.print(
        f"Version {champion.version} ({champion.family}) is the champion; running services serve it in seconds."
    )


def _facts(version: ModelVersion, manifest: Manifest) -> dict[str, str]:
    """Lineage and thresholds in words."""
    training, thresholds = manifest.training, manifest.thresholds
    inputs = [feature.name for feature in manifest.features if feature.input]
    return {
        "version": str(version.version),
        "aliases": ", ".join(version.aliases) or "none",
        "family": version.family,
        "created": version.created_at,
        "trained on": f"{_day(training.since_us)} to {_day(training.until_us)}, {training.rows:,} transactions, "
        f"{training.frauds:,} frauds" + (", refitted on all mature data" if training.refitted else ""),
        "data hash": training.data_hash,
        "code": training.code or "no repository",
        "command": training.command or "unknown",
        "seed": str(training.seed),
        "settings": _pairs(training.parameters),
        **(cascade.facts(manifest.cascade) if manifest.cascade else {}),
        "review from": _threshold(thresholds.review),
        "decline from": _threshold(thresholds.decline),
        "inputs": f"{len(inputs)}: {', '.join(inputs)}",
        "fingerprint": version.fingerprint,
        "ONNX SHA-256": manifest.onnx_sha256,
        "fraudml": manifest.fraudml_version,
    } | _compression(manifest)


def _compression(manifest: Manifest) -> dict[str, str]:
    made = manifest.compression
    if made is None:
        return {}
    return {"compressed from": f"version {made.source}, {made.method}: {_pairs(made.settings)}"}


def promotions(history: list[Rollout]) -> list[Rollout]:
    """The revisions that changed the champion."""
    before = [None, *(entry.champion for entry in history)]
    return [entry for entry, champion in zip(history, before, strict=False) if entry.champion != champion]


def _show_history(version: int, history: list[Rollout]) -> None:
    """When the version became champion and by which version it was followed."""
    changes = promotions(history)
    rows = []
    for i, entry in enumerate(changes):
        if entry.champion == version:
            followed = changes[i + 1] if i + 1 < len(changes) else None
            until = "still" if followed is None else f"{followed.change.at} (then version {followed.champion})"
            rows.append([entry.change.at, until, entry.change.by, entry.change.reason])
    if rows:
        output.table(["champion since", "until", "by", "reason"], rows)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "none"


def _day(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d}"


def _threshold(value: float) -> str:
    return "never" if value > 1 else f"score {value:.4g}"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
