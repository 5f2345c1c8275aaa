"""The load generator against servers that answer, refuse, stall and hang up."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest

from fraudml.cli.bench import driver, load, results
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.record import Recorded
from fraudml.cli.bench.requests import Requests, Stamp
from fraudml.cli.bench.results import Figures
from fraudml.errors import FraudmlError
from tests.support.answering import Answering, answer, answering

STAMP = Stamp(b'{"id":"run-', b'","time":')
REQUESTS = Requests("/v1/predict", [b"}", b',"a":1}'], {"Authorization": "Bearer me"}, STAMP)


def plan(server: Answering, **changes: Any) -> Plan:
    values: dict[str, Any] = {"connections": 2, "seconds": 0.3, "spin": False, "drain_s": 5.0}
    return Plan("127.0.0.1", server.port, **(values | changes))


def loaded(planned: Plan, requests: Requests = REQUESTS) -> tuple[Recorded, Figures]:
    recorded = driver.run(planned, requests)
    return recorded, results.figures(planned, recorded, requests.batch)


def latencies(recorded: Recorded) -> Any:
    return np.frombuffer(recorded.latency)


def test_a_closed_loop_sends_new_transactions_for_as_long_as_told() -> None:
    with answering() as server:
        recorded, figures = loaded(plan(server, connections=3))
    assert len(recorded.status) // 2 == len(server.bodies) > 3
    assert figures.errors == {}
    assert recorded.most_connections == 3
    assert len({body["id"] for body in server.bodies}) == len(server.bodies)
    assert [body.get("a") for body in server.bodies[:4]].count(1) == 2  # the bodies take turns
    assert b"Authorization: Bearer me" in server.heads[0]
    assert figures.throughput_per_s == pytest.approx(len(server.bodies) / 0.3, abs=20)


def test_an_open_loop_sends_as_many_as_were_due_whatever_comes_back() -> None:
    with answering() as server:
        recorded, figures = loaded(plan(server, rate=200.0, seconds=0.5, poisson=True))
    assert len(server.bodies) == 100
    assert len(recorded.status) // 2 == 100
    assert figures.errors == {}


@pytest.mark.parametrize("spin", [True, False])
def test_a_stall_shows_in_every_request_that_came_due_while_it_lasted(spin: bool) -> None:
    """60 requests at 200 a second come due while nothing is answered: had each waited for the one before, a single
    latency would tell of it."""
    with answering(hold_from=40, hold_until=100) as server:
        recorded, figures = loaded(plan(server, rate=200.0, seconds=0.75, spin=spin))
    assert len(server.bodies) == 150
    stalled = np.sort(latencies(recorded))[-60:]
    fair = np.arange(60) / 200  # of the last one 0, of the first one 0.3 s
    assert (stalled >= fair - 0.01).all()
    assert (figures.latency_ms["max"] or 0) > 250
    assert np.percentile(latencies(recorded), 95) > 0.2
    assert recorded.most_connections > 50  # what came due got connections of its own


def test_what_waits_for_a_connection_has_its_latency_from_when_it_was_due() -> None:
    """There is one connection, so most of what comes due during the stall cannot even be sent."""
    with answering(hold_from=10, hold_s=0.2) as server:
        recorded, _ = loaded(plan(server, rate=400.0, seconds=0.25, connections=1, most_connections=1))
    assert len(server.bodies) == len(recorded.status) // 2 == 100
    assert recorded.most_connections == 1
    assert recorded.most_waiting > 50
    waited = latencies(recorded)[np.argsort(np.frombuffer(recorded.started))]
    assert (waited[10:80] >= 0.19 - np.arange(70) / 400).all()


def test_what_could_not_be_sent_is_counted_and_has_waited_until_the_end() -> None:
    with answering(hold_from=10) as server:
        planned = plan(server, rate=200.0, seconds=0.3, most_connections=4, drain_s=0.2)
        recorded, figures = loaded(planned)
    assert len(server.bodies) == 14
    assert recorded.errors == {load.NOT_ANSWERED: 4, load.NOT_SENT: 46}
    assert len(recorded.status) // 2 == figures.requests == 60
    assert (figures.latency_ms["max"] or 0) > 400  # the first one that was held: since 0.05 s, until 0.5 s
    assert recorded.most_waiting == 46


def test_statuses_are_counted_with_a_sample_and_only_good_answers_are_throughput() -> None:
    said = [answer(), answer(503, b'{"title":"busy"}'), answer(), answer(422, b'{"title":"wrong"}')]
    with answering(lambda number: said[number % 4]) as server:
        recorded, figures = loaded(plan(server, connections=1, rate=100.0, seconds=0.2))
    assert len(server.bodies) == 20
    assert figures.errors == {"422": 5, "503": 5}
    assert figures.shed == 5
    assert figures.samples["503"] == '{"title":"busy"}'
    assert figures.throughput_per_s * 0.2 == pytest.approx(10, abs=1)
    assert len(latencies(recorded)) == 20


def test_good_answers_that_lack_what_was_expected_are_told() -> None:
    requests = Requests(REQUESTS.path, REQUESTS.bodies, stamp=STAMP, expected=b'"degraded":[]')
    said = [answer(body=b'{"degraded":[]}'), answer(body=b'{"degraded":["model"]}')]
    with answering(lambda number: said[number % 2]) as server:
        _, figures = loaded(plan(server, connections=1, rate=100.0, seconds=0.2), requests)
    assert figures.errors == {"degraded": 10}
    assert "model" in figures.samples["degraded"]


def test_a_server_that_hangs_up_is_an_error_and_the_load_goes_on() -> None:
    with answering(lambda number: None if number == 3 else answer()) as server:
        recorded, figures = loaded(plan(server, connections=1, rate=100.0, seconds=0.2))
    assert len(server.bodies) == len(recorded.status) // 2 == 20
    assert sum(figures.errors.values()) == 1


def test_a_connection_that_the_server_closes_in_order_is_no_error() -> None:
    with answering(lambda number: answer(head="Connection: close\r\n")) as server:
        _, closed = loaded(plan(server, connections=2))
        _, opened = loaded(plan(server, connections=2, rate=100.0, seconds=0.2))
    assert closed.errors == opened.errors == {}
    assert opened.requests == 20


def test_answers_without_a_length_are_refused_with_the_reason() -> None:
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with answering(lambda number: said) as server:
        _, figures = loaded(plan(server, connections=1, rate=100.0, seconds=0.05))
    assert set(figures.errors) == {"the answer is no HTTP/1.1 with a Content-Length"}


def test_a_batch_is_one_request_and_its_failed_items_are_counted() -> None:
    requests = Requests("/v1/batch-predict", REQUESTS.bodies, stamp=STAMP, batch=5)
    body = b'{"results":[' + b"1," * 100_000 + b'1],"scored":4,"failed":1}'
    with answering(lambda number: answer(body=body)) as server:
        _, figures = loaded(plan(server, connections=1, rate=50.0, seconds=0.2), requests)
    assert [len(each["transactions"]) for each in server.bodies] == [5] * 10
    assert len({item["id"] for each in server.bodies for item in each["transactions"]}) == 50
    assert figures.errors == {"failed items": 10}
    assert figures.transactions_per_s == pytest.approx(5 * figures.throughput_per_s)


def test_the_load_runs_in_a_process_of_its_own_and_says_how_far_it_is() -> None:
    told: list[tuple[int, int | None]] = []
    with answering() as server:
        planned = plan(server, rate=50.0, seconds=1.0)
        recorded = driver.drive(planned, REQUESTS, progress=lambda done, total: told.append((done, total)))
    assert len(recorded.status) // 2 == 50
    assert told
    assert all(total == 50 for _, total in told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_nobody_there_is_told_with_what_to_look_at() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(FraudmlError, match=rf"cannot connect to 127.0.0.1:{port}.*is the service running"):
        driver.drive(Plan("127.0.0.1", port, 1, 0.1), REQUESTS)


def test_poisson_arrivals_are_the_same_for_the_same_seed() -> None:
    first, again, other = (load.arrivals(Plan("", 0, 1, 10.0, rate=100.0, poisson=True, seed=n)) for n in (1, 1, 2))
    assert (first == again).all()
    assert not np.array_equal(first, other)
    assert np.diff(first).std() == pytest.approx(0.01, rel=0.2)  # exponential gaps: as wide as their mean
