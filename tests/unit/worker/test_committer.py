"""Batches are committed in order, in a thread of their own, and none after one that failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from fraudml.adapters.stream import committer as module
from fraudml.adapters.stream.committer import MOST, Batch, Committer
from fraudml.decisions.stream import Outgoing, Partition
from fraudml.errors import StreamError
from tests.support.waiting import until


class Broker:
    """Commits when it is let; ``failure`` is what the next one ends with."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.failure: StreamError | None = None
        self.begun = 0
        self.commits: list[tuple[list[str], Mapping[Partition, int], Any]] = []
        self.told: list[int] = []

    def commit(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int], member: Any) -> None:
        self.begun += 1
        assert self.go_on.wait(30)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.commits.append(([each.topic for each in outgoing], dict(done), member))

    def batch(self, number: int) -> Batch:
        outgoing = [Outgoing(str(number), None, b"")]
        return Batch(outgoing, {("t", number % 2): number}, lambda: self.told.append(number), f"member {number}")


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def committer(broker: Broker) -> Iterator[Committer]:
    made = Committer(broker.commit)
    yield made
    broker.go_on.set()
    made.close()


def begun(committer: Committer, broker: Broker) -> None:
    """One is under way, and does not end."""
    broker.go_on.clear()
    committer.add(broker.batch(1))
    until(lambda: broker.begun == 1)


def test_what_waits_goes_together_in_order_as_the_newest_member(committer: Committer, broker: Broker) -> None:
    begun(committer, broker)
    for number in (2, 3):
        committer.add(broker.batch(number))
    broker.go_on.set()
    committer.settle()
    assert broker.commits == [
        (["1"], {("t", 1): 1}, "member 1"),
        (["2", "3"], {("t", 0): 2, ("t", 1): 3}, "member 3"),
    ]
    assert broker.told == [1, 2, 3]


def test_no_more_than_some_wait(committer: Committer, broker: Broker) -> None:
    begun(committer, broker)
    for number in range(2, 2 + MOST):
        committer.add(broker.batch(number))
    one_more = threading.Thread(target=committer.add, args=[broker.batch(9)])
    one_more.start()
    one_more.join(0.1)
    assert one_more.is_alive()
    broker.go_on.set()
    one_more.join(30)
    committer.settle()
    assert broker.told == [1, *range(2, 2 + MOST), 9]


def test_after_a_failure_nothing_is_committed_until_it_is_reset(committer: Committer, broker: Broker) -> None:
    begun(committer, broker)
    committer.add(broker.batch(2))
    broker.failure = StreamError("no")
    broker.go_on.set()
    committer.settle()
    for call in (committer.check, lambda: committer.add(broker.batch(3))):
        with pytest.raises(StreamError, match="no"):
            call()
    assert broker.told == []
    committer.reset()
    committer.check()
    committer.add(broker.batch(1))
    committer.settle()
    assert broker.told == [1]


def test_what_waits_when_partitions_are_lost_is_dropped_and_read_again(committer: Committer, broker: Broker) -> None:
    begun(committer, broker)
    committer.add(broker.batch(2))
    dropping = threading.Thread(target=committer.drop)
    dropping.start()
    dropping.join(0.1)
    assert dropping.is_alive()  # the one under way has to end first
    broker.go_on.set()
    dropping.join(30)
    assert broker.told == [1]
    with pytest.raises(StreamError, match="others have the partitions"):
        committer.check()


def test_one_that_takes_long_is_waited_for(
    committer: Committer, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a worker whose client hangs shows no sign of life."""
    begun(committer, broker)
    committer.check()
    monkeypatch.setattr(module, "LONG_S", 0.0)
    checking = threading.Thread(target=committer.check)
    checking.start()
    checking.join(0.1)
    assert checking.is_alive()
    broker.go_on.set()
    checking.join(30)
    assert broker.told == [1]
