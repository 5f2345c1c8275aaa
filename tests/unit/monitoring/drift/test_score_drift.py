"""Drift is found where there is some, and not told where too little is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from fraudml.decisions.log import OUTCOMES
from fraudml.models.rollout import Change, Kind, Rollout
from fraudml.monitoring.drift import scores as drift

BEGAN = "2026-03-01T00:00:00+00:00"
BEGAN_US = 1_772_323_200_000_000
DAY_US = 86_400_000_000
WEEK_US = 7 * DAY_US
HISTORY = [
    Rollout(1, Change(Kind.promote, "2026-02-01T00:00:00+00:00", "", "first"), revision=1),
    Rollout(2, Change(Kind.promote, BEGAN, "", "better"), revision=2),
]


class Log:
    """Decisions, one every ten minutes; ``rows``: arrival, version, score, degraded."""

    def __init__(self, rows: list[tuple[int, str, float | None, str]]) -> None:
        self.rows = rows
        self.asked: list[int] = []

    def outcomes(self, after: int = 0) -> Iterator[pa.RecordBatch]:
        self.asked.append(after)
        names = ("arrival", "model_version", "score", "degraded")
        found = [dict(zip(names, row, strict=True)) for row in self.rows if row[0] > after]
        for first in range(0, len(found), 700):
            yield pa.RecordBatch.from_pylist(found[first : first + 700], schema=OUTCOMES)

    def last_arrival(self, *, labels: bool = True) -> int:
        return self.rows[-1][0] if self.rows else 0


def traffic(days: float, shift: float = 0.0, version: str = "2") -> list[tuple[int, str, float | None, str]]:
    """Beta-distributed scores that are moved by ``shift`` at the end."""
    count = int(days * 144)
    scores = np.random.default_rng(0).beta(0.5, 12, count) + shift * np.linspace(0, 1, count)
    times = BEGAN_US + np.arange(count) * 600_000_000
    return [(int(at), version, float(score), "[]") for at, score in zip(times, scores, strict=True)]


def found(rows: list[tuple[int, str, float | None, str]]) -> drift.Drift:
    return drift.score_drift(Log(rows), HISTORY, 2, WEEK_US)  # type: ignore[arg-type]


def test_no_drift() -> None:
    told = found(traffic(30))
    assert told.psi is not None
    assert told.psi < 0.05
    assert told.first == told.latest == 1_008
    assert "population stability index of 0.0" in told.words


def test_drift() -> None:
    told = found(traffic(30, shift=0.1))
    assert told.psi is not None
    assert told.psi > 0.25


def test_only_the_two_periods_are_read() -> None:
    log = Log(traffic(60))
    drift.score_drift(log, HISTORY, 2, WEEK_US)  # type: ignore[arg-type]
    assert log.asked == [BEGAN_US - drift.CLOCKS_US, log.last_arrival() - WEEK_US]


@pytest.mark.parametrize("days", [0, 3, 13])
def test_periods_that_would_overlap_tell_nothing(days: float) -> None:
    told = found(traffic(days))
    assert told.psi is None
    assert "cannot be told" in told.words


def test_decisions_of_others_or_without_history_do_not_count() -> None:
    sound = traffic(30)
    without = [(at, "2", score, '["online_store"]') for at, _, score, _ in traffic(30, shift=0.5)]
    nothing: list[tuple[int, str, float | None, str]] = [(at, "2", None, '["model"]') for at, *_ in sound]
    other = traffic(30, shift=0.5, version="1")
    assert found(sorted([*sound, *without, *nothing, *other], key=lambda row: row[0])) == found(sound)


def test_too_few_decisions_tell_nothing() -> None:
    assert found(traffic(30)[::2]).psi is None


def test_the_index_by_hand() -> None:
    first, latest = np.arange(100) / 100, np.repeat([0.005, 0.995], [75, 25])
    before, now = np.full(10, 10.5) / 105, np.array([75.5, *[0.5] * 8, 25.5]) / 105
    assert drift.psi(first, latest) == pytest.approx(((now - before) * np.log(now / before)).sum())
