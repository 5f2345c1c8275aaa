"""Keys that are read again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from fraudml.decisions.keys import ApiKey, Scope, new_key
from fraudml.errors import DecisionLogError
from fraudml.service import auth
from fraudml.service.auth import Keyring


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(auth, "time", made)
    return made


class FakeKeys:
    """A store of one key; ``error`` is raised instead, and while it is held a read waits for ``gate``."""

    def __init__(self) -> None:
        self.token, self.key = new_key("shop", [Scope.score])
        self.stored = [self.key]
        self.error: Exception | None = None
        self.reads = 0
        self.held = False
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)

    def all(self) -> list[ApiKey]:
        self.reads += 1
        found = list(self.stored)
        self.entered.release()
        if self.held:
            assert self.gate.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        return found

    def add(self, key: ApiKey) -> None:
        raise NotImplementedError

    def revoke(self, name: str) -> None:
        raise NotImplementedError


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


async def begun(keys: FakeKeys) -> None:
    assert await asyncio.to_thread(keys.entered.acquire, timeout=30)


def test_only_one_request_waits_for_a_read_and_others_go_on(clock: Clock) -> None:
    async def story() -> None:
        keys = FakeKeys()
        ring = Keyring(keys)
        assert await asyncio.gather(*(ring.find(keys.token) for _ in range(20))) == [keys.key] * 20
        assert keys.reads == 1  # also before any is known
        await begun(keys)
        clock.now += 1.9
        assert await ring.find(keys.token) == keys.key
        assert keys.reads == 1
        clock.now += 0.2
        keys.stored, keys.held = [], True
        first = asyncio.create_task(ring.find(keys.token))
        await begun(keys)
        for _ in range(20):
            assert await ring.find(keys.token) == keys.key
        assert (keys.reads, first.done()) == (2, False)
        keys.gate.release()
        assert await first is None
        assert await ring.find(keys.token) is None
        assert keys.reads == 2

    play(story())


def test_a_read_that_hangs_is_the_only_one_and_counts_when_it_ends(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auth, "READ_WITHIN_S", 0.01)
    caplog.set_level(logging.INFO, "fraudml.service.auth")

    async def story() -> None:
        keys = FakeKeys()
        keys.held = True
        ring = Keyring(keys)
        for _ in range(3):
            with pytest.raises(DecisionLogError, match="no answer in time"):
                await ring.find(keys.token)
        assert keys.reads == 1
        keys.gate.release()
        monkeypatch.setattr(auth, "READ_WITHIN_S", 30)
        assert await ring.find(keys.token) == keys.key
        monkeypatch.setattr(auth, "READ_WITHIN_S", 0.01)
        reads, keys.stored = keys.reads, []
        for _ in range(5):
            clock.now += 3
            assert await ring.find(keys.token) == keys.key
        assert keys.reads == reads + 1
        keys.gate.release()
        keys.held = False
        await ring._reading.result(30)
        assert await ring.find(keys.token) is None

    play(story())
    levels = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == auth.__name__]
    assert levels == [
        ("WARNING", "API keys cannot be read, those known stay valid: no answer in time"),
        ("INFO", "API keys can be read again"),
    ]


@pytest.mark.parametrize("error", [DecisionLogError("gone"), KeyError("a defect")])
def test_known_keys_survive_any_error_and_it_is_told_once(
    clock: Clock, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        keys = FakeKeys()
        ring = Keyring(keys)
        keys.error = error
        with pytest.raises(type(error)):
            await ring.find(keys.token)
        keys.error = None
        assert await ring.find(keys.token) == keys.key
        keys.error = error
        reads = keys.reads
        for _ in range(3):
            clock.now += 3
            assert await ring.find(keys.token) == keys.key
            assert await ring.find(keys.token) == keys.key
        assert keys.reads == reads + 3
        clock.now += 3
        keys.error, keys.stored = None, []
        assert await ring.find(keys.token) is None

    play(story())
    (record,) = [r for r in caplog.records if r.name == auth.__name__ and r.levelno == logging.WARNING]
    assert (record.exc_info is not None) is isinstance(error, KeyError)


def test_keyrings_of_several_event_loops_do_not_meet() -> None:
    keys = FakeKeys()
    for _ in range(2):
        ring = Keyring(keys)

        async def story(ring: Keyring = ring) -> None:
            assert await ring.find(keys.token) == keys.key

        play(story())


def test_a_key_ends_by_itself_also_while_keys_cannot_be_read(clock: Clock) -> None:
    keys = FakeKeys()
    token, ending = new_key("ends", [Scope.score], lasts_us=3_600_000_000)
    keys.stored.append(ending)
    keyring = Keyring(keys)

    async def look() -> tuple[bool, bool]:
        found = await keyring.find(token) is not None
        return found, keyring.known(token) is not None

    assert asyncio.run(look()) == (True, True)
    keys.error = DecisionLogError("gone")
    over = msgspec.structs.replace(ending, expires_at_us=ending.created_at_us)
    keyring._keys = {key.token_hash: key for key in (keys.key, over)}
    assert asyncio.run(look()) == (False, False)
