"""What compression saves and costs on the Handbook's data: default XGBoost, pruned, and with fewer features."""

from __future__ import annotations

from pathlib import Path

from benchmarks import common, detection
from fraudml.decisions.costs import Costs
from fraudml.features.spec import FeatureSet
from fraudml.models import bundle
from fraudml.training import packing, train
from fraudml.training.compress import bundles
from fraudml.training.compress.bundles import Compressed, Subject
from fraudml.training.compress.measure import Figures
from fraudml.training.dataset import Dataset

DAYS = 92
COLUMNS = [
    "model",
    "bytes",
    "inputs",
    "time, 1 at a time",
    "time, 256 at a time",
    "ROC AUC",
    "average precision",
    "recall at 1 % FPR",
    "saved/day",
    "largest change of a score",
    "that any input can have",
]


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        home = Path(place)
        everything, feature_set = detection.load(home)
        newest = everything.event_time_us >= everything.event_time_us.max() - DAYS * detection.handbook.DAY_US
        subject = _subject(everything.take(newest), feature_set, home / "source")
        made = {
            **{f"pruned, tolerance {each:g}": bundles.pruned(subject, each, home / "pruned") for each in (1e-3, 1e-2)},
            **{
                f"pruned by history, tolerance {each:g}": bundles.pruned(subject, each, home / "seen", by_history=True)
                for each in (1e-2, 5e-2)
            },
            **{
                f"{count} features": bundles.with_fewer_features(subject, count, lambda _: _quiet, home / "fewer")
                for count in (20, 10)
            },
        }
    first = next(iter(made.values()))
    rows = [["as trained", *_cells(first.before, first.before, len(feature_set.inputs)), "", ""]]
    rows += [[name, *_cells(found.after, found.before, _inputs(found)), *_moves(found)] for name, found in made.items()]
    measured = first.after.metrics
    return (
        f"XGBoost by defaults on the last {DAYS} days of the file, not refitted, so that no model has seen the "
        f"held-back last fifth: {measured['rows']:,} transactions, {measured['frauds']:,} frauds. `pruned`: no input "
        "can change a score by more than the tolerance. `by history`: none of 60,000 earlier transactions does. "
        "Times are against the model as trained, measured in turns.\n\n"
    ) + common.table(COLUMNS, rows)


def _subject(data: Dataset, feature_set: FeatureSet, place: Path) -> Subject:
    options = train.Options(("xgboost",), threads=2)
    result = train.train(data, feature_set, Costs(), options, lambda _: _quiet)
    packing.pack(result, result.candidates[0], place)
    return Subject(bundle.load(place, version="1"), data, Costs(), options)


def _quiet(_done: int, _total: int) -> None:
    pass


def _inputs(found: Compressed) -> int:
    return sum(feature.input for feature in found.manifest.features)


def _cells(found: Figures, before: Figures, inputs: int) -> list[str]:
    """Times as ratios to those of the trained model, measured in turns with it."""
    return [
        f"{found.size_bytes:,}",
        str(inputs),
        *(f"{found.us_per_row[rows] / before.us_per_row[rows]:.2f} x" for rows in found.us_per_row),
        f"{found.metrics['roc_auc']:.4f}",
        f"{found.metrics['average_precision']:.4f}",
        f"{found.metrics['recall_at_fpr_0.01']:.2%}",
        f"{found.money['saved_per_day']:,.0f}",
    ]


def _moves(found: Compressed) -> list[str]:
    lineage = found.manifest.compression
    if lineage is None or found.largest_move is None:
        return ["another model", "another model"]
    return [f"{found.largest_move:.2g}", f"{lineage.settings['bound']:.2g}"]
