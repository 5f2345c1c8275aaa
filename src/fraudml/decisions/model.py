"""A bundle as it serves: with its policy, and from transactions to scores."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.cache import MANTISSA_BITS, ScoreCache
from fraudml.decisions.model_server import ServedModel
from fraudml.decisions.policy import Policy
from fraudml.decisions.record import Degradation
from fraudml.errors import BundleError
from fraudml.events.transaction import Transaction
from fraudml.features.derive import Deriver, to_model
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import StateRead
from fraudml.models.bundle import Bundle
from fraudml.models.cascade import CascadeRuntime
from fraudml.models.explain import Explainer
from fraudml.models.runtime import MARGIN, PROBABILITY, Predictor

logger = logging.getLogger(__name__)


class Model:
    """A bundle as it serves: with its policy, and what is made once per bundle.

    ``kept``: the FeatureSet whose state the online store keeps, by default the bundle's own; it may have more. With a
    ``cache`` the model reads quantised inputs, see :mod:`fraudml.decisions.cache`; vectors and explanations stay as
    they are. With a ``server``, which is the bundle's model on a model server, that scores (of a cascade only what its
    fast model leaves to the accurate one); explanations are the local copy's.
    """

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy | None = None,
        *,
        cache: ScoreCache | None = None,
        server: ServedModel | None = None,
        kept: FeatureSet | None = None,
    ) -> None:
        self.bundle = bundle
        self.policy = policy or Policy.of(bundle.manifest.thresholds)
        self.kept = kept or bundle.feature_set
        self._columns = bundle.feature_set.places_in(self.kept)
        self._all_columns = self._columns == list(range(len(self.kept.state_features)))
        self.deriver = Deriver(bundle.feature_set)
        self._cache = cache
        self._server = server
        predictor: Predictor = bundle.runtime if server is None else server
        if server is not None and bundle.manifest.cascade is not None:
            predictor = CascadeRuntime(bundle.runtime, server)
        self._run = predictor.score
        # version numbers repeat between registries, and other bits between releases: a shared cache tells all apart
        identity = f"{bundle.version}\n{bundle.manifest.onnx_sha256}\n{MANTISSA_BITS}"
        self._identity = hashlib.blake2b(identity.encode(), digest_size=16).digest()

    @property
    def version(self) -> str:
        """The version that decisions name."""
        return self.bundle.version

    @property
    def server_up(self) -> bool:
        """Whether the model server could be used when it was last asked; true without one."""
        return self._server is None or self._server.up

    def take_lost(self) -> tuple[Degradation, ...]:
        """What the scores were made without that this thread got since it last asked this; it touches none of them."""
        if self._server is None or not self._server.take_fell_back():
            return ()
        return (Degradation.model_server,)

    @cached_property
    def explainer(self) -> Explainer:
        """Made on first use: most processes never explain."""
        return Explainer(self.bundle)

    def vectors(self, batch: Sequence[Transaction], state: StateRead | None) -> NDArray[np.float64]:
        """Feature vectors, float64 ``[n, k]``; without ``state`` all history is missing."""
        if state is None:
            values = np.full((len(batch), len(self.bundle.feature_set.state_features)), np.nan)
        else:
            values = state.values if self._all_columns else state.values[:, self._columns]
        return self.deriver.from_transactions(batch, values)

    def scores(self, vectors: NDArray[np.float64]) -> list[float | None]:
        """A probability for each vector; ``None`` where the model gives none (it fails, or answers nonsense)."""
        try:
            scores = self._score(to_model(vectors))
        except BundleError as error:
            logger.error("model %s failed: %s", self.version, error)
            return [None] * len(vectors)
        return [score if 0.0 <= score <= 1.0 else None for score in scores]

    def outputs(self, vectors: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
        """All that the local copy gives for each vector, float32 ``[n]`` each, by the names of its outputs; raises
        BundleError. Without the cache."""
        inputs, runtime = to_model(vectors), self.bundle.runtime
        found = {PROBABILITY: runtime.score(inputs), MARGIN: runtime.log_odds(inputs)}
        return {name: values.astype(np.float32) for name, values in found.items()}

    def _score(self, inputs: NDArray[np.float32]) -> list[float]:
        if self._cache is not None:
            return self._cache.scores(self._identity, inputs, self._run)
        scores: list[float] = self._run(inputs).tolist()
        return scores


def degradations(state: StateRead | None, score: float | None) -> tuple[Degradation, ...]:
    """What was not available, given what the store read and the model answered."""
    if state is not None and score is not None:
        return ()
    lost = () if state is not None else (Degradation.online_store,)
    return lost if score is not None else (*lost, Degradation.model)
