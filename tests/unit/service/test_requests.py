"""Every request has a line where that is wanted, and nobody waits for it."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

import pytest

from fraudml.monitoring.metrics import Metrics
from fraudml.service import requests
from fraudml.service.requests import Requests

FACTS = {"request_id": "r1", "key": "shop", "transaction_id": "t1"}


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def lines(self) -> list[dict[str, Any]]:
        os.close(self.writing)
        return self.rest()

    def rest(self) -> list[dict[str, Any]]:
        with os.fdopen(self.reading, "rb") as opened:
            return [json.loads(line) for line in opened]


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def test_a_line_says_what_was_asked_and_nothing_of_it_but_its_id(pipe: Pipe) -> None:
    told = Requests(Metrics(), pipe.writing)
    told.finish("POST", "/v1/predict", FACTS, 200, 0.0012)
    told.finish("GET", "/metrics", {"request_id": "r2"}, 200, 0.5)
    told.close()
    first, second = pipe.lines()
    assert first.pop("time").endswith("Z")
    assert first == {
        **{"level": "info", "logger": "fraudml.service", "message": "request", "method": "POST"},
        **{"route": "/v1/predict", "status": 200, "ms": 1.2, **FACTS},
    }
    assert "key" not in second


def test_requests_are_counted_by_the_name_of_their_key() -> None:
    told = Requests(Metrics())
    told.finish("POST", "/v1/predict", FACTS, 200, 0.001)
    told.finish("POST", "/v1/predict", {"request_id": "r2"}, 401, 0.001)
    text = told.metrics.text().decode()
    assert 'fraud_api_key_requests_total{key="shop"} 1.0' in text
    assert 'fraud_http_requests_total{route="/v1/predict",status="401"} 1.0' in text


def test_more_names_of_keys_than_can_be_told_apart_count_together() -> None:
    told = Requests(Metrics())
    for number in range(300):
        told.finish("POST", "/v1/predict", {"request_id": "r", "key": f"key-{number}"}, 200, 0.001)
    text = told.metrics.text().decode()
    assert text.count("fraud_api_key_requests_total{") == 201
    assert 'fraud_api_key_requests_total{key="other"} 100.0' in text


def test_nobody_waits_for_who_does_not_read(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(requests, "MOST_WAITING", 100)
    monkeypatch.setattr(requests, "STOP_S", 30.0)
    told = Requests(Metrics(), pipe.writing)
    with caplog.at_level(logging.WARNING, "fraudml.service"):
        for _ in range(5_000):  # a pipe holds 64 KB, and nobody reads
            told.finish("POST", "/v1/predict", FACTS, 200, 0.001)
        read: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: read.extend(pipe.rest()))
        reader.start()
        told.close()
    os.close(pipe.writing)
    reader.join()
    assert 100 <= len(read) < 5_000
    assert "requests were dropped" in caplog.text


def test_who_read_the_lines_may_be_gone(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    told = Requests(Metrics(), pipe.writing)
    os.close(pipe.reading)
    with caplog.at_level(logging.WARNING, "fraudml.service"):
        told.finish("POST", "/v1/predict", FACTS, 200, 0.001)
        told.close()
    assert "requests are not logged any more" in caplog.text
    os.close(pipe.writing)
