"""What the worker does when Kafka or the decision log fails, or partitions move: it waits, and loses nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.errors import FencedError
from tests.support.scoring import SCHEMA, row
from tests.support.servers.kafka import KafkaServer
from tests.support.streaming import InProcess, Topics, by_id, working
from tests.support.waiting import until

PARTITIONS = 4
OUTAGE_S = float(os.environ.get("FRAUDML_TEST_OUTAGE_S", "3"))  # `make soak` takes a minute


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def log(database: Path) -> Iterator[SqliteDecisionLog]:
    opened = SqliteDecisionLog(f"sqlite:///{database}", SCHEMA, timeout_ms=100)
    yield opened
    opened.close()


@pytest.fixture
def broker() -> Iterator[KafkaServer]:
    """One of the test's own, to be taken away."""
    server = KafkaServer()
    yield server
    server.close()


def event(number: int) -> dict[str, Any]:
    """One of many, of a few customers."""
    moment = datetime(2024, 5, 1, tzinfo=UTC) + timedelta(seconds=number)
    return row(0, tx_id=f"t{number}", time=moment.isoformat(), cust_no=f"c{number % 7}")


def wait(seconds: float) -> None:
    """An outage lasts."""
    import threading

    threading.Event().wait(seconds)


def test_a_broker_that_hangs_is_waited_for(broker: KafkaServer, log: SqliteDecisionLog) -> None:
    topics = Topics(broker.servers)
    topics.publish("transactions", [row(number) for number in range(10)])
    with working(log, topics) as worker:
        worker.until_handled(10)
        topics.publish("transactions", [row(number) for number in range(10, 20)])
        broker.process.send(signal.SIGSTOP)
        wait(OUTAGE_S)
        broker.process.send(signal.SIGCONT)
        worker.until_handled(20)
    assert set(by_id(topics.committed("decisions"))) == {f"t{number}" for number in range(20)}


def test_a_topic_that_was_lost_is_read_from_its_start_when_it_comes_back(
    broker: KafkaServer, log: SqliteDecisionLog
) -> None:
    """The group's offsets are beyond its end then. (While a worker reads, the client crashes over what this broker says
    of a topic that is deleted; a worker that crashes is ``test_worker_killed``.)"""
    topics = Topics(broker.servers)
    topics.publish("transactions", [row(number) for number in range(10)])
    with working(log, topics) as worker:
        worker.until_handled(10)
    topics.delete("transactions")
    topics.again()
    # of an id that was decided before, whatever comes from another place is a repeat
    topics.publish("transactions", [row(3), *(row(number) for number in range(13, 20))])
    with working(log, topics) as worker:
        worker.until_handled(7)
        worker.until_handled(1, "repeated")
        assert len(worker.store.events) == 17
    assert set(by_id(topics.committed("decisions"))) == {f"t{number}" for number in [*range(10), *range(13, 20)]}


def test_while_the_decision_log_is_gone_nothing_is_published_and_nothing_lost(
    kafka_servers: str, database: Path, log: SqliteDecisionLog
) -> None:
    topics = Topics(kafka_servers)
    topics.publish("transactions", [row(1)])
    with working(log, topics) as worker:
        worker.until_handled(1)
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            topics.publish("transactions", [row(number) for number in range(2, 20)])
            topics.publish("labels", [{"transaction_id": "t1", "is_fraud": True}])
            until(lambda: worker.value("fraud_stream_failures_total", kind="store") >= 3)
            assert worker.value("fraud_stream_waiting", topic=topics.names["transactions"]) == 1
            assert set(by_id(topics.committed("decisions"))) == {"t1"}
            other.execute("ROLLBACK")
        worker.until_handled(19)
        worker.until_handled(1, "recorded", "labels")
        assert worker.value("fraud_stream_waiting", topic=topics.names["transactions"]) == 0
        assert len(worker.store.events) == 19
    assert set(by_id(topics.committed("decisions"))) == {f"t{number}" for number in range(1, 20)}


def test_a_message_of_10_mb_is_a_dead_letter_with_all_its_bytes(kafka_servers: str, log: SqliteDecisionLog) -> None:
    topics = Topics(kafka_servers)
    large = b'{"tx_id": "' + b"x" * 10_000_000 + b'"}'
    topics.publish("transactions", [row(1), large, row(2)])
    with working(log, topics) as worker:
        worker.until_handled(2)
    (dead,) = topics.committed("transactions.dlq")
    assert dead.value == large
    assert set(by_id(topics.committed("decisions"))) == {"t1", "t2"}


def shared(*workers: InProcess) -> None:
    """Wait until they share all partitions: a group of this broker is dead for good when a member leaves before."""
    until(lambda: sorted(len(worker.partitions) for worker in workers) == [PARTITIONS // 2] * 2)


def test_two_workers_share_the_partitions_and_hand_them_over(kafka_servers: str, log: SqliteDecisionLog) -> None:
    """They come and go while messages arrive: every decision is published once."""
    topics = Topics(kafka_servers, PARTITIONS)
    workers = [InProcess(log, topics, worker_id="first", worker_batch=3)]
    sent = 0

    def until_all_are_decided() -> None:
        nonlocal sent
        for _ in range(40):
            sent += 1
            topics.publish("transactions", [event(sent)], key=f"c{sent % 7}")
        until(lambda: sum(worker.handled("decided") for worker in workers) == sent)

    until_all_are_decided()
    workers.append(InProcess(log, topics, worker_id="second", worker_batch=3, writer=1))
    until_all_are_decided()  # while partitions move
    shared(*workers)
    workers[0].stop()
    until_all_are_decided()
    workers.append(InProcess(log, topics, worker_id="third", worker_batch=3))
    until_all_are_decided()
    shared(*workers[1:])
    workers[1].stop()
    until_all_are_decided()
    workers[2].stop()
    assert [worker.error for worker in workers] == [None] * 3
    assert all(worker.handled("decided") for worker in workers)
    assert set(by_id(topics.committed("decisions"))) == {f"t{number}" for number in range(1, sent + 1)}
    assert not any("lost" in worker.rebalances for worker in workers)


def test_a_worker_whose_name_is_taken_ends(kafka_servers: str, log: SqliteDecisionLog) -> None:
    topics = Topics(kafka_servers, PARTITIONS)
    with (
        working(log, topics, worker_id="same") as first,
        working(log, topics, worker_id="same", writer=1) as second,
    ):
        shared(first, second)
        for number in range(40):
            topics.publish("transactions", [event(number)], key=f"c{number % 7}")
        until(lambda: first.error or second.error)
        until(lambda: first.handled("decided") + second.handled("decided") == 40)
    assert isinstance(first.error or second.error, FencedError)
    assert set(by_id(topics.committed("decisions"))) == {f"t{number}" for number in range(40)}
