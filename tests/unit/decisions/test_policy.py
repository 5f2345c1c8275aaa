"""An action is a function of the score and of what the score is worth."""

from __future__ import annotations

import pytest

from fraudml.decisions.policy import Policy, WhenDegraded
from fraudml.decisions.record import TOUCHES_SCORE, Action, Degradation

OPEN = Policy(review=0.2, decline=0.9)
CLOSED = Policy(review=0.2, decline=0.9, when_degraded=WhenDegraded.closed)


@pytest.mark.parametrize("degradation", sorted(Degradation))
def test_closed_reviews_only_what_was_scored_on_less(degradation: Degradation) -> None:
    touches = degradation in (Degradation.online_store, Degradation.model)
    assert (degradation in TOUCHES_SCORE) is touches
    assert CLOSED.action(0.1, (degradation,)) is (Action.review if touches else Action.approve)
    assert OPEN.action(0.1, (degradation,)) is Action.approve


def test_one_that_touches_the_score_counts_among_others() -> None:
    assert CLOSED.action(0.1, (Degradation.registry, Degradation.online_store)) is Action.review
    assert CLOSED.action(0.95, (Degradation.registry,)) is Action.decline
    assert CLOSED.action(None, (Degradation.registry,)) is Action.review
