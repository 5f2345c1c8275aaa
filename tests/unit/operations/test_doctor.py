"""What facts mean, and that a check that hangs or breaks hides no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudml.adapters.log._migrate import Tables
from fraudml.decisions.servers import ServerFacts, Trial, Trouble
from fraudml.errors import ConfigError
from fraudml.operations.doctor import places, servers, tiers
from fraudml.operations.doctor.findings import Check, Finding, Status, examine
from fraudml.operations.doctor.tiers import Chosen

POSTGRES = ServerFacts(
    place="db:5432/fraud",
    product="PostgreSQL",
    version="15.4",
    latency_ms=0.3,
    ahead_ms=0.1,
    unsure_ms=0.2,
    trials=(Trial("make tables"), Trial("read its tables")),
    details={
        "server_encoding": "UTF8",
        "fsync": "on",
        "in_recovery": "off",
        "max_connections": "100",
        "connections": "7",
        "default_transaction_read_only": "off",
    },
)
REDIS = ServerFacts(
    place="cache:6379/0",
    product="Redis",
    version="7.2.4",
    latency_ms=0.3,
    ahead_ms=-0.1,
    unsure_ms=0.2,
    trials=(Trial("write keys"),),
    details={
        "maxmemory": str(2**30),
        "maxmemory_policy": "noeviction",
        "used_memory": str(2**20),
        "evicted_keys": "0",
        "aof_enabled": "1",
        "role": "master",
    },
)


def worst(findings: Iterator[Finding]) -> tuple[Status, str]:
    """The status that counts, and the texts of the findings that have it."""
    found = list(findings)
    status = max((finding.status for finding in found), key=list(Status).index)
    return status, "; ".join(finding.text for finding in found if finding.status == status)


def changed(facts: ServerFacts, **changes: Any) -> ServerFacts:
    details = facts.details | changes.pop("details", {})
    return msgspec.structs.replace(facts, details=details, **changes)


def test_a_server_that_is_well_needs_nothing() -> None:
    for facts in (POSTGRES, REDIS, changed(REDIS, product="Valkey", version="8.1.0")):
        found = list(servers.judge("x", facts))
        assert {finding.status for finding in found} == {Status.ok}
        assert not any(finding.next for finding in found)


@pytest.mark.parametrize(
    ("facts", "status", "text"),
    [
        (changed(POSTGRES, version="12.17"), Status.failure, "older than 13"),
        (changed(POSTGRES, version="13beta1"), Status.ok, ""),
        (changed(REDIS, version="6.0.16"), Status.failure, "older than 6.2"),
        (changed(REDIS, product="Valkey", version="7.1"), Status.failure, "older than 7.2"),
        (changed(POSTGRES, latency_ms=25.0), Status.warning, "25.00 ms, more than 20"),
        (changed(REDIS, latency_ms=6.0), Status.warning, "more than 5"),
        (changed(POSTGRES, ahead_ms=-60.0), Status.warning, "60 ms behind"),
        (changed(REDIS, ahead_ms=51.0), Status.warning, "51 ms ahead"),
        (changed(REDIS, ahead_ms=51.0, unsure_ms=2.0), Status.ok, "51 ms ahead"),  # the network may be the reason
        (changed(POSTGRES, trials=(Trial("make tables", "denied"),)), Status.failure, "may not make tables: denied"),
        (changed(POSTGRES, trials=(Trial("make tables", "denied", needed=False),)), Status.note, "services need not"),
        (changed(POSTGRES, details={"in_recovery": "on"}), Status.failure, "standby"),
        (changed(POSTGRES, details={"default_transaction_read_only": "on"}), Status.failure, "read-only"),
        (changed(POSTGRES, details={"server_encoding": "SQL_ASCII"}), Status.failure, "SQL_ASCII"),
        (changed(POSTGRES, details={"fsync": "off"}), Status.warning, "fsync"),
        (changed(POSTGRES, details={"connections": "81"}), Status.warning, "81 of 100"),
        (changed(POSTGRES, details={"timescaledb": "2.17"}), Status.ok, "TimescaleDB 2.17"),
        (changed(REDIS, details={"role": "slave"}), Status.failure, "replica"),
        (changed(REDIS, details={"maxmemory_policy": "volatile-lru"}), Status.failure, "volatile-lru"),
        (changed(REDIS, details={"evicted_keys": "3"}), Status.warning, "evicted 3 keys"),
        (changed(REDIS, details={"used_memory": str(2**30 - 1)}), Status.warning, "1,024.0 MiB of 1,024.0 MiB"),
        (changed(REDIS, details={"maxmemory": "0"}), Status.note, "no limit"),
        (changed(REDIS, details={"aof_enabled": "0", "save": "60 1"}), Status.note, "snapshots"),
        (changed(REDIS, details={"aof_enabled": "0", "save": ""}), Status.note, "nothing on disk"),
        (changed(REDIS, details={"rdb_last_bgsave_status": "err"}), Status.warning, "could not save"),
        (changed(REDIS, details={"cluster_state": "fail", "nodes": "3"}), Status.failure, "cluster is fail"),
        (Trouble("nobody listens", "start it"), Status.failure, "nobody listens"),
    ],
)
def test_what_is_wrong_is_said(facts: ServerFacts | Trouble, status: Status, text: str) -> None:
    found = worst(servers.judge("x", facts))
    assert found[0] == status
    assert text in found[1]
    for finding in servers.judge("x", facts):
        assert finding.next or finding.status in (Status.ok, Status.note)  # whatever is wrong, there is a next step


@pytest.mark.parametrize(
    ("tables", "by_itself", "status"),
    [
        (Tables("0003", "0003", ()), False, Status.ok),
        (Tables(None, "0003", ()), False, Status.note),
        (Tables("0002", "0003", ()), False, Status.failure),
        (Tables("0002", "0003", ()), True, Status.note),
    ],
)
def test_tables_of_another_version(tables: Tables, by_itself: bool, status: Status) -> None:
    assert worst(servers.judge_tables("x", tables, by_itself=by_itself))[0] == status


def test_history_that_redis_lacks_is_worth_knowing() -> None:
    def text(lost: bool | None, facts: ServerFacts | Trouble | None = REDIS) -> str:
        return "; ".join(finding.text for finding in servers.judge_redis(facts, lambda: lost))

    assert "has not been loaded" in text(True)
    assert "all history is loaded" in text(False)
    assert "loaded" not in text(None)
    assert "loaded" not in text(True, Trouble("gone", "start it"))
    assert "not used" in text(True, None)


def test_kafka_without_topics_does_not_work() -> None:
    facts = ServerFacts(place="broker:9092", product="Kafka", version="with 1 broker", latency_ms=1.0)
    assert worst(servers.judge_kafka(None))[0] == Status.ok
    assert worst(servers.judge_kafka(changed(facts, details={"missing_topics": ""})))[0] == Status.ok
    assert worst(servers.judge_kafka(Trouble("gone", "start it")))[0] == Status.failure
    found = list(servers.judge_kafka(changed(facts, details={"missing_topics": "labels, labels.dlq"})))
    assert found[-1].status == Status.failure
    assert found[-1].next == "fraudml stream init"


def test_a_registry_without_a_champion_keeps_the_service_from_starting() -> None:
    facts = ServerFacts(place="registry.db", product="MLflow's store", version="3", latency_ms=1.0)
    assert worst(servers.judge_registry(facts, is_set=False))[0] == Status.warning
    champion = changed(facts, details={"champion": "7"})
    assert worst(servers.judge_registry(champion, is_set=False))[0] == Status.ok
    assert worst(servers.judge_registry(None, is_set=False))[0] == Status.note
    assert worst(servers.judge_registry(None, is_set=True))[0] == Status.note
    assert worst(servers.judge_registry(Trouble("a", "b"), is_set=True))[0] == Status.failure


@pytest.mark.parametrize(
    ("chosen", "number", "missing"),
    [
        (Chosen(), 1, ["PostgreSQL"]),
        (Chosen(redis=True), 1, ["PostgreSQL"]),
        (Chosen(log="postgresql"), 2, ["Redis: services share features", "Kafka", "an engine"]),
        (Chosen(log="postgresql", redis=True), 2, ["Kafka", "an engine"]),
        (Chosen(log="postgresql", redis=True, offline="spark"), 2, ["Kafka"]),
        (Chosen(log="postgresql", redis=True, kafka=True, offline="postgresql"), 2, ["an engine"]),
        (Chosen(log="postgresql", redis=True, kafka=True, offline="spark"), 3, ["a Redis cluster", "a warehouse"]),
        (
            Chosen(log="postgresql", redis=True, kafka=True, offline="snowflake", warehouse="snowflake"),
            3,
            ["a Redis cluster"],
        ),
        (Chosen(log="postgresql", redis=True, cluster=True, kafka=True, offline="spark", warehouse="bigquery"), 4, []),
    ],
)
def test_the_tier_is_the_highest_that_nothing_is_missing_for(chosen: Chosen, number: int, missing: list[str]) -> None:
    found = tiers.tier(chosen)
    assert found.number == number
    assert len(found.missing) == len(missing)
    assert all(need.what.startswith(start) for need, start in zip(found.missing, missing, strict=True))
    told = list(tiers.judge(chosen))
    assert told[0].text == f"tier {number}, {tiers.NAMES[number]}"
    assert [finding.next for finding in told if "also needs" in finding.text] == [n.setting for n in found.missing]


def test_replicas_need_one_key_for_card_numbers() -> None:
    shared = Chosen(log="postgresql", redis=True)
    assert worst(tiers.judge(shared))[0] == Status.warning
    assert worst(tiers.judge(msgspec.structs.replace(shared, hash_key=True)))[0] == Status.note


def test_all_checks_run_at_once_and_keep_what_they_found() -> None:
    together = threading.Barrier(3)
    never = threading.Event()

    def meets(name: str) -> Iterator[Finding]:
        together.wait(30)
        yield Finding(name, Status.ok, "met the others")

    def hangs() -> Iterator[Finding]:
        yield Finding("hangs", Status.warning, "so far")
        together.wait(30)
        never.wait()
        yield Finding("hangs", Status.ok, "too late")

    def is_refused() -> Iterator[Finding]:
        raise ConfigError("this is no URL")
        yield

    def breaks() -> Iterator[Finding]:
        yield Finding("breaks", Status.ok, "first")
        raise KeyError("a secret")

    checks = [
        Check("a", lambda: meets("a")),
        Check("hangs", hangs),
        Check("refused", is_refused),
        Check("breaks", breaks),
        Check("b", lambda: meets("b")),
    ]
    started = time.monotonic()
    report = examine(checks, 2.0)
    assert time.monotonic() - started < 20
    never.set()
    assert [(finding.check, finding.status) for finding in report.findings] == [
        ("a", Status.ok),
        ("hangs", Status.warning),
        ("hangs", Status.failure),
        ("refused", Status.failure),
        ("breaks", Status.ok),
        ("breaks", Status.failure),
        ("b", Status.ok),
    ]
    assert report.hanging == ["hangs"]
    assert report.findings[2].text == "no answer within 2 s"
    assert report.findings[3].text == "this is no URL"
    assert "secret" not in str(report)
    assert report.status == Status.failure


def test_nothing_found_is_well() -> None:
    assert examine([], 1.0).status == Status.ok


def home(folder: Path, **changes: Any) -> dict[Status, list[str]]:
    found: dict[Status, list[str]] = {}
    for finding in places.judge_home(folder, own_hash_key=changes.get("own_hash_key", True)):
        found.setdefault(finding.status, []).append(finding.text)
    return found


def test_the_home_directory(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "home"
    assert "not there yet" in home(folder)[Status.note][0]
    folder.mkdir(parents=True)
    assert set(home(folder)) == {Status.ok}
    key = folder / "hash.key"
    key.write_text("secret")
    key.chmod(0o640)
    assert "others may read" in home(folder)[Status.warning][0]
    assert Status.warning not in home(folder, own_hash_key=False)
    key.chmod(0o600)
    assert Status.warning not in home(folder)
    folder.chmod(0o777)
    assert "everybody may write" in home(folder)[Status.warning][0]
    folder.chmod(0o700)
    journal = folder / "journal"
    journal.mkdir()
    (journal / "decisions-1.journal").write_bytes(bytes(32))
    assert Status.warning not in home(folder)  # that is an empty one
    (journal / "decisions-2.journal").write_bytes(bytes(500))
    assert "decisions wait in 1 journal" in home(folder)[Status.warning][0]
    assert sorted(path.name for path in folder.iterdir()) == ["hash.key", "journal"]


def test_a_home_directory_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert "is no directory" in home(tmp_path / "file")[Status.failure][0]

    def refuse(**where: Path) -> None:  # root, whom tests may run as, can write anywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(places.tempfile, "TemporaryFile", refuse)
    assert "cannot be written to: Permission denied" in home(tmp_path)[Status.failure][0]
    report = examine([Check("home", lambda: refuse() or ())], 5.0)
    assert (report.status, report.findings[0].text) == (Status.failure, "Permission denied")


@pytest.mark.parametrize(("free", "status"), [(2**20, Status.failure), (2**30, Status.warning), (2**40, Status.ok)])
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(places.shutil, "disk_usage", lambda place: usage)
    assert worst(places.judge_home(tmp_path, own_hash_key=True))[0] == status


def test_the_project_file(tmp_path: Path) -> None:
    path = tmp_path / "fraudml.yaml"
    assert worst(places.judge_project(path, "there is no fraudml.yaml here"))[0] == Status.note
    path.write_text("schema: 1")
    assert worst(places.judge_project(path, "schema: expected an object")) == (
        Status.failure,
        "schema: expected an object",
    )
    assert worst(places.judge_project(path, None))[0] == Status.ok
