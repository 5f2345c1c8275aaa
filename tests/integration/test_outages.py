"""What the service can do without: each dependency taken away for real, with requests coming in."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fraudml.decisions import recorder
from fraudml.service import pipeline
from tests.support.scoring import row
from tests.support.server import Service
from tests.support.waiting import until


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for module in (recorder, pipeline):
        monkeypatch.setattr(module, "PROBE_S", 0.01)
    running = Service(tmp_path)
    yield running
    running.stop()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another program holds the log's write lock: a backup tool, say, or somebody's open transaction."""
    other = sqlite3.connect(folder / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def score(service: Service, number: int) -> Any:
    answer = service.client.post("/v1/predict", json=row(number))
    assert answer.status_code == 200, answer.text
    return answer


def metric(service: Service, line: str) -> float:
    found = [each for each in service.client.get("/metrics").text.splitlines() if each.startswith(line + " ")]
    return float(found[0].split()[-1]) if found else 0.0


def ready(service: Service) -> Any:
    answer = service.client.get("/health/ready")
    assert answer.status_code == 200
    return answer.json()["degraded"]


def test_a_log_that_is_locked_costs_no_decision(service: Service, tmp_path: Path) -> None:
    before = score(service, 1)
    assert before.json()["degraded"] == []
    with locked(tmp_path):
        journaled = [score(service, number) for number in (2, 3)]
        for answer in journaled:
            assert answer.json()["degraded"] == ["decision_log"]
        assert score(service, 2).content == journaled[0].content  # a retry, byte for byte
        assert score(service, 1).content == before.content
        assert metric(service, 'fraud_dependency_up{dependency="decision_log"}') == 0
        assert metric(service, "fraud_journal_decisions") == 2
        assert metric(service, 'fraud_degraded_total{reason="decision_log"}') == 3
        assert ready(service) == ["decision_log"]
        label = service.as_("label").post("/v1/labels", json={"transaction_id": "t1", "is_fraud": True})
        assert label.status_code == 503
        assert int(label.headers["retry-after"]) >= 1
    until(lambda: ready(service) == [])  # without any request that scores
    assert (
        metric(service, 'fraud_dependency_up{dependency="decision_log"}'),
        metric(service, "fraud_journal_decisions"),
    ) == (1, 0)
    assert score(service, 4).json()["degraded"] == []
    assert [score(service, number).content for number in (2, 3)] == [answer.content for answer in journaled]
    logged = [key for batch in service.log.replay() for key in batch.column("transaction_id").to_pylist()]
    assert logged == ["t1", "t2", "t3", "t4"]
    label = service.as_("label").post("/v1/labels", json={"transaction_id": "t2", "is_fraud": True})
    assert label.status_code == 200
    assert len(service.store.events) == 4


def test_batches_go_on_without_the_log(service: Service, tmp_path: Path) -> None:
    with locked(tmp_path):
        answer = service.client.post("/v1/batch-predict", json={"transactions": [row(n) for n in range(250)]})
        assert answer.json()["scored"] == 250
        assert all(result["degraded"] == ["decision_log"] for result in answer.json()["results"])
    until(lambda: ready(service) == [])
    assert len(list(service.log.transaction_ids())) == 250


def test_an_online_store_that_is_gone_costs_history_not_decisions(service: Service) -> None:
    score(service, 1)
    service.store.broken = True
    blind = score(service, 2)
    assert blind.json()["degraded"] == ["online_store"]
    assert ready(service) == ["online_store"]
    assert metric(service, 'fraud_degraded_total{reason="online_store"}') == 1
    service.store.broken = False
    assert score(service, 3).json()["degraded"] == []
    assert ready(service) == []
    assert len(service.store.events) == 3
    assert score(service, 2).content == blind.content


def test_a_model_that_fails_costs_a_review(service: Service) -> None:
    service.model.bundle.runtime.broken = True  # type: ignore[attr-defined]
    answer = score(service, 1).json()
    assert (answer["score"], answer["action"], answer["degraded"]) == (None, "review", ["model"])
    service.model.bundle.runtime.broken = False  # type: ignore[attr-defined]
    assert score(service, 2).json()["degraded"] == []


def test_requests_under_way_when_the_log_goes_are_all_answered(service: Service, tmp_path: Path) -> None:
    """Many clients at once, the log goes and comes back: every answer is 200, every decision is in the log once."""
    clients = 8
    each = 30
    failures: list[str] = []
    halfway = threading.Barrier(clients + 1, timeout=60)

    def load(client: int) -> None:
        with httpx.Client(headers=dict(service.client.headers), base_url=service.client.base_url, timeout=30) as http:
            for number in range(each):
                if number == each // 2:
                    halfway.wait()
                answer = http.post("/v1/predict", json=row(client * each + number))
                if answer.status_code != 200:
                    failures.append(answer.text)

    threads = [threading.Thread(target=load, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    with locked(tmp_path):
        halfway.wait()
        until(lambda: metric(service, "fraud_journal_decisions") > clients)
    for thread in threads:
        thread.join()
    assert failures == []
    until(lambda: ready(service) == [])
    logged = [key for batch in service.log.replay() for key in batch.column("transaction_id").to_pylist()]
    assert sorted(logged) == sorted(f"t{number}" for number in range(clients * each))
    assert [event.transaction_id for event in service.store.events] == logged
