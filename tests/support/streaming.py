"""Topics of a test: what is published to them, and what a reader of committed messages sees there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from fraudml import wiring
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.stream.connection import Security, connection
from fraudml.adapters.stream.kafka import KafkaStream, Member
from fraudml.decisions.model import Model
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from fraudml.decisions.stream import OnRebalance, Partition
from fraudml.errors import FencedError
from fraudml.events.cards import CardHasher
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring.process import ScoringProcess
from fraudml.settings import Settings
from fraudml.worker.run import Worker
from tests.support.scoring import SCHEMA, ReferenceStore, bundle
from tests.support.servers.kafka import QUIET, make_topics, unique
from tests.support.servers.kafka_log import uncommitted
from tests.support.waiting import until

# What a member's death takes to be noticed, and a join of the tests' broker half of it. Others allow no less than 6 s.
SESSION_MS = 6_000 if "FRAUDML_TEST_KAFKA" in os.environ else 2_000


class Published(NamedTuple):
    """A message on a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.value or b"")


class Topics:
    """Fresh topics on a broker, named after the settings (``transactions``, ``labels``, ``decisions``, ``alerts``)."""

    def __init__(self, servers: str, partitions: int = 1) -> None:
        self.servers = servers
        self.partitions = partitions
        self.names = {name: unique(name) for name in ("transactions", "labels", "decisions", "alerts")}
        self.group = unique("workers")
        self.again()

    @classmethod
    def over(cls, servers: str, names: dict[str, str], group: str, partitions: int) -> Topics:
        """Topics that are there."""
        made = cls.__new__(cls)
        made.servers, made.names, made.group, made.partitions = servers, names, group, partitions
        return made

    def again(self) -> Topics:
        """Make them; again where the broker has lost them."""
        dead = [f"{self.names[name]}.dlq" for name in ("transactions", "labels")]
        make_topics(self.servers, [*self.names.values(), *dead], self.partitions)
        self._producer = Producer({"bootstrap.servers": self.servers, "message.max.bytes": 20_000_000, **QUIET})
        return self

    def delete(self, name: str) -> None:
        """Lose one."""
        client = AdminClient({"bootstrap.servers": self.servers, **QUIET})
        client.delete_topics([self.names[name]])[self.names[name]].result(30)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a worker on these."""
        topics = {f"topic_{name}": topic for name, topic in self.names.items()}
        stream = {"kafka_bootstrap_servers": self.servers, "kafka_group": self.group}
        return topics | stream | {"kafka_session_timeout_ms": SESSION_MS, "worker_port": 0}

    def publish(self, name: str, values: Sequence[Any], key: str | None = "c1", **headers: bytes) -> None:
        """Publish values, bytes as they are and others as JSON; returns when the broker has them."""
        for value in values:
            raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
            self._producer.produce(self.names[name], raw, key, headers=list(headers.items()))
        assert self._producer.flush(30) == 0

    def committed(self, name: str) -> list[Published]:
        """What is there for readers of committed messages, by partition."""
        topic = self.names.get(name, name)
        if name.endswith(".dlq"):
            topic = self.names[name.removesuffix(".dlq")] + ".dlq"
        found = _all(self.servers, topic)
        if "FRAUDML_TEST_KAFKA" in os.environ:
            return found
        port = int(self.servers.rpartition(":")[2])
        hidden = {number: uncommitted(port, topic, number) for number in {each.partition for each in found}}
        return [each for each in found if each.offset not in hidden[each.partition]]

    def ends(self, name: str = "transactions") -> int:
        """Where a topic ends, over all partitions; so many messages it has, if they came without transactions."""
        places = [TopicPartition(self.names[name], number) for number in range(self.partitions)]
        return sum(self._asker("").get_watermark_offsets(place, 30)[1] for place in places)

    def offsets(self, suffix: str = "", name: str = "transactions") -> dict[int, int]:
        """Where the group is in a topic, by partition; 0 where nothing was committed."""
        places = [TopicPartition(self.names[name], number) for number in range(self.partitions)]
        return {each.partition: max(each.offset, 0) for each in self._asker(suffix).committed(places, 30)}

    def _asker(self, suffix: str) -> Consumer:
        """Who asks about the group, again and again; it does not join."""
        askers: dict[str, Consumer] = self.__dict__.setdefault("_askers", {})
        if suffix not in askers:
            askers[suffix] = Consumer({"bootstrap.servers": self.servers, "group.id": self.group + suffix, **QUIET})
        return askers[suffix]


def _all(servers: str, topic: str) -> list[Published]:
    config = {"bootstrap.servers": servers, "group.id": unique("reader"), "enable.partition.eof": True, **QUIET}
    isolated = {"isolation.level": "read_committed" if "FRAUDML_TEST_KAFKA" in os.environ else "read_uncommitted"}
    consumer = Consumer(config | isolated | {"fetch.message.max.bytes": 20_000_000})
    partitions = len(consumer.list_topics(topic, 30).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[Published] = []
    ended: set[int] = set()
    heard_s = time.monotonic()
    while len(ended) < partitions:
        assert time.monotonic() < heard_s + 60, f"{topic} cannot be read to its end"
        for each in consumer.consume(1_000, 0.1):
            heard_s = time.monotonic()
            if each.error() is None:
                headers = {name: value or b"" for name, value in each.headers() or ()}
                found.append(Published(each.partition(), each.offset(), each.key(), each.value(), headers))
            elif each.error().name() == "_PARTITION_EOF":
                ended.add(each.partition())
    consumer.close()
    return found


class InProcess:
    """A worker in a thread of this process, over a SQLite log and the reference store."""

    def __init__(self, log: SqliteDecisionLog, topics: Topics, writer: int = 0, **settings: Any) -> None:
        self.topics = topics
        self.settings = Settings(_env_file=None, **{**topics.settings, "worker_id": "in-process", **settings})
        self.log = log
        self.store = ReferenceStore()
        for batch in log.replay():
            self.store.load(batch)
        self.store.add_labels(list(log.later_labels()))
        metrics = Metrics()
        scorer = Scorer(Model(bundle()), self.store, log, recorder=Recorder(log), on_stage=metrics.stage, writer=writer)
        self.process = ScoringProcess(
            schema=SCHEMA,
            hasher=CardHasher(b"key"),
            scorer=scorer,
            log=log,
            settings=self.settings,
            metrics=metrics,
        )
        self.rebalances: list[str] = []
        self.partitions: set[int] = set()  # of the transactions
        self.worker = Worker(self.process, self._open, lambda: wiring.waits_since(self.settings))
        self.ending = self.worker.ending
        self.worker.start()

    @property
    def error(self) -> BaseException | None:
        """What has ended it, if that was not the test."""
        return self.worker.error

    def value(self, name: str, **labels: str) -> float:
        """A metric's value; 0 while it has none."""
        return self.process.metrics.collector.get_sample_value(name, labels) or 0.0

    def handled(self, outcome: str, topic: str = "transactions") -> int:
        """How many messages ended so."""
        return round(self.value("fraud_stream_messages_total", topic=self.topics.names[topic], outcome=outcome))

    def until_handled(self, count: int, outcome: str = "decided", topic: str = "transactions") -> None:
        """Wait for so many."""

        def so() -> bool:
            if self.error is not None:
                raise self.error
            return self.handled(outcome, topic) >= count

        until(so, f"{outcome}: {self.handled(outcome, topic)} of {count}")

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.ending.set()
        with suppress(FencedError):
            self.worker.join()

    def _open(self, topic: str, on_rebalance: OnRebalance, alive: Callable[[], None]) -> KafkaStream:
        def rebalanced(what: str, places: Sequence[Partition]) -> None:
            on_rebalance(what, places)
            if topic == self.settings.topic_transactions:
                self.rebalances.append(what)
                mine = {number for _, number in places}
                self.partitions = self.partitions | mine if what == "assigned" else self.partitions - mine

        return KafkaStream(
            connection(str(self.settings.kafka_bootstrap_servers), Security()),
            [topic],
            Member(
                wiring.workers_groups(self.settings)[topic],
                str(self.settings.worker_id),
                self.settings.kafka_session_timeout_ms,
            ),
            fetch_wait_ms=10,  # the broker of the tests waits to the end
            on_rebalance=rebalanced,
            alive=alive,
        )


@contextmanager
def working(log: SqliteDecisionLog, topics: Topics, writer: int = 0, **settings: Any) -> Iterator[InProcess]:
    """A worker that is ended afterwards."""
    worker = InProcess(log, topics, writer, **settings)
    try:
        yield worker
    finally:
        worker.stop()


def by_id(published: Sequence[Published]) -> Mapping[str, Any]:
    """Decisions by transaction; fails where one is there twice."""
    found: dict[str, Any] = {}
    for each in published:
        told = each.json
        assert told["transaction_id"] not in found, f"{told['transaction_id']} was decided twice"
        found[told["transaction_id"]] = told
    return found
