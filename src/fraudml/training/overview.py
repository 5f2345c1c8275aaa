"""The data of a training run in figures, for its report and its bundles, wherever the rows are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudml.training.dataset import Dataset
from fraudml.training.split import Split


@dataclass(frozen=True)
class Period:
    """Some rows: the times of the first and the last event, microseconds UTC, and how many there are."""

    since_us: int
    until_us: int
    rows: int
    frauds: int

    @classmethod
    def of(cls, data: Dataset, rows: NDArray[np.bool_] | slice = slice(None)) -> Period:
        """Of rows of a data set; there must be one at least."""
        times = data.event_time_us[rows]
        return cls(int(times.min()), int(times.max()), len(times), int((data.y[rows] == 1).sum()))


@dataclass(frozen=True)
class Overview:
    """All rows and the three parts. ``waiting``: labelled rows in no part; ``unlabelled``: rows without a label."""

    whole: Period
    train: Period
    valid: Period
    test: Period
    waiting: int
    unlabelled: int
    data_hash: str

    @classmethod
    def of(cls, data: Dataset, parts: Split) -> Overview:
        """Of a data set in memory."""
        used = parts.train | parts.valid | parts.test
        return cls(
            whole=Period.of(data),
            train=Period.of(data, parts.train),
            valid=Period.of(data, parts.valid),
            test=Period.of(data, parts.test),
            waiting=int((~used & (data.y >= 0)).sum()),
            unlabelled=int((data.y < 0).sum()),
            data_hash=data.content_hash(),
        )


@dataclass(frozen=True)
class TrainedOn:
    """The rows that a model was trained on; ``sample`` is all of them, or some thousand drawn at random."""

    sample: Dataset
    period: Period
    data_hash: str
