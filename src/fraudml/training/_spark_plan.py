"""The periods of a training run and the figures of its data, worked out by a Spark cluster: ``split.py`` in SQL."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fraudml.events.schema import EVENT_TIME, KNOWN_AT
from fraudml.training import split
from fraudml.training.overview import Overview, Period

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

ACCURACY = 100_000  # of approximate quantiles: off by one in so many of the rows at most


@dataclass(frozen=True)
class Periods:
    """Conditions in SQL on the rows of a frame of vectors; see :class:`fraudml.training.split.Split`."""

    train: str
    valid: str
    test: str


def plan(frame: DataFrame, inputs: list[str], test_share: float, most: int) -> tuple[Periods, Overview]:
    """What ``split.by_time`` does, and the data in figures; raises TrainingError where that does.

    Of a valid or test period of more than ``most`` rows those next to the other one remain.
    """
    whole = _row(frame, "count_if(y >= 0) AS labelled", *_figures("a", "true"))
    split.require_frauds(whole["a_frauds"], whole["a_rows"])
    test_start = _cut(frame.where("y >= 0"), 1 - test_share)
    known = f"{known_by(frame, test_start)} AND {EVENT_TIME} < {test_start}"
    split.require_known(not frame.where(known).isEmpty())
    valid_start = _cut(frame.where(known), 1 - split.VALID_SHARE)
    periods = Periods(
        train=f"{known} AND {EVENT_TIME} < {valid_start}",
        valid=f"{known} AND {EVENT_TIME} >= {valid_start}",
        test=f"y >= 0 AND {EVENT_TIME} >= {test_start}",
    )
    found = _of_all(frame, periods)
    if max(found["valid"].rows, found["test"].rows) > most:
        periods = Periods(
            periods.train,
            _newest(frame, periods.valid, found["valid"].rows, most),
            _oldest(frame, periods.test, found["test"].rows, most),
        )
        found = _of_all(frame, periods)
    for name, period in found.items():
        split.require_both(name, period.frauds, period.rows - period.frauds)
    used = sum(period.rows for period in found.values())
    overview = Overview(
        whole=_period(whole, "a"),
        waiting=whole["labelled"] - used,
        unlabelled=whole["a_rows"] - whole["labelled"],
        data_hash=content_hash(frame, inputs),
        **found,
    )
    return periods, overview


def known_by(frame: DataFrame, moment_us: int) -> str:
    """``split.known_by``: a condition on rows whose label was known at a time, up to the last genuine one of them."""
    known = f"y >= 0 AND {KNOWN_AT} <= {moment_us}"
    last = _row(frame.where(f"{known} AND y = 0"), f"max({EVENT_TIME}) AS last")["last"]
    return f"{known} AND {EVENT_TIME} <= {-1 if last is None else last}"


def figures(frame: DataFrame) -> Period:
    """All rows of a frame, one at least."""
    return _period(_row(frame, *_figures("a", "true")), "a")


def content_hash(frame: DataFrame, inputs: list[str]) -> str:
    """SHA-256 over inputs, labels and times, in any order; not the hash that ``Dataset`` has of the same rows."""
    each = frame.selectExpr(f"xxhash64({EVENT_TIME}, y, {', '.join(inputs)}) AS h")
    found = _row(each, "count(*) AS n", "bit_xor(h) AS x", "sum(CAST(h AS DECIMAL(20, 0))) AS s")
    return hashlib.sha256(f"{found['n']} {found['x']} {found['s']}".encode()).hexdigest()


def _of_all(frame: DataFrame, periods: Periods) -> dict[str, Period]:
    conditions = {"train": periods.train, "valid": periods.valid, "test": periods.test}
    found = _row(frame, *(part for name, condition in conditions.items() for part in _figures(name, condition)))
    return {name: _period(found, name) for name in conditions}


def _figures(name: str, condition: str) -> list[str]:
    parts = {
        "rows": "count(*)",
        "frauds": "count_if(y = 1)",
        "since": f"min({EVENT_TIME})",
        "until": f"max({EVENT_TIME})",
    }
    return [f"{sql} FILTER (WHERE {condition}) AS {name}_{part}" for part, sql in parts.items()]


def _period(found: Row, name: str) -> Period:
    since, until = found[f"{name}_since"], found[f"{name}_until"]
    return Period(since or 0, until or 0, found[f"{name}_rows"], found[f"{name}_frauds"])


def _cut(frame: DataFrame, share: float) -> int:
    """The time up to which a share of the rows lies; never the very first, before which nothing would be left."""
    quantile = f"percentile_approx({EVENT_TIME}, {share:.9f}D, {ACCURACY}) AS cut"
    found = _row(frame, quantile, f"min({EVENT_TIME}) AS first")
    return int(max(found["cut"], found["first"] + 1))


def _newest(frame: DataFrame, condition: str, rows: int, most: int) -> str:
    if rows <= most:
        return condition
    return f"{condition} AND {EVENT_TIME} > {_cut(frame.where(condition), 1 - most / rows)}"


def _oldest(frame: DataFrame, condition: str, rows: int, most: int) -> str:
    if rows <= most:
        return condition
    return f"{condition} AND {EVENT_TIME} < {_cut(frame.where(condition), most / rows)}"


def _row(frame: DataFrame, *aggregates: str) -> Row:
    found: Row = frame.selectExpr(*aggregates).head()  # type: ignore[assignment]
    return found
