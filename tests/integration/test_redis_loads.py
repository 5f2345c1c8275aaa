"""Loads and catch-ups of a store in Redis from the decision log: what they bring counts once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fraudml.adapters.connections import redis
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.online.redis import RedisOnlineStore, load, post, tidy
from fraudml.decisions import rebuild
from fraudml.decisions.rebuild import bring_up
from fraudml.decisions.record import LabelReport
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.spec import Aggregation, FeatureSet, LabelAggregation, LabelWindowFeature, WindowFeature
from tests.support.scoring import SCHEMA, decision
from tests.support.servers.redis import RedisServer

TIMEOUT_MS = 4_000  # of a machine that does much else
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
FEATURES = FeatureSet(
    SCHEMA,
    [
        WindowFeature("n_30d", "terminal", Aggregation.count, "30d", resolution="1h"),
        LabelWindowFeature("frauds_30d", "terminal", LabelAggregation.fraud_count, "30d", resolution="1h"),
    ],
)


class World:
    """A log and a server of its own, with a merchant that has many more reports than are told apart by their ids."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.server = server
        self.now_us = time.time_ns() // 1_000
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.store = self.another_store()

    def another_store(self, port: int | None = None) -> RedisOnlineStore:
        connect = redis.connector(f"redis://127.0.0.1:{port or self.server.port}/0", TIMEOUT_MS)
        return RedisOnlineStore(FEATURES, connect, lateness_us=HOUR_US, timeout_ms=TIMEOUT_MS, tick=1)

    def event(self, number: int, age_us: int) -> Transaction:
        return Transaction(f"t{number}", self.now_us - age_us + number, ("c", "m"), 5, ("DE", 1.0, 1))

    def log_events(self, events: Sequence[Transaction], *, ago_us: int = 0) -> None:
        """``ago_us``: how long ago they were decided."""
        first = self.now_us - ago_us
        self.log.append([decision(event, first + place) for place, event in enumerate(events)])

    def log_labels(self, labels: Sequence[Label], *, ago_us: int = 0) -> None:
        first = self.now_us - ago_us
        self.log.append_labels([LabelReport(label, first + place) for place, label in enumerate(labels)])

    def load(self) -> None:
        bring_up(self.store, self.log, lambda: iter(()), 40 * DAY_US)

    def counts(self) -> list[float]:
        """Transactions and frauds of the merchant."""
        target = Transaction("now", self.now_us + 60_000_000, ("c", "m"), 5, ("DE", 1.0, 1))
        return list(map(float, self.another_store().read([target]).values[0]))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rebuild, "COMMIT_S", 0.0)
    monkeypatch.setattr(post, "RING", 4)
    monkeypatch.setattr(tidy, "MOST_RAW", 8)
    monkeypatch.setattr(tidy, "KEPT_RAW", 2)
    with closing(RedisServer()) as server:
        made = World(tmp_path, server)
        with closing(made.log):
            yield made


def no_history() -> Any:
    raise AssertionError("history must not be read")


def reports(events: Sequence[Transaction], later_us: int = HOUR_US) -> list[Label]:
    """Of frauds, known so much later than the event."""
    return [Label(each.transaction_id, True, each.event_time_us + later_us, each.entities) for each in events]


def test_reports_of_the_last_day_that_are_folded_are_not_added_again_by_a_start(world: World) -> None:
    events = [world.event(number, 5 * DAY_US) for number in range(60)]
    world.load()
    world.log_events(events, ago_us=2 * HOUR_US)
    world.store.read_then_update(events)
    for number in range(6):  # later files may tell of earlier times, and of many reports at one time
        of = events[number * 10 : number * 10 + 10]
        known_us = world.now_us - 26 * HOUR_US - number * DAY_US // 2
        labels = [Label(each.transaction_id, True, known_us, each.entities) for each in of]
        world.log_labels(labels, ago_us=HOUR_US - number * 100)
        world.store.add_labels(labels)
        each = world.event(60 + number, 0)  # who reads the lane has it folded
        world.log_events([each], ago_us=10 - number)
        world.store.read_then_update([each])
    world.store.read_then_update([each])
    assert world.counts() == [66, 60]
    for _ in range(2):
        bring_up(world.another_store(), world.log, lambda: iter(()), 40 * DAY_US)
        assert world.counts() == [66, 60]


def test_reports_that_were_lost_come_back_however_old_they_are(world: World) -> None:
    events = [world.event(number, 5 * DAY_US) for number in range(60)]
    world.load()
    world.log_events(events, ago_us=2 * HOUR_US)
    world.store.read_then_update(events)
    world.log_labels(reports(events[:40]), ago_us=HOUR_US)
    world.store.add_labels(reports(events[:40]))
    for number in range(6):
        each = world.event(60 + number, 0)
        world.log_events([each], ago_us=10 - number)
        world.store.read_then_update([each])
    world.store.confirm(world.now_us + 10_000_000)  # later than any load of this test
    with world.server.client() as client:
        client.save()
    lost = reports(events[40:], later_us=HOUR_US // 2)  # older than what was folded
    world.log_labels(lost, ago_us=-20_000_000)
    world.store.add_labels(lost)
    assert world.counts() == [66, 60]
    world.server.process.kill()
    world.server.process.start()
    bring_up(world.another_store(), world.log, no_history, 40 * DAY_US)
    assert world.counts() == [66, 60]


def test_reports_that_a_load_folded_are_not_added_again_at_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "ROWS", 20)
    events = [world.event(number, (number % 7 + 5) * DAY_US) for number in range(120)]
    old, new = events[:20], events[20:]
    world.log_events(old, ago_us=50 * DAY_US)  # before anything that is loaded, with reports that are
    world.log_events(new, ago_us=20 * DAY_US)
    world.log_labels(reports(events), ago_us=10 * DAY_US)
    replay = world.log.replay

    def in_small_batches(after: int = 0, **options: Any) -> Any:
        return replay(batch_size=10, after=after, **options)

    monkeypatch.setattr(world.log, "replay", in_small_batches)
    world.load()
    assert world.counts() == [100, 120]
