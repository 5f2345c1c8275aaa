"""What journals held is handed on once the log has all of it, and is forgotten only then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fraudml.adapters.log.journal import FileJournal
from fraudml.decisions import recorder as recorder_module
from fraudml.decisions.record import Decision
from fraudml.decisions.recorder import Recorder
from fraudml.errors import OnlineStoreError
from tests.support.scoring import SCHEMA, decision, transaction
from tests.unit.decisions.test_recorder import GoneLog


class World:
    """A recorder that keeps its journal, and what it handed on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = GoneLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.taken: list[tuple[str, int]] = []
        self.start()

    def start(self) -> None:
        self.journal = FileJournal(self._folder / "decisions.journal")
        self.recorder = Recorder(self.log, self.journal, keep=True)

    def close(self) -> None:
        self.recorder.close()
        self.log.close()

    def commit(self, *numbers: int) -> None:
        decisions = [decision(transaction(number), 100 + number) for number in numbers]
        self.recorder.take(decisions)
        self.recorder.commit(decisions)

    def take(self, decisions: Sequence[Decision]) -> None:
        self.taken += [(each.transaction.transaction_id, each.arrival) for each in decisions]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(recorder_module, "PROBE_S", 0.0)
    made = World(tmp_path)
    yield made
    made.close()


def test_it_is_handed_on_once_the_log_has_all_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "REPLAY_AT_ONCE", 2)
    monkeypatch.setattr(recorder_module, "HANDED_AT_ONCE", 2)
    world.commit(1)
    assert world.recorder.hand_on(world.take) == 0
    world.log.gone = True
    world.commit(2, 3, 4)
    assert world.recorder.hand_on(world.take) == 0
    world.log.gone = False
    world.commit(5)  # goes behind them, for they are not all in the log
    assert (world.recorder.journaled, world.recorder.hand_on(world.take)) == (2, 0)
    world.commit()
    assert (world.recorder.degraded, len(world.journal)) == (False, 4)
    assert world.recorder.hand_on(world.take) == 4
    assert sorted(world.taken) == [("t2", 102), ("t3", 103), ("t4", 104), ("t5", 105)]
    assert (world.recorder.hand_on(world.take), len(world.journal)) == (0, 0)


def test_what_was_superseded_is_handed_on_as_the_log_has_it(world: World) -> None:
    world.log.gone = True
    world.commit(1)
    world.log.gone = False
    GoneLog.append(world.log, [decision(transaction(1), 7)])
    world.commit()
    assert world.recorder.superseded == 1
    assert world.recorder.hand_on(world.take) == 1
    assert world.taken == [("t1", 7)]


def test_what_was_not_taken_is_handed_on_again_also_by_the_next_process(world: World) -> None:
    def broken(decisions: Sequence[Decision]) -> None:
        raise OnlineStoreError("gone")

    world.log.gone = True
    world.commit(1)
    world.log.gone = False
    world.commit()
    with pytest.raises(OnlineStoreError):
        world.recorder.hand_on(broken)
    world.recorder.close()
    world.start()
    world.recorder.replay()
    assert len(world.journal) == 1
    assert world.recorder.hand_on(world.take) == 1
    assert (world.taken, len(world.journal)) == ([("t1", 101)], 0)


def test_what_is_journaled_meanwhile_is_not_forgotten(world: World) -> None:
    def take(decisions: Sequence[Decision]) -> None:
        world.log.gone = True
        world.commit(2)
        world.log.gone = False
        world.take(decisions)

    world.log.gone = True
    world.commit(1)
    world.log.gone = False
    world.commit()
    world.recorder.hand_on(take)
    assert len(world.journal) == 2
    world.commit()
    assert world.recorder.hand_on(world.take) == 2
    assert sorted(set(world.taken)) == [("t1", 101), ("t2", 102)]
    assert len(world.journal) == 0
