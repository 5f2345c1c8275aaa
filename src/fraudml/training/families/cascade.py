"""A cascade of two models: a fast one answers the clear cases, an accurate one the rest.

Method: Viola and Jones, *Rapid Object Detection using a Boosted Cascade of Simple Features*, CVPR 2001, with two
stages. Both models are calibrated on the validation rows, so that their margins are on one scale; there, too, the
band of the fast model's margin is learnt in which the accurate one is asked (:mod:`._band`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.errors import TrainingError
from fraudml.training.calibrate import Calibrator
from fraudml.training.families import _band, _routing, base, get_family

if TYPE_CHECKING:
    import onnx

STEPS = 100  # of progress, for each part
EDGE = 1e-4  # a float32 graph may see a margin so near to the edge of the band on the other side


class CascadeFamily:
    """``fast`` and ``accurate`` are names of other families, ``*_params`` what differs from their defaults.

    ``recall_loss`` and ``false_positive_rate`` say how much may be lost, and where: see :func:`._band.learn`.
    Without validation rows of both kinds there is nothing to learn a band from, and the accurate model decides all.
    """

    name = "cascade"
    defaults: Mapping[str, Any] = {
        "fast": "logistic_regression",
        "accurate": "xgboost",
        "recall_loss": 0.005,
        "false_positive_rate": 0.01,
        "fast_params": {},
        "accurate_params": {},
    }
    search_space: Mapping[str, Sequence[Any]] = {}

    def fit(  # noqa: PLR0913
        self,
        X: base.Matrix,
        y: npt.ArrayLike,
        *,
        valid: base.Validation | None = None,
        feature_names: Sequence[str],
        monotone: Sequence[int] | None = None,
        seed: int = 0,
        threads: int = 1,
        params: Mapping[str, Any] | None = None,
        progress: base.Progress | None = None,
    ) -> FittedCascade:
        """See :class:`fraudml.training.families.base.Family`; ``valid`` also calibrates and gives the band."""
        setup = base.make_setup(feature_names, monotone, seed, threads)
        chosen = base.merge_params(self, params)
        parts = [
            get_family(_part_name(chosen, stage)).fit(
                X,
                y,
                valid=valid,
                feature_names=feature_names,
                monotone=monotone,
                seed=seed,
                threads=threads,
                params=chosen[f"{stage}_params"],
                progress=_share_of(progress, place),
            )
            for place, stage in enumerate(("fast", "accurate"))
        ]
        held_out = base.check_validation(valid, feature_names)
        if progress is not None:
            progress(2 * STEPS, 2 * STEPS)
        if held_out is None:
            return FittedCascade(parts[0], parts[1], Calibrator(), Calibrator(), _band.Band(), chosen, setup)
        rows, outcomes = held_out
        margins = [part.margin(rows) for part in parts]
        fast, accurate = (Calibrator.fit(margin, outcomes) for margin in margins)
        band = _band.learn(
            fast.log_odds(margins[0]),
            accurate.log_odds(margins[1]),
            outcomes,
            recall_loss=chosen["recall_loss"],
            false_positive_rate=chosen["false_positive_rate"],
        )
        return FittedCascade(parts[0], parts[1], fast, accurate, band, chosen, setup)


FAMILY = CascadeFamily()


@dataclass(frozen=True)
class FittedCascade:
    """Two fitted models and the band between them; see :class:`fraudml.training.families.base.FittedModel`."""

    fast: base.FittedModel
    accurate: base.FittedModel
    fast_calibrator: Calibrator
    accurate_calibrator: Calibrator
    band: _band.Band
    params: dict[str, Any]
    setup: base.Setup

    @property
    def size(self) -> int:
        """Of both models together."""
        return self.fast.size + self.accurate.size

    def margin(self, X: base.Matrix) -> base.Margins:
        """Log-odds of fraud of each row: the accurate model's in the band, the fast model's elsewhere."""
        margins = self.fast_margin(X)
        rows = np.flatnonzero(self.band.holds(margins))
        answers = self.accurate_margin(X[rows])
        if self._within_band:
            answers = np.clip(answers, self.band.low, self.band.high)
        margins[rows] = answers
        return margins

    def fast_margin(self, X: base.Matrix) -> base.Margins:
        """Calibrated log-odds of the fast model for each row."""
        return self.fast_calibrator.log_odds(self.fast.margin(X))

    def accurate_margin(self, X: base.Matrix) -> base.Margins:
        """Calibrated log-odds of the accurate model for each row."""
        return self.accurate_calibrator.log_odds(self.accurate.margin(X))

    def at_edge(self, X: base.Matrix) -> base.Labels:
        """Rows whose fast margin is so near to an end of the band that rounding may choose the model: bool ``[n]``."""
        margins = self.fast_margin(X)
        return np.isclose(margins, self.band.low, EDGE, EDGE) | np.isclose(margins, self.band.high, EDGE, EDGE)

    def to_onnx(self) -> onnx.ModelProto:
        """Also gives ``fast_margin`` and ``stage``; see :func:`._routing.routed_model`."""
        return _routing.routed_model(
            self.fast.to_onnx(),
            self.accurate.to_onnx(),
            (self.fast_calibrator, self.accurate_calibrator),
            (self.band.low, self.band.high),
            within_band=self._within_band,
        )

    def importance(self) -> dict[str, float]:
        """The mean of a feature's shares in both models."""
        fast, accurate = self.fast.importance(), self.accurate.importance()
        names = self.setup.feature_names
        return base.shares(names, np.array([fast[name] + accurate[name] for name in names]))

    def refit(self, X: base.Matrix, y: npt.ArrayLike, *, progress: base.Progress | None = None) -> FittedCascade:
        """Both models again on other rows; calibration and band are kept."""
        fast = self.fast.refit(X, y, progress=_share_of(progress, 0))
        accurate = self.accurate.refit(X, y, progress=_share_of(progress, 1))
        return replace(self, fast=fast, accurate=accurate)

    @property
    def _within_band(self) -> bool:
        """A step down at the edge of the band could go against a monotone feature, so answers stay within it."""
        return any(self.setup.monotone)


def _part_name(params: Mapping[str, Any], stage: str) -> str:
    name: str = params[stage]
    if name == FAMILY.name:
        raise TrainingError(f"the {stage} model of a cascade cannot be a cascade: name another family")
    return name


def _share_of(progress: base.Progress | None, place: int) -> base.Progress | None:
    """What one of the parts reports its progress to."""
    if progress is None:
        return None
    return lambda done, total: progress(STEPS * place + STEPS * done // total, 2 * STEPS)
