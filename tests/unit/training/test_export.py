"""The exported graph is the trained model, and a graph that is not does not pass."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from fraudml.errors import ExportError
from fraudml.training.calibrate import Calibrator
from fraudml.training.export import _check_rows, _thresholds, export, verify_equal
from fraudml.training.families import family_names, get_family
from tests.support.training import SMALL_DEEP

NAMES = ["amount", "hour", "count_7d", "sum_7d"]
FAST: dict[str, dict[str, Any]] = {
    "deep": SMALL_DEEP,
    "random_forest": {"n_estimators": 12},
    "xgboost": {"n_estimators": 25},
    "cascade": {"accurate_params": {"n_estimators": 25}},
}
FURTHER_OUTPUTS = {"cascade": ["fast_probability", "fast_margin", "stage"]}
CALIBRATOR = Calibrator(slope=1.4, intercept=-0.7)


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.lognormal(2, 2, size=(1500, 4)).astype(np.float32).round(2)
    X[rng.random(X.shape) < 0.15] = np.nan
    return X, np.nan_to_num(X[:, 0]) + 30 * rng.normal(size=1500) > 150


@cache
def fitted(family: str) -> Any:
    return get_family(family).fit(*data(), feature_names=NAMES, params=FAST.get(family, {}))


def session(content: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])


def edited(content: bytes, change: Any) -> bytes:
    model = onnx.load_from_string(content)
    change(model.graph)
    edited_content: bytes = model.SerializeToString()
    return edited_content


@pytest.mark.parametrize("family", family_names())
class TestEveryFamily:
    def test_scores_are_the_calibrated_scores(self, family: str) -> None:
        content = export(fitted(family), CALIBRATOR, NAMES)
        X = data()[0]
        probability, margin = session(content).run(["probability", "margin"], {"features": X})
        expected = fitted(family).margin(X)
        np.testing.assert_allclose(probability, CALIBRATOR.apply(expected), atol=1e-5)
        np.testing.assert_allclose(margin, CALIBRATOR.log_odds(expected), atol=1e-4)
        assert probability.dtype == margin.dtype == np.float32
        assert probability.shape == margin.shape == (len(X),)

    def test_the_signature(self, family: str) -> None:
        opened = session(export(fitted(family), CALIBRATOR, NAMES))
        assert [(i.name, i.shape, i.type) for i in opened.get_inputs()] == [("features", ["n", 4], "tensor(float)")]
        outputs = ["probability", "margin", *FURTHER_OUTPUTS.get(family, [])]
        assert [o.name for o in opened.get_outputs()] == outputs
        assert json.loads(opened.get_modelmeta().custom_metadata_map["feature_names"]) == NAMES

    def test_an_empty_batch(self, family: str) -> None:
        opened = session(export(fitted(family), CALIBRATOR, NAMES))
        assert opened.run(None, {"features": np.zeros((0, 4), np.float32)})[0].shape == (0,)

    def test_verify_passes_and_the_bytes_repeat(self, family: str) -> None:
        content = export(fitted(family), CALIBRATOR, NAMES)
        verify_equal(content, fitted(family), CALIBRATOR, data()[0])
        verify_equal(content, fitted(family), CALIBRATOR, data()[0][:1])
        assert content == export(fitted(family), CALIBRATOR, NAMES)

    def test_another_calibration_does_not_pass(self, family: str) -> None:
        content = export(fitted(family), Calibrator(1.4, -0.7005), NAMES)
        with pytest.raises(ExportError, match=r"differently from the trained model.*allowed: 1e-05"):
            verify_equal(content, fitted(family), CALIBRATOR, data()[0])

    def test_the_wrong_number_of_names_is_refused(self, family: str) -> None:
        with pytest.raises(ExportError, match="takes 4 features but 3 names"):
            export(fitted(family), CALIBRATOR, NAMES[:3])


@pytest.mark.parametrize(("family", "swapped"), [("random_forest", 2), ("xgboost", 0)])
def test_a_comparison_that_is_wrong_only_on_the_threshold_is_found(family: str, swapped: int) -> None:
    """``>=`` for ``>`` and ``<=`` for ``<``: the converters' classic mistake."""

    def swap(graph: onnx.GraphProto) -> None:
        for attribute in graph.node[0].attribute:
            if attribute.name == "nodes_modes":
                modes = numpy_helper.to_array(attribute.t)
                attribute.t.CopyFrom(numpy_helper.from_array(np.full_like(modes, swapped)))

    content = edited(export(fitted(family), CALIBRATOR, NAMES), swap)
    with pytest.raises(ExportError, match="differently"):
        verify_equal(content, fitted(family), CALIBRATOR, data()[0])


def test_a_lost_missing_branch_is_found() -> None:
    def drop(graph: onnx.GraphProto) -> None:
        kept = [a for a in graph.node[0].attribute if a.name != "nodes_missing_value_tracks_true"]
        assert len(kept) < len(graph.node[0].attribute)
        del graph.node[0].attribute[:]
        graph.node[0].attribute.extend(kept)

    content = edited(export(fitted("xgboost"), CALIBRATOR, NAMES), drop)
    with pytest.raises(ExportError, match="differently"):
        verify_equal(content, fitted("xgboost"), CALIBRATOR, data()[0])


def test_a_score_that_is_not_a_number_is_found() -> None:
    def spoil(graph: onnx.GraphProto) -> None:
        for constant in graph.initializer:
            if constant.name == "calibration_slope":
                constant.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), constant.name))

    content = edited(export(fitted("xgboost"), CALIBRATOR, NAMES), spoil)
    with pytest.raises(ExportError, match="at worst nan"):
        verify_equal(content, fitted("xgboost"), CALIBRATOR, data()[0])


def test_check_rows_hit_thresholds_and_hold_missing_values() -> None:
    content = export(fitted("xgboost"), CALIBRATOR, NAMES)
    thresholds = _thresholds(onnx.load_from_string(content))
    checked = _check_rows(data()[0], thresholds)
    for column, values in thresholds.items():
        assert np.isin(checked[:, column], values).sum() > 100
    assert np.isnan(checked).all(axis=1).any()
    np.testing.assert_array_equal(checked, _check_rows(data()[0], thresholds))
