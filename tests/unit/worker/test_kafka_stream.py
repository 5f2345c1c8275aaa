"""What a member does with partitions that go and come while it reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from fraudml.adapters.stream import kafka
from fraudml.adapters.stream.kafka import KafkaStream, Member
from fraudml.decisions.stream import Outgoing
from fraudml.errors import StreamError

PLACE = TopicPartition("transactions", 0)


class Found:
    """A message of the driver's."""

    def __init__(self, offset: int) -> None:
        self.offset = lambda: offset
        self.topic, self.partition = lambda: "transactions", lambda: 0
        self.key = self.value = self.headers = self.error = lambda: None
        self.timestamp = lambda: (1, 0)


class Driver:
    """A consumer that calls back while it polls, as the driver does."""

    def __init__(self, config: object) -> None:
        self.events: list[Callable[[], object]] = []
        self.messages: list[Found] = []
        self.commits: list[tuple[bool, list[int]]] = []

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.assign = lambda: callbacks["on_assign"](self, [PLACE])
        self.lose = lambda: callbacks["on_lost"](self, [PLACE])
        self.revoke = lambda: callbacks["on_revoke"](self, [PLACE])

    def poll(self, wait_s: float) -> Found | None:
        while self.events:
            self.events.pop(0)()
        return self.messages.pop(0) if self.messages else None

    def consume(self, most: int, wait_s: float) -> list[Found]:
        found, self.messages = self.messages, []
        return found

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.commits.append((asynchronous, [each.offset for each in offsets]))

    def consumer_group_metadata(self) -> None:
        pass

    def close(self) -> None:
        pass


class Publisher:
    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def commit(self, *arguments: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaStream]:
    monkeypatch.setattr(kafka, "Consumer", Driver)
    monkeypatch.setattr(kafka, "TransactionalProducer", Publisher)
    with closing(KafkaStream({}, ["transactions"], Member("g", "me", 60_000))) as made:
        yield made


@pytest.fixture
def driver(stream: KafkaStream) -> Any:
    return stream._consumer


def offsets(stream: KafkaStream) -> list[int]:
    return [message.offset for message in stream.read(10, 0.0)]


def test_what_was_read_of_a_partition_that_went_is_left_to_others(stream: KafkaStream, driver: Any) -> None:
    driver.events = [driver.assign]
    driver.messages = [Found(0), Found(1)]
    assert offsets(stream) == [0, 1]
    driver.events = [driver.revoke]
    driver.messages = [Found(2)]
    assert offsets(stream) == []


def test_a_partition_that_goes_and_comes_back_at_once_is_read_from_where_the_group_is(
    stream: KafkaStream, driver: Any
) -> None:
    driver.events = [driver.assign]
    assert offsets(stream) == []
    driver.events = [driver.lose, driver.assign]
    driver.messages = [Found(5)]
    with pytest.raises(StreamError, match="went and came back"):
        stream.read(10, 0.0)


@pytest.mark.parametrize("answered", [True, False])
def test_a_transaction_does_not_overtake_a_move_without_one(stream: KafkaStream, driver: Any, answered: bool) -> None:
    done = {("transactions", 0): 3}
    stream.commit([], done, lambda: None)
    if answered:
        driver.events = [lambda: stream._moved(None, [])]
        assert offsets(stream) == []
    published = threading.Event()
    stream.commit([Outgoing("decisions", None, b"", ())], {("transactions", 0): 5}, published.set)
    assert published.wait(60)
    assert driver.commits == ([(True, [3])] if answered else [(True, [3]), (False, [3])])
