"""A cascade in serving: what its manifest says, and the accurate model answering from somewhere else.

Besides the outputs of every bundle, a cascade's graph gives ``fast_probability`` and ``fast_margin`` (float32
``[n]``), the fast model's own answers, and ``stage`` (int64 ``[n]``): 1 where the accurate model decides.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.errors import BundleError, FraudmlError
from fraudml.models.runtime import Predictor, Runtime

FAST_PROBABILITY = "fast_probability"
FAST_MARGIN = "fast_margin"
STAGE = "stage"


class StageTimes(msgspec.Struct, frozen=True):
    """Microseconds of processor time per row in batches of ``batch`` rows, measured where the cascade was trained."""

    batch: int
    fast_us: float
    accurate_us: float
    cascade_us: float


class Cascade(msgspec.Struct, frozen=True):
    """Families of both models, and the band of the fast model's score in which the accurate one decides.

    ``low`` and ``high`` are values of ``fast_probability``; an open end is 0 or 1. ``fast_share_*`` are the shares of
    transactions that the fast model answered. ``recall_loss`` is what was allowed at ``false_positive_rate``.
    """

    fast: str
    accurate: str
    low: float
    high: float
    recall_loss: float
    false_positive_rate: float
    fast_share_valid: float
    fast_share_test: float
    times: list[StageTimes] = []


class CascadeRuntime:
    """Scores like :class:`Runtime`, with the accurate model elsewhere, such as behind a model server.

    ``local`` is the cascade's own runtime; of its graph only the fast part is computed. ``accurate`` gets the rows in
    the band, all at once, and not a call where there are none; it may have the same bundle, or the accurate model
    alone. Where it fails, or answers with anything but a number per row, a BundleError is raised and nothing is
    scored: ``local`` can score them all by itself.
    """

    def __init__(self, local: Runtime, accurate: Predictor) -> None:
        if not {FAST_PROBABILITY, FAST_MARGIN, STAGE} <= local.outputs:
            raise BundleError("the model is no cascade: its graph does not say which rows the accurate model decides")
        self._local = local
        self._accurate = accurate

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probabilities of fraud: float32 ``[n, k]`` to float64 ``[n]``."""
        return self._routed(FAST_PROBABILITY, vectors, self._accurate.score)

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same before the sigmoid: float64 ``[n]``."""
        return self._routed(FAST_MARGIN, vectors, self._accurate.log_odds)

    def _routed(
        self, output: str, vectors: NDArray[np.float32], accurate: Callable[[NDArray[np.float32]], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        answers, stage = self._local.fetch([output, STAGE], vectors)
        rows = np.flatnonzero(stage)
        if not len(rows):
            return answers
        try:
            decided = np.asarray(accurate(vectors[rows]), np.float64)
        except (FraudmlError, OSError) as error:
            raise BundleError(f"the accurate model of the cascade cannot score: {error}") from error
        if decided.shape != rows.shape or not np.isfinite(decided).all():
            raise BundleError(
                f"the accurate model of the cascade answered {len(rows)} rows with shape {decided.shape} or without "
                "numbers: check what its server serves"
            )
        answers[rows] = decided
        return answers
