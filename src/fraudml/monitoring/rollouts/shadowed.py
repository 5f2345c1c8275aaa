"""What challengers in the shadow would have done, beside what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa


class ShadowComparison(msgspec.Struct, frozen=True):
    """One challenger beside the decisions that it scored, too.

    ``failed``: it gave no score. ``mean_difference``: of its scores minus those served; ``differing``: the share of
    scores more than 0.01 apart. ``flips``: decisions by "action served -> its action", where these differ.
    ``batch_us``: the mean time of its batches.
    """

    version: str
    decisions: int
    failed: int
    mean_difference: float | None
    mean_absolute_difference: float | None
    differing: float | None
    flips: dict[str, int]
    batch_us: float


@dataclass
class _Sums:
    decisions: int = 0
    scored: int = 0
    difference: float = 0.0
    absolute: float = 0.0
    differing: int = 0
    flips: Counter[str] = field(default_factory=Counter)
    batch_us: float = 0.0


def compare_shadows(batches: Iterable[pa.RecordBatch]) -> list[ShadowComparison]:
    """Every version in the log's shadow scores, in order."""
    found: dict[str, _Sums] = {}
    for batch in batches:
        versions = np.array(batch.column("model_version").to_pylist())
        for version in sorted(set(versions.tolist())):
            _add(found.setdefault(version, _Sums()), batch.filter(pa.array(versions == version)))
    return [_made(version, sums) for version, sums in sorted(found.items())]


def _add(sums: _Sums, batch: pa.RecordBatch) -> None:
    score, served = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("score", "served_score"))
    difference = (score - served)[~np.isnan(score) & ~np.isnan(served)]
    sums.decisions += batch.num_rows
    sums.scored += int((~np.isnan(score)).sum())
    sums.difference += float(difference.sum())
    sums.absolute += float(np.abs(difference).sum())
    sums.differing += int((np.abs(difference) > 0.01).sum())
    sums.batch_us += float(batch.column("model_us").to_numpy().sum())
    both = zip(batch.column("served_action").to_pylist(), batch.column("action").to_pylist(), strict=True)
    sums.flips.update(f"{before} -> {after}" for before, after in both if before != after)


def _made(version: str, sums: _Sums) -> ShadowComparison:
    known = sums.scored or None
    return ShadowComparison(
        version=version,
        decisions=sums.decisions,
        failed=sums.decisions - sums.scored,
        mean_difference=known and sums.difference / known,
        mean_absolute_difference=known and sums.absolute / known,
        differing=known and sums.differing / known,
        flips=dict(sums.flips.most_common()),
        batch_us=sums.batch_us / max(1, sums.decisions),
    )
