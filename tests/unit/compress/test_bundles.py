"""A compressed bundle loads, says where it comes from, and is measured on rows that nobody trained on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.decisions.costs import Costs
from fraudml.errors import BundleError, ConfigError
from fraudml.features.spec import AttributeFeature, DerivedFeature, FeatureSet
from fraudml.models import bundle
from fraudml.models.bundle import Bundle, Thresholds, TrainingRecord
from fraudml.training import packing, split
from fraudml.training.compress import measure, subset
from fraudml.training.compress.bundles import Compressed, Subject, pruned, reweighted, with_fewer_features
from fraudml.training.compress.weights import Weights
from fraudml.training.dataset import Dataset
from fraudml.training.train import LocalResult, Options, finish, train
from tests.support.graphs import perceptron
from tests.support.scoring import FEATURES
from tests.support.training import make_dataset

COSTS = Costs(reviews_per_day=20)


def quiet(_name: str) -> Any:
    return lambda done, total: None


@pytest.fixture(scope="module")
def data() -> Dataset:
    found = make_dataset(4_000)
    found.x[::7, 2] = np.nan
    return found


@pytest.fixture(scope="module")
def trained(data: Dataset) -> LocalResult:
    return train(data, FEATURES, COSTS, Options(("random_forest",)), quiet)


@pytest.fixture(scope="module")
def source(trained: LocalResult, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A random forest that has not seen the test period."""
    place = tmp_path_factory.mktemp("source") / "bundle"
    packing.pack(trained, trained.candidates[0], place)
    return bundle.load(place, version="4")


@pytest.fixture(scope="module")
def subject(source: Bundle, data: Dataset) -> Subject:
    return Subject(source, data, COSTS, Options(("random_forest",), seed=source.manifest.training.seed))


@pytest.fixture(scope="module")
def made(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, Path]:
    place = tmp_path_factory.mktemp("pruned") / "bundle"
    return pruned(subject, 0.05, place), place


def test_the_pruned_bundle_loads_and_is_smaller(made: tuple[Compressed, Path], source: Bundle, data: Dataset) -> None:
    found, place = made
    loaded = bundle.load(place, expect=FEATURES)
    assert loaded.manifest == found.manifest
    assert found.after.size_bytes == (place / bundle.MODEL_FILE).stat().st_size < found.before.size_bytes
    moved = np.abs(loaded.runtime.score(data.x) - source.runtime.score(data.x)).max()
    assert found.largest_move is not None
    assert 0 < found.largest_move <= moved <= 0.05


def test_it_says_where_it_comes_from(made: tuple[Compressed, Path], source: Bundle) -> None:
    manifest = made[0].manifest
    lineage = manifest.compression
    assert lineage is not None
    assert (lineage.source, lineage.source_sha256) == ("4", source.manifest.onnx_sha256)
    assert (lineage.method, lineage.settings["tolerance"]) == ("prune", 0.05)
    assert manifest.onnx_sha256 != source.manifest.onnx_sha256
    for same in ("training", "family", "fingerprint", "background", "reference_inputs", "schema"):
        assert getattr(manifest, same) == getattr(source.manifest, same)


def test_before_is_what_training_measured(made: tuple[Compressed, Path], trained: LocalResult) -> None:
    found, candidate = made[0], trained.candidates[0]
    assert found.unseen
    assert found.before.metrics == pytest.approx(candidate.test_metrics, abs=1e-6)
    assert found.before.money == pytest.approx(candidate.money, rel=1e-6)
    assert found.manifest.metrics == {**found.after.metrics, "money": found.after.money}
    assert found.after.metrics["roc_auc"] == pytest.approx(found.before.metrics["roc_auc"], abs=0.02)


def test_as_many_are_reviewed_and_declined(
    made: tuple[Compressed, Path], source: Bundle, trained: LocalResult, data: Dataset
) -> None:
    rows = data.x[trained.parts.valid]
    before, after = source.runtime.score(rows), bundle.load(made[1]).runtime.score(rows)
    old, new = source.manifest.thresholds, made[0].manifest.thresholds
    for name in ("review", "decline"):
        assert (after >= getattr(new, name)).sum() == (before >= getattr(old, name)).sum()


def test_latency_is_measured_at_both_sizes(made: tuple[Compressed, Path]) -> None:
    for figures in (made[0].before, made[0].after):
        assert set(figures.us_per_row) == set(measure.BATCHES)
        assert figures.us_per_row[1] > figures.us_per_row[256] > 0


def test_by_history_is_smaller_still_and_says_so(
    subject: Subject, made: tuple[Compressed, Path], tmp_path: Path
) -> None:
    found = pruned(subject, 0.05, tmp_path, by_history=True)
    bundle.load(tmp_path, expect=FEATURES)
    assert found.after.size_bytes < made[0].after.size_bytes
    assert found.manifest.compression is not None
    assert found.manifest.compression.settings["bound"] > 0.05


def test_a_refitted_model_is_measured_on_what_it_has_not_seen(
    trained: LocalResult, data: Dataset, tmp_path: Path
) -> None:
    packing.pack(trained, finish(trained, trained.candidates[0], quiet), tmp_path / "source")
    source = bundle.load(tmp_path / "source", version="5")
    subject = Subject(source, data, COSTS, trained.options)
    found = pruned(subject, 0.01, tmp_path / "new")
    fresh = trained.parts.test & (data.event_time_us >= source.manifest.training.until_us)
    assert 0 < fresh.sum() < trained.parts.test.sum()
    assert (found.unseen, found.after.metrics["rows"]) == (True, fresh.sum())
    everything = replace(data, known_at_us=data.event_time_us)
    seen = msgspec.structs.replace(source.manifest.training, until_us=int(data.event_time_us.max()) + 1)
    manifest = msgspec.structs.replace(source.manifest, training=seen)
    subject = Subject(
        Bundle(manifest, FEATURES, source.runtime, "5", source.directory), everything, COSTS, trained.options
    )
    found = pruned(subject, 0.01, tmp_path / "seen")
    assert not found.unseen
    assert found.manifest.metrics == manifest.metrics, "figures on rows trained on would promise too much"


def test_fewer_features_are_another_model_of_the_same_family(
    subject: Subject, source: Bundle, trained: LocalResult, tmp_path: Path
) -> None:
    found = with_fewer_features(subject, 3, quiet, tmp_path)
    loaded = bundle.load(tmp_path)
    names = loaded.feature_set.input_names
    assert len(names) == 3
    assert set(FEATURES.input_names[:2]) <= set(names), "the two that the labels depend on"
    assert loaded.manifest.fingerprint != source.manifest.fingerprint
    assert loaded.manifest.family == "random_forest"
    assert loaded.manifest.training.refitted
    assert loaded.manifest.training.parameters == source.manifest.training.parameters
    assert found.before.metrics == pytest.approx(trained.candidates[0].test_metrics), "fitted like the source"
    assert (found.unseen, found.largest_move) == (True, None)
    assert loaded.manifest.metrics == {**found.after.metrics, "money": found.after.money}
    assert loaded.manifest.compression == bundle.Compression(
        "4", source.manifest.onnx_sha256, "features", {"inputs": list(names)}
    )
    with pytest.raises(ConfigError, match="below 5, the inputs of the model"):
        with_fewer_features(subject, 5, quiet, tmp_path)


@pytest.mark.parametrize("stored", Weights)
def test_weights_in_fewer_bits(stored: Weights, source: Bundle, data: Dataset, tmp_path: Path) -> None:
    model = perceptron(5, 64)
    runtime = bundle.Runtime(model)
    inputs = bundle.as_matrix(source.manifest.reference_inputs, 5)
    manifest = msgspec.structs.replace(
        source.manifest,
        family="deep",
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        reference_scores=runtime.score(inputs).tolist(),
    )
    bundle.save(tmp_path / "deep", model, manifest)
    subject = Subject(bundle.load(tmp_path / "deep", version="6"), data, COSTS, Options())
    found = reweighted(subject, stored, tmp_path / "new")
    bundle.load(tmp_path / "new", expect=FEATURES)
    assert found.after.size_bytes < found.before.size_bytes
    assert found.manifest.compression == bundle.Compression(
        "6", manifest.onnx_sha256, "weights", {"stored_as": stored.value}
    )
    with pytest.raises(ConfigError, match="has none"):
        pruned(subject, 0.01, tmp_path / "none")


def test_a_bundle_without_a_directory_is_refused(source: Bundle, data: Dataset, tmp_path: Path) -> None:
    subject = Subject(Bundle(source.manifest, FEATURES, source.runtime, "1"), data, COSTS, Options())
    with pytest.raises(BundleError, match="from a directory"):
        pruned(subject, 0.01, tmp_path)


def test_the_most_important_inputs_keep_what_they_are_derived_from() -> None:
    declared = FeatureSet(
        FEATURES.schema,
        [
            AttributeFeature(name="amount", of="amount"),
            AttributeFeature(name="hour", of="event_time", transform="hour_of_day"),  # type: ignore[arg-type]
            DerivedFeature(name="double", expression="2 * amount"),
            DerivedFeature(name="fourfold", expression="2 * double"),
            DerivedFeature(name="late", expression="hour - 12"),
        ],
    )
    shares = {"fourfold": 0.5, "late": 0.2, "hour": 0.15, "amount": 0.1, "double": 0.05}
    found = subset.most_important(declared, shares, 1)
    assert [(f.name, f.input) for f in found.features] == [("amount", False), ("double", False), ("fourfold", True)]
    assert subset.most_important(declared, shares, 3).input_names == ("hour", "fourfold", "late")
    with pytest.raises(ConfigError):
        subset.most_important(declared, shares, 5)


@given(
    st.integers(0, 10_000),
    st.integers(1, 30),
    st.tuples(st.floats(0, 1.1), st.floats(0, 1.1)),
    st.sampled_from([1, 4, 50]),
)
def test_moved_thresholds_keep_the_counts_where_scores_differ(
    seed: int, rows: int, thresholds: tuple[float, float], steps: int
) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, steps + 1, rows) / steps, rng.permutation(rows) / rows
    old = Thresholds(*sorted(thresholds))
    new = measure.same_shares(old, before, after)
    assert 0 <= new.review <= new.decline
    for name in ("review", "decline"):
        assert (after >= getattr(new, name)).sum() == (before >= getattr(old, name)).sum()
    assert measure.same_shares(old, before, before) == old


def test_moved_thresholds_stay_near_the_old_ones() -> None:
    """No score moved by more than 0.11, so no threshold has to move further."""
    for scores, last, decline in ([0.1, 0.2, 0.3, 0.4], 0.51, 0.5), ([0.1, 0.2, 0.3, 0.975], 0.981, 0.98):
        new = measure.same_shares(Thresholds(0.2, decline), np.array(scores), np.array([*scores[:3], last]))
        assert new.review == 0.2
        assert last < new.decline < last + 1e-9


def test_unseen_rows_need_frauds(data: Dataset) -> None:
    parts = split.by_time(data)
    record = TrainingRecord(0, int(data.event_time_us[-20]), 1, 1, "", 0)
    rows, unseen = measure.unseen(data, parts, record)
    assert not unseen
    assert rows is parts.test
