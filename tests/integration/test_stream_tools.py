"""The tools of the stream over a real broker: topics made and shown, history replayed, dead letters sent back."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudml import wiring
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.stream import publisher
from fraudml.adapters.stream.producer import patiently
from fraudml.decisions.stream import Message, Outgoing
from fraudml.errors import ConfigError, NotFoundError, StreamError
from fraudml.events.receiver import Item
from fraudml.events.transaction import Transaction
from fraudml.operations.playback.pace import Pace
from fraudml.operations.playback.player import Player
from fraudml.operations.playback.timeline import ItemWriter
from fraudml.settings import Settings
from fraudml.worker.dead_letters import dead_letter
from fraudml.worker.letters import DeadLetters, opened
from tests.support.scoring import SCHEMA, SECOND, T0, row, transaction
from tests.support.servers.kafka import KafkaServer, unique
from tests.support.streaming import Topics, working

BIG = 3_000_000


@pytest.fixture
def topics(kafka_servers: str) -> Topics:
    return Topics(kafka_servers)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    opened_log = SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)
    yield opened_log
    opened_log.close()


def settings_of(topics: Topics, **changes: Any) -> Settings:
    return Settings(_env_file=None, **topics.settings | changes)


class Tools:
    """Dead letters of a test's topics, as the command opens them."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.settings = settings_of(topics)
        self.partitions = dict.fromkeys(wiring.dead_letter_topics(self.settings), topics.partitions)
        self._opened: list[Any] = []

    def letters(self) -> DeadLetters:
        reader = self._reader()
        return DeadLetters(reader, self._reader(), self.partitions)

    def mover(self) -> Any:
        made = wiring.mover(self.settings)
        self._opened.append(made)
        return made

    def replay_all(self) -> Any:
        mover = self.mover()
        return DeadLetters(mover, self._reader(), self.partitions).replay_all(mover)

    def waiting(self, limit: int = 100, **options: bool) -> list[str]:
        return [letter.id for letter in self.letters().waiting(limit, **options)[0]]

    def close(self) -> None:
        for each in self._opened:
            each.close()

    def _reader(self) -> Any:
        made = wiring.topic_reader(self.settings, wiring.dead_letter_group(self.settings))
        self._opened.append(made)
        return made


@pytest.fixture
def tools(topics: Topics) -> Iterator[Tools]:
    made = Tools(topics)
    yield made
    made.close()


def kill(topics: Topics, name: str, values: Sequence[Any], *, cut: bool = False) -> None:
    """Publish values, and their dead letters as a worker does."""
    before = len(topics.committed(name))
    topics.publish(name, values, trace=b"abc")
    for each in topics.committed(name)[before:]:
        message = Message(
            topics.names[name], each.partition, each.offset, each.key, each.value, list(each.headers.items())
        )
        dead = dead_letter(message, "amount: expected a number", cut=cut)
        _publish(topics, dead.topic, dead.value or b"", dict(dead.headers))


def _publish(topics: Topics, topic: str, value: bytes, headers: dict[str, bytes]) -> None:
    topics._producer.produce(topic, value, "c1", headers=list(headers.items()))
    assert topics._producer.flush(30) == 0


def test_topics_are_made_once(kafka_servers: str) -> None:
    names = {f"topic_{name}": unique(name) for name in ("transactions", "labels", "decisions", "alerts")}
    current = Settings(_env_file=None, kafka_bootstrap_servers=kafka_servers, **names)
    wanted = wiring.stream_topics(current)
    assert len(wanted) == 6
    administration = wiring.administration(current)
    assert administration.create(wanted[:2], 3, 1) == wanted[:2]
    assert administration.create(wanted, 5, 1) == wanted[2:]  # some were made meanwhile
    found = administration.cluster()
    assert [found.topics[name] for name in wanted] == [3, 3, 5, 5, 5, 5]
    assert found.brokers
    assert administration.members(unique("nobody")) == []


def test_a_broker_that_is_gone_is_told_in_time() -> None:
    server = KafkaServer()
    current = Settings(_env_file=None, kafka_bootstrap_servers=server.servers)
    server.close()
    with pytest.raises(StreamError, match=r"does not answer within 0\.5 s; see whether it runs"):
        wiring.administration(current, 0.5).cluster()
    with pytest.raises(ConfigError, match="FRAUDML_KAFKA_BOOTSTRAP_SERVERS"):
        wiring.administration(Settings(_env_file=None, kafka_bootstrap_servers=None))


def test_a_reader_knows_how_far_partitions_go(kafka_servers: str) -> None:
    topics = Topics(kafka_servers, partitions=2)
    for number in range(20):
        topics.publish("transactions", [row(number)], key=f"c{number}")
    reader = wiring.topic_reader(settings_of(topics), topics.group)
    name = topics.names["transactions"]
    places = [(name, 0), (name, 1)]
    published = topics.committed("transactions")
    ends = {number: sum(each.partition == number for each in published) for number in (0, 1)}
    try:
        assert reader.committed(places) == {(name, 0): 0, (name, 1): 0}
        assert reader.spans(dict.fromkeys(places, 0)) == {(name, number): (0, ends[number]) for number in (0, 1)}
        assert reader.spans({(name, 0): ends[0]}) == {(name, 0): (ends[0], ends[0])}
        assert len(list(reader.read(dict.fromkeys(places, 0)))) == 20
        assert len(list(reader.read(dict.fromkeys(places, 0), {places[0]: 1, places[1]: 2}))) == 3
        assert reader.at(places[0], ends[0]) is None
    finally:
        reader.close()


def test_a_replay_is_confirmed_and_in_order(topics: Topics) -> None:
    told: list[str | None] = []
    receiver = wiring.kafka_receiver(settings_of(topics), threading.Event())
    for number in range(500):
        body = msgspec.json.encode(row(number))
        assert receiver.send(Item(number % 5 == 0, number, f"t{number}", "c1", body), told.append)
    receiver.flush()
    receiver.close()
    assert told == [None] * 500
    ids = [each.json["tx_id"] for each in topics.committed("transactions")]
    assert ids == [f"t{number}" for number in range(500) if number % 5]
    assert {each.key for each in topics.committed("labels")} == {b"c1"}


def test_what_is_too_large_is_refused_and_the_rest_goes_on(topics: Topics) -> None:
    told: list[str | None] = []
    receiver = wiring.kafka_receiver(settings_of(topics), threading.Event())
    for body in (b"{}", b"x" * 17_000_000, b"{}"):
        assert receiver.send(Item(False, 0, "t", None, body), told.append)
    receiver.flush()
    receiver.close()
    assert [why for why in told if why is not None] == ["Unable to produce message: Broker: Message size too large"]
    assert len(topics.committed("transactions")) == 2


def test_a_broker_that_is_gone_ends_a_replay_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "GIVE_UP_S", 3.0)
    server = KafkaServer()
    topics = Topics(server.servers)
    receiver = wiring.kafka_receiver(settings_of(topics), threading.Event())

    def events() -> Iterator[Transaction]:
        for number in range(10):
            yield transaction(number)
        receiver.flush()
        server.close()
        for number in range(10, 20):
            yield transaction(number)

    played = Player(receiver, ItemWriter(SCHEMA), Pace(), threading.Event()).play(events(), 20)
    assert isinstance(played.failure, StreamError)
    assert "confirmed nothing for 3 s" in str(played.failure)
    assert (played.transactions, played.resume_us) == (10, T0 + 10 * SECOND)


def test_dead_letters_wait_until_they_are_replayed(topics: Topics, tools: Tools, log: SqliteDecisionLog) -> None:
    topics.publish("transactions", [row(1), row(2, amount="much"), b"\xff\x00", row(3)], trace=b"abc")
    with working(log, topics) as worker:
        worker.until_handled(2)
        worker.until_handled(2, "dead")
    dead = topics.names["transactions"] + ".dlq"
    letters = tools.letters().waiting(10)[0]
    assert [letter.id for letter in letters] == [f"{dead}/0/0", f"{dead}/0/1"]
    assert [letter.source for letter in letters] == [f"{topics.names['transactions']}/0/{offset}" for offset in (1, 2)]
    resent = tools.replay_all()
    assert resent.topics == {topics.names["transactions"]: 2}
    assert not resent.skipped
    assert tools.waiting() == []
    assert len(tools.waiting(replayed=True)) == 2
    before, after = topics.committed("transactions")[:4], topics.committed("transactions")[4:]
    assert [(each.key, each.value, each.headers) for each in after] == [
        (each.key, each.value, each.headers) for each in before[1:3]
    ]
    with working(log, topics) as worker:  # they die once more, and wait again
        worker.until_handled(2, "dead")
    assert len(tools.waiting()) == 2
    assert tools.replay_all().topics == {topics.names["transactions"]: 2}
    assert tools.replay_all().topics == {}


def test_single_dead_letters_are_replayed(topics: Topics, tools: Tools) -> None:
    kill(topics, "transactions", [row(number, amount="much") for number in range(4)])
    kill(topics, "labels", [{"transaction_id": "t1"}])
    ids = tools.waiting()
    assert len(ids) == 5
    letters, mover = tools.letters(), tools.mover()
    second = letters.find(ids[1])
    assert letters.replay(mover, [second]).topics == {topics.names["transactions"]: 1}
    assert tools.waiting() == ids  # one before it still waits
    assert letters.replay(mover, [letters.find(ids[0]), second]).topics == {topics.names["transactions"]: 2}
    assert tools.waiting() == ids[2:]
    assert letters.replay(mover, [letters.find(ids[4])]).topics == {topics.names["labels"]: 1}
    assert tools.waiting() == ids[2:4]
    values = [each.json["tx_id"] for each in topics.committed("transactions")[4:]]
    assert values == ["t1", "t0", "t1"]
    for wrong in (ids[0].replace(".dlq/0/0", ".dlq/0/99"), "elsewhere.dlq/0/0"):
        with pytest.raises(NotFoundError, match="there is no"):
            letters.find(wrong)
    with pytest.raises(ConfigError, match="is no dead letter's id"):
        letters.find("transactions")


def test_a_dead_letter_that_was_cut_is_fetched_whole(topics: Topics, tools: Tools) -> None:
    big = b"x" * BIG
    kill(topics, "transactions", [row(1, amount="much"), big], cut=True)
    kill(topics, "transactions", [row(2, amount="much")])
    dead = topics.committed("transactions.dlq")
    assert [len(each.value or b"") < BIG for each in dead] == [True] * 3
    assert tools.letters().find(tools.waiting()[1]).cut_from == BIG
    resent = tools.replay_all()
    assert resent.topics == {topics.names["transactions"]: 3}
    assert [each.value for each in topics.committed("transactions")[3:]][1] == big


def test_a_dead_letter_whose_whole_is_gone_is_skipped_and_told(topics: Topics, tools: Tools) -> None:
    name = topics.names["transactions"]
    topics.publish("transactions", [b"another message"])
    message = Message(name, 0, 0, b"c1", b"x" * BIG)
    dead = dead_letter(message, "too large", cut=True)
    _publish(topics, dead.topic, dead.value or b"", dict(dead.headers))
    kill(topics, "transactions", [row(2, amount="much")])
    resent = tools.replay_all()
    assert resent.topics == {name: 1}
    assert [(each, "no longer at" in why) for each, why in resent.skipped] == [(f"{name}.dlq/0/0", True)]
    assert tools.waiting() == []


def test_a_replay_that_another_one_takes_over_neither_loses_nor_repeats(topics: Topics, tools: Tools) -> None:
    kill(topics, "transactions", [row(number, amount="much") for number in range(6)])
    first = tools.mover()
    letters = list(map(opened, first.read({(topics.names["transactions"] + ".dlq", 0): 0})))
    driver = first._producer._producer
    driver.begin_transaction()  # ended amid its transaction: nothing of it counts
    first._producer._publish(outgoing_of(letters[0]), math.inf)
    driver.flush(10)
    assert tools.replay_all().topics == {topics.names["transactions"]: 6}
    with pytest.raises(StreamError):  # the broker of the tests does not say that it was fenced
        patiently("committing", driver.commit_transaction, within_s=0.1)
    again = [each.json["tx_id"] for each in topics.committed("transactions")[6:]]
    assert again == [f"t{number}" for number in range(6)]


def outgoing_of(letter: Any) -> Any:
    return Outgoing(letter.topic, letter.message.key, letter.message.value, letter.headers, 0)


KILLED = """
import sys
from fraudml import wiring
from fraudml.settings import Settings
from fraudml.worker import letters

letters.AT_ONCE = 1
found = dict(pair.split("=") for pair in sys.argv[1:])
settings = Settings(_env_file=None, **found)
names = wiring.dead_letter_topics(settings)
mover, sources = wiring.mover(settings), wiring.topic_reader(settings, wiring.dead_letter_group(settings))
move = mover.move

def slowly(outgoing, done):
    move(outgoing, done)
    print("moved", flush=True)

mover.move = slowly
letters.DeadLetters(mover, sources, dict.fromkeys(names, 1)).replay_all(mover)
"""


def test_a_replay_that_is_killed_neither_loses_nor_repeats(topics: Topics, tools: Tools) -> None:
    count = 60
    kill(topics, "transactions", [row(number, amount="much") for number in range(count)])
    given = [f"{name}={value}" for name, value in topics.settings.items()]
    for moved in (3, 11, 7):
        process = subprocess.Popen([sys.executable, "-c", KILLED, *given], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(moved):
            assert process.stdout.readline() == "moved\n"
        process.kill()
        process.wait()
        process.stdout.close()
    tools.replay_all()
    resent = [each.json["tx_id"] for each in topics.committed("transactions")[count:]]
    assert resent == [f"t{number}" for number in range(count)]


def test_what_died_again_during_a_replay_waits_for_the_next(topics: Topics, tools: Tools) -> None:
    kill(topics, "transactions", [row(number, amount="much") for number in range(3)])
    mover = tools.mover()
    letters = DeadLetters(mover, tools._reader(), tools.partitions)
    move = mover.move

    def dies_again(outgoing: Any, done: Any) -> None:
        move(outgoing, done)
        kill(topics, "transactions", [row(9, amount="much")])

    mover.move = dies_again
    assert letters.replay_all(mover).topics == {topics.names["transactions"]: 3}
    assert len(tools.waiting()) == 1
