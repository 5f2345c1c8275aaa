"""Whose transactions are in state already learns since when: a process may have ended before it logged them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from fraudml.adapters.connections import redis
from fraudml.adapters.online.redis import RedisOnlineStore
from fraudml.adapters.online.redis.calls import KEPT_MS, Call, Calls
from fraudml.adapters.online.redis.link import Link
from tests.support.scoring import FEATURES, transaction
from tests.support.servers.redis import RedisServer

TIMEOUT_MS = 10_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def url(server: RedisServer) -> str:
    with server.client() as client:
        client.flushall()
    return server.url


def store(url: str) -> RedisOnlineStore:
    made = RedisOnlineStore(FEATURES, redis.connector(url, TIMEOUT_MS), timeout_ms=TIMEOUT_MS)
    if made.lost():
        made.loaded()
    return made


def test_the_first_time_counts_however_often_it_is_given_again(url: str) -> None:
    before_us = time.time_ns() // 1_000
    first = store(url).read_then_update([transaction(1), transaction(2)], trace=True)
    between_us = time.time_ns() // 1_000
    second = store(url).read_then_update([transaction(2), transaction(3)], trace=True)
    third = store(url).read_then_update([transaction(n) for n in (4, 3, 2, 1)], trace=True)
    assert first.entered_us is None
    assert second.entered_us is not None
    assert third.entered_us is not None
    assert before_us <= second.entered_us[0] < between_us
    assert second.entered_us[1] == third.entered_us[0] == 0
    assert third.entered_us[1] >= between_us
    assert third.entered_us[2] == third.entered_us[3] == second.entered_us[0]


def test_batches_of_several_calls_are_put_together(url: str) -> None:
    batch = [transaction(n, customer=f"c{n % 7}") for n in range(2_500)]
    store(url).read_then_update(batch[1_990:2_010], trace=True)
    entered_us = store(url).read_then_update(batch, trace=True).entered_us
    assert entered_us is not None
    assert np.flatnonzero(entered_us).tolist() == list(range(1_990, 2_010))


def test_where_many_are_out_of_order_too(url: str) -> None:
    batch = [transaction(n) for n in range(300, 0, -1)]
    store(url).read_then_update(batch[:10], trace=True)
    entered_us = store(url).read_then_update(batch, trace=True).entered_us
    assert entered_us is not None
    assert np.flatnonzero(entered_us).tolist() == list(range(10))


def test_who_only_reads_leaves_no_note(url: str, server: RedisServer) -> None:
    made = store(url)
    made.read([transaction(1)])
    with server.client() as client:
        assert not list(client.scan_iter(match="*:calls"))
        made.read_then_update([transaction(1)], trace=True)
        (key,) = client.scan_iter(match="*:calls")
        assert client.xlen(key) == 1
        assert 0 < client.pttl(key) <= KEPT_MS


def test_calls_that_are_not_traced_leave_none_and_read_none(url: str) -> None:
    made = store(url)
    made.read_then_update([transaction(1)])
    assert made.read_then_update([transaction(1)], trace=True).entered_us is None
    assert made.read_then_update([transaction(1)]).entered_us is None


def test_notes_that_cannot_be_read_cost_nothing_else(url: str, server: RedisServer) -> None:
    made = store(url)
    made.read_then_update([transaction(1)], trace=True)
    with server.client() as client:
        (key,) = client.scan_iter(match="*:calls")
        client.set(key, "of another type")
    read = made.read_then_update([transaction(1), transaction(2)], trace=True)
    assert read.entered_us is None
    assert not np.isnan(read.values).all()


def test_old_notes_are_dropped(url: str, server: RedisServer) -> None:
    with server.client() as client, closing(client):
        mark, ids = b"fraudml:{x:epoch:0}", np.zeros(1, "V6")
        calls, later_us = Calls(Link(redis.connector(url, TIMEOUT_MS), 10.0)), (KEPT_MS + 60_000) * 1_000
        for number in range(1_000):
            now_us = time.time_ns() // 1_000 + (later_us if number == 999 else 0)
            for command in calls.note(mark, Call(ids, now_us)):
                client.execute_command(*command.arguments)
        assert client.xlen(mark + b":calls") <= 100
