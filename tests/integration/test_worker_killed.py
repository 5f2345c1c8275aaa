"""``kill -9`` at every step of the worker's loop: nothing is lost, and nothing is decided or published twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from tests.support.killed_worker import STEPS
from tests.support.scoring import SCHEMA, row
from tests.support.streaming import Topics, by_id, working

ROOT = Path(__file__).parents[2]
COUNT = 30  # in batches of 7, and the worker dies in its second


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_that_is_killed_loses_and_repeats_nothing(step: str, kafka_servers: str, tmp_path: Path) -> None:
    topics = Topics(kafka_servers)
    events = [row(number) for number in range(COUNT)]
    topics.publish("transactions", [*events, b"no transaction", events[3], events[-1]])
    database = f"sqlite:///{tmp_path / 'log.db'}"
    handed = {"servers": kafka_servers, "partitions": 1, "names": topics.names, "group": topics.group}
    arguments = [step, database, msgspec.json.encode(handed).decode(), "9" if step == "publishing" else "2"]
    command = [sys.executable, "-m", "tests.support.killed_worker", *arguments]
    done = subprocess.run(command, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
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
