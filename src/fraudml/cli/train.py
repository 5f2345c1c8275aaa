"""``fraudml train``: history to registered, compared models and a report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from fraudml import wiring
from fraudml.cli import cascade, output
from fraudml.cli.options import AsJson, ProjectFile, Query, read_project, rejects_path, source_paths, tell_rejects
from fraudml.cli.origin import code_revision, command_line
from fraudml.errors import ConfigError
from fraudml.models.registry import CHALLENGER, CHAMPION, ModelVersion, Registry

if TYPE_CHECKING:
    from fraudml.features.stores import OfflineStore
    from fraudml.models.bundle import Manifest
    from fraudml.models.cascade import Cascade
    from fraudml.project import Project
    from fraudml.settings import Settings
    from fraudml.training.spark import TrainsThere
    from fraudml.training.train import Candidate, Options, Result


class Registered(NamedTuple):
    """A candidate's version and what its bundle says."""

    version: ModelVersion
    manifest: Manifest


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
    fast: cascade.Fast = None,
    accurate: cascade.Accurate = None,
    recall_loss: cascade.RecallLoss = None,
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
    from fraudml.training.train import Options, Origin

    declared, current = read_project(project_file)
    names = tuple(family or families.DEFAULT_NAMES)
    for name in names:
        families.get_family(name)
    params = cascade.params(names, fast, accurate, recall_loss, tune=tune)
    origin = Origin(code_revision((project_file or current.project).absolute().parent), command_line())
    options = Options(names, seed, wiring.threads(current), tune, trials, test_share, params, origin)
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
            registered, report = _register_all(result, current, steps)
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
        return spark.train(vectors, declared.feature_set, declared.costs, options, stepper(stack, steps))


def _fit_here(store: OfflineStore, declared: Project, options: Options, steps: output.Steps, rows: int) -> Result:
    """In this process, which holds the inputs of all rows."""
    from fraudml.training import dataset
    from fraudml.training import train as training

    with steps.step("Compute point-in-time features", total=rows) as progress:
        data = dataset.build(store, declared.feature_set, progress=progress)
    store.close()  # its memory is training's now
    with ExitStack() as stack:
        return training.train(data, declared.feature_set, declared.costs, options, stepper(stack, steps))


def stepper(stack: ExitStack, steps: output.Steps) -> Callable[[str], Callable[[int, int], None]]:
    """Steps that last until the next one begins."""

    def begin(name: str) -> Callable[[int, int], None]:
        stack.close()
        return stack.enter_context(steps.step(name, unit="rounds"))

    return begin


def _register_all(result: Result, current: Settings, steps: output.Steps) -> tuple[dict[str, Registered], Path]:
    """Register every candidate, the best one last so that it is the newest version."""
    from fraudml.models import lifecycle
    from fraudml.training import report

    with steps.step("Open the registry", unit="registry"):
        registry: Registry = wiring.registry(current)
        first = not registry.rollouts()
    path = report.write(result, current.home / "reports")
    registered: dict[str, Registered] = {}
    for candidate in reversed(result.candidates):
        best = candidate is result.candidates[0]
        aliases = (CHALLENGER,) if best and not first else ()
        made = register(result, candidate, registry, current, steps, report=path, aliases=aliases)
        if best and first:
            lifecycle.promote(registry, made.version.version, "first model: best average precision on validation")
            made = Registered(registry.resolve(CHAMPION), made.manifest)
        registered[candidate.family] = made
    return registered, path


def register(
    result: Result,
    candidate: Candidate,
    registry: Registry,
    current: Settings,
    steps: output.Steps,
    *,
    report: Path,
    aliases: tuple[str, ...],
) -> Registered:
    """Refit, pack and register one candidate."""
    from fraudml.training import packing
    from fraudml.training.train import finish

    with ExitStack() as stack:
        finished = finish(result, candidate, stepper(stack, steps))
    with (
        tempfile.TemporaryDirectory(dir=current.home) as scratch,
        steps.step(f"Export and register {candidate.family}", unit="bundle"),
    ):
        manifest = packing.pack(result, finished, Path(scratch) / "bundle")
        return Registered(registry.register(Path(scratch) / "bundle", report=report, aliases=aliases), manifest)


def _show(result: Result, registered: dict[str, Registered], report: Path, as_json: bool) -> None:
    if as_json:
        output.result(
            {
                "candidates": [
                    {
                        "family": c.family,
                        "version": registered[c.family].version.version,
                        "aliases": registered[c.family].version.aliases,
                        "metrics": c.test_metrics,
                        "money": c.money,
                        "thresholds": {"review": c.thresholds.review, "decline": c.thresholds.decline},
                        "seconds": c.seconds,
                        "cascade": registered[c.family].manifest.cascade,
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
        [_row(candidate, registered[candidate.family].version) for candidate in result.candidates],
        title=f"Held-back period: {test['rows']:,} transactions, {test['frauds']:,} frauds",
    )
    for each in registered.values():
        if each.manifest.cascade is not None:
            _show_cascade(each.manifest.cascade)
    best = registered[result.candidates[0].family].version
    role = CHAMPION if CHAMPION in best.aliases else CHALLENGER
    output.remarks.print(f"Version {best.version} ({best.family}) is the {role}; it was refitted on all mature data.")
    output.remarks.print(f"Report: {report}")
    if role == CHAMPION:
        output.remarks.print("Next: fraudml serve")
    else:
        output.remarks.print(f"Next: fraudml models promote {best.version} --reason '...'   then: fraudml serve")


def _show_cascade(found: Cascade) -> None:
    output.table(["cascade", "value"], [[name, value] for name, value in cascade.facts(found).items()])
    if found.fast_share_valid == 0:
        output.remarks.print(
            f"The validation period has too few frauds to show that no more than {found.recall_loss:.2%} of the recall "
            "would be lost, so the accurate model answers everything: use a longer history, or allow more with "
            "--recall-loss"
        )


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
