"""What is packed is what was trained: it loads, scores the same and says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fraudml.errors import ExportError
from fraudml.models import bundle
from fraudml.models.explain import Explainer
from fraudml.training import packing, split
from fraudml.training.families import get_family
from fraudml.training.report import page
from fraudml.training.train import LocalResult, finish
from tests.support.scoring import FEATURES
from tests.support.training import LinearModel, make_candidate, make_dataset, make_result


@pytest.fixture(scope="module")
def result() -> LocalResult:
    data = make_dataset(3_000)
    data.x[::7, 2] = np.nan
    return make_result(data)


def quiet(_name: str) -> Any:
    return lambda done, total: None


def test_the_bundle_scores_like_the_candidate(result: LocalResult, tmp_path: Path) -> None:
    best = result.candidates[0]
    packing.pack(result, best, tmp_path)
    loaded = bundle.load(tmp_path, expect=FEATURES)
    test = result.data.take(result.parts.test)
    np.testing.assert_allclose(loaded.runtime.score(test.x), best.scores, atol=1e-5)


def test_the_manifest_says_what_was_trained_on_what(result: LocalResult, tmp_path: Path) -> None:
    best = result.candidates[0]
    manifest = packing.pack(result, best, tmp_path)
    trained = result.data.take(result.parts.train)
    record = manifest.training
    assert manifest == bundle.read_manifest(tmp_path)
    assert (record.rows, record.frauds, record.refitted) == (len(trained), trained.frauds, False)
    assert (record.since_us, record.until_us) == (trained.event_time_us[0], trained.event_time_us[-1] + 1)
    assert record.data_hash == trained.content_hash()
    assert record.parameters == best.model.params
    assert manifest.metrics == {**best.test_metrics, "money": best.money}
    assert manifest.thresholds == best.thresholds
    assert (manifest.family, manifest.fingerprint) == ("linear_1", FEATURES.fingerprint)


def test_a_refitted_candidate_keeps_the_measured_figures(result: LocalResult, tmp_path: Path) -> None:
    best = result.candidates[0]
    finished = finish(result, best, quiet)
    manifest = packing.pack(result, finished, tmp_path)
    mature = result.data.take(split.mature(result.data))
    assert finished.model.params["bias"] == best.model.params["bias"] + 1, "the model is the refitted one"
    assert manifest.training.refitted
    assert (manifest.training.rows, manifest.training.data_hash) == (len(mature), mature.content_hash())
    assert manifest.metrics == {**best.test_metrics, "money": best.money}
    assert manifest.thresholds == best.thresholds


def test_reference_inputs_have_missing_values_and_the_background_is_genuine(
    result: LocalResult, tmp_path: Path
) -> None:
    manifest = packing.pack(result, result.candidates[0], tmp_path)
    assert len(manifest.reference_inputs) == packing.REFERENCE_ROWS + 1
    assert manifest.reference_inputs[-1] == [None] * 5
    assert len(manifest.background) == packing.BACKGROUND_ROWS
    trained = result.data.take(result.parts.train)
    genuine = {row.tobytes() for row in trained.x[trained.y == 0]}
    background = bundle.as_matrix(manifest.background, 5)
    assert all(row.tobytes() in genuine for row in background)
    # an explanation may look at the first few alone: they have to come from the whole period
    place = {row.tobytes(): i / len(trained) for i, row in enumerate(trained.x)}
    first = [place[row.tobytes()] for row in background[:8]]
    assert min(first) < 0.4
    assert max(first) > 0.6


def test_a_cascade_is_packed_explained_and_reported_like_any_model(result: LocalResult, tmp_path: Path) -> None:
    fitting, checking = (result.data.take(rows) for rows in (result.parts.train, result.parts.valid))
    fitted = get_family("cascade").fit(
        fitting.x,
        fitting.y,
        valid=(checking.x, checking.y),
        feature_names=FEATURES.input_names,
        params={"accurate": "logistic_regression", "recall_loss": 0.5, "false_positive_rate": 0.1},
    )
    candidate = make_candidate("cascade", fitted, result.data, result.parts, result.costs)
    manifest = packing.pack(result, candidate, tmp_path)
    told = manifest.cascade
    assert told is not None
    assert (told.fast, told.accurate, told.recall_loss) == ("logistic_regression", "logistic_regression", 0.5)
    assert 0 < told.low < told.high <= 1
    assert 0 < told.fast_share_valid < 1
    assert manifest.metrics["fast_share"] == told.fast_share_test
    assert all(min(each.fast_us, each.accurate_us, each.cascade_us) > 0 for each in told.times)

    loaded = bundle.load(tmp_path, expect=FEATURES)
    testing = result.data.take(result.parts.test)
    np.testing.assert_allclose(loaded.runtime.score(testing.x), candidate.scores, atol=1e-5)
    in_band = loaded.runtime.fetch(["fast_probability", "stage"], testing.x)
    np.testing.assert_array_equal((in_band[0] >= told.low) & (in_band[0] <= told.high), in_band[1])
    explanation = Explainer(loaded).explain(testing.x[0].astype(np.float64))
    total = explanation.base_log_odds + sum(reason.contribution for reason in explanation.reasons)
    assert total == pytest.approx(explanation.log_odds)
    assert "answers" in page.render(replace(result, candidates=[candidate]))


def test_the_same_seed_packs_the_same(result: LocalResult, tmp_path: Path) -> None:
    manifests = [packing.pack(result, result.candidates[0], tmp_path / str(i)) for i in range(2)]
    first, second = (replace_created(manifest) for manifest in manifests)
    assert first == second
    assert (tmp_path / "0" / bundle.MODEL_FILE).read_bytes() == (tmp_path / "1" / bundle.MODEL_FILE).read_bytes()


def replace_created(manifest: bundle.Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__struct_fields__ if name != "created_at"}


@dataclass(frozen=True)
class LyingModel(LinearModel):
    """Its ONNX scores a hair differently."""

    def margin(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        return super().margin(X) + 0.001


def test_a_model_whose_export_differs_is_not_packed(result: LocalResult, tmp_path: Path) -> None:
    liar = replace(result.candidates[0], model=LyingModel((1.8, 1.0, 0.0, 0.0, 0.0)))
    with pytest.raises(ExportError, match="differently from the trained model"):
        packing.pack(result, liar, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
