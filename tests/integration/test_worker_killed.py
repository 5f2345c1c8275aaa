"""``kill -9`` at every step of the worker's loop, and a worker that sleeps meanwhile: nothing is lost, and nothing is
decided or published twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from tests.support.killed_worker import STEPS, start
from tests.support.scoring import SCHEMA, row
from tests.support.streaming import Topics, by_id, working
from tests.support.waiting import until

COUNT = 100  # in batches of 7, and the worker dies in its second, or some later ones that were decided meanwhile


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_that_is_killed_loses_and_repeats_nothing(step: str, kafka_servers: str, tmp_path: Path) -> None:
    topics = Topics(kafka_servers)
    events = [row(number) for number in range(COUNT)]
    topics.publish("transactions", [*events, b"no transaction", events[3], events[-1]])
    database = f"sqlite:///{tmp_path / 'log.db'}"
    after = 9 if step == "publishing" else 2
    process = start(topics, database, step, signal.SIGKILL, after)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    log = SqliteDecisionLog(database, SCHEMA)
    before = log.find([f"t{number}" for number in range(COUNT)])
    assert 0 < len(before) < COUNT
    with working(log, topics) as worker:
        worker.until_handled(1, "dead")
        worker.until_handled(2, "repeated")
        assert len(worker.store.events) == len({event.transaction_id for event in worker.store.events}) == COUNT
    published = by_id(topics.committed("decisions"))
    after = log.find([f"t{number}" for number in range(COUNT)])
    assert set(published) == set(after) == {f"t{number}" for number in range(COUNT)}
    assert {name: after[name] for name in before} == before
    assert len(topics.committed("transactions.dlq")) == 1
    assert topics.offsets() == {0: COUNT + 3}
    log.close()


def test_a_worker_that_wakes_up_after_others_took_over_publishes_nothing(kafka_servers: str, tmp_path: Path) -> None:
    """A machine that was suspended, or a process without its processor: it believes that the partition is still its.

    One that sleeps within its transaction is refused by Kafka, which compares the group's generation; the broker of the
    tests does not, so this one sleeps before it has anything to publish.
    """
    topics = Topics(kafka_servers)
    topics.publish("transactions", [row(number) for number in range(COUNT)])
    database = f"sqlite:///{tmp_path / 'log.db'}"
    sleeper = start(topics, database, "decided", signal.SIGSTOP, 1)
    assert sleeper.pid is not None
    try:
        until(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2] == "T")
        log = SqliteDecisionLog(database, SCHEMA)
        with working(log, topics, writer=1, worker_id="other") as worker:
            until(lambda: topics.offsets()[0] == COUNT)
            os.kill(sleeper.pid, signal.SIGCONT)
            topics.publish("transactions", [row(COUNT)])
            until(lambda: log.find([f"t{COUNT}"]) and topics.offsets()[0] == COUNT + 1)
            assert worker.error is None
        log.close()
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.kill()
        sleeper.join()
    assert set(by_id(topics.committed("decisions"))) == {f"t{number}" for number in range(COUNT + 1)}
