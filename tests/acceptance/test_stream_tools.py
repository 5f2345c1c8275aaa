"""The stream as a user types it: topics, a replay that is stopped and goes on, dead letters, what cannot be."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from fraudml import project, wiring
from fraudml.decisions.stream import Message
from fraudml.events.decoder import TransactionDecoder
from fraudml.operations.playback.timeline import Stretch, timeline
from fraudml.settings import Settings
from fraudml.worker.dead_letters import dead_letter
from tests.support import prepared
from tests.support.commands import fraudml, refused, well
from tests.support.servers.kafka import QUIET, KafkaServer
from tests.support.waiting import until

PASSWORD = "a-secret-of-the-broker"
ROWS = 3_000


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a file of transactions that are not in order of time."""
    folder = tmp_path_factory.mktemp("declared")
    well("simulate", "sorted.csv", "--rows", str(ROWS), "--fraud-rate", "0.05", cwd=folder)
    header, *rows = (folder / "sorted.csv").read_text().splitlines(keepends=True)
    (folder / "transactions.csv").write_text("".join([header, *rows[1_000:], *rows[:1_000]]))
    well("init", "transactions.csv", "--yes", cwd=folder)
    return folder


@pytest.fixture
def servers(fresh_kafka: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FRAUDML_KAFKA_BOOTSTRAP_SERVERS", fresh_kafka)
    return fresh_kafka


def published(servers: str, topic: str, folder: Path) -> list[Message]:
    """What is on a topic of one partition."""
    reader = wiring.topic_reader(Settings(_env_file=None, home=folder, kafka_bootstrap_servers=servers), "reader")
    try:
        return list(reader.read({(topic, 0): 0}))
    finally:
        reader.close()


def test_topics_are_made_and_shown(servers: str, tmp_path: Path) -> None:
    missing = fraudml("stream", "status", "--json", cwd=tmp_path)
    assert missing.code == 1
    assert len(missing.json["missing"]) == 6
    assert "fraudml stream init" in refused("dlq", "list", cwd=tmp_path)
    made = well("stream", "init", "--partitions", "2", "--json", cwd=tmp_path).json
    assert set(made["made"]) == set(missing.json["missing"])
    assert "All topics are there." in well("stream", "init", cwd=tmp_path).out
    found = well("stream", "status", "--json", cwd=tmp_path).json
    assert found["topics"] == dict.fromkeys(missing.json["missing"], 2)
    assert found["dead_letters"] == {"transactions.dlq": 0, "labels.dlq": 0}
    assert [(each["topic"], each["lag"]) for each in found["lag"]] == [
        *[("transactions", 0)] * 2,
        *[("labels", 0)] * 2,
    ]
    doctor = fraudml("doctor", "--json", cwd=tmp_path).json["findings"]
    assert [each["status"] for each in doctor if each["check"] == "Kafka"] == ["ok", "ok"]


def test_a_replay_that_is_stopped_goes_on_where_it_was(servers: str, declared: Path) -> None:
    assert "fraudml stream init" in refused("replay", cwd=declared)
    well("stream", "init", "--partitions", "1", cwd=declared)
    process = subprocess.Popen(
        [*prepared.command(), "replay", "--rate", "150/s", "--json"],
        cwd=declared,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    until(lambda: len(published(servers, "transactions", declared)) > 100)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    stopped = msgspec.json.decode(out)
    assert 100 < stopped["sent"] < ROWS
    option, moment = stopped["go_on"].split()
    rest = well("replay", option, moment, "--json", cwd=declared).json
    assert (rest["failure"], rest["go_on"], rest["refused"]) == (None, None, [])

    settings = Settings(_env_file=None, home=declared / ".fraudml", kafka_bootstrap_servers=servers)
    schema = project.read(declared / "fraudml.yaml").schema
    source = wiring.source(settings, schema, [str(declared / "transactions.csv")], declared / "rejects.csv")
    wanted = {each.transaction_id: each for each in timeline(list(source.read()), schema, Stretch(), labels=False)}
    decoder = TransactionDecoder(schema, wiring.card_hasher(settings), max_ahead_s=86_400)
    decoded = [decoder.decode(each.value or b"") for each in published(servers, "transactions", declared)]
    assert {each.transaction_id: each for each in decoded} == wanted
    assert len(decoded) <= len(wanted) + 5  # of the moment where it was stopped some may be there twice
    times = [each.event_time_us for each in decoded]
    assert times == sorted(times)
    assert len(published(servers, "labels", declared)) >= rest["labels"] > 1_000
    assert {each.key for each in published(servers, "labels", declared)} <= {
        each.key for each in published(servers, "transactions", declared)
    }


def test_dead_letters_are_shown_and_sent_back(servers: str, tmp_path: Path) -> None:
    well("stream", "init", "--partitions", "1", cwd=tmp_path)
    assert "No dead letters wait." in well("dlq", "list", cwd=tmp_path).out
    assert "No dead letters wait." in well("dlq", "replay", "--all", cwd=tmp_path).out
    assert "name the dead letters" in refused("dlq", "replay", cwd=tmp_path)
    assert "write transactions or labels" in refused("dlq", "list", "--topic", "alerts", cwd=tmp_path)
    producer = Producer({"bootstrap.servers": servers, **QUIET})
    values = [b'{"amount": "much"}', b"\xff\x00" * 2_000]
    for offset, value in enumerate(values):
        dead = dead_letter(Message("labels", 0, offset, b"c1", value, [("trace", b"abc")]), "amount: expected a number")
        producer.produce(dead.topic, dead.value, dead.key, headers=list(dead.headers))
    assert producer.flush(30) == 0

    listed = well("dlq", "list", "--json", cwd=tmp_path).json
    assert [each["id"] for each in listed["dead_letters"]] == ["labels.dlq/0/0", "labels.dlq/0/1"]
    assert well("dlq", "list", "--topic", "transactions", "--json", cwd=tmp_path).json["dead_letters"] == []
    one = well("dlq", "list", "--limit", "1", "--json", cwd=tmp_path).json
    assert (one["count"], [each["id"] for each in one["dead_letters"]]) == (2, ["labels.dlq/0/0"])
    shown = well("dlq", "show", "labels.dlq/0/0", cwd=tmp_path).out
    assert all(word in shown for word in ("expected a number", "labels/0/0", "trace: abc", "c1", '{"amount": "much"}'))
    binary = well("dlq", "show", "labels.dlq/0/1", "--raw", "value.bin", "--json", cwd=tmp_path).json
    assert binary["binary"]
    assert binary["value"].startswith("ff00ff00")
    assert "--raw FILE writes all 4,000 bytes" in binary["note"]
    assert (tmp_path / "value.bin").read_bytes() == values[1]
    assert "there is no dead letter" in refused("dlq", "show", "labels.dlq/0/7", cwd=tmp_path)
    assert "is no dead letter's id" in refused("dlq", "show", "7", cwd=tmp_path)

    assert well("dlq", "replay", "labels.dlq/0/0", "--json", cwd=tmp_path).json == {
        "replayed": {"labels": 1},
        "skipped": [],
    }
    assert well("stream", "status", "--json", cwd=tmp_path).json["dead_letters"]["labels.dlq"] == 1
    assert well("dlq", "replay", "--all", "--json", cwd=tmp_path).json["replayed"] == {"labels": 1}
    assert well("dlq", "list", "--json", cwd=tmp_path).json["dead_letters"] == []
    assert len(well("dlq", "list", "--replayed", "--json", cwd=tmp_path).json["dead_letters"]) == 2
    back = published(servers, "labels", tmp_path)
    assert [(each.key, each.value, list(each.headers)) for each in back] == [
        (b"c1", value, [("trace", b"abc")]) for value in values
    ]


def test_what_cannot_be_is_one_line_and_in_time(declared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "FRAUDML_KAFKA_BOOTSTRAP_SERVERS" in refused("replay", cwd=declared)
    assert "is not a rate" in refused("replay", "--rate", "quickly", cwd=declared)
    assert "is not a speed" in refused("replay", "--speed", "60/s", cwd=declared)
    assert "needs an API key" in refused("replay", "--to", "http://127.0.0.1:1", cwd=declared)
    assert "write --to kafka" in refused("replay", "--to", "rabbit", "--api-key", "k", cwd=declared)
    server = KafkaServer()
    server.close()
    monkeypatch.setenv("FRAUDML_KAFKA_BOOTSTRAP_SERVERS", server.servers)
    monkeypatch.setenv("FRAUDML_KAFKA_SECURITY_PROTOCOL", "sasl_plaintext")
    monkeypatch.setenv("FRAUDML_KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("FRAUDML_KAFKA_SASL_PASSWORD", PASSWORD)
    for command in (["replay"], ["dlq", "list"], ["stream", "status"]):
        done = fraudml(*command, cwd=declared, within_s=60)
        assert done.code == 2
        assert "does not answer within 10 s" in done.err
        assert PASSWORD not in done.out + done.err
    doctor = fraudml("doctor", "--timeout", "3", "--json", cwd=declared)
    assert doctor.code == 2
    (found,) = [each for each in doctor.json["findings"] if each["check"] == "Kafka"]
    assert found["status"] == "failure"
    assert "see whether it runs" in found["next"]
    assert PASSWORD not in doctor.out + doctor.err
