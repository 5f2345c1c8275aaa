"""The service over real HTTP: what it answers, what it refuses, and how."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.decisions.keys import Scope, new_key
from fraudml.errors import DecisionLogError
from tests.support.scoring import SCHEMA, row
from tests.support.server import Service

Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Service] = []

    def run(**settings: Any) -> Service:
        running.append(Service(tmp_path, **settings))
        return running[-1]

    yield run
    for service in running:
        service.stop()


@pytest.fixture
def service(start: Start) -> Service:
    return start()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """For tests that only send what is refused or explained."""
    running = Service(tmp_path_factory.mktemp("shared"))
    yield running
    running.stop()


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def test_a_transaction_is_decided_and_a_retry_gets_the_same_bytes(start: Start) -> None:
    service = start()
    first = service.client.post("/v1/predict", json=row(1))
    assert first.status_code == 200
    body = first.json()
    assert body["transaction_id"] == "t1"
    assert body["event_time"] == "2024-05-01T00:00:01Z"
    assert body["score"] == pytest.approx(1 / (1 + np.exp(2)))
    assert (body["action"], body["model_version"], body["late"], body["degraded"]) == ("approve", "1", False, [])
    assert service.client.post("/v1/predict", json=row(2)).json()["score"] > body["score"]
    assert service.client.post("/v1/predict", json=row(1)).content == first.content
    service.stop()
    again = start()
    assert again.client.post("/v1/predict", json=row(1)).content == first.content
    assert again.client.post("/v1/predict", json=row(3)).json()["score"] == pytest.approx(0.5)  # n_1d is 2 again


def test_the_same_id_with_other_content_is_409_naming_the_field(service: Service) -> None:
    service.client.post("/v1/predict", json=row(1))
    body = problem(service.client.post("/v1/predict", json=row(1, dist_km=7)), 409)
    assert "'dist_km'" in body["detail"]
    assert body["type"] == "urn:fraudml:problem:conflict"


def test_every_wrong_field_is_named_with_what_was_expected(shared: Service) -> None:
    bad = row(1, amount="much", time="yesterday", items=1.5, cust_nr=1)
    del bad["tx_id"]
    body = problem(shared.client.post("/v1/predict", json=bad), 422)
    found = {error["path"]: error["expected"] for error in body["errors"]}
    assert set(found) == {"tx_id", "time", "amount", "items", "cust_nr"}
    assert found["tx_id"] == "missing"
    assert "ISO 8601" in found["time"]
    assert "did you mean 'cust_no'" in found["cust_nr"]
    assert "much" not in str(body)  # values may be personal


def test_a_time_far_ahead_is_refused_and_the_past_is_not(start: Start) -> None:
    service = start(max_ahead_s=3_600)
    now = datetime.now(UTC)
    ahead = row(1, time=(now + timedelta(hours=2)).isoformat())
    for body in (
        problem(service.client.post("/v1/predict", json=ahead), 422),
        problem(service.client.post("/v1/explain", json=ahead), 422),
        service.client.post("/v1/batch-predict", json={"transactions": [ahead]}).json()["results"][0]["error"],
    ):
        assert [error["path"].rpartition(".")[2] for error in body["errors"]] == ["time"]
        assert "3600 s ahead" in body["errors"][0]["expected"]
    assert service.store.events == []
    for number, moment in enumerate((now + timedelta(minutes=30), now, datetime(1971, 1, 1, tzinfo=UTC))):
        sent = row(number, time=moment.isoformat())
        assert service.client.post("/v1/predict", json=sent).status_code == 200


def test_endless_texts_are_refused(shared: Service) -> None:
    body = problem(
        shared.client.post("/v1/predict", json=row(1, tx_id="x" * 1_001, term="y" * 200_000, country="z" * 1_001)), 422
    )
    assert [error["path"] for error in body["errors"]] == ["tx_id", "term", "country"]


def test_a_batch_reports_each_item_by_itself(service: Service) -> None:
    service.client.post("/v1/predict", json=row(1))
    rows = [row(1), row(2), row(3, amount=-1), row(1, amount=3.0), 7, row(2)]
    answer = service.client.post("/v1/batch-predict", json={"transactions": rows})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["scored"], body["failed"]) == (3, 3)
    results = body["results"]
    assert [r.get("transaction_id") for r in results] == ["t1", "t2", None, "t1", None, "t2"]
    assert results[1] == results[5]
    assert [r["error"]["status"] for r in results if "error" in r] == [422, 409, 422]
    assert [r["index"] for r in results if "error" in r] == [2, 3, 4]
    assert results[2]["error"]["errors"][0]["path"] == "transactions[2].amount"
    assert results[4]["error"]["errors"] == [{"path": "transactions[4]", "expected": "expected a JSON object"}]
    assert service.client.post("/v1/batch-predict", json={"transactions": []}).json()["results"] == []


def test_too_much_is_413(start: Start) -> None:
    service = start(max_batch=2, max_body_bytes=5_000)
    body = problem(service.client.post("/v1/batch-predict", json={"transactions": [row(i) for i in range(3)]}), 413)
    assert "2 transactions" in body["detail"]
    labels = [{"transaction_id": "t1", "is_fraud": True}] * 3
    problem(service.as_("label").post("/v1/labels", json={"labels": labels}), 413)
    problem(service.client.post("/v1/predict", content=b" " * 5_001), 413)

    def unannounced() -> Iterator[bytes]:
        yield from [b" " * 1_000] * 6

    problem(service.client.post("/v1/predict", content=unannounced()), 413)
    assert service.store.events == []


def test_a_body_that_stops_halfway_is_408(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.service.body.BODY_WITHIN_S", 0.05)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.tokens['score']}\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head.encode() + b'{"half')
        assert connection.recv(1_000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/predict", "score"),
        ("POST", "/v1/batch-predict", "score"),
        ("POST", "/v1/explain", "score"),
        ("POST", "/v1/labels", "label"),
        ("GET", "/v1/decisions/t1", "read"),
    ],
)
def test_every_route_wants_its_scope(shared: Service, method: str, path: str, scope: str) -> None:
    anyone, url = shared.as_(None), path
    missing = anyone.request(method, url)
    problem(missing, 401)
    assert missing.headers["www-authenticate"] == "Bearer"
    problem(anyone.request(method, url, headers={"Authorization": "Bearer fml_wrong"}), 401)
    problem(anyone.request(method, url, headers={"Authorization": "Basic fml_wrong"}), 401)
    for other in {"score", "label", "read"} - {scope}:
        body = problem(anyone.request(method, url, headers={"X-API-Key": shared.tokens[other]}), 403)
        assert f"'{scope}'" in body["detail"]
    for good in (scope, "admin"):
        response = anyone.request(method, url, headers={"X-API-Key": shared.tokens[good]})
        assert response.status_code in (404, 422)


def test_reading_metrics_holds_up_no_decision(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow() -> bytes:
        reading.set()
        assert go_on.wait(30)
        return b""

    monkeypatch.setattr(service.state.metrics, "text", slow)
    read = threading.Thread(target=lambda: service.as_("read").get("/metrics"))
    read.start()
    assert reading.wait(30)
    assert service.client.post("/v1/predict", json=row(1)).status_code == 200
    go_on.set()
    read.join()


def test_a_revoked_key_stops_working_and_a_new_one_starts(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.service.auth.KEYS_TTL_S", -1.0)  # instead of waiting for it
    token, key = new_key("other", [Scope.score])
    headers = {"X-API-Key": token}
    problem(service.as_(None).post("/v1/predict", json=row(1), headers=headers), 401)
    service.log.keys.add(key)
    assert service.as_(None).post("/v1/predict", json=row(1), headers=headers).status_code == 200
    service.log.keys.revoke("other")
    problem(service.as_(None).post("/v1/predict", json=row(1), headers=headers), 401)


def test_known_keys_stay_valid_while_the_keys_cannot_be_read(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.client.post("/v1/predict", json=row(1)).status_code == 200
    monkeypatch.setattr("fraudml.service.auth.KEYS_TTL_S", -1.0)

    def fail() -> list[Any]:
        raise DecisionLogError("gone")

    monkeypatch.setattr(service.log.keys, "all", fail)
    assert service.client.post("/v1/predict", json=row(2)).status_code == 200


def test_a_key_has_its_rate(start: Start) -> None:
    service = start(rate_limit_per_s=0.01)
    assert service.client.post("/v1/predict", json=row(1)).status_code == 200
    refused = service.client.post("/v1/predict", json=row(2))
    problem(refused, 429)
    assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert service.as_("admin").post("/v1/predict", json=row(2)).status_code == 200  # another key, another bucket
    problem(service.client.post("/v1/batch-predict", json={"transactions": [row(3)]}), 429)


def test_what_nothing_can_keep_is_503_and_a_retry_counts_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append = service.journal.append
    monkeypatch.setattr(service.log, "append", _raise(DecisionLogError("secret path: locked")))
    monkeypatch.setattr(service.journal, "append", _raise(DecisionLogError("secret path: disk full")))
    with caplog.at_level(logging.WARNING, "fraudml.service"):
        refused = service.client.post("/v1/predict", json=row(1))
        service.client.get("/health/live")  # the line is written after the answer, but before the next one
    body = problem(refused, 503)
    assert "secret" not in refused.text
    assert int(refused.headers["retry-after"]) >= 1
    (line,) = [record for record in caplog.records if record.message == "request"]
    assert line.request_id == body["request_id"]
    assert "disk full" in line.failure
    monkeypatch.setattr(service.journal, "append", append)
    assert service.client.post("/v1/predict", json=row(1)).json()["degraded"] == ["decision_log"]
    assert len(service.store.events) == 1


def test_a_defect_is_503_without_a_trace_and_logged_with_its_id(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service.state.scorer, "decide", _raise(ZeroDivisionError("secret")))
    refused = service.client.post("/v1/predict", json=row(1))
    body = problem(refused, 503)
    assert "secret" not in refused.text
    assert "Traceback" not in refused.text
    (record,) = [r for r in caplog.records if r.message == "unexpected failure"]
    assert record.request_id == body["request_id"]
    assert record.exc_info is not None
    assert 'fraud_errors_total{kind="ZeroDivisionError"} 1.0' in service.client.get("/metrics").text


def test_more_than_can_wait_is_503_and_health_answers_meanwhile(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()
    real = service.state.scorer.decide

    def slow(batch: Any) -> Any:
        entered.set()
        release.wait(30)
        return real(batch)

    monkeypatch.setattr(service.state.scorer, "decide", slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.client.post, "/v1/predict", json=row(1))
        assert entered.wait(30)
        assert service.as_("score").get("/health/live").json() == {"status": "alive"}
        assert service.as_("score").get("/health/ready").status_code == 200
        service.state.pipeline._most_waiting = 0
        refused = service.as_("score").post("/v1/predict", json=row(2))
        assert problem(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        release.set()
        assert waiting.result(30).status_code == 200
    assert 'fraud_shed_total{reason="queue_full"} 1.0' in service.client.get("/metrics").text


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def test_labels_are_recorded_once_and_show_in_the_decision(service: Service) -> None:
    service.client.post("/v1/batch-predict", json={"transactions": [row(1), row(2)]})
    label = service.as_("label")
    one = {"transaction_id": "t1", "is_fraud": True, "known_at": "2024-05-02T00:00:00Z"}
    assert label.post("/v1/labels", json=one).json() == {"transaction_id": "t1", "recorded": True}
    assert label.post("/v1/labels", json=one).json() == {"transaction_id": "t1", "recorded": False}
    assert label.post("/v1/labels", json={"tx_id": "t2", "is_fraud": 0}).json()["recorded"]  # known now
    many = [
        {"transaction_id": "t1", "is_fraud": False, "known_at": "2024-05-03T00:00:00Z"},
        {"transaction_id": "nobody", "is_fraud": True},
        {"transaction_id": "t2", "is_fraud": "maybe"},
        one,
    ]
    body = label.post("/v1/labels", json={"labels": many}).json()
    assert (body["recorded"], body["unchanged"], body["failed"]) == (1, 1, 2)
    assert [r.get("error", {}).get("status") for r in body["results"]] == [None, 404, 422, None]
    assert body["results"][2]["error"]["errors"][0]["path"] == "labels[2].is_fraud"
    shown = service.as_("read").get("/v1/decisions/t1").json()
    assert shown["labels"] == [
        {"is_fraud": True, "known_at": "2024-05-02T00:00:00Z"},
        {"is_fraud": False, "known_at": "2024-05-03T00:00:00Z"},
    ]
    assert [item.is_fraud for item in service.store.labels if item.transaction_id == "t1"] == [True, False]


def test_labels_are_recorded_in_parts_and_a_part_that_fails_does_not_undo_those_before(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudml.service.labels.PART", 2)
    rows = [row(n) for n in range(1, 6)]
    assert service.client.post("/v1/batch-predict", json={"transactions": rows}).json()["scored"] == 5
    labels: list[Any] = [{"transaction_id": f"t{n}", "is_fraud": True} for n in range(1, 6)]
    labels.insert(1, 7)
    real, sizes = service.state.scorer.add_labels, []

    def second_fails(part: Any) -> Any:
        sizes.append(len(part))
        if len(sizes) == 2:
            raise DecisionLogError("secret path")
        return real(part)

    monkeypatch.setattr(service.state.scorer, "add_labels", second_fails)
    first = service.as_("label").post("/v1/labels", json={"labels": labels})
    assert first.status_code == 200
    assert "secret" not in first.text
    body = first.json()
    assert (body["recorded"], body["unchanged"], body["failed"]) == (2, 0, 4)
    assert [r.get("transaction_id") for r in body["results"]] == ["t1", None, "t2", "t3", "t4", "t5"]
    assert [r.get("error", {}).get("status") for r in body["results"]] == [None, 422, None, 503, 503, 503]
    assert sizes == [2, 2]  # what follows a failure is not tried
    again = service.as_("label").post("/v1/labels", json={"labels": labels}).json()
    assert (again["recorded"], again["unchanged"], again["failed"]) == (3, 2, 1)
    assert sizes == [2, 2, 2, 2, 1]
    assert service.as_("label").post("/v1/labels", json={"labels": []}).json()["results"] == []


def test_labels_of_which_none_can_be_recorded_are_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.service.labels.PART", 1)
    service.client.post("/v1/predict", json=row(2))
    monkeypatch.setattr(service.log, "append_labels", _raise(DecisionLogError("gone")))
    labels = [{"transaction_id": name, "is_fraud": True} for name in ("nobody", "t2")]
    problem(service.as_("label").post("/v1/labels", json={"labels": labels}), 503)


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"transaction_id": "t1", "is_fraud": True, "known_at": "2150-01-01T00:00:00Z"}, ["known_at"]),
        ({"transaction_id": "t1", "is_fraud": True, "known_at": "2024-01-01"}, ["known_at"]),
        ({"is_fraud": "perhaps", "extra": 1}, ["transaction_id", "is_fraud", "extra"]),
        ({"transaction_id": "t1"}, ["is_fraud"]),
        ({"labels": 7}, ["labels"]),
        ({"labels": [], "more": 1}, ["labels"]),
    ],
)
def test_a_wrong_label_is_422(shared: Service, body: dict[str, Any], paths: list[str]) -> None:
    found = problem(shared.as_("label").post("/v1/labels", json=body), 422)
    assert [error["path"] for error in found["errors"]] == paths


def test_very_many_unknown_fields_are_not_all_named(shared: Service) -> None:
    many = dict.fromkeys(map(str, range(1_000)), 1)
    for path in ("/v1/labels", "/v1/batch-predict"):
        assert len(shared.as_("admin").post(path, json=many).content) < 10_000


def test_a_label_known_before_its_event_or_without_one(service: Service) -> None:
    service.client.post("/v1/predict", json=row(1))
    label = service.as_("label")
    for moment in ("2024-04-30T00:00:00Z", "1970-01-01T00:00:00Z"):
        early = {"transaction_id": "t1", "is_fraud": True, "known_at": moment}
        assert problem(label.post("/v1/labels", json=early), 422)["errors"][0]["path"] == "known_at"
    problem(label.post("/v1/labels", json={"transaction_id": "nobody", "is_fraud": True}), 404)


def test_a_decision_shows_what_it_rests_on(service: Service) -> None:
    service.client.post("/v1/predict", json=row(1))
    sent = row(2, tx_id="a/b?c", country=None)
    answer = service.client.post("/v1/predict", json=sent).json()
    shown = service.as_("read").get("/v1/decisions/a%2Fb%3Fc").json()
    assert shown["decision"] == answer
    assert shown["transaction"] == {name: value for name, value in sent.items() if value is not None}
    assert shown["features"] == {"amount": 1_000, "distance": 2.5, "n_1d": 1, "sum_1d": 1_000, "frauds_30d": 0}
    problem(service.as_("read").get("/v1/decisions/nobody"), 404)


def test_a_card_number_is_never_stored_and_still_found(service: Service, tmp_path: Path) -> None:
    card = "4111111111111111"
    answer = service.client.post("/v1/predict", json=row(1, tx_id=int(card), cust_no=card))
    assert answer.json()["transaction_id"].startswith("card:")
    label = service.as_("label").post("/v1/labels", json={"transaction_id": card, "is_fraud": True})
    assert label.json()["recorded"]
    assert service.as_("read").get(f"/v1/decisions/{card}").status_code == 200
    assert card.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_explanations_add_up(service: Service) -> None:
    service.client.post("/v1/predict", json=row(1))
    decided = service.client.post("/v1/predict", json=row(2)).json()
    by_id = service.client.post("/v1/explain", json={"transaction_id": "t2"}).json()
    assert (by_id["recorded"], by_id["score"], by_id["action"]) == (True, decided["score"], decided["action"])
    assert service.client.post("/v1/explain", json={"tx_id": "t2"}).json() == by_id
    assert service.client.post("/v1/explain", json=row(2)).json() == by_id
    fresh = service.client.post("/v1/explain?top=1", json=row(3)).json()
    assert not fresh["recorded"]
    assert len(fresh["reasons"]) == 1
    assert fresh["other_contributions"] != 0
    for body in (by_id, fresh):
        total = body["base_log_odds"] + sum(r["contribution"] for r in body["reasons"]) + body["other_contributions"]
        assert total == pytest.approx(body["log_odds"], abs=1e-9)
        assert 1 / (1 + np.exp(-body["log_odds"])) == pytest.approx(body["score"])
        assert all(r["text"] for r in body["reasons"])
    assert service.as_("read").get("/v1/decisions/t3").status_code == 404  # nothing was recorded
    problem(service.client.post("/v1/explain", json={"transaction_id": "nobody"}), 404)
    problem(service.client.post("/v1/explain", json=row(2, amount=1)), 409)
    for top in ("0", "1001", "x", "-1", "9" * 5_000):
        problem(service.client.post(f"/v1/explain?top={top}", json=row(2)), 422)


def test_a_flood_of_explanations_is_turned_away_and_starves_nobody(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudml.service.explain.MOST_WAITING", 1)
    service = start()
    monkeypatch.setattr("fraudml.service.auth.KEYS_TTL_S", -1.0)  # each request reads the keys
    entered, release = threading.Semaphore(0), threading.Event()
    real = service.state.scorer.explain

    def slow(sent: Any) -> Any:
        entered.release()
        assert release.wait(30)
        return real(sent)

    monkeypatch.setattr(service.state.scorer, "explain", slow)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(service.client.post, "/v1/explain", json=row(1)) for _ in range(4)]
        try:
            for _ in range(2):
                assert entered.acquire(timeout=30)
            done, waiting = wait(asked, timeout=30, return_when=FIRST_COMPLETED)
            assert (len(done), len(waiting)) == (1, 3)  # two in threads, one in the queue
            problem(done.pop().result(), 503)
            assert service.as_("admin").post("/v1/predict", json=row(1)).status_code == 200
            assert service.as_(None).get("/health/ready").status_code == 200
            assert not entered.acquire(blocking=False)
        finally:
            release.set()
        assert [future.result(30).status_code for future in waiting] == [200, 200, 200]
    assert 'fraud_shed_total{reason="queue_full"} 1.0' in service.client.get("/metrics").text


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b"7", 422),
        (b'{"amount": NaN}', 422),
        (b'{"amount": 1e999}', 422),
        (b"[" * 200_000, 422),
        (b'{"a":' * 100_000, 422),
        (b'{"a":' * 600 + b"1" + b"}" * 600, 422),
        (b'{"tx_id": "\xff"}', 422),
        (b'{"tx_id": "\\ud800"}', 422),
        (b'{"tx_id": {"a": [1]}}', 422),
        ("\ufeff{}".encode(), 422),
    ],
    ids=range(13),
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/batch-predict", "/v1/explain", "/v1/labels"])
def test_what_is_no_sound_json_is_422(shared: Service, path: str, raw: bytes, status: int) -> None:
    problem(shared.as_("admin").post(path, content=raw), status)


def test_a_name_given_twice_is_refused(shared: Service) -> None:
    raw = msgspec.json.encode(row(1))[:-1] + b',"amount":1}'
    body = problem(shared.client.post("/v1/predict", content=raw), 422)
    assert body["errors"] == [{"path": "amount", "expected": "given twice"}]
    escaped = msgspec.json.encode(row(1))[:-1] + b',"am\\u006funt":1}'
    problem(shared.client.post("/v1/predict", content=escaped), 422)
    nested = b'{"transactions":[' + raw + b"]}"
    problem(shared.client.post("/v1/batch-predict", content=nested), 422)


def test_another_content_type_is_415(shared: Service) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/jsonx", "json"):
        problem(shared.client.post("/v1/predict", content=b"{}", headers={"Content-Type": kind}), 415)
    curl = "application/x-www-form-urlencoded"
    for kind in (curl, "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.bank+json"):
        problem(shared.client.post("/v1/predict", content=b"{}", headers={"Content-Type": kind}), 422)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/predict/", 404),
        ("GET", "/v1/predict", 405),
        ("HEAD", "/v1/predict", 405),
        ("PROPFIND", "/v1/predict", 405),
        ("DELETE", "/v1/decisions/t1", 405),
        ("GET", "/v1/decisions/", 422),
        ("OPTIONS", "/v1/predict", 405),
        ("GET", "/../../etc/passwd", 404),
    ],
)
def test_what_does_not_exist(shared: Service, method: str, path: str, status: int) -> None:
    response = shared.as_("admin").request(method, path)
    assert response.status_code == status
    if method != "HEAD":
        problem(response, status)


def test_answers_carry_their_headers(shared: Service) -> None:
    response = shared.client.post("/v1/predict", json={}, headers={"X-Request-ID": "order-77"})
    assert response.headers["x-request-id"] == "order-77"
    assert problem(response, 422)["request_id"] == "order-77"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "server" not in response.headers
    odd = shared.client.get("/health/live", headers={"X-Request-ID": "a b" + "c" * 99})
    assert len(odd.headers["x-request-id"]) == 16


def test_health_needs_no_key_and_readiness_a_place_for_decisions(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    anyone = service.as_(None)
    assert anyone.get("/health/live").json() == {"status": "alive"}
    assert anyone.get("/health/ready").json() == {"model_version": "1", "status": "ready", "degraded": []}
    monkeypatch.setattr(service.log, "ping", _raise(DecisionLogError("gone")))
    assert anyone.get("/health/ready").json()["degraded"] == ["decision_log"]  # the journal is there
    monkeypatch.setattr(service.log, "append", _raise(DecisionLogError("gone")))
    monkeypatch.setattr(service.journal, "append", _raise(DecisionLogError("disk full")))
    problem(service.client.post("/v1/predict", json=row(1)), 503)
    assert "cannot be kept" in problem(anyone.get("/health/ready"), 503)["detail"]
    assert anyone.get("/health/live").status_code == 200


def test_a_log_that_hangs_does_not_hang_readiness(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr("fraudml.service.health.READY_WITHIN_S", 0.01)
    monkeypatch.setattr(service.log, "ping", lambda: answered.wait(30))
    try:
        assert service.as_(None).get("/health/ready").json()["degraded"] == ["decision_log"]
    finally:
        answered.set()


def test_a_log_that_hangs_is_asked_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, asked = threading.Event(), threading.Semaphore(0)
    monkeypatch.setattr("fraudml.service.health.READY_WITHIN_S", 0.01)

    def hang() -> None:
        asked.release()
        answered.wait(30)

    monkeypatch.setattr(service.log, "ping", hang)
    try:
        for _ in range(3):
            assert service.as_(None).get("/health/ready").json()["degraded"] == ["decision_log"]
        assert asked.acquire(timeout=30)
        assert not asked.acquire(blocking=False)
    finally:
        answered.set()


def test_a_service_whose_threads_have_ended_is_not_ready(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.client.post("/v1/predict", json=row(1))
    ended = threading.Thread()
    monkeypatch.setattr(service.state.pipeline, "_threads", [*service.state.pipeline._threads, ended])
    detail = problem(service.as_(None).get("/health/ready"), 503)["detail"]
    assert detail == "the service's threads have ended; restart it"
    assert service.as_(None).get("/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json"])
def test_what_is_free_on_this_machine_wants_a_key_through_a_proxy(shared: Service, path: str) -> None:
    anyone = shared.as_(None)
    assert anyone.get(path).status_code == 200
    proxied = {"X-Forwarded-For": "127.0.0.1"}
    problem(anyone.get(path, headers=proxied), 401)
    problem(anyone.get(path, headers=proxied | {"X-API-Key": shared.tokens["score"]}), 403)
    assert anyone.get(path, headers=proxied | {"X-API-Key": shared.tokens["read"]}).status_code == 200


def test_metrics_count_what_happened(service: Service) -> None:
    service.client.post("/v1/predict", json=row(9))
    service.client.post("/v1/predict", json=row(8, amount=900.0))
    service.client.post("/v1/predict", json=row(8, amount=1.0))
    service.client.post("/v1/predict", json={})
    service.as_("label").post("/v1/labels", json={"transaction_id": "t9", "is_fraud": True})
    service.client.get("/no/such/path")
    text = service.client.get("/metrics").text
    for line in (
        'fraud_decisions_total{action="approve",arm="champion",model="fraud",version="1"} 1.0',
        'fraud_predictions_total{label="fraud",model="fraud"} 1.0',
        'fraud_prediction_latency_seconds_count{route="predict"} 2.0',
        "fraud_late_total 1.0",
        'fraud_rejected_total{reason="invalid"} 1.0',
        'fraud_rejected_total{reason="conflict"} 1.0',
        'fraud_labels_total{outcome="recorded"} 1.0',
        'fraud_stage_seconds_count{stage="model"} 2.0',
        'fraud_http_requests_total{route="/v1/predict",status="422"} 1.0',
        'fraud_http_requests_total{route="unmatched",status="404"} 1.0',
        'fraud_model_info{model="fraud",version="1"} 1.0',
    ):
        assert line in text


def test_the_documented_examples_work(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    admin = service.as_("admin")
    bodies = {
        path: operations["post"]["requestBody"]["content"]["application/json"]["example"]
        for path, operations in document["paths"].items()
        if "requestBody" in operations.get("post", {})
    }
    infer = "/v2/models/{model_name}/infer"
    assert {path for path in bodies if path.startswith("/v1/")} == {
        *("/v1/predict", "/v1/batch-predict", "/v1/explain", "/v1/labels")
    }
    for parameter in document["paths"][infer]["post"]["parameters"]:
        infer_path = infer.replace(f"{{{parameter['name']}}}", parameter["example"])
    assert admin.post(infer_path, json=bodies[infer]).status_code == 200
    for path in ("/v1/predict", "/v1/batch-predict", "/v1/explain", "/v1/labels"):
        response = admin.post(path, json=bodies[path])
        assert response.status_code == 200, (path, response.text)
        assert response.json().get("failed", 0) == 0
    parameter = document["paths"]["/v1/decisions/{transaction_id}"]["get"]["parameters"][0]
    assert admin.get(f"/v1/decisions/{parameter['example']}").status_code == 200
    assert "-d &#39;{" in admin.get("/docs").text


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()  # it also writes what JSON forbids: NaN, Infinity, lone surrogates


# Any bytes at all, and JSON that is nearly right.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
near_rows = st.dictionaries(st.sampled_from([*row(1), "transaction_id", "is_fraud", "known_at"]), values)
bodies = st.one_of(
    st.binary(max_size=300),
    values.map(repr).map(lambda text: text.encode("utf-8", "replace")),
    near_rows.map(lambda changes: _json(row(1) | changes)),
    near_rows.map(_json),
    st.lists(near_rows | values, max_size=3).map(lambda rows: _json({"transactions": rows})),
    st.lists(near_rows | values, max_size=3).map(lambda rows: _json({"labels": rows})),
)


@given(path=st.sampled_from(["/v1/predict", "/v1/batch-predict", "/v1/explain", "/v1/labels"]), body=bodies)
@settings(max_examples=120)
def test_no_body_is_a_failure_of_ours(shared: Service, path: str, body: bytes) -> None:
    response = shared.as_("admin").post(path, content=body)
    assert response.status_code in {200, 404, 409, 422}
    if response.status_code != 200:
        problem(response, response.status_code)


@given(path=st.text(max_size=40), query=st.text(max_size=20))
@settings(max_examples=40)
def test_no_path_is_a_failure_of_ours(shared: Service, path: str, query: str) -> None:
    encoded = "".join(f"%{byte:02x}" for byte in path.encode("utf-8", "surrogatepass"))
    for prefix in ("/", "/v1/decisions/", "/v1/"):
        response = shared.as_("admin").get(prefix + encoded, params={"top": query.encode("utf-8", "replace")})
        assert response.status_code in {200, 404, 405, 422}


def test_the_schema_in_use_is_the_documented_one(shared: Service) -> None:
    properties = shared.client.get("/openapi.json").json()["components"]["schemas"]["Transaction"]["properties"]
    assert set(properties) == set(row(1))
    assert SCHEMA.id_column in properties
