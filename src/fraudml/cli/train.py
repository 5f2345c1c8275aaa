"""``fraudml train``: history to registered, compared models and a report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, Query, read_project, rejects_path, source_paths, tell_rejects
from fraudml.models.registry import CHALLENGER, CHAMPION, ModelVersion, Registry

if TYPE_CHECKING:
    from fraudml.events.source import Rejects
    from fraudml.project import Project
    from fraudml.settings import Settings
    from fraudml.training.dataset import Dataset
    from fraudml.training.train import Candidate, Result


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("train")(train)


def train(
    files: Annotated[
        list[str] | None, typer.Argument(help="History: files, or URLs; default: the project's source.")
    ] = None,
    query: Query = None,
    project_file: ProjectFile = None,
    family: Annotated[list[str] | None, typer.Option(help="Train only this family (may be repeated).")] = None,
    tune: Annotated[bool, typer.Option(help="Search for better settings of each family first.")] = False,
    trials: Annotated[int, typer.Option(min=1, help="Trials per family with --tune.")] = 20,
    test_share: Annotated[float, typer.Option(min=0.05, max=0.5, help="Share of the rows held back, by time.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed: same data, same seed, same scores.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train every model family on history, compare them on a held-back period and register them.

    The best one becomes the champion when there is none yet, else the challenger.
    """
    from fraudml.training import families
    from fraudml.training.train import Options

    declared, current = read_project(project_file)
    names = tuple(family or families.family_names())
    for name in names:
        families.get_family(name)
    options = Options(names, seed, wiring.threads(current), tune, trials, test_share)
    with output.steps(quiet=as_json) as steps:
        data, rejects = build_dataset(declared, current, source_paths(files, declared, query), steps)
        result = _fit(data, declared, options, steps)
        registered, report = _register(result, current, steps)
    tell_rejects(rejects)
    _show(result, registered, report, as_json)


def build_dataset(
    declared: Project, current: Settings, paths: list[str], steps: output.Steps
) -> tuple[Dataset, Rejects]:
    """Read, validate and featurise history."""
    from fraudml.training import dataset

    source = wiring.source(current, declared.schema, paths, rejects_path(current, "train"))
    store = wiring.offline_store(current)
    try:
        with steps.step("Read and check transactions") as progress:
            rows = store.put(source.read(progress))
        with steps.step("Compute point-in-time features", total=rows) as progress:
            data = dataset.build(store, declared.feature_set, progress=progress)
    finally:
        store.close()
    return data, source.rejects()


def _stepper(stack: ExitStack, steps: output.Steps) -> Callable[[str], Callable[[int, int], None]]:
    """Steps that last until the next one begins."""

    def begin(name: str) -> Callable[[int, int], None]:
        stack.close()
        return stack.enter_context(steps.step(name, unit="rounds"))

    return begin


def _fit(data: Dataset, declared: Project, options: Any, steps: output.Steps) -> Result:
    from fraudml.training.train import train as train_all

    with ExitStack() as stack:
        return train_all(data, declared.feature_set, declared.costs, options, _stepper(stack, steps))


def _register(result: Result, current: Settings, steps: output.Steps) -> tuple[dict[str, ModelVersion], Path]:
    """Refit, pack and register every candidate, the best one last so that it is the newest version."""
    from fraudml.training import packing, report
    from fraudml.training.train import finish

    with steps.step("Open the registry", unit="registry"):
        registry: Registry = wiring.registry(current)
        first = not registry.champions()
    path = report.write(result, current.home / "reports")
    registered: dict[str, ModelVersion] = {}
    for candidate in reversed(result.candidates):
        with ExitStack() as stack:
            finished = finish(result, candidate, _stepper(stack, steps))
        with (
            tempfile.TemporaryDirectory(dir=current.home) as scratch,
            steps.step(f"Export and register {candidate.family}", unit="bundle"),
        ):
            packing.pack(result, finished, Path(scratch) / "bundle")
            best = candidate is result.candidates[0]
            aliases = (CHALLENGER,) if best and not first else ()
            version = registry.register(Path(scratch) / "bundle", report=path, aliases=aliases)
            if best and first:
                version = registry.promote(version.version, "first model: best average precision on validation")
        registered[candidate.family] = version
    return registered, path


def _show(result: Result, registered: dict[str, ModelVersion], report: Path, as_json: bool) -> None:
    if as_json:
        output.result(
            {
                "candidates": [
                    {
                        "family": c.family,
                        "version": registered[c.family].version,
                        "aliases": registered[c.family].aliases,
                        "metrics": c.test_metrics,
                        "money": c.money,
                        "thresholds": {"review": c.thresholds.review, "decline": c.thresholds.decline},
                        "seconds": c.seconds,
                    }
                    for c in result.candidates
                ],
                "report": str(report),
            }
        )
        return
    test = result.candidates[0].test_metrics
    output.table(
        [
            "model",
            "version",
            "ROC AUC",
            "avg. precision",
            "recall@1% FPR",
            "calibr. error",
            "saved/day (95 %)",
            "fit s",
        ],
        [_row(candidate, registered[candidate.family]) for candidate in result.candidates],
        title=f"Held-back period: {test['rows']:,} transactions, {test['frauds']:,} frauds",
    )
    best = registered[result.candidates[0].family]
    role = CHAMPION if CHAMPION in best.aliases else CHALLENGER
    output.remarks.print(f"Version {best.version} ({best.family}) is the {role}; it was refitted on all mature data.")
    output.remarks.print(f"Report: {report}")
    if role == CHAMPION:
        output.remarks.print("Next: fraudml serve")
    else:
        output.remarks.print(f"Next: fraudml models promote {best.version} --reason '...'   then: fraudml serve")


def _row(candidate: Candidate, version: ModelVersion) -> list[str]:
    found, money = candidate.test_metrics, candidate.money
    return [
        candidate.family,
        str(version.version),
        f"{found['roc_auc']:.3f}",
        f"{found['average_precision']:.3f}",
        f"{found['recall_at_fpr_0.01']:.1%}",
        f"{found['calibration_error']:.4f}",
        f"{money['saved_per_day']:,.0f} ({money['saved_per_day_low']:,.0f} to {money['saved_per_day_high']:,.0f})",
        f"{candidate.seconds:.1f}",
    ]
