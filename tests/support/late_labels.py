"""A simulated log whose labels come late, by delays that are known: frauds that were looked at before missed ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.decisions.log import ARRIVAL, LABEL_ARRIVAL, OUTCOMES
from fraudml.monitoring.performance.estimate import estimate
from fraudml.monitoring.performance.reports import Project
from fraudml.monitoring.performance.results import Performance
from fraudml.monitoring.performance.sums import Window

DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US
PROJECT = Project("customer", Costs(), 2)


@dataclass(frozen=True)
class World:
    """Traffic of ``days`` until now. ``recall``: share of the frauds that is reviewed or declined. Delays are
    log-normal with these medians in days. ``declined``: of what is flagged; ``explore``: of these let through, None for
    no exploration; ``declines_labelled``: whether frauds among the others are ever reported."""

    transactions: int = 40_000
    days: float = 150.0
    fraud: float = 0.1
    recall: float = 0.7
    false_alarms: float = 0.05
    checked_days: float = 2.0
    passed_days: float = 25.0
    spread: float = 0.8
    per_entity: float = 5.0
    declined: float = 0.0
    explore: float | None = None
    declines_labelled: bool = False


SMALL = World(transactions=30_000, days=150.0, checked_days=6.0, passed_days=20.0)


@dataclass
class Log:
    """What :meth:`DecisionLog.outcomes` gives of simulated ``decisions`` and label ``reports``."""

    decisions: dict[str, Any]
    reports: dict[str, Any]
    truth: dict[str, NDArray[Any]] = field(default_factory=dict)

    def outcomes(self, after: int = 0, batch_size: int = 10_000, *, labelled: bool = False) -> Iterator[pa.RecordBatch]:
        columns, order = (self.reports, LABEL_ARRIVAL) if labelled else (self.decisions, ARRIVAL)
        table = pa.table(columns, schema=OUTCOMES).sort_by(order)
        yield from table.filter(pa.compute.greater(table[order], after)).to_batches(batch_size)

    def until(self, now_us: int) -> Log:
        """The log as it was at a time: what arrived later is not in it."""
        here, told = self.decisions[ARRIVAL] <= now_us, self.reports[LABEL_ARRIVAL] <= now_us
        return replace(self, decisions=_taken(self.decisions, here), reports=_taken(self.reports, told))


def simulate(seed: int, world: World = World()) -> Log:
    """Decisions with the truth about each in ``truth``; every fraud is reported, some after :data:`NOW_US`."""
    rng = np.random.default_rng(seed)
    n = world.transactions
    time = np.sort(NOW_US - (rng.random(n) * world.days * DAY_US).astype(np.int64) - 1)
    fraud = rng.random(n) < world.fraud
    flagged = rng.random(n) < np.where(fraud, world.recall, world.false_alarms)
    decline = flagged & (rng.random(n) < world.declined)
    through = decline & (rng.random(n) < (world.explore or 0))
    action = np.where(decline & ~through, "decline", np.where(flagged & ~decline, "review", "approve"))
    trial = np.full(n, None, object)
    if world.explore is not None:
        note = '{"revision":0,"share":1.0,"explore":%s,"let_through":%s}'
        trial[decline] = [note % (world.explore, "true" if each else "false") for each in through[decline]]
    median = np.where(action == "approve", world.passed_days, world.checked_days)
    delay = (median * DAY_US * np.exp(world.spread * rng.standard_normal(n))).astype(np.int64)
    who = rng.integers(0, max(2, round(n / world.per_entity)), n)
    decisions: dict[str, Any] = {
        "transaction_id": np.array([f"t{i}" for i in range(n)], object),
        "arrival": time,
        "event_time_us": time,
        "amount_minor": np.round(rng.lognormal(np.log(5_000), 0.5, n)).astype(np.int64),
        "entities": np.array([f'{{"customer":"c{each}"}}' for each in who], object),
        "score": np.clip(0.02 + 0.8 * flagged + 0.1 * rng.random(n), 0, 1),
        "action": action.astype(object),
        "model_version": np.full(n, "1", object),
        "arm": np.full(n, "champion", object),
        "degraded": np.full(n, "[]", object),
        "batch": np.ones(n, np.int64),
        "model_us": np.ones(n, np.int64),
        "trial": trial,
    }
    nothing = {name: np.full(n, None, object) for name in ("is_fraud", "known_at_us", "label_arrival")}
    labels = {"is_fraud": fraud, "known_at_us": time + delay, "label_arrival": time + delay}
    told = fraud & (world.declines_labelled | (action != "decline"))
    truth = {"fraud": fraud, "flagged": flagged, "delay": delay, "time": time, "decline": decline, "action": action}
    return Log(decisions | nothing, _taken(decisions | labels, told), truth)


def window(days: float = 28.0, now_us: int = NOW_US) -> Window:
    """The last days until now."""
    return Window(now_us - int(days * DAY_US), now_us, now_us)


def estimated(log: Log, asked: Window | None = None) -> Performance:
    """The performance of a window; by default the last four weeks."""
    return estimate(log, PROJECT, asked or window())  # type: ignore[arg-type]


def truly_caught(log: Log, since_us: int, until_us: int) -> float:
    """The share of all frauds of a time that were flagged, as it will turn out."""
    of = log.truth
    here = of["fraud"] & (of["time"] >= since_us) & (of["time"] < until_us)
    return float(of["flagged"][here].mean())


def _taken(columns: dict[str, Any], which: NDArray[np.bool_]) -> dict[str, Any]:
    return {name: values[which] for name, values in columns.items()}
