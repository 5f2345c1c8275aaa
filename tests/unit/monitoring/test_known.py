"""What a decision could know of several processes: each may have been a little further than its numbers say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fraudml.decisions.log import WRITERS
from fraudml.events.transaction import Transaction
from fraudml.monitoring.known import Known, Numbered
from tests.support.scoring import transaction

SECOND = 1_000_000 // WRITERS  # arrival numbers of one process are so far apart
NOW = 100_000_000_000 * WRITERS


def numbered(
    number: int, writer: int, at: int, *, entered: int | None = None, batch: int = 0, blind: bool = False
) -> Numbered[Transaction]:
    arrival = NOW + at * WRITERS + writer
    seen_from = arrival if entered is None else NOW + entered * WRITERS
    return Numbered(transaction(number), arrival, seen_from, batch, blind)


def could_see(decision: Numbered[Transaction], others: Sequence[Numbered[Transaction]]) -> set[frozenset[str]]:
    known = Known([decision, *others], [])
    return {
        frozenset(event.transaction_id for event in known.before(decision, view, {0, 1})[0])
        for view in known.views(decision)
    }


def test_of_its_own_process_it_has_seen_what_came_before_it() -> None:
    assert could_see(numbered(9, 0, 10), [numbered(1, 0, 9), numbered(2, 0, 11)]) == {frozenset({"t1"})}


def test_of_two_others_each_may_have_been_further() -> None:
    """The first was in state before the second, but its number is the greater."""
    seen = could_see(numbered(9, 3, 12), [numbered(1, 1, 60), numbered(2, 2, 22)])
    assert seen == {frozenset(), frozenset({"t1"}), frozenset({"t2"}), frozenset({"t1", "t2"})}


def test_but_in_its_order() -> None:
    seen = could_see(numbered(9, 3, 12), [numbered(1, 1, 60), numbered(2, 1, 61), numbered(3, 2, 62)])
    assert frozenset({"t2"}) not in seen
    assert {frozenset({"t1", "t3"}), frozenset({"t1", "t2"})} <= seen


def test_what_is_long_ago_was_seen_and_what_came_long_after_was_not() -> None:
    hour = 3_600 * SECOND
    others = [numbered(1, 1, -hour), numbered(2, 2, hour), numbered(3, 1, 5), numbered(4, 2, 6)]
    for seen in could_see(numbered(9, 3, 0), others):
        assert "t1" in seen
        assert "t2" not in seen


@pytest.mark.parametrize("successor", [1, 3])
def test_a_batch_that_was_left_behind_was_seen_long_before_it_was_decided(successor: int) -> None:
    minute = 60 * SECOND
    others = [numbered(n, successor, 2 * minute, entered=-minute, batch=7) for n in (1, 2)]
    seen = could_see(numbered(9, 3, 0), others)
    assert frozenset({"t1", "t2"}) in seen
    assert frozenset({"t1"}) not in seen, "all of it, or nothing"


def test_those_of_a_batch_that_is_decided_again_see_each_other_in_their_order() -> None:
    mates = [numbered(n, 0, n, entered=-SECOND, batch=7) for n in (1, 2, 4)]
    decision = numbered(9, 0, 3, entered=-SECOND, batch=7)
    seen = could_see(decision, mates)
    assert seen == {frozenset({"t1", "t2"}), frozenset({"t1", "t2", "t4"})}, "and in parts what state had of it"


def test_a_decision_without_state_left_its_event_there_at_some_time() -> None:
    seen = could_see(numbered(9, 0, 100 * SECOND), [numbered(1, 1, 0, blind=True), numbered(2, 2, 99 * SECOND)])
    assert {frozenset({"t2"}), frozenset({"t1", "t2"})} <= seen
