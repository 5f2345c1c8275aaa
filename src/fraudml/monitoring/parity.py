"""The parity gate: every value of every logged vector against what the offline store says today.

Logged transactions and labels are put through the offline store and each recomputed vector is compared with the
logged one. Where they differ, the reference decides, seeing only what had *arrived* before the decision: an event
that came late, or a label reported for an earlier time, is in today's history but could not be known then. A value
that the reference confirms is counted as ``explained``. Of the rest, those of late decisions over coarse windows are
``approximate``: a bounded store holds whole tiles, so a late event sees the tile of its time as far as it has filled,
and its decision says ``late``. So are all values of an event that came further behind the newest one than state
is kept for. What remains is ``differing``: true skew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.rebuild import NotLogged
from fraudml.errors import DataError
from fraudml.events.schema import EVENT_TIME, TRANSACTION_ID
from fraudml.events.source import Progress, arrow_schema
from fraudml.features.derive import Deriver
from fraudml.features.reference import as_float, evaluate
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import OfflineStore
from fraudml.monitoring.known import Known, gather

RELATIVE_TOLERANCE = 1e-9
MAX_EXAMPLES = 20


class Difference(msgspec.Struct, frozen=True):
    """One value that was served and cannot be reproduced (``None`` is null)."""

    transaction_id: str
    feature: str
    served: float | None
    recomputed: float | None


class AuditReport(msgspec.Struct):
    """What an audit found; ``values`` are those compared.

    ``skipped``: decisions of another FeatureSet, or made without the online store (they say so themselves);
    ``late``: decisions on late events, whose windows see what the store still held; they are compared too;
    ``unjudged``: decisions that differ and were not judged, because only so many were to be.
    """

    decisions: int = 0
    values: int = 0
    differing: int = 0
    explained: int = 0
    approximate: int = 0
    late: int = 0
    skipped: int = 0
    unjudged: int = 0
    by_feature: dict[str, int] = {}
    examples: list[Difference] = []


class _Logged(NamedTuple):
    vector: NDArray[np.float64]
    late: bool


def audit(
    log: DecisionLog,
    store: OfflineStore,
    feature_set: FeatureSet,
    *,
    history: Iterable[pa.RecordBatch] = (),
    lateness_us: int = 86_400_000_000,
    most: int | None = None,
    progress: Progress | None = None,
    judged: Progress | None = None,
) -> AuditReport:
    """Compare every logged vector of this FeatureSet with the offline store; ``store`` is empty when handed in.

    ``lateness_us``: that of the online store which served; ``most``: the reference, which is slow,
    judges no more of the decisions that differ, spread evenly over all.

    ``history``: what the online store was built from before the first decision (batches of ``arrow_schema``);
    rows whose id is also in the log are left out, as they are when the service starts.

    ``progress`` is told of rows recomputed, ``judged`` of decisions that the reference looked at.
    """
    report = AuditReport()
    logged = _logged_vectors(log, feature_set, report)
    if not logged:
        raise DataError("the decision log holds no decision of this FeatureSet; score something first")
    past = list(map(NotLogged(log), history))
    schema = arrow_schema(feature_set.schema)
    store.put(pa.RecordBatchReader.from_batches(schema, chain(past, log.replay())))
    store.put_labels(list(log.later_labels()))
    suspects = _compare(store, feature_set, logged, report, progress)
    if most is not None and len(suspects) > most:
        chosen = np.linspace(0, len(suspects) - 1, most).astype(int)
        report.unjudged = len(suspects) - len(chosen)
        names = list(suspects)
        suspects = {names[place]: suspects[names[place]] for place in chosen}
    if suspects:
        known = gather(past, log, feature_set, suspects)
        too_late = _too_late(past, log, lateness_us) & suspects.keys()
        _judge(suspects, known, feature_set, logged, too_late, report, judged)
    return report


def same(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where two arrays of values are equal: both missing, or within 1e-9 of the larger.

    >>> same(np.array([1.0, np.nan, 0.0]), np.array([1.0 + 1e-12, np.nan, 1e-3])).tolist()
    [True, True, False]
    """
    close = np.abs(a - b) <= RELATIVE_TOLERANCE * np.maximum(np.abs(a), np.abs(b))
    both: NDArray[np.bool_] = close | (np.isnan(a) & np.isnan(b))
    return both


def _logged_vectors(log: DecisionLog, feature_set: FeatureSet, report: AuditReport) -> dict[str, _Logged]:
    logged: dict[str, _Logged] = {}
    width = len(feature_set.inputs)
    for batch in log.audit_batches():
        columns = (TRANSACTION_ID, "fingerprint", "blind", "late")
        rows = zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
        vectors = batch.column("vector")
        values, offsets = vectors.values.to_numpy(zero_copy_only=False), vectors.offsets.to_numpy()
        for i, (key, fingerprint, blind, late) in enumerate(rows):
            vector = values[offsets[i] : offsets[i + 1]]
            if fingerprint != feature_set.fingerprint or blind or len(vector) != width:
                report.skipped += 1
                continue
            report.late += bool(late)
            logged[key] = _Logged(vector, bool(late))
    return logged


def _compare(
    store: OfflineStore,
    feature_set: FeatureSet,
    logged: dict[str, _Logged],
    report: AuditReport,
    progress: Progress | None,
) -> dict[str, NDArray[np.float64]]:
    """Recompute and compare; returns the recomputed vectors of decisions with a differing value."""
    deriver = Deriver(feature_set)
    suspects: dict[str, NDArray[np.float64]] = {}
    for batch in store.features(feature_set, progress=progress):
        ids = batch.column(TRANSACTION_ID).to_pylist()
        rows = [i for i, key in enumerate(ids) if key in logged]
        if not rows:
            continue
        recomputed = deriver.from_arrow(batch)[rows]
        served = np.stack([logged[ids[i]].vector for i in rows])
        report.decisions += len(rows)
        report.values += served.size
        wrong = ~same(served, recomputed).all(axis=1)
        for place in np.flatnonzero(wrong):
            suspects[ids[rows[place]]] = recomputed[place]
    return suspects


def _judge(
    suspects: dict[str, NDArray[np.float64]],
    known: Known,
    feature_set: FeatureSet,
    logged: dict[str, _Logged],
    too_late: set[str],
    report: AuditReport,
    judged: Progress | None,
) -> None:
    """Ask the reference what could be known when each suspect was scored."""
    names, schema = np.array(feature_set.input_names), feature_set.schema
    coarse = np.isin(names, list(feature_set.coarse_names()))
    for done, (key, recomputed) in enumerate(suspects.items()):
        if judged:
            judged(done, len(suspects))
        target, decision = known.by_id[key], logged[key]
        changed = np.flatnonzero(~same(decision.vector, recomputed))
        skewed = np.full(len(names), False)
        skewed[changed] = True
        then = recomputed.copy()
        tried: set[frozenset[int]] = set()  # most views show the same
        for view in known.views(target):
            asked = np.flatnonzero(skewed)
            if not len(asked):
                break
            needed = feature_set.needed_by(names[asked].tolist())
            over = {schema.entity_names.index(each.over) for each in feature_set.state_features if each.name in needed}
            events, labels = known.before(target, view, over)
            if (seen := frozenset(map(id, [*events, *labels]))) in tried:
                continue
            tried.add(seen)
            truth = evaluate(feature_set, target.event, events, labels, only=needed)
            then[asked] = [as_float(truth[name]) for name in names[asked]]
            skewed &= ~same(decision.vector, then)
        report.explained += int(len(changed) - skewed.sum())
        unpromised = np.full(len(names), key in too_late) | (coarse & decision.late)
        report.approximate += int((skewed & unpromised).sum())
        skewed &= ~unpromised
        report.differing += int(skewed.sum())
        for place in np.flatnonzero(skewed):
            name = str(names[place])
            report.by_feature[name] = report.by_feature.get(name, 0) + 1
            if len(report.examples) < MAX_EXAMPLES:
                served, right = float(decision.vector[place]), float(then[place])
                report.examples.append(Difference(key, name, _none(served), _none(right)))


def _too_late(past: Sequence[pa.RecordBatch], log: DecisionLog, lateness_us: int) -> set[str]:
    """The decided transactions that came further behind the newest one before them than state is kept for."""
    newest_us = max((int(pc.max(batch.column(EVENT_TIME)).as_py()) for batch in past if batch.num_rows), default=0)
    found: set[str] = set()
    for batch in log.audit_batches():
        times = batch.column(EVENT_TIME).to_numpy()
        newest = np.maximum.accumulate(np.concatenate([[newest_us], times]))
        behind = newest[:-1] - times > lateness_us
        found.update(batch.column(TRANSACTION_ID).filter(pa.array(behind)).to_pylist())
        newest_us = int(newest[-1])
    return found


def _none(value: float) -> float | None:
    return None if np.isnan(value) else value
