"""The routing inside a cascade's graph, the band it uses, and what a cascade promises."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from fraudml.errors import ExportError, TrainingError
from fraudml.training import stages
from fraudml.training.calibrate import Calibrator
from fraudml.training.export import export, verify_equal
from fraudml.training.families import _band, _routing, base, get_family
from fraudml.training.families.cascade import FittedCascade
from tests.support.training import LinearModel, make_dataset

WHOLE = st.integers(-4, 4)  # whole numbers, so that float32 computes exactly and rows lie exactly on the bounds
NAMES = [f"feature_{i}" for i in range(5)]
PARAMS = {"accurate_params": {"n_estimators": 30}, "recall_loss": 0.05}


def routed(fast: LinearModel, accurate: LinearModel, band: tuple[float, float], *, within_band: bool) -> Any:
    calibrators = (Calibrator(2.0, 1.0), Calibrator(3.0, -1.0))
    model = _routing.routed_model(fast.to_onnx(), accurate.to_onnx(), calibrators, band, within_band=within_band)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@st.composite
def bands(draw: st.DrawFn) -> tuple[float, float]:
    """Narrow, wide, open, and empty ones."""
    ends = st.one_of(st.integers(-20, 20).map(float), st.sampled_from([-math.inf, math.inf]))
    return draw(ends), draw(ends)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.one_of(WHOLE, st.just(math.nan)), WHOLE), max_size=12),
    st.tuples(WHOLE, WHOLE),
    st.tuples(WHOLE, WHOLE),
    bands(),
    st.booleans(),
)
def test_the_graph_asks_the_accurate_model_in_the_band_and_the_fast_one_elsewhere(
    rows: list[tuple[float, float]],
    fast_weights: tuple[int, int],
    accurate_weights: tuple[int, int],
    band: tuple[float, float],
    within_band: bool,
) -> None:
    fast, accurate = LinearModel(fast_weights, bias=1.0), LinearModel(accurate_weights, bias=-2.0)
    X = np.array(rows, np.float32).reshape(-1, 2)
    session = routed(fast, accurate, band, within_band=within_band and band[0] <= band[1])
    margin, fast_margin, stage = session.run(["margin", "fast_margin", "stage"], {"features": X})

    expected_fast = 2 * fast.margin(X) + 1
    in_band = (expected_fast >= band[0]) & (expected_fast <= band[1])
    answers = 3 * accurate.margin(X) - 1
    if within_band and band[0] <= band[1]:
        answers = np.clip(answers, *band)
    np.testing.assert_array_equal(fast_margin, expected_fast)
    np.testing.assert_array_equal(stage, in_band)
    np.testing.assert_array_equal(margin, np.where(in_band, answers, expected_fast))
    assert (margin.dtype, fast_margin.dtype, stage.dtype) == (np.float32, np.float32, np.int64)
    assert margin.shape == fast_margin.shape == stage.shape == (len(rows),)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.6), st.sampled_from([1, 10]))
def test_a_band_keeps_what_it_promises_and_is_no_wider_than_that_takes(seed: int, loss: float, grid: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=300)
    fast, accurate = (np.round((truth + rng.normal(size=300) * noise) * grid) / grid for noise in rng.random(2))
    y = truth > rng.normal()
    y[:2] = [True, False]
    band = _band.learn(fast, accurate, y, recall_loss=loss, false_positive_rate=0.1)
    threshold = np.sort(accurate[~y])[::-1][int(0.1 * (~y).sum())]
    found = fast[y & (accurate > threshold)]

    def shown(events: int, trials: int) -> bool:
        """That so few events would be seen in no more than one of twenty samples if the share were above the loss."""
        return trials > 0 and bool(binom.cdf(events, trials, loss) <= 0.05 + 1e-9)

    lost = int((found < band.low).sum())
    assert lost == 0 or shown(lost, len(found))
    assert band.low <= band.high
    assert (fast[fast < band.low] <= threshold).all()
    above = fast > band.high
    assert (fast[above] > threshold).all()
    assert not above.any() or shown(int((~y[above]).sum()), int(above.sum()))
    if (found < threshold).any() and not (found < band.low).all():
        following = np.sort(found[found >= band.low])[0]
        assert following >= threshold or not shown(int((found <= following).sum()), len(found))


def test_rows_too_few_to_show_the_loss_leave_the_band_open() -> None:
    margin = np.linspace(-4, 4, 1_000)
    outcomes = margin > 3.9
    assert _band.learn(margin, margin, outcomes, recall_loss=0.005, false_positive_rate=0.01) == _band.Band()


def rows(n: int = 6_000, seed: int = 0) -> tuple[base.Matrix, NDArray[Any]]:
    data = make_dataset(n, seed=seed)
    return data.x, data.y


@pytest.fixture(scope="module")
def cascade() -> FittedCascade:
    fitted = get_family("cascade").fit(*rows(), valid=rows(seed=1), feature_names=NAMES, params=PARAMS)
    assert isinstance(fitted, FittedCascade)
    return fitted


def test_a_cascade_asks_the_accurate_model_seldom_and_loses_little(cascade: FittedCascade) -> None:
    found = stages.metrics(cascade, make_dataset(20_000, seed=2))
    assert found["fast_share"] > 0.5
    assert found["recall_lost"] < 0.05


def test_the_export_routes_like_the_cascade(cascade: FittedCascade) -> None:
    X = rows(seed=3)[0]
    calibrator = Calibrator(1.2, -0.1)
    content = export(cascade, calibrator, NAMES)
    verify_equal(content, cascade, calibrator, X)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = ["probability", "margin", "fast_probability", "fast_margin", "stage"]
    probability, margin, fast_probability, fast_margin, stage = session.run(names, {"features": X})
    assert 0 < stage.sum() < len(X) / 2
    np.testing.assert_array_equal(margin[stage == 0], fast_margin[stage == 0])
    np.testing.assert_array_equal(probability[stage == 0], fast_probability[stage == 0])
    np.testing.assert_allclose(fast_margin, calibrator.log_odds(cascade.fast_margin(X)), atol=1e-4)
    for places in (np.flatnonzero(stage)[:1], np.flatnonzero(stage == 0)[:1], np.array([], np.intp)):
        alone = session.run(["margin"], {"features": X[places]})[0]
        np.testing.assert_allclose(alone, margin[places], atol=1e-5)


def test_the_accurate_model_computes_only_the_rows_in_the_band(cascade: FittedCascade, tmp_path: Path) -> None:
    X = rows(seed=3)[0]
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(export(cascade, Calibrator(), NAMES), options, providers=["CPUExecutionProvider"])
    stage = session.run(["stage", "margin"], {"features": X})[0]
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    trees = [event["args"] for event in events if event.get("args", {}).get("op_name") == "TreeEnsemble"]
    assert [shape["float"] for shape in trees[0]["input_type_shape"]] == [[int(stage.sum()), 5]]
    assert len(trees) == 1


@pytest.mark.parametrize("direction", [-1, 1])
def test_a_monotone_feature_moves_the_score_one_way_across_the_band(direction: int) -> None:
    X, y = rows()
    X[:, 0] *= direction
    held_out = rows(seed=1)
    held_out[0][:, 0] *= direction
    fitted: Any = get_family("cascade").fit(
        X, y, valid=held_out, feature_names=NAMES, params=PARAMS, monotone=[direction, 0, 0, 0, 0]
    )
    probe = np.repeat(X[:50, None, :], 200, axis=1)
    probe[:, :, 0] = np.linspace(-6, 6, 200)
    probe = probe.reshape(-1, 5)
    in_band = fitted.band.holds(fitted.fast_margin(probe)).reshape(50, 200)
    assert (in_band.any(axis=1) & ~in_band.all(axis=1)).sum() > 25, "the walks cross the band"
    steps = np.diff(fitted.margin(probe).reshape(50, 200), axis=1)
    assert (direction * steps >= -1e-6).all()
    verify_equal(export(fitted, Calibrator(), NAMES), fitted, Calibrator(), X)


def test_a_refit_keeps_band_and_calibration(cascade: FittedCascade) -> None:
    again = cascade.refit(*rows(seed=4))
    for kept in ("band", "fast_calibrator", "accurate_calibrator", "params"):
        assert getattr(again, kept) == getattr(cascade, kept)
    assert not np.array_equal(again.fast_margin(rows()[0]), cascade.fast_margin(rows()[0]))


def test_without_validation_rows_the_accurate_model_decides(cascade: FittedCascade) -> None:
    X, y = rows()
    fitted: Any = get_family("cascade").fit(X, y, feature_names=NAMES, params=PARAMS)
    np.testing.assert_array_equal(fitted.margin(X), fitted.accurate.margin(X))


@pytest.mark.parametrize("stage", ["fast", "accurate"])
def test_a_cascade_of_cascades_is_refused(stage: str) -> None:
    with pytest.raises(TrainingError, match=f"the {stage} model of a cascade cannot be a cascade"):
        get_family("cascade").fit(*rows(), feature_names=NAMES, params={stage: "cascade"})


def test_an_answer_from_the_wrong_model_is_found(cascade: FittedCascade) -> None:
    shifted = replace(cascade, band=_band.Band(cascade.band.low + 0.5, cascade.band.high))
    with pytest.raises(ExportError, match="differently from the trained model"):
        verify_equal(export(shifted, Calibrator(), NAMES), cascade, Calibrator(), rows()[0])
