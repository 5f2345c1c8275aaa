"""A compressed bundle of a bundle: made, measured beside it on history, and written to a directory.

Trees and weights are compressed in the registered model itself. With fewer features the same family is trained
again with the same parameters; the figures before and after are then both those of models fitted without the
held-back period, as in :mod:`fraudml.training.train`, and what is written is refitted on all mature rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml import __version__
from fraudml.decisions.costs import Costs
from fraudml.errors import BundleError, ExportError
from fraudml.features.spec import FeatureSet
from fraudml.models import bundle
from fraudml.models.bundle import Bundle, Compression, Manifest, Thresholds
from fraudml.models.runtime import Runtime
from fraudml.training import evaluate, families, money, packing, split, train
from fraudml.training.compress import measure, prune, subset, weights
from fraudml.training.compress.measure import Figures
from fraudml.training.dataset import Dataset
from fraudml.training.train import Options, StepReport

ROUNDING = 1e-6  # of a score, by float32 sums


@dataclass(frozen=True)
class Subject:
    """A bundle loaded from a directory, the history to measure it on (with its inputs), and what mistakes cost."""

    bundle: Bundle
    data: Dataset
    costs: Costs
    options: Options

    @property
    def model(self) -> bytes:
        """The serialised ONNX model."""
        if self.bundle.directory is None:
            raise BundleError("only a bundle that was loaded from a directory can be compressed")
        return (self.bundle.directory / bundle.MODEL_FILE).read_bytes()

    @property
    def decimals(self) -> int:
        """Of the amount."""
        amount = self.bundle.manifest.schema.amount
        return amount.decimals if amount else 0

    def lineage(self, method: str, settings: dict[str, Any]) -> Compression:
        """What a bundle made of this one says of it."""
        return Compression(self.bundle.version, self.bundle.manifest.onnx_sha256, method, settings)


@dataclass(frozen=True)
class Compressed:
    """What was made, and how it compares. ``unseen``: neither model was trained on the rows measured.

    ``largest_move``: the largest change of a score on the held-back period; ``None`` where another model was trained.
    """

    manifest: Manifest
    before: Figures
    after: Figures
    unseen: bool
    largest_move: float | None = None


def pruned(subject: Subject, tolerance: float, to: Path, *, by_history: bool = False) -> Compressed:
    """With trees pruned such that no score moves by more than ``tolerance``; ``by_history`` makes sure of that only
    for the transactions before the held-back period. See the module prune."""
    parts = split.by_time(subject.data, test_share=subject.options.test_share)
    history = subject.data.x[subject.data.event_time_us < parts.test_start_us] if by_history else None
    made = prune.prune(subject.model, tolerance, history=history)
    settings = {
        "tolerance": tolerance,
        "by_history": by_history,
        "bound": made.bound,
        "nodes": [*made.nodes],
        "trees": [*made.trees],
    }
    found = _smaller(subject, parts, made.model, subject.lineage("prune", settings), to)
    if not by_history and found.largest_move is not None and found.largest_move > tolerance + ROUNDING:
        raise ExportError(
            f"a score of the pruned model moved by {found.largest_move:.3g}, more than the tolerance {tolerance:g}; "
            "do not use it, and report this with the version of onnxruntime"
        )
    return found


def reweighted(subject: Subject, stored: weights.Weights, to: Path) -> Compressed:
    """With weights in fewer bits; see the module weights."""
    parts = split.by_time(subject.data, test_share=subject.options.test_share)
    model = weights.shrink(subject.model, stored)
    return _smaller(subject, parts, model, subject.lineage("weights", {"stored_as": stored.value}), to)


def with_fewer_features(subject: Subject, count: int, step: StepReport, to: Path) -> Compressed:
    """Trained again with the ``count`` inputs that matter most to the same family fitted to the training period."""
    data, whole = subject.data, subject.bundle.feature_set
    parts = split.by_time(data, test_share=subject.options.test_share)
    before = _fit(subject, data, whole, parts, step)
    smaller = subset.most_important(whole, before.model.importance(), count)
    columns = [whole.input_names.index(name) for name in smaller.input_names]
    narrow = replace(data, x=np.ascontiguousarray(data.x[:, columns]))
    after = _fit(subject, narrow, smaller, parts, step)
    result = train.LocalResult([after], parts, narrow, smaller, subject.costs, subject.options)
    manifest = msgspec.structs.replace(
        packing.pack(result, train.finish(result, after, step), to),
        compression=subject.lineage("features", {"inputs": [*smaller.input_names]}),
    )
    model = (to / bundle.MODEL_FILE).read_bytes()
    bundle.save(to, model, manifest)
    inputs = data.x[parts.test], narrow.x[parts.test]
    times = measure.latencies([subject.bundle.runtime, Runtime(model)], inputs)
    figures = [
        Figures(size, time, candidate.test_metrics, candidate.money)
        for size, time, candidate in zip((len(subject.model), len(model)), times, (before, after), strict=True)
    ]
    return Compressed(manifest, figures[0], figures[1], unseen=True)


def _smaller(subject: Subject, parts: split.Split, model: bytes, lineage: Compression, to: Path) -> Compressed:
    """The bundle with another ONNX model of the same inputs."""
    source = subject.bundle.manifest
    runtimes = subject.bundle.runtime, Runtime(model)
    checking = [runtime.score(subject.data.x[parts.valid]) for runtime in runtimes]
    thresholds = source.thresholds, measure.same_shares(source.thresholds, *checking)
    testing = subject.data.take(parts.test)
    scores = [runtime.score(testing.x) for runtime in runtimes]
    times = measure.latencies(runtimes, (testing.x, testing.x))
    rows, unseen = measure.unseen(subject.data, parts, source.training)
    fresh = rows[parts.test]
    figures = [
        _figures(subject, testing.take(fresh), each[fresh], limits, (len(content), time))
        for content, each, limits, time in zip((subject.model, model), scores, thresholds, times, strict=True)
    ]
    inputs = bundle.as_matrix(source.reference_inputs, len(subject.bundle.feature_set.inputs))
    manifest = msgspec.structs.replace(
        source,
        fraudml_version=__version__,
        created_at=bundle.now_iso(),
        thresholds=thresholds[1],
        # figures on rows that a model was trained on would promise too much
        metrics={**figures[1].metrics, "money": figures[1].money} if unseen else source.metrics,
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        reference_scores=runtimes[1].score(inputs).tolist(),
        compression=lineage,
    )
    bundle.save(to, model, manifest)
    return Compressed(manifest, figures[0], figures[1], unseen, float(np.abs(scores[1] - scores[0]).max()))


def _figures(
    subject: Subject,
    rows: Dataset,
    scores: NDArray[np.float64],
    thresholds: Thresholds,
    cost: tuple[int, dict[int, float]],
) -> Figures:
    """Of scores of the rows; ``cost``: the model's size and its latencies."""
    saved = money.summary(rows, scores, thresholds, subject.costs, subject.decimals, seed=subject.options.seed)
    return Figures(*cost, evaluate.metrics(rows, scores), saved)


def _fit(subject: Subject, data: Dataset, inputs: FeatureSet, parts: split.Split, step: StepReport) -> train.Candidate:
    """The source's family and parameters on the training period, measured as ``fraudml train`` does.

    ``data``: the columns of ``inputs``.
    """
    name, record = subject.bundle.manifest.family, subject.bundle.manifest.training
    fitting, checking, testing = (data.take(rows) for rows in (parts.train, parts.valid, parts.test))
    model = families.get_family(name).fit(
        fitting.x,
        fitting.y,
        valid=(checking.x, checking.y),
        feature_names=inputs.input_names,
        monotone=[feature.monotone for feature in inputs.inputs],
        seed=subject.options.seed,
        threads=subject.options.threads,
        params=record.parameters,
        progress=step(f"Fit {name} with {len(inputs.inputs)} inputs"),
    )
    return train.measure(name, model, checking, testing, subject.costs, subject.decimals, seed=subject.options.seed)
