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

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.decisions.log import ARRIVAL, WRITERS, DecisionLog
from fraudml.decisions.rebuild import NotLogged
from fraudml.errors import DataError
from fraudml.events.label import Label
from fraudml.events.schema import AMOUNT, EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID
from fraudml.events.source import Progress, arrow_schema
from fraudml.events.transaction import Transaction
from fraudml.features.derive import Deriver
from fraudml.features.reference import as_float, evaluate
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import OfflineStore

RELATIVE_TOLERANCE = 1e-9
MAX_EXAMPLES = 20
CONCURRENT_US = 5_000_000  # as far as clocks of several machines, and batches, may be apart
_Event = TypeVar("_Event", Transaction, Label)
HISTORY_ARRIVAL = -1  # history was there before every decision


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
    arrival: int
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
        arrived = _Arrived(*_arrivals(past, log, feature_set, suspects))
        too_late = _too_late(past, log, lateness_us) & suspects.keys()
        _judge(suspects, arrived, feature_set, logged, too_late, report, judged)
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
        columns = (TRANSACTION_ID, ARRIVAL, "fingerprint", "blind", "late")
        rows = zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
        vectors = batch.column("vector")
        values, offsets = vectors.values.to_numpy(zero_copy_only=False), vectors.offsets.to_numpy()
        for i, (key, arrival, fingerprint, blind, late) in enumerate(rows):
            vector = values[offsets[i] : offsets[i + 1]]
            if fingerprint != feature_set.fingerprint or blind or len(vector) != width:
                report.skipped += 1
                continue
            report.late += bool(late)
            logged[key] = _Logged(arrival, vector, bool(late))
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


class _Arrived:
    """Events and label reports by entity, each with its arrival number."""

    def __init__(self, events: list[tuple[int, Transaction]], labels: list[tuple[int, Label]]) -> None:
        self.by_id = {event.transaction_id: event for _, event in events}
        self._events = _by_entity(events)
        self._labels = _by_entity(labels)

    def before(
        self, arrival: int, moment: int, target: Transaction, positions: Container[int]
    ) -> tuple[list[Transaction], list[Label]]:
        """What had arrived about the target's entities at these positions: of its own process all with lower numbers,
        in its own batch, too; of others what came before the moment."""
        mine = [pair for pair in enumerate(target.entities) if pair[0] in positions]
        events = {id(event): event for pair in mine for event in _until(arrival, moment, self._events.get(pair, []))}
        labels = {id(label): label for pair in mine for label in _until(arrival, moment, self._labels.get(pair, []))}
        return list(events.values()), list(labels.values())

    def moments(self, arrival: int, target: Transaction) -> list[int]:
        """Arrival numbers before which what other processes wrote may have been read, the likeliest first: the target's
        own and, where they wrote about its entities at about the same time, theirs. Between processes the numbers tell
        the order of clocks, not of state."""
        found = {arrival}
        for pair in enumerate(target.entities):
            for number, _ in (*self._events.get(pair, ()), *self._labels.get(pair, ())):
                if abs(number - arrival) <= CONCURRENT_US and number % WRITERS != arrival % WRITERS:
                    found |= {number, number + 1}
        return sorted(found, key=lambda moment: abs(moment - arrival))


def _by_entity(arrived: list[tuple[int, _Event]]) -> dict[tuple[int, str | None], list[tuple[int, _Event]]]:
    found: dict[tuple[int, str | None], list[tuple[int, _Event]]] = {}
    for numbered in arrived:
        for pair in enumerate(numbered[1].entities):
            if pair[1] is not None:
                found.setdefault(pair, []).append(numbered)
    for each in found.values():
        each.sort(key=_number)
    return found


def _number(numbered: tuple[int, object]) -> int:
    return numbered[0]


def _until(arrival: int, moment: int, arrived: list[tuple[int, _Event]]) -> Iterator[_Event]:
    """Those of a list by arrival that came before: see :meth:`_Arrived.before`."""
    for number, each in arrived[: bisect_left(arrived, max(arrival, moment), key=_number)]:
        if number < (arrival if number % WRITERS == arrival % WRITERS else moment):
            yield each


def _judge(
    suspects: dict[str, NDArray[np.float64]],
    arrived: _Arrived,
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
        target, decision = arrived.by_id[key], logged[key]
        changed = np.flatnonzero(~same(decision.vector, recomputed))
        skewed = np.full(len(names), False)
        skewed[changed] = True
        then = recomputed.copy()
        for moment in arrived.moments(decision.arrival, target):
            asked = np.flatnonzero(skewed)
            if not len(asked):
                break
            needed = feature_set.needed_by(names[asked].tolist())
            over = {schema.entity_names.index(each.over) for each in feature_set.state_features if each.name in needed}
            truth = evaluate(feature_set, target, *arrived.before(decision.arrival, moment, target, over), only=needed)
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


def _arrivals(
    past: Sequence[pa.RecordBatch], log: DecisionLog, feature_set: FeatureSet, suspects: Container[str]
) -> tuple[list[tuple[int, Transaction]], list[tuple[int, Label]]]:
    """All events and label reports that share an entity with a suspect, each with its arrival number."""
    logged = chain.from_iterable(_transactions(batch, feature_set) for batch in log.audit_batches())
    targets = (event for event in logged if event.transaction_id in suspects)
    wanted = {pair for event in targets for pair in enumerate(event.entities) if pair[1] is not None}
    found: dict[str, tuple[int, Transaction]] = {}
    labels = []
    for batch in past:
        verdicts = zip(batch.column(IS_FRAUD).to_pylist(), batch.column(KNOWN_AT).to_pylist(), strict=True)
        for event, (fraud, known_at) in zip(_transactions(batch, feature_set), verdicts, strict=True):
            if not wanted.isdisjoint(enumerate(event.entities)):
                found[event.transaction_id] = (HISTORY_ARRIVAL, event)
                if fraud is not None:
                    label = Label(event.transaction_id, fraud, known_at, event.entities)
                    labels.append((HISTORY_ARRIVAL, label))
    for batch in log.audit_batches():
        for number, event in zip(batch.column(ARRIVAL).to_pylist(), _transactions(batch, feature_set), strict=True):
            if not wanted.isdisjoint(enumerate(event.entities)):
                found[event.transaction_id] = (number, event)
    for batch in log.audit_labels():
        columns = (TRANSACTION_ID, IS_FRAUD, KNOWN_AT, ARRIVAL)
        for key, fraud, known_at, number in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
            if key in found:
                labels.append((number, Label(key, fraud, known_at, found[key][1].entities)))
    return list(found.values()), labels


def _transactions(batch: pa.RecordBatch, feature_set: FeatureSet) -> Iterator[Transaction]:
    schema = feature_set.schema
    count = len(schema.entities)
    names = [TRANSACTION_ID, EVENT_TIME, AMOUNT, *schema.entity_names, *schema.attribute_names]
    for key, event_time, amount, *values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        yield Transaction(key, event_time, tuple(values[:count]), amount, tuple(values[count:]))


def _none(value: float) -> float | None:
    return None if np.isnan(value) else value
