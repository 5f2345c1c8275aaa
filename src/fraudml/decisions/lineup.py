"""The models that serve together: the champion and, while a rollout is under way, its challengers.

Each transaction is decided by exactly one of them, told by its entity (see :mod:`fraudml.models.assignment`). Where a
challenger gives no score the champion decides in its place, and the decision says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.model import Model
from fraudml.decisions.record import CHAMPION, Degradation, Trial
from fraudml.errors import BundleError, ConfigError
from fraudml.events.transaction import Transaction
from fraudml.features.stores import StateRead
from fraudml.models.assignment import PARTS, Assignment, place
from fraudml.models.rollout import Challenger, Experiment, Exploration, Mode, Rollout

logger = logging.getLogger(__name__)

EXPLORING = "explore"  # what is let through is not what an arm is assigned


class Part(NamedTuple):
    """The transactions of a batch (by their ``rows`` in it) that one model decided on, in ``model_us`` microseconds.

    ``vectors``: float64 ``[rows, k]``; ``lost``: what the model did without that does not touch its scores;
    ``instead``: the champion decided because the challenger of this arm failed.
    """

    rows: Sequence[int]
    model: Model
    arm: str
    trial: Trial | None
    vectors: NDArray[np.float64]
    scores: list[float | None]
    model_us: int
    lost: tuple[Degradation, ...] = ()
    instead: bool = False


class Arm(NamedTuple):
    """A model, the name of its arm, and what its decisions note of the experiment."""

    model: Model
    name: str
    trial: Trial | None


class Shadowed(NamedTuple):
    """A challenger in the shadow: its model, the name of its arm, and which keys it sees."""

    model: Model
    name: str
    share: float
    assignment: Assignment

    def sees(self, key: str) -> bool:
        """Whether it scores what is assigned by this key."""
        return self.share == 1 or self.assignment.arm(key) is not None


class Lineup:
    """What a rollout document says serves. ``models``: by version, all that it names; without a document the one.

    Raises BundleError when they do not all read what one store keeps, ConfigError for an entity that is not there.
    """

    def __init__(self, models: Mapping[int, Model] | Model, rollout: Rollout | None = None) -> None:
        self.rollout = rollout
        self.exploration: Exploration | None = rollout.exploration if rollout else None
        experiment = rollout.experiment if rollout else None
        if isinstance(models, Model):
            self.models: tuple[Model, ...] = (models,)
        elif rollout is None:
            raise ValueError("several models need a document that says what each of them does")
        else:
            self.models = tuple(models[version] for version in rollout.versions)
        self.champion = self.models[0]
        kept = self.champion.kept.fingerprint
        for model in self.models:
            if model.kept.fingerprint != kept:
                raise BundleError(f"model {model.version} was made for an online store that keeps other features")
        self._arms = [Arm(self.champion, CHAMPION, self._trial(experiment, None))]
        self.shadows: list[Shadowed] = []
        self._entity: int | None = None
        if experiment is not None and rollout is not None:
            self._take_part(experiment)

    def _take_part(self, experiment: Experiment) -> None:
        self._assignment = experiment.assignment()
        if experiment.entity is not None:
            names = self.champion.kept.schema.entity_names
            if experiment.entity not in names:
                raise ConfigError(f"the rollout is by {experiment.entity!r}; the schema has: {', '.join(names)}")
            self._entity = names.index(experiment.entity)
        both = list(zip(experiment.challengers, self.models[1:], strict=True))
        if experiment.mode is Mode.shadow:
            self.shadows = [
                Shadowed(model, f"shadow-{each.version}", each.share, Assignment(experiment.salt, [each.slots]))
                for each, model in both
            ]
        else:
            self._arms += [Arm(model, each.arm, self._trial(experiment, each)) for each, model in both]

    @property
    def version(self) -> str:
        """The champion's version."""
        return self.champion.version

    @property
    def versions(self) -> tuple[str, ...]:
        """Those of all models, the champion's first."""
        return tuple(model.version for model in self.models)

    def model(self, version: str) -> Model | None:
        """One of those that serve."""
        return next((model for model in self.models if model.version == version), None)

    def follows(self, rollout: Rollout) -> bool:
        """Whether this is what a document says; one without a document serves its champion alone."""
        if self.rollout is not None:
            return self.rollout == rollout
        alone = rollout.experiment is None and rollout.exploration is None
        return alone and self.version == str(rollout.champion)

    @property
    def shares(self) -> list[tuple[str, str, float]]:
        """Version, arm and share of all entities, of each model; those in the shadow with what they see."""
        served = [(arm.model.version, arm.name, arm.trial.share if arm.trial else 1.0) for arm in self._arms]
        return served + [(shadow.model.version, shadow.name, shadow.share) for shadow in self.shadows]

    def key(self, transaction: Transaction) -> str:
        """What assigns a transaction: its entity or, where it has none, its id."""
        found = None if self._entity is None else transaction.entities[self._entity]
        return transaction.transaction_id if found is None else found

    def decider(self, transaction: Transaction) -> Model:
        """Who decides on a transaction."""
        challenger = None if len(self._arms) == 1 else self._assignment.arm(self.key(transaction))
        return self._arms[0 if challenger is None else challenger + 1].model

    def score(self, batch: Sequence[Transaction], state: StateRead | None) -> list[Part]:
        """Every transaction in exactly one part."""
        if len(self._arms) == 1:
            return [_scored(self._arms[0], range(len(batch)), batch, state)]
        rows: list[list[int]] = [[] for _ in self._arms]
        for row, transaction in enumerate(batch):
            challenger = self._assignment.arm(self.key(transaction))
            rows[0 if challenger is None else challenger + 1].append(row)
        parts: list[Part] = []
        for arm, own in zip(self._arms, rows, strict=True):
            if own:
                parts += self._with_substitute(_of_rows(arm, own, batch, state), batch, state)
        return parts

    def explores(self, transaction: Transaction) -> tuple[float | None, bool]:
        """For a would-be decline: the probability with which it is let through, and whether it is."""
        exploration = self.exploration
        if exploration is None:
            return None, False
        most = exploration.most_minor
        if most is not None and (transaction.amount_minor is None or abs(transaction.amount_minor) > most):
            return None, False
        drawn = place(f"{EXPLORING} {exploration.salt}", transaction.transaction_id)
        return exploration.share, drawn < exploration.share * PARTS

    def exploring(self, trial: Trial | None, share: float, let_through: bool) -> Trial:
        """The note on an explored decision. One that no experiment assigned is part of none, so it names no revision:
        others that were decided so note nothing, and would-be declines alone say nothing about an arm."""
        if trial is None:
            return Trial(0, 1.0, share, let_through)
        return Trial(trial.revision, trial.share, share, let_through)

    def _with_substitute(self, part: Part, batch: Sequence[Transaction], state: StateRead | None) -> list[Part]:
        """The part, with what a challenger gave no score for decided by the champion."""
        failed = [] if part.arm == CHAMPION else [i for i, score in enumerate(part.scores) if score is None]
        if not failed:
            return [part]
        champion = Arm(self.champion, part.arm, part.trial)
        instead = _of_rows(champion, [part.rows[i] for i in failed], batch, state)._replace(instead=True)
        good = [i for i, score in enumerate(part.scores) if score is not None]
        if not good:
            return [instead]
        rest = part._replace(
            rows=[part.rows[i] for i in good], vectors=part.vectors[good], scores=[part.scores[i] for i in good]
        )
        return [rest, instead]

    def _trial(self, experiment: Experiment | None, challenger: Challenger | None) -> Trial | None:
        if experiment is None or self.rollout is None or experiment.mode is Mode.shadow:
            return None
        share = experiment.champion_share if challenger is None else challenger.share
        return Trial(self.rollout.revision, share)


def _of_rows(arm: Arm, rows: list[int], batch: Sequence[Transaction], state: StateRead | None) -> Part:
    own = None if state is None else StateRead(state.values[rows], state.late[rows])
    return _scored(arm, rows, [batch[row] for row in rows], own)


def _scored(arm: Arm, rows: Sequence[int], batch: Sequence[Transaction], state: StateRead | None) -> Part:
    model = arm.model
    started = time.perf_counter()
    try:
        vectors = model.vectors(batch, state)
        scores = model.scores(vectors)
    except Exception:  # a defect: the transactions are in state by now, so they have to be decided
        logger.exception("model %s failed", model.version)
        vectors = np.full((len(batch), len(model.bundle.feature_set.inputs)), np.nan)
        scores = [None] * len(batch)
    model_us = int((time.perf_counter() - started) * 1e6)
    return Part(rows, model, arm.name, arm.trial, vectors, scores, model_us, model.take_lost())
