"""From a data set to candidates: fit, calibrate, choose thresholds, measure on the held-back period.

Each family is fitted on ``train``, stopped early, calibrated and given thresholds on ``valid``, and measured
once on ``test``. The family with the best average precision on ``valid`` is the best candidate: the test period
chooses nothing. :func:`finish` then refits the same settings on all rows whose label is known by now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.features.spec import FeatureSet
from fraudml.models.bundle import Thresholds
from fraudml.training import evaluate, families, money, split, stages, tune
from fraudml.training.calibrate import Calibrator
from fraudml.training.dataset import Dataset
from fraudml.training.families.base import FittedModel, Margins, Progress
from fraudml.training.families.cascade import FittedCascade
from fraudml.training.overview import Overview, Period, TrainedOn

# Called with the name of a long step; gives the callback that the step reports (done, total) to.
StepReport = Callable[[str], Callable[[int, int], None]]


@dataclass(frozen=True)
class Origin:
    """Where a training run comes from: the ``code`` revision of the project's repository and the ``command``."""

    code: str = ""
    command: str = ""


@dataclass(frozen=True)
class Options:
    """How to train. ``trials`` of a search per family with ``tune``; ``params``: by family, what differs from its
    defaults."""

    families: Sequence[str] = families.DEFAULT_NAMES
    seed: int = 0
    threads: int = 1
    tune: bool = False
    trials: int = 20
    test_share: float = 0.2
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origin: Origin = Origin()


@dataclass(frozen=True)
class Candidate:
    """One trained family with what was measured. ``scores`` are those of the test rows, float64 ``[n_test]``."""

    family: str
    model: FittedModel
    calibrator: Calibrator
    thresholds: Thresholds
    valid_metrics: dict[str, Any]
    test_metrics: dict[str, Any]
    money: dict[str, float]
    weeks: list[dict[str, Any]]
    scores: NDArray[np.float64]
    seconds: float
    refitted: bool = False


class Result(Protocol):
    """What a training run gives to its report and its bundles, wherever the rows are."""

    @property
    def candidates(self) -> list[Candidate]:
        """Best first."""

    @property
    def feature_set(self) -> FeatureSet: ...

    @property
    def costs(self) -> Costs: ...

    @property
    def options(self) -> Options: ...

    @property
    def overview(self) -> Overview:
        """The data in figures."""

    @property
    def testing(self) -> Dataset:
        """The rows of the test period, in the order of the candidates' ``scores``; possibly without inputs."""

    def refit(self, model: FittedModel, progress: Progress) -> FittedModel:
        """The same model on all mature rows: those whose label was known at the end of the data."""

    def trained_on(self, candidate: Candidate) -> TrainedOn:
        """The rows of a candidate's model: all mature ones if it was refitted."""


@dataclass(frozen=True)
class LocalResult:
    """The result of a run on this machine; ``parts`` says which rows the candidates were measured on."""

    candidates: list[Candidate]
    parts: split.Split
    data: Dataset = field(repr=False)
    feature_set: FeatureSet = field(repr=False)
    costs: Costs
    options: Options

    @cached_property
    def overview(self) -> Overview:
        """See :class:`Result`."""
        return Overview.of(self.data, self.parts)

    @cached_property
    def testing(self) -> Dataset:
        """See :class:`Result`."""
        return self.data.take(self.parts.test)

    @cached_property
    def mature(self) -> Dataset:
        """The rows that a final fit may use."""
        return self.data.take(split.mature(self.data))

    def refit(self, model: FittedModel, progress: Progress) -> FittedModel:
        """See :class:`Result`."""
        return model.refit(self.mature.x, self.mature.y, progress=progress)

    def trained_on(self, candidate: Candidate) -> TrainedOn:
        """See :class:`Result`."""
        used = self.mature if candidate.refitted else self.data.take(self.parts.train)
        return TrainedOn(used, Period.of(used), used.content_hash())


def train(data: Dataset, feature_set: FeatureSet, costs: Costs, options: Options, step: StepReport) -> LocalResult:
    """Train every family of ``options``; raises TrainingError when the data does not allow it."""
    parts = split.by_time(data, test_share=options.test_share)
    decimals = feature_set.schema.amount.decimals if feature_set.schema.amount else 0
    fitting, checking, testing = (data.take(rows) for rows in (parts.train, parts.valid, parts.test))
    candidates = []
    for name in options.families:
        family = families.get_family(name)
        started = time.perf_counter()
        params = _tuned(family, fitting, feature_set, options, step) if options.tune else options.params.get(name)
        model = family.fit(
            fitting.x,
            fitting.y,
            valid=(checking.x, checking.y),
            feature_names=feature_set.input_names,
            monotone=[feature.monotone for feature in feature_set.inputs],
            seed=options.seed,
            threads=options.threads,
            params=params,
            progress=step(f"Fit {name}"),
        )
        candidate = measure(name, model, checking, testing, costs, decimals, seed=options.seed)
        candidates.append(replace(candidate, seconds=time.perf_counter() - started))
    candidates.sort(key=lambda candidate: -candidate.valid_metrics["average_precision"])
    return LocalResult(candidates, parts, data, feature_set, costs, options)


def measure(
    family: str, model: FittedModel, checking: Dataset, testing: Dataset, costs: Costs, decimals: int, *, seed: int
) -> Candidate:
    """A fitted model calibrated and given thresholds on ``checking``, and measured on ``testing``."""
    margins = (model.margin(checking.x), model.margin(testing.x))
    candidate = judge(family, model, (checking, testing), margins, costs, decimals, seed=seed)
    if not isinstance(model, FittedCascade):
        return candidate
    return replace(
        candidate,
        valid_metrics=candidate.valid_metrics | stages.metrics(model, checking),
        test_metrics=candidate.test_metrics | stages.metrics(model, testing),
    )


def judge(
    family: str,
    model: FittedModel,
    held_back: tuple[Dataset, Dataset],
    margins: tuple[Margins, Margins],
    costs: Costs,
    decimals: int,
    *,
    seed: int,
) -> Candidate:
    """The same where the margins of both parts are known; the inputs of ``held_back`` are not looked at."""
    (checking, testing), (margin, later) = held_back, margins
    calibrator = Calibrator.fit(margin, checking.y)
    valid_scores = calibrator.apply(margin)
    thresholds = money.best_thresholds(checking, valid_scores, costs, decimals)
    scores = calibrator.apply(later)
    return Candidate(
        family=family,
        model=model,
        calibrator=calibrator,
        thresholds=thresholds,
        valid_metrics=evaluate.metrics(checking, valid_scores),
        test_metrics=evaluate.metrics(testing, scores),
        money=money.summary(testing, scores, thresholds, costs, decimals, seed=seed),
        weeks=evaluate.by_week(testing, scores),
        scores=scores,
        seconds=0.0,
    )


def finish(result: Result, candidate: Candidate, step: StepReport) -> Candidate:
    """The candidate refitted on all mature rows, with its settings, size, calibration and thresholds kept.

    The figures stay those of the model that had not seen the test period; they are what to expect of this one.
    """
    model = result.refit(candidate.model, step(f"Refit {candidate.family} on all mature data"))
    return replace(candidate, model=model, refitted=True)


def _tuned(
    family: families.Family, rows: Dataset, feature_set: FeatureSet, options: Options, step: StepReport
) -> dict[str, Any]:
    return tune.tune(
        family,
        rows,
        feature_names=feature_set.input_names,
        monotone=[feature.monotone for feature in feature_set.inputs],
        trials=options.trials,
        seed=options.seed,
        threads=options.threads,
        progress=step(f"Tune {family.name}"),
    ).params
