"""``fraudml rollout status`` and ``report``: what the log says of the experiment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project
from fraudml.errors import NotFoundError
from fraudml.events.units import parse_duration
from fraudml.models import lifecycle
from fraudml.models.rollout import Mode, Rollout

if TYPE_CHECKING:
    from fraudml.monitoring.rollouts.checks import CheckStatus
    from fraudml.monitoring.rollouts.evidence import Currency
    from fraudml.monitoring.rollouts.resampling import Interval
    from fraudml.monitoring.rollouts.results import Comparison
    from fraudml.monitoring.rollouts.shadowed import ShadowComparison
    from fraudml.project import Project

NAMES = {
    "recall_at_same_rate": "recall at the same rate",
    "precision": "precision",
    "fraud_loss": "fraud loss per 1,000",
    "false_decline_cost": "false declines per 1,000",
    "review_cost": "reviews per 1,000",
    "total_cost": "total cost per 1,000",
}
SHARES = ("recall_at_same_rate", "precision")


def status(project_file: ProjectFile = None, as_json: AsJson = False) -> None:
    """Show what serves, and where each guardrail stands (or how the shadow compares)."""
    import msgspec

    from fraudml.monitoring.rollouts.evidence import Evidence, Span
    from fraudml.monitoring.rollouts.shadowed import compare_shadows

    declared, current = read_project(project_file)
    document = lifecycle.current(wiring.registry(current))
    experiment = document.experiment
    checks: dict[int, list[CheckStatus]] = {}
    shadows: list[ShadowComparison] = []
    if experiment is not None:
        log = wiring.decision_log(current, declared.schema)
        try:
            span = Span(experiment)
            if experiment.mode is Mode.shadow:
                shadows = compare_shadows(log.shadow_scores(span.after))
            elif experiment.guardrails is not None:
                evidence = Evidence(span, currency(declared))
                for _ in evidence.advance(log, time.time_ns() // 1_000):
                    pass
                checks = {version: guard.status() for version, guard in evidence.guards.items()}
        finally:
            log.close()
    if as_json:
        told = {"rollout": document, "checks": checks, "shadows": shadows}
        output.result(msgspec.to_builtins(told, str_keys=True))
        return
    _show_document(document)
    for version, statuses in checks.items():
        _show_checks(version, statuses)
    if shadows:
        _show_shadows(shadows)


def report(
    maturity: Annotated[
        str | None,
        typer.Option(help="Age from which a label counts as final; default: the schema's label delay, or 7d."),
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare challengers with the champion on mature labels, in money, with intervals and a conclusion."""
    import msgspec

    from fraudml.monitoring.rollouts import evidence

    declared, current = read_project(project_file)
    span = evidence.last_span(wiring.registry(current).rollouts())
    if span is None or span.experiment.mode is Mode.shadow:
        raise NotFoundError("no challenger has decided on anything yet; start one with: fraudml rollout start")
    label = declared.schema.label
    age_us = parse_duration(maturity or (label.delay if label else "7d"))
    log = wiring.decision_log(current, declared.schema)
    try:
        found = evidence.report(log, span, currency(declared), time.time_ns() // 1_000 - age_us)
    finally:
        log.close()
    if as_json:
        output.result(msgspec.to_builtins(found, str_keys=True))
        return
    for version, comparison in found.items():
        _show_comparison(version, comparison)


def currency(declared: Project) -> Currency:
    """What mistakes cost in a project."""
    from fraudml.monitoring.rollouts.evidence import Currency

    return Currency(declared.costs, declared.schema.amount.decimals if declared.schema.amount else 0)


def _show_document(document: Rollout) -> None:
    change, experiment = document.change, document.experiment
    rows = [["champion", f"version {document.champion}"]]
    if experiment is not None:
        rows.append(["mode", str(experiment.mode)])
        rows += [["challenger", f"version {each.version}, {each.share:.4%}"] for each in experiment.challengers]
        rows.append(["assigned by", experiment.entity or "transaction id"])
    if document.exploration is not None:
        rows.append(["exploration", f"{document.exploration.share:.2%} of would-be declines"])
    rows.append(["last change", f"{change.at}, {change.by}: {change.kind}, {change.reason}"])
    output.table(["rollout", f"revision {document.revision}"], rows)


def _show_checks(version: int, statuses: list[CheckStatus]) -> None:
    rows = [
        [each.name, _number(each.champion), _number(each.challenger), f"{each.limit:g}", str(each.n), _evidence(each)]
        for each in statuses
    ]
    columns = ["guardrail", "champion", "challenger", "limit", "n", "evidence"]
    output.table(columns, rows, title=f"Challenger {version}")


def _evidence(status: CheckStatus) -> str:
    return "BREACHED" if status.breached else f"{status.evidence:.0%}"


def _show_shadows(shadows: list[ShadowComparison]) -> None:
    rows = [
        [
            each.version,
            f"{each.decisions:,}",
            f"{each.failed:,}",
            _number(each.mean_difference),
            _number(each.mean_absolute_difference),
            ", ".join(f"{count:,} x {flip}" for flip, count in each.flips.items()) or "none",
            f"{each.batch_us / 1e3:.2f}",
        ]
        for each in shadows
    ]
    columns = ["version", "scored", "failed", "mean difference", "mean |difference|", "actions", "ms a batch"]
    output.table(columns, rows, title="In the shadow")


def _show_comparison(version: int, comparison: Comparison) -> None:
    arms = [comparison.champion, comparison.challenger]
    rows: list[list[str]] = [
        ["mature decisions", *(f"{arm.decisions:,}" for arm in arms), ""],
        ["known frauds", *(f"{arm.frauds:,}" for arm in arms), ""],
    ]
    for figure in comparison.figures:
        scale = 100 if figure.name in SHARES else 1
        cells = [_interval(each, scale) for each in (figure.champion, figure.challenger, figure.difference)]
        rows.append(
            [NAMES.get(figure.name, figure.name), *cells] if figure.champion else [figure.name, "", "", figure.note]
        )
    output.table(["", "champion", "challenger", "difference (95 %)"], rows, title=f"Challenger {version}")
    output.results.print(comparison.conclusion, markup=False)


def _interval(interval: Interval | None, scale: int) -> str:
    if interval is None:
        return "unknown"
    unit = " %" if scale == 100 else ""
    value, low, high = (scale * each for each in (interval.value, interval.low, interval.high))
    return f"{value:.2f}{unit} ({low:.2f} to {high:.2f})"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
