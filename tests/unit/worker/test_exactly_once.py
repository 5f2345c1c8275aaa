"""Whatever fails and in whatever order, each transaction is decided and published once, and each bad message is dead
once. The stream is a model of Kafka's transactions; ``tests/integration`` has the real one."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.codec import JsonCodec
from fraudml.decisions.model import Model
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from fraudml.decisions.stream import Message, Outgoing, Partition
from fraudml.errors import DecisionLogError, StreamError, TooLargeError
from fraudml.events.cards import CardHasher
from fraudml.monitoring.metrics import Metrics
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.scoring.process import ScoringProcess
from fraudml.settings import Settings
from fraudml.worker.dead_letters import CUT, SURE_BYTES
from fraudml.worker.loop import Loop
from fraudml.worker.outbox import Outbox
from fraudml.worker.transactions import Transactions
from tests.support.scoring import SCHEMA, ReferenceStore, bundle, row

HASHER = CardHasher(b"key")
FAILURES = (
    *("none", "not published", "published, but told as failed"),
    *("not logged", "logged, but told as failed", "kill", "offsets cannot be asked for"),
)


class Topic:
    """A topic, where a group is in it, and what was published with its moves."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.values = values
        self.committed = 0
        self.published: list[Outgoing] = []


class Commit(NamedTuple):
    """One that was handed over; ``failure`` is what it ends with."""

    outgoing: Sequence[Outgoing]
    done: Mapping[Partition, int]
    then: Callable[[], None]
    failure: str


class ModelStream:
    """A member of the group. ``failure`` is what the next commit does; commits happen when they ``settle``."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.failure = "none"
        self._at = topic.committed
        self._handed: list[Commit] = []
        self._failed: StreamError | None = None

    def read(self, most: int, wait_s: float) -> Sequence[Message]:
        self._check()
        first, self._at = self._at, min(self._at + most, len(self.topic.values))
        return [Message("t", 0, offset, b"k", self.topic.values[offset]) for offset in range(first, self._at)]

    def commit(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int], then: Callable[[], None]) -> None:
        self._check()
        self._handed.append(Commit(outgoing, done, then, self.failure))

    def settle(self) -> None:
        """What was handed over happens, as one; or fails, as one, and so does all of it."""
        handed, self._handed = self._handed, []
        failure = next((each.failure for each in handed if each.failure != "none"), "none")
        if failure != "not published":
            for each in handed:
                self.topic.published += each.outgoing
                self.topic.committed = each.done["t", 0]
        if failure != "none":
            self._failed = StreamError(failure)
            return
        for each in handed:
            each.then()

    def rewind(self) -> None:
        self.settle()
        if self.failure == "offsets cannot be asked for":
            raise StreamError(self.failure)
        self._failed = None
        self._at = self.topic.committed

    def pause(self, wait_s: float) -> None:
        """Waits for nothing."""

    def resume(self) -> None:
        """As above."""

    def go_back(self, message: Message) -> None:
        raise AssertionError("only labels are read again")

    def lag(self) -> dict[Partition, int]:
        return {}

    def close(self) -> None:
        """Holds nothing."""

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed


class FailingLog:
    """A decision log whose next commit fails, before or after it happened."""

    def __init__(self, log: SqliteDecisionLog) -> None:
        self._log = log
        self.failure = "none"

    def append(self, batch: Sequence[Any]) -> Any:
        if self.failure == "not logged":
            raise DecisionLogError(self.failure)
        stand = self._log.append(batch)
        if self.failure == "logged, but told as failed":
            raise DecisionLogError(self.failure)
        return stand

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class Incarnation:
    """A worker as it starts: state folded from the log, reading where the group is."""

    def __init__(self, log: FailingLog, topic: Topic, most: int, stream: type[ModelStream] = ModelStream) -> None:
        self.log = log
        log.failure = "none"
        store = ReferenceStore()
        for batch in log.replay():
            store.load(batch)
        self.store = store
        settings = Settings(_env_file=None)
        scorer = Scorer(Model(bundle()), store, log, recorder=Recorder(log))  # type: ignore[arg-type]
        process = ScoringProcess(
            schema=SCHEMA,
            hasher=HASHER,
            scorer=scorer,
            log=log,
            settings=settings,  # type: ignore[arg-type]
        )
        codec = JsonCodec(SCHEMA, HASHER, max_ahead_s=settings.max_ahead_s)
        metrics = StreamMetrics(Metrics().collector)
        decide = Transactions(process, codec, Outbox(SCHEMA, codec, "decisions", "alerts"), metrics)
        self.stream = stream(topic)
        self._loop = Loop("t", self.stream, decide, metrics, threading.Event(), most=most)

    def turn(self, failure: str, *, settle: bool = True) -> None:
        self.stream.failure = failure if "published" in failure or "offsets" in failure else "none"
        self.log.failure = failure if "logged" in failure else "none"
        self._loop.turn()
        if settle:
            self.stream.settle()


@given(
    sent=st.lists(st.integers(-3, 8), min_size=1, max_size=25),
    failures=st.lists(st.tuples(st.sampled_from(FAILURES), st.booleans()), max_size=12),
    most=st.integers(1, 6),
)
def test_each_transaction_is_decided_and_published_once(
    sent: list[int], failures: list[tuple[str, bool]], most: int
) -> None:
    """``sent``: ids, some of them several times; below 0 are messages that are no transactions. ``failures``: what
    fails, and whether what was handed over is committed before the next turn."""
    values = [b"{" if number < 0 else msgspec.json.encode(row(number)) for number in sent]
    topic = Topic(values)
    with tempfile.TemporaryDirectory() as folder:
        log = FailingLog(SqliteDecisionLog(f"sqlite:///{Path(folder) / 'log.db'}", SCHEMA))
        worker = Incarnation(log, topic, most)
        for failure, settle in failures:
            if failure == "kill":
                worker = Incarnation(log, topic, most)
            else:
                worker.turn(failure, settle=settle)
        for _ in itertools.takewhile(lambda _: topic.committed < len(values), range(100)):
            worker.turn("none")
        ids = {f"t{number}" for number in sent if number >= 0}
        told = Counter(
            msgspec.json.decode(out.value)["transaction_id"] for out in topic.published if out.topic == "decisions"
        )
        assert told == dict.fromkeys(ids, 1)
        assert sum(out.topic == "t.dlq" for out in topic.published) == sum(number < 0 for number in sent)
        assert topic.committed == len(values)
        assert Counter(event.transaction_id for event in worker.store.events) == dict.fromkeys(ids, 1)
        assert set(log.find(sorted(ids))) == ids
        log.close()


def test_a_dead_letter_that_the_broker_does_not_take_is_cut_and_says_so() -> None:
    class SmallBroker(ModelStream):
        def settle(self) -> None:
            if any(len(out.value or b"") > SURE_BYTES for each in self._handed for out in each.outgoing):
                self._handed, self._failed = [], TooLargeError("too large")
            super().settle()

    large = b"{" + b"x" * (2 * SURE_BYTES)
    topic = Topic([msgspec.json.encode(row(1)), large, msgspec.json.encode(row(2))])
    with tempfile.TemporaryDirectory() as folder:
        log = FailingLog(SqliteDecisionLog(f"sqlite:///{Path(folder) / 'log.db'}", SCHEMA))
        worker = Incarnation(log, topic, 10, SmallBroker)
        for _ in itertools.takewhile(lambda _: topic.committed < 3, range(10)):
            worker.turn("none")
        log.close()
    (dead,) = (out for out in topic.published if out.topic == "t.dlq")
    assert dead.value == large[:SURE_BYTES]
    assert dict(dead.headers)[CUT] == str(len(large)).encode()
    assert sum(out.topic == "decisions" for out in topic.published) == 2
    assert topic.committed == 3
