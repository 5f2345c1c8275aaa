"""One run of ``fraudml retrain``: gather, train, compare with the champion, and put a better model on trial."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fraudml import wiring
from fraudml.cli import output, rollout
from fraudml.cli.options import read_project, rejects_path, tell_rejects
from fraudml.cli.origin import code_revision, command_line, operator
from fraudml.cli.train import register, stepper
from fraudml.errors import ConfigError
from fraudml.events.units import format_duration, parse_duration
from fraudml.models import lifecycle
from fraudml.models.registry import CHALLENGER, Registry
from fraudml.models.rollout import Mode, Plan
from fraudml.monitoring.drift.scores import Drift, score_drift
from fraudml.training import challenge, dataset, families, report, split, train, truth
from fraudml.training.challenge import FEWEST_DEFRAUDED, Comparison
from fraudml.training.train import LocalResult, Options, Origin

if TYPE_CHECKING:
    from fraudml.decisions.log import DecisionLog
    from fraudml.models.bundle import Bundle
    from fraudml.project import Project
    from fraudml.settings import Settings

COMMAND = "retrain"
MATURITY = "30d"  # by default: sooner, many a fraud is not reported yet, and would be learnt as genuine


class Then(StrEnum):
    """What to do with a model that is better."""

    canary = "canary"
    register = "register"
    promote = "promote"


class Wish(NamedTuple):
    """What is asked of a run; see the command's options."""

    history: list[str] | None
    maturity: str | None
    reported_only: bool
    families: list[str] | None
    test_share: float
    margin: float
    share: float
    then: Then
    if_drift: float | None
    drift_window_us: int
    seed: int
    project_file: Path | None
    quiet: bool


class Decision(StrEnum):
    """How a run ended."""

    no_drift = "no_drift"  # nothing was trained: not asked for without drift
    too_soon = "too_soon"  # nothing was trained: too little has matured since the champion was trained
    not_better = "not_better"  # nothing was registered
    registered = "registered"
    canary = "canary"
    promoted = "promoted"


class Fitted(msgspec.Struct, frozen=True):
    """The challenger that was measured, before its refit; times are microseconds UTC."""

    family: str
    since_us: int
    until_us: int
    rows: int
    frauds: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found and did. ``version``: what was registered; ``labels``: see ``training.truth.Truth.counts``."""

    decision: Decision
    reason: str
    champion: int
    champion_trained_until_us: int
    maturity: str
    margin: float
    version: int | None = None
    labels: dict[str, int] = {}
    drift: Drift | None = None
    fitted: Fitted | None = None
    comparison: Comparison | None = None
    report: str | None = None


class Run(NamedTuple):
    """What the steps of a run have in common."""

    wish: Wish
    declared: Project
    current: Settings
    steps: output.Steps
    registry: Registry
    champion: Bundle

    def ended(self, decision: Decision, reason: str, **found: Any) -> Outcome:
        """The outcome, for a person to read and a machine to act on."""
        return Outcome(
            decision=decision,
            reason=reason,
            champion=int(self.champion.version),
            champion_trained_until_us=self.champion.manifest.training.until_us,
            maturity=self.maturity,
            margin=self.wish.margin,
            **found,
        )

    @property
    def maturity(self) -> str:
        """The age from which labels count as final."""
        label = self.declared.schema.label
        longest = max(parse_duration(MATURITY), label.delay_us if label else 0)
        return self.wish.maturity or format_duration(longest)


class Data(NamedTuple):
    """The training set, its labels as they are known by now, and what the champion says of the rows after its
    training."""

    rows: dataset.Dataset
    truth: truth.Truth
    champion: challenge.Scores


def run(wish: Wish) -> Outcome:
    """Nothing is changed unless a better model was found."""
    declared, current = read_project(wish.project_file)
    with (
        wiring.only_one(current, COMMAND),
        closing(wiring.decision_log(current, declared.schema)) as log,
        output.steps(quiet=wish.quiet) as steps,
    ):
        with steps.step("Load the champion", unit="bundle"):
            registry, champion = wiring.registry(current), wiring.champion(current, declared.feature_set)
        this = Run(wish, declared, current, steps, registry, champion)
        if wish.if_drift is None:
            return _challenge(this, _gather(this, log))
        with steps.step("Compare the champion's scores with its first ones", unit="look"):
            drift = score_drift(log, registry.rollouts(), int(champion.version), wish.drift_window_us)
        if drift.psi is None or drift.psi <= wish.if_drift:
            return this.ended(Decision.no_drift, drift.words, drift=drift)
        return msgspec.structs.replace(_challenge(this, _gather(this, log)), drift=drift)


def _gather(this: Run, log: DecisionLog) -> Data:
    wish, declared, current = this.wish, this.declared, this.current
    labels = truth.Truth(time.time_ns() // 1_000, parse_duration(this.maturity), reported_only=wish.reported_only)
    past = wiring.history(current, declared, wish.history, rejects_path(current, COMMAND))
    store = wiring.offline_store(current)
    try:
        with this.steps.step("Read history and the decision log") as progress:
            count = truth.gather(log, store, declared.schema, past.read(), labels, progress)
        with this.steps.step("Compute point-in-time features", total=count) as progress:
            rows = dataset.build(store, declared.feature_set, progress=progress, labelled=labels)
        with this.steps.step("Score with the champion"):
            scores = challenge.champion_scores(this.champion, rows, declared.feature_set, store)
    finally:
        store.close()
    tell_rejects(past.rejects())
    return Data(rows, labels, scores)


def _challenge(this: Run, data: Data) -> Outcome:
    until_us = this.champion.manifest.training.until_us
    split.require_frauds(data.rows.frauds, len(data.rows))
    share = challenge.share_to_hold_back(data.rows, until_us, this.wish.test_share)
    testing = challenge.held_back(data.rows, share)
    entities, labels = challenge.defrauded(testing), dict(data.truth.counts)
    if entities < FEWEST_DEFRAUDED:
        reason = (
            f"the champion was trained on transactions until {_day(until_us)}; of those since, the newer ones with a "
            f"final label ({len(testing):,}) have frauds of {entities} entities, and {FEWEST_DEFRAUDED} are needed to "
            "compare it with another model"
        )
        return this.ended(Decision.too_soon, reason, labels=labels)
    result = _train(this, data.rows, share)
    best, rows = result.candidates[0], result.testing
    comparison = challenge.compare(
        rows,
        (data.champion[result.parts.test], best.scores),
        (this.champion.manifest.thresholds, best.thresholds),
        result.costs,
        this.declared.schema.amount.decimals if this.declared.schema.amount else 0,
        unknown_declines=sum(moment >= result.parts.test_start_us for moment in data.truth.unknown_declines_us),
        seed=this.wish.seed,
    )
    fitted = result.overview.train
    outcome = this.ended(
        Decision.not_better,
        comparison.words(this.wish.margin),
        labels=labels,
        fitted=Fitted(best.family, fitted.since_us, fitted.until_us + 1, fitted.rows, fitted.frauds),
        comparison=comparison,
    )
    return _use(this, result, outcome) if comparison.better(this.wish.margin) else outcome


def _train(this: Run, rows: dataset.Dataset, share: float) -> LocalResult:
    wish, current, record = this.wish, this.current, this.champion.manifest
    names, params = tuple(wish.families or ()), {}
    if not names:
        if record.family not in families.family_names():
            raise ConfigError(f"the champion's family {record.family!r} cannot be trained here; name one with --family")
        names, params = (record.family,), {record.family: record.training.parameters}
    project_file = wish.project_file or current.project
    options = Options(
        names,
        wish.seed,
        wiring.threads(current),
        test_share=share,
        params=params,
        origin=Origin(code_revision(project_file.absolute().parent), command_line()),
    )
    with ExitStack() as stack:
        return train.train(rows, this.declared.feature_set, this.declared.costs, options, stepper(stack, this.steps))


def _use(this: Run, result: LocalResult, outcome: Outcome) -> Outcome:
    """Register the better model and do with it what was asked for, unless something else is going on."""
    registry, best = this.registry, result.candidates[0]
    page = report.write(result, this.current.home / "reports")
    aliases = () if _in_the_way(this) else (CHALLENGER,)
    made = register(result, best, registry, this.current, this.steps, report=page, aliases=aliases)
    version = made.version.version
    outcome = msgspec.structs.replace(outcome, version=version, report=str(page), decision=Decision.registered)
    if this.wish.then is Then.register:
        return outcome
    if hindrance := _in_the_way(this):  # once more: the refit took its time
        return msgspec.structs.replace(outcome, reason=f"{outcome.reason}; only registered: {hindrance}")
    rollout.try_out(this.current, this.declared, [version])
    if this.wish.then is Then.promote:
        lifecycle.promote(registry, version, f"retrain: {outcome.reason}", operator())
        return msgspec.structs.replace(outcome, decision=Decision.promoted)
    plan = Plan(Mode.canary, {version: this.wish.share}, rollout.chosen_entity(None, this.declared))
    lifecycle.start(registry, plan, f"retrain: {outcome.reason}", operator())
    return msgspec.structs.replace(outcome, decision=Decision.canary)


def _in_the_way(this: Run) -> str:
    """Why what serves is not to be changed; empty when it may be."""
    document = lifecycle.current(this.registry)
    if document.experiment is not None:
        return "a rollout is under way, which was not touched"
    if document.champion != int(this.champion.version):
        return f"version {document.champion} has become the champion meanwhile, and was not compared"
    return ""


def _day(moment_us: int) -> str:
    return datetime.fromtimestamp(moment_us / 1e6, UTC).date().isoformat()
