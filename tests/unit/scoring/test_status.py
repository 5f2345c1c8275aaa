"""What a worker, or the monitor, answers to Kubernetes and Prometheus."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from fraudml.errors import ConfigError
from fraudml.monitoring.metrics import Metrics
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.scoring.status import Facts, Heart, StatusServer


class State:
    """What the server asks."""

    stuck = False
    ready = True


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def client(state: State) -> Iterator[httpx.Client]:
    metrics = Metrics()
    StreamMetrics(metrics.collector).lag("transactions", {("transactions", 3): 7})
    server = StatusServer(
        "127.0.0.1", 0, Facts(lambda: state.stuck, lambda: state.ready, metrics.text), "FRAUDML_WORKER_PORT"
    )
    with httpx.Client(base_url=server.address, verify=False) as made:  # noqa: S501 - loopback
        yield made
    server.close()


def test_health_says_whether_it_lives_and_whether_it_works(client: httpx.Client, state: State) -> None:
    assert [client.get(f"/health/{what}").status_code for what in ("live", "ready")] == [200, 200]
    state.ready = False
    assert [client.get(f"/health/{what}").status_code for what in ("live", "ready")] == [200, 503]
    state.stuck = True
    assert client.get("/health/live").json() == {"status": "stuck"}


def test_metrics_have_the_lag_of_each_partition(client: httpx.Client) -> None:
    assert 'fraud_stream_lag_messages{partition="3",topic="transactions"} 7.0' in client.get("/metrics").text
    assert client.get("/").status_code == 404


def test_partitions_that_are_not_ours_any_more_have_no_lag() -> None:
    metrics = Metrics()
    stream = StreamMetrics(metrics.collector)
    stream.lag("transactions", {("transactions", 0): 1, ("transactions", 1): 1})
    stream.lag("labels", {("labels", 0): 2})
    stream.lag("transactions", {("transactions", 1): 5})
    text = metrics.text().decode()
    assert 'partition="0",topic="transactions"' not in text
    assert 'fraud_stream_lag_messages{partition="1",topic="transactions"} 5.0' in text
    assert 'fraud_stream_lag_messages{partition="0",topic="labels"} 2.0' in text


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="FRAUDML_WORKER_PORT"):
            StatusServer("127.0.0.1", port, Facts(lambda: False, lambda: True, lambda: b""), "FRAUDML_WORKER_PORT")


def test_a_heart_is_still_from_its_last_beat_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fraudml.scoring.status.time.monotonic", lambda: now[0])
    heart = Heart()
    now[0] = 107.0
    assert heart.still_s == 7.0
    heart.beat()
    assert heart.still_s == 0.0
