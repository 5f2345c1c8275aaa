"""SQLite's checkpoints, made beside the commits: when, with whom held up, and how they fail and end."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fraudml.adapters.log import _checkpoint
from fraudml.adapters.log._connection import PAGES_UNTIL_COMMITS_HELP, connect
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.errors import DecisionLogError
from tests.support.scoring import SCHEMA, decision, transaction


def url(path: Path) -> str:
    return f"sqlite:///{path / 'fraudml.db'}"


def test_checkpoints_are_made_beside_the_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = threading.Event()
    original = _checkpoint.Checkpointer._checkpoint

    def checkpoint(self: _checkpoint.Checkpointer, driver: Any) -> None:
        original(self, driver)
        made.set()

    monkeypatch.setattr(_checkpoint, "PAGES", 1)
    monkeypatch.setattr(_checkpoint.Checkpointer, "_checkpoint", checkpoint)
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.append([decision(transaction(i), i) for i in range(1_000)])
    assert made.wait(60)
    size = (tmp_path / "fraudml.db-wal").stat().st_size
    for i in range(10):
        made.clear()
        log.append([decision(transaction(1_000 + i), 1_000 + i)])
        assert made.wait(60)
    assert (tmp_path / "fraudml.db-wal").stat().st_size == size  # it began anew instead of growing
    assert len(log.find([f"t{i}" for i in range(1_010)])) == 1_010
    log.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            sqlite3.OperationalError("the test's disk is broken"),
            "failed while making a checkpoint: the test's disk is broken",
        ),
        (AssertionError("nobody thought of it"), "nobody thought of it"),
    ],
    ids=["expected", "unexpected"],
)
def test_a_checkpoint_that_fails_harms_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    failed = threading.Semaphore(0)

    def fail(driver: Any) -> tuple[int, int]:
        failed.release()
        raise error

    monkeypatch.setattr(_checkpoint, "PAGES", 1)
    monkeypatch.setattr(_checkpoint, "_copy", fail)
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    for i in range(3):
        log.append([decision(transaction(i), i)])
        assert failed.acquire(timeout=60)
    assert len(log.find(["t0", "t1", "t2"])) == 3
    log.close()
    assert said in caplog.text


class Copies:
    """In place of ``_copy``: answers what it is given, and writes down who held the commits' lock meanwhile."""

    def __init__(self, *answers: tuple[int, int]) -> None:
        self.lock = threading.Lock()
        self.under_lock: list[bool] = []
        self._answers = iter(answers)

    def __call__(self, driver: Any) -> tuple[int, int]:
        self.under_lock.append(self.lock.locked())
        return next(self._answers)


@pytest.mark.parametrize(
    ("answers", "under_lock"),
    [
        ([(20_000, 20_000), (20_100, 20_100), (20_200, 20_200)], [False, False, True]),
        ([(20_000, 20_000), (300, 300), (10, 10)], [False, False, True]),
        ([(n * 20_000, n * 20_000) for n in range(1, 5)], [False] * 4),
        ([(20_000 + n, 5) for n in range(4)], [False] * 4),
    ],
    ids=["short", "began-anew", "much-is-written", "a-long-reader"],
)
def test_commits_are_held_up_only_for_a_short_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[tuple[int, int]], under_lock: list[bool]
) -> None:
    copies = Copies(*answers)
    monkeypatch.setattr(_checkpoint, "_copy", copies)
    engine = connect(url(tmp_path))
    checkpointer = _checkpoint.Checkpointer(engine, copies.lock)
    checkpointer._checkpoint(None)
    assert copies.under_lock == under_lock
    engine.dispose()
    checkpointer.close_file()


def test_a_disk_that_does_not_answer_ends_a_checkpoint_before_commits_are_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies((20_000, 20_000))
    monkeypatch.setattr(_checkpoint, "_copy", copies)

    def fail(descriptor: int) -> None:
        raise OSError("the test's disk is broken")

    engine = connect(url(tmp_path))
    checkpointer = _checkpoint.Checkpointer(engine, copies.lock)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="the test's disk is broken"):
            checkpointer._checkpoint(None)
    assert copies.under_lock == [False]
    engine.dispose()
    checkpointer.close_file()


def test_a_checkpoint_of_another_process_is_not_disturbed() -> None:
    busy = sqlite3.connect(":memory:")
    busy.execute("CREATE TABLE checkpoint AS SELECT 1, -1, -1")

    class Driver:
        def execute(self, statement: str) -> sqlite3.Cursor:
            assert statement == "PRAGMA wal_checkpoint(PASSIVE)"
            return busy.execute("SELECT * FROM checkpoint")

    with pytest.raises(DecisionLogError, match="another process"):
        _checkpoint._copy(Driver())  # type: ignore[arg-type]
    busy.close()


def test_closing_ends_the_thread_whenever_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also just before the thread clears the event, where the wake-up was once lost."""
    engine = connect(url(tmp_path))
    checkpointer = _checkpoint.Checkpointer(engine, threading.Lock())
    original, cleared = checkpointer._due.clear, threading.Event()

    def clear() -> None:
        if not cleared.is_set():
            cleared.set()
            checkpointer._closing = True  # what close() does before it wakes the thread
            checkpointer._due.set()
        original()

    monkeypatch.setattr(checkpointer._due, "clear", clear)
    checkpointer.wrote(2 * _checkpoint.PAGES)
    assert cleared.wait(60)
    assert checkpointer._thread is not None
    checkpointer._thread.join(60)
    assert not checkpointer._thread.is_alive()
    engine.dispose()
    checkpointer.close_file()


def test_a_checkpoint_and_its_end_leave_the_locks_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing any descriptor of a file drops all locks of the process on it: another process could then fold the log
    into the database, and delete it, under the feet of this one."""
    closed: list[bool] = []
    original = os.close
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.append([decision(transaction(1), 1)])
    database = (tmp_path / "fraudml.db").stat()

    def close(descriptor: int) -> None:
        closed.append(os.path.samestat(os.fstat(descriptor), database))
        original(descriptor)

    monkeypatch.setattr(os, "close", close)
    SqliteDecisionLog(url(tmp_path), SCHEMA).close()
    with log._engine.connect() as connection:
        log._hot._checkpointer._checkpoint(connection.connection.driver_connection)
    assert not any(closed)
    before_the_connections: list[bool] = []
    sa.event.listen(log._engine, "engine_disposed", lambda engine: before_the_connections.append(any(closed)))
    log.close()
    assert before_the_connections == [False]
    assert closed.count(True) == 1


def test_commits_make_checkpoints_only_when_the_thread_does_not_keep_up(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    with log._engine.connect() as connection:  # that of keys
        pages = [connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one()]
    for line in (log._hot._writer, log._hot._reader):
        with line.turn("testing") as driver:
            pages += driver.execute("PRAGMA wal_autocheckpoint").fetchone()
    assert pages == [PAGES_UNTIL_COMMITS_HELP] * 3
    log.close()


def test_a_commit_is_done_also_when_there_is_no_room_for_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_checkpoint, "PAGES", 1)
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", fail)
        log.append([decision(transaction(1), 1)])
    assert "can't start new thread" in caplog.text
    log.append([decision(transaction(2), 2)])
    assert log._hot._checkpointer._thread is not None
    assert set(log.find(["t1", "t2"])) == {"t1", "t2"}
    log.close()
