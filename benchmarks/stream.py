"""One worker on one core, from Kafka to published decisions, against a bare loop that reads and publishes on the same
broker; and how long a decision takes under less load.

Broker, producer and reader share the other core. SQLite is the decision log, features are in the worker's memory, the
windows are the Handbook's with a resolution of five minutes.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import msgspec
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from benchmarks import common, serving_setup
from fraudml.cli.bench import child
from tests.support.servers.kafka import QUIET, KafkaServer, make_topics

COUNT = int(os.environ.get("BENCH_STREAM_COUNT", "40000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = 15.0  # of a load
RATE = 2_500  # messages/s: half of what one worker has to do
NAMED = f"{RATE:,}/s"
PARTITIONS = 4
# The broker of this benchmark lets a request wait to its end, also where messages come meanwhile; Kafka answers then.
FETCH_WAIT_MS = 10
# What a client of Kafka has by default (since 4.0). Without, each message is a request: of 2,500/s this broker is full.
LINGER_MS = 5
BARE = """
import sys, time
from confluent_kafka import Consumer, Producer, TopicPartition
servers, topic, transactional = sys.argv[1], sys.argv[2], sys.argv[5] == "1"
partitions, count, wait_ms = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[7])
config = {"bootstrap.servers": servers, "log_level": 0}
group = {"group.id": "bare-" + sys.argv[5] + sys.argv[6], "enable.auto.commit": False}
consumer = Consumer(config | group | {"fetch.wait.max.ms": wait_ms})
consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
name = {"transactional.id": "bare"} if transactional else {}
producer = Producer(config | {"linger.ms": 1, "compression.type": "lz4"} | name)
if transactional:
    producer.init_transactions(10)
done, started = 0, 0.0
while done < count:
    first = consumer.poll(30)
    started = started or time.perf_counter()
    messages = [first, *consumer.consume(499, 0)]
    if transactional:
        producer.begin_transaction()
    for each in messages:
        producer.produce("bare", each.value(), each.key())
        producer.poll(0)
    ends = {each.partition(): each.offset() + 1 for each in messages}
    offsets = [TopicPartition(topic, number, end) for number, end in ends.items()]
    if transactional:
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 10)
        producer.commit_transaction(10)
    else:
        producer.flush()
        consumer.commit(offsets=offsets, asynchronous=False)
    done += len(messages)
print(done / (time.perf_counter() - started))
"""


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as name:
        home = Path(name)
        setup = serving_setup.prepare(home)
        rates: dict[str, list[float]] = {"bare": [], "bare, transactions": [], "worker": []}
        delays: dict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(ROUNDS):
            with child.on(child.places(pin=True).load):
                server = KafkaServer()
            try:
                topics = ["transactions", "labels", "decisions", "alerts", "transactions.dlq", "labels.dlq"]
                make_topics(server.servers, [*topics, "bare", "half"], PARTITIONS)
                bodies = _publish(home, setup.history, server.servers)
                for kind, transactional in (("bare", "0"), ("bare, transactions", "1")):
                    with _bare(server.servers, "transactions", COUNT, transactional, str(number)) as bare:
                        rates[kind].append(float(bare.communicate()[0]))
                with _worker(home, server.servers) as worker:
                    rates["worker"].append(worker.rate())
                    worker.until_all()
                    for load, rate in ((NAMED, RATE), ("half of its own rate", rates["worker"][-1] / 2)):
                        delays["worker", load] += _delays(server.servers, bodies, rate, "transactions", "decisions")
                count = min(COUNT, int(RATE * SECONDS))
                with _bare(server.servers, "half", count, "1", f"{number}-half"):
                    delays["bare loop", NAMED] += _delays(server.servers, bodies, RATE, "half", "bare")
            finally:
                server.close()
    rows = [
        [kind, *(f"{rate:,.0f}" for rate in found), f"{statistics.median(found):,.0f}"] for kind, found in rates.items()
    ]
    waits = [[*of, *_quantiles(found), f"{len(found):,}"] for of, found in delays.items()]
    share = statistics.median(a / b for a, b in zip(rates["worker"], rates["bare"], strict=True))
    return (
        common.table(["messages/s", *(f"round {n + 1}" for n in range(ROUNDS)), "median"], rows)
        + f"\n\nThe worker has {share:.2f} of the bare loop beside it (median of rounds).\n\n"
        + "Milliseconds from publication until a reader of committed messages has the decision; the bare loop "
        "publishes in transactions what it reads.\n\n"
        + common.table(["", "load", "p50", "p95", "p99", "messages"], waits)
    )


def _quantiles(seconds: list[float]) -> list[str]:
    ordered = sorted(seconds)
    return [f"{ordered[int(len(ordered) * share)] * 1_000:.1f}" for share in (0.5, 0.95, 0.99)]


def _publish(home: Path, history: Path, servers: str) -> list[tuple[str, bytes]]:
    """Transactions of history onto the topic; the keys and bodies of more, to be sent later."""
    environment = os.environ | {"FRAUDML_KAFKA_BOOTSTRAP_SERVERS": servers, "FRAUDML_HOME": str(home / ".fraudml")}
    command = [sys.executable, "-m", "fraudml", "replay", str(history), "--no-labels", "--limit", str(COUNT)]
    subprocess.run(command, cwd=home, env=environment, check=True, capture_output=True)
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "copy", "auto.offset.reset": "earliest", **QUIET})
    consumer.assign([TopicPartition("transactions", number, 0) for number in range(PARTITIONS)])
    found: list[tuple[str, bytes]] = []
    while len(found) < COUNT:
        found += [((each.key() or b"").decode(), each.value() or b"") for each in consumer.consume(5_000, 5)]
    consumer.close()
    return found


@contextmanager
def _bare(servers: str, topic: str, count: int, transactional: str, number: str) -> Iterator[subprocess.Popen[str]]:
    """A loop that reads so many messages and publishes them; at its end it prints how many a second."""
    arguments = [servers, topic, str(PARTITIONS), str(count), transactional, number, str(FETCH_WAIT_MS)]
    with (
        child.on(child.places(pin=True).server),
        subprocess.Popen([sys.executable, "-c", BARE, *arguments], stdout=subprocess.PIPE, text=True) as process,
    ):
        yield process


class _worker:  # noqa: N801 - a context manager
    """A real worker on a core of its own."""

    def __init__(self, home: Path, servers: str) -> None:
        self._servers = servers
        (home / ".fraudml" / "fraudml.db").unlink(missing_ok=True)
        for rest in ("-wal", "-shm"):
            (home / ".fraudml" / f"fraudml.db{rest}").unlink(missing_ok=True)
        settings = {"kafka_bootstrap_servers": servers, "kafka_session_timeout_ms": "6000"}
        settings |= {"kafka_fetch_wait_ms": str(FETCH_WAIT_MS)}
        environment = {f"FRAUDML_{name.upper()}": value for name, value in settings.items()}
        with child.on(child.places(pin=True).server):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fraudml", "worker", "--history", "", "--port", "0"],
                cwd=home,
                env=os.environ | environment | {"FRAUDML_HOME": str(home / ".fraudml")},
                stdout=subprocess.PIPE,
                stderr=(home / "worker.err").open("w"),
                text=True,
            )

    def __enter__(self) -> _worker:
        assert self._process.stdout is not None
        line = next(line for line in self._process.stdout if "health" in line)
        self._address = re.search(r"http://[\d.:]+", line)[0]  # type: ignore[index]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def decided(self) -> float:
        """How many so far."""
        text = urlopen(f"{self._address}/metrics").read().decode()  # noqa: S310
        found = re.search(r'messages_total\{outcome="decided".*\} (\S+)', text)
        return float(found[1]) if found else 0.0

    def rate(self) -> float:
        """Messages a second, between the first tenth and the last."""
        at: dict[float, float] = {}
        for share in (0.1, 0.9):
            while (done := self.decided()) < COUNT * share:
                time.sleep(0.02)
            at[share] = time.perf_counter()
            at[share + 1] = done
        return (at[1.9] - at[1.1]) / (at[0.9] - at[0.1])

    def until_all(self) -> None:
        """Wait until it has decided all that is there."""
        while self.decided() < COUNT:
            time.sleep(0.05)


def _delays(servers: str, bodies: list[tuple[str, bytes]], rate: float, topic: str, answers: str) -> list[float]:
    """Seconds from publication until a reader has the answer, at an even rate. Names each message anew."""
    run = uuid4().hex[:8]
    reader = Consumer(
        {"bootstrap.servers": servers, "group.id": "reader", "isolation.level": "read_committed", **QUIET}
        | {"fetch.wait.max.ms": FETCH_WAIT_MS}
    )
    reader.assign([TopicPartition(answers, number, OFFSET_END) for number in range(PARTITIONS)])
    reader.poll(1)
    producer = Producer({"bootstrap.servers": servers, "linger.ms": LINGER_MS, **QUIET})
    sent: dict[str, float] = {}
    delays: list[float] = []
    count = min(len(bodies), int(rate * SECONDS))
    started = time.perf_counter()
    published = 0

    def read() -> None:
        first = reader.poll(0.001)
        if first is None:
            return
        now = time.perf_counter()
        for each in [first, *reader.consume(1_000, 0)]:
            told = msgspec.json.decode(each.value() or b"{}")
            name = told.get("transaction_id") or told.get("TRANSACTION_ID")
            if name in sent:
                delays.append(now - sent.pop(name))

    while published < count:
        due = int((time.perf_counter() - started) * rate)
        while published < min(due, count):
            key, body = bodies[published]
            name = f"{run}-{published}"
            body = re.sub(rb'"TRANSACTION_ID":"?\d+"?', b'"TRANSACTION_ID":"%b"' % name.encode(), body)
            sent[name] = time.perf_counter()
            producer.produce(topic, body, key)
            published += 1
        producer.poll(0)
        read()
    end = time.perf_counter() + 5
    while sent and time.perf_counter() < end:
        read()
    return delays
