"""A bundle as it serves: with its policy, and from transactions to scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.policy import Policy
from fraudml.decisions.record import CHAMPION, Degradation
from fraudml.errors import BundleError
from fraudml.events.transaction import Transaction
from fraudml.features.derive import Deriver, to_model
from fraudml.features.stores import StateRead
from fraudml.models.bundle import Bundle
from fraudml.models.explain import Explainer

logger = logging.getLogger(__name__)


class Model:
    """A bundle as it serves: with its policy, and what is made once per bundle."""

    def __init__(self, bundle: Bundle, policy: Policy | None = None, arm: str = CHAMPION) -> None:
        self.bundle = bundle
        self.policy = policy or Policy.of(bundle.manifest.thresholds)
        self.arm = arm
        self.deriver = Deriver(bundle.feature_set)

    @property
    def version(self) -> str:
        """The version that decisions name."""
        return self.bundle.version

    @cached_property
    def explainer(self) -> Explainer:
        """Made on first use: most processes never explain."""
        return Explainer(self.bundle)

    def vectors(self, batch: Sequence[Transaction], state: StateRead | None) -> NDArray[np.float64]:
        """Feature vectors, float64 ``[n, k]``; without ``state`` all history is missing."""
        if state is None:
            values = np.full((len(batch), len(self.bundle.feature_set.state_features)), np.nan)
        else:
            values = state.values
        return self.deriver.from_transactions(batch, values)

    def scores(self, vectors: NDArray[np.float64]) -> list[float | None]:
        """A probability for each vector; ``None`` where the model gives none (it fails, or answers nonsense)."""
        try:
            scores = self.bundle.runtime.score(to_model(vectors)).tolist()
        except BundleError as error:
            logger.error("model %s failed: %s", self.version, error)
            return [None] * len(vectors)
        return [score if 0.0 <= score <= 1.0 else None for score in scores]


def degradations(state: StateRead | None, score: float | None) -> tuple[Degradation, ...]:
    """What was not available, given what the store read and the model answered."""
    if state is not None and score is not None:
        return ()
    lost = () if state is not None else (Degradation.online_store,)
    return lost if score is not None else (*lost, Degradation.model)
