"""The bundle: one directory with everything needed to score, verified before it may serve.

``model.onnx`` reads float32 ``[n, k]`` and gives the calibrated probability; ``manifest.json`` says what the
columns are, where the model comes from, how good it was, and which scores some reference inputs must get.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.errors import BundleError, ConfigError, FeatureError
from fraudml.events.schema import Schema
from fraudml.features.spec import Feature, FeatureSet
from fraudml.models.cascade import Cascade
from fraudml.models.runtime import Runtime

FORMAT_VERSION = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
SCORE_TOLERANCE = 1e-5


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Probabilities from which the policy reviews and declines; ``review <= decline``; above 1 means never."""

    review: float
    decline: float


class TrainingRecord(msgspec.Struct, frozen=True):
    """Where a model comes from. Times are microseconds UTC; ``data_hash`` is over the rows trained on.

    ``code``: the revision of the project's own repository, where it has one; ``command``: what was run.
    """

    since_us: int
    until_us: int
    rows: int
    frauds: int
    data_hash: str
    seed: int
    parameters: dict[str, Any] = {}
    refitted: bool = False
    code: str = ""
    command: str = ""


class Compression(msgspec.Struct, frozen=True):
    """What a compressed bundle was made of, and how: the version of the ``source`` and the SHA-256 of its model, the
    ``method`` (``prune``, ``weights`` or ``features``) and its ``settings``."""

    source: str
    source_sha256: str
    method: str
    settings: dict[str, Any] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``manifest.json``.

    ``metrics`` are those of the held-back period. ``reference_inputs`` are model inputs with the scores they
    must get; ``background`` are typical genuine inputs (``None`` is missing), the baseline of explanations.
    ``example`` is a raw transaction made of typical values. ``cascade``: of a cascade, how it routes.
    """

    format_version: int = FORMAT_VERSION
    fraudml_version: str
    created_at: str
    family: str
    schema: Schema
    features: tuple[Feature, ...]
    fingerprint: str
    training: TrainingRecord
    metrics: dict[str, Any]
    thresholds: Thresholds
    onnx_sha256: str
    reference_inputs: list[list[float | None]]
    reference_scores: list[float]
    background: list[list[float | None]]
    example: dict[str, Any] = {}
    compression: Compression | None = None
    cascade: Cascade | None = None


class Bundle:
    """A verified bundle in memory: ``manifest``, ``feature_set``, ``runtime`` and the ``version`` it goes by.

    ``directory`` is where its files are, for who hands them on to other machines.
    """

    def __init__(
        self,
        manifest: Manifest,
        feature_set: FeatureSet,
        runtime: Runtime,
        version: str,
        directory: Path | None = None,
    ) -> None:
        self.manifest = manifest
        self.feature_set = feature_set
        self.runtime = runtime
        self.version = version
        self.directory = directory


def save(directory: Path, onnx_model: bytes, manifest: Manifest) -> None:
    """Write a bundle; the directory is made. The manifest is written last: without it there is no bundle."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL_FILE).write_bytes(onnx_model)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (directory / MANIFEST_FILE).write_bytes(text)


def load(directory: Path, *, expect: FeatureSet | None = None, version: str | None = None) -> Bundle:
    """Read a bundle and verify it; raises BundleError with the reason when it must not serve.

    Checked: the format, the hash of the ONNX file, that the declared features have the declared fingerprint,
    that ``expect`` (the FeatureSet in use) has all of them that need history, and that the reference inputs get their
    scores.
    """
    manifest = read_manifest(directory)
    if not 0 <= manifest.thresholds.review <= manifest.thresholds.decline:
        raise BundleError(f"bundle {directory}: the thresholds must rise from review to decline")
    try:
        model = (directory / MODEL_FILE).read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {directory}: cannot read {MODEL_FILE}: {error.strerror}") from None
    if hashlib.sha256(model).hexdigest() != manifest.onnx_sha256:
        raise BundleError(f"bundle {directory}: {MODEL_FILE} is corrupt (its SHA-256 is not the manifest's)")
    try:
        feature_set = FeatureSet(manifest.schema.check(), manifest.features)
    except ConfigError as error:
        raise BundleError(f"bundle {directory}: {error}") from None
    if feature_set.fingerprint != manifest.fingerprint:
        raise BundleError(f"bundle {directory}: its features do not have its fingerprint; it was changed by hand")
    if expect is not None:
        try:
            feature_set.places_in(expect)
        except FeatureError as error:
            raise BundleError(
                f"bundle {directory} was trained on another FeatureSet ({manifest.fingerprint[:12]}) than the project "
                f"declares ({expect.fingerprint[:12]}): {error}; or train again"
            ) from None
    runtime = Runtime(model)
    _self_test(directory, manifest, runtime)
    return Bundle(manifest, feature_set, runtime, version or manifest.onnx_sha256[:12], directory)


def read_manifest(directory: Path) -> Manifest:
    """The manifest alone, not verified against the model; raises BundleError."""
    try:
        text = (directory / MANIFEST_FILE).read_bytes()
        found = msgspec.json.decode(text)
        version = found.get("format_version") if isinstance(found, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(
                f"bundle {directory} has format {version!r}; this fraudml reads format {FORMAT_VERSION}: "
                "use the version of fraudml that made it, or train again"
            )
        return msgspec.convert(found, Manifest)
    except OSError as error:
        raise BundleError(f"{directory} is no bundle: cannot read {MANIFEST_FILE}: {error.strerror}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BundleError(f"bundle {directory}: {MANIFEST_FILE} is corrupt: {error}") from None


def as_matrix(rows: list[list[float | None]], width: int) -> NDArray[np.float32]:
    """Rows with ``None`` for missing as float32 ``[n, width]`` with NaN."""
    matrix = np.array([[math.nan if v is None else v for v in row] for row in rows], dtype=np.float32)
    return matrix.reshape(len(rows), width)


def as_rows(matrix: NDArray[np.float32]) -> list[list[float | None]]:
    """The inverse of :func:`as_matrix`.

    >>> as_rows(as_matrix([[1.5, None]], 2))
    [[1.5, None]]
    """
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]


def now_iso() -> str:
    """The current time, ISO 8601 UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _self_test(directory: Path, manifest: Manifest, runtime: Runtime) -> None:
    width = len([feature for feature in manifest.features if feature.input])
    try:
        inputs = as_matrix(manifest.reference_inputs, width)
        background = as_matrix(manifest.background, width)
        scores = runtime.score(inputs)
    except (ValueError, BundleError) as error:
        raise BundleError(f"bundle {directory}: the self-test cannot run: {error}") from None
    if not len(scores) or not len(background) or len(scores) != len(manifest.reference_scores):
        raise BundleError(f"bundle {directory}: the reference inputs, their scores or the background are missing")
    differences = np.abs(scores - np.array(manifest.reference_scores))
    if not np.all(differences <= SCORE_TOLERANCE):
        raise BundleError(
            f"bundle {directory}: the model does not give the reference scores "
            f"(largest difference {differences.max(initial=0):.2g}); it must not serve"
        )
