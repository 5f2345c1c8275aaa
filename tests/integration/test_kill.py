"""``kill -9`` under load, with the real command: what was acknowledged is there afterwards, and state is right."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support import trained
from tests.support.commands import refused, well
from tests.support.hammer import Hammer
from tests.support.servers.postgres import PostgresServer, execute
from tests.support.serving import an_example, serving

KILLS = int(os.environ.get("FRAUDML_TEST_KILLS", "1"))  # `make soak` does twenty
CONNECTIONS = 16
AUDIT_S = 240 + 60 * KILLS  # its reference goes through all that the entities of a doubtful decision did
SPACE = 20_000  # seconds of event time between two kills
ENOUGH = 2_000 if KILLS > 1 else 1_000  # acknowledged decisions before the service is killed
START = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion."""
    return trained.project(tmp_path_factory.mktemp("kill"))


def transaction(example: dict[str, Any], name: str, number: int) -> dict[str, Any]:
    """One of many transactions whose customers and merchants are few, so their windows meet."""
    moment = START + timedelta(seconds=number)
    return example | {
        "transaction_id": name,
        "event_time": moment.isoformat(),
        "customer_id": f"customer-{number % 50}",
        "merchant_id": f"merchant-{number % 30}",
        "amount": 10.0 + number % 1_000,
    }


def rows(example: dict[str, Any], kill: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is sent until a kill; each starts where the one before can have ended, in time."""
    for number in itertools.count():
        name = f"live-{kill}-{number}"
        yield name, transaction(example, name, SPACE * kill + number)


def probe(client: httpx.Client, example: dict[str, Any], kill: int) -> list[Any]:
    """What state says just before the load of a kill, of each customer and merchant: explanations record nothing."""
    probes = [transaction(example, f"probe-{number}", SPACE * kill + number) for number in range(15)]
    answers = [client.post("/v1/explain?top=1000", json=each) for each in probes]
    assert all(answer.is_success for answer in answers)
    return [answer.json() for answer in answers]


# The process of the server that the service appends by.
WRITER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
LOGGED = "SELECT transactions.transaction_id FROM transactions JOIN decisions USING (arrival)"


def in_sqlite(file: Path) -> list[str]:
    """The ids of all decisions in a log."""
    with closing(sqlite3.connect(file)) as log:
        return [name for (name,) in log.execute(LOGGED)]


@pytest.fixture(params=["sqlite", "postgres"])
def logged_ids(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The ids of all decisions in a log of its own, of either kind."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        monkeypatch.setenv("FRAUDML_DATABASE_URL", url)
        return lambda: [str(name) for (name,) in execute(url, LOGGED)]
    monkeypatch.setenv("FRAUDML_DATABASE_URL", f"sqlite:///{home / 'killed.db'}")
    return lambda: in_sqlite(home / "killed.db")


def test_kill_9_under_full_load_loses_nothing_that_was_acknowledged(
    home: Path, logged_ids: Callable[[], list[str]]
) -> None:
    key = well("keys", "create", "load", "--scope", "admin", cwd=home).out.strip()
    acknowledged: dict[str, bytes] = {}
    sent: dict[str, dict[str, Any]] = {}
    state: list[Any] = []
    for kill in range(KILLS):
        with serving(home, as_users_do=True) as service, service.client(key) as client:
            example = an_example(client)
            assert state == [] or probe(client, example, kill) == state  # rebuilt, it is what it was
            hammer = Hammer(service.port, key, rows(example, kill), ENOUGH)
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(hammer.run, CONNECTIONS)
                assert hammer.enough.wait(120)
                service.process.send_signal(signal.SIGKILL)
                load.result(60)
            assert service.process.wait() == -signal.SIGKILL
        assert hammer.refused == []
        acknowledged |= hammer.acknowledged
        sent |= hammer.sent
        with serving(home) as service, service.client(key) as client:  # the killed one's claim is no more
            for name in [*hammer.acknowledged][-50:]:  # those at the very end are the ones at risk
                assert client.post("/v1/predict", json=sent[name]).content == acknowledged[name]
            for number in range(20):  # after the load, in time too: each late one makes the audit judge all after it
                after = transaction(example, f"after-{kill}-{number}", SPACE * kill + SPACE // 2 + number)
                assert client.post("/v1/predict", json=after).is_success
            state = probe(client, example, kill + 1)
            assert "another fraudml process serves" in refused("serve", "--port", "0", cwd=home)
            service.process.terminate()
            assert service.process.wait(30) == -signal.SIGTERM  # by the signal, as is custom, but in order
    logged = logged_ids()
    assert len(logged) == len(set(logged))
    assert set(acknowledged) <= set(logged) <= set(sent) | {f"after-{k}-{n}" for k in range(KILLS) for n in range(20)}
    audit = well("features", "audit", "--json", cwd=home, within_s=AUDIT_S).json
    assert audit["decisions"] == len(logged)
    assert audit["differing"] == 0, audit["examples"]


def test_a_kill_while_the_log_is_gone_loses_nothing_either(home: Path) -> None:
    key = well("keys", "create", "outage", "--scope", "admin", cwd=home).out.strip()
    other = sqlite3.connect(home / ".fraudml" / "fraudml.db", isolation_level=None)
    with serving(home, as_users_do=True) as service, service.client(key) as client:
        example = an_example(client)
        other.execute("BEGIN IMMEDIATE")  # somebody holds the log's lock
        hammer = Hammer(service.port, key, rows(example, KILLS), ENOUGH)
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(hammer.run, CONNECTIONS)
            assert hammer.enough.wait(120)
            assert client.get("/health/ready").json()["degraded"] == ["decision_log"]
            service.process.send_signal(signal.SIGKILL)
            load.result(60)
    other.close()
    assert hammer.refused == []
    with serving(home) as service, service.client(key) as client:
        assert client.get("/health/ready").json()["degraded"] == []
        for name in [*hammer.acknowledged][-50:]:
            assert client.post("/v1/predict", json=hammer.sent[name]).content == hammer.acknowledged[name]
    assert set(hammer.acknowledged) <= set(in_sqlite(home / ".fraudml" / "fraudml.db"))
    audit = well("features", "audit", "--json", cwd=home, within_s=AUDIT_S).json
    assert audit["differing"] == 0, audit["examples"]


def test_kill_9_of_postgresql_and_then_of_the_service_loses_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that waits for its disk, as outside of tests; one of its processes dies, so it ends all and recovers."""
    server = PostgresServer()
    try:
        url = server.new_database()
        monkeypatch.setenv("FRAUDML_DATABASE_URL", url)
        key = well("keys", "create", "load", "--scope", "admin", cwd=home).out.strip()
        with serving(home, as_users_do=True) as service, service.client(key) as client:
            example = an_example(client)
            hammer = Hammer(service.port, key, rows(example, KILLS + 4), ENOUGH // 2)
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(hammer.run, CONNECTIONS)
                assert hammer.enough.wait(120)
                ((writer,),) = execute(url, WRITER)
                os.kill(int(str(writer)), signal.SIGKILL)
                hammer.wait_for(ENOUGH // 2)
                service.process.send_signal(signal.SIGKILL)
                load.result(60)
        assert hammer.refused == []
        server.process.wait_until_it_answers()  # it may still recover; a service refuses to start meanwhile
        with serving(home) as service, service.client(key) as client:
            assert client.get("/health/ready").json()["degraded"] == []
            again = [client.post("/v1/predict", json=hammer.sent[name]) for name in [*hammer.acknowledged][-50:]]
            assert [answer.content for answer in again] == [*hammer.acknowledged.values()][-50:]
        logged = [name for (name,) in execute(url, LOGGED)]
        assert len(logged) == len(set(logged))
        assert set(hammer.acknowledged) <= set(logged) <= set(hammer.sent)
        audit = well("features", "audit", "--json", cwd=home, within_s=AUDIT_S).json
        assert audit["differing"] == 0, audit["examples"]
    finally:
        server.close()


def test_sigterm_finishes_what_it_was_asked(home: Path) -> None:
    key = well("keys", "create", "term", "--scope", "admin", cwd=home).out.strip()
    with serving(home, as_users_do=True) as service, service.client(key) as client:
        example = an_example(client)
        batch = [transaction(example, f"term-{number}", SPACE * (KILLS + 2) + number) for number in range(2_000)]
        raw = msgspec.json.encode({"transactions": batch})
        half = len(raw) // 2

        def slowly() -> Iterator[bytes]:
            yield raw[:half]
            service.process.terminate()  # the request is on its way
            yield raw[half:]

        answer = client.post("/v1/batch-predict", content=slowly())
        assert answer.status_code == 200
        assert answer.json()["scored"] == len(batch)
        assert service.process.wait(30) == -signal.SIGTERM
    assert "Application shutdown complete" in (home / "serve.err").read_text(encoding="utf-8")


def test_a_file_that_is_no_database_is_refused_in_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "broken.db").write_bytes(b"no database" * 1_000)
    monkeypatch.setenv("FRAUDML_DATABASE_URL", f"sqlite:///{home / 'broken.db'}")
    assert "file is not a database" in refused("serve", "--port", "0", cwd=home)
