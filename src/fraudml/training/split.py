"""Splits by time that honour label delay: nothing is learnt from a label that was unknown when the test begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import TrainingError
from fraudml.training.dataset import Dataset

VALID_SHARE = 0.2
MIN_FRAUDS = 5  # in each part: below this neither a fit nor a measurement means anything


@dataclass(frozen=True)
class Split:
    """Row masks over one data set, in time order: ``train`` < ``valid`` < (label delay) < ``test``.

    ``valid`` serves early stopping, calibration, thresholds and the choice of the family; ``test`` only the
    figures reported. Rows between ``valid`` and ``test`` had no known label when the test began, or
    were frauds known before the genuine rows around them (:func:`known_by`).
    """

    train: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    test: NDArray[np.bool_]
    test_start_us: int


def by_time(data: Dataset, *, test_share: float = 0.2, valid_share: float = VALID_SHARE) -> Split:
    """The last ``test_share`` of the labelled rows is the test; of what was labelled when it began, the last
    ``valid_share`` is for validation. Rows of one time never fall on both sides.

    Raises TrainingError when a part has too few frauds or genuine transactions, saying which and what helps.
    """
    labelled = data.y >= 0
    require_frauds(data.frauds, len(data))
    test_start = cut(data.event_time_us[labelled], test_share)
    test = labelled & (data.event_time_us >= test_start)
    known = known_by(data, test_start) & (data.event_time_us < test_start)
    require_known(bool(known.any()))
    valid_start = cut(data.event_time_us[known], valid_share)
    split = Split(
        train=known & (data.event_time_us < valid_start),
        valid=known & (data.event_time_us >= valid_start),
        test=test,
        test_start_us=int(test_start),
    )
    for name in ("train", "valid", "test"):
        rows = data.y[getattr(split, name)]
        require_both(name, int((rows == 1).sum()), int((rows == 0).sum()))
    return split


def require_frauds(frauds: int, rows: int) -> None:
    """Raise TrainingError when all the data have too few frauds to be split."""
    if frauds < 3 * MIN_FRAUDS:
        raise TrainingError(
            f"only {frauds} labelled frauds among {rows:,} transactions; {3 * MIN_FRAUDS} are needed "
            "(is schema.label right? a longer history helps)"
        )


def require_known(any_known: bool) -> None:
    """Raise TrainingError when nothing was known before the test period."""
    if not any_known:
        raise TrainingError(
            "no label was known when the test period begins: the history is shorter than the label delay; "
            "set a shorter schema.label.delay or use a longer history"
        )


def require_both(name: str, frauds: int, genuine: int) -> None:
    """Raise TrainingError when a part has too few of either kind."""
    if min(frauds, genuine) < MIN_FRAUDS:
        raise TrainingError(
            f"the {name} period has {frauds} frauds and {genuine} genuine transactions; "
            f"each part needs at least {MIN_FRAUDS} of both: use a longer history"
        )


def known_by(data: Dataset, moment_us: int) -> NDArray[np.bool_]:
    """Rows whose label was known at a time, up to the last genuine one of them.

    Frauds are often reported within days, while a genuine transaction counts as genuine only after weeks: the
    frauds reported after the last known genuine one would be learnt from without their genuine neighbours, so
    they are left out.
    """
    known = (data.y >= 0) & (data.known_at_us <= moment_us)
    genuine = data.event_time_us[known & (data.y == 0)]
    last: int = genuine.max() if len(genuine) else np.iinfo(np.int64).min
    return known & (data.event_time_us <= last)


def mature(data: Dataset) -> NDArray[np.bool_]:
    """Rows whose label was known at the end of the data: what a final fit may use."""
    return known_by(data, int(data.event_time_us.max()))


def cut(times: NDArray[np.int64], share: float) -> int:
    """The time from which on about the last ``share`` of some rows lies."""
    ordered = np.sort(times)
    cut = int(ordered[min(int(len(ordered) * (1 - share)), len(ordered) - 1)])
    # a cut at the very first time would leave nothing before it
    return cut if cut > ordered[0] else int(ordered[0]) + 1
