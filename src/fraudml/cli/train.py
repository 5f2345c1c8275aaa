"""``fraudml train``: history to registered, compared models and a report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, Query, read_project, rejects_path, source_paths, tell_rejects
from fraudml.errors import ConfigError
from fraudml.models.registry import CHALLENGER, CHAMPION, ModelVersion, Registry

if TYPE_CHECKING:
    from fraudml.features.stores import OfflineStore
    from fraudml.project import Project
    from fraudml.settings import Settings
    from fraudml.training.spark import TrainsThere
    from fraudml.training.train import Candidate, Options, Result


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("train")(train)


def train(
    files: Annotated[
        list[str] | None, typer.Argument(help="History: files, or URLs; default: the project's source.")
    ] = None,
    query: Query = None,
    project_file: ProjectFile = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Train this family (may be repeated); default: the three quick ones.")
    ] = None,
    tune: Annotated[bool, typer.Option(help="Search for better settings of each family first.")] = False,
    trials: Annotated[int, typer.Option(min=1, help="Trials per family with --tune.")] = 20,
    test_share: Annotated[float, typer.Option(min=0.05, max=0.5, help="Share of the rows held back, by time.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed: same data, same seed, same scores.")] = 0,
    engine: Annotated[
        Literal["auto", "local", "spark"],
        typer.Option(help="Where to train; auto: on Spark if it is the offline store and only xgboost is trained."),
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Train model families on history, compare them on a held-back period and register them.

    The best one becomes the champion when there is none yet, else the challenger.
    """
    from fraudml.training import families
    from fraudml.training.train import Options

    declared, current = read_project(project_file)
    names = tuple(family or families.DEFAULT_NAMES)
    for name in names:
        families.get_family(name)
    options = Options(names, seed, wiring.threads(current), tune, trials, test_share)
    paths = source_paths(files, declared, query)
    source = wiring.source(current, declared.schema, paths, rejects_path(current, "train"))
    store = wiring.offline_store(current)
    try:
        cluster = _cluster(engine, store, options)
        with output.steps(quiet=as_json) as steps:
            with steps.step("Read and check transactions") as progress:
                rows = store.put(source.read(progress))
            if cluster is not None:
                result = _fit_there(cluster, declared, options, steps, rows)
            else:
                result = _fit_here(store, declared, options, steps, rows)
            registered, report = _register(result, current, steps)
    finally:
        store.close()
    tell_rejects(source.rejects())
    _show(result, registered, report, as_json)


def _cluster(engine: str, store: OfflineStore, options: Options) -> TrainsThere | None:
    """The offline store, if it is to train; raises ConfigError when it is told to and cannot."""
    if engine == "local":
        return None
    from fraudml.training.spark import TrainsThere

    if isinstance(store, TrainsThere) and tuple(options.families) == ("xgboost",) and not options.tune:
        return store
    if engine == "spark":
        raise ConfigError(
            "--engine spark needs FRAUDML_OFFLINE_URL to name a Spark, --family xgboost alone, and no --tune"
        )
    return None


def _fit_there(cluster: TrainsThere, declared: Project, options: Options, steps: output.Steps, rows: int) -> Result:
    """On the store's cluster, where the inputs stay."""
    from fraudml.training import spark

    with steps.step("Compute point-in-time features", total=rows):
        vectors = cluster.vectors(declared.feature_set)
    with ExitStack() as stack:
        return spark.train(vectors, declared.feature_set, declared.costs, options, _stepper(stack, steps))


def _fit_here(store: OfflineStore, declared: Project, options: Options, steps: output.Steps, rows: int) -> Result:
    """In this process, which holds the inputs of all rows."""
    from fraudml.training import dataset
    from fraudml.training import train as training

    with steps.step("Compute point-in-time features", total=rows) as progress:
        data = dataset.build(store, declared.feature_set, progress=progress)
    store.close()  # its memory is training's now
    with ExitStack() as stack:
        return training.train(data, declared.feature_set, declared.costs, options, _stepper(stack, steps))


def _stepper(stack: ExitStack, steps: output.Steps) -> Callable[[str], Callable[[int, int], None]]:
    """Steps that last until the next one begins."""

    def begin(name: str) -> Callable[[int, int], None]:
        stack.close()
        return stack.enter_context(steps.step(name, unit="rounds"))

    return begin


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
