"""A simulated rollout: entities with habits, beta-distributed scores, frauds that come in campaigns."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import beta

from fraudml.decisions.log import OUTCOMES
from fraudml.monitoring.rollouts.rows import DECLINE, Arms, Rows

ARMS = Arms("champion", "challenger", "customer")
DAY_US = 86_400_000_000
_GRID = np.linspace(0, 1, 4_001)
_GENUINE, _FRAUD = beta.ppf(_GRID, 0.5, 12), beta.ppf(_GRID, 2.0, 2.5)  # scores: most near 0; frauds all over


@dataclass(frozen=True)
class World:
    """What a simulated rollout is like; ``per_entity`` transactions on average, ``alike`` is the correlation of an
    entity's scores, ``explore`` the share of would-be declines that are let through."""

    share: float = 0.05
    per_entity: float = 10.0
    alike: float = 0.5
    review: float = 0.3
    decline: float = 0.7
    explore: float = 0.25
    fault: str = ""


def simulate(n: int, seed: int, world: World = World()) -> Rows:
    """``n`` decisions with the truth about each in ``fraud``, label weights as explored; 1 % fraud."""
    rng = np.random.default_rng(seed)
    people = max(2, round(n / world.per_entity))
    who = rng.integers(0, people, n)
    challenger = (rng.random(people) < world.share)[who]
    victim = rng.random(people) < 0.02
    fraud = victim[who] & (rng.random(n) < 0.5)
    habit = rng.standard_normal(people)[who]
    rank = ndtr(np.sqrt(world.alike) * habit + np.sqrt(1 - world.alike) * rng.standard_normal(n))
    score = np.where(fraud, np.interp(rank, _GRID, _FRAUD), np.interp(rank, _GRID, _GENUINE))
    batch = rng.integers(1, 5, n)
    model_us = rng.lognormal(np.log(300), 0.5, n)
    failed = np.zeros(n, np.bool_)
    match world.fault:
        case "inverted":
            score = np.where(challenger, 1 - score, score)
        case "constant":
            score = np.where(challenger, 0.02, score)
        case "slow":
            model_us = model_us + 50_000 * challenger
        case "errors":
            batch = np.ones(n, np.int64)
            failed = challenger & (rng.random(n) < 0.01)
        case "blind":  # it misses every second fraud that the champion sees
            score = np.where(challenger & fraud & (rng.random(n) < 0.5), 0.01, score)
    level = (score >= world.review).astype(np.int8) + (score >= world.decline).astype(np.int8)
    explored = level == DECLINE
    through = explored & (rng.random(n) < world.explore)
    return Rows(
        challenger=challenger,
        key=who * 2_654_435_761 % 2**40,
        share=np.where(challenger, world.share, 1 - world.share),
        revision=np.ones(n, np.int64),
        level=level,
        score=score,
        amount=np.round(rng.lognormal(np.log(50), 1.2, n), 2),
        label_weight=np.where(explored, through / world.explore, 1.0),
        explored=explored,
        failed=failed,
        batch=batch,
        model_us=model_us.astype(np.int64),
        arrival=np.arange(1, n + 1),
        event_time_us=np.arange(n) * (30 * DAY_US // n),
        fraud=fraud.astype(np.float64),
    )


def labelled(rows: Rows) -> NDArray[np.bool_]:
    """Which rows get a label: what was approved, reviewed or let through."""
    return np.asarray(rows.label_weight > 0)


def unlabelled(rows: Rows) -> Rows:
    """Decisions as they are logged, before anything is known."""
    return replace(rows, fraud=np.full(len(rows), np.nan))


def record_batch(rows: Rows, *, labels: bool = False, ids: NDArray[np.int64] | None = None) -> pa.RecordBatch:
    """The rows as the log gives them; ``labels``: as label reports, in the order given."""
    names = ("approve", "review", "decline")
    records = []
    for i in range(len(rows)):
        explore = None
        through = False
        if rows.explored[i]:
            through = bool(rows.label_weight[i])
            explore = 1 / rows.label_weight[i] if through else 0.25
        action = "approve" if through else names[rows.level[i]]
        trial = {
            "revision": int(rows.revision[i]),
            "share": rows.share[i],
            "explore": explore,
            "let_through": through,
        }
        number = int(rows.arrival[i] if ids is None else ids[i])
        records.append(
            {
                "transaction_id": f"t{number}",
                "arrival": number,
                "event_time_us": int(rows.event_time_us[i]),
                "amount_minor": round(rows.amount[i] * 100),
                "entities": json.dumps({"terminal": "x", "customer": str(rows.key[i])}),
                "score": None if np.isnan(rows.score[i]) else rows.score[i],
                "action": action,
                "model_version": "2" if rows.challenger[i] and not rows.failed[i] else "1",
                "arm": ARMS.challenger if rows.challenger[i] else ARMS.champion,
                "degraded": '["challenger"]' if rows.failed[i] else "[]",
                "batch": int(rows.batch[i]),
                "model_us": int(rows.model_us[i]),
                "trial": json.dumps(trial),
                "is_fraud": bool(rows.fraud[i]) if labels else None,
                "known_at_us": int(rows.event_time_us[i]) + DAY_US if labels else None,
                "label_arrival": 1_000_000 + number if labels else None,
            }
        )
    return pa.RecordBatch.from_pylist(records, schema=OUTCOMES)
