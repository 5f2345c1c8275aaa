"""Exports into Parquet files that end, or are overtaken, at any call of the store: the log's rows are there once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraudml.adapters.connections.files import Files, open_files
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.warehouse._manifest import Manifests
from fraudml.adapters.warehouse.parquet import ParquetWarehouse
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.warehouse import DECISIONS, Warehouse
from fraudml.errors import ConflictError
from tests.support.lakes import FOREVER, HOUR_US, contents, decided, expected, export, reported
from tests.support.scoring import SCHEMA
from tests.support.warehouses import SETTING, Tables, parquet_tables


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)) as opened:
        yield opened


@pytest.fixture
def tables() -> Tables:
    return parquet_tables(f"memory://{uuid4().hex}/lake")


class Killed(BaseException):
    """The process is no more: nothing that it would do comes to pass."""


class Stepwise(Files):
    """Files of a process to which something happens just before or after one of its calls."""

    happens: Callable[[], None]
    at = 0
    after = False
    steps = 0
    dead = False

    def _step(self, do: Callable[..., Any], *given: Any) -> Any:
        if self.dead:
            raise Killed
        self.steps += 1
        mine = self.steps == self.at
        try:
            if mine and not self.after:
                self.happens()
            result = do(*given)
            if mine and self.after:
                self.happens()
        except Killed:
            self.dead = True
            raise
        return result

    def below(self, folder: str) -> list[str]:
        return list(self._step(super().below, folder))

    def inside(self, folder: str) -> list[str]:
        return list(self._step(super().inside, folder))

    def read(self, name: str) -> bytes:
        return bytes(self._step(super().read, name))

    def open(self, name: str) -> IO[bytes]:
        opened: IO[bytes] = self._step(super().open, name)
        return opened

    def create(self, name: str, data: bytes) -> None:
        self._step(super().create, name, data)

    def put(self, made: Path, name: str) -> None:
        self._step(super().put, made, name)

    def remove(self, names: Sequence[str]) -> None:
        for name in names or [""]:  # one by one: it may end amid them
            self._step(super().remove, [name] if name else [])


def stepwise(tables: Tables, at: int, happens: Callable[[], None], *, after: bool) -> Warehouse:
    store = Stepwise(fsspec.filesystem("memory"), tables.url.removeprefix("memory:/"), SETTING)
    store.at, store.happens, store.after = at, happens, after
    return ParquetWarehouse(store)


def killed() -> None:
    raise Killed


ACTS = st.one_of(
    st.tuples(st.just("decide"), st.integers(1, 4)),
    st.tuples(st.just("late"), st.integers(1, 30)),
    st.tuples(st.just("report"), st.integers(0, 20)),
    st.tuples(st.just("export"), st.integers(1, 3)),
    st.tuples(st.just("killed"), st.integers(1, 60), st.booleans()),
    st.tuples(st.just("overtaken"), st.integers(1, 60), st.booleans()),
)


@settings(max_examples=25)
@given(st.lists(ACTS, min_size=4, max_size=40))
@example(
    [act for _ in range(9) for act in (("decide", 2), ("export", 1))] + [("decide", 4)] * 4 + [("killed", 25, True)]
)
@example([("decide", 4), ("overtaken", 8, False), ("decide", 2), ("overtaken", 9, True), ("killed", 10, False)])
def test_any_sequence_of_commits_exports_kills_and_overlaps_gives_the_logs_rows(acts: list[Any]) -> None:
    tables = parquet_tables(f"memory://{uuid4().hex}/lake")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(SqliteDecisionLog(f"sqlite:///{folder}/log.db", SCHEMA)) as log,
    ):
        hours: list[float] = []
        exports = 0

        def add(hour: float) -> None:
            if hour >= 0 and hour not in hours:
                hours.append(hour)
                decided(log, hour)

        def export_all() -> None:
            export(tables.open(), log, recheck_us=FOREVER)

        for act, number, *more in acts:
            now = max(hours, default=0.0)
            match act:
                case "decide":
                    for n in range(number):
                        add(now + 3 + n)
                case "late":
                    add(now - number - 0.5)
                case "report" if hours:
                    hour = hours[number % len(hours)]
                    reported(log, hour, fraud=number % 2 == 0, after=now - hour + number / 100)
                case "export":
                    exports += export(tables.open(), log, batch_size=number, recheck_us=48 * HOUR_US)[0]
                case "killed" | "overtaken":
                    happens = killed if act == "killed" else export_all
                    with suppress(Killed, ConflictError):
                        warehouse = stepwise(tables, number, happens, after=more[0])
                        export(warehouse, log, batch_size=2, recheck_us=48 * HOUR_US)
        export_all()
        assert contents(tables) == expected(log)
        manifest = Manifests(open_files(tables.url, SETTING), DECISIONS).last()
        assert sum(part.rows for part in manifest.parts) == len(hours)
        assert export(tables.open(), log, recheck_us=FOREVER) == (0, 0)


@pytest.mark.parametrize("after", [False, True])
def test_who_was_overtaken_at_any_step_leaves_nothing_twice(log: DecisionLog, after: bool) -> None:
    """A process sleeps at a step, another one exports everything, and it wakes up: it must not spoil that."""
    decided(log, 1, 30, 55)
    reported(log, 1, fraud=True, after=60)
    truth = expected(log)
    overtaken = 0
    for at in range(1, 100):
        tables = parquet_tables(f"memory://{uuid4().hex}/lake")
        warehouse = stepwise(tables, at, lambda tables=tables: export(tables.open(), log), after=after)  # type: ignore[misc]
        try:
            export(warehouse, log)
        except ConflictError:
            overtaken += 1
        assert contents(tables) == truth, at
        if warehouse._files.steps < at:  # type: ignore[attr-defined]
            break
    assert overtaken > 5
