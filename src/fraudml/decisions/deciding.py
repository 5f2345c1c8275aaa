"""From scores to decisions: the policy's action, what was degraded, and how an experiment took part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from fraudml.decisions.lineup import Lineup, Part
from fraudml.decisions.model import degradations
from fraudml.decisions.record import Action, Decision, Degradation, Timings, Trial
from fraudml.events.transaction import Transaction
from fraudml.features.stores import StateRead


class Read(NamedTuple):
    """A batch with what the online store said of it, how long that took, and which messages brought it, if any did."""

    batch: Sequence[Transaction]
    state: StateRead | None
    state_us: int
    sources: Sequence[str | None] | None = None


def decide(
    lineup: Lineup, parts: Sequence[Part], read: Read, arrivals: Sequence[int], stale: tuple[Degradation, ...]
) -> list[Decision]:
    """One decision for each transaction of the batch, in its order; ``stale``: what is degraded for all of them."""
    batch, state, state_us, sources = read
    late = [False] * len(batch) if state is None else state.late.tolist()
    entered_us = None if state is None or state.entered_us is None else state.entered_us.tolist()
    decided_at_us = time.time_ns() // 1_000
    made: dict[int, Decision] = {}
    for part in parts:
        model, policy = part.model, part.model.policy
        timings = Timings(len(part.rows), state_us, part.model_us)
        packed = part.vectors.astype("<f8", copy=False).tobytes()  # Decision.vector of all, one after the other
        width = 8 * part.vectors.shape[1]
        fingerprint = model.bundle.feature_set.fingerprint
        always = (*((Degradation.challenger,) if part.instead else ()), *part.lost, *stale)
        for i, row in enumerate(part.rows):
            score = part.scores[i]
            degraded = degradations(state, score)
            action, trial = policy.action(score, degraded), part.trial
            if lineup.exploration is not None and action is Action.decline:
                action, trial = _explored(lineup, batch[row], trial)
            made[row] = Decision(
                transaction=batch[row],
                vector=packed[i * width : (i + 1) * width],
                score=score,
                action=action,
                model_version=model.version,
                fingerprint=fingerprint,
                arrival=arrivals[row],
                decided_at_us=decided_at_us,
                timings=timings,
                arm=part.arm,
                late=late[row],
                degraded=degraded + always,
                trial=trial,
                source=None if sources is None else sources[row],
                entered_us=None if entered_us is None else entered_us[row] or None,
            )
    return list(made.values()) if len(parts) == 1 else [made[row] for row in range(len(batch))]


def _explored(lineup: Lineup, transaction: Transaction, trial: Trial | None) -> tuple[Action, Trial | None]:
    """What becomes of a would-be decline while some are let through."""
    share, let_through = lineup.explores(transaction)
    if share is None:
        return Action.decline, trial
    return Action.approve if let_through else Action.decline, lineup.exploring(trial, share, let_through)
