"""``kill -9`` at every step of the worker's loop, and a worker that sleeps meanwhile: nothing is lost, and nothing is
decided or published twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from tests.support.killed_worker import SIGNAL, STEPS
from tests.support.scoring import SCHEMA, row
from tests.support.streaming import Topics, by_id, working
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
COUNT = 100  # in batches of 7, and the worker dies in its second, or some later ones that were decided meanwhile


def begin(topics: Topics, database: str, step: str, number: signal.Signals, after: int = 2) -> subprocess.Popen[bytes]:
    """A worker that gets the signal when it takes the step for the ``after``-th time."""
    handed = {"servers": topics.servers, "partitions": 1, "names": topics.names, "group": topics.group}
    arguments = [step, database, msgspec.json.encode(handed).decode(), str(after)]
    command = [sys.executable, "-m", "tests.support.killed_worker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {SIGNAL: str(int(number))})


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_that_is_killed_loses_and_repeats_nothing(step: str, kafka_servers: str, tmp_path: Path) -> None:
    topics = Topics(kafka_servers)
    events = [row(number) for number in range(COUNT)]
    topics.publish("transactions", [*events, b"no transaction", events[3], events[-1]])
    database = f"sqlite:///{tmp_path / 'log.db'}"
    after = 9 if step == "publishing" else 2
    with begin(topics, database, step, signal.SIGKILL, after) as process:
        assert process.wait(60) == -signal.SIGKILL
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
    with begin(topics, database, "decided", signal.SIGSTOP, 1) as sleeper:
        try:
            until(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2] == "T")
            log = SqliteDecisionLog(database, SCHEMA)
            with working(log, topics, writer=1, worker_id="other") as worker:
                until(lambda: topics.offsets()[0] == COUNT)
                sleeper.send_signal(signal.SIGCONT)
                topics.publish("transactions", [row(COUNT)])
                until(lambda: log.find([f"t{COUNT}"]) and topics.offsets()[0] == COUNT + 1)
                assert worker.error is None
            log.close()
        finally:
            sleeper.send_signal(signal.SIGCONT)
            sleeper.kill()
    assert set(by_id(topics.committed("decisions"))) == {f"t{number}" for number in range(COUNT + 1)}
