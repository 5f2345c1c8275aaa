"""The short way of a prediction, past ASGI: nobody can tell it from the ordinary one, but by its speed."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fraudml.errors import DeadlineExceeded, DecisionLogError
from fraudml.service.predict import ShortWay
from tests.support.scoring import row
from tests.support.server import Service

SHORT, ORDINARY = "/v1/predict", "/v1/predict?"  # whatever has a query is unusual
_OWN = re.compile(rb"(?m)^(date|x-request-id|server-timing): .*\r\n|\"request_id\":\"\w+\"")
_TIMES = re.compile(rb"dur=[0-9.]+")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request that was whole in time was taken, one after the other."""
    found = []
    take = ShortWay.take

    def told(*args: Any) -> bool:
        found.append(take(*args))
        return found[-1]

    monkeypatch.setattr(ShortWay, "take", told)
    return found


@pytest.fixture
def service(tmp_path: Path, taken: list[bool]) -> Iterator[Service]:
    running = Service(tmp_path, server_timing=True)
    # so that the keys are known
    assert running.client.post("/v1/predict", json=row(0, tx_id="first")).status_code == 200
    taken.clear()
    yield running
    running.stop()


def request(service: Service, path: str, body: bytes, *headers: str, version: str = "1.1", key: str = "") -> bytes:
    key = key or f"X-API-Key: {service.tokens['score']}"
    lines = [f"POST {path} HTTP/{version}", "Host: here", f"Content-Length: {len(body)}", key, *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def say(service: Service, *writes: bytes) -> bytes:
    """All that comes back until the service closes the connection, as it is asked to."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        for write in writes:
            connection.sendall(write)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def both(service: Service, taken: list[bool], body: Any, *headers: str, short: bool = True) -> bytes:
    """The answer to a request, which is the same on both ways but for what differs between any two requests."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answers = [say(service, request(service, path, raw, "Connection: close", *headers)) for path in (SHORT, ORDINARY)]
    assert taken == [short]
    taken.clear()
    one, other = (_OWN.sub(b"", answer) for answer in answers)
    assert sorted(one.split(b"\r\n")) == sorted(other.split(b"\r\n"))
    return answers[0]


def test_answers_are_the_same_to_the_byte(service: Service, taken: list[bool]) -> None:
    new = both(service, taken, row(1), "X-Request-ID: mine-1")
    assert new.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nx-request-id: mine-1\r\n" in new
    timings = re.search(rb"\r\nserver-timing: (.*)\r\n", new)
    assert timings is not None
    names = b"decode;dur=, queue;dur=, find;dur=, state;dur=, model;dur=, log;dur=, total;dur="
    assert _TIMES.sub(b"dur=", timings[1]) == names
    bearer = f"Authorization: Bearer {service.tokens['score']}"
    assert both(service, taken, row(1), bearer, "Content-Type: application/json").startswith(b"HTTP/1.1 200")
    assert len(service.store.events) == 2


def test_a_conflict_is_the_same(service: Service, taken: list[bool]) -> None:
    both(service, taken, row(1))
    assert both(service, taken, row(1, amount=11.0)).startswith(b"HTTP/1.1 409 Conflict\r\n")


@pytest.mark.parametrize(
    "error", [DecisionLogError("secret"), ZeroDivisionError("secret"), DeadlineExceeded("no decision in time")]
)
def test_what_fails_in_the_pipeline_is_the_same(
    service: Service, taken: list[bool], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(batch: Any) -> Any:
        raise error

    monkeypatch.setattr(service.state.scorer, "decide", fail)
    answer = both(service, taken, row(1))
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1\r\n" in answer
    assert b"secret" not in answer
    text = service.client.get("/metrics").text
    assert f'fraud_errors_total{{kind="{type(error).__name__}"}} 2.0' in text
    assert 'fraud_http_requests_total{route="/v1/predict",status="503"} 2.0' in text


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (row(1, amount="much"), (), 422),
        (b"{", (), 422),
        (b"", (), 422),
        (row(1), ("Content-Type: text/plain",), 415),
        (row(1), ("X-Request-ID: a", "X-Request-ID: b"), 200),
        (row(1), ("Content-Type: application/json; charset=utf-8",), 200),
    ],
)
def test_the_unusual_is_left_to_the_ordinary_way(
    service: Service, taken: list[bool], body: Any, headers: tuple[str, ...], status: int
) -> None:
    assert both(service, taken, body, *headers, short=False).startswith(b"HTTP/1.1 %d" % status)


def test_a_key_that_may_not_or_is_not_known_is_left_to_the_ordinary_way(service: Service, taken: list[bool]) -> None:
    for key, status in (
        ("X-API-Key: fml_no", b"401"),
        (f"X-API-Key: {service.tokens['read']}", b"403"),
        ("X: y", b"401"),
    ):
        answer = say(service, request(service, SHORT, b"{}", "Connection: close", key=key))
        assert answer.startswith(b"HTTP/1.1 " + status)
    assert taken == [False] * 3


def test_who_does_not_fit_in_the_queue_is_told_so(service: Service, taken: list[bool]) -> None:
    service.state.pipeline._most_waiting = 0
    assert both(service, taken, row(1), short=False).startswith(b"HTTP/1.1 503")
    assert 'fraud_shed_total{reason="queue_full"} 2.0' in service.client.get("/metrics").text


def test_a_defect_before_the_pipeline_is_left_to_the_ordinary_way(
    service: Service, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(raw: bytes) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(service.state.decoder, "decode", fail)
    answer = both(service, taken, row(1), short=False)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"secret" not in answer


def test_a_body_beyond_the_limit_is_refused_however_it_came(service: Service, taken: list[bool]) -> None:
    service.state.bodies.limit = 100
    assert both(service, taken, row(1), short=False).startswith(b"HTTP/1.1 413")


def test_a_rate_is_kept_on_both_ways_together(tmp_path: Path, taken: list[bool]) -> None:
    service = Service(tmp_path, rate_limit_per_s=0.001)  # one now, the next in a quarter of an hour
    try:
        assert service.as_("label").post("/v1/labels", json={}).status_code == 422  # now the keys are known
        first = say(service, request(service, SHORT, json.dumps(row(1)).encode(), "Connection: close"))
        second = say(service, request(service, SHORT, json.dumps(row(2)).encode(), "Connection: close"))
    finally:
        service.stop()
    assert (first[9:12], second[9:12]) == (b"200", b"429")
    assert taken == [True, False]  # the short way counts, and leaves it to the other to refuse


def test_a_body_in_pieces_arrives_all_the_same(service: Service, taken: list[bool]) -> None:
    whole = request(service, SHORT, json.dumps(row(1)).encode(), "Connection: close")
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        head, body = whole.split(b"\r\n\r\n", 1)
        connection.sendall(head + b"\r\n\r\n" + body[:5])
        # an answer on another connection: the first piece was read before
        other = request(service, SHORT, json.dumps(row(2)).encode(), "Connection: close")
        assert say(service, other).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(body[5:])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
    assert taken == [True]  # that of the other connection


def test_old_clients_and_pipelined_requests(service: Service, taken: list[bool]) -> None:
    old = say(service, request(service, SHORT, json.dumps(row(1)).encode(), version="1.0"))
    assert old.startswith(b"HTTP/1.1 200 OK")
    assert taken == []
    several = [request(service, SHORT, json.dumps(row(n)).encode()) for n in (2, 3)]
    last = request(service, SHORT, json.dumps(row(4)).encode(), "Connection: close")
    answers = say(service, b"".join([*several, last]))
    assert re.findall(rb'"transaction_id":"(t\d)"', answers) == [b"t2", b"t3", b"t4"]
    assert taken == [True]  # those behind it wait in uvicorn's own queue


@pytest.mark.parametrize(
    "offer", ["Upgrade: h2c", "upgrade:h2c \r\nHTTP2-Settings: AAEAAEAA", "HTTP2-Settings: A\r\nUPGRADE: h2c"]
)
@pytest.mark.parametrize("path", [SHORT, ORDINARY, "/v1/batch-predict"])
def test_an_offer_of_http_2_is_ignored(service: Service, path: str, offer: str) -> None:
    """Java's own client makes it by default."""
    body = json.dumps({"transactions": [row(1)]} if "batch" in path else row(1)).encode()
    answer = say(service, request(service, path, body, "Connection: Upgrade, HTTP2-Settings, close", offer))
    assert answer.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("path", "expect", "status"),
    [(SHORT, "Expect: 100-continue", b"422"), ("/v1/no-such-route", "Accept: */*", b"404")],
    ids=["body-read", "body-unread"],
)
def test_no_byte_of_a_body_is_taken_for_an_offer(service: Service, path: str, expect: str, status: bytes) -> None:
    """Were some removed, the server would take the beginning of the next request for the end of this one."""
    body = b"{\r\nupgrade: h2c\r\n}"
    head = request(service, path, body, expect).removesuffix(body)
    after = request(service, SHORT, json.dumps(row(1)).encode(), "Connection: close")
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head)
        answers = connection.recv(65_536)  # it has read the head and nothing more
        connection.sendall(body)
        connection.sendall(after)
        answers += b"".join(iter(lambda: connection.recv(65_536), b""))
    assert [found for found in re.findall(rb"HTTP/1\.1 (\d+)", answers) if found != b"100"] == [status, b"200"]


def held(service: Service, half: str, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Hold a half of the scorer: what tells that a batch has come to it, and what lets it go on."""
    entered, release = threading.Event(), threading.Event()
    real = getattr(service.state.scorer, half)

    def slow(batch: Any) -> Any:
        entered.set()
        assert release.wait(30)
        return real(batch)

    monkeypatch.setattr(service.state.scorer, half, slow)
    return entered, release


def test_who_hangs_up_is_decided_all_the_same(
    service: Service, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = held(service, "decide", monkeypatch)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(request(service, SHORT, json.dumps(row(1)).encode()))
        assert entered.wait(30)
    assert service.as_("read").get("/health/live").status_code == 200  # though a batch is under way
    release.set()
    assert service.client.post("/v1/predict", json=row(2)).status_code == 200
    assert set(service.log.find(["t1", "t2"])) == {"t1", "t2"}


def test_stopping_waits_for_the_answer(service: Service, taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release = held(service, "commit", monkeypatch)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(request(service, SHORT, json.dumps(row(1)).encode()))
        assert entered.wait(30)
        service._server.should_exit = True
        release.set()
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert taken == [True]
