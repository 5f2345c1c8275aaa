"""Laws that every model family obeys, found by listing the folder, and what is particular to each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.errors import TrainingError
from fraudml.features.derive import to_model
from fraudml.training.families import DEFAULT_NAMES, _onnx, base, family_names, get_family
from fraudml.training.families.random_forest import _round_down
from fraudml.training.train import Options
from tests.support.training import SMALL_DEEP

FAMILIES = family_names()


def of_trees(forest: int, boosted: int) -> dict[str, dict[str, Any]]:
    """What families of trees need to be quick."""
    trees = {"n_estimators": boosted}
    return {"random_forest": {"n_estimators": forest}, "xgboost": trees, "cascade": {"accurate_params": trees}}


FAST = of_trees(12, 25) | {"deep": SMALL_DEEP}
FASTER = of_trees(2, 2) | {"deep": {"steps": 20}}


def rows(n: int = 1500, k: int = 6, seed: int = 0) -> tuple[base.Matrix, base.Labels]:
    """Float32 rows with missing values, a heavy tail and 4 % fraud that depends on the first two columns."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)).astype(np.float32)
    risk = X[:, 0] + np.abs(X[:, 1])
    y = risk + 0.5 * rng.normal(size=n) > 2.9
    X[:, 2] = np.exp(5 * X[:, 2])
    X[rng.random((n, k)) < 0.1] = np.nan
    return X, y


def names(X: base.Matrix) -> list[str]:
    return [f"feature_{i}" for i in range(X.shape[1])]


def fit(family: str, X: base.Matrix, y: Any, **options: Any) -> Any:
    params = FAST.get(family, {}) | options.pop("params", {})
    return get_family(family).fit(X, y, feature_names=names(X), params=params, **options)


def onnx_margin(fitted: Any, X: base.Matrix) -> base.Margins:
    model = fitted.to_onnx().SerializeToString(deterministic=True)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["margin"], {"features": X})[0], np.float64)


def auc(y: base.Labels, margin: base.Margins) -> float:
    order = np.argsort(np.argsort(margin))
    n = int(y.sum())
    return float((order[y].sum() - n * (n - 1) / 2) / (n * (len(y) - n)))


def test_the_folder_is_the_register() -> None:
    assert FAMILIES == ["cascade", "deep", "logistic_regression", "random_forest", "xgboost"]
    assert [get_family(name).name for name in FAMILIES] == FAMILIES


def test_train_trains_the_quick_families_unless_told_which() -> None:
    assert Options().families == DEFAULT_NAMES == ("logistic_regression", "random_forest", "xgboost")
    assert set(DEFAULT_NAMES) <= set(FAMILIES)


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(TrainingError, match="no model family 'base'; choose from: cascade, deep, logistic_regression"):
        get_family("base")


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_learns_what_is_there(self, family: str) -> None:
        fitted = fit(family, *rows(4000))
        X, y = rows(4000, seed=1)
        assert auc(y, fitted.margin(X)) > 0.75  # the baseline sees no more than one of the two columns
        shares = fitted.importance()
        assert next(iter(shares)) == "feature_0"
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert math.isclose(sum(shares.values()), 1)

    def test_onnx_gives_the_same_margin(self, family: str) -> None:
        X, y = rows()
        fitted = fit(family, X, y)
        X[0], X[1], X[2], X[3], X[4] = np.inf, -np.inf, 3e38, -3e38, np.nan
        margin = fitted.margin(X)
        assert margin.dtype == np.float64
        assert np.isfinite(margin).all()
        np.testing.assert_allclose(onnx_margin(fitted, X), margin, atol=2e-5)
        assert len(fitted.margin(X[:0])) == len(onnx_margin(fitted, X[:0])) == 0

    def test_the_same_data_and_seed_give_the_same_bytes(self, family: str) -> None:
        X, y = rows()
        first, second = (fit(family, X, y, seed=3).to_onnx().SerializeToString(deterministic=True) for _ in "ab")
        assert first == second

    def test_refit_on_the_same_rows_gives_the_same_model(self, family: str) -> None:
        X, y = rows()
        fitted = fit(family, X, y, valid=rows(800, seed=1), monotone=[1, 0, 0, 0, 0, -1])
        again = fitted.refit(X, y)
        assert again.params == fitted.params
        assert again.size == fitted.size
        np.testing.assert_array_equal(again.margin(X), fitted.margin(X))

    @pytest.mark.parametrize("direction", [-1, 1])
    def test_a_monotone_feature_moves_the_margin_one_way(self, family: str, direction: int) -> None:
        X, y = rows()
        fitted = fit(family, X, y, monotone=[direction, 0, 0, 0, 0, 0])
        probe = np.repeat(X[:20, None, :], 60, axis=1)
        probe[:, :, 0] = np.linspace(-40, 40, 60)
        steps = np.diff(fitted.margin(probe.reshape(-1, 6)).reshape(20, 60), axis=1)
        assert (direction * steps >= -1e-6).all()

    def test_wide_data_with_empty_and_constant_columns(self, family: str) -> None:
        rng = np.random.default_rng(0)
        X = np.full((600, 150), np.nan, np.float32)
        X[:, :50] = rng.normal(size=(600, 50))
        X[:, 50:60] = 7
        X[rng.random(600) < 0.02, 60:90] = 1  # almost always missing, else constant
        X[:, 90] = 1.6e9
        X[:, 91] = np.float32(1e-38)
        y = np.nan_to_num(X[:, 0]) > 2
        fitted = fit(family, X, y, params=(of_trees(5, 5) | {"deep": {"steps": 20}}).get(family, {}))
        np.testing.assert_allclose(onnx_margin(fitted, X), fitted.margin(X), atol=2e-5)
        assert fitted.importance()["feature_120"] == 0
        assert len(fitted.importance()) == 150

    def test_five_frauds_are_enough(self, family: str) -> None:
        X, _ = rows(2000)
        y = np.arange(2000) % 400 == 0
        X[y, 0] = 9
        fitted = fit(family, X, y)
        assert fitted.margin(X)[y].min() > np.median(fitted.margin(X)[~y])

    @pytest.mark.parametrize(("label", "message"), [(0, "none of the 50"), (1, "every one of the 50")])
    def test_a_single_class_is_refused(self, family: str, label: int, message: str) -> None:
        with pytest.raises(TrainingError, match=message):
            fit(family, rows(50)[0], np.full(50, label))

    def test_validation_without_fraud_is_not_used(self, family: str) -> None:
        X, y = rows()
        fitted = fit(family, X, y, valid=(X, np.zeros(len(X))))
        np.testing.assert_array_equal(fitted.margin(X), fit(family, X, y).margin(X))

    def test_progress_reaches_its_end(self, family: str) -> None:
        seen: list[tuple[int, int]] = []
        fit(family, *rows(), progress=lambda done, total: seen.append((done, total)))
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] or family == "logistic_regression"  # which may converge earlier

    def test_a_misspelt_parameter_is_refused(self, family: str) -> None:
        with pytest.raises(TrainingError, match=f"{family} has no parameter max_dept; it has: "):
            fit(family, *rows(50), params={"max_dept": 3})

    def test_the_search_space_overrides_defaults(self, family: str) -> None:
        space, defaults = get_family(family).search_space, get_family(family).defaults
        assert set(space) <= set(defaults)
        assert all(defaults[name] in values for name, values in space.items())

    def test_labels_as_integers_and_a_transposed_view_are_fine(self, family: str) -> None:
        X, y = rows()
        as_view = np.asfortranarray(X.astype(np.float64))
        np.testing.assert_array_equal(
            fit(family, as_view, y.astype(int).tolist()).margin(X), fit(family, X, y).margin(X)
        )


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((3, 2), np.float32), [0, 1, 0], r"shape \(3, 2\)"),
        (np.zeros((3, 1), np.float32), [0, 1], r"labels \(2,\)"),
        (np.zeros((3, 1), np.float32), [0, 1, 2], "0 or 1"),
        (np.zeros((0, 1), np.float32), [], "none of the 0"),
    ],
)
def test_broken_training_rows_are_refused(X: base.Matrix, y: list[int], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        base.check_rows(X, y, ["only"])


@pytest.mark.parametrize("monotone", [[1], [0, 2]])
def test_a_wrong_monotone_list_is_refused(monotone: list[int]) -> None:
    with pytest.raises(TrainingError, match="for each of the 2 features"):
        base.make_setup(["a", "b"], monotone, 0, 1)


class TestThinning:
    def test_keeps_every_fraud_and_no_row_twice(self) -> None:
        y = np.arange(200_000) % 1000 == 0
        kept = base.keep_all_frauds(y, 10.0, 100_000, seed=0)
        assert y[kept].sum() == 200
        assert len(np.unique(kept)) == len(kept) == 50_200

    def test_no_more_rows_than_allowed_and_both_classes(self) -> None:
        y = np.arange(1000) % 10 != 0
        kept = base.keep_all_frauds(y, 10.0, 100, seed=0)
        assert len(kept) <= 100
        assert y[kept].any()
        assert not y[kept].all()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_margin_is_that_of_the_whole_population(self, family: str) -> None:
        rng = np.random.default_rng(0)
        X = np.zeros((120_000, 1), np.float32)
        y = rng.random(len(X)) < 0.001
        fitted = fit(family, X, y, params=FASTER.get(family, {}))
        assert fitted.margin(X[:1])[0] == pytest.approx(np.log(y.mean() / (1 - y.mean())), abs=0.1)


class TestXGBoost:
    def test_stops_early_and_keeps_the_best_iteration(self) -> None:
        X, y = rows()
        rng = np.random.default_rng(0)
        noise = (rows(400, seed=2)[0], rng.random(400) < 0.04)
        params = {"n_estimators": 200, "early_stopping_rounds": 5, "early_stopping_frauds": 1}
        fitted = fit("xgboost", X, y, valid=noise, params=params)
        assert 1 <= fitted.size < 100
        assert fitted.refit(X, y).size == fitted.size

    def test_few_validation_frauds_do_not_stop_it(self) -> None:
        X, y = rows()
        noise = (rows(400, seed=2)[0], np.random.default_rng(0).random(400) < 0.04)
        fitted = fit("xgboost", X, y, valid=noise, params={"early_stopping_rounds": 1, "few_frauds_estimators": 10})
        assert fitted.size == 10

    def test_few_frauds_among_very_many_rows_still_split(self) -> None:
        X = np.random.default_rng(0).normal(size=(60_000, 2)).astype(np.float32)
        y = np.arange(60_000) % 10_000 == 0
        X[y, 1] = 9
        fitted = fit("xgboost", X, y, params={"n_estimators": 10})
        assert fitted.margin(X)[y].min() > fitted.margin(X)[~y].mean() + 0.1

    def test_a_value_beyond_training_is_not_taken_for_a_missing_one(self) -> None:
        X = np.array([[1.0], [2.0], [3.0], [np.nan]] * 50, np.float32)
        fitted = fit("xgboost", X, np.isnan(X[:, 0]))
        values = to_model(np.array([[3.0], [1e30], [1e300], [np.inf], [np.nan]]))
        present, *far, missing = fitted.margin(values)
        assert far == [present] * 3
        assert present < missing


class TestRandomForest:
    def test_unanimous_trees_give_a_finite_margin(self) -> None:
        X = np.repeat(np.array([[0.0], [1.0]], np.float32), 100, axis=0)
        margin = fit("random_forest", X, X[:, 0] > 0).margin(X[[0, -1]])
        assert np.isfinite(margin).all()
        assert margin[0] < -2 < 2 < margin[1]

    @given(st.floats(-1e30, 1e30), st.integers(-2, 2))
    def test_rounding_a_threshold_down_changes_no_comparison(self, threshold: float, steps: int) -> None:
        rounded = _round_down(np.array([threshold]))[0]
        x = np.float32(threshold)
        for _ in range(abs(steps)):
            x = np.nextafter(x, np.float32(math.copysign(math.inf, steps)))
        assert (float(x) > threshold) == (x > rounded)


class TestLogisticRegression:
    def test_coefficients_are_those_that_made_the_data(self) -> None:
        rng = np.random.default_rng(0)
        X = (rng.random((40_000, 1)) < 0.5).astype(np.float32)
        y = rng.random(40_000) < np.where(X[:, 0] > 0, 0.2, 0.05)
        low, high = fit("logistic_regression", X, y).margin(np.array([[0], [1]], np.float32))
        assert 1 / (1 + np.exp([-low, -high])) == pytest.approx([0.05, 0.2], abs=0.01)

    def test_a_missing_value_has_its_own_effect(self) -> None:
        X, y = rows(3000)
        X[:, 5] = np.where(y | (X[:, 4] > 1), np.nan, X[:, 5])
        fitted = fit("logistic_regression", X, y)
        known = X[:1].copy()
        known[0, 5] = fitted.scaling.median[5]
        missing = known.copy()
        missing[0, 5] = np.nan
        assert fitted.margin(missing)[0] > fitted.margin(known)[0] + 1

    def test_one_absurd_value_does_not_drown_the_column(self) -> None:
        X, y = rows(3000)
        before = fit("logistic_regression", X, y).margin(X)
        X[7, 0] = 1e30
        after = fit("logistic_regression", X, y).margin(X)
        assert np.corrcoef(before[8:], after[8:])[0, 1] > 0.99


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[_onnx.Tree], Any]:
    """A few random trees over two features whose thresholds come from a short list, so that ties are common."""
    comparison = draw(st.sampled_from("<>"))
    grid = st.sampled_from([-1.0, 0.0, 0.1, 1.0, 1e-45, 3e38])
    trees = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            trees.append(_onnx.constant_tree(draw(grid)))
            continue
        feature = np.array([draw(st.integers(0, 1)), draw(st.integers(0, 1)), -1, -1, -1])
        trees.append(
            _onnx.Tree(
                feature=feature,
                threshold=np.array([draw(grid), draw(grid), 0, 0, 0], np.float32),
                if_true=np.array([1, 3, -1, -1, -1]),
                if_false=np.array([2, 4, -1, -1, -1]),
                missing_is_true=np.array([draw(st.booleans()), draw(st.booleans()), False, False, False]),
                value=np.array([0, 0, *(draw(st.integers(-4, 4)) for _ in range(3))], np.float32),
            )
        )
    return trees, comparison


def walk(tree: _onnx.Tree, comparison: str, x: base.Matrix) -> float:
    """What :class:`_onnx.Tree` says, literally."""
    node = 0
    while tree.if_true[node] >= 0:
        value, threshold = x[tree.feature[node]], tree.threshold[node]
        goes = value < threshold if comparison == "<" else value > threshold
        if np.isnan(value):
            goes = tree.missing_is_true[node]
        node = (tree.if_true if goes else tree.if_false)[node]
    return float(tree.value[node])


@settings(deadline=None, max_examples=60)
@given(forests(), st.integers(0, 2**32 - 1))
def test_the_tree_writer_does_what_a_tree_says(forest: tuple[list[_onnx.Tree], Any], seed: int) -> None:
    trees, comparison = forest
    model = _onnx.margin_model([_onnx.tree_sum_node(trees, comparison, "sum")], {}, 2)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    grid = np.array([-1, 0, 0.1, 1, 1e-45, 3e38, np.nan, np.inf, -np.inf, 0.5], np.float32)
    X = np.random.default_rng(seed).choice(grid, (20, 2))
    expected = [sum(walk(tree, comparison, x) for tree in trees) for x in X]
    np.testing.assert_allclose(session.run(None, {"features": X})[0], expected, rtol=1e-6)
    alone = [session.run(None, {"features": x[None]})[0][0] for x in X[:3]]
    np.testing.assert_allclose(alone, expected[:3], rtol=1e-6)
