"""A server that fails is left alone for a while, and asked by one again."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fraudml.adapters.connections.guard import LEAST_S, MOST_S, Guard
from fraudml.errors import StoreError


class Gone(Exception):
    pass


class Refused(Exception):
    pass


class Server:
    """A client that fails as the test says, and counts what it was asked."""

    def __init__(self) -> None:
        self.now = 100.0
        self.error: Exception | None = None
        self.asked = self.connected = 0
        self.closed = False

    def connect(self) -> Any:
        self.connected += 1
        if isinstance(self.error, Gone):
            raise self.error
        return self

    def ask(self) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return "answer"

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def guard(server: Server) -> Guard:
    return Guard("Redis", server.connect, (Gone,), (Refused,), clock=lambda: server.now, chance=lambda: 1.0)


def fails(guard: Guard, what: str = "does not answer: away") -> None:
    with pytest.raises(StoreError, match=what):
        guard(Server.ask)


def test_it_connects_once_and_not_before_it_is_asked(server: Server, guard: Guard) -> None:
    guard.close()
    assert (server.connected, server.closed) == (0, False)
    assert [guard(Server.ask) for _ in range(3)] == ["answer"] * 3
    assert (server.connected, guard.up) == (1, True)
    guard.close()
    assert server.closed


def test_it_is_left_alone_for_longer_each_time(server: Server, guard: Guard) -> None:
    assert guard(Server.ask) == "answer"
    server.error = Gone("away")
    expected = LEAST_S
    for _ in range(12):
        fails(guard)
        assert not guard.up
        asked = server.asked
        server.now += expected - 0.001
        fails(guard, "is not asked for a moment, as it does not answer: away")
        assert server.asked == asked
        server.now += 0.002
        expected = min(2 * expected, MOST_S)
    server.error = None
    server.now += MOST_S
    assert guard(Server.ask) == "answer"
    assert guard.up
    server.error = Gone("away")
    fails(guard)
    server.now += LEAST_S
    server.error = None
    assert guard(Server.ask) == "answer"  # it begins anew after it worked


def test_processes_do_not_come_back_at_the_same_moment(server: Server) -> None:
    guard = Guard("Redis", server.connect, (Gone,), clock=lambda: server.now, chance=lambda: 0.0)
    server.error = Gone("away")
    fails(guard)
    server.error = None
    server.now += LEAST_S / 2
    assert guard(Server.ask) == "answer"


def test_what_it_refuses_keeps_nobody_from_asking(server: Server, guard: Guard) -> None:
    server.error = Refused("Command # 1 (SET secret) of pipeline caused error: out of memory")
    for _ in range(3):
        fails(guard, "^Redis refused: out of memory$")
    assert (server.asked, guard.up) == (3, True)


def test_one_call_tries_again_and_others_do_not_wait_for_it(server: Server, guard: Guard) -> None:
    server.error = Gone("away")
    fails(guard)
    server.now += MOST_S
    entered, gate = threading.Event(), threading.Event()

    def slow(client: Server) -> str:
        entered.set()
        assert gate.wait(30)
        return "late"

    server.error = None
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(guard, slow)
        assert entered.wait(30)
        fails(guard, "not asked for a moment")
        gate.set()
        assert answer.result(30) == "late"
    assert guard(Server.ask) == "answer"


def test_a_defect_does_not_leave_others_waiting_for_ever(server: Server, guard: Guard) -> None:
    server.error = Gone("away")
    fails(guard)
    server.now += MOST_S
    server.error = KeyError("defect")
    with pytest.raises(KeyError):
        guard(Server.ask)
    server.now += MOST_S
    server.error = None
    assert guard(Server.ask) == "answer"


def test_it_says_so_once(server: Server, guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fraudml.adapters.connections.guard")
    server.error = Gone("away")
    for _ in range(3):
        fails(guard)
        server.now += MOST_S
    server.error = None
    guard(Server.ask)
    guard(Server.ask)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [("WARNING", "Redis does not answer: away"), ("INFO", "Redis works again")]
