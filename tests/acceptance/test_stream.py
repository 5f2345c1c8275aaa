"""The whole stream with the real commands: a broker, two workers that are killed, PostgreSQL and Redis.

The simulated history is replayed; in the end every id is accounted for: in the file, in the log and on the topic. With
``FRAUDML_TEST_STREAM_ROWS=1000000``, ``_KILLS=30``, ``_RATE=1300`` and ``_SESSION_MS=10000`` it is a million, and
takes half an hour.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraudml import project, wiring
from fraudml.decisions.answer import encode, prediction
from fraudml.decisions.rebuild import rebuild
from fraudml.settings import Settings
from fraudml.worker.run import STUCK
from tests.support.commands import well
from tests.support.servers.kafka import unique
from tests.support.streaming import SESSION_MS, Topics, by_id
from tests.support.waiting import until

COUNT = int(os.environ.get("FRAUDML_TEST_STREAM_ROWS", "600"))
KILLS = int(os.environ.get("FRAUDML_TEST_STREAM_KILLS", "3"))
RATE = int(os.environ.get("FRAUDML_TEST_STREAM_RATE", "100"))
SESSION = int(os.environ.get("FRAUDML_TEST_STREAM_SESSION_MS", SESSION_MS))  # longer than any answer of a busy broker
PARTITIONS = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion."""
    directory = tmp_path_factory.mktemp("stream")
    rows, customers = max(8_000, COUNT + COUNT // 10), max(60, COUNT // 50)
    size = ["--rows", str(rows), "--customers", str(customers)]
    well("simulate", "tx.parquet", *size, "--fraud-rate", "0.05", cwd=directory)
    well("init", "tx.parquet", "--yes", cwd=directory)
    well("train", "--family", "logistic_regression", "--json", cwd=directory)
    return directory


class Group:
    """Two real workers, by name; killed as by a power cut, and started again."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self._home, self._environment = home, environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._said_before: dict[str, int] = {}  # what earlier incarnations said

    def start(self, name: str) -> None:
        self._said_before[name] = len(self.said(name))
        command = [sys.executable, "-m", "fraudml", "worker", "--id", name, "--port", "0", "--history", ""]
        with (self._home / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, cwd=self._home, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def kill(self, name: str) -> None:
        process = self._running[name]
        assert process.poll() is None, self.said(name)
        process.kill()
        process.wait()

    def end(self) -> None:
        """As Kubernetes does, once they have begun."""
        for name in self._running:
            until(lambda name=name: "decides on" in self.said(name)[self._said_before[name] :])  # type: ignore[misc]
        for name, process in self._running.items():
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, self.said(name)

    def said(self, name: str) -> str:
        log = self._home / f"{name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


@contextmanager
def group(home: Path, environment: dict[str, str]) -> Iterator[Group]:
    made = Group(home, environment)
    try:
        yield made
    finally:
        made.close()


def until_read(topics: Topics, count: int, *of: str) -> None:
    """However many there are, as long as it goes on."""
    while (now := sum(topics.offsets(*of).values())) < count:
        said = f"{of}: {now} of {count}"
        until(lambda now=now: sum(topics.offsets(*of).values()) > now, said, every_s=0.1)  # type: ignore[misc]


def test_two_workers_that_are_killed_decide_each_transaction_once(
    home: Path,
    kafka_servers: str,
    postgres_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    names = {name: unique(name) for name in ("transactions", "labels", "decisions", "alerts")}
    settings: dict[str, Any] = {
        "database_url": postgres_url,
        "redis_url": redis_url,
        "kafka_bootstrap_servers": kafka_servers,
        "kafka_group": unique("workers"),
        "kafka_session_timeout_ms": SESSION,
        **{f"topic_{name}": topic for name, topic in names.items()},
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"FRAUDML_{name.upper()}", str(value))
    well("db", "upgrade", cwd=home)
    well("features", "materialize", "--history", "", cwd=home)  # else one worker does so while the other has none
    well("stream", "init", "--partitions", str(PARTITIONS), cwd=home)
    topics = Topics.over(kafka_servers, names, settings["kafka_group"], PARTITIONS)
    declared = project.read(home / "fraudml.yaml")
    current = Settings(_env_file=None, home=home / ".fraudml", **settings)
    log = wiring.decision_log(current, declared.schema)
    request.addfinalizer(log.close)

    chance = random.Random(6)
    with group(home, dict(os.environ)) as workers:
        workers.start("a")
        workers.start("b")
        replayed: list[Any] = []
        replay = threading.Thread(
            target=lambda: replayed.append(
                well(
                    *("replay", "tx.parquet", "--limit", str(COUNT), "--rate", f"{RATE}/s", "--json"),
                    cwd=home,
                    within_s=600 + 3 * COUNT / RATE,
                ).json
            )
        )
        replay.start()
        for kill in range(1, KILLS + 1):
            until_read(topics, COUNT * kill // (KILLS + 1))
            name = chance.choice(["a", "b"])
            workers.kill(name)
            workers.start(name)
        replay.join()
        assert replayed[0]["sent"] == COUNT, replayed
        until_read(topics, topics.ends())
        until_read(topics, topics.ends("labels"), "-labels", "labels")
        workers.end()

    places = well("stream", "status", "--json", cwd=home).json["lag"]
    assert {place["lag"] for place in places} == {0}
    assert sum(place["offset"] for place in places if place["topic"] == names["labels"]) > 0

    published = by_id(decisions := topics.committed("decisions"))
    logged = {
        name: decision
        for batch in log.outcomes()
        for name, decision in log.find(batch.column("transaction_id").to_pylist()).items()
    }
    assert len(published) == len(logged) == COUNT
    assert set(published) == set(logged)
    assert {each.value for each in decisions} == {encode(prediction(decision)) for decision in logged.values()}
    assert not topics.committed("transactions.dlq")
    assert not topics.committed("labels.dlq")

    audit = well("features", "audit", "--history", "", "--judge", "2000", "--json", cwd=home, within_s=7_200).json
    assert audit["decisions"] == COUNT, audit
    assert audit["differing"] == 0, audit["examples"]

    # online state is what a rebuild makes of the log
    online = wiring.online_store(current, declared.feature_set)
    rebuilt = wiring.online_store(current.model_copy(update={"redis_url": None}), declared.feature_set)
    rebuild(rebuilt, log, ())
    newest = sorted((decision.transaction for decision in logged.values()), key=lambda event: event.event_time_us)[
        -300:
    ]
    ahead = [  # of the same entities, after all that happened
        event.__class__(f"probe-{number}", newest[-1].event_time_us + 1 + number, *_rest(event))
        for number, event in enumerate(newest)
    ]
    there, here = online.read(ahead), rebuilt.read(ahead)
    np.testing.assert_allclose(there.values, here.values, rtol=1e-9, equal_nan=True)


def _rest(event: Any) -> tuple[Any, ...]:
    return event.entities, event.amount_minor, event.attributes


HANGING = """
import sys, threading
from fraudml.adapters.stream import producer

class Hanging(producer.Producer):
    def commit_transaction(self, *arguments):
        threading.Event().wait()

producer.Producer = Hanging
from fraudml.cli.main import run
sys.argv = ["fraudml", "worker", "--id", "hangs", "--port", "0", "--history", ""]
run()
"""


def test_a_worker_whose_client_hangs_ends_itself_and_the_next_one_publishes(
    home: Path, kafka_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name: unique(name) for name in ("transactions", "labels", "decisions", "alerts")}
    settings: dict[str, Any] = {
        "database_url": f"sqlite:///{tmp_path / 'log.db'}",
        "kafka_bootstrap_servers": kafka_servers,
        "kafka_group": unique("workers"),
        "kafka_session_timeout_ms": SESSION_MS,
        "worker_stuck_s": 1,
        **{f"topic_{name}": topic for name, topic in names.items()},
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"FRAUDML_{name.upper()}", str(value))
    well("stream", "init", "--partitions", "1", cwd=home)
    well("replay", "tx.parquet", "--limit", "3", "--no-labels", cwd=home)
    hangs = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=home, capture_output=True, text=True, timeout=120, check=False
    )
    assert hangs.returncode == STUCK, hangs.stderr
    assert "hangs" in hangs.stderr
    topics = Topics.over(kafka_servers, names, settings["kafka_group"], 1)
    assert not topics.committed("decisions")
    with group(home, dict(os.environ)) as workers:
        workers.start("hangs")  # under its name: what it had begun ends with that
        until_read(topics, 3)
        workers.end()
    assert len(by_id(topics.committed("decisions"))) == 3
