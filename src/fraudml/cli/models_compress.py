"""``fraudml models compress``: a smaller version of a registered model, and what that costs in detection."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, Query, read_project, rejects_path, source_paths, tell_rejects
from fraudml.cli.origin import code_revision, command_line
from fraudml.errors import ConfigError

if TYPE_CHECKING:
    from fraudml.models.bundle import Bundle
    from fraudml.models.registry import ModelVersion
    from fraudml.training.compress.bundles import Compressed, Subject
    from fraudml.training.compress.measure import Figures
    from fraudml.training.families.base import Progress

DEFAULT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Method:
    """The options that say how; nothing chosen is what suits the model."""

    tolerance: float | None
    by_history: bool
    weights: Literal["float16", "int8"] | None
    features: int | None

    def check(self) -> Method:
        """Return self, or raise ConfigError for options that exclude each other."""
        if sum(each is not None for each in (self.tolerance, self.weights, self.features)) > 1:
            raise ConfigError("choose one of --tolerance, --weights and --features; a result can be compressed again")
        if self.by_history and (self.weights or self.features):
            raise ConfigError("--by-history goes with --tolerance")
        return self

    def apply(self, subject: Subject, steps: output.Steps, to: Path) -> Compressed:
        """Write the compressed bundle to a directory."""
        from fraudml.training.compress import bundles, prune
        from fraudml.training.compress.weights import Weights

        if self.features is not None:
            with ExitStack() as stack:

                def begin(name: str) -> Progress:
                    stack.close()
                    return stack.enter_context(steps.step(name, unit="rounds"))

                return bundles.with_fewer_features(subject, self.features, begin, to)
        trees = self.tolerance is not None or self.by_history or prune.is_forest(subject.model)
        if self.weights is None and trees:
            tolerance = DEFAULT_TOLERANCE if self.tolerance is None else self.tolerance
            with steps.step("Prune and measure", unit="model"):
                return bundles.pruned(subject, tolerance, to, by_history=self.by_history)
        with steps.step("Store weights and measure", unit="model"):
            return bundles.reweighted(subject, Weights(self.weights or "float16"), to)


def compress(
    name: Annotated[str, typer.Argument(help="Version or alias of the model to make smaller.")],
    files: Annotated[
        list[str] | None, typer.Argument(help="History: files, or URLs; default: the project's source.")
    ] = None,
    query: Query = None,
    project_file: ProjectFile = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Prune trees: no score moves by more than this; for trees 0.01 by default.")
    ] = None,
    by_history: Annotated[
        bool, typer.Option("--by-history", help="Prune by what history shows: smaller, no promise for other inputs.")
    ] = False,
    weights: Annotated[
        Literal["float16", "int8"] | None,
        typer.Option(help="Store weight matrices in fewer bits; for models with such float16 by default."),
    ] = None,
    features: Annotated[
        int | None, typer.Option(min=1, help="Train again with only so many of the most important inputs.")
    ] = None,
    test_share: Annotated[float, typer.Option(min=0.05, max=0.5, help="Share of the rows held back, by time.")] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Make a smaller version of a model, compare size, latency and detection on history, and register it.

    The new version gets no alias: promote it if the comparison convinces you.
    """
    from fraudml.training import dataset
    from fraudml.training.compress.bundles import Subject
    from fraudml.training.train import Options, Origin

    method = Method(tolerance, by_history, weights, features).check()
    declared, current = read_project(project_file)
    bundle = wiring.champion(current, declared.feature_set, name)
    manifest = bundle.manifest
    source = wiring.source(
        current, declared.schema, source_paths(files, declared, query), rejects_path(current, "compress")
    )
    origin = Origin(code_revision((project_file or current.project).absolute().parent), command_line())
    options = Options(
        (manifest.family,), manifest.training.seed, wiring.threads(current), test_share=test_share, origin=origin
    )
    store = wiring.offline_store(current)
    try:
        with output.steps(quiet=as_json) as steps, tempfile.TemporaryDirectory(dir=current.home) as scratch:
            with steps.step("Read and check transactions") as progress:
                rows = store.put(source.read(progress))
            with steps.step("Compute point-in-time features", total=rows) as progress:
                data = dataset.build(store, bundle.feature_set, progress=progress)
            subject = Subject(bundle, data, declared.costs, options)
            made = method.apply(subject, steps, Path(scratch) / "bundle")
            with steps.step("Register", unit="bundle"):
                version = wiring.registry(current).register(Path(scratch) / "bundle")
    finally:
        store.close()
    tell_rejects(source.rejects())
    _show(bundle, version, made, as_json)


def _show(source: Bundle, version: ModelVersion, made: Compressed, as_json: bool) -> None:
    import msgspec

    if as_json:
        output.result(
            {
                "source": int(source.version),
                "version": version.version,
                "compression": msgspec.to_builtins(made.manifest.compression),
                "before": asdict(made.before),
                "after": asdict(made.after),
                "unseen": made.unseen,
                "largest_move": made.largest_move,
                "thresholds": msgspec.to_builtins(made.manifest.thresholds),
            }
        )
        return
    measured = made.after.metrics
    before, after = _figures(made.before), _figures(made.after)
    output.table(
        ["", f"version {source.version}", f"version {version.version}", "change"],
        [
            [key, form.format(before[key]), form.format(after[key]), _change(form, before[key], after[key])]
            for key, form in _FORMS.items()
        ],
        title=f"Measured on {measured['rows']:,} held-back transactions, {measured['frauds']:,} frauds",
    )
    for remark in _remarks(source, made):
        output.remarks.print(remark)
    output.remarks.print(f"Next: fraudml models promote {version.version} --reason '...'")


RANKING = "{:.4f}"
_FORMS = {
    "model.onnx, bytes": "{:,}",
    "us per row, 1 at a time": "{:.1f}",
    "us per row, 256 at a time": "{:.2f}",
    "ROC AUC": RANKING,
    "average precision": RANKING,
    **{f"recall at {rate} FPR": "{:.1%}" for rate in ("0.1 %", "0.5 %", "1 %", "5 %")},
    "saved per day": "{:,.0f}",
    "frauds stopped": "{:.1%}",
}


def _figures(found: Figures) -> dict[str, float]:
    """The lines of the table, in the order of their forms."""
    metrics, money = found.metrics, found.money
    recalls = [metrics[f"recall_at_fpr_{rate}"] for rate in (0.001, 0.005, 0.01, 0.05)]
    ranking = metrics["roc_auc"], metrics["average_precision"], *recalls
    values = (
        found.size_bytes,
        *found.us_per_row.values(),
        *ranking,
        money["saved_per_day"],
        money["frauds_stopped_share"],
    )
    return dict(zip(_FORMS, values, strict=True))


def _change(form: str, before: float, after: float) -> str:
    """A share changes by points, a figure without a unit by a difference, anything else in per cent."""
    if form.endswith("%}"):
        return f"{100 * (after - before):+.1f} points"
    if form == RANKING:
        return f"{after - before:+.4f}"
    return f"{after / before - 1:+.1%}" if before else ""


def _remarks(source: Bundle, made: Compressed) -> list[str]:
    """What the table does not say."""
    remarks = []
    if made.largest_move is not None:
        remarks.append(f"The largest change of a score in the whole held-back period is {made.largest_move:.2g}.")
    lineage = made.manifest.compression
    if lineage is not None and "bound" in lineage.settings:
        remarks.append(f"No input can change a score by more than {lineage.settings['bound']:.2g}.")
    if not made.unseen:
        remarks.append(
            f"Version {source.version} was trained on these transactions: only the change counts. "
            "The new version keeps the figures registered with the old one. A later history would tell more."
        )
    elif made.largest_move is None:
        remarks.append(
            "Both columns are models trained without the held-back period; the new version was then refitted."
        )
    if made.largest_move is not None and made.manifest.thresholds != source.manifest.thresholds:
        remarks.append("Thresholds were moved so that as many transactions as before are reviewed and declined.")
    return remarks
