"""A Redis that is emptied while decisions are in journals: they come back, though the log got them after the reload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fraudml.adapters.log.journal import FileJournal
from fraudml.decisions import rebuild
from fraudml.decisions import recorder as recorder_module
from fraudml.decisions.model import Model
from fraudml.decisions.rebuild import ReadHistory, bring_up
from fraudml.decisions.record import Degradation
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.refill import Refiller
from fraudml.decisions.replayed import give_replayed
from fraudml.decisions.scorer import Scorer
from fraudml.errors import OnlineStoreError
from tests.integration import test_redis_outages
from tests.integration.test_redis_outages import DAY_US, is_degraded
from tests.support.scoring import SCHEMA, bundle
from tests.support.servers.redis import RedisServer
from tests.unit.decisions.test_recorder import GoneLog


class Log(GoneLog):
    """One that cannot be read either while it is gone."""

    def replay(self, *args: Any, **options: Any) -> Any:
        self._check()
        return super().replay(*args, **options)


class World(test_redis_outages.World):
    """With a log that can be gone, and a journal."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder, server)
        self.log.close()
        self._folder = folder
        self.start()

    def start(self) -> None:
        """As a service does."""
        self.log: Log = Log(f"sqlite:///{self._folder / 'log.db'}", SCHEMA)
        self.journal = FileJournal(self._folder / "decisions.journal")
        self.recorder = Recorder(self.log, self.journal, keep=True)
        self.recorder.replay()
        self.store = self.another_store()
        bring_up(self.store, self.log, lambda: iter(()), DAY_US)
        self.give = partial(give_replayed, self.recorder, self.store, SCHEMA)
        self.give()
        self.scorer = Scorer(Model(bundle()), self.store, self.log, recorder=self.recorder)

    def close(self) -> None:
        self.recorder.close()
        self.log.close()

    def look(self, history: ReadHistory = lambda: iter(())) -> None:
        Refiller(self.store, self.log, history, DAY_US, give=self.give).check()

    def other_replica_loads(self) -> None:
        store = self.another_store()
        Refiller(store, self.log, lambda: iter(()), DAY_US).check()
        assert not store.lost()

    def empty_while_decisions_are_in_the_journal(self) -> None:
        """Transactions 1 to 5 are decided, and of these 3 to 5 in the journal."""
        self.score(1, 2)
        self.log.gone = True
        self.score(3, 4)
        with self.server.client() as client:
            client.flushall()
        assert is_degraded(self.score(5))
        assert self.recorder.journaled == 3


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rebuild, "COMMIT_S", 0.0)
    monkeypatch.setattr(recorder_module, "PROBE_S", 0.0)  # the log is asked with every commit
    with closing(RedisServer()) as server, closing(World(tmp_path, server)) as world:
        yield world


def test_what_was_journaled_reaches_a_store_that_was_loaded_before_the_log_had_it(world: World) -> None:
    world.empty_while_decisions_are_in_the_journal()
    world.look()
    assert world.store.lost()  # without the log nothing can be loaded
    world.log.gone = False
    world.look()
    assert not world.store.lost()  # from a log without 3 and 4
    (sixth,) = world.score(6)
    assert (sixth.degraded, world.recorder.degraded, len(world.journal)) == ((), False, 3)
    world.look()
    assert len(world.journal) == 0
    world.check_all()
    world.look()
    world.check_all()


def test_it_does_not_matter_which_replica_loads(world: World) -> None:
    world.empty_while_decisions_are_in_the_journal()
    world.log.gone = False
    world.other_replica_loads()
    world.score(6)
    world.look()
    world.check_all()


def test_a_store_that_came_back_with_older_data_gets_it_too(world: World) -> None:
    world.score(1, 2)
    world.look()
    with world.server.client() as client:
        client.save()
    world.log.gone = True
    world.score(3, 4)
    world.server.process.kill()
    world.server.process.start()
    assert is_degraded(world.score(5))
    world.log.gone = False
    world.other_replica_loads()
    world.score(6)
    world.look()
    world.check_all()


def test_a_process_that_ends_before_it_gave_it_does_so_at_the_next_start(world: World) -> None:
    world.empty_while_decisions_are_in_the_journal()
    world.log.gone = False
    world.other_replica_loads()
    world.score(6)
    world.close()  # as kill -9 would: the log has it, Redis does not
    world.start()
    assert len(world.journal) == 0
    world.check_all()


def test_a_process_that_was_away_meanwhile_brings_it_at_its_start(world: World) -> None:
    world.empty_while_decisions_are_in_the_journal()
    world.close()
    with closing(Log(world.log._engine.url.render_as_string(), SCHEMA)) as world.log:
        world.other_replica_loads()
    world.start()
    world.check_all()


def test_what_cannot_be_given_is_given_later(world: World) -> None:
    world.empty_while_decisions_are_in_the_journal()
    world.log.gone = False
    world.other_replica_loads()
    world.score(6)
    world.server.process.kill()
    with pytest.raises(OnlineStoreError):
        world.give()
    assert len(world.journal) == 3
    world.log.gone = True
    (seventh,) = world.score(7)  # a second outage, before the journal is empty
    assert Degradation.decision_log in seventh.degraded
    assert (len(world.journal), world.recorder.journaled) == (4, 1)
    world.server.process.start()
    world.log.gone = False
    world.other_replica_loads()
    assert world.give() == 0  # the log has not all of it yet
    world.score(8)
    world.look()
    assert len(world.journal) == 0
    world.score(9)
    world.check_all()
