"""The worker over a real broker: what it publishes, what it refuses, and what it does when something fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.answer import encode, prediction
from tests.support.scoring import SCHEMA, row
from tests.support.streaming import Topics, by_id, working
from tests.support.waiting import until


@pytest.fixture
def topics(kafka_servers: str) -> Topics:
    return Topics(kafka_servers)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    opened = SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)
    yield opened
    opened.close()


def test_each_transaction_is_decided_once_and_published_as_the_api_answers(
    topics: Topics, log: SqliteDecisionLog
) -> None:
    topics.publish("transactions", [row(number) for number in range(50)], trace=b"abc")
    with working(log, topics) as worker:
        worker.until_handled(50)
        assert worker.value("fraud_stream_delay_seconds_count") == 50
        until(lambda: worker.value("fraud_stream_lag_messages", topic=topics.names["transactions"], partition="0") == 0)
    published = topics.committed("decisions")
    assert set(by_id(published)) == {f"t{number}" for number in range(50)}
    assert [each.key for each in published] == [b"c1"] * 50
    logged = log.find([f"t{number}" for number in range(50)])
    assert {each.value for each in published} == {encode(prediction(decision)) for decision in logged.values()}
    name = topics.names["transactions"]
    assert {decision.source for decision in logged.values()} == {f"{name}/0/{number}" for number in range(50)}


def test_alerts_have_reviews_and_declines_with_their_transactions(topics: Topics, log: SqliteDecisionLog) -> None:
    topics.publish("transactions", [row(1), row(2, amount=900.0), row(3, amount=5_000.0)])
    with working(log, topics) as worker:
        worker.until_handled(3)
    actions = {name: told["action"] for name, told in by_id(topics.committed("decisions")).items()}
    alerts = [each.json for each in topics.committed("alerts")]
    assert {alert["decision"]["transaction_id"]: alert["decision"]["action"] for alert in alerts} == {
        name: action for name, action in actions.items() if action != "approve"
    }
    assert len(alerts) >= 1
    assert all(alert["transaction"]["cust_no"] == "c1" for alert in alerts)


def test_a_transaction_that_was_published_twice_is_decided_and_published_once(
    topics: Topics, log: SqliteDecisionLog
) -> None:
    topics.publish("transactions", [row(1), row(2), row(1)])
    with working(log, topics) as worker:
        worker.until_handled(2)
        worker.until_handled(1, "repeated")
        topics.publish("transactions", [row(2), row(3), row(3)])
        worker.until_handled(3)
        worker.until_handled(3, "repeated")
        assert len(worker.store.events) == 3
    assert set(by_id(topics.committed("decisions"))) == {"t1", "t2", "t3"}


def test_what_is_no_transaction_is_a_dead_letter_and_holds_up_nobody(topics: Topics, log: SqliteDecisionLog) -> None:
    poison = [b"", b"{", b"\xff\xfe{\x00}\x00", b"[" * 100_000]
    wrong = [row(2, amount="much"), row(3, time="2150-01-01T00:00:00Z")]
    topics.publish("transactions", [row(1), *poison, *wrong, row(4), row(1, amount=99.0), row(5)], trace=b"abc")
    with working(log, topics) as worker:
        worker.until_handled(3)
        worker.until_handled(7, "dead")
    assert set(by_id(topics.committed("decisions"))) == {"t1", "t4", "t5"}
    dead = topics.committed("transactions.dlq")
    assert [each.value for each in dead[:4]] == poison[:4]
    assert [each.headers["fraudml-source"].decode() for each in dead] == [
        f"{topics.names['transactions']}/0/{offset}" for offset in (1, 2, 3, 4, 5, 6, 8)
    ]
    said = [each.headers["fraudml-error"].decode() for each in dead]
    for word, error in zip(("UTF-8", "nested", "amount", "ahead", "t1"), said[2:], strict=True):
        assert word in error
    assert {each.headers["trace"] for each in dead} == {b"abc"}
    assert {each.key for each in dead} == {b"c1"}


def test_labels_reach_the_log_and_the_features(topics: Topics, log: SqliteDecisionLog) -> None:
    topics.publish("transactions", [row(1)])
    with working(log, topics) as worker:
        worker.until_handled(1)
        fraud = {"transaction_id": "t1", "is_fraud": True}
        topics.publish("labels", [fraud, fraud, {"transaction_id": "t1"}])
        worker.until_handled(1, "recorded", "labels")
        worker.until_handled(1, "unchanged", "labels")
        worker.until_handled(1, "dead", "labels")
    assert [report.label.is_fraud for report in log.label_history("t1")] == [True]
    assert [label.transaction_id for label in worker.store.labels] == ["t1"]
    (dead,) = topics.committed("labels.dlq")
    assert b"is_fraud" in dead.headers["fraudml-error"]


def test_a_label_waits_for_its_transaction(topics: Topics, log: SqliteDecisionLog) -> None:
    topics.publish("transactions", [row(1)])
    with working(log, topics) as worker:
        worker.until_handled(1)
        labels = [{"transaction_id": f"t{number}", "is_fraud": number == 2} for number in (1, 2, 1)]
        topics.publish("labels", labels)
        worker.until_handled(1, "recorded", "labels")
        topics.publish("transactions", [row(2)])
        worker.until_handled(2, "recorded", "labels")
        worker.until_handled(1, "unchanged", "labels")
    assert [report.label.is_fraud for report in log.label_history("t2")] == [True]
    assert not topics.committed("labels.dlq")


def test_a_worker_that_is_started_again_goes_on_where_the_group_is(topics: Topics, log: SqliteDecisionLog) -> None:
    topics.publish("transactions", [row(number) for number in range(10)])
    with working(log, topics) as worker:
        worker.until_handled(10)
    topics.publish("transactions", [row(number) for number in range(10, 20)])
    with working(log, topics) as worker:
        worker.until_handled(10)
        assert worker.handled("decided") == 10
    assert len(by_id(topics.committed("decisions"))) == 20
