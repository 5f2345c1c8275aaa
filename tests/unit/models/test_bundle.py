"""A bundle serves only when everything in it fits together; each reason why not is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fraudml.errors import BundleError
from fraudml.features.spec import AttributeFeature, FeatureSet
from fraudml.models import bundle
from fraudml.models.bundle import Thresholds
from tests.support.bundles import linear_model, make_bundle
from tests.support.scoring import FEATURES

Document = dict[str, Any]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "bundle", FEATURES, weights=[1, 0, 0, 0, 0], bias=-2)
    return tmp_path / "bundle"


def edit(directory: Path, change: Callable[[Document], object]) -> None:
    path = directory / bundle.MANIFEST_FILE
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def replace_model(directory: Path, model: bytes) -> None:
    """Another model, with its hash in the manifest."""
    (directory / bundle.MODEL_FILE).write_bytes(model)
    edit(directory, lambda d: d.update(onnx_sha256=hashlib.sha256(model).hexdigest()))


def refused(directory: Path, reason: str, **expected: Any) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        bundle.load(directory, **expected)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_saved_is_loaded(directory: Path) -> None:
    loaded = bundle.load(directory, expect=FEATURES)
    assert loaded.feature_set.fingerprint == FEATURES.fingerprint
    assert loaded.feature_set.input_names == FEATURES.input_names
    assert loaded.manifest.thresholds == Thresholds(0.3, 0.9)
    assert loaded.manifest.schema == FEATURES.schema
    assert loaded.version == loaded.manifest.onnx_sha256[:12]
    assert bundle.load(directory, version="7").version == "7"
    row = np.array([[2, 9, 9, 9, 9]], np.float32)
    assert loaded.runtime.score(row).tolist() == [0.5]  # log-odds 1 * 2 - 2


def test_one_flipped_bit_of_the_model_is_noticed(directory: Path) -> None:
    path = directory / bundle.MODEL_FILE
    model = bytearray(path.read_bytes())
    model[len(model) // 2] ^= 1
    path.write_bytes(bytes(model))
    refused(directory, r"model\.onnx is corrupt")


@pytest.mark.parametrize("name", [bundle.MODEL_FILE, bundle.MANIFEST_FILE])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    refused(directory, f"cannot read {name}: No such file")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1}', b'{"format_version": 1, "schema": []}']
)
def test_a_manifest_that_is_none(directory: Path, text: bytes) -> None:
    (directory / bundle.MANIFEST_FILE).write_bytes(text)
    refused(directory, r"manifest\.json is corrupt")


@pytest.mark.parametrize("text", [b"[]", b"3", b"{}", b'{"format_version": 2}', b'{"format_version": "1"}'])
def test_another_format_says_what_to_do(directory: Path, text: bytes) -> None:
    (directory / bundle.MANIFEST_FILE).write_bytes(text)
    refused(directory, r"has format .*this fraudml reads format 1.*train again")


def test_features_changed_by_hand(directory: Path) -> None:
    edit(directory, lambda d: d["features"][2].update(length="2d"))
    refused(directory, "changed by hand")


def test_features_that_cannot_be(directory: Path) -> None:
    edit(directory, lambda d: d["features"][2].update(over="nobody"))
    refused(directory, "feature 'n_1d'")


def test_another_feature_set_than_the_projects(directory: Path) -> None:
    other = FeatureSet(FEATURES.schema, [AttributeFeature("amount", of="amount")])
    refused(directory, f"{FEATURES.fingerprint[:12]}.*{other.fingerprint[:12]}.*train again", expect=other)


def test_a_file_that_is_no_model(directory: Path) -> None:
    replace_model(directory, b"not a model")
    with pytest.raises(BundleError, match="cannot load the model"):
        bundle.load(directory)


def test_a_model_with_another_number_of_inputs(directory: Path) -> None:
    replace_model(directory, linear_model([1, 1], 0))
    refused(directory, "self-test cannot run")


def test_a_model_that_scores_otherwise(directory: Path) -> None:
    replace_model(directory, linear_model([1, 0, 0, 0, 0], -2.001))
    refused(directory, "does not give the reference scores .*must not serve")


def test_a_difference_within_the_tolerance_serves(directory: Path) -> None:
    replace_model(directory, linear_model([1, 0, 0, 0, 0], -2.000_001))
    bundle.load(directory)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(reference_inputs=[], reference_scores=[]), "missing"),
        (lambda d: d["reference_scores"].pop(), "missing"),
        (lambda d: d.update(reference_scores=d["reference_scores"][:1]), "missing"),
        (lambda d: d.update(background=[]), "missing"),
        (lambda d: d["background"][0].pop(), "self-test cannot run"),
        (lambda d: d["reference_inputs"][0].append(1.0), "self-test cannot run"),
        (lambda d: d["reference_scores"].__setitem__(0, 0.9999), "does not give the reference scores"),
        (lambda d: d.update(thresholds={"review": 0.9, "decline": 0.1}), "thresholds must rise"),
        (lambda d: d.update(thresholds={"review": -0.1, "decline": 0.1}), "thresholds must rise"),
        (lambda d: d.update(thresholds={"review": 0.1}), "corrupt"),
        (lambda d: d.update(reference_scores=["high"] * 4), "corrupt"),
    ],
)
def test_parts_that_do_not_fit(directory: Path, change: Callable[[Document], object], reason: str) -> None:
    edit(directory, change)
    refused(directory, reason)


def test_a_bundle_without_its_manifest_was_never_finished(tmp_path: Path) -> None:
    """The manifest is written last, so a crash in between leaves no bundle."""
    (tmp_path / bundle.MODEL_FILE).write_bytes(linear_model([1], 0))
    refused(tmp_path, "is no bundle")


def test_a_manifest_of_a_later_minor_version_still_loads(directory: Path) -> None:
    edit(directory, lambda d: d.update(added_later={"x": 1}))
    bundle.load(directory, expect=FEATURES)


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_infinity=False)))
def test_matrices_survive_the_manifest(matrix: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    rows = json.loads(json.dumps(bundle.as_rows(matrix)))
    np.testing.assert_array_equal(bundle.as_matrix(rows, 4), matrix)
