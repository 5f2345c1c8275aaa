"""What is compared, and the report.

Two-sample tests say whether a difference is more than chance; the Benjamini-Hochberg procedure keeps the expected share
of false ones among all that a report finds below ``ALPHA``. Transactions of one customer are not independent, so these
probabilities are smaller than they should be, and with many rows every small difference is certain: a feature counts as
drifted only where the difference is also large enough to matter (:mod:`fraudml.monitoring.drift.columns`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import Action
from fraudml.events.schema import AttributeType
from fraudml.events.source import Progress
from fraudml.features.spec import AttributeFeature, Feature, FeatureSet, LastFeature, Transform
from fraudml.monitoring.drift.columns import FeatureDrift, categorical, judged, numeric
from fraudml.monitoring.drift.index import Values
from fraudml.monitoring.drift.sample import HOUR_US, WEEK_US, Period, Sample, newest_us, read, same_hours

ALPHA = 0.01
FEWEST = 1_000  # decisions of each period
DAY_US = 24 * HOUR_US
CURRENT_US, REFERENCE_US = DAY_US, 28 * DAY_US
AHEAD_US = DAY_US
STABLE, DRIFTED, UNKNOWN = "stable", "drifted", "unknown"


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """The current period against the reference. ``verdict``: ``stable``, ``drifted`` or ``unknown``, where there are
    too few decisions of either.

    ``rows_before``, ``rows_now``: decisions compared, of the ``share`` of the log that was read. ``volume_ratio``:
    decisions an hour now, of those in the reference. ``late``: decisions of the current period that came more than a
    day after their event, ``ahead`` more than an hour before it; ``blind``: made without the online store, which are
    left out; ``other``: of other features than the project declares, likewise. ``notes``: what else a reader should
    know, in words.
    """

    verdict: str
    reference: Period
    current: Period
    rows_before: int
    rows_now: int
    share: float
    volume_ratio: float | None
    late: int = 0
    ahead: int = 0
    blind: int = 0
    other: int = 0
    score: FeatureDrift | None = None
    actions_before: dict[str, float] = {}
    actions_now: dict[str, float] = {}
    features: list[FeatureDrift] = []
    notes: list[str] = []

    @property
    def drifted(self) -> list[FeatureDrift]:
        """The features that have drifted, the most first."""
        return [feature for feature in self.features if feature.drifted]

    @property
    def words(self) -> str:
        """The verdict in one sentence."""
        if self.verdict == UNKNOWN:
            return (
                f"It cannot be told: there are {self.rows_before:,} decisions of the reference and {self.rows_now:,} "
                f"of the current period, and {FEWEST:,} of each are needed."
            )
        score = "the score has drifted" if self.score is not None and self.score.drifted else "the score has not"
        if not self.drifted:
            return f"None of {len(self.features)} features has drifted; {score}."
        count = len(self.drifted)
        return f"{count} of {len(self.features)} features {'has' if count == 1 else 'have'} drifted; {score}."


def periods(
    log: DecisionLog,
    *,
    current_us: int = CURRENT_US,
    reference_us: int = REFERENCE_US,
    until_us: int | None = None,
    now_us: int | None = None,
) -> tuple[Period, Period, list[str]]:
    """The reference and, directly after it, the current period, and notes. It ends at ``until_us``; by default now, or
    with the newest event where that is older than an hour, as after a replay of history."""
    now_us = time.time_ns() // 1_000 if now_us is None else now_us
    notes = []
    if until_us is None:
        newest = newest_us(log)
        until_us = now_us
        if newest is not None and newest < now_us - HOUR_US:
            until_us = newest + 1
        elif newest is not None and newest > now_us + HOUR_US:
            notes.append("events are dated after now: a clock has jumped, here or where they are made")
    if reference_us % WEEK_US:
        notes.append("the reference is not a whole number of weeks, so it has another mix of weekdays")
    middle = until_us - current_us
    return Period(middle - reference_us, middle), Period(middle, until_us), notes


def compare(
    log: DecisionLog,
    features: FeatureSet,
    reference: Period,
    current: Period,
    *,
    notes: Sequence[str] = (),
    ahead_us: int = AHEAD_US,
    progress: Progress | None = None,
) -> DriftReport:
    """The report on decisions of the log."""
    sample = read(log, reference, current, ahead_us=ahead_us, progress=progress)
    return report(sample, features, reference, current, notes)


def report(
    sample: Sample, features: FeatureSet, reference: Period, current: Period, notes: Sequence[str] = ()
) -> DriftReport:
    """The report on a sample."""
    told = list(notes)
    alike = same_hours(sample.reference, current)
    if alike.num_rows < FEWEST <= sample.reference.num_rows:
        told.append("too few decisions at the same hours of the week: all hours of the reference are compared")
        alike = sample.reference
    volume = _volume(sample, reference, current)
    tables, blind, other = [], 0, 0
    for table in (alike, sample.current):
        if table.num_rows:
            seen = pc.invert(table.column("blind"))
            same = pc.equal(table.column("fingerprint"), features.fingerprint)
            blind, other = int(pc.sum(pc.invert(seen)).as_py() or 0), int(pc.sum(pc.invert(same)).as_py() or 0)
            table = table.filter(pc.and_(seen, same))  # noqa: PLW2901
        tables.append(table)
    before, now = tables
    facts = {
        "reference": reference,
        "current": current,
        "rows_before": before.num_rows,
        "rows_now": now.num_rows,
        "share": sample.share,
        "volume_ratio": volume,
        "late": sample.late,
        "ahead": sample.ahead,
        "blind": blind,
        "other": other,
        "notes": told,
    }
    if min(before.num_rows, now.num_rows) < FEWEST:
        return DriftReport(verdict=UNKNOWN, **facts)
    found = _adjusted(_columns(features, before, now))
    score = next(each for each in found if each.kind == "score")
    compared = sorted((each for each in found if each.kind != "score"), key=lambda each: (not each.drifted, -each.psi))
    return DriftReport(
        verdict=DRIFTED if any(each.drifted for each in found) else STABLE,
        score=score,
        actions_before=_actions(before),
        actions_now=_actions(now),
        features=compared,
        **facts,
    )


def _columns(features: FeatureSet, before: pa.Table, now: pa.Table) -> list[FeatureDrift]:
    schema = features.schema
    found = []
    vectors = [_matrix(table, len(features.inputs)) for table in (before, now)]
    for place, feature in enumerate(features.inputs):
        if not _is_code(feature, features):
            found.append(numeric(feature.name, *(matrix[:, place] for matrix in vectors)))
    for name, attribute in schema.attributes.items():
        if attribute.type is AttributeType.category:
            found.append(categorical(name, *(table.column(name).to_pylist() for table in (before, now))))
    scores = numeric("score", *(_floats(table, "score") for table in (before, now)))
    return [*found, msgspec.structs.replace(scores, kind="score")]


def _is_code(feature: Feature, features: FeatureSet) -> bool:
    """Whether a feature is the code of a category: the category itself is compared instead."""
    if not isinstance(feature, AttributeFeature | LastFeature):
        return False
    attribute = features.schema.attributes.get(feature.of)
    raw = not isinstance(feature, AttributeFeature) or feature.transform is Transform.raw
    return raw and attribute is not None and attribute.type is AttributeType.category


def _adjusted(found: list[FeatureDrift]) -> list[FeatureDrift]:
    """With p-values adjusted for all of them, and verdicts."""
    from scipy import stats

    tested = [p for each in found for p in (each.p, each.p_missing) if p is not None]
    adjusted = iter(stats.false_discovery_control(np.clip(tested, 0.0, 1.0)).tolist() if tested else [])
    told = []
    for each in found:
        p, p_missing = (None if p is None else float(next(adjusted)) for p in (each.p, each.p_missing))
        told.append(judged(each, p, p_missing, ALPHA))
    return told


def _volume(sample: Sample, reference: Period, current: Period) -> float | None:
    """Decisions an hour, now of those at the same hours of the reference, from its first decision on."""
    alike = same_hours(sample.reference, current)
    if not alike.num_rows:
        return None
    times = alike.column("event_time_us").to_numpy()
    hours = (reference.until_us - int(times.min())) / HOUR_US
    if current.until_us - current.since_us < WEEK_US:  # so many weeks have these hours
        hours = len(np.unique((times - current.since_us) // WEEK_US)) * current.hours
    return float((sample.current.num_rows / current.hours) / (alike.num_rows / hours))


def _matrix(table: pa.Table, width: int) -> Values:
    """The logged vectors, float64 ``[rows, width]``."""
    flat = table.column("vector").combine_chunks()
    return np.asarray(flat.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(-1, width)


def _floats(table: pa.Table, name: str) -> Values:
    return np.asarray(table.column(name).to_numpy(), np.float64)


def _actions(table: pa.Table) -> dict[str, float]:
    """The share of each action."""
    column = table.column("action")
    return {action.value: float(pc.sum(pc.equal(column, action.value)).as_py()) / len(column) for action in Action}
